"""Several runs at once, odd environments, and a project that moves: the right result, or one that says why not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

import nbformat
import pytest
from odd_machines import as_everyone, with_own_mounts
from small_project import clean_environment, copy_finished_project, make, run

REPORT = Path("reports/demo")
COMPARISON = "05_comparison"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A finished report; each test leaves one behind."""
    return copy_finished_project(tmp_path_factory)


def edit_seed(project: Path, value: int, *, study: str = "demo") -> None:
    """Give the comparison something to do."""
    path = project / "params" / study / "comparison.yaml"
    path.write_text(re.sub(r"^seed: \d+", f"seed: {value}", path.read_text(encoding="utf-8"), flags=re.MULTILINE))


def assert_made(project: Path, value: int, *, study: str = "demo") -> None:
    """The comparison was made with this seed, and the report verifies."""
    record = json.loads((project / "reports" / study / "runs" / COMPARISON / "run.json").read_text())
    assert record["seeds"]["comparison.seed"] == value
    verdict = run(project, "verify", study)
    assert verdict.returncode == 0, verdict.stdout


def ran(output: str) -> list[str]:
    return re.findall(r"^(\S+) +ok ", output, re.MULTILINE)


@pytest.mark.long
@pytest.mark.fault("together", "two `make -j8 all` of one study, and one of another", "each step runs once; all verify")
def test_runs_at_once_do_each_step_once(project):
    shutil.copytree(project / "params" / "demo", project / "params" / "other")
    edit_seed(project, 81)
    edit_seed(project, 82, study="other")
    command = ["make", f"VENV={sys.prefix}", "-j8", "all"]
    started = [
        subprocess.Popen(
            [*command, f"STUDY={study}"], cwd=project, env=clean_environment(), stdout=subprocess.PIPE, text=True
        )
        for study in ("demo", "demo", "other")
    ]
    outputs = [process.communicate(timeout=600)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], outputs
    both = ran(outputs[0]) + ran(outputs[1])
    assert len(both) == len(set(both)) and COMPARISON in both, outputs
    assert_made(project, 81)
    assert_made(project, 82, study="other")


@pytest.mark.slow
@pytest.mark.fault("together", "a clock that goes back a day", "an edit is seen; a second `make all` does nothing")
def test_a_clock_that_goes_back_hides_no_change(project):
    tomorrow = time.time() + 86_400
    for path in (project / REPORT / "keys").iterdir():
        os.utime(path, (tomorrow, tomorrow))
    edit_seed(project, 83)
    assert COMPARISON in ran(make(project, "all").stdout)
    assert_made(project, 83)
    again = make(project, "all")
    assert (again.returncode, again.stdout) == (0, ""), "what was seen once needs no second look"


@pytest.mark.slow
@pytest.mark.fault("together", "no HOME, git or TMPDIR, LANG=C, no terminal", "the same report")
def test_an_odd_environment_gives_the_same_report(project, tmp_path):
    """All at once: each alone is a smaller matter."""
    tools = ["make", "sh", "awk", "cat", "cksum", "find", "mktemp", "printf", "sed", "test", "touch"]
    tools += ["rm", "mkdir", "ln", "tr", "uname"]
    for name in tools:
        (tmp_path / name).symlink_to(shutil.which(name))
    odd = {"PATH": str(tmp_path), "HOME": "", "LANG": "C", "LC_ALL": "C", "TMPDIR": "/nowhere"}
    environment = {k: v for k, v in (clean_environment() | odd).items() if v}
    edit_seed(project, 84)
    process = subprocess.Popen(
        [shutil.which("make"), f"VENV={sys.prefix}", "all"],
        cwd=project, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    assert_made(project, 84)


@pytest.mark.long
@pytest.mark.fault("together", "a /tmp that may not be written", "named")
def test_a_temporary_folder_that_may_not_be_written_is_named(project):
    edit_seed(project, 85)
    script = 'mount --bind "$1" /mnt; mount -t tmpfs -o ro tmpfs /tmp; cd /mnt; make VENV="$2" 05_comparison'
    command = [*with_own_mounts(), "sh", "-ec", script, "sh", str(project), sys.prefix]
    done = subprocess.run(command, cwd="/", env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.search(r"Read-only file system: '/tmp/lesion-\w+'", done.stderr), done.stderr
    assert "  resume with: make all" in done.stderr and "Traceback" not in done.stderr
    assert make(project, "all").returncode == 0
    assert_made(project, 85)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another user")
@pytest.mark.fault("together", "another user, who may write nothing in it", "reads it; all else is refused by name")
def test_another_user_reads_and_is_refused_by_name(project, tmp_path):
    """git refuses them the clone, which `make doctor` says."""
    everyone, own = as_everyone(), [f"{name}={tmp_path}/{name}" for name in ("REPORTS_DIR", "LESION_CACHE")]
    for command in ("init -q", "add params", "-c user.name=a -c user.email=a@b commit -qm c"):
        subprocess.run(["git", *command.split()], cwd=project, check=True)
    subprocess.run(["chown", "-R", "65534:65534", project], check=True)
    assert make(project, "all", prefix=everyone).stdout == ""
    edit_seed(project, 88)
    refused = make(project, "all", prefix=everyone)
    assert refused.returncode == 2
    assert "Permission denied" in refused.stderr and "do next" in refused.stderr and "Trace" not in refused.stderr
    done = make(project, "02_augmentation_preview", *own, prefix=everyone)
    assert done.returncode == 0, done.stderr
    assert "git does not answer" in make(project, "doctor", prefix=everyone).stdout
    shutil.rmtree(project / ".git")
    subprocess.run(["chown", "-R", "0:0", project], check=True)
    assert make(project, "all").returncode == 0
    assert_made(project, 88)


@pytest.mark.slow
@pytest.mark.fault("together", "a checkout that is moved", "nothing runs again")
def test_a_moved_checkout_is_up_to_date(project, tmp_path):
    moved = project.rename(tmp_path / "elsewhere")
    try:
        done = make(moved, "all")
        assert (done.returncode, done.stdout) == (0, "")
        assert run(moved, "verify").returncode == 0
    finally:
        moved.rename(project)


@pytest.mark.slow
@pytest.mark.fault("together", "a checkout that is moved, with its environment in it", "what runs starts this Python")
def test_a_moved_environment_starts_its_own_python(project, tmp_path):
    """The kernel's file still names the Python of the former place."""
    venv.create(tmp_path / ".venv", with_pip=False)
    packages = Path("lib", f"python3.{sys.version_info[1]}", "site-packages")
    (tmp_path / ".venv" / packages / "moved.pth").write_text(f"{sys.prefix / packages}\n")
    kernel = tmp_path / ".venv" / "share" / "jupyter" / "kernels" / "lesion-utils" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    python = [f"{tmp_path}/former/.venv/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": python, "display_name": "lesion-utils", "language": "python"}))
    edit_seed(project, 87)
    command = [tmp_path / ".venv" / "bin" / "python", "-m", "lesion_utils", "run", COMPARISON]
    done = subprocess.run(command, cwd=project, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert make(project, "all").returncode == 0
    assert_made(project, 87)


@pytest.mark.long
@pytest.mark.fault("together", "JupyterLab saves a notebook while it runs", "outputs and checkpoints run nothing")
def test_what_jupyterlab_leaves_runs_nothing(project):
    edit_seed(project, 86)
    path = project / "notebooks" / f"{COMPARISON}.ipynb"
    committed = path.read_bytes()
    notebook = nbformat.read(path, 4)
    work = notebook.cells[-1]
    work.source += "\ntime.sleep(2)"
    nbformat.write(notebook, path)
    command = ["make", f"VENV={sys.prefix}", "all"]
    process = subprocess.Popen(command, cwd=project, env=clean_environment(), stdout=subprocess.PIPE, text=True)
    partial = project / REPORT / "notebooks" / f"{COMPARISON}.partial.ipynb"
    while not partial.is_file() and process.poll() is None:
        time.sleep(0.05)
    work.outputs = [nbformat.v4.new_output("stream", text="by hand\n")]
    work.execution_count = 7
    nbformat.write(notebook, path)
    for folder in (path.parent, project / REPORT / "notebooks", project / REPORT / "runs" / COMPARISON):
        (folder / ".ipynb_checkpoints").mkdir(exist_ok=True)
        (folder / ".ipynb_checkpoints" / f"{COMPARISON}-checkpoint.ipynb").write_bytes(committed)
    assert process.communicate(timeout=600) and process.returncode == 0
    assert make(project, "all").stdout == ""
    assert_made(project, 86)
