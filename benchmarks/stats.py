"""How fast the statistics are, and how often their intervals hold the truth.

    python benchmarks/stats.py speed
    python benchmarks/stats.py coverage --tests 2000
    python benchmarks/stats.py proportions

`speed` times what the report does on a test set of the challenge's size, and DeLong on 100,000 scores. `coverage` draws
test sets of 75 malignant and 304 benign images, each from a population of its own whose metrics are known (AUC from 0.7
to 0.9, and from 0.55 to 0.7), and counts how often each interval contains them; a nominal 95 % interval should do so 93
to 97 times in 100. It takes about two minutes per thousand test sets; `coverage.txt` beside this file is its output.
`proportions` needs no simulation: the probability that an interval of a share holds it, summed over all counts, for
Wilson's interval and two others.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import beta, binom, norm

from lesion_utils.core.machine import name_processor
from lesion_utils.evaluation.evaluate import evaluate, evaluate_with_intervals
from lesion_utils.evaluation.intervals import delong_interval, draw_weights, wilson_interval
from lesion_utils.evaluation.paired_tests import compare_bootstrap, compare_delong

MALIGNANT, BENIGN = 75, 304
#: Ranges of the AUC: of networks that learnt much, and of those that learnt little.
STRONG, WEAK = (0.7, 0.9), (0.55, 0.7)
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


@dataclass(frozen=True)
class Population:
    """Normal logits in each class, with a threshold as validation might choose it.

    Attributes:
        malignant, benign: mean logit of each class.
        spread: their common standard deviation.
        threshold: a probability, in (0, 1).
    """

    malignant: float
    benign: float
    spread: float
    threshold: float

    def draw(self, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
        """A test set of the challenge's size: labels and scores."""
        targets = np.repeat([1, 0], [MALIGNANT, BENIGN])
        means = np.repeat([self.malignant, self.benign], [MALIGNANT, BENIGN])
        return targets, expit(rng.normal(means, self.spread))

    def evaluate(self, points: int = 4000) -> dict[str, float]:
        """The metrics of the population, from evenly spaced quantiles of each class weighted by its share."""
        logits = self.spread * norm.ppf((np.arange(points) + 0.5) / points)
        targets = np.repeat([1, 0], points)
        probs = expit(np.concatenate([self.malignant + logits, self.benign + logits]))
        weights = np.repeat([MALIGNANT / points, BENIGN / points], points)
        values = evaluate(targets, probs, target_threshold=self.threshold, weights=weights)
        return {name: float(value) for name, value in values.items()}


def draw_population(rng: np.random.Generator, *, auc: tuple[float, float] = STRONG) -> Population:
    """AUC within `auc`, sensitivity from 0.3 to 0.8 at 0.5 and from 0.85 to 0.97 at the chosen threshold."""
    spread = rng.uniform(0.7, 1.5)
    malignant = spread * norm.ppf(rng.uniform(0.3, 0.8))
    benign = malignant - spread * np.sqrt(2) * norm.ppf(rng.uniform(*auc))
    return Population(malignant, benign, spread, expit(malignant - spread * norm.ppf(rng.uniform(0.85, 0.97))))


def measure_coverage(*, tests: int, draws: int, seed: int = 1, auc: tuple[float, float] = STRONG) -> pd.DataFrame:
    """Share of simulated test sets whose 95 % interval contains their population's value, for each metric.

    Args:
        tests: simulated test sets, each from a population of its own.
        draws: bootstrap draws within each.
        seed: of everything random.
        auc: range of the populations' AUC.

    Returns:
        by metric: `interval` (how it is had), `coverage`, `bootstrap` (coverage of the bootstrap's), `width` (median),
        and `below` and `above`: how often the truth lies under and over the interval.
    """
    rng, parts = np.random.default_rng(seed), []
    for _ in range(tests):
        population = draw_population(rng, auc=auc)
        y, p = population.draw(rng)
        rows = evaluate_with_intervals(
            y,
            p,
            weights=draw_weights(y, draws=draws, seed=int(rng.integers(2**31))),
            confidence=0.95,
            target_threshold=population.threshold,
        )
        parts.append(rows.assign(truth=rows["metric"].map(population.evaluate())))
    rows = pd.concat(parts, ignore_index=True)
    rows["held"] = rows["truth"].between(rows["low"], rows["high"])
    rows["bootstrap_held"] = rows["truth"].between(rows["bootstrap_low"], rows["bootstrap_high"])
    rows["width"] = rows["high"] - rows["low"]
    rows["below"], rows["above"] = rows["truth"] < rows["low"], rows["truth"] > rows["high"]
    columns = {"interval": ("interval", "first"), "coverage": ("held", "mean"), "bootstrap": ("bootstrap_held", "mean")}
    columns |= {"width": ("width", "median"), "below": ("below", "mean"), "above": ("above", "mean")}
    return rows[rows["interval"] != "none"].groupby("metric", sort=False).agg(**columns)


def measure_proportions(shares: NDArray, *, trials: int, confidence: float = 0.95) -> pd.DataFrame:
    """The exact probability that each kind of interval holds a share, by the share.

    Args:
        shares: (S,) true shares, in (0, 1).
        trials: images of the class.
        confidence: nominal coverage.
    """
    counts = np.arange(trials + 1)
    chances = binom.pmf(counts, trials, shares[:, None])
    coverage = {}
    for kind, bound in PROPORTIONS.items():
        low, high = np.transpose([bound(count, trials, confidence) for count in counts])
        coverage[kind] = (chances * ((low <= shares[:, None]) & (shares[:, None] <= high))).sum(1)
    return pd.DataFrame(coverage, index=shares)


def _bound_jeffreys(count: int, trials: int, confidence: float) -> tuple[float, float]:
    """Quantiles of the posterior under Jeffreys' prior, open at the ends (Brown, Cai and DasGupta 2001)."""
    ends = beta.ppf([(1 - confidence) / 2, (1 + confidence) / 2], count + 0.5, trials - count + 0.5)
    return (0.0 if count == 0 else ends[0]), (1.0 if count == trials else ends[1])


def _bound_mid_p(count: int, trials: int, confidence: float) -> tuple[float, float]:
    """Clopper and Pearson's interval with half of the observed count's own probability."""
    tail = (1 - confidence) / 2

    def above(share: float) -> float:
        return binom.sf(count, trials, share) + binom.pmf(count, trials, share) / 2 - tail

    def below(share: float) -> float:
        return binom.cdf(count - 1, trials, share) + binom.pmf(count, trials, share) / 2 - tail

    return (0.0 if count == 0 else brentq(above, 0, 1)), (1.0 if count == trials else brentq(below, 0, 1))


PROPORTIONS = {
    "Wilson": lambda count, trials, confidence: wilson_interval(count, trials, confidence=confidence),
    "Jeffreys": _bound_jeffreys,
    "mid-P": _bound_mid_p,
}


def tabulate_proportions() -> pd.DataFrame:
    """Mean and worst coverage of each kind of interval over ranges of the share, and how much of a range is on target.

    Returns:
        by images, range and kind: `mean`, `lowest`, `highest`, and `within` (share of the range with 93 to 97 %).
    """
    rows = {}
    for trials in (MALIGNANT, BENIGN):
        for low, high in ((0.2, 0.5), (0.5, 0.8), (0.8, 0.95), (0.95, 0.99)):
            table = measure_proportions(np.linspace(low, high, 301), trials=trials)
            for kind, values in table.items():
                on_target = values.between(0.93, 0.97).mean()
                summary = {"mean": values.mean(), "lowest": values.min(), "highest": values.max(), "within": on_target}
                rows[(trials, f"{low} to {high}", kind)] = summary
    return pd.DataFrame(rows).T.rename_axis(["images", "share", "interval"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "coverage", "proportions"])
    parser.add_argument("--tests", type=int, default=1000, help="simulated test sets")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws within each")
    args = parser.parse_args()
    if args.what == "speed":
        table = measure_speed().set_index("piece")
    elif args.what == "proportions":
        table = tabulate_proportions()
    else:
        parts = {f"AUC {low} to {high}": (low, high) for low, high in (STRONG, WEAK)}
        tables = {name: measure_coverage(tests=args.tests, draws=args.draws, auc=auc) for name, auc in parts.items()}
        print(f"{args.tests} test sets of each range, {args.draws} draws, on {name_processor()}")
        table = pd.concat(tables)
    print(table.round(4).to_string())


if __name__ == "__main__":
    main()
