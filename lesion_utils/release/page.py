"""The page of a scored folder: each photograph, its probability, and where the network looked. One file, no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from PIL import Image

from lesion_utils.core.errors import ParamsError
from lesion_utils.core.files import write_atomic
from lesion_utils.data.images import Aspect, ImageError, content_box
from lesion_utils.evaluation.evaluate import CALL
from lesion_utils.figures.cases import HEAT
from lesion_utils.models.compute import computing
from lesion_utils.models.gradcam import compute_gradcam
from lesion_utils.models.networks import data_config, gradcam_layer
from lesion_utils.models.predict import TrainedNetwork
from lesion_utils.models.preprocess import resize_batch
from lesion_utils.release.predict import OnProgress, ScoredFolder, decode_image, readable_name
from lesion_utils.report.pages import render_page

#: Photographs that the page shows, the highest probabilities first; two small pictures each make it about 5 MB.
SHOWN = 200

#: Longest side of a picture on the page, px, and the quality of its JPEG.
THUMBNAIL, QUALITY = 240, 80

#: Images that Grad-CAM takes at a time; it keeps what every layer gave.
BATCH = 8


class Picture(NamedTuple):
    """A small picture inside the page: its data address and its size, px."""

    source: str
    width: int
    height: int


class Pictures(NamedTuple):
    """What the page shows of a photograph.

    Attributes:
        photograph: small; None where the file has gone since it was scored.
        heat: the same with its Grad-CAM map; None where there is none to show.
        raised: whether any place raised the score; otherwise the map is empty.
    """

    photograph: Picture | None
    heat: Picture | None
    raised: bool


def write_page(
    scored: ScoredFolder,
    network: TrainedNetwork,
    about: dict[str, Any],
    out: Path,
    *,
    shown: int = SHOWN,
    on_progress: OnProgress | None = None,
) -> Path:
    """Write `index.html`.

    Args:
        scored: as `score_folder` returns it.
        network: that scored it.
        about: where the network comes from, as `open_model` returns it.
        out: the folder.
        shown: how many photographs the page shows.
        on_progress: called after each batch of pictures.

    Raises:
        DataError: the disk is full or the folder is not writable.
    """
    rows = scored.scores.head(shown).to_dict(orient="records")
    explained = can_explain(network)
    pictures: list[Pictures] = []
    for start in range(0, len(rows), BATCH):
        files = [scored.folder / row["file"] for row in rows[start : start + BATCH]]
        pictures += draw_pictures(files, network, explained=explained)
        if on_progress:
            on_progress("pictures, image", len(pictures), len(rows))
    cases = [
        {**row, "file": readable_name(row["file"]), **drawn._asdict()}
        for row, drawn in zip(rows, pictures, strict=True)
    ]
    page = render_page(
        "scores.html.j2",
        synthetic=False,  # the photographs are a person's own; what the network was trained on, the page says itself
        about=about,
        network=network,
        folder=readable_name(scored.folder.resolve().name),
        cases=cases,
        total=len(scored.scores),
        above=int(scored.scores["malignant"].sum()),
        call=CALL,
        explained=explained,
        problems=[{"file": readable_name(p.file), "problem": p.problem} for p in scored.problems.itertuples()],
    )
    write_atomic(out / "index.html", page)
    return out / "index.html"


def can_explain(network: TrainedNetwork) -> bool:
    """Whether Grad-CAM has a map to show."""
    try:
        gradcam_layer(network.model)
    except ParamsError:
        return False
    return True


def draw_pictures(files: Sequence[Path], network: TrainedNetwork, *, explained: bool) -> list[Pictures]:
    """Each photograph small, and the same with its Grad-CAM map if the network can be `explained`."""
    squares = [decode_image(file, network) for file in files]
    there = [i for i, square in enumerate(squares) if isinstance(square, np.ndarray)]
    maps = explain_squares(np.stack([squares[i] for i in there]), network) if explained and there else []
    heats = dict(zip(there, maps, strict=bool(len(maps))))
    drawn = []
    for i, file in enumerate(files):
        photograph = shrink_photograph(file) if i in there else None
        heat = lay_over(photograph, heats[i], network.aspect) if photograph and i in heats else None
        raised = i in heats and bool(heats[i].any())
        drawn.append(Pictures(photograph and embed(photograph), heat and embed(heat), raised))
    return drawn


def explain_squares(squares: np.ndarray, network: TrainedNetwork) -> np.ndarray:
    """Grad-CAM maps (N, h, w) float32 in [0, 1] of decoded images (N, S, S, 3) uint8."""
    config = data_config(network.model)
    with computing(network.compute):
        pixels = torch.from_numpy(squares).to(network.compute.device)
        x = resize_batch(pixels, network.settings.image_size, interpolation=config.interpolation)
        return compute_gradcam(network.model, config.normalise(x))


def shrink_photograph(file: Path) -> Image.Image | None:
    """A photograph at thumbnail size in its own shape, turned as the network saw it; None where it has gone."""
    try:
        with Image.open(file) as image:
            image.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
            small = image.convert("RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            return small
    except (OSError, ImageError, SyntaxError, ValueError):
        return None


def lay_over(photograph: Image.Image, heat: np.ndarray, aspect: Aspect) -> Image.Image:
    """The heat map over that part of the photograph that the network saw.

    Args:
        photograph: small, in its own shape.
        heat: (h, w) in [0, 1], over the square.
        aspect: how the photograph became the square.
    """
    if aspect == "crop":
        side, (width, height) = min(photograph.size), photograph.size
        left, top = (width - side) // 2, (height - side) // 2
        photograph = photograph.crop((left, top, left + side, top + side))
    large = Image.fromarray(heat.astype(np.float32)).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    if aspect == "pad":
        rows, columns = content_box(*photograph.size, size=THUMBNAIL, aspect="pad")
        large = large.crop((columns.start, rows.start, columns.stop, rows.stop))
    weight = np.clip(np.asarray(large.resize(photograph.size, Image.Resampling.BILINEAR)), 0, 1)
    colours = matplotlib.colormaps[HEAT](weight)[..., :3] * 255
    share = 0.75 * weight[..., None]  # as in the report's figures: no heat, no colour
    return Image.fromarray(((1 - share) * np.asarray(photograph) + share * colours).round().astype(np.uint8))


def embed(image: Image.Image) -> Picture:
    """A picture as a data address. Nothing of the file's own metadata, such as a place or a date, comes along."""
    packed = io.BytesIO()
    image.save(packed, "jpeg", quality=QUALITY)
    source = "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode("ascii")
    return Picture(source, *image.size)
