"""`explore.html`: the test images with their scores, and what a threshold does with them, in one file."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from lesion_utils.config.schema import StudyParams
from lesion_utils.core.errors import LesionError
from lesion_utils.core.files import write_if_changed
from lesion_utils.core.paths import Study
from lesion_utils.data.prepared import load_prepared
from lesion_utils.data.tables import read_csv
from lesion_utils.evaluation.literature import list_readers, read_published
from lesion_utils.evaluation.metrics import DEFAULT_THRESHOLD
from lesion_utils.evaluation.predictions import ENSEMBLE, add_ensembles, read_predictions
from lesion_utils.report.content import Report
from lesion_utils.report.pages import TEMPLATES, embed_pixels, name_credit, render_page

PAGE = "explore.html"

#: Sides of a photograph, px: the largest with which all of them fit.
SIDES = (64, 48, 32, 24)
_MOST_BYTES = 1_200_000
_WIDEST = 16_383  # px of a WebP file
_COLUMNS = 40


def write_explorer(study: Study, params: StudyParams, folder: Path, *, photographs: bool) -> Path | None:
    """Write the page on which a reader tries thresholds.

    Args:
        study: whose scores are read, from `predictions/` and, for combinations, from `metrics/`.
        params: of the study.
        folder: where the page goes.
        photographs: whether it may show the images; they are left out as well if they cannot be read.

    Returns:
        The page's path; None if the study has no scores of test images.
    """
    report = Report(study.report_dir)
    labels, models = _read_scores(report)
    if not models:
        return None
    content = {
        "ids": list(labels),
        "labels": list(labels.values()),
        "models": models,
        "readers": list_readers(read_published(challenge=params.data.is_challenge)),
        "sprite": _draw_sprite(study, params, list(labels)) if photographs else None,
    }
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    script = (TEMPLATES / "explore.js").read_text(encoding="utf-8")
    about = {"study": study.name, "title": params.data.title, "credit": name_credit(params.data.source)}
    page = render_page(
        "explore.html.j2", script=script, data=Markup(text), photographs=content["sprite"] is not None, **about
    )
    write_if_changed(folder / PAGE, page)
    return folder / PAGE


def _read_scores(report: Report) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Each test image's label; each model's name, chosen threshold and scores in that order, the best model first."""
    paths = [path for path in sorted(report.folder.glob("predictions/*.csv")) if not path.stem.endswith("_external")]
    if not paths:
        return {}, []
    every = read_predictions(paths)
    means = add_ensembles(every[every["split"] == "test"])
    means = means[means["seed"] == ENSEMBLE]
    labels = dict(zip(means["image_id"], means["target"].astype(int).tolist(), strict=True))
    metrics = report.folder / "metrics"
    chosen = _read(metrics / "05_comparison_predictive_values.csv", ["model", "regime", "name", "threshold"])
    names = {(row.model, row.regime): row.name for row in chosen.itertuples(index=False)}
    thresholds = dict(zip(chosen["name"], chosen["threshold"], strict=True))
    found = {
        names.get(key, ", ".join(key)): own.set_index("image_id")["probability"]
        for key, own in means.groupby(["model", "regime"], sort=False)
    }
    for entry in _read(metrics / "05_comparison_entries.csv", ["name", "file"]).itertuples(index=False):
        found[entry.name] = read_csv(metrics / entry.file).set_index("image")["malignant"]  # combinations too
    models = [
        {"name": name, "threshold": thresholds.get(name, DEFAULT_THRESHOLD), "scores": own.reindex(labels).tolist()}
        for name, own in found.items()
        if set(labels) <= set(own.index)
    ]
    best = (report.metrics.get("05_comparison", {}).get("best") or {}).get("name")
    return labels, sorted(models, key=lambda model: model["name"] != best)


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    """A table; an empty one if it is absent, as some are in reports of earlier versions."""
    return read_csv(path) if path.is_file() else pd.DataFrame(columns=columns)


def _draw_sprite(study: Study, params: StudyParams, ids: list[str]) -> dict[str, Any] | None:
    """All photographs side by side in one picture, in rows of `columns`; None if they cannot be had or do not fit."""
    try:
        data = load_prepared(study, params.data)
        images, places = data.images, data.rows_of(ids)
    except (LesionError, OSError, KeyError):
        return None
    for side in SIDES:
        rows = -(-len(ids) // _COLUMNS)
        if rows * side > _WIDEST:
            continue
        sheet = Image.new("RGB", (_COLUMNS * side, rows * side))
        for place, row in enumerate(places):  # one at a time: together they may be larger than the memory
            small = Image.fromarray(np.asarray(images[row])).resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(small, (place % _COLUMNS * side, place // _COLUMNS * side))
        if len(source := embed_pixels(sheet, True)) <= _MOST_BYTES:
            return {"source": source, "side": side, "columns": _COLUMNS}
    return None


def cut_strip(page: Path, *, each: int = 6) -> str | None:
    """Some photographs of a page that `write_explorer` wrote, side by side: first benign lesions, then malignant ones.

    Args:
        page: its file.
        each: how many of each class.

    Returns:
        A data address of `2 * each` squares; None without the page, its photographs, or so many of a class.
    """
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    content = json.loads(found[1]) if found else {}
    if not content.get("sprite"):
        return None
    labels, side, columns = np.array(content["labels"]), content["sprite"]["side"], content["sprite"]["columns"]
    chosen = [np.flatnonzero(labels == label) for label in (0, 1)]
    if min(map(len, chosen)) < each:
        return None
    places = np.concatenate([own[:: len(own) // each][:each] for own in chosen])  # from one end of the set to the other
    strip = Image.new("RGB", (2 * each * side, side))
    with Image.open(io.BytesIO(base64.b64decode(content["sprite"]["source"].partition(",")[2]))) as sheet:
        for number, place in enumerate(places.tolist()):
            x, y = place % columns * side, place // columns * side
            strip.paste(sheet.crop((x, y, x + side, y + side)), (number * side, 0))
    return embed_pixels(strip, True)
