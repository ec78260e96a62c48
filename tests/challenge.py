"""Small data sets in the challenge's layout, for tests."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from lesion_utils.provenance.outside import FOLDERS, LABEL_FILES

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
