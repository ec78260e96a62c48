"""A copy of the project whose steps take a second: the real Makefile, graph and runner, with work that is written here.

The notebooks write small files where the real ones draw figures and train networks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lesion_utils.core import definitions
from lesion_utils.core.paths import Study
from lesion_utils.provenance.fingerprint import read_code
from lesion_utils.provenance.steps import list_steps

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("01_eda", "02_augmentation_preview", "03_resnet50_finetune", "04_vgg19_finetune", "05_comparison")

#: Those of a study as they come.
STEPS = list_steps(Study("demo"))

#: What a person may call a folder, and make, the shell, JSON and papermill have a meaning for.
AWKWARD_NAME = 'my $HOME\'s  "50 %" #1 {é}'

SHOW_FOLDERS = "print(*(os.environ.get(name) for name in ('DATA_DIR', 'WEIGHTS_DIR')), sep='|')"

PREPARE = '''
"""Counts instead of images."""
from lesion_utils.core.files import dump_json, write_if_changed

def prepare_study(study, params, *, on_event=None):
    on_event({"stage": "counting", "done": 1, "total": 1})
    facts = {"content": f"{params.data.seed:064x}", "summary": "no images", "source": params.data.source}
    write_if_changed(study.data / "manifest.json", dump_json(facts))
'''
REPORT = '''
"""The steps' names instead of a report."""
def build_site(study, params, *, on_event):
    names = sorted(path.parent.name for path in study.runs.glob("*/run.json"))
    (study.report_dir / "index.html").write_text(" ".join(names))
'''
PAGES = '''
"""The notebook's size instead of a page."""
def write_notebook_page(notebook, page, *, study):
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(study)
'''
SETUP = """import json, os, sys, time
from lesion_utils.core.paths import Study
folder = Study(params["study"]).report_dir
def save(name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)"""

EVENT = {"regime": "scratch", "seed": 1, "epoch": 2, "epochs": 3, "loss": 0.5, "images_per_s": 9, "seconds_left": 7}
EVENT |= {"val_ap": 0.4, "val_auc": 0.7}
#: A training notebook: a log, and predictions that follow the momentum.
TRAIN = f"""step = {{"resnet50": "{NAMES[2]}", "vgg19": "{NAMES[3]}"}}.get(network, f"network_{{network}}")
save(f"runs/{{step}}/train.jsonl", json.dumps({EVENT}) + "\\n")
save(f"predictions/{{network}}.csv", str(params[network]["optim"]["momentum"]))"""


def list_reached_modules(notebook: Path) -> set[str]:
    """Modules of the package, such as "figures.style", with a definition that a notebook reaches."""
    package = definitions._open_package(definitions._FOLDER, tuple(definitions._stat_files(definitions._FOLDER)))
    return {module for module, _ in package.reach(package.follow(read_code(notebook)), ())}


def make_project(folder: Path) -> Path:
    """Copy the project into `folder` with small steps; returns the folder."""
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in ("lesion_utils", "params"):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    copy_build(folder)
    for name, source in {"data/prepare": PREPARE, "report/index": REPORT, "report/notebook_pages": PAGES}.items():
        (folder / "lesion_utils" / f"{name}.py").write_text(source)
    (folder / "notebooks").mkdir()
    for name in NAMES:
        write_notebook(folder, name, f'save("figures/{name}_a.png", os.environ["LESION_RUN_ID"])')
    write_notebook(folder, "01_eda", 'save("metrics/01_eda.json", "{}")\nprint(os.getcwd(), "ran")')
    write_notebook(folder, "03_resnet50_finetune", TRAIN)
    write_notebook(folder, "04_vgg19_finetune", TRAIN)
    return folder


def copy_build(folder: Path) -> None:
    """Copy what `make` needs besides the package."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("requirements", "tools"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("Makefile", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)


def copy_finished_project(factory: pytest.TempPathFactory) -> Path:
    """A copy of a project after its first `make all`, with jobs in parallel.

    What that `make` printed stands in `output.txt`.
    """
    return copy_built(factory, "finished project", _finish_project)


def _finish_project(folder: Path) -> None:
    make_project(folder)
    reached = "from lesion_utils.core.console import FILE_INTERVAL\nassert FILE_INTERVAL"
    write_notebook(folder, "02_augmentation_preview", f"{reached}\n{SHOW_FOLDERS}")
    done = make(folder, "-j4", "all")
    assert done.returncode == 0, done.stderr
    (folder / "output.txt").write_text(done.stdout)


def copy_built(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], None]) -> Path:
    """A copy of a folder that the first who asks for it builds; all workers share that one."""
    shared = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    built = shared / name
    with FileLock(shared / f"{name}.lock"):
        if not built.is_dir():
            unfinished = built.with_suffix(".partial")
            shutil.rmtree(unfinished, ignore_errors=True)
            build(unfinished)
            unfinished.rename(built)
    return shutil.copytree(built, factory.mktemp(AWKWARD_NAME) / "copy", symlinks=True)


def read_results(project: Path) -> dict[str, bytes]:
    """Every file of the demo's that holds a result: none of them may differ by a byte between two runs."""
    report = project / "reports" / "demo"
    files = [path for kind in ("predictions", "metrics", "figures") for path in (report / kind).rglob("*.*")]
    return {path.relative_to(report).as_posix(): path.read_bytes() for path in files}


def write_notebook(folder: Path, name: str, code: str, *, heading: str = "Work") -> Path:
    """Write a notebook with the house's first cells and one code cell of its own."""
    network = STEPS[name].network
    parameters = 'params = "../params/demo"' + (f'\nnetwork = "{network}"' if network else "")
    cells = [
        new_markdown_cell(f"# The notebook {name}", id="title"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}, id="params"),
        new_code_cell(SETUP, id="setup"),
        new_markdown_cell(f"## {heading}", id="heading"),
        new_code_cell(code, id="work"),
    ]
    kernel = {"kernelspec": {"name": "lesion-utils", "display_name": "lesion-utils", "language": "python"}}
    path = folder / "notebooks" / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
    return path


def clean_environment() -> dict[str, str]:
    """The environment of a person who set nothing, with one thread."""
    dropped = {"DATA_DIR", "WEIGHTS_DIR", "LESION_CACHE", "REPORTS_DIR", "STUDY", "MAKEFLAGS", "MAKELEVEL", "DEVICE"}
    return {k: v for k, v in os.environ.items() if k not in dropped} | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def make(
    folder: Path, *arguments: str, cut_off: bool = False, prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Call `make` in a project with the environment that runs these tests.

    Args:
        folder: of the project.
        arguments: of make.
        cut_off: without any network, not even loopback, where the system lets a process have that.
        prefix: what the command begins with, as `odd_machines` gives it.
    """
    venv = Path(sys.prefix)
    alone = ["unshare", "--map-root-user", "--net"]
    can = cut_off and shutil.which("unshare") and subprocess.run([*alone, "true"], check=False).returncode == 0
    # The environment counts as built: its file is named after the lock, which the copy shares.
    command = [*prefix, *(alone if can else []), "make", f"VENV={venv}", *arguments]
    return subprocess.run(command, cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False)


def run(folder: Path, *arguments: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Call `python -m lesion_utils` in a project."""
    command = [*prefix, sys.executable, "-m", "lesion_utils", *arguments]
    return subprocess.run(command, cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False)
