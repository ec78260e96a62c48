"""`benchmarks/cameras.py`: the same lesions in every set, intervals of pairs, and a tiny run of its study."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import timm
from challenge import write_challenge
from PIL import Image
from safetensors.torch import save_file
from scipy.special import expit
from small_project import clean_environment

from benchmarks import cameras
from lesion_utils.config.load import load_study

IMAGES = {"train": (20, 12), "test": (8, 8)}


@pytest.fixture
def halves(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(write_challenge(tmp_path / "challenge", IMAGES)))
    return cameras.draw_halves(48)


def test_the_halves_share_no_image_and_each_change_changes_what_it_says(halves, tmp_path):
    own, external = halves["own"], halves["external"]
    assert set(own["image_id"]).isdisjoint(external["image_id"]) and len(own) + len(external) == 48
    assert own["target"].sum() == external["target"].sum() == 10
    assert len(cameras.draw_halves(24)["own"]) == 12
    cameras.write_images(external[:2], tmp_path / "as is")
    for path in external["path"][:2]:
        assert (tmp_path / "as is" / "images" / path.name).read_bytes() == path.read_bytes()
    picture = Image.open(external["path"].iloc[0])
    before = np.asarray(picture, float)
    changed = {name: np.asarray(change(picture), float) for name, change in cameras.CHANGES.items()}
    colours = {name: values.mean((0, 1)) - before.mean((0, 1)) for name, values in changed.items()}
    red, _, blue = colours["white balance"]
    assert red > 0 > blue and colours["gamma"].max() < 0
    spread = {name: np.ptp(values, axis=2).mean() for name, values in changed.items()}
    assert spread["saturation"] < 0.7 * np.ptp(before, axis=2).mean()
    assert not np.array_equal(changed["JPEG"], before)
    dots = Image.fromarray(np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8))
    assert np.std(cameras.blur(dots)) < 0.3 * np.std(dots)
    params = {"images": "a", "labels": "b"}
    project = cameras.make_project(tmp_path / "project", params, {"as taken": params})
    assert load_study(project / "params" / "cameras").resnet50.weights == "resnet50.imagenet_pqf.safetensors"


def test_drops_are_those_of_pairs_without_what_training_has_seen(tmp_path):
    rng, targets = np.random.default_rng(1), np.arange(200) % 4 == 0
    base = rng.normal(size=200) + 2 * targets
    logits = dict.fromkeys((cameras.UNCHANGED, *cameras.CHANGES), base)
    logits |= {"blur": base - 1.5 * targets, "gamma": base - 5}
    logits["JPEG"] = np.where(np.arange(200) == 0, -99, base)  # the first image alone, which training has seen
    rows = [
        {"image_id": f"{name}/{k}", "model": "m", "target": int(targets[k]), "probability": expit(values[k])}
        for name, values in logits.items()
        for k in range(200)
    ]
    (tmp_path / "predictions").mkdir()
    (tmp_path / "data").mkdir()
    pd.DataFrame(rows).to_csv(tmp_path / "predictions" / "resnet50_external.csv", index=False)
    known = pd.DataFrame(rows)[["image_id"]].assign(seen_in="")
    known.loc[known["image_id"] == "blur/0", "seen_in"] = "train"
    known.to_csv(tmp_path / "data" / "external.csv", index=False)
    drops = cameras.tabulate_drops(tmp_path, draws=500).set_index("set")
    assert set(drops["images"]) == {199} and drops.index[0] == cameras.UNCHANGED
    same = drops.loc[["gamma", "JPEG"], [f"{m}_{part}" for m in ("auc", "ap") for part in ("drop", "low", "high")]]
    assert np.allclose(same, 0), "a rank is a rank, and the pair of an image is itself"
    assert drops.loc["blur", "auc_low"] > 0.1 and drops.loc["blur", "ap_low"] > 0.1
    assert "| m | blur | " in cameras.write_table(drops.reset_index())


@pytest.mark.long
def test_a_tiny_study_is_scored_on_every_set(halves, tmp_path, monkeypatch, capsys):
    network = timm.create_model("resnet50")
    save_file(network.state_dict(), tmp_path / "resnet50.imagenet_pqf.safetensors")
    environment = clean_environment() | {"WEIGHTS_DIR": str(tmp_path)}
    monkeypatch.setattr(cameras.os, "environ", environment | {"DATA_DIR": str(tmp_path / "challenge")})
    keep = ["--keep", str(tmp_path / "kept")]
    cameras.main(["--images", "48", "--size", "32", "--step", "03_resnet50_finetune", *keep])
    shown = capsys.readouterr().out
    assert "24 external images, 10 of them malignant" in shown
    assert [line.split(" | ")[1] for line in shown.splitlines() if "resnet50 |" in line] == [
        "as taken",
        *cameras.CHANGES,
    ]
