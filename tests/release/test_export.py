"""Handing a network over: the same logits, a card whose numbers and code are right, errors that say what there is."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_study import make_images, make_params, regimes
from trained_report import DATA, write_trained_report

from lesion_utils.core.errors import CheckpointError, DataError, ParamsError, RunError, WeightsError
from lesion_utils.core.paths import Study
from lesion_utils.data.images import decode_square
from lesion_utils.models.checkpoint import load_checkpoint, save_checkpoint
from lesion_utils.models.inference import forward_logits
from lesion_utils.models.networks import build_network, data_config
from lesion_utils.models.predict import TrainedNetwork, load_network
from lesion_utils.release.export import export_run, load_exported
from lesion_utils.release.model_card import describe_start
from lesion_utils.release.trained_runs import choose_runs, describe_runs, list_runs

STUDY = Study("demo")


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    torch.manual_seed(99)
    save_file(timm.create_model("small_cnn").state_dict(), tmp_path / "small.safetensors")
    settings = {"WEIGHTS_DIR": tmp_path, "LESION_CACHE": tmp_path / "cache", "REPORTS_DIR": tmp_path / "reports"}
    for name, value in (settings | {"THREADS": 1, "DEVICE": "cpu"}).items():
        monkeypatch.setenv(name, str(value))


def train(regime: str = "scratch", **network):
    params = make_params(regimes=regimes(regime), weights="small.safetensors", **network)
    return write_trained_report(STUDY, params)[0]


def run_block(card: str) -> dict:
    """Execute a card's Python as a reader would, in the folder that holds `photo.jpg`."""
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    names: dict = {}
    exec(code, names)
    return names


@pytest.mark.parametrize("regime", ["scratch", "features", "finetune"])
@pytest.mark.parametrize("tta", ["none", "flips"])
def test_the_exported_network_gives_the_very_logits_of_its_checkpoint(regime, tta):
    train(regime, tta=tta)
    run = choose_runs(STUDY)[0]
    network, (exported, about) = run.load(), load_exported(export_run(run))
    assert exported.settings == network.settings
    assert data_config(exported.model) == data_config(network.model)
    assert np.array_equal(exported.predict(DATA.images), network.predict(DATA.images))
    own, theirs = network.model.state_dict(), exported.model.state_dict()
    assert own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)
    assert (about["regime"], about["seed"], about["synthetic"]) == (regime, 1, True)


def test_timm_alone_loads_the_folder():
    train()
    run = choose_runs(STUDY)[0]
    folder = export_run(run)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert not list(folder.parent.glob(".*")), "nothing half written is left"
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        ours = run.load().model.to(memory_format=torch.contiguous_format)(x)
        assert torch.equal(model(x), ours)
    config = json.loads((folder / "config.json").read_text())
    wanted = {"input_size": [3, 32, 32], "crop_pct": 1.0, "crop_mode": "squash", "mean": [0.5] * 3, "std": [0.25] * 3}
    assert {key: config["pretrained_cfg"][key] for key in wanted} == wanted
    assert (config["architecture"], config["num_classes"], config["label_names"]) == ("small_cnn", 1, ["malignant"])
    assert (
        "hf_hub_id" not in config["pretrained_cfg"] and str(folder.parent) not in (folder / "config.json").read_text()
    )


@pytest.mark.parametrize(
    "backbone",
    [
        "resnet50.tv_in1k",
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        pytest.param("vgg19.tv_in1k", marks=pytest.mark.slow),  # 560 MB twice: built, written, hashed, read
    ],
)
def test_real_backbones_come_back_exactly(backbone, monkeypatch):
    train()
    run, settings = choose_runs(STUDY)[0], make_params(backbone=backbone).resnet50
    torch.manual_seed(5)
    model = build_network(settings, pretrained=False, seed=5).eval()
    compute = run.load().compute
    network = TrainedNetwork(compute.place(model), settings, compute, "scratch", 1, {"epoch": 1}, 40, "squash")
    monkeypatch.setattr("lesion_utils.release.trained_runs.load_network", lambda path: network)
    x = torch.rand(2, 3, 32, 32).contiguous(memory_format=compute.memory_format)
    with torch.inference_mode():
        before = forward_logits(model, x, compute=compute)
        folder = export_run(run)
        exported, _ = load_exported(folder)
        assert torch.equal(forward_logits(exported.model, x, compute=compute), before)
    assert data_config(exported.model) == data_config(model)
    shutil.rmtree(folder)  # pytest would keep half a gigabyte


@pytest.mark.parametrize("aspect", ["squash", "crop", "pad"])
@pytest.mark.parametrize(("tta", "size", "suffix"), [("none", 32, "png"), ("flips", 40, "jpg")])
def test_the_cards_code_runs_and_gives_our_scores(aspect, tta, size, suffix, tmp_path, monkeypatch):
    train(tta=tta, image_size=size)
    run = choose_runs(STUDY)[0]
    path = run.folder / "best.pt"
    content = load_checkpoint(path)
    save_checkpoint(path, {**content, "about": content["about"] | {"aspect": aspect}}, identity=content["identity"])
    folder = export_run(run)
    photograph = np.repeat(np.repeat(make_images(size=48).images[0], 9, axis=0), 7, axis=1)
    Image.fromarray(photograph).save(tmp_path / f"photo.{suffix}")
    (folder.parent / "photo.jpg").write_bytes((tmp_path / f"photo.{suffix}").read_bytes())
    monkeypatch.chdir(folder.parent)
    found = run_block((folder / "README.md").read_text())["logit"]
    square = decode_square("photo.jpg", size=40, aspect=aspect)
    network, _ = load_exported(folder)
    assert found == pytest.approx(float(network.predict(square[None])[0]), rel=1e-5, abs=1e-6)


def test_the_card_states_the_runs_own_numbers():
    table = train(seeds=[1, 2])
    run = choose_runs(STUDY)[0]
    card = (export_run(run) / "README.md").read_text()
    results = [
        line for line in (STUDY.metrics / "05_comparison_results.csv").read_text().splitlines() if ",ap," in line
    ]
    value, low, high = (float(v) for v in next(r for r in results if f"scratch,{run.seed}," in r).split(",")[-7:-4])
    assert f"| average precision | {value:.3f} | {low:.3f} to {high:.3f} | bootstrap |" in card
    assert f"(there {run.record['val_ap']:.3f}, AUC {run.record['val_auc']:.3f})" in card
    assert "Of 2 seeds it is the one with the highest average precision on the validation images" in card
    assert "**Synthetic data.**" in card and "not a medical device" in card and "above 0.5" in card
    prose = re.sub(r"```.*?```", "", card, flags=re.DOTALL)
    assert not re.search(r"\{\{|\{%|\bNone\b|\bnan\b", prose)
    assert len(table.attrs["runs"]) == 2


def test_numbers_of_other_scores_are_not_stated():
    train()
    results = STUDY.metrics / "05_comparison_results.csv"
    lines = results.read_text().splitlines()
    ap = next(i for i, line in enumerate(lines) if ",ap," in line)
    cells = lines[ap].split(",")
    cells[-7] = str(float(cells[-7]) - 0.01)
    lines[ap] = ",".join(cells)
    results.write_text("\n".join(lines) + "\n")
    card = (export_run(choose_runs(STUDY)[0]) / "README.md").read_text()
    assert "Not stated: the study's comparison has not been run since" in card
    results.unlink()
    assert "Not stated" in (export_run(choose_runs(STUDY)[0]) / "README.md").read_text()


def test_the_card_of_real_images_and_of_weights_by_file():
    params = make_params(regimes=regimes("finetune"), weights="small.safetensors")
    write_trained_report(STUDY, params, synthetic=False)
    card = (export_run(choose_runs(STUDY)[0], asked_for=True) / "README.md").read_text()
    assert "CC-0" in card and "ynthetic" not in card
    assert "Licence of those: not known to this project" in card and "small.safetensors" in card
    assert "a person asked for this run" in card


@pytest.mark.parametrize(
    ("origin", "licence"), [("hub", "bsd-3-clause"), ("WEIGHTS_DIR", "bsd-3-clause"), ("file", None)]
)
def test_a_licence_is_stated_where_the_weights_are_known_by_their_tag(origin, licence):
    train("finetune")
    run = choose_runs(STUDY)[0]
    run.record["weights"] |= {"name": "vgg19.tv_in1k", "origin": origin}
    assert describe_start(run)["licence"] == licence
    card = (export_run(run) / "README.md").read_text()
    assert ("\nlicense: bsd-3-clause\n" in card) == (licence is not None)


def test_the_most_pretrained_regime_and_its_best_seed_on_validation_are_chosen():
    params = make_params(regimes=regimes() | regimes("finetune"), weights="small.safetensors", seeds=[1, 2, 3])
    write_trained_report(STUDY, params, networks=("resnet50", "vgg19"))
    for network, run in zip(("resnet50", "vgg19"), choose_runs(STUDY), strict=True):
        own = [r for r in list_runs(STUDY) if (r.network, r.regime) == (network, "finetune")]
        assert run in own and run.record["val_ap"] == max(r.record["val_ap"] for r in own)
    assert [r.regime for r in choose_runs(STUDY, "vgg19/scratch")] == ["scratch"]
    for name in ("vgg19/scratch/2", "vgg19/scratch/seed2", "vgg19/scratch/2/"):
        (run,) = choose_runs(STUDY, name)
        assert (run.network, run.regime, run.seed) == ("vgg19", "scratch", 2)
    assert describe_runs(list_runs(STUDY)).startswith(
        "resnet50/scratch/1 (or 2, 3), resnet50/finetune/1 (or 2, 3), vgg"
    )
    for wrong in ("resnet18", "resnet50/features", "resnet50/finetune/4", "vgg19/scratch/2/x"):
        with pytest.raises(RunError, match=r"there is no trained network.*\n.*resnet50/scratch/1 \(or 2, 3\)"):
            choose_runs(STUDY, wrong)


def test_what_is_missing_is_said():
    with pytest.raises(ParamsError, match="there is no study"):
        list_runs(Study("nowhere"))
    with pytest.raises(RunError, match=r"no report with a trained network yet\n.*make all STUDY=demo"):
        choose_runs(STUDY)
    train()
    run = choose_runs(STUDY)[0]
    folder = export_run(run)
    (run.folder / "best.pt").unlink()
    with pytest.raises(
        CheckpointError, match=r"the checkpoint of small_cnn, from scratch, seed 1 is not on this machine"
    ):
        export_run(run)
    assert (folder / "model.safetensors").is_file(), "an export that fails leaves the earlier one"


def test_a_head_is_not_put_on_another_backbone(tmp_path):
    train("features")
    torch.manual_seed(7)
    save_file(timm.create_model("small_cnn").state_dict(), tmp_path / "small.safetensors")
    with pytest.raises(WeightsError, match="not the weights that the last layer was trained on"):
        export_run(choose_runs(STUDY)[0])


def test_a_changed_or_foreign_folder_is_refused(tmp_path):
    train()
    folder = export_run(choose_runs(STUDY)[0])
    config = json.loads((folder / "config.json").read_text())
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match="not those that were exported"):
        load_exported(folder)
    with pytest.raises(CheckpointError, match="not an exported network"):
        load_exported(tmp_path)
    config["lesion_utils"]["settings"]["future"] = 1
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="another version, whose parameters differ in future"):
        load_exported(folder)


def test_a_checkpoint_of_other_parameters_is_explained():
    train()
    path = choose_runs(STUDY)[0].folder / "best.pt"
    content = load_checkpoint(path)
    content["about"]["settings"]["future"] = 1
    save_checkpoint(path, content, identity={})
    with pytest.raises(CheckpointError, match="another version, whose parameters differ in future"):
        load_network(path)


def test_a_place_that_cannot_be_written_is_named():
    train()
    (STUDY.report_dir / "models").write_text("a file where a folder should be")
    with pytest.raises(DataError, match="cannot write"):
        export_run(choose_runs(STUDY)[0])
