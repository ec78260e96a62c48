"""What the notebooks compute between the package's parts: samples, first looks, details."""

from __future__ import annotations

import zipfile
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from drawn_predictions import CLASSICAL, SKILL, draw_predictions
from PIL import Image
from scipy.special import expit
from sections import data_params
from sklearn.metrics import confusion_matrix, roc_auc_score

from lesion_utils.config.load import load_study
from lesion_utils.core.errors import DataError
from lesion_utils.core.paths import list_studies, params_root
from lesion_utils.evaluation.evaluate import evaluate_with_intervals, look_at
from lesion_utils.evaluation.intervals import draw_weights
from lesion_utils.notebooks import eda, finetune
from lesion_utils.notebooks.study import choose_samples


def test_samples_are_of_one_subset_and_as_many_of_each_class():
    table = pd.DataFrame({"subset": ["train"] * 9 + ["test"] * 9, "target": [0, 0, 0, 0, 0, 0, 1, 1, 1] * 2})
    chosen = choose_samples(table, subset="train", per_class=4, seed=1)
    assert set(chosen["subset"]) == {"train"}
    assert chosen["target"].tolist() == [0, 0, 0, 0, 1, 1, 1], "three malignant ones are all there are"


@pytest.mark.parametrize("kind", ["disk", "archive"])
def test_photographs_are_shown_as_they_were_taken_and_not_as_they_are_stored(tmp_path, kind):
    for name, size in (("wide", (512, 256)), ("high", (60, 120))):
        Image.new("RGB", size, (10, 20, 30)).save(tmp_path / f"{name}.png")
    folder = tmp_path
    if kind == "archive":
        with zipfile.ZipFile(tmp_path / "box.zip", "w") as archive:
            for file in tmp_path.glob("*.png"):
                archive.write(file, file.name)
        folder = zipfile.Path(tmp_path / "box.zip")
    paths = [folder / "wide.png", folder / "high.png", folder / "gone.png"]
    table = pd.DataFrame({"path": paths, "width": [512, 60, 9], "height": [256, 120, 9]})
    data = SimpleNamespace(table=table, rows_of=lambda rows: np.array(rows, dtype=int))
    wide, high = eda.read_photographs(data, [0, 1])
    assert wide.shape == high.shape == (256, 256, 3)
    assert (wide[64:192] == (10, 20, 30)).all() and (wide[:64] == 255).all() and (wide[192:] == 255).all()
    assert (high[:, 64:192] == (10, 20, 30)).all() and (high[:, :64] == 255).all()
    assert len(eda.read_photographs(data, [])) == 0, "a study without duplicates has none to show"
    with pytest.raises(DataError, match=r"gone\.png: .*\n.*\n.*DATA_DIR"):
        eda.read_photographs(data, [2])


def test_the_summary_states_only_what_was_found():
    counts = {"train": {"benign": 8, "malignant": 2}, "test": {"benign": 4, "malignant": 1}}
    best = {
        "knows": "archive order",
        "auc": 0.6,
        "auc_low": 0.4,
        "auc_high": 0.8,
        "ap": 0.3,
        "ap_low": 0.2,
        "ap_high": 0.5,
    }
    none = dict.fromkeys(("duplicate_pairs", "duplicate_pairs_across", "contradicting_pairs", "left_out"), 0)
    numbers = {"counts": counts, "best_control": best, "always_benign_accuracy": 0.8, "label_changes": 0} | none
    numbers["numbered"] = True
    text = eda._write_text(numbers)
    assert "No duplicate was found" in text and "The interval includes guessing" in text
    assert "Predicting benign for all 5 test images is 80.0% accurate" in text
    text = eda._write_text({**numbers, "duplicate_pairs": 3, "best_control": {**best, "auc_low": 0.55}})
    assert "3 pairs show the same photograph" in text and "better than guessing" in text and "(0.550 to 0.800)" in text


@pytest.fixture(scope="module")
def scores():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 80)
    return targets, expit(rng.normal(size=80) + targets)


def test_a_first_look_agrees_with_scikit_learn(scores):
    targets, probs = scores
    look = look_at(targets, probs)
    assert (look.confusion == confusion_matrix(targets, probs > 0.5)).all()
    assert look.write("auc").startswith(f"AUC {roc_auc_score(targets, probs):.3f} (")


def test_a_first_look_has_the_intervals_that_the_comparison_of_every_study_states(scores):
    params = [load_study(params_root() / name).comparison for name in list_studies()]
    for draws, seed, confidence in {(p.bootstrap_draws, p.seed, p.confidence) for p in params}:
        weights = draw_weights(scores[0], draws=draws, seed=seed)
        stated = evaluate_with_intervals(*scores, weights=weights, confidence=confidence).set_index("metric")
        for metric, first in look_at(*scores).metrics.items():
            assert stated.loc[metric, ["value", "low", "high"]].to_dict() == pytest.approx(first, nan_ok=True)


def test_the_detail_is_the_most_pretrained_regime_and_the_mean_of_its_seeds():
    own = draw_predictions(skill=SKILL | CLASSICAL).query("model == 'resnet50'")
    detail = finetune.select_detail(own)
    rows = own.query("regime == 'finetune' and split == 'test'")
    assert detail.regime == "finetune"
    assert detail.probs == pytest.approx(rows.groupby("image_id")["probability"].mean().to_numpy())


def test_whose_the_images_are_is_said_from_what_is_known():
    table = pd.DataFrame({"patient": ["P1", "P1", ""]})
    data = SimpleNamespace(table=table, manifest={"notes": ["20% of each class were drawn as test images, seed 1"]})
    assert "Gutman" in eda.describe_source(data, data_params())[0]
    own = data_params(source="folder", images="a", labels="b")
    said = eda.describe_source(data, own)
    assert not any("ISIC" in sentence for sentence in said) and said[1] == data.manifest["notes"][0]
    assert said[2].startswith("The patient is known for 2 of 3 images (1 patients)")
    data.table = table.drop(columns="patient")
    assert "name no patients" in eda.describe_source(data, own)[-1]
