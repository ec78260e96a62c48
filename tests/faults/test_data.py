"""Files of images, labels and archives as they arrive: whatever is in them, the outcome is a table or a reason."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from challenge import SMALL, write_challenge
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from lesion_utils.core.errors import DataError
from lesion_utils.data import challenge, download, labels
from lesion_utils.data.prepare import read_verified


@pytest.mark.fault("data", "any bytes in the file of labels", "read rightly, or refused by line")
@given(before=st.binary(max_size=40), after=st.binary(max_size=40))
@example(before=b'"' + b"x" * 200_000 + b'"', after=b"")
@example(before=b"", after=b'"' + b"x" * 200_000)
@example(before=b"\0", after=b"")
@example(before=b'"', after=b"")
def test_any_bytes_among_labels_are_read_or_refused(tmp_path_factory, before, after):
    path = tmp_path_factory.getbasetemp() / "labels.csv"
    path.write_bytes(before + b"\nISIC_0000000,benign\nISIC_0000001,malignant\n" + after)
    problems: list[str] = []
    found = labels.read_labels(path, problems=problems, notes=[], isic_ids=True)
    whole = {name: found[name].target for name in ("ISIC_0000000", "ISIC_0000001") if name in found}
    assert whole == {"ISIC_0000000": 0, "ISIC_0000001": 1} or problems
    assert all(problem.startswith("labels.csv:") for problem in problems)


def encode(image: Image.Image, kind: str = "png") -> bytes:
    packed = io.BytesIO()
    image.save(packed, kind)
    return packed.getvalue()


IMAGES = {
    "16 bits a channel": (encode(Image.fromarray(np.full((48, 64), 20_000, np.uint16))), "more than 8 bits"),
    "32 bits a channel": (encode(Image.fromarray(np.full((48, 64), 0.5, np.float32)), "tiff"), "more than 8 bits"),
    "a decompression bomb": (encode(Image.new("1", (19_000, 19_000))), "exceeds limit"),
}


@pytest.mark.parametrize(("raw", "words"), IMAGES.values(), ids=IMAGES)
@pytest.mark.fault("data", "16 and 32 bits a channel; decompression bombs", "refused by name, and not decoded")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_that_would_be_misread_is_refused(tmp_path, raw, words):
    root = write_challenge(tmp_path)
    (root / challenge.FOLDERS["train"] / "ISIC_0000001.jpg").write_bytes(raw)
    with pytest.raises(DataError, match=rf"ISIC_0000001\.jpg: .*{words}"):
        read_verified(root, counts=SMALL)


def write_many(path: Path, count: int) -> Path:
    """A zip archive of empty photographs, written by hand: `zipfile` would take minutes for a million."""
    names = [b"%07d.jpg" % i for i in range(count)]
    fields = (20, 0, 0, 0, 0, 0, 0, 0, 11, 0)
    local = b"".join(b"PK\3\4" + struct.pack("<HHHHHIIIHH", *fields) + name for name in names)
    entry = struct.Struct("<4sHHHHHHIIIHHHHHII")
    central = b"".join(
        entry.pack(b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 0, i * 41) + name
        for i, name in enumerate(names)
    )
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count % 65536, count % 65536, len(central), len(local), 0)
    path.write_bytes(local + central + end)
    return path


@pytest.mark.parametrize("count", [20, pytest.param(1_000_000, marks=pytest.mark.long)])
@pytest.mark.fault("data", "an archive of a million entries", "refused before one is written")
def test_an_archive_of_very_many_files_is_refused(tmp_path, monkeypatch, count):
    if count == 20:
        monkeypatch.setattr(download, "MAX_FILES", 10, raising=False)
    archive = write_many(tmp_path / "a.zip", count)
    with pytest.raises(DataError, match="files") as caught:
        download.unpack_images(archive, tmp_path / "out")
    assert str(archive) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
