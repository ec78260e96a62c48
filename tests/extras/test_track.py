"""Trainings and results in MLflow and TensorBoard: what the report has, once, and what is new the next time."""

from __future__ import annotations

import json
from urllib.parse import quote

import pandas as pd
import pytest
from tiny_study import make_images, make_params
from trained_report import use_machine

from lesion_utils import cli
from lesion_utils.core.errors import RunError
from lesion_utils.core.paths import Study
from lesion_utils.extras.track import track_study
from lesion_utils.training.train import train_network

mlflow = pytest.importorskip("mlflow", reason="MLflow's client is not installed: make test installs it")
pytestmark = pytest.mark.slow  # MLflow and TensorBoard take seconds to load

STUDY = Study("demo")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a report with a finished training."""
    with pytest.MonkeyPatch.context() as patch:
        use_machine(patch, tmp_path_factory.mktemp("trained"))
        folder = STUDY.runs / "03_resnet50_finetune"
        train_network(make_params(), "resnet50", data=make_images(16, 6, 6), folder=folder)
        STUDY.metrics.mkdir()
        row = {"name": "ResNet50, from scratch", "seed": "1"}
        rows = [{"metric": "auc", "value": 0.8, "low": 0.7, "high": 0.9}, {"metric": "ece", "value": 0.1}]
        pd.DataFrame([row | other for other in rows]).to_csv(STUDY.metrics / "05_comparison_results.csv", index=False)
        yield next(folder.iterdir())


def read_runs(place) -> list:
    assert (place / "mlflow.db").stat().st_size
    client = mlflow.MlflowClient(f"sqlite:///{quote(str(place))}/mlflow.db")
    experiment = client.get_experiment_by_name("demo").experiment_id
    runs = client.search_runs([experiment], order_by=["attributes.run_name DESC"])
    return [(run, lambda name, run=run: client.get_metric_history(run.info.run_id, name)) for run in runs]


def test_a_training_is_followed_to_its_end_and_the_results_come_with_their_intervals(trained, tmp_path, capsys):
    place, history, done = tmp_path / "my %20 folder", trained / "history.jsonl", trained / "DONE"
    epochs, record = history.read_text(), done.read_text()
    done.unlink()
    history.write_text(epochs.splitlines(keepends=True)[0])  # one of its three epochs
    assert cli.main(["track", "demo", "--to", str(place)]) == 0
    assert "0 of 1 trainings done, 1 rows of the comparison" in capsys.readouterr().out
    (result, _), (training, read) = read_runs(place)
    assert training.info.status == "RUNNING" and [m.step for m in read("val_auc")] == [1]
    metrics = {"test_auc": 0.8, "test_auc_low": 0.7, "test_auc_high": 0.9, "test_ece": 0.1}
    assert result.data.metrics == metrics and result.info.run_name == "ResNet50, from scratch, seed 1"

    history.write_text(epochs)
    done.write_text(record)
    for _ in range(2):
        assert "1 of 1 trainings done" in track_study(STUDY, str(place))
        (_, _), (training, read) = read_runs(place)
        assert training.info.status == "FINISHED"
        for figure in ("loss", "val_ap", "seconds"):
            kept = [(epoch["epoch"], epoch[figure]) for epoch in map(json.loads, epochs.splitlines())]
            assert [(m.step, m.value) for m in read(figure)] == kept, "each epoch once"
        times = [metric.timestamp for metric in read("loss")]
        assert times == sorted(times)
    assert training.data.params["optim.name"] == "adamw" and training.data.params["regime.epochs"] == "3"
    assert training.data.tags["step"] == "03_resnet50_finetune" and training.data.tags["seed"] == "1"
    assert training.info.run_name == "03_resnet50_finetune, from scratch, seed 1"

    results = STUDY.metrics / "05_comparison_results.csv"
    results.write_text(results.read_text().replace("0.7", "0.75"))
    track_study(STUDY, str(place))
    assert len(read_runs(place)) == 3, "other results are another run"


def test_what_cannot_be_tracked_is_said(trained, tmp_path):
    with pytest.raises(RunError, match=r"TO=http://127.0.0.1:9: MLflow does not take it: .*(refused|Max retries)"):
        track_study(STUDY, "http://127.0.0.1:9")
    with pytest.raises(RunError, match="nothing has been trained"):
        track_study(Study("isic2016"), str(tmp_path))


def read_board(folder) -> dict:
    """Each run's accumulator, by the run's name without the digest at its end."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runs = {path.name.rpartition(", ")[0]: EventAccumulator(str(path)).Reload() for path in folder.iterdir()}
    assert len(runs) == len(list(folder.iterdir()))
    return runs


def test_tensorboard_has_each_point_once_while_a_training_goes_on_and_after_its_end(trained, tmp_path, capsys):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: make test installs it")
    place, history, done = tmp_path / "a b" / "tensorboard", trained / "history.jsonl", trained / "DONE"
    epochs, record = history.read_text(), done.read_text()
    done.unlink()
    lines = epochs.splitlines(keepends=True)
    training, result = "03_resnet50_finetune, from scratch, seed 1", "ResNet50, from scratch, seed 1"
    for count, half in ((1, lines[1][:30]), (2, ""), (2, "")):  # an epoch's line may be half written
        history.write_text("".join(lines[:count]) + half)
        assert cli.main(["track", "demo", "--to", str(place)]) == 0
        shown = f"tensorboard --logdir '{place}'  0 of 1 trainings done, 1 rows of the comparison"
        assert shown in capsys.readouterr().out
        runs = read_board(place / "demo")
        assert [event.step for event in runs[training].Scalars("val_auc")] == list(range(1, count + 1))
    assert not [tag for tag in runs[training].summary_metadata if tag.startswith("_hparams_")]

    history.write_text(epochs)
    done.write_text(record)
    for _ in range(2):
        assert "1 of 1 trainings done" in track_study(STUDY, str(place))
        runs = read_board(place / "demo")
        for figure in ("loss", "val_ap", "seconds"):
            kept = [(epoch["epoch"], pytest.approx(epoch[figure])) for epoch in map(json.loads, lines)]
            assert [(event.step, event.value) for event in runs[training].Scalars(figure)] == kept, "each epoch once"
        times = [event.wall_time for event in runs[training].Scalars("loss")]
        assert times == sorted(times)
    metadata = runs[training].summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"optim.name" in metadata and b"adamw" in metadata
    found = {tag: runs[result].Scalars(tag) for tag in runs[result].Tags()["scalars"]}
    low = pd.read_csv(STUDY.metrics / "05_comparison_results.csv")["low"][0]
    expected = {"test_auc": 0.8, "test_auc_low": low, "test_auc_high": 0.9, "test_ece": 0.1}
    assert {tag: event.value for tag, (event,) in found.items()} == pytest.approx(expected)
    assert len(list(place.rglob("events.*"))) == 4, "three times there was an epoch or parameters, once results"
