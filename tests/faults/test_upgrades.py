"""A report made by an earlier version of the code or of a package: said, and never mixed with the present one's."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path

import pytest
from fake_report import copy_fake_project
from real_project import copy_finished_real_project, make_real_project
from small_project import ROOT, STEPS, make, read_results

from lesion_utils.config.load import load_study
from lesion_utils.core.git import run_git
from lesion_utils.core.paths import Study
from lesion_utils.pipeline import graph
from lesion_utils.provenance import steps, verify

#: Reading YAML takes most of the time of an answer.
load_once = cache(load_study)


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """A finished report, with the marks that its steps have left."""
    copy_fake_project(tmp_path, monkeypatch)
    study = Study("demo")
    params = load_once(study.params_dir)
    monkeypatch.setattr(verify, "load_study", load_once)
    graph.write_keys(study, params)
    for step in STEPS.values():
        graph.mark_done(study, step, steps.compute_key(step, params), steps.hash_inputs(study, step), started=1.0)
    return study


def tell(study: Study) -> str:
    return graph.tell_why(study, load_once(study.params_dir))


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
    found = verify.verify_study(study)
    assert {f.state for f in found if f.path.startswith(("figures/", "metrics/", "html/"))} == {"stale"}
    graph.write_keys(study, load_once(study.params_dir))
    keys = [study.keys / f"{name}.json" for name in STEPS]
    assert all(path.read_text() != before[path] for path in keys), "what make compares has changed"


@pytest.mark.fault("upgrades", "a mark of an earlier version", "what it does not say is no reason to run")
def test_marks_of_an_earlier_version_count_for_what_they_say(study):
    for path in study.keys.glob("*.json"):
        key = json.loads(path.read_text())
        key = {name: value for name, value in key.items() if name not in ("packages", "seal")}
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


@pytest.mark.long
@pytest.mark.fault("upgrades", "a report that the code of an earlier commit made", "`make all` ends as from nothing")
def test_a_report_of_the_commit_before_becomes_this_ones(tmp_path_factory, tmp_path):
    """The commit before the last that changed what steps depend on; then this one's files in its place."""
    rooms = ("data", "evaluation", "figures", "models", "notebooks", "training")
    commit = find_commit_before("notebooks", "params", *(f"lesion_utils/{room}" for room in rooms))
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(tmp_path / "before", filter="data")
    expected = read_results(copy_finished_real_project(tmp_path_factory))
    project = make_real_project(tmp_path / "project", "demo", source=tmp_path / "before")
    before = make(project, "all", "verify")
    assert before.returncode == 0, before.stdout + before.stderr
    for name in ("lesion_utils", "notebooks", "params"):
        shutil.rmtree(project / name)
    make_real_project(project, "demo")
    after = make(project, "all", "verify")
    assert after.returncode == 0, after.stdout + after.stderr
    assert read_results(project) == expected


def find_commit_before(*folders: str) -> str:
    """The commit before the last one that changed these folders; skips the test where no history says."""
    last = (run_git("log", "-1", "--format=%H", "--", *folders) or "").strip()
    before = run_git("rev-parse", "--verify", f"{last}^") if last else None
    if before is None:
        pytest.skip("needs a clone with its history")
    return before.strip()
