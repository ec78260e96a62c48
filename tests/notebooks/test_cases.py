"""Right and wrong answers under the magnifying glass."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from pytest import approx
from tiny_study import make_images, make_params

from lesion_utils.models.gradcam import map_images
from lesion_utils.models.predict import load_network
from lesion_utils.notebooks.cases import explain_cases
from lesion_utils.notebooks.finetune import Detail
from lesion_utils.training.fit import train_network

DATA = make_images()


def test_the_map_shown_belongs_to_the_probability_shown(tmp_path, monkeypatch):
    """The label has the seeds' mean probability, so the picture has the mean of their maps."""
    for name, value in {"LESION_CACHE": tmp_path / "cache", "THREADS": 1, "DEVICE": "cpu"}.items():
        monkeypatch.setenv(name, str(value))
    result = train_network(make_params(seeds=[1, 2]), "resnet50", data=DATA, folder=tmp_path)
    rows = np.array([0, 1, 2, 3])
    detail = Detail("", "scratch", [f"{row}" for row in rows], np.array([1, 1, 0, 0]), np.array([0.9, 0.2, 0.8, 0.1]))
    data = SimpleNamespace(images_of=lambda ids: DATA.images[[int(i) for i in ids]])
    cases = explain_cases(result, detail, data, folder=tmp_path)
    assert cases.labels == ["TP\n0\np = 0.90", "FN\n1\np = 0.20", "FP\n2\np = 0.80", "TN\n3\np = 0.10"]
    runs = [load_network(tmp_path / run["folder"] / "best.pt") for run in result.runs]
    own = [map_images(network, DATA.images[rows]) for network in runs]
    assert list(cases.maps) == ["Grad-CAM, mean of 2 networks", "random weights"]
    assert cases.maps["Grad-CAM, mean of 2 networks"] == approx(np.mean(own, axis=0), abs=1e-6)
    assert not np.allclose(*own)
