"""A disk that is full, folders that may not be written, and things in each other's place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from odd_machines import as_everyone, with_own_mounts
from real_project import copy_finished_real_project
from small_project import clean_environment, copy_finished_project, make

from lesion_utils import cli

REPORT = Path("reports/demo")
PREVIEW = "02_augmentation_preview"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A finished report; each test leaves one behind."""
    return copy_finished_project(tmp_path_factory)


#: What only reads and what writes.
VERBS = {"why": False, "verify": False, "keys": True, "run index": True}


@pytest.fixture
def reports(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("REPORTS_DIR", str(tmp_path / "reports"))
    monkeypatch.setattr(cli, "docs_root", lambda: tmp_path)
    return tmp_path / "reports"


def ask_everything(capsys, place: Path, *, writes: bool) -> None:
    """Every verb ends with a message, and whatever fails because of `place` names it."""
    for verb, changes in VERBS.items():
        status, told = cli.main(verb.split()), capsys.readouterr()
        if told.err or (changes and writes):
            named = str(place) in told.err.replace("$REPORTS_DIR", os.environ["REPORTS_DIR"])
            assert status == 1 and named and ("do next" in told.err or "resume with" in told.err), (verb, told)


@pytest.mark.slow
@pytest.mark.fault("disk", "a file where a folder should be", "named by every verb that meets it")
@pytest.mark.parametrize("place", ["", "demo", "demo/keys", "demo/runs"])
def test_a_file_in_a_folders_place_is_named(reports, capsys, place):
    (reports / place).parent.mkdir(parents=True, exist_ok=True)
    (reports / place).write_text("in the way")
    ask_everything(capsys, reports / place, writes=place in ("", "demo"))
    assert (reports / place).read_text() == "in the way"


@pytest.mark.slow
@pytest.mark.fault("disk", "a folder where a file should be", "named by every verb that meets it")
@pytest.mark.parametrize("place", ["keys/index.done.json", "runs/data/run.json", "index.html"])
def test_a_folder_in_a_files_place_is_named(reports, capsys, place):
    (reports / "demo" / place).mkdir(parents=True)
    ask_everything(capsys, reports / "demo" / place, writes=False)


# --- disks ------------------------------------------------------------------------------------------------------------

#: Leave so many KiB free, and begin; then make room, and go on.
FULL = """
mount -t tmpfs -o size=3m tmpfs "$1"
cp -a reports/demo "$1"
rm "$1/demo/$4"
head -c $(($(df -k --output=avail "$1" | tail -1) * 1024 - $2 * 1024)) /dev/zero > "$1/fill"
make VENV="$3" REPORTS_DIR="$1" all && echo "it had room enough" >&2
rm "$1/fill"
make VENV="$3" REPORTS_DIR="$1" all verify
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lost", "kib"),
    [
        (f"notebooks/{PREVIEW}.ipynb", 4),
        *[
            pytest.param(lost, kib, marks=pytest.mark.long)
            for lost in (f"notebooks/{PREVIEW}.ipynb", "data/manifest.json", "index.html")
            for kib in (0, 8, 12, 16, 24, 32)
        ],
    ],
)
@pytest.mark.fault("disk", "full, while a step runs", "the step fails and says so; with room made, it ends right")
def test_a_full_disk_is_named_and_nothing_is_lost(project, tmp_path, lost, kib):
    command = [*with_own_mounts(), "sh", "-ec", FULL, "sh", str(tmp_path), str(kib), sys.prefix, lost]
    done = subprocess.run(command, cwd=project, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No space left on device" in done.stderr or "it had room enough" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.fault("disk", "a report that may only be read", "named; what needs no writing works")
def test_a_report_that_may_only_be_read_is_named(project):
    reports = project / "reports"
    subprocess.run(["chmod", "-R", "a-w", reports], check=True)
    try:
        quiet = make(project, "all", prefix=as_everyone())
        assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
        (project / REPORT).chmod(0o755)  # who runs the tests need not be root
        (project / REPORT / "index.html").unlink()
        (project / REPORT).chmod(0o555)
        refused = make(project, "all", prefix=as_everyone())
        assert refused.returncode == 2, refused.stdout
        assert "Permission denied" in refused.stderr and "do next" in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr
    finally:
        subprocess.run(["chmod", "-R", "u+w", reports], check=True)
    assert make(project, "all", "verify").returncode == 0


@pytest.mark.slow
@pytest.mark.fault("disk", "a clone that may only be read", "runs, with REPORTS_DIR and LESION_CACHE elsewhere")
def test_a_clone_that_may_only_be_read_runs(project, tmp_path):
    elsewhere = (f"REPORTS_DIR={tmp_path}/r", f"LESION_CACHE={tmp_path}/c")
    subprocess.run(["chmod", "-R", "a-w", project], check=True)
    try:
        done = make(project, PREVIEW, *elsewhere, prefix=as_everyone())
        assert done.returncode == 0, done.stderr
    finally:
        subprocess.run(["chmod", "-R", "u+w", project], check=True)


@pytest.mark.long
@pytest.mark.fault("disk", "data that may only be read", "used as they are; what has to be decoded is refused by name")
def test_data_that_may_only_be_read_are_used(tmp_path_factory):
    real = copy_finished_real_project(tmp_path_factory)
    data, manifest = real / "data", real / REPORT / "data" / "manifest.json"
    expected = manifest.read_bytes()
    for lost, status, word in (("*.lock", 0, ""), ("*.u8", 2, "cannot write: Permission denied")):
        manifest.unlink()
        for path in (data / "cache" / "images").glob(lost):
            path.unlink()
        subprocess.run(["chmod", "-R", "a-w", data], check=True)
        done = make(real, "data", prefix=as_everyone())
        subprocess.run(["chmod", "-R", "u+w", data], check=True)
        assert done.returncode == status and word in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert "LESION_CACHE" in done.stderr
    assert make(real, "all", "verify").returncode == 0
    assert manifest.read_bytes() == expected
