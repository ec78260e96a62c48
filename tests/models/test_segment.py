"""The lesion's outline against lesions of known outline; and silence where there is none."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import mark

from lesion_utils.data.brush import mix
from lesion_utils.data.drawing import finish_photograph, paint_dark_corners, paint_hair, paint_lesion, paint_skin
from lesion_utils.models.segment import find_threshold, segment_lesion


def draw(seed: int, *artefacts, side: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """A drawn photograph and the extent of its lesion."""
    rng = np.random.default_rng(seed)
    image = paint_skin(rng, (side, side))
    signs = dict.fromkeys(("asymmetry", "border", "colours", "diameter", "veil", "blotch"), 0.4)
    extent = paint_lesion(rng, image, signs)
    for paint in artefacts:
        paint(rng, image)
    return finish_photograph(rng, image, (1.0, 1.0, 1.0)), extent > 0.5


@mark.parametrize("artefacts", [(), (paint_hair,), (paint_dark_corners,)], ids=["plain", "hair", "dark corners"])
def test_most_drawn_lesions_are_outlined_well(artefacts):
    scores = []
    for seed in range(16):
        image, truth = draw(seed, *artefacts)
        mask = segment_lesion(image)
        if mask is not None:
            scores.append((mask & truth).sum() / (mask | truth).sum())
    assert len(scores) >= 12
    assert np.median(scores) > 0.75 and np.mean(np.array(scores) > 0.5) > 0.85  # intersection over union


def test_nothing_is_outlined_where_there_is_no_lesion():
    flat = np.full((96, 96, 3), 180, dtype=np.uint8)
    assert segment_lesion(flat) is None
    half = flat.copy()
    half[:, 48:] = 60  # a shadow across the field of view
    assert segment_lesion(half) is None


def test_dark_corners_are_no_lesion():
    image = np.full((3, 128, 128), 200, dtype=np.float32)
    row, column = np.ogrid[-1:1:128j, -1:1:128j]
    mix(image, (20, 15, 15), (np.hypot(row, column) > 1.0).astype(np.float32))
    assert segment_lesion(image.transpose(1, 2, 0).astype(np.uint8)) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=2, max_size=60))
def test_threshold_splits_where_the_parts_differ_most(values):
    values = np.array(values)
    threshold = find_threshold(values)
    if np.ptp(values) == 0:
        assert threshold == 0
        return

    def spread_within(cut: float) -> float:
        return sum(
            ((part - part.mean()) ** 2).sum() for part in (values[values < cut], values[values >= cut]) if len(part)
        )

    assert 0 < (values < threshold).sum() < len(values)
    assert spread_within(threshold) <= min(spread_within(cut) for cut in range(1, 256)) + 1e-6 * np.ptp(values) ** 2
