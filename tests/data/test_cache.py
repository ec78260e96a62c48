"""The cache: right pixels whatever happens to it, or a clear error."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from challenge import read_hashed, write_challenge

from lesion_utils.core.errors import DataError
from lesion_utils.data import cache
from lesion_utils.data.cache import cache_key, open_cache
from lesion_utils.data.images import decode_square


@pytest.fixture
def table(tmp_path):
    return read_hashed(write_challenge(tmp_path / "data"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where the caches of a test lie."""
    monkeypatch.setenv("LESION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


def assert_right(table, **options):
    """Open the images, which are those of the files in the table's order."""
    opened = open_cache(table, 40, "squash", **options)
    np.testing.assert_array_equal(opened, [decode_square(p, size=40, aspect="squash") for p in table["path"]])
    return opened


def test_pixels_are_those_of_the_files_in_the_tables_order(table, folder):
    shuffled = table.sample(frac=1, random_state=0)
    opened = assert_right(shuffled)
    assert opened.dtype == np.uint8 and not opened.flags.writeable
    assert sorted(p.suffix for p in folder.iterdir()) == [".json", ".lock", ".u8"]


def test_what_was_decoded_is_opened_again_and_a_copy_of_it_checked_once(table, folder, tmp_path, monkeypatch):
    path = Path(assert_right(table).filename)
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(cache, "_build", None)
    assert_right(table)
    assert path.stat().st_mtime_ns == before
    shutil.copytree(folder, tmp_path / "other" / "images", copy_function=shutil.copyfile)
    monkeypatch.setenv("LESION_CACHE", str(tmp_path / "other"))
    assert_right(table)
    monkeypatch.setattr(cache, "zlib", None)  # the second time nothing is summed up
    assert_right(table)


def test_the_number_of_workers_changes_nothing(table, monkeypatch):
    found = []
    for workers in (1, 4):
        monkeypatch.setattr(cache, "WORKERS", workers)
        path = Path(open_cache(table, 40, "squash").filename)
        found.append((path.name, path.read_bytes()))
        path.unlink()
    assert found[0] == found[1]


def test_other_settings_content_and_order_have_other_names(table):
    keys = [
        cache_key(table, size=40, aspect="squash"),
        cache_key(table, size=41, aspect="squash"),
        cache_key(table, size=40, aspect="crop"),
        cache_key(table[::-1], size=40, aspect="squash"),
        cache_key(table.assign(sha256="f" * 64), size=40, aspect="squash"),
    ]
    assert len(set(keys)) == len(keys)


def flip_byte(path):
    with path.open("r+b") as file:
        file.seek(1000)
        old = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([old ^ 255]))


def flip_byte_and_hide_it(path):
    """Put the old date back, as a copy with dates kept does."""
    stat = path.stat()
    flip_byte(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


DAMAGE = {
    "a flipped byte": flip_byte,
    "a flipped byte under the old date": flip_byte_and_hide_it,
    "cut short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "longer": lambda path: os.truncate(path, path.stat().st_size + 1),
    "all zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "deleted": lambda path: path.unlink(),
    "no seal": lambda path: path.with_suffix(".json").unlink(),
    "half a seal": lambda path: path.with_suffix(".json").write_text('{"stamp": ['),
    "an empty seal": lambda path: path.with_suffix(".json").write_text("{}"),
    "a seal of another kind": lambda path: path.with_suffix(".json").write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.fault("weights", "a damaged, cut or missing file of decoded images", "decoded again, never used")
def test_damage_is_repaired_never_used(table, damage):
    damage(Path(open_cache(table, 40, "squash").filename))
    assert_right(table)


def test_damage_that_leaves_no_trace_is_found_on_request(table):
    path = Path(open_cache(table, 40, "squash").filename)
    flip_byte(path)  # and pretend that the file system did not notice
    seal = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(seal | {"stamp": cache._stamp(path)}))
    assert_right(table, verify=True)


#: Opens the images of a data set; each is announced, and after `argv[2]` of them the process is killed.
CHILD = """
import os, signal, sys, time
from pathlib import Path
from lesion_utils.data import cache
from challenge import read_hashed
decode, left = cache.decode_square, int(sys.argv[2])
def watched(*args, **kwargs):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    print("decoding", flush=True)
    time.sleep(0.05)
    return decode(*args, **kwargs)
cache.decode_square, cache.WORKERS = watched, 1
cache.open_cache(read_hashed(Path(sys.argv[1])), 40, "squash")
"""


def start(tmp_path: Path, *, images: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, tmp_path / "data", str(images)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.fault("kills", "decoding the images", "decoded again, nothing half is used")
def test_a_killed_run_leaves_nothing_that_is_used(table, folder, tmp_path):
    child = start(tmp_path, images=3)
    assert child.communicate()[0].count("decoding") == 3 and child.returncode == -signal.SIGKILL
    assert [p.suffix for p in folder.iterdir() if p.suffix != ".lock"] == [".partial"]
    assert_right(table)
    assert not list(folder.glob("*.partial"))


@pytest.mark.slow
@pytest.mark.fault("together", "two runs that decode the same images", "one decodes, both are right")
def test_of_two_runs_at_once_one_decodes_and_both_are_right(table, tmp_path):
    children = [start(tmp_path, images=-1) for _ in range(2)]
    outputs = [child.communicate(timeout=60)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert sorted(output.count("decoding") for output in outputs) == [0, len(table)]
    assert_right(table)


@pytest.mark.fault("data", "truncated images", "all are named")
def test_all_images_that_do_not_decode_are_named(table, folder, tmp_path):
    for row in (1, 6):
        path = Path(table["path"][row])
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"2 unusable image\(s\)") as caught:
        open_cache(read_hashed(tmp_path / "data"), 40, "squash")
    assert "ISIC_0000001.jpg: does not decode: image file is truncated" in str(caught.value)
    assert "ISIC_0000006.jpg" in str(caught.value)
    assert [p.suffix for p in folder.iterdir()] == [".lock"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.fault("disk", "full, while images are decoded", "named; nothing half stays")
def test_a_full_disk_is_named_and_leaves_nothing(table, folder):
    folder.mkdir(parents=True)
    (folder / f"{cache_key(table, size=40, aspect='squash')}.partial").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"No space left on device(.|\n)*free some space"):
        open_cache(table, 40, "squash")
    assert [p.suffix for p in folder.iterdir()] == [".lock"]


@pytest.mark.fault("disk", "a cache that may not be written", "named")
def test_a_place_that_cannot_be_written_is_named(table, folder):
    folder.parent.write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write(.|\n)*LESION_CACHE"):
        open_cache(table, 40, "squash")
