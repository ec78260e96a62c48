"""The record of a run: complete, sealed, and free of anything about the machine's owner."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook
from small_project import STEPS
from tiny_study import make_params

from lesion_utils.config.schema import StudyParams
from lesion_utils.core import git
from lesion_utils.core.paths import project_root
from lesion_utils.core.seal import seal_record
from lesion_utils.provenance import record as provenance
from lesion_utils.provenance.steps import compute_key

STEP = STEPS["04_vgg19_finetune"]
FIELDS = (
    "schema_version run_id step study title status started ended wall_seconds peak_memory_bytes commit dirty_hash "
    "params code notebook data weights packages lock_hash device determinism seeds inputs outputs runs seal"
)


@pytest.fixture
def record(study, params) -> dict:
    key = compute_key(STEP, params)
    return provenance.describe_run(study, STEP, params, key=key, inputs={"data/manifest.json": "ab"})


def test_a_record_has_every_field_and_a_seal(study, record):
    output = study.predictions / "vgg19.csv"
    output.parent.mkdir(parents=True)
    output.write_text("1")
    provenance.finish_run(study, STEP, record, status="ok", started=datetime.now(UTC), outputs=[output])
    text = (study.runs / STEP.name / "run.json").read_text()
    written = json.loads(text)
    assert sorted(written) == sorted(FIELDS.split())
    assert written == seal_record(written)
    assert [o["path"] for o in written["outputs"]] == ["predictions/vgg19.csv"]
    assert datetime.fromisoformat(written["started"]).tzinfo == UTC
    for word in (str(Path.home()) + "/", os.uname().nodename, str(project_root()), str(study.report_dir)):
        assert word not in text, "nothing of this machine"


def test_a_training_steps_device_and_weights_are_those_of_its_runs(study, record):
    compute = {"device": "cuda", "processor": "H", "precision": "float32", "threads": 1, "level": "device"}
    gpu = {"capability": "9.0", "memory_gib": 139.7, "driver": "580.65.06", "cuda": "13.0", "cudnn": 91002}
    runs = [
        {"compute": {**compute, **gpu, "peak_memory_gib": 5.0}, "nondeterministic": [], "weights": None},
        {
            "compute": {**compute, **gpu, "peak_memory_gib": 3.0},
            "nondeterministic": ["adaptive_avg_pool2d"],
            "weights": {"name": "vgg19.tv_in1k"},
        },
    ]
    study.metrics.mkdir(parents=True)
    (study.metrics / f"{STEP.name}.json").write_text(json.dumps({"runs": runs}))
    finished = provenance.finish_run(study, STEP, record, status="ok", started=datetime.now(UTC))
    named = {"type": "cuda", "name": "H", "threads": 1, "precision": "float32"}
    assert finished["device"] == {**named, **gpu, "peak_memory_gib": 5.0}, "the largest of all runs"
    assert finished["determinism"] == {"level": "device", "warned_ops": ["adaptive_avg_pool2d"]}
    assert finished["weights"] == {"name": "vgg19.tv_in1k"}
    running = provenance.finish_run(study, STEP, record, status="running", started=datetime.now(UTC))
    assert running["determinism"]["level"] is None, "earlier numbers say nothing about a run that has not ended"


def test_a_runs_id_is_its_content(params):
    key = compute_key(STEP, params)
    run_id = provenance.name_run(STEP, key, {"a": "b"})
    assert run_id.startswith("04_vgg19_finetune-")
    assert provenance.name_run(STEP, {**key, "weights": {"mtime": 5}}, {"a": "b"}) == run_id, "times are not content"
    assert provenance.name_run(STEP, {**key, "notebook": "x"}, {"a": "b"}) != run_id
    assert provenance.name_run(STEP, key, {"a": "c"}) != run_id


def test_paths_become_relative_or_get_names(monkeypatch, tmp_path):
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "ISIC"))
    home, root = Path.home(), project_root()
    names = [f"{root}/lesion_utils/cli.py", f"{root}/notebooks/01.ipynb", f"{tmp_path}/ISIC/a.jpg", f"{home}/x"]
    scrubbed = provenance.scrub_paths(" ".join([*names, f"{root}-other/y", f"{sys.prefix}/lib"])).split()
    assert scrubbed[:4] == ["lesion_utils/cli.py", "./notebooks/01.ipynb", "$DATA_DIR/a.jpg", "~/x"]
    assert scrubbed[4].endswith("-other/y"), "only whole folders"
    assert scrubbed[5] == ("./.venv/lib" if Path(sys.prefix) == root / ".venv" else "<env>/lib")
    assert provenance.scrub_paths(f"{tempfile.gettempdir()}/ipykernel_12/345.py:1: x") == "<cell>:1: x"


def test_scrubbing_a_notebook_full_of_images_takes_no_time():
    """A pattern that could begin anywhere once took minutes here."""
    image = base64.b64encode(bytes(range(256)) * 20_000).decode()
    started = time.process_time()
    assert provenance.scrub_paths(f"{image} {project_root()}/params") == f"{image} ./params"
    assert time.process_time() - started < 5, "quadratic: hours, not a second"


def test_code_is_named_by_commit_and_by_what_differs_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "project_root", lambda: tmp_path)
    monkeypatch.setattr(git, "project_root", lambda: tmp_path)
    assert provenance.describe_code() == {"commit": None, "dirty_hash": None}
    command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "a.yaml").write_text("a: 1\n")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "m"]):
        subprocess.run([*command, *arguments], check=True)
    clean = provenance.describe_code()
    assert len(clean["commit"]) == 40
    assert clean["dirty_hash"] is None
    (tmp_path / "params" / "a.yaml").write_text("a: 2\n")
    edited = provenance.describe_code()
    (tmp_path / "params" / "b.yaml").write_text("b: 1\n")
    added = provenance.describe_code()
    assert edited["commit"] == clean["commit"]
    assert len({edited["dirty_hash"], added["dirty_hash"], None}) == 3
    (tmp_path / "notes.txt").write_text("not watched")
    assert provenance.describe_code() == added


def test_packages_are_those_that_run():
    packages = provenance.list_packages()
    code = "import pydantic, numpy; print(pydantic.VERSION, numpy.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [packages["pydantic"], packages["numpy"]] == done.stdout.split()
    assert "missing" not in packages.values()


def test_peak_memory_is_in_bytes():
    code = "from lesion_utils.provenance import record; b = bytearray(300_000_000); print(record.measure_peak_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 300_000_000 < int(done.stdout) < 3_000_000_000


def test_a_title_has_the_studys_own_networks_and_images(tmp_path, monkeypatch):
    """The committed ones are those of ResNet50, VGG19 and ISIC 2016."""
    titles = {"03_resnet50_finetune": "ResNet50 on ISIC 2016", "05_comparison": "ResNet50 against VGG19"}
    own = make_params().model_dump(mode="json")
    own["data"] |= {"source": "folder", "images": "images", "labels": "labels.csv"}
    own["resnet50"]["backbone"] = "vgg19.tv_in1k"
    own["vgg19"]["backbone"] = "resnet50.tv_in1k"
    swapped = StudyParams.model_validate(own)
    (tmp_path / "notebooks").mkdir()
    for name, title in titles.items():
        node = new_notebook(cells=[new_markdown_cell(f"# {title}\n\nThe question.")])
        nbformat.write(node, tmp_path / "notebooks" / f"{name}.ipynb")
    monkeypatch.setattr("lesion_utils.provenance.steps.project_root", lambda: tmp_path)
    read = {name: provenance.read_title(STEPS[name], swapped) for name in titles}
    assert read == {"03_resnet50_finetune": "VGG19 on own images", "05_comparison": "VGG19 against ResNet50"}
