"""A report made by an earlier version of the code or of a package: said, and never mixed with the present one's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_report import copy_fake_project
from small_project import STEPS

from lesion_utils.config.load import load_study
from lesion_utils.core.paths import Study
from lesion_utils.pipeline import graph
from lesion_utils.provenance import steps, verify


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """A finished report, with the marks that its steps have left."""
    copy_fake_project(tmp_path, monkeypatch)
    study = Study("demo")
    params = load_study(study.params_dir)
    graph.write_keys(study, params)
    for step in STEPS.values():
        graph.mark_done(study, step, steps.compute_key(step, params), steps.hash_inputs(study, step), started=1.0)
    return study


def tell(study: Study) -> str:
    return graph.tell_why(study, load_study(study.params_dir))


@pytest.mark.fault("upgrades", "another timm, torch or numpy than a report's", "said; every step runs again")
@pytest.mark.parametrize("package", ["timm", "torch", "numpy"])
def test_another_release_of_a_package_is_said_and_runs_the_steps_again(study, monkeypatch, package):
    assert "runs because" not in tell(study)
    before = {path: path.read_text() for path in study.keys.glob("*.json")}
    present = steps.read_versions()
    monkeypatch.setattr(steps, "read_versions", lambda: {**present, package: "99.0"})
    said = f"{package} {present[package]} -> 99.0"
    why = tell(study).splitlines()
    assert all(said in line for line in why) and len(why) == len(STEPS)
    assert {finding.state for finding in verify.verify_study(study)} == {"stale"}
    graph.write_keys(study, load_study(study.params_dir))
    keys = [study.keys / f"{name}.json" for name in STEPS]
    assert all(path.read_text() != before[path] for path in keys), "what make compares has changed"


@pytest.mark.fault("upgrades", "a mark of an earlier version", "what it does not say is no reason to run")
def test_marks_of_an_earlier_version_count_for_what_they_say(study):
    for path in study.keys.glob("*.json"):
        key = json.loads(path.read_text())
        del key["packages"]
        path.write_text(json.dumps(key))
    assert "runs because" not in tell(study)


@pytest.mark.fault("upgrades", "marks, keys or records of another layout, cut short or no text", "the step runs again")
@pytest.mark.parametrize("name", ["keys/01_eda.done.json", "keys/01_eda.json", "runs/01_eda/run.json"])
def test_a_file_of_another_layout_is_no_mark(study, name):
    path: Path = study.report_dir / name
    for content in (b"", b"{}", b"[]", b"null", b"\xff\xfe\x00", b'{"params": 3}', b'{"params": '):
        path.write_bytes(content)
        why = tell(study)
        assert ("01_eda runs because" in why) == (name == "keys/01_eda.done.json"), (content, why)
        verdict = {finding.path: finding.state for finding in verify.verify_study(study)}
        assert (verdict["runs/01_eda/run.json"] == "unchanged") == (not name.startswith("runs")), (content, verdict)
