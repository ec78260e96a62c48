"""The Makefile's promises, on a copy of the project with small notebooks and this environment."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from small_project import AWKWARD_NAME, NAMES, ROOT, STEPS, clean_environment, copy_build, copy_finished_project, make

from lesion_utils.core import paths
from lesion_utils.core.paths import Study
from lesion_utils.provenance.steps import list_steps, list_upstream


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project after its first `make all`; a test that edits a file puts it back."""
    return copy_finished_project(tmp_path_factory)


@pytest.fixture
def edit(project):
    """Replace text in a file of the project, until the test ends."""
    before: dict[Path, str] = {}

    def replace(name: str, old: str, new: str) -> None:
        path = project / name
        before.setdefault(path, path.read_text())
        assert old in path.read_text(), f"{name} has no {old!r}"
        path.write_text(path.read_text().replace(old, new, 1))

    yield replace
    for path, text in before.items():
        path.write_text(text)


def ran(output: str) -> list[str]:
    """Steps that a `make` reports to have run."""
    return re.findall(r"^(\S+) +ok +", output, re.MULTILINE)


@pytest.mark.slow
def test_the_first_run_prints_one_line_per_step(project):
    output = (project / "output.txt").read_text()
    assert sorted(ran(output)) == sorted(STEPS)
    assert len(output.splitlines()) == len(STEPS), output
    assert output.splitlines()[-1].endswith("reports/demo/index.html")
    assert not list(project.rglob("*.partial.ipynb"))


@pytest.mark.slow
def test_a_second_run_does_nothing_whatever_comments_and_docstrings_say(project, edit):
    edit("params/demo/vgg19.yaml", "momentum:", "# a comment\n  momentum:")
    edit("lesion_utils/core/console.py", '"""What the terminal', '"""All that the terminal')
    done = make(project, "all")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
@pytest.mark.fault("upgrades", "a report of earlier code", "the steps that it concerns run again, and say so")
def test_code_reruns_what_reaches_it(project, edit):
    make(project, "all")
    edit("lesion_utils/core/console.py", "FILE_INTERVAL = 1.0, 60.0", "FILE_INTERVAL = 1.0, 61.0")
    why = make(project, "why").stdout
    assert "02_augmentation_preview runs because code: FILE_INTERVAL" in why
    assert "01_eda is up to date" in why
    assert "03_resnet50_finetune is up to date" in why
    assert re.search(r"02_augmentation_preview +ok +\d+ s   because code: FILE_INTERVAL", make(project, "all").stdout)
    again = make(project, "why").stdout
    assert "02_augmentation_preview is up to date; it last ran because code: FILE_INTERVAL" in again, again


@pytest.mark.slow
def test_an_edit_that_is_taken_back_runs_nothing(project, edit):
    make(project, "all")
    edit("params/demo/resnet50.yaml", "momentum: 0.9", "momentum: 0.8")
    assert make(project, "reports/demo/keys/data.json").returncode == 0  # the keys follow the edit ...
    edit("params/demo/resnet50.yaml", "momentum: 0.8", "momentum: 0.9")  # ... which is taken back
    done = make(project, "all")
    assert ran(done.stdout) == []
    assert "03_resnet50_finetune     up to date" in done.stdout


@pytest.mark.slow
def test_a_deleted_figure_is_made_again(project):
    make(project, "all")
    figure = project / "reports/demo/figures/05_comparison_a.png"
    figure.unlink()
    assert ran(make(project, "all").stdout) == ["05_comparison", "index"]
    assert figure.is_file()


@pytest.mark.slow
@pytest.mark.fault("disk", "spaces, quotes, braces, %, $, # and é in every folder's name", "runs")
def test_folders_may_have_any_name(project, tmp_path):
    folders = {name: tmp_path / name / AWKWARD_NAME for name in ("REPORTS_DIR", "DATA_DIR", "WEIGHTS_DIR")}
    for name in ("DATA_DIR", "WEIGHTS_DIR"):  # which are read from; the reports' folder is made
        folders[name].mkdir(parents=True)
    arguments = ["02_augmentation_preview", *(f"{name}={folder}" for name, folder in folders.items())]
    first = make(project, *arguments)
    assert ran(first.stdout) == ["data", "02_augmentation_preview"], first.stderr
    report = folders["REPORTS_DIR"] / "demo"
    assert (report / "keys/02_augmentation_preview.done.json").is_file()
    shown = nbformat.read(report / "notebooks/02_augmentation_preview.ipynb", 4).cells[-1].outputs[0].text
    assert shown == "$DATA_DIR|$WEIGHTS_DIR\n", "the folders came through, and are not named in what may be published"
    assert make(project, *arguments).stdout == ""


@pytest.mark.slow
def test_a_wrong_parameter_stops_before_anything_runs(project, edit):
    edit("params/demo/vgg19.yaml", "momentum:", "momentun:")
    done = make(project, "all")
    assert done.returncode != 0
    assert done.stdout == ""
    assert re.search(r"params/demo/vgg19\.yaml:\d+: optim\.momentun: .*did you mean 'momentum'", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        *((["all", f"STUDY={study}"], f'STUDY="{study}" must be one folder under params/, named with letters')
          for study in ("my study", "my$study", "50%", "../demo", "", ".", "..", "...", ".hidden", "-x")),
        (["compare", "A=reports/x"], "make compare A=reports/x B=reports/y"),
        (["track"], "make track TO=mlflow"),
        (["why", "STDUY=mine"], "STDUY is no variable of this project (did you mean STUDY?)"),
        (["all", "device=cpu"], "device is no variable of this project (did you mean DEVICE?)"),
        (["why", "QWERTY=1"], "QWERTY is no variable of this project; there are: STUDY"),
        (["env", "VENV=a b"], 'VENV="a b" must be a folder named with letters'),
        (["al"], "make has nothing called 'al': did you mean 'all'?"),
        (["01_eta"], "did you mean '01_eda'?"),
        (["env", "TORCH=cuda"], 'TORCH="cuda" must be auto, cpu, gpu, or an older CUDA such as cu126'),
        (["env", "TORCH=cu1;x"], "must be auto, cpu, gpu"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(arguments, said):
    done = make(ROOT, *arguments)
    assert done.returncode == 2 and said in done.stderr


@pytest.mark.slow
def test_a_changed_value_and_a_changed_word_run_what_they_concern_only(project, edit):
    make(project, "all")
    edit("params/demo/vgg19.yaml", "momentum: 0.9", "momentum: 0.95")
    edit("notebooks/01_eda.ipynb", "## Work", "## Other words")
    why = make(project, "why").stdout.splitlines()
    assert "01_eda runs because the notebook changed" in why
    assert "04_vgg19_finetune runs because params vgg19.optim.momentum 0.9 -> 0.95" in why
    assert "05_comparison may run too, since 01_eda runs; 04_vgg19_finetune runs" in why
    assert [line.split()[0] for line in why if "is up to date" in line] == ["data", "03_resnet50_finetune"]
    plan = make(project, "plan").stdout
    assert re.search(r"^04_vgg19_finetune +runs +\d+ s +0\.\d GiB$", plan, re.MULTILINE), plan
    assert re.search(r"^05_comparison +may run +\d+ s", plan, re.MULTILINE), plan
    left = set(ran(make(project, "all").stdout)) ^ {*NAMES, "index"}
    assert left == {"03_resnet50_finetune"}, "05 runs where 01 or 04 left other files"
    assert (project / "reports/demo/predictions/vgg19.csv").read_text() == "0.95"
    assert "## Other words" in (project / "reports/demo/notebooks/01_eda.ipynb").read_text()
    assert make(project, "all").stdout == ""


def test_help_is_the_default_and_lists_every_target():
    page = make(ROOT).stdout
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE)
    listed = {line.split()[0] for line in page.splitlines() if line.startswith("  ")}
    missing = set(targets) - listed
    assert not missing, f"no help for {missing}"
    assert all(name in page for name in ("demo isic2016", *NAMES))


def test_make_and_the_graph_agree(tmp_path, monkeypatch):
    """The Makefile's edges are those of `list_steps`, up to what follows from others, a further network's too."""
    copy_build(tmp_path)
    shutil.copytree(ROOT / "params", tmp_path / "params")
    shutil.copy(tmp_path / "params" / "demo" / "vgg19.yaml", tmp_path / "params" / "demo" / "third.yaml")
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    study = Study("demo")
    steps = list_steps(study)
    assert set(steps) == {*STEPS, "network_third"}
    command = ["make", "-pnq", "VENV=/nowhere", "all"]
    asked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=clean_environment())
    step_of = {f"reports/demo/{step.mark}": name for name, step in steps.items()}
    for name, step in steps.items():
        line = re.search(rf"^reports/demo/{re.escape(step.mark)}: (.*)$", asked.stdout, re.MULTILINE)
        direct = {step_of[path] for path in line[1].split() if path in step_of}
        implied = direct | {above for below in direct for above in list_upstream(study, steps[below])}
        assert implied == set(list_upstream(study, step)), name
        assert f"reports/demo/keys/{name}.json" in line[1].split()


def test_the_makefile_is_for_old_makes_too():
    makefile = "".join((ROOT / name).read_text() for name in ("Makefile", "tools/check.mk"))
    assert "&:" not in makefile, "macOS ships make 3.81, which has no grouped targets"
    assert not re.search(r"\.ONESHELL|\$\(file |!=|::=", makefile), "newer than make 3.81"


@pytest.mark.parametrize(
    ("script", "named"),
    [
        ("#!/bin/sh\nexit 1\n", "Python 3.11 or newer is needed: sudo apt-get install"),
        ('#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\n', "sudo apt-get install python3-venv"),
    ],
)
@pytest.mark.fault("together", "no Python, or no venv", "named")
def test_what_a_fresh_machine_lacks_is_named(tmp_path, script, named):
    python = tmp_path / "python3"
    python.write_text(script)
    python.chmod(0o755)
    command = ["make", "env", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=clean_environment())
    assert done.returncode != 0
    assert named in done.stderr
    assert not (tmp_path / "venv").exists()


UV = """#!/bin/sh
echo "$*" >> {folder}/calls
case "$*" in *--dry-run*) test -e {folder}/index || {{ echo error; echo "  cause: no route" ; exit 2; }} >&2;; esac
"""


@pytest.mark.parametrize(
    ("torch", "has_driver", "has_index", "installed"),
    [
        ("auto", True, True, "-r requirements/run.lock"),
        ("auto after gpu", False, True, "-r requirements/run.lock"),  # a login node, after an update of the lock
        ("cpu after gpu", False, True, "--torch-backend cpu -r requirements/run-cpu.lock"),
        ("auto", False, True, "--torch-backend cpu -r requirements/run-cpu.lock"),
        ("auto", False, False, "-r {folder}/run.lock"),
        ("cpu", True, True, "--torch-backend cpu -r requirements/run-cpu.lock"),
        ("cpu", False, False, None),
        ("gpu", False, True, "-r requirements/run.lock"),
        ("cu126", True, True, "-r {folder}/run.lock"),
        ("auto after cu126", True, True, "-r {folder}/run.lock"),
        ("cu126", True, False, None),
    ],
)
def test_the_build_of_torch_follows_the_machine(tmp_path, torch, has_driver, has_index, installed):
    """With a `uv` that writes down what it is asked for, and a machine that has the tools named here only."""
    names = ("awk", "cat", "cksum", "cut", "dirname", "rm", "sed", "sh", "touch", "tr")
    tools = {name: shutil.which(name) for name in names}
    scripts = {"uname": "echo Linux", **({"nvidia-smi": ""} if has_driver else {})}
    scripts |= {"bin/python": "", "bin/uv": UV.format(folder=tmp_path).removeprefix("#!/bin/sh\n")}
    (tmp_path / "bin").mkdir()
    for name, target in tools.items():
        (tmp_path / name).symlink_to(target)
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    if has_index:
        (tmp_path / "index").touch()
    torch, _, before = torch.partition(" after ")
    if before:
        (tmp_path / f".installed-{before}-1234").touch()
    command = [shutil.which("make"), "env", f"VENV={tmp_path}", f"TORCH={torch}", f"PYTHON={tmp_path}/bin/python"]
    environment = clean_environment() | {"PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    if installed is None:
        assert done.returncode != 0
        assert "cause: no route" in done.stderr, "what is named and cannot be had says why"
        return
    assert done.returncode == 0, done.stderr
    lock = next(line for line in (tmp_path / "calls").read_text().splitlines() if "--compile-bytecode" in line)
    assert lock.endswith(installed.format(folder=tmp_path)), lock
    older = "cu126" in (torch, before)
    build = "cu126" if older else "gpu" if installed == "-r requirements/run.lock" else "cpu"
    (stamp,) = tmp_path.glob(".installed-*")
    assert stamp.name.startswith(f".installed-{build}-")
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert "building" not in again.stdout, "the build that is there stays"
    if older:
        last = [call for call in (tmp_path / "calls").read_text().splitlines() if "--torch-backend" in call][-1]
        pins = re.findall(r"^(?:torch|torchvision)==[\d.]+", (ROOT / "requirements/run.lock").read_text(), re.MULTILINE)
        assert "--no-deps" not in last and last.endswith("--torch-backend cu126 -q " + " ".join(pins))
        assert not re.search(r"^(torch|nvidia|cuda|triton)", (tmp_path / "run.lock").read_text(), re.MULTILINE)
    elif installed.startswith("-r {folder}"):
        assert "torch's small build cannot be had here (cause: no route): the large one, without triton" in done.stdout
        whole, rest = ((path / "run.lock").read_text() for path in (ROOT / "requirements", tmp_path))
        block = re.search(r"^triton==.*\n(?:[ #].*\n)+", whole, re.MULTILINE)[0]
        assert rest == whole.replace(block, "")


@pytest.mark.parametrize(
    ("arguments", "lock"),
    [
        (["export"], ""),
        (["export", "ONNX=1"], "extras"),
        (["predict", "MODEL=resnet50"], ""),
        (["predict", "MODEL=a folder/model.onnx"], "extras"),
        (["all", "JOBS=2"], ""),
        (["all", "CLUSTER=slurm"], "extras"),
        (["select", "CLUSTER=tcp://10.0.0.1:8786"], "extras"),
        (["track", "TO=a folder"], "extras"),
    ],
)
def test_what_few_need_is_installed_for_those_who_ask(tmp_path, arguments, lock):
    shown = make(ROOT, "-n", *arguments, f"VENV={tmp_path}").stdout
    assert ("tools/environment.sh extras" in shown) == bool(lock)


@pytest.mark.slow
def test_a_further_network_runs_through_the_notebook_of_the_first(project):
    third = shutil.copy(project / "params" / "demo" / "vgg19.yaml", project / "params" / "demo" / "third.yaml")
    done = make(project, "network_third")
    assert ran(done.stdout)[-1] == "network_third", done.stdout + done.stderr
    assert (project / "reports" / "demo" / "predictions" / "third.csv").read_text() == "0.9"
    record = json.loads((project / "reports" / "demo" / "runs" / "network_third" / "run.json").read_text())
    assert record["title"] == "The notebook 03_resnet50_finetune"
    assert make(project, "network_third").stdout == ""
    assert "network_third is up to date" in make(project, "why").stdout
    Path(third).unlink()
    assert "network_third" not in make(project, "why").stdout
