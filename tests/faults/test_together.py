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
from contextlib import suppress
from pathlib import Path

import pytest
from odd_machines import as_everyone, with_own_mounts
from real_project import copy_finished_real_project, forget_everything
from small_project import clean_environment, copy_finished_project, make, read_results, run

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
    outputs = [process.communicate(timeout=3600)[0] for process in started]
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


def make_oddly(project: Path, tools: Path) -> None:
    """`make all` with everything odd at once: each alone is a smaller matter."""
    for name in ("awk", "cat", "cksum", "find", "ln", "make", "mkdir", "mktemp", "printf", "rm", "sed", "sh", "test",
                 "touch", "tr", "uname"):  # fmt: skip
        (tools / name).symlink_to(shutil.which(name))
    odd = {"PATH": str(tools), "HOME": "", "LANG": "C", "LC_ALL": "C", "TMPDIR": "/nowhere"}
    environment = {k: v for k, v in (clean_environment() | odd).items() if v}
    process = subprocess.Popen(
        [shutil.which("make"), f"VENV={sys.prefix}", "all"],
        cwd=project, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    out, err = process.communicate(timeout=3600)
    assert process.returncode == 0, out + err


@pytest.mark.slow
@pytest.mark.fault("together", "no HOME, git or TMPDIR, LANG=C, no terminal", "the same report")
def test_an_odd_environment_gives_the_same_report(project, tmp_path):
    edit_seed(project, 84)
    make_oddly(project, tmp_path)
    assert_made(project, 84)


@pytest.mark.long
@pytest.mark.fault("together", "no HOME, git or TMPDIR, LANG=C, no terminal", "the same report")
def test_an_odd_environment_gives_the_same_results(tmp_path_factory, tmp_path):
    """With the real notebooks and networks, whose packages ask more of an environment."""
    real = copy_finished_real_project(tmp_path_factory)
    expected = read_results(real)
    forget_everything(real)
    make_oddly(real, tmp_path)
    assert read_results(real) == expected
    assert run(real, "verify").returncode == 0


@pytest.mark.long
@pytest.mark.fault("together", "started in the background of a terminal", "runs, and Ctrl-C is not for it")
def test_a_job_in_the_background_runs(project, tmp_path):
    edit_seed(project, 89)
    script = 'make VENV="$1" all & echo started; wait $!; echo $? > "$2"'
    child, terminal = os.forkpty()
    if not child:
        os.chdir(project)
        os.execvpe("sh", ["sh", "-mc", script, "sh", sys.prefix, str(tmp_path / "status")], clean_environment())
    shown = b""
    with suppress(OSError):  # the terminal is gone with the last that held it
        while piece := os.read(terminal, 4096):
            shown += piece
            if b"started" in piece:
                os.write(terminal, b"input that nobody asked for\n")
    os.waitpid(child, 0)
    assert (tmp_path / "status").read_text() == "0\n", shown.decode()
    assert ran(shown.decode().replace("\r", "\n")), shown.decode()
    assert_made(project, 89)


@pytest.mark.long
@pytest.mark.fault("together", "a /tmp that may not be written", "named")
def test_a_temporary_folder_that_may_not_be_written_is_named(project):
    edit_seed(project, 85)
    disks = 'mount --bind "$1" /mnt; mount --rbind /tmp /tmp; mount -o remount,bind,ro /tmp'
    script = f'{disks}; cd /mnt; make VENV="$2" {COMPARISON}'
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
