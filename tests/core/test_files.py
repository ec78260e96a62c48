"""Files are whole or old, and unchanged ones keep their date."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lesion_utils.core import files
from lesion_utils.core.errors import DataError
from lesion_utils.core.files import dump_json, remove_halves, write_atomic, write_if_changed
from lesion_utils.models.checkpoint import save_checkpoint


def test_an_unchanged_file_keeps_its_date(tmp_path):
    path = tmp_path / "new" / "a.txt"
    assert write_if_changed(path, "é\n") and path.read_text("utf-8") == "é\n"
    os.utime(path, ns=(1, 1))
    assert not write_if_changed(path, "é\n") and path.stat().st_mtime_ns == 1
    assert write_if_changed(path, "ö\n") and path.read_text("utf-8") == "ö\n"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.fault("disk", "full, while any other file is written", "named; the old file stays")
def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    (tmp_path / f".a.txt.{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left on device"):
        write_atomic(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


#: What the system says of a write, and what a person is told to do.
REFUSALS = {
    errno.ENOSPC: ("No space left", "free some space"),
    errno.EDQUOT: ("quota", "ask for a larger quota"),
    errno.EFBIG: ("File too large", "ulimit -f unlimited"),
    errno.EROFS: ("Read-only", "make the disk writable"),
}


@pytest.mark.parametrize("number", REFUSALS)
@pytest.mark.fault("disk", "full, over quota, too large a file, read only", "the file, its size and what to do")
def test_a_refused_write_says_the_file_the_space_and_what_to_do(tmp_path, monkeypatch, number):
    path = tmp_path / "a.csv"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
    with pytest.raises(DataError) as raised:
        write_atomic(path, "x" * 1234)
    reason, do = REFUSALS[number]
    told = str(raised.value)
    assert told.startswith(f"{path}: cannot write: ") and reason in told and do in told and "REPORTS_DIR" in told
    assert ("at least 1,234 bytes (this disk has " in told) == (number != errno.EROFS)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.csv"]


LIMITED = """
import resource, sys
from pathlib import Path
from lesion_utils.figures import style
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
fig, _ = style.new_figure(width=style.SINGLE, height=40)
try:
    style.save(style.finish_figure(fig, note="n", alt="a"), Path(sys.argv[1], "a"), metadata={})
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.fault("disk", "a limit on the size of files, while a figure is written", "named; the old figure stays")
def test_a_figure_that_cannot_be_written_leaves_the_old_one(tmp_path):
    old = tmp_path / "a.png"
    old.write_bytes(b"the good figure")
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"DataError {old}: cannot write: File too large"), done
    assert "at least " in done.stdout and "ulimit -f" in done.stdout
    assert old.read_bytes() == b"the good figure" and [p.name for p in tmp_path.iterdir()] == ["a.png"]


#: Modules that write into a folder which takes its place as a whole, or files that are checked before use.
WRITE_THEMSELVES = {"core/files.py", "data/cache.py", "data/download.py", "report/publish.py"}


def test_every_file_is_written_by_the_atomic_writer():
    package = Path(files.__file__).parents[1]
    plain = re.compile(r"""\.write_(text|bytes)\(|\bopen\(["'][wx]|nbformat\.write\(|\.to_csv\([^)i]""")
    found = {p.relative_to(package).as_posix() for p in package.rglob("*.py") if plain.search(p.read_text("utf-8"))}
    assert found <= WRITE_THEMSELVES


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_file_has_the_permissions_that_the_umask_gives(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "a.txt", "x")
        save_checkpoint(tmp_path / "b.pt", {}, identity={})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o666 & ~mask}


@pytest.mark.fault("kills", "any write of a file", "the half file goes when a step runs again")
def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    half = tmp_path / "metrics" / f".a.csv.{gone.pid}"
    kept = [half.with_name(name) for name in (f".a.csv.{os.getpid()}", f"a.csv.{gone.pid}", ".cpu.lock", ".hidden")]
    half.parent.mkdir()
    for path in (half, *kept):
        path.touch()
    remove_halves(tmp_path)
    assert sorted(half.parent.iterdir()) == sorted(kept)


def test_json_has_one_spelling(tmp_path):
    assert dump_json({"b": 1, "a": [0.1, None, "é"]}) == dump_json({"a": [0.1, None, "é"], "b": 1})
    assert json.loads(dump_json({"x": 0.1}))["x"] == 0.1
    with pytest.raises(ValueError, match="Out of range"):
        dump_json({"x": math.nan})
