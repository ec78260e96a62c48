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
from loopback import Site, serve
from real_project import TAGS, make_real_project, replace
from safetensors.torch import save
from small_project import NAMES, make
from small_project import run as run_verb

from lesion_utils.config import sources

pytestmark = pytest.mark.slow

REVISION = "c" * 40


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
    study = request.param
    folder = make_real_project(tmp_path_factory.mktemp("project"), study)
    with pytest.MonkeyPatch.context() as patch:
        if study == "isic2016_256px":
            use_hub(folder, request.getfixturevalue("hub"), patch)
        done = make(folder, "all", f"STUDY={study}", cut_off=study == "demo")  # the demo connects to nothing
        assert done.returncode == 0, done.stdout + done.stderr
        yield folder / "reports" / study


def use_hub(folder: Path, hub: Site, patch: pytest.MonkeyPatch) -> None:
    """Let a copy of the project fetch from a hub on loopback, whose files are those that it pins."""
    pin = sources.PINNED[TAGS[0]]
    served = hub.versions[f"timm/{TAGS[0]}/resolve/{REVISION}/model.safetensors"].strip('"')
    replace(folder / "lesion_utils" / "config" / "sources.py", {pin.revision: REVISION, pin.sha256: served})
    patch.setenv("HF_ENDPOINT", hub.address)
    patch.setenv("HF_HOME", str(folder / "hf"))
    for variable in ("HF_HUB_CACHE", "OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        patch.delenv(variable, raising=False)


@pytest.mark.fault("security", "no network at all, for a whole `make all`", "runs; nothing is missed")
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
    assert any(name.startswith("small_cnn − ResNet10t, from scratch (not trained") for name in pairs["name"])
    assert not pairs["primary"].any(), "a verdict on networks that one epoch did not train"
    page = (report / "html" / "network_mobilenet.html").read_text(encoding="utf-8")
    assert "<title>MobileNetV3-Small-050 on ISIC 2016" in page
    assert "fifty layers" not in page and "resnet50.yaml" not in page
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
    if study != "demo":  # which has no weights
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_HOME", str(folder / "nowhere"))  # weights that are gone are not weights that changed
            assert make(folder, "verify", f"STUDY={study}").returncode == 0


def test_two_workers_make_the_predictions_of_one_process(report, tmp_path, monkeypatch):
    """The notebook finds its runs trained, by the names that it looks for."""
    copy = shutil.copytree(report.parents[1], tmp_path / "copy", symlinks=True) / "reports" / report.name
    folder, name = copy / "runs" / NAMES[2], NAMES[2]
    trained = {path.parent.name for path in folder.glob("*/DONE")}
    for path in trained:
        shutil.rmtree(folder / path)
    (copy / "keys" / f"{name}.done.json").unlink()
    monkeypatch.setenv("JOBS", "2")
    monkeypatch.setenv("THREADS", "1")
    done = run_verb(copy.parents[1], "run", name, report.name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.parent.name for path in folder.glob("*/DONE")} == trained
    locks = [path for path in folder.glob("jobs/*.lock") if path.stem != "command"]
    assert len(locks) == len(trained), "workers trained"
    predictions = "predictions/resnet50.csv"
    assert (copy / predictions).read_bytes() == (report / predictions).read_bytes()
