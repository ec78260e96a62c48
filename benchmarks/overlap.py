"""How many copies of photographs are found, by what was done to them, and how many others are taken for copies.

    python benchmarks/overlap.py [--images 1279]

Each embedded image is copied once with every change; a copy is found if it is paired with its original at
`duplicates.POSSIBLE`. False alarms are pairs of different photographs among all pairs of copies and originals.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance

from lesion_utils.data.box import open_box
from lesion_utils.data.challenge import FOLDERS
from lesion_utils.data.duplicates import CERTAIN, POSSIBLE, THUMBNAIL, compare_pictures

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def cut(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Up to 5 % off each of some sides."""
    left, top, right, bottom = rng.uniform(0, 0.05, 4) * rng.integers(0, 2, 4)
    width, height = picture.size
    edges = width * left, height * top, width * (1 - right), height * (1 - bottom)
    return picture.crop(tuple(round(edge) for edge in edges))


def turn(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.integers(2) else picture
    return mirrored.rotate(90 * int(rng.integers(4)), expand=True)


def resize(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    scale = rng.uniform(0.4, 1.5)
    return picture.resize((round(picture.width * scale), round(picture.height * scale)))


def crop(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def compress(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=int(rng.integers(40, 90)))
    return Image.open(file).convert("RGB")


def brighten(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    ranges = {ImageEnhance.Brightness: (0.7, 1.3), ImageEnhance.Contrast: (0.8, 1.2), ImageEnhance.Color: (0.5, 1.3)}
    for kind, (low, high) in ranges.items():
        picture = kind(picture).enhance(rng.uniform(low, high))
    return picture


def chain(*changes: Change) -> Change:
    def apply(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        for change in changes:
            picture = change(picture, rng)
        return picture

    return apply


CHANGES: dict[str, Change] = {
    "resized": resize,
    "squashed to a square": lambda picture, rng: picture.resize((200, 200)),
    "cropped to its middle": crop,
    "cut by up to 5 %": cut,
    "recompressed": compress,
    "brightened": brighten,
    "turned or mirrored": turn,
    "all but cropped": chain(cut, resize, brighten, compress, turn),
    "cropped and all": chain(crop, cut, resize, brighten, compress, turn),
}


def read_pictures(count: int) -> list[Image.Image]:
    """The embedded images, or so many of them spread evenly."""
    files = [file for folder in FOLDERS.values() for file in (open_box() / folder).iterdir()]
    files = sorted((file for file in files if file.name.endswith(".webp")), key=lambda file: file.name)
    chosen = np.linspace(0, len(files) - 1, min(count, len(files))).astype(int)
    return [Image.open(io.BytesIO(files[number].read_bytes())).convert("RGB") for number in chosen]


def measure(count: int, names: list[str] | None = None, *, seed: int = 1) -> pd.DataFrame:
    """One row per change: the share found, and false alarms per 10,000 pairs, at either similarity."""
    originals, rng, rows = read_pictures(count), np.random.default_rng(seed), []
    for name in names or list(CHANGES):
        pictures = [*originals, *(CHANGES[name](picture, rng) for picture in originals)]
        grey = [p.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX) for p in pictures]
        ids = [f"{number:05d}" for number in range(len(pictures))]
        table = pd.DataFrame({"image_id": ids, "split": "", "target": 0, "native_sha256": ids})
        table["width"], table["height"] = zip(*(picture.size for picture in pictures), strict=True)
        pairs = compare_pictures(
            table, np.stack([np.asarray(g, np.float32) for g in grey]), pixels=np.array(ids), threshold=POSSIBLE
        )
        a, b = pairs["image_id_a"].astype(int), pairs["image_id_b"].astype(int)
        across = (a < len(originals)) & (b >= len(originals))
        right = across & (b - a == len(originals))
        row: dict[str, float | str] = {"change": name}
        for word, level in (("possible", POSSIBLE), ("certain", CERTAIN)):
            above = pairs["similarity"] >= level
            row[f"found, {word}"] = (right & above).sum() / len(originals)
            row[f"false per 10,000, {word}"] = 1e4 * (across & ~right & above).sum() / len(originals) ** 2
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1279)
    print(measure(parser.parse_args().images).round(4).to_string(index=False))
