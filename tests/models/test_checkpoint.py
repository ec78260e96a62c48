"""Checkpoints: whole or absent, the same bytes for the same content, refused when they are another run's."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lesion_utils.core.errors import CheckpointError, DataError
from lesion_utils.models import checkpoint
from lesion_utils.models.checkpoint import load_checkpoint, save_checkpoint

IDENTITY = {"resnet50": {"optim": {"lr": 0.1}, "batch_size": 8}, "seed": 1, "weights": None}
CONTENT = {"model": {"w": torch.arange(6.0).reshape(2, 3)}, "history": [{"epoch": 1, "loss": 0.5}], "best": None}


def test_what_is_saved_comes_back(tmp_path):
    path = tmp_path / "new" / "last.pt"
    save_checkpoint(path, CONTENT, identity=IDENTITY)
    loaded = load_checkpoint(path, identity=IDENTITY)
    assert torch.equal(loaded["model"]["w"], CONTENT["model"]["w"])
    assert loaded["history"] == CONTENT["history"]
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]


def test_memory_format_survives(tmp_path):
    tensor = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "a.pt", {"w": tensor}, identity={})
    assert load_checkpoint(tmp_path / "a.pt")["w"].is_contiguous(memory_format=torch.channels_last)


def test_the_same_content_gives_the_same_bytes_under_any_name(tmp_path):
    for name in ("a.pt", "other.pt"):
        save_checkpoint(tmp_path / name, CONTENT, identity=IDENTITY)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "other.pt").read_bytes()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 2}, "seed = 1, this run has 2"),
        ({"resnet50": {"optim": {"lr": 0.2}, "batch_size": 8}}, "resnet50.optim.lr = 0.1, this run has 0.2"),
        ({"weights": "abc"}, "weights = None, this run has 'abc'"),
        ({"new": 1}, "new = None, this run has 1"),
    ],
)
@pytest.mark.fault("weights", "a checkpoint of other parameters", "refused, with the key that differs")
def test_other_parameters_are_refused_with_the_key(tmp_path, change, key):
    save_checkpoint(tmp_path / "last.pt", CONTENT, identity=IDENTITY)
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        load_checkpoint(tmp_path / "last.pt", identity=IDENTITY | change)


@given(cut=st.floats(0, 0.999))
@pytest.mark.fault("weights", "a truncated checkpoint", "refused by name")
def test_a_truncated_file_is_named(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "last.pt"
    save_checkpoint(path, CONTENT, identity=IDENTITY)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * cut)])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


@pytest.mark.fault("weights", "code in a checkpoint", "never run")
def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"format": 1, "identity": {}, "model": Trap()}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "last.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "plain.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoint_of_another_kind_or_none_is_named(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
        load_checkpoint(tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), RuntimeError("the writer failed")])
@pytest.mark.fault("disk", "full, while a checkpoint is written", "named; the old file stays")
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failure):
    path = tmp_path / "last.pt"
    save_checkpoint(path, CONTENT, identity=IDENTITY)
    before = path.read_bytes()

    def fail(_content, file):
        file.write(b"half")
        raise failure

    monkeypatch.setattr(checkpoint.torch, "save", fail)
    with pytest.raises(DataError, match=f"cannot write: {failure.args[-1]}"):
        save_checkpoint(path, {}, identity=IDENTITY)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
