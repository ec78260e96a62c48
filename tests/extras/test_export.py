"""Handing a network over: the same logits, a card whose numbers and code are right, errors that say what there is."""

from __future__ import annotations

import json
import re
import shutil

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from loopback import serve_hub
from PIL import Image
from safetensors.torch import save_file
from tiny_study import make_images, make_params, regimes
from trained_report import DATA, use_machine, write_trained_report

from lesion_utils import cli
from lesion_utils.core.errors import CheckpointError, DataError, ParamsError, RunError, WeightsError
from lesion_utils.core.files import dump_json
from lesion_utils.core.paths import Study
from lesion_utils.core.seal import seal_record
from lesion_utils.data.images import decode_square
from lesion_utils.extras.export import export_run, load_exported
from lesion_utils.extras.push import check_pushable
from lesion_utils.extras.runs import choose_runs, describe_runs, list_runs
from lesion_utils.models.checkpoint import load_checkpoint, save_checkpoint
from lesion_utils.models.inference import forward_logits
from lesion_utils.models.licences import KNOWN
from lesion_utils.models.networks import build_network, data_config
from lesion_utils.models.predict import TrainedNetwork

STUDY = Study("demo")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Small networks of every regime, trained once: their report and the weights that they started from."""
    root = tmp_path_factory.mktemp("trained")
    torch.manual_seed(99)
    save_file(timm.create_model("small_cnn").state_dict(), root / "small.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        use_machine(patch, root, WEIGHTS_DIR=root)
        params = make_params(
            regimes=regimes() | regimes("features") | regimes("finetune"), weights="small.safetensors", seeds=[1, 2]
        )
        write_trained_report(STUDY, params)
        # The same records stand in for another network's: which one is meant is asked of them alone.
        shutil.copy(STUDY.metrics / "03_resnet50_finetune.json", STUDY.metrics / "04_vgg19_finetune.json")
    return root


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch, trained):
    """A copy of it that the test may change."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    use_machine(monkeypatch, tmp_path, WEIGHTS_DIR=tmp_path)


def choose(regime: str = "scratch", **changes):
    """The run of a regime; its checkpoint changed where asked."""
    (run,) = choose_runs(STUDY, f"resnet50/{regime}")
    if changes:
        path = run.folder / "best.pt"
        content = load_checkpoint(path)
        about = content["about"]
        about |= {key: changes.pop(key) for key in ("aspect",) if key in changes}
        about["settings"] |= changes
        save_checkpoint(path, content, identity=content["identity"])
    return run


def read_code(card: str) -> str:
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


@pytest.mark.parametrize("regime", ["scratch", "features", "finetune"])
@pytest.mark.parametrize("tta", ["none", pytest.param("flips", marks=pytest.mark.slow)])
def test_the_exported_network_gives_the_very_logits_of_its_checkpoint(regime, tta):
    run = choose(regime, tta=tta)
    network, (exported, about) = run.load(), load_exported(export_run(run))
    assert exported.settings == network.settings
    assert data_config(exported.model) == data_config(network.model)
    assert np.array_equal(exported.predict(DATA.images), network.predict(DATA.images))
    own, theirs = network.model.state_dict(), exported.model.state_dict()
    assert own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)
    assert (about["regime"], about["seed"]) == (regime, run.seed)


def test_timm_alone_loads_the_folder():
    run = choose()
    folder = export_run(run)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1, "whoever may read one may read all"
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
    assert "hf_hub_id" not in config["pretrained_cfg"]
    assert str(folder.parent) not in (folder / "config.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet50.tv_in1k", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "vgg19.tv_in1k"])
def test_real_backbones_come_back_exactly(backbone, monkeypatch):
    run, settings = choose(), make_params(backbone=backbone).resnet50
    torch.manual_seed(5)
    model = build_network(settings, pretrained=False, seed=5).eval()
    compute = run.load().compute
    network = TrainedNetwork(compute.place(model), settings, compute, "scratch", 1, {"epoch": 1}, 40, "squash")
    monkeypatch.setattr("lesion_utils.extras.runs.load_network", lambda path: network)
    x = torch.rand(2, 3, 32, 32).contiguous(memory_format=compute.memory_format)
    with torch.inference_mode():
        before = forward_logits(model, x, compute=compute)
        folder = export_run(run)
        exported, _ = load_exported(folder)
        assert torch.equal(forward_logits(exported.model, x, compute=compute), before)
    assert data_config(exported.model) == data_config(model)
    shutil.rmtree(folder)  # pytest would keep half a gigabyte


@pytest.mark.slow  # timm alone draws the 120 million weights that are removed next
def test_a_vgg_with_an_averaging_head_is_loaded_by_the_cards_code(monkeypatch):
    """Both by this project and by the card's lines for timm alone."""
    run, settings = choose(), make_params(backbone="vgg11.tv_in1k", head="average").resnet50
    model, compute = build_network(settings, pretrained=False, seed=5).eval(), run.load().compute
    network = TrainedNetwork(compute.place(model), settings, compute, "scratch", 1, {"epoch": 1}, 40, "squash")
    monkeypatch.setattr("lesion_utils.extras.runs.load_network", lambda path: network)
    folder, x, names = export_run(run), torch.rand(2, 3, 64, 64), {}
    lines = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(folder.parent)
    exec(lines, names)
    with torch.inference_mode():
        expected = model(x)
        assert torch.equal(load_exported(folder)[0].model.to(memory_format=torch.contiguous_format)(x), expected)
        assert torch.equal(names["model"].eval()(x), expected)
    shutil.rmtree(folder)


@pytest.mark.parametrize(("aspect", "tta"), [("squash", "none"), ("crop", "flips"), ("pad", "flips_and_middle")])
def test_the_cards_code_runs_and_gives_our_scores(aspect, tta, monkeypatch):
    run = choose(aspect=aspect, tta=tta)
    folder = export_run(run)
    photograph = np.repeat(np.repeat(make_images(size=48).images[0], 9, axis=0), 7, axis=1)
    Image.fromarray(photograph).save(folder.parent / "photo.jpg")
    monkeypatch.chdir(folder.parent)
    names: dict = {}
    exec(read_code((folder / "README.md").read_text()), names)
    square = decode_square("photo.jpg", size=40, aspect=aspect)
    assert names["logit"] == pytest.approx(float(run.load().predict(square[None])[0]), rel=1e-6)


def test_the_card_states_the_runs_own_numbers():
    run = choose()
    card = ModelCard.load(export_run(run) / "README.md")
    results = pd.read_csv(STUDY.metrics / "05_comparison_results.csv", dtype={"seed": str})
    own = results.query(f"regime == 'scratch' and seed == '{run.seed}' and metric == 'ap'")
    ((value, low, high),) = own[["value", "low", "high"]].to_numpy().tolist()
    assert f"| average precision | {value:.3f} | {low:.3f} to {high:.3f} | bootstrap, logit scale |" in card.text
    assert f"(there {run.record['val_ap']:.3f}, AUC {run.record['val_auc']:.3f})" in card.text
    assert "Of 2 seeds it is the one with the highest average precision on the validation images" in card.text
    assert "not a medical device" in card.text and "no one else's licence" in card.text
    prose = card.text.replace(read_code(card.text), "")
    assert not re.search(r"\{\{|\{%|\bNone\b|\bnan\b", prose)
    assert len(card.text.splitlines()) < 90
    assert "was kept, by the average precision on validation images (" in prose
    last = ModelCard.load(export_run(choose(keep="last")) / "README.md").text
    assert "was kept, the last, whatever its average precision on validation images (" in last
    told = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert told["ap"] == round(value, 4) and card.data.library_name == "timm" and card.data.license is None


def test_ones_own_images_are_not_called_the_challenges():
    run = choose()
    path = STUDY.runs / run.step.name / "run.json"
    record = json.loads(path.read_text())
    for source, kind, names_isic in (("isic2016", "isic2016", True), ("folder", "imagefolder", False)):
        path.write_text(dump_json(seal_record(record | {"data": record["data"] | {"source": source}})))
        card = ModelCard.load(export_run(run) / "README.md")
        assert card.data.eval_results[0].dataset_type == kind
        assert ("arXiv:1605.01397. Epoch" in card.text, "`). Epoch" in card.text) == (names_isic, not names_isic)


def test_numbers_of_other_scores_are_not_stated():
    results = STUDY.metrics / "05_comparison_results.csv"
    table = pd.read_csv(results)
    table.loc[table["metric"] == "ap", "value"] -= 0.01
    table.to_csv(results, index=False)
    card = (export_run(choose()) / "README.md").read_text()
    assert "Not stated: the study's comparison has not been run since" in card
    results.unlink()
    assert "Not stated" in (export_run(choose()) / "README.md").read_text()


@pytest.mark.parametrize(
    ("weights", "front", "prose"),
    [
        ({}, {}, "not known to this project"),
        ({"name": "vgg19.tv_in1k", "origin": "hub"}, {"license": "bsd-3-clause", "base_model": "timm/vgg19.tv_in1k"},
         "licence:\nbsd-3-clause."),
        ({"sha256": next(iter(KNOWN))}, {"license": "other", "license_name": "uber-non-commercial-license"},
         "are for non-commercial use only"),
    ],
)  # fmt: skip
def test_the_licence_of_the_first_weights_is_stated_and_what_follows(weights, front, prose):
    run = choose("finetune")
    run.record["weights"] |= weights
    card = ModelCard.load(export_run(run, asked_for=True) / "README.md")
    told = {key: getattr(card.data, key, None) for key in ("license", "license_name", "base_model")}
    assert {key: value for key, value in told.items() if value} == front
    assert prose in card.text and "a person asked for this run" in card.text


def test_a_network_is_sent_to_the_hub_whole(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "mine")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # a store with servers of its own
    arguments = ["export", "--model", "resnet50/scratch", "--push", "someone/melanoma"]
    with serve_hub("mine") as (address, repositories):
        monkeypatch.setenv("HF_ENDPOINT", address.rstrip("/"))
        assert cli.main(arguments) == 0, capsys.readouterr().err
        assert cli.main(arguments) == 0, "a second time is another commit"
        monkeypatch.setenv("HF_TOKEN", "another's")
        assert cli.main(arguments) == 1
        assert "do next   hf auth login, or set HF_TOKEN" in capsys.readouterr().err
    (name, (first, second)) = repositories.popitem()
    (folder,) = (STUDY.report_dir / "models").iterdir()
    assert name == "someone/melanoma" and not repositories
    assert first == second == {path.name: path.read_bytes() for path in folder.iterdir()}
    (told,) = ModelCard(first["README.md"].decode()).data.to_dict()["model-index"]
    assert told["name"] == choose().label and len(told["results"][0]["metrics"]) >= 8


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"sha256": next(iter(KNOWN))}, "forbids it: Uber Non-Commercial License"),
        ({"name": "convnextv2_tiny.fcmae_ft_in1k", "origin": "hub"}, "forbids it: cc-by-nc-4.0"),
        ({}, "is not known"),
    ],
)
def test_what_a_licence_forbids_is_not_sent(weights, expected):
    run = choose("finetune")
    run.record["weights"] |= weights
    with pytest.raises(WeightsError, match=f"the licence of these weights {expected}"):
        check_pushable([run])
    run.record["weights"] |= {"name": "vgg19.tv_in1k", "origin": "hub", "sha256": "of timm's file"}
    check_pushable([run])


def test_nothing_is_written_where_nothing_can_be_sent(monkeypatch, capsys):
    assert cli.main(["export", "--push", "someone/melanoma"]) == 1
    assert "takes one network\n  do next   say which: MODEL=resnet50 or MODEL=" in capsys.readouterr().err
    monkeypatch.setenv("OFFLINE", "1")
    assert cli.main(["export", "--model", "resnet50/scratch", "--push", "someone/melanoma"]) == 1
    assert "OFFLINE is set" in capsys.readouterr().err
    assert not (STUDY.report_dir / "models").exists()


def test_the_most_pretrained_regime_and_its_best_seed_on_validation_are_chosen():
    for network, run in zip(("resnet50", "vgg19"), choose_runs(STUDY), strict=True):
        own = [r for r in list_runs(STUDY) if (r.network, r.regime) == (network, "finetune")]
        assert run in own and run.record["val_ap"] == max(r.record["val_ap"] for r in own)
    assert [r.regime for r in choose_runs(STUDY, "vgg19/scratch")] == ["scratch"]
    for name in ("vgg19/scratch/2", "vgg19/scratch/seed2", "vgg19/scratch/2/"):
        (run,) = choose_runs(STUDY, name)
        assert (run.network, run.regime, run.seed) == ("vgg19", "scratch", 2)
    assert describe_runs(list_runs(STUDY)).startswith("resnet50/scratch/1 (or 2), resnet50/features/1 (or 2), resnet50")
    for wrong in ("resnet18", "resnet50/other", "resnet50/finetune/4", "vgg19/scratch/2/x"):
        with pytest.raises(RunError, match=r"there is no trained network.*\n.*resnet50/scratch/1 \(or 2\)"):
            choose_runs(STUDY, wrong)


def test_what_is_missing_is_said():
    with pytest.raises(ParamsError, match="there is no study"):
        list_runs(Study("nowhere"))
    with pytest.raises(RunError, match=r"no report with a trained network yet\n.*make all STUDY=isic2016"):
        choose_runs(Study("isic2016"))
    run = choose()
    folder = export_run(run)
    (run.folder / "best.pt").unlink()
    with pytest.raises(CheckpointError, match=f"of small_cnn, from scratch, seed {run.seed} is not on this machine"):
        export_run(run)
    assert (folder / "model.safetensors").is_file(), "an export that fails leaves the earlier one"


def test_a_head_is_not_put_on_another_backbone(tmp_path):
    torch.manual_seed(7)
    save_file(timm.create_model("small_cnn").state_dict(), tmp_path / "small.safetensors")
    with pytest.raises(WeightsError, match="not the weights that the last layer was trained on"):
        export_run(choose("features"))


def test_a_changed_or_foreign_folder_is_refused(tmp_path):
    folder = export_run(choose())
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="not those that were exported"):
        load_exported(folder)
    with pytest.raises(CheckpointError, match="not an exported network"):
        load_exported(tmp_path)
    weights.write_bytes(whole)
    config.write_text(config.read_text().replace('"settings": {', '"settings": {"future": 1, '))
    with pytest.raises(CheckpointError, match="another version, whose parameters differ in future"):
        load_exported(folder)
    with pytest.raises(CheckpointError, match="another version, whose parameters differ in future"):
        choose(future=1).load()


def test_a_place_that_cannot_be_written_is_named():
    (STUDY.report_dir / "models").write_text("a file where a folder should be")
    with pytest.raises(DataError, match="cannot write"):
        export_run(choose())


def test_runs_of_several_folds_are_told_apart_and_named():
    """One record stands in for each: nothing is loaded to choose among them."""
    metrics = STUDY.metrics / "03_resnet50_finetune.json"
    (run, *_) = json.loads(metrics.read_text(encoding="utf-8"))["runs"]
    runs = [run | {"fold": fold, "val_ap": 0.1 * fold} for fold in (1, 2, 3)]
    metrics.write_text(json.dumps({"runs": runs}), encoding="utf-8")
    (best,), (named,) = choose_runs(STUDY, "resnet50"), choose_runs(STUDY, "resnet50/scratch/1/2")
    assert best.record["fold"] == 3 and best.label == "small_cnn, from scratch, seed 1, fold 3"
    assert named.record["fold"] == 2 and named.path == ["resnet50", "scratch", "1", "2"]
    assert describe_runs(list_runs(STUDY)).startswith("resnet50/scratch/1/1 (or 1/2, 1/3)")
