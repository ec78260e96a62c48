"""Do the official scorer and mlscorecheck agree with a report's own table?

    python benchmarks/oracles.py reports/isic2016        # or several; every report by default

For each entry to the challenge that 05_comparison wrote, the official scorer (in an environment of its own, which `uv`
fetches the first time) scores the file, and its numbers are set beside those of `metrics/05_comparison_results.csv`.
mlscorecheck then takes the accuracy, sensitivity, specificity and so on of every row of that table, rounded as a paper
rounds them, and says whether one confusion matrix on this test set gives them. Ends with 1 where anything disagrees.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from mlscorecheck.check.binary import check_1_testset_no_kfold
from mlscorecheck.check.bundles.skinlesion import check_isic2016

ROOT = Path(__file__).resolve().parent.parent
SCORER = ("--no-project", "--python", "3.11", "--with", "isic-challenge-scoring==5.6.0", "--with", "pandas<3")

#: Tables carry nine digits.
TOLERANCE = 2e-9

#: The official scorer's names of metrics, with ours.
OFFICIAL = {"ap": "ap", "auc": "auc", "auc_sens_80": "partial_auc_80", "accuracy": "accuracy"}
OFFICIAL |= {"sensitivity": "sensitivity", "specificity": "specificity", "dice": "f1"}

#: mlscorecheck's names of metrics, with ours.
CONFUSION = {"acc": "accuracy", "sens": "sensitivity", "spec": "specificity", "bacc": "balanced_accuracy"}
CONFUSION |= {"ppv": "precision", "f1": "f1", "mcc": "mcc"}


def read_results(report: Path) -> pd.DataFrame:
    """A row per run of the report's table, a column per metric; index (name, seed)."""
    table = pd.read_csv(report / "metrics" / "05_comparison_results.csv", dtype={"seed": str})
    return table.pivot(index=["name", "seed"], columns="metric", values="value")


def read_truth(report: Path) -> pd.Series:
    """Labels of the test images, from the predictions; index image_id."""
    tables = [pd.read_csv(path) for path in sorted((report / "predictions").glob("*.csv"))]
    rows = pd.concat(tables).query("split == 'test'").drop_duplicates("image_id")
    return rows.set_index("image_id")["target"].sort_index()


def ask_official(report: Path, *, offline: bool = False) -> pd.DataFrame:
    """What the official scorer says of every entry, beside the report's table.

    Args:
        report: its folder.
        offline: use the scorer only if it is on this machine already.

    Returns:
        `name`, `metric`, `ours`, `theirs`, `agrees`; empty where the report wrote no list of entries.

    Raises:
        RuntimeError: the scorer cannot be run, with what it said.
    """
    listed = report / "metrics" / "05_comparison_entries.csv"
    entries = pd.read_csv(listed).set_index("name")["file"] if listed.is_file() else pd.Series(dtype=str)
    answers = _run_scorer(report, list(entries), offline=offline) if len(entries) else {}
    results, rows = read_results(report), []
    for name, file in entries.items():
        for theirs, metric in OFFICIAL.items():
            rows.append((name, metric, results.loc[(name, "ensemble"), metric], answers[file][theirs]))
    table = pd.DataFrame(rows, columns=["name", "metric", "ours", "theirs"])
    return table.assign(agrees=(table["ours"] - table["theirs"]).abs() <= TOLERANCE)


def _run_scorer(report: Path, files: list[str], *, offline: bool) -> dict[str, dict[str, float]]:
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    with tempfile.TemporaryDirectory() as folder:
        truth = Path(folder) / "truth.csv"
        read_truth(report).astype(float).rename("malignant").rename_axis("image").to_csv(truth)
        entries = [str(report / "metrics" / file) for file in files]
        script = str(ROOT / "tests" / "oracles" / "score_entries.py")
        command = [
            uv,
            "run",
            "-q",
            *(["--offline"] if offline else []),
            *SCORER,
            "python",
            script,
            str(truth),
            *entries,
        ]
        try:
            limit = 60 if offline else None  # what is there already starts in seconds
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
        except subprocess.TimeoutExpired:
            raise RuntimeError("the official scorer's environment took more than a minute to start") from None
        except FileNotFoundError:
            raise RuntimeError("uv is not installed; it comes with `make env`") from None
    if done.returncode:
        raise RuntimeError(f"the official scorer did not run: {done.stderr.strip()[-400:]}")
    return {Path(entry).name: scores for entry, scores in json.loads(done.stdout).items()}


def ask_mlscorecheck(report: Path) -> pd.DataFrame:
    """Whether each row of the report's table can come from one confusion matrix on its test images.

    Returns:
        `name`, `seed`, `scores` (how many were given) and `agrees`.
    """
    logging.getLogger("mlscorecheck").setLevel(logging.WARNING)
    truth, rows = read_truth(report), []
    sizes = {"p": int(truth.sum()), "n": int((1 - truth).sum())}
    for (name, seed), row in read_results(report).iterrows():
        scores = {theirs: round(row[ours], 3) for theirs, ours in CONFUSION.items() if pd.notna(row[ours])}
        rows.append((name, seed, len(scores), not find_contradiction(scores, sizes)))
    return pd.DataFrame(rows, columns=["name", "seed", "scores", "agrees"])


def find_contradiction(scores: dict[str, float], sizes: dict[str, int]) -> bool:
    """mlscorecheck's answer on scores of three decimals; on 75 and 304 images its bundle for ISIC 2016 is asked too."""
    settings = {"scores": scores, "eps": 5e-4}
    found = check_1_testset_no_kfold(testset=sizes, prefilter_by_pairs=True, **settings)["inconsistency"]
    return found or (sizes == {"p": 75, "n": 304} and check_isic2016(**settings)["inconsistency"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="*", type=Path, help="folders of reports; all of them by default")
    every = sorted(path.parent.parent for path in ROOT.glob("docs/*/metrics/05_comparison_results.csv"))
    failed = False
    for report in parser.parse_args().reports or every:
        for oracle, ask in (("official scorer", ask_official), ("mlscorecheck", ask_mlscorecheck)):
            table = ask(report)
            print(f"{report.name}, {oracle}: {int(table['agrees'].sum())} of {len(table)} agree")
            if not table["agrees"].all():
                failed = True
                print(table[~table["agrees"]].to_string())
    sys.exit(failed)


if __name__ == "__main__":
    main()
