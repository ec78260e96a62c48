"""Images that show the same photograph: the same bytes, the same pixels, or the same picture in another form.

A picture is described by the low frequencies of its logarithm's cosine transform, each in units of its spread over all
pictures, so that brightness and compression hardly matter (a whitened variant of the perceptual hash: Zauner 2010). A
copy may be turned, mirrored, squashed to a square, cropped to its middle, and cut by a few percent at any side: each
picture is compared in these forms with every other one, and the best pairs are aligned more finely. How much alike two
pictures are counts in relation to the pictures that are most like each of them, since a pale lesion resembles many
(cohort normalisation, as for speakers' voices: Auckenthaler, Carey and Lloyd-Thomas 2000).

`benchmarks/overlap.py` prints how many copies of each kind are found, and how many different photographs are mistaken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import product

import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lesion_utils.data.images import Aspect, ImageError, decode_square, run_parallel

COLUMNS = [
    "image_id_a", "split_a", "target_a", "image_id_b", "split_b", "target_b", "kind", "pose", "similarity",
]  # fmt: skip
#: Exact copies first.
KINDS = ("same bytes", "same pixels", "near")
#: The eight poses of a square: quarter turns counter-clockwise, after a left-right mirroring or not.
POSES = tuple(
    ("mirrored, " if mirrored else "") + (f"turned {90 * turns}°" if turns else "upright")
    for mirrored in (False, True)
    for turns in range(4)
)

#: Side of the grey thumbnails, px, and frequencies per side that describe them: to find pairs, and to judge them.
THUMBNAIL, COARSE, FINE = 64, 12, 20
#: Similarity from which two images of a study are one photograph, since they are then kept together or left out; and
#: from which an external image may be one that the study has seen. Different photographs of ISIC 2016 reach 0.88.
CERTAIN, POSSIBLE = 0.9, 0.75
#: A share of a side that is cut off, which finds cuts from 0 to twice as much.
_CUT = 0.035
#: Pictures that are most like a picture, after those that may be copies of it.
_COHORT = slice(3, 33)
#: Pictures whose pairs are looked at together, and pairs of each that may be aligned.
_BLOCK, _ALIGNED = 2048, 5
#: By how much aligning may raise a similarity.
_GAIN = 0.25
#: Every pair is looked at, so that the time grows with the square of the number of pictures: for more than so many,
#: minutes would become an hour, and copies that were cut are not searched for.
_FEW = 20_000


def find_duplicates(
    table: pd.DataFrame,
    images: np.ndarray,
    *,
    boxes: list[tuple[slice, slice]],
    aspect: Aspect,
    workers: int,
    threshold: float = CERTAIN,
) -> pd.DataFrame:
    """Find all pairs of images that show the same photograph.

    Args:
        table: columns `image_id`, `split`, `target`, `native_sha256` (of the original file), `width` and `height` (px)
            and `path`; N rows.
        images: (N, S, S, 3) uint8, the decoded images in the table's order.
        boxes: for each image the rows and columns that show it, see `images.content_box`.
        aspect: how the photographs became squares; cropped ones are read again, whole.
        workers: images worked on at a time.
        threshold: of the similarity, `CERTAIN` or `POSSIBLE`.

    Returns:
        one row per pair, in the table's order: both ids, splits and targets; `kind` (see `KINDS`); `pose` of
        the second image in which it looks like the first; `similarity`, at most 1.
    """

    def shrink(index: int) -> tuple[str, np.ndarray]:
        picture = np.ascontiguousarray(images[index][boxes[index]])
        whole = picture
        if aspect == "crop":
            with suppress(ImageError):  # it has gone since it was decoded
                whole = decode_square(table["path"].iloc[index], size=2 * THUMBNAIL, aspect="squash")
        grey = Image.fromarray(whole).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        return hashlib.sha256(picture.data).hexdigest(), np.asarray(grey, np.float32)

    pixel_hashes, thumbnails = zip(*run_parallel(shrink, range(len(table)), workers=workers), strict=True)
    return compare_pictures(table, np.stack(thumbnails), pixels=np.array(pixel_hashes), threshold=threshold)


def compare_pictures(
    table: pd.DataFrame, thumbnails: np.ndarray, *, pixels: np.ndarray, threshold: float = CERTAIN
) -> pd.DataFrame:
    """Like `find_duplicates`, from grey thumbnails (N, 64, 64) of whole photographs and a hash (N,) of their pixels."""
    found: dict[tuple[int, int], tuple[float, int]] = {}
    shapes = (table["width"] / table["height"]).to_numpy(float)
    for a, b, similarity, pose in _near_pairs(thumbnails, shapes, threshold=threshold):
        found[a, b] = max(found.get((a, b), (-1.0, 0)), (similarity, pose))
    for exact in (table["native_sha256"].to_numpy(), pixels):
        for rows in pd.Series(range(len(table))).groupby(exact).agg(list):
            found |= {(a, b): (1.0, found.get((a, b), (1.0, 0))[1]) for a, b in product(rows, rows) if a < b}
    rows = []
    for (a, b), (similarity, pose) in sorted(found.items()):
        first, second = table.iloc[a], table.iloc[b]
        same = first.native_sha256 == second.native_sha256, pixels[a] == pixels[b], True
        rows.append((
            first.image_id, first.split, first.target, second.image_id, second.split, second.target,
            KINDS[same.index(True)], POSES[pose], round(similarity, 3),
        ))  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def pose_picture(picture: np.ndarray, pose: int) -> np.ndarray:
    """One of the eight poses (`POSES`) of a picture (..., S, S)."""
    mirrored, turns = divmod(pose, 4)
    return np.rot90(picture[..., ::-1] if mirrored else picture, turns, axes=(-2, -1))


def group_duplicates(image_ids: pd.Series, duplicates: pd.DataFrame) -> pd.Series:
    """Name the group of each image: the first id among all it is connected with through pairs of duplicates."""
    places = pd.Index(image_ids)
    ends = tuple(places.get_indexer(duplicates[side]) for side in ("image_id_a", "image_id_b"))
    pairs = coo_array((np.ones(len(duplicates), bool), ends), shape=(len(places),) * 2)
    group, order = connected_components(pairs, directed=False)[1], image_ids.to_numpy(object).argsort()
    first = order[np.unique(group[order], return_index=True)[1]]
    return image_ids.iloc[first[group]].set_axis(image_ids.index)


def describe_pictures(pictures: np.ndarray, frequencies: int) -> np.ndarray:
    """The low frequencies of pictures' logarithms, without the mean: (..., S, S) grey values to (..., F * F - 1)."""
    low = dctn(np.log(pictures + 8), axes=(-2, -1), norm="ortho")[..., :frequencies, :frequencies]
    return low.reshape(*low.shape[:-2], -1)[..., 1:].astype(np.float32)


class _Scale:
    """Descriptions in units of their spread over all pictures, of length 1."""

    def __init__(self, thumbnails: np.ndarray, frequencies: int):
        self._frequencies = frequencies
        known = describe_pictures(thumbnails, frequencies)
        self._mean, self._spread = known.mean(axis=0), known.std(axis=0) + 1e-3

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        scaled = (describe_pictures(pictures, self._frequencies) - self._mean) / self._spread
        return scaled / np.maximum(np.linalg.norm(scaled, axis=-1, keepdims=True), 1e-6)


def cut_pictures(pictures: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """Pictures (..., S, S) without shares of their sides, resized to what they were.

    Args:
        pictures: grey values.
        cut: (4,) shares cut off at the left, right, top and bottom.
    """
    left, right, top, bottom = cut
    return _resample(top, 1 - bottom) @ pictures @ _resample(left, 1 - right).T


def _resample(start: float, stop: float) -> np.ndarray:
    """The matrix of a linear interpolation: the S pixels between two shares of a side, from the S of the whole side."""
    places = np.clip((start + (stop - start) * (np.arange(THUMBNAIL) + 0.5) / THUMBNAIL) * THUMBNAIL - 0.5, 0, None)
    below = np.minimum(places.astype(int), THUMBNAIL - 2)
    share = np.minimum(places - below, 1)
    matrix = np.zeros((THUMBNAIL, THUMBNAIL), np.float32)
    matrix[np.arange(THUMBNAIL), below], matrix[np.arange(THUMBNAIL), below + 1] = 1 - share, share
    return matrix


def _crop_middles(thumbnails: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """The middle square of each photograph, by its width over its height."""
    across, down = np.maximum(0, 1 - 1 / shapes) / 2, np.maximum(0, 1 - shapes) / 2
    cuts = np.stack([across, across, down, down], axis=1)
    return np.stack([cut_pictures(picture, cut) for picture, cut in zip(thumbnails, cuts, strict=True)])


def _near_pairs(
    thumbnails: np.ndarray, shapes: np.ndarray, *, threshold: float
) -> Iterator[tuple[int, int, float, int]]:
    """Pairs (a, b, similarity, pose of b) with a < b, some of them twice: once with either picture cut."""
    coarse, fine = _Scale(thumbnails, COARSE), _Scale(thumbnails, FINE)
    forms = [thumbnails] if np.allclose(shapes, 1) else [thumbnails, _crop_middles(thumbnails, shapes)]
    posed = [coarse(pose_picture(thumbnails, pose)) for pose in range(len(POSES))]
    cuts = _list_cuts(len(thumbnails))
    parts = []
    for start in range(0, len(thumbnails), _BLOCK):
        rows = slice(start, start + _BLOCK)
        best = np.full((len(thumbnails[rows]), len(thumbnails)), -1, np.float32)
        for form, cut in product(forms, cuts):
            described = coarse(cut_pictures(form[rows], cut))
            for turned in posed:
                np.maximum(best, described @ turned.T, out=best)
        np.fill_diagonal(best[:, rows], -1)
        order = np.argsort(-best, axis=1)[:, : _COHORT.stop]
        ranked = np.take_along_axis(best, order, axis=1)
        cohort = ranked[:, min(_COHORT.start, len(thumbnails) // 4) :].mean(axis=1)
        parts.append((ranked[:, :_ALIGNED], order[:, :_ALIGNED], cohort))
    alike, others, level = (np.concatenate(part) for part in zip(*parts, strict=True))
    relative = (alike - level[:, None]) / (1 - level[:, None]) + (alike - level[others]) / (1 - level[others])
    for a, place in np.argwhere(relative / 2 >= threshold - _GAIN).tolist():
        b = int(others[a, place])
        similarity, pose = _align([form[a] for form in forms], thumbnails[b], coarse, fine, cuts)
        similarity = float(np.mean([(similarity - level[c]) / (1 - level[c]) for c in (a, b)]))
        if a != b and similarity >= threshold:
            yield (a, b, similarity, pose) if a < b else (b, a, similarity, _invert(pose))


def _list_cuts(count: int) -> np.ndarray:
    """(M, 4) shares to cut off: none, or something, at each side; none at all where there are too many pictures."""
    sides = (0.0, _CUT) if count <= _FEW else (0.0,)
    return np.array(list(product(sides, repeat=4)))


def _align(
    forms: list[np.ndarray], other: np.ndarray, coarse: _Scale, fine: _Scale, cuts: np.ndarray
) -> tuple[float, int]:
    """How much another picture is like one in the best of its forms, cut in the best way; and the other's pose then."""
    tried = coarse(np.stack([cut_pictures(form, cut) for form, cut in product(forms, cuts)]))
    posed = coarse(np.stack([pose_picture(other, pose) for pose in range(len(POSES))]))
    place, pose = divmod(int((tried @ posed.T).argmax()), len(POSES))
    form, cut = forms[place // len(cuts)], cuts[place % len(cuts)]
    wanted = fine(pose_picture(other, pose))
    best = float(wanted @ fine(cut_pictures(form, cut)))
    for step in (_CUT / 2, _CUT / 4, _CUT / 8):
        for side, change in product(range(4), (-step, step)):
            moved = cut.copy()
            moved[side] = np.clip(moved[side] + change, 0, 2 * _CUT)
            if (found := float(wanted @ fine(cut_pictures(form, moved)))) > best:
                best, cut = found, moved
    return best, pose


def _invert(pose: int) -> int:
    """The pose that undoes one; a mirrored one undoes itself."""
    return pose if pose >= 4 else -pose % 4
