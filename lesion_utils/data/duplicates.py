"""Images that show the same photograph: the same bytes, the same pixels, or the same picture in another pose.

Pictures are compared by a perceptual hash: the signs of the low frequencies of a small grey copy (Zauner 2010, the
"pHash"), here 16 x 16 of them. Any two different photographs of the challenge differ in 44 bits or more of the 255, in
every pose; its photographs and their own copies with another size, compression, contrast or colour differ in 24 at
most, most of them in fewer than 10. A crop by more than 1 % of the sides and a second photograph of a lesion escape.

Not every pair is looked at. Of 32 bits that differ, some of the hash's 11 parts has two at most, so that both parts are
equal once each has changed one bit or none (multi-index hashing: Norouzi, Punjani and Fleet 2012).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from lesion_utils.data.images import run_parallel

COLUMNS = [
    "image_id_a", "split_a", "target_a", "image_id_b", "split_b", "target_b", "kind", "pose", "distance", "correlation",
]  # fmt: skip
#: Exact copies first.
KINDS = ("same bytes", "same pixels", "near")
#: The eight poses of a square: quarter turns counter-clockwise, after a left-right mirroring or not.
POSES = tuple(
    ("mirrored, " if mirrored else "") + (f"turned {90 * turns}°" if turns else "upright")
    for mirrored in (False, True)
    for turns in range(4)
)

THUMBNAIL, FREQUENCIES = 32, 16
#: Two pictures are near duplicates if at most so many of their 255 bits differ.
NEAR_BITS = 32
#: Each of so many parts of a hash differs in two bits at most somewhere, if NEAR_BITS differ in all.
_PARTS = NEAR_BITS // 3 + 1
#: Pictures worked on together.
_BLOCK = 4096


def find_duplicates(
    table: pd.DataFrame, images: np.ndarray, *, boxes: list[tuple[slice, slice]], workers: int
) -> pd.DataFrame:
    """Find all pairs of images that show the same photograph.

    Args:
        table: columns `image_id`, `split`, `target`, `native_sha256` (of the original file); N rows.
        images: (N, S, S, 3) uint8, the decoded images in the table's order.
        boxes: for each image the rows and columns that show it, see `images.content_box`.
        workers: images worked on at a time.

    Returns:
        one row per pair, in the table's order: both ids, splits and targets; `kind` (see `KINDS`); `pose` of
        the second image in which it looks like the first; `distance`, bits of 255 that differ; `correlation` of the
        grey thumbnails, in [-1, 1].
    """

    def shrink(index: int) -> tuple[str, np.ndarray]:
        picture = np.ascontiguousarray(images[index][boxes[index]])
        grey = Image.fromarray(picture).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        return hashlib.sha256(picture.data).hexdigest(), np.asarray(grey)

    pixel_hashes, thumbnails = zip(*run_parallel(shrink, range(len(table)), workers=workers), strict=True)
    return compare_pictures(table, np.stack(thumbnails), pixels=np.array(pixel_hashes))


def compare_pictures(table: pd.DataFrame, thumbnails: np.ndarray, *, pixels: np.ndarray) -> pd.DataFrame:
    """Like `find_duplicates`, from grey thumbnails (N, 32, 32) and a hash (N,) of every image's pixels."""
    rows = []
    for a, b, pose, distance in _near_pairs(thumbnails):
        first, second = table.iloc[a], table.iloc[b]
        same = first.native_sha256 == second.native_sha256, pixels[a] == pixels[b], True
        correlation = np.corrcoef(thumbnails[a].ravel(), pose_picture(thumbnails[b], pose).ravel())[0, 1]
        rows.append((
            first.image_id, first.split, first.target, second.image_id, second.split, second.target,
            KINDS[same.index(True)], POSES[pose], distance, round(float(np.nan_to_num(correlation, nan=1)), 4),
        ))  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def pose_picture(picture: np.ndarray, pose: int) -> np.ndarray:
    """One of the eight poses (`POSES`) of a picture (..., S, S)."""
    mirrored, turns = divmod(pose, 4)
    return np.rot90(picture[..., ::-1] if mirrored else picture, turns, axes=(-2, -1))


def hash_pictures(thumbnails: np.ndarray) -> np.ndarray:
    """Perceptual hash of grey pictures.

    Args:
        thumbnails: (N, 32, 32) float32.

    Returns:
        (N, 255) float32 of -1 and 1: whether each low frequency lies above the picture's median one.
    """
    low = dctn(thumbnails, axes=(1, 2))[:, :FREQUENCIES, :FREQUENCIES].reshape(len(thumbnails), -1)[:, 1:]
    return np.where(low > np.median(low, axis=1, keepdims=True), np.float32(1), np.float32(-1))


def group_duplicates(image_ids: pd.Series, duplicates: pd.DataFrame) -> pd.Series:
    """Name the group of each image: the first id among all it is connected with through pairs of duplicates."""
    places = pd.Index(image_ids)
    ends = tuple(places.get_indexer(duplicates[side]) for side in ("image_id_a", "image_id_b"))
    pairs = coo_array((np.ones(len(duplicates), bool), ends), shape=(len(places),) * 2)
    group, order = connected_components(pairs, directed=False)[1], image_ids.to_numpy(object).argsort()
    first = order[np.unique(group[order], return_index=True)[1]]
    return image_ids.iloc[first[group]].set_axis(image_ids.index)


def _near_pairs(thumbnails: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
    """Pairs (a, b, pose, bits) with a < b that differ in few bits, each in its best pose."""
    posed = np.stack([_pack_hashes(pose_picture(thumbnails, pose)) for pose in range(len(POSES))])
    for a, b in _find_candidates(posed).tolist():
        distances = np.bitwise_count(posed[0, a] ^ posed[:, b]).sum(axis=1)
        yield a, b, int(distances.argmin()), int(distances.min())


def _pack_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """The hashes of pictures, (N, 4) uint64."""
    parts = [hash_pictures(thumbnails[i : i + _BLOCK].astype(np.float32)) for i in range(0, len(thumbnails), _BLOCK)]
    return np.packbits(np.concatenate(parts) > 0, axis=1).view(np.uint64)


def _find_candidates(posed: np.ndarray) -> np.ndarray:
    """The pairs (a, b) that are near in some pose of b, of hashes (8, N, 4): (P, 2), a < b, in order."""
    count = posed.shape[1]
    found = [np.empty((0, 2), np.int64)]
    for part in range(_PARTS):
        known = _list_neighbours(posed[0], part)
        for pose in posed:
            others = _list_neighbours(pose, part).T.tocsr()
            for start in range(0, count, _BLOCK):
                a, b = (known[start : start + _BLOCK] @ others).nonzero()
                a, b = a[a + start < b] + start, b[a + start < b]
                near = np.bitwise_count(posed[0, a] ^ pose[b]).sum(axis=1) <= NEAR_BITS
                found.append(np.unique(np.stack([a[near], b[near]], axis=1), axis=0))
    return np.unique(np.concatenate(found), axis=0)


def _list_neighbours(hashes: np.ndarray, part: int) -> csr_array:
    """For each hash the values that a part of it has, and would have with one other bit: (N, values), True there.

    The more hashes, the more bits of the part are used, so that few that are not near meet.
    """
    bits = np.unpackbits(hashes.view(np.uint8), axis=1)[:, part : FREQUENCIES**2 - 1 : _PARTS]
    bits = bits[:, : min(23, len(hashes).bit_length() + 8)]
    changes = 1 << np.arange(bits.shape[1])
    values = (bits @ changes)[:, None] ^ np.append(0, changes)
    ends = np.arange(len(hashes) + 1) * values.shape[1]
    return csr_array((np.ones(values.size, bool), values.ravel(), ends), shape=(len(hashes), 1 << bits.shape[1]))
