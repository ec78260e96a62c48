"""The graph of steps: keys, reasons, and the sentences that name them."""

from __future__ import annotations

import json
import os
import re

import pytest
from fake_report import copy_fake_project
from hypothesis import given
from hypothesis import strategies as st
from small_project import STEPS

from lesion_utils.config.load import load_study
from lesion_utils.core.errors import RunError
from lesion_utils.core.files import dump_json
from lesion_utils.core.paths import Study
from lesion_utils.core.running import mark_running
from lesion_utils.core.seal import seal_record
from lesion_utils.pipeline import graph
from lesion_utils.pipeline.graph import list_reasons
from lesion_utils.provenance import steps
from lesion_utils.provenance.steps import Reason, find_step, hash_inputs, list_upstream

KEY = {"params": {"vgg19": {"optim": {"momentum": 0.9}}}, "code": {}, "notebook": "a", "data": None, "weights": None}


def finish(study: Study, name: str, key: dict, inputs: dict) -> None:
    """Make a step look as if it had just succeeded."""
    step = STEPS[name]
    (study.report_dir / step.product).parent.mkdir(parents=True, exist_ok=True)
    (study.report_dir / step.product).write_text("made")
    graph.mark_done(study, step, key, inputs, started=1.0)


def test_the_steps_and_what_each_takes_from_which():
    training = ["data"]
    assert {name: list_upstream(Study("demo"), step) for name, step in STEPS.items()} == {
        "data": [],
        "01_eda": training,
        "02_augmentation_preview": training,
        "03_resnet50_finetune": training,
        "04_vgg19_finetune": training,
        "05_comparison": ["data", "01_eda", "03_resnet50_finetune", "04_vgg19_finetune"],
        "index": list(STEPS)[:-1],
    }


def test_each_file_belongs_to_one_step():
    paths = ["data/split.csv", "figures/01_eda_a.png", "metrics/03_resnet50_finetune.json", "predictions/vgg19.csv"]
    owners = {path: [name for name, step in STEPS.items() if step.may_make(path)] for path in paths}
    assert list(owners.values()) == [["data"], ["01_eda"], ["03_resnet50_finetune"], ["04_vgg19_finetune"]]


def test_an_unknown_step_is_named():
    with pytest.raises(RunError, match="there is no step '06'"):
        find_step(Study("demo"), "06")


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("data", list(STEPS)),
        ("augmentation", ["02_augmentation_preview", "03_resnet50_finetune", "04_vgg19_finetune", "index"]),
        ("resnet50", ["02_augmentation_preview", "03_resnet50_finetune", "index"]),
        ("vgg19", ["02_augmentation_preview", "04_vgg19_finetune", "index"]),
        ("comparison", ["05_comparison", "index"]),
    ],
)
def test_a_change_in_a_file_changes_these_keys(params, section, expected):
    change = {"data": {"seed": 7}, "augmentation": {"rotation": 1.0}, "comparison": {"seed": 7}}
    changed_section = getattr(params, section).model_copy(update=change.get(section, {"drop_rate": 0.25}))
    changed = params.model_copy(update={section: changed_section})
    keys = {name: (steps.compute_key(step, params), steps.compute_key(step, changed)) for name, step in STEPS.items()}
    assert [name for name, (before, after) in keys.items() if before != after] == expected


def test_what_only_an_earlier_step_may_change_may_run(study, params, monkeypatch):
    """The data made again are the same as a rule: then nothing else runs."""
    monkeypatch.setattr(
        graph, "list_reasons", lambda study, step, *_: [Reason("code", "code changed")] if step.name == "data" else []
    )
    why = graph.tell_why(study, params).splitlines()
    assert why[:2] == ["data runs because code changed", "01_eda may run too, since data runs"]
    assert why[5] == (
        "05_comparison may run too, since data runs; 01_eda may run; 03_resnet50_finetune may run; and 1 more"
    )


def test_keys_are_written_once(study, params):
    graph.write_keys(study, params)
    times = {path: path.stat().st_mtime_ns for path in study.keys.iterdir()}
    assert sorted(path.stem for path in times) == sorted(STEPS)
    for name in STEPS:
        key = json.loads((study.keys / f"{name}.json").read_text())
        finish(study, name, key, hash_inputs(study, STEPS[name]))
    graph.write_keys(study, params)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    os.utime(study.keys / "01_eda.json", (0, 0))
    (study.report_dir / STEPS["01_eda"].product).unlink()
    graph.write_keys(study, params)
    assert (study.keys / "01_eda.json").stat().st_mtime_ns > 0, "a missing output makes the key new"


@pytest.mark.parametrize("mark", [None, "", "null", '{"code": null}'])
@pytest.mark.fault("kills", "`make -t`, or a mark that is damaged", "the step runs: make alone would not notice")
def test_a_mark_that_make_touched_is_no_success(study, params, mark):
    graph.write_keys(study, params)
    for name, step in STEPS.items():
        finish(study, name, json.loads((study.keys / f"{name}.json").read_text()), hash_inputs(study, step))
    path = study.report_dir / STEPS["01_eda"].mark
    if mark is None:  # of other parameters
        mark = path.read_text().replace('"params": {', '"params": {"data.seed": -1, ')
    path.write_text(mark)
    os.utime(study.keys / "01_eda.json", (0, 0))
    graph.write_keys(study, params)
    assert (study.keys / "01_eda.json").stat().st_mtime_ns >= path.stat().st_mtime_ns
    assert "01_eda runs because" in graph.tell_why(study, params)


ODD = (None, 1, "x", [], [1], {"a": None}, {"a": {"b": [1]}}, True)


@pytest.mark.fault("kills", "a mark or a record whose values have odd types", "as if there were none: the step runs")
def test_marks_and_records_of_odd_shapes_are_none(study, params):
    graph.write_keys(study, params)
    step = STEPS["01_eda"]
    mark = {**json.loads((study.keys / "01_eda.json").read_text()), "inputs": {}}
    record = {"status": "ok", "outputs": [{"path": "a"}], "wall_seconds": 1.0, "peak_memory_bytes": 1, "started": "x"}
    (study.runs / step.name).mkdir(parents=True)
    for path, content in ((study.report_dir / step.mark, mark), (study.runs / step.name / "run.json", record)):
        texts = [json.dumps({**content, key: odd}) for key in content for odd in ODD]
        for text in [*texts, "[" * 100_000, '{"a":' * 100_000, "null", "7"]:
            path.write_text(text)
            reasons = graph.list_reasons(study, step, mark, {})
            assert all(isinstance(reason.text, str) for reason in reasons)
            steps.load_ok_record(study, step)
        path.write_text(json.dumps(content))


@pytest.mark.fault("together", "`make why` during a run, in another terminal", "says since when it has been running")
def test_a_step_that_runs_now_was_not_killed(study, params):
    record = study.runs / "data" / "run.json"
    record.parent.mkdir(parents=True)
    record.write_text(dump_json(seal_record({"status": "running", "started": "2026-03-04T05:06:07Z"})))
    assert graph.tell_why(study, params).startswith("data runs because it was killed")
    with mark_running(study, "data"):
        lines = graph.tell_why(study, params).splitlines()
    assert re.fullmatch(r"data has been running since 2026-03-0\d \d\d:\d\d", lines[0])
    assert lines[1].endswith("data runs")


LOCAL = {"weights": {"name": "x", "state": "local", "size": 9}}


@pytest.mark.parametrize(
    ("before", "change", "reasons"),
    [
        ({}, {}, []),
        # What was trained with weights that are gone stays true, and training would only fail without them.
        (LOCAL, {"weights": {"name": "x", "state": "not local"}}, []),
        ({}, {"params": {"vgg19": {"optim": {"momentum": 0.95}}}},
         [Reason("params", "params vgg19.optim.momentum 0.9 -> 0.95")]),
        ({}, {"params": {"vgg19": {"optim": {}}}}, [Reason("params", "params vgg19.optim.momentum 0.9 -> (absent)")]),
        ({}, {"notebook": "b"}, [Reason("notebook", "the notebook changed")]),
        ({}, {"code": {"lesion_utils/cli.py": "a"}}, [Reason("code", "code: lesion_utils/cli.py")]),
        ({}, {"data": "x"}, [Reason("images", "the images' files changed")]),
        ({}, LOCAL, [Reason("weights", "the pretrained weights changed")]),
    ],
)  # fmt: skip
def test_every_change_has_its_sentence(study, before, change, reasons):
    finish(study, "04_vgg19_finetune", KEY | before, {"data/manifest.json": "a"})
    found = list_reasons(study, STEPS["04_vgg19_finetune"], KEY | before | change, {"data/manifest.json": "a"})
    assert found == reasons


def test_changed_inputs_and_missing_outputs_are_named(study):
    step = STEPS["05_comparison"]
    finish(study, step.name, KEY, {"predictions/vgg19.csv": "a", "metrics/01_eda.json": "b"})
    (study.report_dir / step.product).unlink()
    reasons = list_reasons(study, step, KEY, {"predictions/vgg19.csv": "c", "data/manifest.json": "d"})
    assert list(map(str, reasons)) == [
        "data/manifest.json is new",
        "metrics/01_eda.json is gone",
        "predictions/vgg19.csv changed",
        "notebooks/05_comparison.ipynb is missing",
    ]


@pytest.mark.parametrize(
    ("status", "reason"),
    [(None, "it has not run on this machine yet"), ("failed", "it failed"), ("running", "it was killed"),
     ("interrupted", "it was interrupted"), ("ok", "it has not run on this machine yet")],
)  # fmt: skip
def test_a_step_that_did_not_finish_says_how_it_ended(study, status, reason):
    if status:
        path = study.runs / "01_eda" / "run.json"
        path.parent.mkdir(parents=True)
        path.write_text(dump_json(seal_record({"status": status})))
    kind = "new" if "not run" in reason else "unfinished"
    assert list_reasons(study, STEPS["01_eda"], KEY, {}) == [Reason(kind, reason)]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(before=VALUES, after=VALUES)
def test_parameters_differ_exactly_when_a_sentence_says_so(before, after):
    old, new = ({**KEY, "params": {"data": value}} for value in (before, after))
    same = json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
    assert (list(steps.explain_key(old, new)) == []) == same


def test_the_plan_of_a_new_clone_has_the_times_of_the_published_report(tmp_path, monkeypatch):
    project = copy_fake_project(tmp_path, monkeypatch)
    study = Study("demo")
    assert "*" not in graph.tell_plan(study, load_study(study.params_dir))
    (project / "docs").mkdir()
    (project / "reports/demo").rename(project / "docs/demo")
    plan = graph.tell_plan(study, load_study(study.params_dir))
    assert re.search(r"^04_vgg19_finetune +runs +1 h 07 min\* +1\.4 GiB$", plan, re.MULTILINE), plan
    assert "* on Fixture CPU, where the published report was made" in plan and "unknown length" not in plan
    assert graph.describe_place(study, "04_vgg19_finetune") == "step 5 of 7, about 1 h 07 min"
    (project / "docs/demo/runs/04_vgg19_finetune/run.json").write_text("[]")
    assert graph.describe_place(study, "04_vgg19_finetune") == "step 5 of 7"
    assert "steps of unknown length" in graph.tell_plan(study, load_study(study.params_dir))
