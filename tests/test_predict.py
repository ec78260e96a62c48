"""A trained network on images: the same scores as in training, and folders with broken photographs."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_study import make_images, make_params, regimes

from lesion_utils.errors import CheckpointError, DataError
from lesion_utils.inference import prefetch
from lesion_utils.predict import load_network, predict_folder
from lesion_utils.train import train_network

DATA = make_images()


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    torch.manual_seed(99)
    save_file(timm.create_model("small_cnn").state_dict(), tmp_path / "small.safetensors")
    settings = {"WEIGHTS_DIR": tmp_path, "LESION_CACHE": tmp_path / "cache", "THREADS": 1, "DEVICE": "cpu"}
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("regime", ["scratch", "features", "finetune"])
@pytest.mark.parametrize("tta", ["none", "flips"])
def test_a_loaded_network_gives_the_scores_of_its_run(tmp_path, regime, tta):
    params = make_params(regimes=regimes(regime), weights="small.safetensors", tta=tta)
    table = train_network(params, "resnet50", data=DATA, folder=tmp_path / "runs")
    network = load_network(tmp_path / "runs" / table.attrs["runs"][0]["folder"] / "best.pt")
    rows = np.array([int(image_id[-4:]) for image_id in table["image_id"]])
    np.testing.assert_allclose(network.predict(DATA.images, rows), table["logit"], rtol=1e-5, atol=1e-6)
    assert network.selected["epoch"] == table.attrs["runs"][0]["selected_epoch"]
    assert (network.stored_size, network.aspect, network.regime) == (40, "squash", regime)


def test_a_folder_is_scored_and_broken_images_are_reported(tmp_path):
    table = train_network(make_params(), "resnet50", data=DATA, folder=tmp_path / "runs")
    network = load_network(tmp_path / "runs" / table.attrs["runs"][0]["folder"] / "best.pt")
    folder = tmp_path / "photographs"
    folder.mkdir()
    for row in range(11):
        Image.fromarray(DATA.images[row]).save(folder / f"{row:02d}.png")
    (folder / "03.png").write_bytes((folder / "03.png").read_bytes()[:200])
    (folder / "05.jpg").write_bytes(b"not an image")
    (folder / "notes.txt").write_text("not searched")
    scores, problems = predict_folder(folder, network)
    assert [line.split(":")[0] for line in problems] == ["03.png", "05.jpg"]
    good = [row for row in range(11) if row != 3]
    assert scores["file"].tolist() == [f"{row:02d}.png" for row in good]
    np.testing.assert_allclose(scores["logit"], network.predict(DATA.images, np.array(good)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scores["probability"], 1 / (1 + np.exp(-scores["logit"])))


def test_a_folder_without_images_says_so(tmp_path):
    table = train_network(make_params(), "resnet50", data=DATA, folder=tmp_path / "runs")
    network = load_network(tmp_path / "runs" / table.attrs["runs"][0]["folder"] / "best.pt")
    with pytest.raises(DataError, match="there are no images here"):
        predict_folder(tmp_path / "absent", network)
    (tmp_path / "a.jpg").write_bytes(b"no")
    with pytest.raises(DataError, match="no image here can be read"):
        predict_folder(tmp_path, network)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_network(tmp_path / "best.pt")


def test_prefetch_keeps_order_passes_errors_on_and_stays_close():
    made = []

    def items():
        for i in range(10):
            made.append(i)
            yield i
        raise ValueError("at the end")

    seen = []
    with pytest.raises(ValueError, match="at the end"):
        for item in prefetch(items()):
            seen.append(item)
            assert len(made) <= len(seen) + 3, "two ahead at most, and the one being made"
    assert seen == list(range(10))
