"""Score entries with the official ISIC scorer and print what it says, as JSON; `benchmarks/oracles.py` calls this.

The scorer needs pandas before 3, so this runs in an environment of its own:

    uv run --no-project --python 3.11 --with isic-challenge-scoring==5.6.0 --with 'pandas<3' \\
        python tests/oracles/score_entries.py truth.csv entry.csv ...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from isic_challenge_scoring.classification import ClassificationMetric, ClassificationScore


def score_entry(truth: Path, entry: Path) -> dict[str, float]:
    """Every score of one entry, by the scorer's own names."""
    answer = ClassificationScore.from_file(truth, entry, ClassificationMetric.AVERAGE_PRECISION)
    return {name: float(value) for name, value in answer.per_category.loc["malignant"].items()}


if __name__ == "__main__":
    truth, *entries = map(Path, sys.argv[1:])
    print(json.dumps({str(entry): score_entry(truth, entry) for entry in entries}))
