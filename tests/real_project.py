"""A copy of the project with its real notebooks and networks, on sixty of the embedded images."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from challenge import read_dataset, write_small_box
from small_project import ROOT, copy_build, copy_built, make, read_results

from lesion_utils.data import box
from lesion_utils.data.challenge import CHALLENGE_COUNTS

TAGS = ("resnet50.tv_in1k", "vgg19.tv_in1k")
DATA = {"folds: 1": "folds: 2"}
COMPARISON = {"bootstrap_draws: 10000": "bootstrap_draws: 200", "repeats: 1000": "repeats: 20"}
HUB_NETWORK = {
    "image_size: 224": "image_size: 32",
    "image_sizes: [224]": "image_sizes: [32]",
    "epochs: 40": "epochs: 1",
    "epochs: 100": "epochs: 3",
    "epochs: 20": "epochs: 1",
    "warmup_epochs: 2": "warmup_epochs: 0",
    "seeds: [1, 2, 3]": "seeds: [1]",
    "[logistic, knn, svm_linear, svm_rbf, svm_cubic, random_forest, gradient_boosting]": "[svm_rbf]",
    "tta: flips": "tta: none",
}
BRIEF = {"epochs: 8": "epochs: 1", "warmup_epochs: 1": "warmup_epochs: 0"}
#: What makes a study small: by study, by file.
EDITS = {
    "demo": {
        "data.yaml": DATA | {"stored_size: 72": "stored_size: 40", "fraction: 0.3": "fraction: null"},
        "resnet50.yaml": {
            f"backbone: {TAGS[0]}": "backbone: small_cnn", "image_size: 40": "image_size: 32",
            "seeds: [1]": "seeds: [1, 2]", "epochs: 5": "epochs: 3",
        },
        "mobilenet.yaml": {f"backbone: {TAGS[1]}": "backbone: mobilenetv3_small_050.lamb_in1k"} | BRIEF,
        "vgg19.yaml": {f"backbone: {TAGS[1]}": "backbone: resnet10t.c3_in1k"} | BRIEF,
        "comparison.yaml": COMPARISON,
    },
    "isic2016_256px": {
        "data.yaml": DATA | {"stored_size: 256": "stored_size: 40", "fraction: 0.2": "fraction: null"},
        "resnet50.yaml": HUB_NETWORK,
        "vgg19.yaml": HUB_NETWORK,
        "comparison.yaml": COMPARISON,
    },
}  # fmt: skip


def make_real_project(folder: Path, study: str, *, source: Path = ROOT) -> Path:
    """Copy the project into `folder` and make one of its studies small; returns the folder.

    Args:
        folder: which may have what a project generates, and nothing else.
        study: folder under `params/`.
        source: another commit's package, parameters and notebooks; the environment and the Makefile stay this one's.
    """
    for name in ("lesion_utils", "params", "notebooks"):
        unwanted = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(source / name, folder / name, ignore=unwanted)
    copy_build(folder)
    sha256 = write_small_box(folder / "lesion_utils" / "data" / box.BOX.name, choose_images())
    replace(folder / "lesion_utils" / "data" / "box.py", {box.SHA256: sha256})
    shutil.copy(folder / "params" / "demo" / "vgg19.yaml", folder / "params" / "demo" / "mobilenet.yaml")
    for file, edits in EDITS[study].items():
        replace(folder / "params" / study / file, edits, all_stand_there=source == ROOT)
    return folder


def copy_finished_real_project(factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with its small demo made; all workers share the one that is built."""

    def build(folder: Path) -> None:
        done = make(make_real_project(folder, "demo"), "all")
        assert done.returncode == 0, done.stdout + done.stderr
        assert {name.partition("/")[0] for name in read_results(folder)} == {"predictions", "metrics", "figures"}

    return copy_built(factory, "finished real project", build)


def forget_everything(project: Path) -> None:
    """Remove all that a project generates."""
    for name in ("reports", "data"):
        shutil.rmtree(project / name)


def replace(path: Path, edits: dict[str, str], *, all_stand_there: bool = True) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in edits.items():
        assert old in text or not all_stand_there, f"{old!r} does not stand in {path.name}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def choose_images() -> set[str]:
    """Forty training and twenty test images with three pairs of duplicates, one of them across the split."""
    table = read_dataset(box.open_box(), CHALLENGE_COUNTS)
    pairs = ["ISIC_0000280", "ISIC_0000279", "ISIC_0000519", "ISIC_0011295", "ISIC_0001442", "ISIC_0001742"]
    rest = table[~table["image_id"].isin(pairs)].groupby(["split", "target"])
    counts = {("train", 0): 22, ("train", 1): 13, ("test", 0): 13, ("test", 1): 6}
    chosen = [rest.get_group(key)["image_id"].sample(count, random_state=0) for key, count in counts.items()]
    return {*pairs, *pd.concat(chosen)}
