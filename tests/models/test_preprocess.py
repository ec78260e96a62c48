"""Every device gives the network the same pixels."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lesion_utils.models.preprocess import resize_by_matrix, resize_pixels

SIDES = st.integers(32, 400)


@settings(max_examples=60)
@given(SIDES, SIDES, st.sampled_from(["bilinear", "bicubic"]), st.integers(0, 999), st.booleans())
def test_what_other_devices_resize_by_are_the_pixels_of_torch_on_cpus(side, size, interpolation, seed, black_and_white):
    """For photographs of any side, and for the hardest edges, where bicubic overshoots most."""
    images = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8, generator=torch.manual_seed(seed))
    if black_and_white:
        images = (images > 127).to(torch.uint8) * 255
    if side == size:
        return
    expected = resize_pixels(images, size, interpolation)
    assert torch.equal(resize_by_matrix(images.permute(0, 3, 1, 2), size, interpolation), expected.float())
