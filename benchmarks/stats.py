"""How fast the statistics are, and how often their intervals hold the truth.

    python benchmarks/stats.py speed
    python benchmarks/stats.py coverage --tests 2000

`speed` times what the report does on a test set of the challenge's size, and DeLong on 100,000 scores. `coverage` draws
test sets of 75 malignant and 304 benign images from a population whose metrics are known and counts how often each
interval contains them; a nominal 95 % interval should do so 93 to 97 times in 100. It takes about a minute per
thousand test sets.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
from scipy.special import expit

from lesion_utils.evaluation import evaluate, evaluate_with_intervals
from lesion_utils.intervals import delong_interval, draw_weights
from lesion_utils.paired import compare_bootstrap, compare_delong

MALIGNANT, BENIGN = 75, 304
TARGET = 0.1  # a threshold as validation might choose it, for the metrics at a target sensitivity


def draw_test_set(rng: np.random.Generator, *, malignant: int, benign: int, separation: float):
    """Labels and scores from two normal distributions of logits, one standard deviation each."""
    targets = np.repeat([1, 0], [malignant, benign])
    return targets, expit(rng.normal(size=targets.size) + separation * targets - 1.8)


def measure_speed() -> pd.DataFrame:
    """Seconds of each piece, best of three."""
    rng = np.random.default_rng(1)
    y, p = draw_test_set(rng, malignant=MALIGNANT, benign=BENIGN, separation=1.2)
    q = expit(rng.normal(size=y.size) + y)
    many_y, many_p = draw_test_set(rng, malignant=20_000, benign=80_000, separation=1.2)
    many_q = expit(rng.normal(size=many_y.size) + many_y)
    weights = draw_weights(y, draws=10_000, seed=1)
    pieces = {
        "10,000 stratified draws of 379 images": lambda: draw_weights(y, draws=10_000, seed=1),
        "all metrics with intervals, 10,000 draws": lambda: evaluate_with_intervals(
            y, p, weights=weights, confidence=0.95, target_threshold=TARGET
        ),
        "paired bootstrap of AP, 10,000 draws": lambda: compare_bootstrap(
            y, p, q, metric="ap", weights=weights, confidence=0.95
        ),
        "DeLong interval, 100,000 scores": lambda: delong_interval(many_y, many_p, confidence=0.95),
        "paired DeLong, 100,000 scores": lambda: compare_delong(many_y, many_p, many_q, confidence=0.95),
    }
    rows = [(name, min(_time(piece) for _ in range(3))) for name, piece in pieces.items()]
    return pd.DataFrame(rows, columns=["piece", "seconds"])


def _time(piece) -> float:
    start = time.perf_counter()
    piece()
    return time.perf_counter() - start


def measure_coverage(*, tests: int, draws: int, separation: float, seed: int = 1) -> pd.DataFrame:
    """Share of simulated test sets whose 95 % interval contains the population's value, for each metric.

    Args:
        tests: simulated test sets.
        draws: bootstrap draws within each.
        separation: distance between the classes' mean logits, in standard deviations; AUC is Phi(separation / sqrt 2).
        seed: of everything random.
    """
    rng = np.random.default_rng(seed)
    size = 4000
    truth = evaluate(
        *draw_test_set(rng, malignant=MALIGNANT * size, benign=BENIGN * size, separation=separation),
        target_threshold=TARGET,
    )
    parts = []
    for _ in range(tests):
        y, p = draw_test_set(rng, malignant=MALIGNANT, benign=BENIGN, separation=separation)
        weights = draw_weights(y, draws=draws, seed=int(rng.integers(2**31)))
        parts.append(evaluate_with_intervals(y, p, weights=weights, confidence=0.95, target_threshold=TARGET))
    rows = pd.concat(parts, ignore_index=True)
    rows["truth"] = rows["metric"].map({name: float(value) for name, value in truth.items()})
    rows["held"] = rows["truth"].between(rows["low"], rows["high"])
    rows["bootstrap_held"] = rows["truth"].between(rows["bootstrap_low"], rows["bootstrap_high"])
    columns = {"truth": ("truth", "first"), "interval": ("interval", "first"), "coverage": ("held", "mean")}
    columns |= {"bootstrap": ("bootstrap_held", "mean"), "mean_value": ("value", "mean")}
    return rows[rows["interval"] != "none"].groupby("metric", sort=False).agg(**columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "coverage"])
    parser.add_argument("--tests", type=int, default=1000, help="simulated test sets")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws within each")
    parser.add_argument("--separation", type=float, default=1.2, help="between the classes, standard deviations")
    args = parser.parse_args()
    if args.what == "speed":
        table = measure_speed().set_index("piece")
    else:
        table = measure_coverage(tests=args.tests, draws=args.draws, separation=args.separation)
    print(table.round(4).to_string())


if __name__ == "__main__":
    main()
