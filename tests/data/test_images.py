"""One image file: facts, decoding, and everything that can be wrong with it."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pandas as pd
import pytest
from challenge import draw_picture, encode_jpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lesion_utils.data.images import ImageError, content_box, decode_square, inspect_image, inspect_images


def peak_snr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio, dB."""
    return float(10 * np.log10(255**2 / (np.mean((a.astype(float) - b) ** 2) + 1e-9)))


def write(path, raw: bytes):
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_facts_are_those_of_the_file(tmp_path, mode):
    path = write(tmp_path / "a.jpg", encode_jpeg(draw_picture(1, width=120, height=80, mode=mode)))
    raw = path.read_bytes()
    assert inspect_image(path) == (120, 80, len(raw), hashlib.sha256(raw).hexdigest(), mode, "JPEG")


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "jpg"), ("CMYK", "jpg"), ("CMYK", "tif"), ("P", "png"), ("RGBA", "png"), ("LA", "webp"), ("RGB", "bmp")],
)
@pytest.mark.fault("data", "grey and CMYK images", "converted, and remarked")
def test_every_mode_becomes_the_same_colours(tmp_path, mode, suffix):
    picture = draw_picture(2, mode=mode)
    picture.save(tmp_path / f"a.{suffix}", quality=98)
    decoded = decode_square(tmp_path / f"a.{suffix}", size=64, aspect="squash")
    wanted = np.asarray(picture.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC))
    assert peak_snr(decoded, wanted) > 35


@pytest.mark.parametrize("aspect", ["squash", "crop", "pad"])
@pytest.mark.parametrize(("width", "height"), [(90, 60), (60, 90), (64, 64), (640, 480), (1000, 333)])
def test_each_aspect_shows_the_right_part(tmp_path, aspect, width, height):
    picture = draw_picture(3, width=width, height=height)
    decoded = decode_square(write(tmp_path / "a.jpg", encode_jpeg(picture, 98)), size=48, aspect=aspect)
    side = min(width, height)
    if aspect == "crop":
        left, top = (width - side) // 2, (height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    rows, columns = content_box(width, height, size=48, aspect=aspect)
    shown = decoded[rows, columns]
    wanted = np.asarray(picture.resize(shown.shape[1::-1], Image.Resampling.BICUBIC))
    assert decoded.shape == (48, 48, 3) and decoded.dtype == np.uint8
    assert peak_snr(shown, wanted) > 30
    outside = np.ones((48, 48), bool)
    outside[rows, columns] = False
    assert not decoded[outside].any(), "the bars are not black"
    if aspect == "pad":
        assert abs(shown.shape[1] / shown.shape[0] - width / height) < 0.1 * width / height


@given(width=st.integers(32, 5000), height=st.integers(32, 5000), size=st.integers(32, 1024))
def test_padding_is_centred_and_fills_one_direction(width, height, size):
    rows, columns = content_box(width, height, size=size, aspect="pad")
    assert max(rows.stop - rows.start, columns.stop - columns.start) == size
    for part in (rows, columns):
        assert 0 <= part.start < part.stop <= size and abs(part.start - (size - part.stop)) <= 1


@pytest.mark.slow
def test_a_draft_is_as_good_as_a_full_decoding(tmp_path):
    """A camera's file is decoded at a fraction of its size; the difference stays below the JPEG's own noise."""
    raw = encode_jpeg(draw_picture(4, width=3000, height=2000))
    with Image.open(io.BytesIO(raw)) as image:
        full = np.asarray(image.resize((256, 256), Image.Resampling.BICUBIC))
    assert peak_snr(decode_square(write(tmp_path / "a.jpg", raw), size=256, aspect="squash"), full) > 48


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("aspect", ["squash", "crop", "pad"])
@pytest.mark.fault("data", "EXIF orientation", "turned as it says")
def test_a_photograph_is_turned_as_its_exif_orientation_says(tmp_path, orientation, aspect):
    stored = draw_picture(2, width=200, height=120)
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's numbers of the transpositions that undo it
    upright = stored.transpose(Image.Transpose(turn[orientation])) if orientation > 1 else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    turned, plain = (decode_square(tmp_path / f"{name}.png", size=64, aspect=aspect) for name in ("turned", "upright"))
    np.testing.assert_array_equal(turned, plain)
    assert inspect_image(tmp_path / "turned.png")[:2] == upright.size


GOOD = encode_jpeg(draw_picture(5))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "it is empty"),
        (b"<html>not found</html>", "not an image"),
        (GOOD[:100], "does not decode"),
        (encode_jpeg(draw_picture(6, width=400, height=20)), "absurd size, 400 x 20 px"),
        (encode_jpeg(draw_picture(6, width=16, height=16)), "absurd size, 16 x 16 px"),
        (encode_jpeg(draw_picture(6, width=600, height=100)), "absurd size, 600 x 100 px"),
        (encode_jpeg(Image.new("L", (20_001, 5_001))), "absurd size, 20001 x 5001 px"),
    ],
)
@pytest.mark.fault("data", "empty files, pages for images, absurd sizes", "refused by name")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_photograph_is_refused(tmp_path, raw, words):
    with pytest.raises(ImageError, match=words):
        inspect_image(write(tmp_path / "a.jpg", raw))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.fault("data", "truncated images", "all are named")
def test_a_truncated_image_is_refused_with_and_without_draft(tmp_path, share):
    for width, height in ((96, 64), (1000, 750)):
        raw = encode_jpeg(draw_picture(7, width=width, height=height))
        with pytest.raises(ImageError, match=r"(?i)truncated"):
            decode_square(write(tmp_path / "a.jpg", raw[: int(share * len(raw))]), size=64, aspect="squash")


@pytest.mark.fault("data", "an image that changes while it is read", "refused")
def test_a_file_that_changed_meanwhile_is_refused(tmp_path):
    path = write(tmp_path / "a.jpg", GOOD)
    decode_square(path, size=32, aspect="squash", sha256=hashlib.sha256(GOOD).hexdigest())
    with pytest.raises(ImageError, match="changed while"):
        decode_square(path, size=32, aspect="squash", sha256="0" * 64)


def test_all_bad_images_are_named_at_once(tmp_path):
    paths = [write(tmp_path / f"{i}.jpg", raw) for i, raw in enumerate([GOOD, b"", GOOD, b"text"])]
    table = pd.DataFrame({"path": [*paths, tmp_path / "none.jpg", str(tmp_path / "gone.jpg")]})
    facts, problems = inspect_images(table, workers=2)
    assert len(facts) == 2
    names = [problem.split(":")[0].rpartition("/")[2] for problem in problems]
    assert names == ["1.jpg", "3.jpg", "none.jpg", "gone.jpg"]


@pytest.mark.real_data
def test_camera_files_lose_nothing_to_the_draft(real_data):
    files = sorted((real_data / "native").glob("*.jpg"))[:4]
    assert files
    for path in files:
        with Image.open(path) as image:
            full = np.asarray(image.convert("RGB").resize((256, 256), Image.Resampling.BICUBIC))
        assert peak_snr(decode_square(path, size=256, aspect="squash"), full) > 50
