"""One image file: its facts, and its pixels as a square. Nothing is decoded at more than the resolution asked for.

What Pillow remarks about odd files (damaged EXIF, transparency) is no news: an image is usable or an `ImageError`.
"""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

#: A file on disk, or one inside the archive of embedded images.
File = str | Path | zipfile.Path
Aspect = Literal["squash", "crop", "pad"]
T = TypeVar("T")

#: A photograph from a dermatoscope has sides and a shape within these bounds, px; beyond them the file is wrong.
SHORTEST_SIDE, LONGEST_SIDE, LONGEST_SHAPE = 32, 20_000, 4.0
#: JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves this many times the side asked for: eight times faster on a
#: camera's files, and after the filter within 0.7 grey levels (root mean square) of decoding it all.
DRAFT_MARGIN = 1.5
#: What turns an image upright, by its EXIF orientation (CIPA DC-008, tag 274).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))

warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageError(ValueError):
    """A file is not a usable image; the message says why."""


def inspect_images(table: pd.DataFrame, *, workers: int) -> tuple[pd.DataFrame, list[str]]:
    """Read the facts of every image from its file's bytes and header, without decoding it.

    Args:
        table: with a column `path`.
        workers: files read at a time.

    Returns:
        `width`, `height` (px), `bytes`, `sha256`, `mode` (RGB, L, CMYK, ...) and `format` in the order of the table,
        for the images that are sound; and a sentence for each that is not.
    """
    results = list(run_parallel(_try(inspect_image), table["path"], workers=workers))
    problems = [result for result in results if isinstance(result, str)]
    facts = pd.DataFrame([r for r in results if not isinstance(r, str)], columns=FACTS)
    return facts, problems


FACTS = ["width", "height", "bytes", "sha256", "mode", "format"]


def inspect_image(path: File) -> tuple[int, int, int, str, str, str | None]:
    """The facts of one file, in the order of `FACTS`.

    Raises:
        ImageError: no image, one of an absurd size, or of values that 8 bits do not hold.
    """
    raw = _read(path)
    with _open(raw) as image:
        width, height = upright_size(image)
        facts = (width, height, len(raw), hashlib.sha256(raw).hexdigest(), image.mode, image.format)
    if image.mode.startswith(("I", "F")):
        raise ImageError(f"its grey values have more than 8 bits (mode {image.mode}), which would be cut off")
    short, long = sorted((width, height))
    if short < SHORTEST_SIDE or long > LONGEST_SIDE or long > LONGEST_SHAPE * short:
        raise ImageError(f"absurd size, {width} x {height} px")
    return facts


def decode_square(path: File, *, size: int, aspect: Aspect, sha256: str | None = None) -> np.ndarray:
    """Decode one image to a square.

    Args:
        path: the image file.
        size: side of the square, px.
        aspect: `squash` changes the shape, `crop` keeps the middle, `pad` keeps everything between black bars.
        sha256: what the file's bytes must hash to.

    Returns:
        (size, size, 3) uint8, sRGB, upright by the file's EXIF orientation. Grey and CMYK images are converted, and
        colours by the file's ICC profile.

    Raises:
        ImageError: no image, a truncated one, or other bytes than expected.
    """
    raw = _read(path)
    if sha256 is not None and hashlib.sha256(raw).hexdigest() != sha256:
        raise ImageError("the file changed while it was being read")
    with _open(raw) as image:
        width, height = upright_size(image)
        fitted = fit_square(width, height, size=size, aspect=aspect)
        across, down = fitted if image.size == (width, height) else fitted[::-1]
        image.draft("RGB", (int(across * DRAFT_MARGIN), int(down * DRAFT_MARGIN)))
        try:
            turn, profile = _UPRIGHT.get(_read_orientation(image)), image.info.get("icc_profile")
            image = _convert_to_rgb(image)
            image = image if turn is None else image.transpose(turn)
            box = _middle(*image.size) if aspect == "crop" else None
            image = image.resize(fitted if aspect == "pad" else (size, size), Image.Resampling.BICUBIC, box)
            image = _convert_to_srgb(image, profile)
        except (OSError, SyntaxError, ValueError) as error:
            raise ImageError(f"does not decode: {error}") from error
    square = np.zeros((size, size, 3), np.uint8)
    square[content_box(width, height, size=size, aspect=aspect)] = np.asarray(image)
    return square


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height, px, once the image is turned as its EXIF orientation says."""
    return image.size[::-1] if _read_orientation(image) >= 5 else image.size


def _read_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, where there is none or it is of a type or value that it may not have.

    Raises:
        ImageError: a PNG, whose EXIF may follow the pixels, does not decode.
    """
    try:
        if image.format == "PNG":
            image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"does not decode: {error}") from error
    try:
        value: Any = image.getexif().get(ExifTags.Base.Orientation, 1)
        value = value[0] if isinstance(value, (tuple, list, bytes)) else value
        return int(value) if int(value) in range(1, 9) else 1
    except Exception:  # damaged EXIF raises whatever its parser stumbles over
        return 1


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _convert_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An RGB image in sRGB; the same where there is no profile of RGB colours, or a damaged one."""
    if not profile:
        return image
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if own.profile.xcolor_space.strip() != "RGB" or "srgb" in (own.profile.profile_description or "").lower():
            return image
        return ImageCms.profileToProfile(image, own, _SRGB, outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image


def fit_square(width: int, height: int, *, size: int, aspect: Aspect) -> tuple[int, int]:
    """Width and height, px, that the whole image has when it is brought to a square of side `size`."""
    if aspect == "squash":
        return size, size
    scale = size / (min(width, height) if aspect == "crop" else max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def content_box(width: int, height: int, *, size: int, aspect: Aspect) -> tuple[slice, slice]:
    """Rows and columns of the square that show the image; the others, with `pad`, are black bars."""
    if aspect != "pad":
        return slice(0, size), slice(0, size)
    inner_width, inner_height = fit_square(width, height, size=size, aspect=aspect)
    left, top = (size - inner_width) // 2, (size - inner_height) // 2
    return slice(top, top + inner_height), slice(left, left + inner_width)


def run_parallel(function: Callable[..., T], items: Iterable[Any], *, workers: int) -> Iterator[T]:
    """Apply `function` to each item in threads, results in order: decoding and hashing release Python's lock."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        yield from pool.map(function, items)


def _try(function: Callable[[File], T]) -> Callable[[File], T | str]:
    def attempt(path: File) -> T | str:
        try:
            return function(path)
        except ImageError as error:
            file = Path(str(path))
            return f"{file.parent.name}/{file.name}: {error}"

    return attempt


def _read(path: File) -> bytes:
    try:
        return (Path(path) if isinstance(path, str) else path).read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from error


def _open(raw: bytes) -> Image.Image:
    is_heic = raw[4:8] == b"ftyp" and raw[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim", b"heis")
    if is_heic and not _can_read_heic():
        raise ImageError("a HEIC photograph; convert it to JPEG, or install pillow-heif: "
                         ".venv/bin/uv pip install pillow-heif")  # fmt: skip
    try:
        return Image.open(io.BytesIO(raw))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        message = "it is empty" if not raw else "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise ImageError(f"does not decode: {message}") from error


@cache
def _can_read_heic() -> bool:
    """Whether the optional package for iPhones' photographs is installed; Pillow reads them from then on."""
    if find_spec("pillow_heif") is None:
        return False
    import pillow_heif  # optional

    pillow_heif.register_heif_opener()
    return True


def _middle(width: int, height: int) -> tuple[float, float, float, float]:
    """The largest square in the middle: left, top, right, bottom."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
