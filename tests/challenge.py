"""Small data sets in the challenge's layout, for tests."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from lesion_utils.core.files import digest_file
from lesion_utils.data.box import BOX
from lesion_utils.data.challenge import FOLDERS, LABEL_FILES, MANIFEST, raise_problems, scan_dataset

WORDS = {"train": ("benign", "malignant"), "test": ("0.0", "1.0")}
SMALL = {"train": (3, 2), "test": (2, 1)}


def draw_picture(seed: int, *, width: int = 96, height: int = 64, mode: str = "RGB") -> Image.Image:
    """A picture of soft blobs of all sizes, the large ones strongest, as in photographs; each seed has its own."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (3, 6, 12, 24):
        blobs = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        total += np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC), float) / cells
    low, high = total.min(), total.max()
    return Image.fromarray((30 + 160 * (total - low) / (high - low)).astype(np.uint8)).convert(mode)


def encode_jpeg(picture: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_challenge(root: Path, counts: dict[str, tuple[int, int]] = SMALL) -> Path:
    """Write a data set with so many benign and malignant images per split, as the challenge does: no header, CRLF."""
    number = 0
    for split, per_class in counts.items():
        folder = root / FOLDERS[split]
        folder.mkdir(parents=True)
        lines = []
        for target, count in enumerate(per_class):
            for _ in range(count):
                image_id = f"ISIC_{number:07d}"
                (folder / f"{image_id}.jpg").write_bytes(encode_jpeg(draw_picture(number)))
                lines.append(f"{image_id},{WORDS[split][target]}\r\n")
                number += 1
        (root / LABEL_FILES[split]).write_bytes("".join(lines).encode())
    return root


def read_dataset(root, counts=SMALL) -> pd.DataFrame:
    """The table of a folder without a problem."""
    problems: list[str] = []
    table = scan_dataset(root, counts=counts, problems=problems, notes=[])
    raise_problems(problems, root)
    return table


def read_hashed(root, counts=SMALL) -> pd.DataFrame:
    """The same with the `sha256` of every file."""
    table = read_dataset(root, counts)
    return table.assign(sha256=[digest_file(path) for path in table["path"]])


def write_small_box(target: Path, image_ids: set[str]) -> str:
    """Write an archive with some of the embedded images, as the whole one has them; returns its SHA-256."""
    tables = {MANIFEST, *LABEL_FILES.values()}
    with zipfile.ZipFile(BOX) as whole, zipfile.ZipFile(target, "w") as small:
        for name in whole.namelist():
            raw = whole.read(name)
            if name in tables:
                head, *lines = raw.splitlines(keepends=True)
                wanted = [line for line in lines if line[:12].decode() in image_ids]
                raw = b"".join([head] * (name == MANIFEST or head[:12].decode() in image_ids) + wanted)
            if name in tables or name.endswith(".json") or Path(name).stem in image_ids:
                small.writestr(zipfile.ZipInfo(name), raw)  # without the time, so that its bytes are the same again
    return digest_file(target)
