"""One file for onnxruntime: the checkpoint's logits on real photographs, its preprocessing inside, and errors."""

from __future__ import annotations

import json
from types import SimpleNamespace
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_study import make_params
from trained_report import use_machine, write_trained_report

from lesion_utils import cli
from lesion_utils.core.errors import CheckpointError, RunError
from lesion_utils.core.paths import Study
from lesion_utils.data.box import open_box
from lesion_utils.data.images import decode_square
from lesion_utils.data.prepared import load_prepared
from lesion_utils.extras import export, onnx
from lesion_utils.extras.predict import open_model, score_folder
from lesion_utils.extras.runs import choose_runs
from lesion_utils.models import compute
from lesion_utils.models.compute import choose_compute
from lesion_utils.models.networks import build_network
from lesion_utils.models.predict import TrainedNetwork
from lesion_utils.models.preprocess import resize_batch

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow  # torch's exporter alone takes seconds to load

STUDY = Study("demo")
FOLDER = open_box() / "ISBI2016_ISIC_Part3_Test_Data"


def read_photographs(*, size: int, count: int = 8) -> np.ndarray:
    files = sorted(FOLDER.iterdir(), key=lambda file: file.name)[:count]
    return np.stack([decode_square(file, size=size, aspect="squash") for file in files])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of `make export ONNX=1`: a small network with test-time augmentation, trained once."""
    root = tmp_path_factory.mktemp("onnx")
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_machine(monkeypatch, root)
        write_trained_report(STUDY, make_params(tta="flips"))
        photographs = SimpleNamespace(images=read_photographs(size=40, count=20))
        monkeypatch.setattr(export, "load_prepared", create_autospec(load_prepared, return_value=photographs))
        assert cli.main(["export", "--model", "resnet50", "--onnx"]) == 0
        yield STUDY.report_dir / "models" / "resnet50_scratch_seed1"


def test_any_reader_makes_the_inputs_by_the_metadata_and_has_the_checkpoints_logits(folder):
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    how = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
    assert (how["square"], how["square_size"], how["input_size"], how["views"]) == ("squash", 40, [3, 32, 32], "flips")
    images = read_photographs(size=how["square_size"])
    x = resize_batch(torch.from_numpy(images), how["input_size"][1], interpolation=how["interpolation"]).numpy()
    x = (x - np.reshape(how["mean"], (3, 1, 1))) / np.reshape(how["std"], (3, 1, 1))
    logits = choose_runs(STUDY)[0].load().predict(images, tta="none")
    for count in (1, 3, 8):  # the batch is as large as one likes
        (found,) = session.run(["logit"], {"images": x[:count].astype(np.float32)})
        np.testing.assert_allclose(found[:, 0], logits[:count], atol=1e-4, rtol=0)


def test_a_folder_scored_by_the_file_has_the_checkpoints_scores(folder, tmp_path):
    for number, image in enumerate(read_photographs(size=200, count=11)):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    networks = [open_model(name, STUDY) for name in ("resnet50", str(folder / "model.onnx"))]
    (scores, about), (others, about_others) = [(score_folder(tmp_path, n).scores, a) for n, a in networks]
    both = scores.merge(others, on="file", validate="1:1")
    assert len(both) == 11
    np.testing.assert_allclose(both["logit_y"], both["logit_x"], atol=1e-4, rtol=0)
    assert [about[key] for key in ("label", "data", "run")] == [about_others[key] for key in ("label", "data", "run")]
    out = tmp_path / "out"
    arguments = ["predict", "--images", str(tmp_path), "--model", str(folder / "model.onnx"), "--out", str(out)]
    assert cli.main(arguments) == 0 and (out / "contact_sheet.png").is_file()


def test_the_card_says_how_the_file_was_compared(folder):
    told = json.loads((folder / "config.json").read_text())["lesion_utils"]["onnx"]
    assert told["images"] == 8 and 0 <= told["largest_difference"] <= 1e-4
    card = (folder / "README.md").read_text()
    assert "`model.onnx` is the same network for onnxruntime" in card and "On 8 photographs of the study" in card


def test_it_is_computed_on_the_cpu_on_a_machine_with_a_gpu(folder, monkeypatch):
    """Where onnxruntime computes it; on a GPU the images of the comparison would be resized by other code."""
    monkeypatch.setattr(compute, "choose_device", lambda: "cuda")
    assert onnx.load_onnx(folder / "model.onnx")[0].compute.device == "cpu"


@pytest.mark.parametrize("content", [b"not a model", None])
def test_a_foreign_or_damaged_file_is_refused(folder, tmp_path, content):
    path = tmp_path / "x.onnx"
    path.write_bytes((folder / "model.onnx").read_bytes()[:-2000] if content is None else content)
    with pytest.raises(CheckpointError, match=r"not an ONNX file of this project, or it is damaged\n.*ONNX=1"):
        open_model(str(path), STUDY)


def test_a_file_with_other_logits_is_not_handed_over(folder, monkeypatch):
    earlier = (folder / "model.onnx").read_bytes()
    load = onnx.load_onnx

    def load_another(path):
        network, about = load(path)
        return SimpleNamespace(predict=lambda images: network.predict(images) + 2e-4), about

    monkeypatch.setattr(onnx, "load_onnx", load_another)
    (run,) = choose_runs(STUDY)
    with pytest.raises(RunError, match=r"up to 0\.0002 from the checkpoint's on 8 images\n.*at most 0\.0001"):
        export.export_run(run, images=read_photographs(size=40))
    assert (folder / "model.onnx").read_bytes() == earlier, "an export that fails leaves the earlier one"


@pytest.mark.long  # a minute each on two busy cores
@pytest.mark.parametrize("backbone", ["resnet50.tv_in1k", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"])
def test_real_backbones_convert(backbone, tmp_path):
    settings = make_params(backbone=backbone).resnet50
    model = build_network(settings, pretrained=False, seed=5).eval()
    rest = ("scratch", 1, {"epoch": 1}, 40, "squash")
    network = TrainedNetwork(model, settings, choose_compute(settings), *rest)
    about = {"label": backbone, "settings": settings.model_dump(mode="json"), "regime": "scratch", "seed": 1}
    about |= {"selected": {"epoch": 1}, "stored_size": 40, "aspect": "squash"}
    told = onnx.write_onnx(network, tmp_path / "x.onnx", about, read_photographs(size=40))
    assert told["largest_difference"] <= 1e-4
    (tmp_path / "x.onnx").unlink()  # pytest would keep a hundred megabytes
