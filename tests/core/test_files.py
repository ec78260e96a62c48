"""Files are whole or old, and unchanged ones keep their date."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import pytest

from lesion_utils.core.errors import DataError
from lesion_utils.core.files import dump_json, remove_halves, write_atomic, write_if_changed


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
