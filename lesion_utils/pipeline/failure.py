"""A failed step in the words of the person who has to go on: the cell, the last lines, what to try, where to read."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from lesion_utils.config.schema import StudyParams
from lesion_utils.core.console import format_clock
from lesion_utils.core.errors import RunError, is_out_of_memory
from lesion_utils.core.files import read_json
from lesion_utils.core.paths import Study, name_file
from lesion_utils.provenance.record import scrub_paths
from lesion_utils.provenance.steps import Step

_DISK = re.compile("No space left on device|Disk quota exceeded|File too large|Read-only file system")
_LAST_LINES = 8


def explain_failure(error: BaseException, study: Study, step: Step, params: StudyParams, *, seconds: float) -> RunError:
    """The message of a step that failed after some seconds: the cell, the last lines, what to try, where to read on."""
    partial = study.notebooks / f"{step.name}.partial.ipynb"
    cell = _describe_cell(partial) if step.is_notebook else ""
    lines = [f"{step.name} failed{cell} after {format_clock(seconds)}"]
    lines += [f"  {line}" for line in [*_read_last_lines(error), *_suggest(error, study, step, params)]]
    log = study.runs / step.name / "train.jsonl"
    named = {"notebook": partial if step.is_notebook else None, "log": log}
    lines += [f"  {what:<9} {name_file(path)}" for what, path in named.items() if path and path.is_file()]
    return RunError("\n".join([*lines, f"  resume with: make all STUDY={study.name}"]))


def is_dead_kernel(error: BaseException) -> bool:
    """Whether the process that ran the notebook ended without a word."""
    return type(error).__name__ == "DeadKernelError"


def _describe_cell(partial: Path) -> str:
    """` in cell 7 "Train"`: the number that the notebook shows, and the heading above the cell."""
    heading, number, found = "", 0, ""
    for cell in (read_json(partial) or {"cells": []})["cells"]:
        if cell["cell_type"] == "markdown":
            titles = re.findall(r"^#+\s+(.+)$", "".join(cell["source"]), re.MULTILINE)
            heading = titles[-1].strip() if titles else heading
            continue
        number += 1  # as In [number] shows it: a dead kernel has left none
        state = cell["metadata"].get("papermill", {})
        if state.get("start_time"):
            found = f' in cell {number} "{heading}"'
        if state.get("exception"):
            break
    return found


def _read_last_lines(error: BaseException) -> list[str]:
    """The error's own words; for an error of this package, all of them."""
    if is_dead_kernel(error):
        return ["the notebook's process (its kernel) died without a message: most often because memory ran out"]
    name = getattr(error, "ename", type(error).__name__)
    text = getattr(error, "evalue", None)
    body = scrub_paths(text if text is not None else str(error)).strip()
    own = name.endswith("Error") and "\n  do next" in body
    lines = body.splitlines() or [""]
    if own:
        return lines
    where = _find_line(getattr(error, "traceback", []))
    return [f"{name}: {lines[0]}", *lines[1:][-_LAST_LINES:], *where]


def _find_line(traceback: list[str]) -> list[str]:
    """The deepest line of this package, or of the notebook, that a traceback passed through."""
    text = scrub_paths(re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(traceback)))
    found = re.findall(r"(lesion_utils/[\w/]+\.py)(?::|, line )(\d+)", text)
    return [f"at {found[-1][0]}:{found[-1][1]}"] if found else []


def _suggest(error: BaseException, study: Study, step: Step, params: StudyParams) -> list[str]:
    """What to do if a file could not be written, and what to lower if memory ran out."""
    words = f"{getattr(error, 'ename', type(error).__name__)} {getattr(error, 'evalue', error)}"
    if _DISK.search(words) and "\n  do next" not in words:
        left = shutil.disk_usage(study.report_dir).free
        place = name_file(study.report_dir)
        return [f"the disk of {place} has {left:,} bytes left; free some space, or choose another place: REPORTS_DIR"]
    if not (is_dead_kernel(error) or is_out_of_memory(words)):
        return []
    if step.network is None:
        size = params.data.stored_size
        return [f"close other programs, or lower stored_size (now {size}) in params/{study.name}/data.yaml"]
    network = params.network(step.network)
    smaller = max(2, network.batch_size // 2)
    more = network.accumulation * 2
    return [
        f"this was at batch_size {network.batch_size}, {network.image_size} px; try batch_size: {smaller} with "
        f"accumulation: {more} in params/{study.name}/{step.network}.yaml"
    ]
