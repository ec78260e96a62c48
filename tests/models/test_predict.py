"""A trained network on images: the same scores as in training."""

from __future__ import annotations

import threading
from typing import get_args
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from tiny_study import make_images, make_params, regimes

from lesion_utils.config.schema import Network
from lesion_utils.core.errors import CheckpointError
from lesion_utils.models import inference
from lesion_utils.models.inference import VIEWS, prefetch
from lesion_utils.models.predict import load_network
from lesion_utils.training.train import train_network

DATA = make_images()


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize("regime", ["scratch", "features", "finetune"])
@pytest.mark.parametrize("tta", ["none", "flips_and_middle", pytest.param("flips", marks=pytest.mark.slow)])
def test_a_loaded_network_gives_the_scores_of_its_run(tmp_path, regime, tta):
    params = make_params(regimes=regimes(regime), weights="small.safetensors", tta=tta)
    result = train_network(params, "resnet50", data=DATA, folder=tmp_path / "runs")
    (run,), table = result.runs, result.predictions
    network = load_network(tmp_path / "runs" / run["folder"] / "best.pt")
    rows = np.array([int(image_id[-4:]) for image_id in table["image_id"]])
    np.testing.assert_allclose(network.predict(DATA.images, rows), table["logit"], rtol=1e-5, atol=1e-6)
    assert network.selected["epoch"] == run["selected_epoch"]
    assert (network.stored_size, network.aspect, network.regime) == (40, "squash", regime)


def test_every_augmentation_that_a_study_may_ask_for_has_its_views():
    assert get_args(Network.model_fields["tta"].annotation) == tuple(VIEWS)


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
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
        for item in prefetch(items(), device="cpu"):
            seen.append(item)
            assert len(made) <= len(seen) + 3, "two ahead at most, and the one being made"
    assert seen == list(range(10))


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("mps", False), ("cpu", False)])
def test_cuda_copies_from_pinned_memory_which_it_need_not_wait_for(device, pinned):
    tensor = Mock()
    copied = inference.copy_to(device, tensor)
    assert tensor.pin_memory.called is pinned
    source = tensor.pin_memory.return_value if pinned else tensor
    assert copied is source.to.return_value
    source.to.assert_called_once_with(device, non_blocking=True)


@pytest.mark.parametrize(("device", "free", "moved"), [("cuda", 10, True), ("cuda", 9, False), ("cpu", 10, False)])
def test_images_that_take_a_tenth_of_a_gpus_memory_move_there_once(monkeypatch, device, free, moved):
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    monkeypatch.setattr(inference.torch.cuda, "mem_get_info", lambda: (free * images.nbytes, 0))
    monkeypatch.setattr(inference, "copy_to", lambda _, tensor: tensor)
    placed = inference.place_images(images, device)
    assert isinstance(placed, torch.Tensor) is moved and (moved or placed is images)
    rows = np.array([5, 0, 0, 3])
    assert torch.equal(inference.read_rows(placed, rows, device), torch.from_numpy(images[rows]))


def test_prefetch_starts_no_thread_on_mps():
    """Two threads that use MPS abort the process."""
    here = threading.get_ident()
    assert {*prefetch((threading.get_ident() for _ in range(3)), device="mps")} == {here}
    assert here not in {*prefetch((threading.get_ident() for _ in range(3)), device="cpu")}


@pytest.mark.skipif(not torch.backends.openmp.is_available(), reason="torch's threads are not OpenMP's here")
def test_prefetch_leaves_the_cores_to_the_network():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(prefetch((torch.get_num_threads() for _ in range(3)), device="cpu")) == [1, 1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
