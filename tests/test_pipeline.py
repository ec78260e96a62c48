"""The whole study at its smallest scale: the real notebooks on sixty of the embedded images, through the Makefile."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from challenge import write_small_box
from small_project import LOCKS, NAMES, ROOT, make

from lesion_utils.data import box, challenge

pytestmark = pytest.mark.slow

EDITS = {
    "data.yaml": {
        "stored_size: 72": "stored_size: 40",
        "validation_fraction: 0.2": "validation_fraction: 0.3",
    },
    "resnet50.yaml": {
        "backbone: resnet50.tv_in1k": "backbone: small_cnn",
        "image_size: 48": "image_size: 32",
        "epochs: 5": "epochs: 3",
        "seeds: [1]": "seeds: [1, 2]",
    },
    "vgg19.yaml": {
        "backbone: vgg19.tv_in1k": "backbone: small_cnn",
        "epochs: 5": "epochs: 3",
    },
    "comparison.yaml": {"bootstrap_draws: 10000": "bootstrap_draws: 200", "repeats: 1000": "repeats: 20"},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project with the study `tiny`, run once."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("lesion_utils", "params", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("Makefile", "pyproject.toml", ".gitignore", *LOCKS):
        shutil.copy(ROOT / name, folder / name)
    sha256 = write_small_box(folder / "lesion_utils" / "data" / box.BOX.name, choose_images())
    code = folder / "lesion_utils" / "data" / "box.py"
    code.write_text(code.read_text(encoding="utf-8").replace(box.SHA256, sha256), encoding="utf-8")
    tiny = shutil.copytree(folder / "params" / "demo", folder / "params" / "tiny")
    for file, edits in EDITS.items():
        text = (tiny / file).read_text(encoding="utf-8")
        for old, new in edits.items():
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in params/demo/{file}"
            text = text.replace(old, new)
        (tiny / file).write_text(text, encoding="utf-8")
    done = make(folder, "all", "STUDY=tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def choose_images() -> set[str]:
    """Forty training and twenty test images with three pairs of duplicates, one of them across the split."""
    table = challenge.read_dataset(box.open_box())
    pairs = ["ISIC_0000280", "ISIC_0000279", "ISIC_0000519", "ISIC_0011295", "ISIC_0001442", "ISIC_0001742"]
    rest = table[~table["image_id"].isin(pairs)].groupby(["split", "target"])
    counts = {("train", 0): 22, ("train", 1): 13, ("test", 0): 13, ("test", 1): 6}
    chosen = [rest.get_group(key)["image_id"].sample(count, random_state=0) for key, count in counts.items()]
    return {*pairs, *pd.concat(chosen)}


@pytest.fixture
def report(project: Path) -> Path:
    return project / "reports" / "tiny"


def test_every_step_leaves_its_files(report):
    for name in NAMES:
        assert (report / "notebooks" / f"{name}.ipynb").is_file()
        assert json.loads((report / "metrics" / f"{name}.json").read_text(encoding="utf-8"))
        assert list((report / "figures").glob(f"{name}_*.svg")), f"{name} drew nothing"
        assert json.loads((report / "runs" / name / "run.json").read_text(encoding="utf-8"))["status"] == "ok"
    assert not list(report.glob("notebooks/*.partial.ipynb"))


def test_predictions_hold_every_run_and_image(report):
    split = pd.read_csv(report / "data" / "split.csv")
    for network, seeds in (("resnet50", [1, 2]), ("vgg19", [1])):
        table = pd.read_csv(report / "predictions" / f"{network}.csv")
        assert sorted(table["seed"].unique()) == seeds
        for subset in ("val", "test"):
            expected = split.loc[split["subset"] == subset, "image_id"]
            for _, run in table[table["split"] == subset].groupby("seed"):
                assert sorted(run["image_id"]) == sorted(expected)


def test_the_duplicates_are_found(report):
    found = json.loads((report / "metrics" / "01_eda.json").read_text(encoding="utf-8"))
    assert (found["duplicate_pairs"], found["duplicate_pairs_across"], found["contradicting_pairs"]) == (3, 1, 0)
    assert found["left_out"] == 1


def test_the_sentences_carry_the_numbers_of_the_files(report):
    """What the last notebook prints is what its metrics file holds, and that is what the tables hold."""
    numbers = json.loads((report / "metrics" / "05_comparison.json").read_text(encoding="utf-8"))
    page = (report / "index.html").read_text(encoding="utf-8")
    for row in numbers["headline"]:
        assert row["low"] <= row["value"] <= row["high"]
        assert f"{row['value']:.3f}".replace("-", "−") in page
    results = pd.read_csv(report / "metrics" / "05_comparison_results.csv")
    auc = results.query("metric == 'auc' and seed == 'ensemble' and model == 'small_cnn@resnet50'")["value"].item()
    assert any(f"{auc:.3f}" in sentence for sentence in numbers["sentences"])


def test_a_second_run_has_nothing_to_do_and_the_report_verifies(project):
    again = make(project, "all", "STUDY=tiny")
    assert again.returncode == 0
    assert not re.search(r" ok ", again.stdout), again.stdout
    verified = make(project, "verify", "STUDY=tiny")
    assert verified.returncode == 0, verified.stdout
