"""Ask the official ISIC scorer, once, and keep its answers: tests/oracles/isic/ is what this script wrote.

The scorer needs pandas before 3, so it cannot live in the project's environment. From the project's root:

    uv run --no-project --python 3.11 --with isic-challenge-scoring==5.6.0 --with 'pandas<3' \\
        python tests/oracles/score_with_isic.py

Each case is a submission file that the scorer accepted, and `scores.json` holds what it said of each, by its own names.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from isic_challenge_scoring.classification import ClassificationMetric, ClassificationScore

FOLDER = Path(__file__).parent / "isic"
IMAGES, MALIGNANT = 120, 24


def draw_cases() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels and, for each case, scores with few digits, so that the files hold them exactly."""
    rng = np.random.default_rng(2016)
    targets = rng.permutation(np.repeat([1.0, 0.0], [MALIGNANT, IMAGES - MALIGNANT]))
    logits = rng.normal(size=IMAGES) + 1.3 * targets - 1.5
    graded = np.round(1 / (1 + np.exp(-logits)), 6)
    return targets, {
        "graded": graded,
        "tied": np.round(graded, 1),
        "hard": (graded > 0.4).astype(float),
        "constant": np.full(IMAGES, 0.5),
        "always_benign": np.zeros(IMAGES),
        "perfect": np.round(0.25 + 0.5 * targets + 0.2 * graded, 6),
        "reversed": np.round(1 - graded, 6),
        "tiny": graded * 1e-9,
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    targets, cases = draw_cases()
    images = [f"ISIC_{i:07d}" for i in range(IMAGES)]
    truth = FOLDER / "truth.csv"
    pd.DataFrame({"image": images, "malignant": targets}).to_csv(truth, index=False)
    scores = {}
    for name, probs in cases.items():
        submission = FOLDER / f"{name}.csv"
        pd.DataFrame({"image": images, "malignant": probs}).to_csv(submission, index=False)
        answer = ClassificationScore.from_file(truth, submission, ClassificationMetric.AVERAGE_PRECISION)
        scores[name] = answer.per_category.loc["malignant"].to_dict() | {"overall": float(answer.overall)}
    (FOLDER / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")


if __name__ == "__main__":
    main()
