"""`make box`: the archive of small copies, from a folder of the challenge's files; the same bytes every time.

Only the versions of Pillow and libwebp could change them, and both are in the archive.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pandas as pd
import PIL
from PIL import Image, ImageOps, features

from lesion_utils.core.files import dump_json, write_atomic
from lesion_utils.data.challenge import CHALLENGE_COUNTS, FOLDERS, LABEL_FILES, MANIFEST
from lesion_utils.data.images import fit_square, run_parallel
from lesion_utils.data.prepare import read_verified

LONG_SIDE, QUALITY = 256, 80
#: The earliest time that a zip archive can hold: the date of making is nobody's business.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def make_box(root: Path, target: Path) -> str:
    """Write the archive.

    Args:
        root: the challenge's files, unpacked: its own ones, or resized copies with a `manifest.csv` that holds the
            originals' sizes and hashes.

    Returns:
        SHA-256 of the archive.

    Raises:
        DataError: the files are not the challenge's.
    """
    table, _ = read_verified(root, counts=CHALLENGE_COUNTS)
    copies = list(run_parallel(shrink_image, table["path"], workers=2))
    members = {"about.json": dump_json(describe_box(table)).encode(), MANIFEST: _list_copies(table, copies).encode()}
    members |= {name: (root / name).read_bytes() for name in LABEL_FILES.values()}
    names = [f"{FOLDERS[row.split]}/{row.image_id}.webp" for row in table.itertuples()]
    members |= {name: raw for name, (raw, _) in zip(names, copies, strict=True)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, raw in members.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, raw)
    write_atomic(target, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def shrink_image(path: Path) -> tuple[bytes, tuple[int, int]]:
    """One photograph as WebP with `LONG_SIDE` px on the long side, and its width and height."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    size = fit_square(*upright.size, size=LONG_SIDE, aspect="pad")
    buffer = io.BytesIO()
    upright.resize(size, Image.Resampling.LANCZOS).save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue(), size


def describe_box(table: pd.DataFrame) -> dict[str, str]:
    """What the archive is, for people."""
    long_side = int(table[["width", "height"]].max(axis=None))
    copied = bool((table["width"] != table["native_width"]).any())
    copies = f"copies of the challenge's photographs, at most {long_side} px on the long side"
    return {
        "title": f"ISIC 2016 Part 3: {len(table):,} dermoscopic images, {LONG_SIDE} px on the long side",
        "made_from": copies if copied else "the challenge's own photographs",
        "resizing": "Pillow, Image.resize with Resampling.LANCZOS (antialiased) on 8-bit RGB, EXIF orientation applied",
        "encoding": f"WebP, lossy, quality {QUALITY}, method 6",
        "software": f"Pillow {PIL.__version__}, libwebp {features.version('webp')}",
        "manifest": "native_*: width and height (px), bytes and SHA-256 of the challenge's own JPEG files; "
        "width, height, sha256: of the copies in this archive",
        "labels": "the challenge's own files, byte for byte",
        "licence": "CC0 1.0, https://creativecommons.org/publicdomain/zero/1.0/",
        "citation": "Gutman D, Codella NCF, Celebi E, Helba B, Marchetti M, Mishra N, Halpern A. Skin lesion analysis "
        "toward melanoma detection: a challenge at the International Symposium on Biomedical Imaging (ISBI) 2016, "
        "hosted by the International Skin Imaging Collaboration (ISIC). arXiv:1605.01397, 2016.",
    }


def _list_copies(table: pd.DataFrame, copies: list[tuple[bytes, tuple[int, int]]]) -> str:
    """The archive's `manifest.csv`."""
    native = table[["image_id", "split", "native_width", "native_height", "native_bytes", "native_sha256"]]
    facts = [(*size, hashlib.sha256(raw).hexdigest()) for raw, size in copies]
    own = pd.DataFrame(facts, columns=["width", "height", "sha256"], index=native.index)
    return native.join(own).to_csv(index=False, lineterminator="\n")
