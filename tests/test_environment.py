"""The environment: one lock for everyone, every dependency explained, torch and torchvision a pair, and the doctor."""

from __future__ import annotations

import json
import pkgutil
import re
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from challenge import draw_picture
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

import lesion_utils
from lesion_utils import __version__
from lesion_utils.config.load import load_study
from lesion_utils.core.paths import Study, project_root
from lesion_utils.pipeline import doctor
from lesion_utils.pipeline.doctor import Finding, explain_torch, list_differences
from lesion_utils.pipeline.notebook import NO_WIDGETS

ROOT = project_root()
LOCKS = {name: (ROOT / "requirements" / f"{name}.lock").read_text() for name in ("run", "run-cpu", "dev", "extras")}


def read_lock(name: str) -> list[Requirement]:
    lines = LOCKS[name].splitlines()
    return [Requirement(line.rstrip("\\ ")) for line in lines if line and not line.startswith(("#", " "))]


def read_dependencies() -> dict[str, list[str]]:
    """What the project asks for, by the lock that has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    own, groups = project["project"]["dependencies"], project["dependency-groups"]
    return {"run": own, "run-cpu": own, "dev": groups["dev"], "extras": groups["extras"]}


def test_conda_installs_the_same_lock():
    environment = YAML(typ="safe").load(ROOT / "environment.yml")
    *conda, pip = environment["dependencies"]
    assert [package.split("=")[0] for package in conda] == ["python", "pip"]
    assert pip == {"pip": ["-r requirements/run.lock"]}
    python = next(package for package in conda if package.startswith("python="))
    assert python.split("=")[1] in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]


def test_every_dependency_says_what_it_is_for():
    text = (ROOT / "pyproject.toml").read_text()
    names = [name for group in read_dependencies().values() for name in group]
    assert not [name for name in names if not re.search(rf'"{re.escape(name)}", +# \w.{{5,}}', text)]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_exact_and_holds_every_dependency(name):
    locked = {canonicalize_name(r.name): r for r in read_lock(name)}
    assert all(str(r.specifier).startswith("==") for r in read_lock(name))
    for dependency in map(Requirement, read_dependencies()[name]):
        pin = locked[canonicalize_name(dependency.name)]
        version = str(pin.specifier).removeprefix("==")
        assert dependency.specifier.contains(version, prereleases=True), f"make lock: {pin} is not {dependency}"


def test_the_locks_agree_and_differ_by_what_a_gpu_uses():
    """A processor's lock and the tools' have the versions of the large one, but for torch's own name of its build."""
    pins = {name: {f"{r.name}{r.specifier}".replace("+cpu", "") for r in read_lock(name)} for name in LOCKS}
    names = {name: {r.name for r in read_lock(name)} for name in LOCKS}
    assert {p for p in pins["run"] ^ pins["run-cpu"] if not p.startswith(doctor.FOR_GPUS)} == set()
    assert not any(n.startswith(doctor.FOR_GPUS) for name in names if name != "run" for n in names[name])
    for more, has in (("extras", "run"), ("dev", "run"), ("dev", "extras")):
        shared = names[has] & names[more]
        assert {p for p in pins[more] - pins[has] if Requirement(p).name in shared} == set(), "run: make lock"


def test_the_locks_have_what_installs_the_package_and_name_no_machine():
    assert "setuptools" in {r.name for r in read_lock("run")}
    assert "uv" in {r.name for r in read_lock("dev")}
    assert not any("://" in text for text in LOCKS.values()), "no index's address"


@pytest.mark.parametrize("name", LOCKS)
@pytest.mark.fault("security", "another file than the one that a lock names", "its hash does not fit")
def test_every_package_in_a_lock_has_its_hashes(name):
    """Each requirement ends in a continued line, and the next one holds a hash.

    torch's small builds have theirs once `make lock` has run where their index can be reached.
    """
    lines = LOCKS[name].splitlines()
    bare = [a for a, b in pairwise(lines) if a and a[0] not in "# " and not b.strip().startswith("--hash=sha256:")]
    assert {Requirement(line).name for line in bare} <= ({"torch", "torchvision"} if name == "run-cpu" else set())


def test_torch_and_torchvision_are_a_pair():
    """Released together: torchvision 0.N goes with torch 2.(N - 15)."""
    versions = {r.name: str(r.specifier).removeprefix("==").split(".") for r in read_lock("run")}
    assert int(versions["torchvision"][1]) - int(versions["torch"][1]) == 15


def test_the_environment_of_these_tests_is_the_lock():
    assert [difference for name in ("run", "dev", "extras") for difference in list_differences(LOCKS[name])] == []


def test_differences_from_a_lock_are_named():
    lock = "numpy==1.0\n    # via x\nno-such-package==2.0 ; python_version >= '3'\nother==1 ; python_version < '3'\n"
    lock += "nvidia-no-such-package==1\n"
    first, second = list_differences(lock)
    assert re.fullmatch(r"numpy [\d.]+ \(lock: 1\.0\)", first)
    assert second == "no-such-package missing (lock: 2.0)"


@pytest.mark.parametrize(
    ("stderr", "what", "do"),
    [
        ("RuntimeError: operator torchvision::nms does not exist", "are not a pair", "rm -rf .venv && make env"),
        ("ModuleNotFoundError: No module named 'torch'", "No module named 'torch'", "make env"),
        ("ImportError: libcudart.so.12: cannot open", "cannot be loaded", "rm -rf .venv && make env"),
    ],
)
def test_the_doctor_explains_a_broken_torch(stderr, what, do):
    finding = explain_torch(f"Traceback\n{stderr}\n")
    assert finding.state == "wrong"
    assert what in finding.what
    assert finding.do.startswith(do)


def test_the_doctor_says_what_to_do_wherever_something_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "DISK_NEEDED", 2**60)
    monkeypatch.setattr(doctor, "MEMORY_NEEDED", 2**60)
    params = load_study(Study("isic2016").params_dir)
    findings = [doctor.check_data(params, Study("isic2016")), *doctor.check_weights(params)]
    findings += [doctor.check_disk(), doctor.check_memory()]
    assert [f.topic for f in findings] == ["data", "weights", "weights", "disk", "memory"]
    assert all(f.state == "note" and f.do for f in findings), findings
    assert "make data STUDY=isic2016" in findings[0].do
    assert "WEIGHTS_DIR" in findings[1].do


def test_the_doctor_names_the_weights_that_the_parameters_name(monkeypatch, tmp_path):
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    finding = next(doctor.check_weights(load_study(Study("isic2016_640px").params_dir)))
    name = "resnet50.imagenet_pqf.safetensors"
    assert finding.what == f"resnet50: {name} is not on this machine"
    assert finding.do == f"put the file {name} into a folder, and set WEIGHTS_DIR to that folder"


def test_the_doctor_is_content_with_the_demo():
    params = load_study(Study("demo").params_dir)
    assert {f.state for f in (doctor.check_data(params, Study("demo")), *doctor.check_weights(params))} == {"ok"}


def test_the_doctor_says_how_it_reads_labels(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(4):
        draw_picture(number, width=64, height=48).save(tmp_path / "images" / f"im{number}.jpg")
    labels = tmp_path / "labels.csv"
    labels.write_text("image_id,lesion_id,dx,colour\nim0,L1,mel,x\nim1,L1,nv,x\nim2,L2,nv,x\nim3,,nv,x\n")
    study, params = Study("demo"), load_study(Study("demo").params_dir)

    def examine(**changes):
        own = {"source": "folder", "images": str(tmp_path / "images"), "labels": str(labels)}
        data = type(params.data).model_validate(params.data.model_dump() | own | changes)
        return next(doctor.check_labels(params.model_copy(update={"data": data}), study))

    unread = examine()
    assert unread.state == "wrong" and "malignant: [" in unread.what and "params/demo/data.yaml" in unread.do
    found = examine(malignant=["mel"])
    assert found.state == "ok"
    assert found.what.startswith("4 images: 3 benign, 1 malignant, 2 lesions; ") and "colour" in found.what
    labels.unlink()
    assert "there is no file" in examine().what
    assert not list(doctor.check_labels(params, study)), "the challenge's labels are known"


def test_a_finding_is_one_line_and_its_remedy_another():
    assert str(Finding("ok", "git", "there")) == "ok     git          there"
    assert str(Finding("note", "disk", "full", "free some")).splitlines()[1].strip() == "-> free some"


def test_the_kernel_belongs_to_this_environment():
    assert doctor.check_kernel().state == "ok", str(doctor.check_kernel())


def test_a_kernel_by_hand_asks_for_no_widgets_either():
    """The first output of a notebook in JupyterLab would be a red warning; only that one is left out."""
    assert f'--env PYTHONWARNINGS "{NO_WIDGETS}"' in (ROOT / "tools" / "environment.sh").read_text()


def test_a_link_to_the_environment_is_the_environment_and_another_python_is_not(tmp_path, monkeypatch):
    linked = tmp_path / ".venv"
    linked.symlink_to(sys.prefix, target_is_directory=True)
    monkeypatch.setattr(sys, "prefix", str(linked))
    monkeypatch.setattr(sys, "executable", str(linked / "bin" / "python"))
    assert doctor.check_kernel().state == "ok", str(doctor.check_kernel())
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    assert "another Python" in str(doctor.check_kernel())


def test_the_way_from_a_photograph_to_a_number_names_what_is_there():
    """The package's docstring, the front page of `make api`."""
    names = re.findall(r"`(lesion_utils\.[\w.]+)`", lesion_utils.__doc__)
    assert len(names) > 10
    for name in names:
        assert pkgutil.resolve_name(name), name


def test_the_containers_agree():
    """The editor's container is the image's: its user, and the folder for which the environment was built."""
    text = (ROOT / "containers" / "Dockerfile").read_text()
    image = dict(re.findall(r"^(USER|WORKDIR|CMD) (.*)$", text, re.MULTILINE))
    text = (ROOT / ".devcontainer" / "devcontainer.json").read_text()
    editor = json.loads(re.sub(r"^ *//.*$", "", text, flags=re.MULTILINE))
    assert (editor["remoteUser"], editor["workspaceFolder"]) == (image["USER"], image["WORKDIR"])
    assert f"target={image['WORKDIR']}," in editor["workspaceMount"]
    assert json.loads(image["CMD"]) == ["make", "all"]


def test_continuous_integration_runs_the_readmes_command():
    script = (ROOT / ".ci" / "run").read_text()
    assert script.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in script
    assert "\nmake test" in script
    assert "bash .ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "make test" in (ROOT / "README.md").read_text()


def test_the_licence_and_the_citation_agree_with_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    assert (citation["version"], citation["license"]) == (__version__, project["license"])
    assert (ROOT / "LICENSE").read_text().startswith(f"{project['license']} License")


def test_no_tracked_file_of_the_environment_names_a_machine():
    for name in ("Makefile", "environment.yml", ".ci/run", ".github/workflows/ci.yml", ".pre-commit-config.yaml"):
        assert not re.search(r"/(home|root|Users|work)/", Path(ROOT / name).read_text()), name
