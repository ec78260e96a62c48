"""What a network loses on images as another camera would have taken them.

    WEIGHTS_DIR=folder DATA_DIR=folder python benchmarks/cameras.py [--images 1279] [--keep folder]

Half of ISIC 2016 Part 3, drawn by class, is a study of own images: a network with frozen ImageNet features learns from
it. The other half is its external test set, once as it is and once for each change of `CHANGES`. The study is a copy
of params/isic2016_160px, with one regime and one seed, in a copy of the project, and `make all` runs it. The two
networks are those that its slots resnet50 and vgg19 have here: ResNet50, and MobileNetV2 in the place of VGG19.

Each row of the table is a change: AP and AUC, and the drop from the unchanged images of the same lesions, with its
paired bootstrap interval (95 %). Changes are simulated: how real cameras differ is not known from this.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageFilter
from ruamel.yaml import YAML

from lesion_utils.core.paths import data_dir, params_root, project_root
from lesion_utils.data.challenge import raise_problems, scan_dataset
from lesion_utils.evaluation.intervals import draw_weights
from lesion_utils.evaluation.paired_tests import RANKING_METRICS, compare_bootstrap

SOURCE, STUDY, UNCHANGED = "isic2016_160px", "cameras", "as taken"

Change = Callable[[Image.Image], Image.Image]


def shift_white_balance(picture: Image.Image) -> Image.Image:
    """Warmer light: red times 1.1, blue times 0.85."""
    return _map(picture, lambda values: values * np.array([1.1, 1, 0.85]))


def darken(picture: Image.Image) -> Image.Image:
    """A steeper curve of the sensor: gamma 1.4."""
    return _map(picture, lambda values: values**1.4)


def _map(picture: Image.Image, change: Callable[[Any], Any]) -> Image.Image:
    values = change(np.asarray(picture, np.float32) / 255)
    return Image.fromarray((255 * values.clip(0, 1)).round().astype(np.uint8))


def fade(picture: Image.Image) -> Image.Image:
    """Colours of 0.6 times the saturation."""
    return ImageEnhance.Color(picture).enhance(0.6)


def blur(picture: Image.Image) -> Image.Image:
    """Out of focus: a Gaussian of 0.4 % of the long side (2.6 px of 640)."""
    return picture.filter(ImageFilter.GaussianBlur(0.004 * max(picture.size)))


def compress(picture: Image.Image) -> Image.Image:
    """JPEG of quality 25."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=25)
    return Image.open(file).convert("RGB")


def change_all(picture: Image.Image) -> Image.Image:
    """All of them, in the order in which a camera would."""
    for change in (blur, shift_white_balance, darken, fade, compress):
        picture = change(picture)
    return picture


CHANGES: dict[str, Change] = {
    "saved again": lambda picture: picture,  # what saving alone does
    "white balance": shift_white_balance,
    "gamma": darken,
    "saturation": fade,
    "blur": blur,
    "JPEG": compress,
    "all of these": change_all,
}


def draw_halves(images: int, seed: int = 2016) -> dict[str, pd.DataFrame]:
    """So many of the challenge's images in two halves with the same share of malignant ones.

    Args:
        images: in both together; of each class in its share.
        seed: of the draw.

    Raises:
        DataError: `DATA_DIR` has not the challenge's files.
    """
    problems: list[str] = []
    table = scan_dataset(data_dir(), counts=None, problems=problems, notes=[])
    raise_problems(problems, data_dir())
    share = min(1.0, images / len(table))
    drawn = [part.sample(frac=share, random_state=seed) for _, part in table.groupby("target")]
    halves = [pd.concat([part.iloc[k::2] for part in drawn]) for k in (0, 1)]
    return dict(zip(("own", "external"), halves, strict=True))


def write_images(part: pd.DataFrame, folder: Path, change: Change | None = None) -> dict[str, Any]:
    """Write images and their labels; returns where they are, as data.yaml names it.

    Args:
        part: rows of `draw_halves`.
        folder: which is made.
        change: of each image, which is then saved as JPEG of quality 95; None: the files are copied.
    """
    (folder / "images").mkdir(parents=True)
    for path in part["path"]:
        target = folder / "images" / path.name
        if change is None:
            shutil.copy(path, target)
        else:
            with Image.open(path) as picture:
                change(picture.convert("RGB")).save(target.with_suffix(".jpg"), quality=95, subsampling=0)
    labels = folder / "labels.csv"
    part.rename(columns={"image_id": "image", "target": "label"})[["image", "label"]].to_csv(labels, index=False)
    return {"images": str(folder / "images"), "labels": str(labels)}


def make_project(folder: Path, own: dict[str, Any], external: dict[str, Any], *, image_size: int = 160) -> Path:
    """A copy of the project with one study, whose YAML files are JSON.

    Args:
        folder: which is made.
        own: where the study's own images are, from `write_images`.
        external: by name, where those of the external test sets are.
        image_size: px, of both networks' inputs.
    """
    for name in ("lesion_utils", "notebooks", "tools", "requirements", f"params/{SOURCE}"):
        shutil.copytree(project_root() / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(project_root() / name, folder / name)
    params = {path.stem: YAML(typ="safe").load(path) for path in (params_root() / SOURCE).glob("*.yaml")}
    del params["selection"]
    remarks = [
        f"The external test sets show the same lesions: {UNCHANGED!r} as they were photographed, the others changed by "
        "computation, as another camera might have taken them. Their clinics are not known."
    ]
    params["data"] |= {"title": "Other cameras, simulated", "remarks": remarks, "source": "folder", **own}
    params["data"] |= {"publish_photographs": False, "folds": 1, "validation_fraction": 0.2, "external": external}
    for name in ("resnet50", "vgg19"):
        network = params[name]
        network |= {"seeds": [1], "classifiers": [], "tta": "none", "head": "original", "image_size": image_size}
        network["regimes"] = {"features": network["regimes"]["features"]}
    mobile = {"backbone": "mobilenetv2_100.ra_in1k", "weights": "mobilenetv2_100.imagenet_features.safetensors"}
    params["vgg19"] |= mobile
    params["comparison"]["primary"]["regime"], params["comparison"]["combinations"] = "features", []
    for name, values in params.items():
        target = folder / "params" / STUDY / f"{name}.yaml"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(values, indent=1), encoding="utf-8")
    return folder


def run_study(project: Path, step: str) -> Path:
    """Run a step of the study and those before it, with this environment; returns the report's folder."""
    own = ("REPORTS_DIR", "LESION_CACHE", "MAKEFLAGS", "MAKELEVEL", "STUDY")
    environment = {name: value for name, value in os.environ.items() if name not in own} | {"PYTHONPATH": str(project)}
    command = ["make", step, f"STUDY={STUDY}", f"VENV={sys.prefix}"]
    subprocess.run(command, cwd=project, env=environment, check=True)
    return project / "reports" / STUDY


def tabulate_drops(report: Path, *, draws: int = 10_000) -> pd.DataFrame:
    """A row per network and set: AP and AUC, and the paired drop from the unchanged images with its interval."""
    known = pd.read_csv(report / "data" / "external.csv", keep_default_na=False)
    known["image"] = known["image_id"].str.partition("/")[2]
    # A photograph that training has seen is left out in every form of it.
    seen = set(known["image"][known["seen_in"].isin(("train", "val"))])
    rows = []
    for path in sorted(report.glob("predictions/*_external.csv")):
        scores = pd.read_csv(path)
        scores[["set", "image"]] = scores["image_id"].str.split("/", n=1, expand=True)
        scores = scores[~scores["image"].isin(seen)]
        wide = scores.pivot_table(index=["image", "target"], columns="set", values="probability")
        targets = wide.index.get_level_values("target").to_numpy()
        weights = draw_weights(targets, draws=draws, seed=2016)
        for name in (UNCHANGED, *CHANGES):
            row = {"model": scores["model"].iloc[0], "set": name, "images": len(wide), "malignant": targets.sum()}
            for metric in RANKING_METRICS:
                pair = wide[UNCHANGED], wide[name]
                drop = compare_bootstrap(targets, *pair, metric=metric, weights=weights, confidence=0.95)
                row |= {metric: drop.b, f"{metric}_drop": drop.difference}
                row |= {f"{metric}_low": drop.low, f"{metric}_high": drop.high}
            rows.append(row)
    return pd.DataFrame(rows)


def write_table(drops: pd.DataFrame) -> str:
    """The rows of `tabulate_drops` as Markdown."""
    lines = ["| network | images | AUC | drop | AP | drop |", "|---|---|---|---|---|---|"]
    for row in drops.to_dict("records"):
        cells = [row["model"], row["set"]]
        for metric in ("auc", "ap"):
            drop = "{:.3f} ({:.3f} to {:.3f})".format(
                *(round(row[f"{metric}_{part}"], 3) + 0.0 for part in ("drop", "low", "high"))
            )
            cells += [f"{row[metric]:.3f}", "" if row["set"] == UNCHANGED else drop.replace("-", "−")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1279)
    parser.add_argument("--size", type=int, default=160, help="px, of the networks' input")
    parser.add_argument("--step", default="all", help="what make runs of the study")
    parser.add_argument("--keep", type=Path, help="new folder for images, study and report (default: a temporary one)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary) / "cameras").resolve()
        halves = draw_halves(options.images)
        own = write_images(halves["own"], folder / "own")
        sets: dict[str, Change | None] = {UNCHANGED: None, **CHANGES}
        external = {
            name: write_images(halves["external"], folder / name, change) | {"licence": "CC-0", "publish": True}
            for name, change in sets.items()
        }
        project = make_project(folder / "project", own, external, image_size=options.size)
        report = run_study(project, options.step)
        drops = tabulate_drops(report)
        counts = drops[["images", "malignant"]].iloc[0].tolist()
        print("{} external images, {} of them malignant\n".format(*counts), write_table(drops), sep="\n")


if __name__ == "__main__":
    main()
