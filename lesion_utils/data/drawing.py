"""Dermoscopy drawn from numbers: one photograph of a skin lesion, the same pixels on every machine.

A photograph is painted in layers: skin, lesion, artefacts, camera. How suspicious a lesion looks follows the ABCD rule
of dermoscopy (Nachbar et al. 1994, J Am Acad Dermatol 30:551-559): asymmetry, border, colours; and here, diameter.
Units, shapes and the promise of exactness are those of `lesion_utils.data.brush`.
"""

from __future__ import annotations

import numpy as np

from lesion_utils.data.brush import (
    draw_between,
    draw_clouds,
    draw_direction,
    draw_noise,
    draw_normal,
    make_grid,
    make_mesh,
    mix,
    ramp,
    turn,
)

#: Melanin is black at the surface, brown below it and blue-grey in the deep skin; red is blood, white is scar.
TAN, BROWN, DARK_BROWN = (184, 126, 84), (136, 80, 46), (80, 42, 26)
BLACK, BLUE_GREY, RED, WHITE = (36, 26, 26), (106, 114, 136), (186, 82, 76), (230, 210, 204)
SKIN_LIGHT, SKIN_DARK, SKIN_FLUSH = (240, 221, 206), (196, 150, 118), (226, 166, 160)
PATCHES = ((0, 150, 205), (236, 140, 40), (230, 196, 60), (70, 150, 80))


def draw_signs(rng, malignancy):
    """How strongly each sign of the ABCD rule shows, in [0, 1]: the malignancy, and some chance of its own.

    Args:
        malignancy: number in [0, 1].

    Returns:
        dict of asymmetry, border, colours, diameter, veil (blue-grey) and blotch (black), each in [0, 1].
    """
    spread = {"asymmetry": 0.14, "border": 0.14, "colours": 0.1, "diameter": 0.14, "veil": 0.12, "blotch": 0.12}
    return {sign: min(1.0, max(0.0, malignancy + sd * draw_normal(rng))) for sign, sd in spread.items()}


def paint_skin(rng, shape):
    """Skin (3, height, width) float32: tone, flush, mottling, freckles and pores."""
    image = np.empty((3, *shape), dtype=np.float32)
    image[:] = np.asarray(SKIN_LIGHT)[:, None, None]
    tone = draw_between(rng, 0, 1)
    mix(image, SKIN_DARK, 0.7 * tone * tone)
    mix(image, SKIN_FLUSH, draw_between(rng, 0, 0.5))
    mix(image, SKIN_FLUSH, ramp(draw_clouds(rng, shape, 5), -0.6, 0.9) * np.float32(0.5))
    mix(image, SKIN_DARK, ramp(draw_clouds(rng, shape, 3), -0.6, 0.9) * np.float32(0.4))
    mix(image, TAN, ramp(draw_clouds(rng, shape, 16), 0.3, 0.9) * np.float32(0.6 * rng.random() * rng.random()))
    mix(image, SKIN_DARK, ramp(draw_noise(rng, shape, shape[0] / 3), 0, 1) * np.float32(0.3))
    return image


def paint_lesion(rng, image, signs):
    """Paint one lesion, in place.

    Returns:
        The lesion's extent, a field in [0, 1].
    """
    shape = image.shape[1:]
    x, y = make_grid(shape)
    x, y = x - np.float32(draw_between(rng, -0.2, 0.2)), y - np.float32(draw_between(rng, -0.12, 0.12))
    along, across = turn(x, y, draw_direction(rng))
    radius = draw_between(rng, 0.3, 0.42) + 0.34 * signs["diameter"]
    side = along / np.float32(radius)  # -1 to 1 from one end of the lesion to the other
    oblong = across / np.float32(draw_between(rng, 0.68, 1.0) * radius)
    rho = np.sqrt(side * side + oblong * oblong)
    rho = rho * (1 + np.float32(0.4 * signs["asymmetry"]) * np.clip(side, -1, 1))
    rho = rho + draw_noise(rng, shape, 4) * np.float32(0.08 + 0.3 * signs["asymmetry"])
    rho = rho + draw_clouds(rng, shape, 8) * np.float32(0.1 + 0.5 * signs["border"])
    softness = draw_between(rng, 0.28, 0.45) - 0.1 * signs["border"]
    extent = 1 - ramp(rho, 1 - softness, 1 + softness)
    paint_pigment(rng, image, extent, rho, side, signs)
    paint_structures(rng, image, extent, x, y, signs)
    return extent


def paint_pigment(rng, image, extent, rho, side, signs):
    """Paint the lesion's colours: one or two evenly in a naevus, up to six in patches in a melanoma."""
    shape = extent.shape
    mix(image, TAN, extent * np.float32(draw_between(rng, 0.55, 0.85)))
    mix(image, RED, extent * np.float32(draw_between(rng, 0, 0.35)))
    centre = 1 - ramp(rho, 0.1, 1.1)
    mix(image, BROWN, extent * (centre * np.float32(0.5) + np.float32(draw_between(rng, 0.1, 0.4))))
    mix(image, DARK_BROWN, extent * centre * np.float32(draw_between(rng, 0, 0.45)))
    one_sided = np.float32(0.7 * signs["asymmetry"]) * side
    for colour, cells, most in (
        (DARK_BROWN, 5, 0.3 + 0.65 * signs["colours"]),
        (RED, 4, 0.7 * signs["colours"] * draw_between(rng, 0.2, 1)),
        (WHITE, 5, 0.75 * signs["colours"] * draw_between(rng, 0.2, 1)),
        (BLUE_GREY, 3, 1.5 * max(0.0, signs["veil"] - 0.33)),
        (BLACK, 4, 1.7 * max(0.0, signs["blotch"] - 0.33)),
    ):
        one_sided = -one_sided
        patch = ramp(draw_clouds(rng, shape, cells) + one_sided, 0, 0.6)
        mix(image, colour, extent * patch * np.float32(min(0.92, most)))


def paint_structures(rng, image, extent, x, y, signs):
    """Paint the pigment network, or globules; both lose their order as the border sign grows."""
    shape = extent.shape
    disorder = np.float32(0.04 + 0.06 * signs["border"])
    warped = (axis + draw_noise(rng, shape, 9) * disorder for axis in (x, y))
    mesh = make_mesh(*warped, draw_between(rng, 0.05, 0.085))
    where = extent * ramp(draw_noise(rng, shape, 4), -0.7, 0.3) * np.float32(draw_between(rng, 0.1, 0.45))
    globules = rng.random() < 0.35
    mix(image, DARK_BROWN, where * (ramp(mesh, 0.3, 0.9) if globules else 1 - ramp(mesh, 0, 0.6)))


def paint_hair(rng, image):
    """Paint thin dark bent hairs (parabolas)."""
    x, y = make_grid(image.shape[1:])
    for _ in range(int(draw_between(rng, 3, 12))):
        along, across = turn(x, y, draw_direction(rng))
        bend, shift, start = draw_between(rng, -0.5, 0.5), draw_between(rng, -0.9, 0.9), draw_between(rng, -1.6, 0.2)
        across = across - np.float32(shift) - np.float32(bend) * along * along
        slope = np.float32(2 * bend) * along
        distance = np.abs(across) / np.sqrt(1 + slope * slope)
        width = draw_between(rng, 0.004, 0.009)
        length = draw_between(rng, 0.8, 2.6)
        strand = (1 - ramp(distance, 0.4 * width, 1.6 * width)) * ((along > start) & (along < start + length))
        mix(image, (66, 50, 44), strand * np.float32(0.8))


def paint_ruler(rng, image):
    """Paint the tick marks of a millimetre scale along the lower edge."""
    x, y = make_grid(image.shape[1:])
    along, across = turn(x, y, (0.9986, draw_between(rng, -0.05, 0.05)))
    phase = along / np.float32(0.12)
    nearest = np.floor(phase + np.float32(0.5))
    tall = np.where(nearest % 5 == 0, np.float32(0.14), np.float32(0.08))
    tick = (np.abs(phase - nearest) < 0.08) & (across > np.float32(0.92) - tall) & (across < 0.92)
    mix(image, (40, 36, 40), tick * np.float32(0.8))


def paint_ink(rng, image):
    """Paint strokes of a surgeon's violet marker beside the lesion."""
    shape = image.shape[1:]
    along, across = turn(*make_grid(shape), draw_direction(rng))
    wobble = draw_noise(rng, shape, 3) * np.float32(0.1)
    stroke = 1 - ramp(np.abs(across + wobble - np.float32(draw_between(rng, 0.75, 0.95))), 0.03, 0.06)
    reach = np.abs(along) < draw_between(rng, 0.2, 0.6)
    mix(image, (92, 70, 150), stroke * reach * ramp(draw_clouds(rng, shape, 30), -0.8, 0.1) * np.float32(0.7))


def paint_dark_corners(rng, image):
    """Paint the black rim of the dermoscope's round field of view."""
    x, y = make_grid(image.shape[1:])
    edge = draw_between(rng, 1.05, 1.3)
    mix(image, (10, 8, 10), ramp(np.sqrt(x * x + y * y), edge - 0.06, edge + 0.06))


def paint_gel_bubbles(rng, image):
    """Paint bubbles of the immersion gel: a bright rim and a glint."""
    x, y = make_grid(image.shape[1:])
    for _ in range(int(draw_between(rng, 3, 9))):
        u, v = x - np.float32(draw_between(rng, -1.2, 1.2)), y - np.float32(draw_between(rng, -0.95, 0.95))
        size = draw_between(rng, 0.03, 0.11)
        distance = np.sqrt(u * u + v * v) / np.float32(size)
        mix(image, (250, 246, 240), (1 - ramp(np.abs(distance - 1), 0, 0.3)) * np.float32(0.5))
        u, v = u + np.float32(0.4 * size), v + np.float32(0.4 * size)
        mix(image, (255, 255, 255), (1 - ramp(np.sqrt(u * u + v * v), 0.1 * size, 0.3 * size)) * np.float32(0.8))


def paint_patch(rng, image):
    """Paint a coloured round sticker that reaches in from a corner."""
    x, y = make_grid(image.shape[1:])
    u = x - np.float32(draw_between(rng, 0.95, 1.3) * (1 if rng.random() < 0.5 else -1))
    v = y - np.float32(draw_between(rng, 0.6, 1.0) * (1 if rng.random() < 0.5 else -1))
    size = draw_between(rng, 0.4, 0.65)
    mix(image, PATCHES[int(rng.random() * len(PATCHES))], 1 - ramp(np.sqrt(u * u + v * v), size - 0.01, size + 0.01))


#: What lies over a lesion in the field's photographs.
ARTEFACTS = {
    "hair": paint_hair,
    "ruler": paint_ruler,
    "ink": paint_ink,
    "dark_corners": paint_dark_corners,
    "gel_bubbles": paint_gel_bubbles,
    "patch": paint_patch,
}


def finish_photograph(rng, image, cast):
    """Light, colour cast and sensor noise of a camera: (height, width, 3) uint8."""
    shape = image.shape[1:]
    light, _ = turn(*make_grid(shape), draw_direction(rng))
    exposure = 1 + np.float32(draw_between(rng, -0.09, 0.07)) + light * np.float32(draw_between(rng, 0, 0.06))
    gains = np.asarray(cast, dtype=np.float32) + np.float32(0.02 * draw_normal(rng))
    image = image * exposure * gains[:, None, None] + (rng.random(shape, dtype=np.float32) * 8 - 4)
    return np.ascontiguousarray(np.rint(np.clip(image, 0, 255)).astype(np.uint8).transpose(1, 2, 0))


def draw_photograph(rng, malignancy, *, artefacts, cast, shape):
    """Draw one dermoscopic photograph.

    Args:
        rng: `numpy.random.Generator` of this image alone.
        malignancy: how malignant the lesion looks, in [0, 1].
        artefacts: names out of `ARTEFACTS`, painted in this order.
        cast: the camera's gain for red, green and blue, about 1.
        shape: (height, width), px.

    Returns:
        (height, width, 3) uint8, RGB.
    """
    image = paint_skin(rng, shape)
    paint_lesion(rng, image, draw_signs(rng, malignancy))
    for name in artefacts:
        ARTEFACTS[name](rng, image)
    return finish_photograph(rng, image, cast)
