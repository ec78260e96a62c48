"""The cache: right pixels whatever happens to it, or a clear error."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from challenge import SMALL, write_challenge

from lesion_utils.core.errors import DataError
from lesion_utils.data.cache import cache_key, open_cache
from lesion_utils.data.challenge import read_dataset
from lesion_utils.data.images import decode_square

SETTINGS = {"size": 40, "aspect": "squash", "workers": 2}


@pytest.fixture
def table(tmp_path):
    return read_dataset(write_challenge(tmp_path / "data"), counts=SMALL)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def decode_all(table, **settings):
    return np.stack([decode_square(path, **settings) for path in table["path"]])


def right(table, cache, size=40, aspect="squash"):
    np.testing.assert_array_equal(cache.images, decode_all(table, size=size, aspect=aspect))
    return True


def test_pixels_are_those_of_the_files_in_the_tables_order(table, folder):
    shuffled = table.sample(frac=1, random_state=0)
    cache = open_cache(shuffled, folder=folder, **SETTINGS)
    assert right(shuffled, cache) and cache.image_ids == tuple(shuffled["image_id"])
    assert cache.images.dtype == np.uint8 and not cache.images.flags.writeable
    assert sorted(p.suffix for p in folder.iterdir()) == [".json", ".lock", ".u8"]


def test_a_second_run_opens_what_the_first_decoded(table, folder, monkeypatch):
    first = open_cache(table, folder=folder, **SETTINGS)
    before = first.path.stat().st_mtime_ns
    monkeypatch.setattr("lesion_utils.data.cache.decode_square", None)
    assert right(table, open_cache(table, folder=folder, **SETTINGS))
    assert first.path.stat().st_mtime_ns == before


def test_the_number_of_workers_changes_nothing(table, tmp_path):
    one, four = (open_cache(table, folder=tmp_path / str(n), **(SETTINGS | {"workers": n})) for n in (1, 4))
    assert one.path.name == four.path.name and one.path.read_bytes() == four.path.read_bytes()


def test_other_settings_content_and_order_have_other_names(table):
    table = table.assign(sha256=[f"{i:064d}" for i in range(len(table))])
    keys = [
        cache_key(table, size=40, aspect="squash"),
        cache_key(table, size=41, aspect="squash"),
        cache_key(table, size=40, aspect="crop"),
        cache_key(table[::-1], size=40, aspect="squash"),
        cache_key(table.assign(sha256="f" * 64), size=40, aspect="squash"),
    ]
    assert len(set(keys)) == len(keys)


def test_a_changed_image_is_decoded_again(table, folder):
    open_cache(table, folder=folder, **SETTINGS)
    Path(table["path"][0]).write_bytes(Path(table["path"][1]).read_bytes())
    assert right(table, open_cache(table, folder=folder, **SETTINGS))


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
def test_damage_is_repaired_never_used(table, folder, damage):
    damage(open_cache(table, folder=folder, **SETTINGS).path)
    assert right(table, open_cache(table, folder=folder, **SETTINGS))


def test_damage_that_leaves_no_trace_is_found_on_request(table, folder):
    cache = open_cache(table, folder=folder, **SETTINGS)
    flip_byte(cache.path)  # and pretend that the file system did not notice
    seal = json.loads(cache.path.with_suffix(".json").read_text())
    stat = cache.path.stat()
    seal["stamp"] = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    cache.path.with_suffix(".json").write_text(json.dumps(seal))
    assert right(table, open_cache(table, folder=folder, verify=True, **SETTINGS))


def test_a_copied_cache_is_checked_once_and_kept(table, folder, tmp_path, monkeypatch):
    cache = open_cache(table, folder=folder, **SETTINGS)
    other = tmp_path / "other"
    other.mkdir()
    for suffix in (".u8", ".json"):
        (other / cache.path.with_suffix(suffix).name).write_bytes(cache.path.with_suffix(suffix).read_bytes())
    monkeypatch.setattr("lesion_utils.data.cache.decode_square", None)
    open_cache(table, folder=other, **SETTINGS)
    monkeypatch.setattr("lesion_utils.data.cache.zlib", None)  # the second time nothing is summed up
    assert right(table, open_cache(table, folder=other, **SETTINGS))


DIES_AFTER_THREE_IMAGES = """
import os, signal, sys
from pathlib import Path
from lesion_utils.data import cache, challenge as isic

decode, done = cache.decode_square, []
def decode_or_die(*args, **kwargs):
    done.append(1)
    if len(done) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(*args, **kwargs)
cache.decode_square = decode_or_die
table = isic.read_dataset(Path(sys.argv[1]), counts=None)
cache.open_cache(table, folder=Path(sys.argv[2]), size=40, aspect="squash", workers=1)
"""


@pytest.mark.fault("kills", "decoding the images", "decoded again, nothing half is used")
def test_a_killed_run_leaves_nothing_that_is_used(table, folder, tmp_path):
    child = subprocess.run([sys.executable, "-c", DIES_AFTER_THREE_IMAGES, tmp_path / "data", folder], check=False)
    assert child.returncode == -signal.SIGKILL
    assert [p.suffix for p in folder.iterdir() if p.suffix != ".lock"] == [".partial"]
    assert right(table, open_cache(table, folder=folder, **SETTINGS))
    assert not list(folder.glob("*.partial"))


SLOW_BUILD = """
import sys, time
from pathlib import Path
from lesion_utils.data import cache, challenge as isic

decode = cache.decode_square
def decode_slowly(*args, **kwargs):
    print("decoding", flush=True)
    time.sleep(0.05)
    return decode(*args, **kwargs)
cache.decode_square = decode_slowly
table = isic.read_dataset(Path(sys.argv[1]), counts=None)
cache.open_cache(table, folder=Path(sys.argv[2]), size=40, aspect="squash", workers=1)
"""


@pytest.mark.slow
@pytest.mark.fault("together", "two runs that decode the same images", "one decodes, both are right")
def test_of_two_runs_at_once_one_decodes_and_both_are_right(table, folder, tmp_path):
    run = [sys.executable, "-c", SLOW_BUILD, tmp_path / "data", folder]
    children = [subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [child.communicate(timeout=60)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert sorted(output.count("decoding") for output in outputs) == [0, len(table)]
    assert right(table, open_cache(table, folder=folder, **SETTINGS))


@pytest.mark.fault("data", "truncated images", "all are named")
def test_all_images_that_do_not_decode_are_named(table, folder):
    for row in (1, 6):
        path = Path(table["path"][row])
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"2 unusable image\(s\)") as caught:
        open_cache(table, folder=folder, **SETTINGS)
    assert "ISIC_0000001.jpg: does not decode: image file is truncated" in str(caught.value)
    assert "ISIC_0000006.jpg" in str(caught.value)
    assert [p.suffix for p in folder.iterdir()] == [".lock"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.fault("disk", "full, while images are decoded", "named; nothing half stays")
def test_a_full_disk_is_named_and_leaves_nothing(table, folder):
    table = table.assign(sha256=[hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in table["path"]])
    folder.mkdir()
    (folder / f"{cache_key(table, size=40, aspect='squash')}.partial").symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left on device") as caught:
        open_cache(table, folder=folder, **SETTINGS)
    assert "free some space" in str(caught.value)
    assert [p.suffix for p in folder.iterdir()] == [".lock"]


@pytest.mark.fault("disk", "a cache that may not be written", "named")
def test_a_place_that_cannot_be_written_is_named(table, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot write") as caught:
        open_cache(table, folder=tmp_path / "file" / "cache", **SETTINGS)
    assert "LESION_CACHE" in str(caught.value)
