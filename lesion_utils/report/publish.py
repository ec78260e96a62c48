"""`make publish`: of a finished report, the part that is committed, and a list of what is left out of it.

One rule decides, file by file (`explain_absence`), and everything follows it: the links of the page, the report's own
`.gitignore`, and `published.json`, by which `make verify` knows what a copy may lack. No photograph of a data set is
ever published, nor a page that holds one.
"""

from __future__ import annotations

import base64
import io
import re
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from PIL import Image

from lesion_utils.config.schema import StudyParams
from lesion_utils.core.errors import RunError
from lesion_utils.core.files import dump_json, write_atomic, write_if_changed
from lesion_utils.core.paths import Study
from lesion_utils.provenance import steps
from lesion_utils.provenance.fingerprint import digest_file
from lesion_utils.provenance.record import renew_record
from lesion_utils.provenance.steps import STEPS
from lesion_utils.provenance.verify import PUBLISHED, Finding, describe_verdict, seal_record, verify_study
from lesion_utils.report.content import Figure, Report
from lesion_utils.report.index import build_site

SCHEMA_VERSION = 1

#: Files that no step records and that belong to a published copy: what was chosen and why, records, learning curves.
#: `DONE` does not: without the weights beside it, training in the copy would take itself for finished.
UNRECORDED = (
    "*.md",
    "*.json",
    "selection/*.csv",
    "runs/*/run.json",
    "runs/*/params.json",
    "runs/*/*/history.jsonl",
    ".gitignore",
)

#: A colour scale has as many; a photograph has thousands.
MOST_COLOURS = 256

#: Reasons to leave a file out.
PHOTOGRAPHS = "shows photographs of the data set"
HOLDS_PHOTOGRAPHS = "holds figures that show photographs of the data set"
LARGE_PAGE = "megabytes, and drawn again by a run; index.html shows its figures"
LARGE_TABLE = "facts of every image, found again by the step `data`"
TWICE = "the same figure as its SVG"


@dataclass(frozen=True)
class Item:
    """One file of a report: where it lies, its hash, its size, and why it is left out; "" where it is published."""

    path: str
    sha256: str
    bytes: int
    reason: str = ""


@dataclass(frozen=True)
class Copy:
    """What was published: `items` of both kinds, and the verdict on the whole report (see `describe_verdict`).

    `tracked` are files under version control that no longer belong to the copy.
    """

    study: str
    items: list[Item]
    verdict: Mapping[str, str]
    tracked: list[str]

    @property
    def published(self) -> list[Item]:
        return [item for item in self.items if not item.reason]

    @property
    def left_out(self) -> list[Item]:
        return [item for item in self.items if item.reason]


def publish_study(study: Study, params: StudyParams) -> Copy:
    """Make the published copy of a report, in its place: the page, `.gitignore` and `published.json`.

    Args:
        study: whose report is finished.
        params: of the study.

    Raises:
        RunError: the report is not whole, or something in it is not what its record says.
    """
    findings = verify_study(study, whole=True)
    _refuse_damaged(study, findings)
    names = {item.path for item in list_items(study) if not item.reason} | {".gitignore", PUBLISHED}
    page = build_site(study, params, published=names)
    renew_record(study, STEPS["index"], [page])
    write_if_changed(study.report_dir / ".gitignore", write_ignore_rules(names))
    tracked = [name for name in list_tracked(study.report_dir) if name not in names]
    copy = Copy(study.name, list_items(study), describe_verdict(verify_study(study, whole=True)), tracked)
    write_atomic(study.report_dir / PUBLISHED, dump_json(seal_record(_to_mapping(copy))))
    return copy


def list_items(study: Study) -> list[Item]:
    """Every file that a step recorded, and every other one that belongs to a published copy, sorted by path."""
    figures = {f"{figure.step}_{figure.name}": figure for figure in Report(study.report_dir).figures}
    shows = {name: _may_show_photographs(figure) for name, figure in figures.items()}
    records = [steps.load_record(study, step) or {} for step in STEPS.values()]
    recorded = {output["path"]: output for record in records for output in record.get("outputs", [])}
    items = []
    for path, output in recorded.items():
        reason = explain_absence(study, path, photographs=shows)
        items.append(Item(path, output["sha256"], output["bytes"], reason))
    found = {path for pattern in UNRECORDED for path in study.report_dir.glob(pattern) if path.is_file()}
    for path in found:
        name = path.relative_to(study.report_dir).as_posix()
        if name not in recorded and name != PUBLISHED:
            items.append(Item(name, digest_file(path), path.stat().st_size))
    return sorted(items, key=lambda item: item.path)


def explain_absence(study: Study, path: str, *, photographs: Mapping[str, bool]) -> str:
    """Why a recorded file is left out of the published copy; "" where it belongs to it.

    Args:
        study: whose report it is.
        path: relative to the report's folder.
        photographs: for each figure, `<step>_<name>`, whether it shows photographs.
    """
    folder, stem, suffix = path.rpartition("/")[0], Path(path).stem, Path(path).suffix
    if folder in ("notebooks", "html"):
        holds = any(shown and name.startswith(f"{stem}_") for name, shown in photographs.items())
        return HOLDS_PHOTOGRAPHS if holds else LARGE_PAGE
    if folder == "figures" and suffix != ".json":
        if photographs.get(stem, True):
            return PHOTOGRAPHS
        twin = (study.figures / f"{stem}.svg").is_file()
        return TWICE if suffix == ".png" and twin else ""
    return LARGE_TABLE if path == "data/images.csv" else ""


def write_ignore_rules(names: Collection[str]) -> str:
    """The report's `.gitignore`: nothing goes under version control but these files."""
    head = ["# Written by `make publish`: nothing is committed but what is named here.", "*", "!*/"]
    return "\n".join([*head, *(f"!/{name}" for name in sorted(names)), ""])


def describe_copy(copy: Copy) -> str:
    """What was published, in one line, and what to do next."""
    size = sum(item.bytes for item in copy.published) / 1e6
    state = "" if copy.verdict["tone"] == "good" else f"; {copy.verdict['headline']}, so run make all first"
    counts = f"{len(copy.published) + 1} files, {size:.1f} MB ({len(copy.left_out)} left out{state})"
    forget = f"git rm -rq --cached reports/{copy.study}; " if copy.tracked else ""
    return f"published {counts}   next: {forget}git add reports/{copy.study}"


def list_tracked(folder: Path) -> list[str]:
    """Files of a folder that are under version control, relative to it; none where there is no git."""
    command = ["git", "-C", str(folder), "ls-files", "-z", "."]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return [name for name in done.stdout.split("\0") if name]


def _may_show_photographs(figure: Figure) -> bool:
    """Whether a figure says so, or looks like it: a picture of more colours than a chart has, whatever was noted."""
    if figure.shows_images:
        return True
    embedded = re.findall(rb'="data:image/\w+;base64,([^"]+)"', figure.svg.read_bytes()) if figure.svg else []
    pictures = (Image.open(io.BytesIO(base64.b64decode(text))) for text in embedded)
    return any(picture.convert("RGB").getcolors(MOST_COLOURS) is None for picture in pictures)


def _refuse_damaged(study: Study, findings: Collection[Finding]) -> None:
    """Only a report whose every file is there and as recorded is published; a stale one says so on its page."""
    unrecorded = [finding for finding in findings if not _is_expected(finding.path)]
    bad = [finding for finding in unrecorded if not finding.is_clean and finding.state != "stale"]
    if bad:
        first = "; ".join(f"{finding.path} ({finding.state})" for finding in bad[:3])
        raise RunError(
            f"the report cannot be published: {first}" + (f"; and {len(bad) - 3} more" if len(bad) > 3 else ""),
            where=f"reports/{study.name}",
            expected="every file there, and as its record has it",
            do=f"run: make verify STUDY={study.name}, then make all STUDY={study.name}",
        )


def _is_expected(path: str) -> bool:
    return any(fnmatch(path, pattern) for pattern in UNRECORDED if "/" not in pattern) and "/" not in path


def _to_mapping(copy: Copy) -> dict[str, Any]:
    def spell(item: Item) -> dict[str, Any]:
        return {"path": item.path, "sha256": item.sha256, "bytes": item.bytes}

    return {
        "schema_version": SCHEMA_VERSION,
        "study": copy.study,
        "files": [spell(item) for item in copy.published],
        "left_out": [{**spell(item), "reason": item.reason} for item in copy.left_out],
    }
