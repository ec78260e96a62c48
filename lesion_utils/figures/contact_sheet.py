"""Photographs on one sheet, each with its score and where the network looked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lesion_utils.figures.cases import lay_map_over
from lesion_utils.figures.images import new_tiles, show_tile
from lesion_utils.figures.style import CLASS_COLOURS, GREY, Plate, finish_figure, house_style

#: Photographs in a row; each has a second tile beside it for its map.
IN_A_ROW = 3


@house_style
def plot_contact_sheet(
    images: np.ndarray, names: Sequence[str], probs: np.ndarray, maps: np.ndarray | None, *, call: float, note: str
) -> Plate:
    """A sheet of photographs in the order given.

    Args:
        images: (N, S, S, 3) uint8, as the network saw them.
        names: N file names; long ones are cut in the middle.
        probs: (N,) float in [0, 1], of malignant.
        maps: (N, h, w) float in [0, 1], Grad-CAM; None where the network has none.
        call: above it, an image is called malignant, and its frame is red.
        note: what the sheet shows, and of which network.
    """
    wide = 1 if maps is None else 2
    fig, axes = new_tiles(-(-len(images) // IN_A_ROW), IN_A_ROW * wide, lines=2, group=wide)
    for k, (image, name, prob) in enumerate(zip(images, names, probs, strict=True)):
        row, column = divmod(k, IN_A_ROW)
        tiles = axes[row, column * wide : column * wide + wide]
        colour = CLASS_COLOURS["malignant"] if prob > call else GREY
        show_tile(tiles[0], image, f"{shorten_name(name)}\np = {prob:.3f}", colour=colour, edge=1.4)
        if maps is not None:
            show_tile(tiles[1], image, "" if maps[k].any() else "nothing raised the score")
            lay_map_over(tiles[1], maps[k], image.shape)
    listed = "; ".join(f"{shorten_name(name)}, p = {prob:.3f}" for name, prob in zip(names, probs, strict=True))
    return finish_figure(fig, note=note, alt=f"{len(images)} photographs with the network's scores: {listed}")


def shorten_name(name: str, *, longest: int = 22) -> str:
    """A file's name as a figure can show it: letters that its type lacks become question marks."""
    shown = "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in name)
    return shown if len(shown) <= longest else f"{shown[: longest // 2]}…{shown[-(longest // 2 - 1) :]}"
