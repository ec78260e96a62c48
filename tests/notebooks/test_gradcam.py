"""Where a network looked, as 03 and 04 show it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from tiny_study import make_images, make_params

from lesion_utils.figures.cases import OUTCOMES
from lesion_utils.models.gradcam import map_images
from lesion_utils.models.predict import load_network
from lesion_utils.notebooks.finetune import Detail
from lesion_utils.notebooks.gradcam import explain_cases, measure_middle
from lesion_utils.training.train import train_network


def test_the_map_shown_belongs_to_the_probability_shown(tmp_path, monkeypatch):
    """The label has the seeds' mean probability, so the picture has the mean of their maps."""
    for name, value in {"LESION_CACHE": tmp_path / "cache", "THREADS": 1, "DEVICE": "cpu"}.items():
        monkeypatch.setenv(name, str(value))
    made = make_images()
    result = train_network(make_params(seeds=[1, 2]), "resnet50", data=made, folder=tmp_path)
    rows = np.array([0, 1, 2, 3])
    detail = Detail("", "scratch", [f"{row}" for row in rows], np.array([1, 1, 0, 0]), np.array([0.9, 0.2, 0.8, 0.1]))
    data = SimpleNamespace(images_of=lambda ids: made.images[[int(i) for i in ids]])
    cases = explain_cases(result, detail, data, folder=tmp_path)
    assert cases.labels == ["TP\n0\np = 0.90", "FN\n1\np = 0.20", "FP\n2\np = 0.80", "TN\n3\np = 0.10"]
    runs = [load_network(tmp_path / run["folder"] / "best.pt") for run in result.runs]
    own = [map_images(network, made.images[rows]) for network in runs]
    assert list(cases.maps) == ["Grad-CAM, mean of 2 networks", "random weights"]
    assert cases.maps["Grad-CAM, mean of 2 networks"] == pytest.approx(np.mean(own, axis=0), abs=1e-6)
    assert not np.allclose(*own)
    assert {name: len(np.atleast_2d(mean)) for name, mean in cases.means.items()} == dict.fromkeys(OUTCOMES, 2)
    np.testing.assert_allclose(cases.means["TP"], np.mean(own, axis=0)[0], atol=1e-6)


def test_heat_is_shared_out_between_the_middle_and_the_edge():
    """Even heat has the share of the area, central heat all of it; images without heat do not count."""
    even, central, edge, none = np.full((8, 8), 0.3), np.zeros((8, 8)), np.ones((8, 8)), np.zeros((8, 8))
    central[3:5, 3:5], edge[2:6, 2:6] = 1, 0
    maps = np.array([even, even, central, central, edge, none])
    rows = measure_middle(
        maps, {"TP": np.arange(2), "FN": np.array([2, 3]), "FP": np.array([4, 5]), "TN": np.array([0, 2])}
    )
    rows = rows.set_index("outcome")
    assert rows["images"].tolist() == [2] * 4 and rows["without heat"].tolist() == [0, 0, 1, 0]
    shares = rows["share in the middle"]
    assert shares["TP"] == "0.500 (0.500 to 0.500)"
    assert shares["FN"].startswith("1.000") and shares["FP"] == "–", "one image has no interval"
    assert shares["TN"] == "0.750 (0.500 to 1.000)"


def test_of_two_rows_the_middle_tells_nothing():
    """Whichever of four quarters is hot, the middle has the same share: a number would look like a finding."""
    quarters = np.eye(4).reshape(4, 2, 2)
    assert measure_middle(quarters, {"TP": np.arange(4)})["share in the middle"].tolist() == ["–"]
