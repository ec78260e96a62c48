"""A whole study at its smallest scale: the real notebooks on sixty of the embedded images, in two folds.

Through the Makefile, with weights that the hub's own client fetches from a hub on loopback.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from challenge import write_small_box
from loopback import Site, serve
from safetensors.torch import save
from small_project import LOCKS, NAMES, ROOT, make

from lesion_utils.data import box, challenge
from lesion_utils.provenance import outside

pytestmark = pytest.mark.slow

REVISION = "c" * 40

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
BRIEF = {"epochs: 2": "epochs: 1", "warmup_epochs: 1": "warmup_epochs: 0"}
#: What makes a study small: by study, by file.
EDITS = {
    "demo": {
        "data.yaml": DATA | {"stored_size: 72": "stored_size: 40", "fraction: 0.3": "fraction: null"},
        "resnet50.yaml": {
            f"backbone: {TAGS[0]}": "backbone: small_cnn", "image_size: 40": "image_size: 32",
            "seeds: [1]": "seeds: [1, 2]",
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


@pytest.fixture(scope="module")
def hub():
    """What the hub has of both networks, in its layout, with random numbers for weights."""
    site = Site({}, headers={"X-Repo-Commit": REVISION})
    for seed, tag in enumerate(TAGS):
        torch.manual_seed(seed)
        content = save(timm.create_model(tag.partition(".")[0]).state_dict())
        for at in ("main", REVISION):
            name = f"timm/{tag}/resolve/{at}/model.safetensors"
            site.files[name] = content
            site.versions[name] = f'"{hashlib.sha256(content).hexdigest()}"'
    with serve(site):
        yield site


@pytest.fixture(scope="module", params=["demo", pytest.param("isic2016_256px", marks=pytest.mark.long)])
def report(request, tmp_path_factory) -> Iterator[Path]:
    """A study of a copy of the project, made small and run once."""
    folder, study = tmp_path_factory.mktemp("project"), request.param
    for name in ("lesion_utils", "params", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("Makefile", "pyproject.toml", ".gitignore", *LOCKS):
        shutil.copy(ROOT / name, folder / name)
    sha256 = write_small_box(folder / "lesion_utils" / "data" / box.BOX.name, choose_images())
    replace(folder / "lesion_utils" / "data" / "box.py", {box.SHA256: sha256})
    shutil.copy(folder / "params" / "demo" / "vgg19.yaml", folder / "params" / "demo" / "mobilenet.yaml")
    for file, edits in EDITS[study].items():
        replace(folder / "params" / study / file, edits)
    with pytest.MonkeyPatch.context() as patch:
        if study == "isic2016_256px":
            use_hub(folder, request.getfixturevalue("hub"), patch)
        done = make(folder, "all", f"STUDY={study}", cut_off=study == "demo")  # the demo connects to nothing
        assert done.returncode == 0, done.stdout + done.stderr
        yield folder / "reports" / study


def use_hub(folder: Path, hub: Site, patch: pytest.MonkeyPatch) -> None:
    """Let a copy of the project fetch from a hub on loopback, whose files are those that it pins."""
    pin = outside.PINNED[TAGS[0]]
    served = hub.versions[f"timm/{TAGS[0]}/resolve/{REVISION}/model.safetensors"].strip('"')
    replace(folder / "lesion_utils" / "provenance" / "outside.py", {pin.revision: REVISION, pin.sha256: served})
    patch.setenv("HF_ENDPOINT", hub.address)
    patch.setenv("HF_HOME", str(folder / "hf"))
    for variable in ("HF_HUB_CACHE", "OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        patch.delenv(variable, raising=False)


def replace(path: Path, edits: dict[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in edits.items():
        assert old in text, f"{old!r} does not stand in {path.name}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def choose_images() -> set[str]:
    """Forty training and twenty test images with three pairs of duplicates, one of them across the split."""
    table = challenge.read_dataset(box.open_box())
    pairs = ["ISIC_0000280", "ISIC_0000279", "ISIC_0000519", "ISIC_0011295", "ISIC_0001442", "ISIC_0001742"]
    rest = table[~table["image_id"].isin(pairs)].groupby(["split", "target"])
    counts = {("train", 0): 22, ("train", 1): 13, ("test", 0): 13, ("test", 1): 6}
    chosen = [rest.get_group(key)["image_id"].sample(count, random_state=0) for key, count in counts.items()]
    return {*pairs, *pd.concat(chosen)}


def test_every_step_leaves_its_files(report):
    for name in (*NAMES, *(["network_mobilenet"] if report.name == "demo" else [])):
        assert (report / "notebooks" / f"{name}.ipynb").is_file()
        assert json.loads((report / "metrics" / f"{name}.json").read_text(encoding="utf-8"))
        assert list((report / "figures").glob(f"{name}_*.svg")), f"{name} drew nothing"
        assert json.loads((report / "runs" / name / "run.json").read_text(encoding="utf-8"))["status"] == "ok"
    assert not list(report.glob("notebooks/*.partial.ipynb"))


def test_every_run_scores_every_image_once(report):
    split = pd.read_csv(report / "data" / "split.csv")
    assert set(split["fold"]) == {0, 1, 2}
    for network in ("resnet50", "vgg19"):
        table = pd.read_csv(report / "predictions" / f"{network}.csv")
        for _, run in table.groupby(["regime", "seed"]):
            for subset, held_out in (("train", "val"), ("test", "test")):
                expected = split.loc[split["subset"] == subset, "image_id"]
                assert sorted(run.loc[run["split"] == held_out, "image_id"]) == sorted(expected)


def test_every_regime_and_seed_of_the_study_is_there(report):
    runs = {
        (network, run["regime"], run["seed"], run["fold"]): run["weights"]
        for network, step in (("resnet50", NAMES[2]), ("vgg19", NAMES[3]))
        for run in json.loads((report / "metrics" / f"{step}.json").read_text(encoding="utf-8"))["runs"]
    }
    if report.name == "demo":
        seeds = [("resnet50", 1), ("resnet50", 2), ("vgg19", 1)]
        assert set(runs) == {(network, "scratch", seed, fold) for network, seed in seeds for fold in (1, 2)}
        assert set(runs.values()) == {None}
    else:
        regimes = ("scratch", "features", "finetune")
        assert set(runs) == {
            (n, regime, 1, fold) for n in ("resnet50", "vgg19") for regime in regimes for fold in (1, 2)
        }
        assert all((weights is None) == (regime == "scratch") for (_, regime, _, _), weights in runs.items())
        assert {(w["origin"], w["revision"]) for w in runs.values() if w} == {("hub", REVISION)}


def test_three_networks_of_three_families_are_compared(report):
    """Each by its own name, and on the further network's page nothing is said that holds for the first alone."""
    if report.name != "demo":
        pytest.skip("two networks")
    results = pd.read_csv(report / "metrics" / "05_comparison_results.csv")
    assert set(results["model"]) - {"combination"} == {"small_cnn", "resnet10t", "mobilenetv3_small_050"}
    pairs = pd.read_csv(report / "metrics" / "05_comparison_paired_tests.csv")
    assert len(set(pairs["name"])) == 3
    assert set(pairs.loc[pairs["primary"], "name"]) == {"small_cnn − ResNet10t, from scratch"}
    page = (report / "html" / "network_mobilenet.html").read_text(encoding="utf-8")
    assert "Fine-tuning the network of mobilenet.yaml" in page
    assert "fifty layers deep" not in page and "resnet50.yaml" not in page
    assert "network_mobilenet" in (report / "index.html").read_text(encoding="utf-8")


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
    shown = ("small_cnn", "scratch") if report.name == "demo" else ("resnet50", "finetune")
    own = (
        results[results["metric"].eq("auc") & results["seed"].eq("ensemble")].set_index(["model", "regime"]).loc[shown]
    )
    assert any(f"{own['value']:.3f}" in sentence for sentence in numbers["sentences"])


def test_a_second_run_has_nothing_to_do_and_the_report_verifies(report):
    folder, study = report.parents[1], report.name
    again = make(folder, "all", f"STUDY={study}")
    assert again.returncode == 0
    assert not re.search(r" ok ", again.stdout), again.stdout
    verified = make(folder, "verify", f"STUDY={study}")
    assert verified.returncode == 0, verified.stdout
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(folder / "nowhere"))  # weights that are gone are not weights that changed
        assert make(folder, "verify", f"STUDY={study}").returncode == 0
