"""What notebooks write through their study, and the log of training."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lesion_utils.core.errors import ParamsError, RunError
from lesion_utils.figures.calibration import plot_confusion
from lesion_utils.notebooks.study import OpenStudy, open_study, write_html


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("REPORTS_DIR", str(tmp_path))
    monkeypatch.setenv("LESION_RUN_ID", "a-run")
    return open_study("../params/demo", "01_eda")


def draw():
    return plot_confusion({"a model": np.array([[3, 1], [0, 2]])})


def test_a_figure_is_saved_with_its_caption_and_place(study):
    study.save_figure(draw(), "first", "The first.")
    shown = study.save_figure(draw(), "second", "The second.", shows_images=True)
    record = json.loads((study.paths.figures / "01_eda_second.json").read_text(encoding="utf-8"))
    assert record["caption"] == "The second."
    assert (record["place"], record["shows_images"], record["run_id"]) == (1, True, "a-run")
    assert shown.data == (study.paths.figures / "01_eda_second.png").read_bytes()


def test_what_is_not_a_number_becomes_null(study):
    saved = study.save_metrics({"auc": np.float64(0.5), "none": np.nan, "counts": np.arange(2), "rows": pd.DataFrame()})
    assert saved == {"auc": 0.5, "none": None, "counts": [0, 1], "rows": []}


def test_saving_the_same_again_leaves_the_file_alone(study):
    study.save_metrics({"a": 1})
    path = study.paths.metrics / "01_eda.json"
    before = path.stat().st_mtime_ns
    study.save_metrics({"a": 1})
    assert path.stat().st_mtime_ns == before


def test_a_table_is_read_back_as_it_was_saved(study):
    table = pd.DataFrame({"name": ["a", "b"], "value": [0.1, 1 / 3]})
    study.save_table(table, "numbers")
    pd.testing.assert_frame_equal(study.load_table("01_eda", "numbers"), table, rtol=1e-8)


def test_tables_show_their_sentences_whole_and_no_count_of_their_rows():
    table = pd.DataFrame({"what for": ["<" + "x" * 200], "value": [7]}, index=[3])
    shown = write_html(table)
    assert "&lt;" + "x" * 200 in shown and "<th>3</th>" not in shown
    assert "<th>7</th>" in write_html(table.set_index("value"))


def test_a_table_sets_words_flush_left_and_numbers_short():
    table = pd.DataFrame({"name": ["a", "b"], "ap": [0.572699, np.nan], "interval": ["0.5 to 0.6", "1 of 2"]})
    table = table.assign(verdict=["", "consistent"], count=pd.array([48, None], dtype="Int64"))
    shown = write_html(table)
    assert 'class="dataframe text-1 text-4"' in shown and "<td>0.5727</td>" in shown and "<td>–</td>" in shown
    assert "<td>48</td>" in shown and "NA" not in shown
    assert 'class="dataframe text-4"' in write_html(table.set_index("name")), "what stands first is flush left anyway"


def test_a_table_that_is_not_there_says_what_to_run(study):
    with pytest.raises(RunError, match="make all STUDY=demo"):
        study.load_table("01_eda", "missing")


def test_a_folder_that_is_no_study_is_refused():
    with pytest.raises(ParamsError):
        open_study("../params/nowhere", "01_eda")


def test_progress_is_logged_and_shown_once_per_run(study):
    progress = open_study("../params/demo", "03_resnet50_finetune").watch_training()
    event = {"regime": "scratch", "seed": 1, "epochs": 2, "loss": 0.7, "val_ap": 0.5, "val_auc": 0.6}
    event |= {"images_per_s": 50.0, "seconds_left": 3.0}
    for seed in (1, 2):
        for epoch in (1, 2):
            progress(event | {"seed": seed, "epoch": epoch})
    log = (study.paths.runs / "03_resnet50_finetune" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in log] == [1, 2, 1, 2]
    table = progress.render().splitlines()
    assert len(table) == 6, "a heading, its rule, one line per run, and the time left"
    assert table[-1] == "About 3 s left."
    assert "2 of 2" in table[3]
    progress({"regime": "scratch", "seed": 1, "stage": "final scores", "done": 16, "total": 32})
    assert progress.render().splitlines() == table, "a stage is for the terminal, which reads the log"
    progress(event | {"seed": 2, "epoch": 2, "seconds_left": 0.0})
    assert "left" not in progress.render(), "the run has ended"
    assert "final scores" in (study.paths.runs / "03_resnet50_finetune" / "train.jsonl").read_text(encoding="utf-8")


def test_by_hand_nothing_of_the_report_is_written(study, monkeypatch):
    study.save_metrics({"a": 1})
    study.save_figure(draw(), "first", "The first.")
    study.save_table(pd.DataFrame({"x": [1]}), "numbers")
    report = study.paths.report_dir
    before = {path: path.read_bytes() for path in report.rglob("*") if path.is_file()}
    monkeypatch.delenv("LESION_RUN_ID")
    monkeypatch.setenv("PATH", "")  # nor is git needed
    for name in ("01_eda", "05_comparison"):
        by_hand = open_study("../params/demo", name)
        by_hand.save_metrics({"a": 2})
        by_hand.save_figure(draw(), "first", "Another.")
    assert {path: path.read_bytes() for path in before} == before
    assert by_hand.load_table("01_eda", "numbers").x.tolist() == [1], "what earlier steps made can be read"
    assert by_hand.paths.data == study.paths.data
    written = {path for path in report.rglob("*") if path.is_file()} - before.keys()
    assert written and all(path.is_relative_to(report / "interactive") for path in written)


def test_the_card_needs_no_git(study, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(OpenStudy, "open_data", lambda self: SimpleNamespace(summary="two images"))
    assert "<th>commit</th><td>not under version control</td>" in study.card().data


@pytest.mark.parametrize(("dirty", "shown"), [(None, "0123456789"), ("ab", "0123456789, with changes")])
def test_the_card_names_the_commit_and_changes_of_what_decides_numbers(study, monkeypatch, dirty, shown):
    monkeypatch.setattr(OpenStudy, "open_data", lambda self: SimpleNamespace(summary="two images"))
    code = {"commit": "0123456789abcdef", "dirty_hash": dirty}
    monkeypatch.setattr("lesion_utils.notebooks.study.describe_code", lambda: code)
    assert f"<th>commit</th><td>{shown}</td>" in study.card().data
