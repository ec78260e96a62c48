"""Running one step: only where its content changed, one at a time per device, never half done.

A step is done when its mark is there, which is what `make` compares; a run removes it first and writes it last. So
whatever stops a run, and whenever, its step does not count as done, and the same command goes on from the last epoch.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from pkgutil import resolve_name
from threading import Event
from typing import Any

from filelock import FileLock, Timeout

from lesion_utils.config.load import load_study
from lesion_utils.config.schema import StudyParams
from lesion_utils.core import paths
from lesion_utils.core.console import Console, follow_log, format_clock, format_duration
from lesion_utils.core.errors import LesionError, RunError
from lesion_utils.core.files import read_json
from lesion_utils.core.paths import Study
from lesion_utils.pipeline import graph
from lesion_utils.provenance import record as provenance
from lesion_utils.provenance import steps
from lesion_utils.provenance.record import scrub_paths
from lesion_utils.provenance.steps import Step


def run_step(name: str, study_name: str, *, console: Console) -> None:
    """Run a step of a study, unless it is up to date.

    Args:
        name: such as "03_resnet50_finetune".
        study_name: folder under `params/`.
        console: where progress and the step's one line go.

    Raises:
        LesionError: the parameters are wrong, or the step failed; says what to do.
        KeyboardInterrupt: it was interrupted, or asked to end.
    """
    study = Study(study_name)
    step = steps.find_step(study, name)
    params = load_study(study.params_dir)
    with lock_device(study, step, console=console), end_on_signals() as asked:
        started = time.time()
        key, inputs = steps.compute_key(step, params), steps.hash_inputs(study, step)
        reasons = graph.list_reasons(study, step, key, inputs)
        if not reasons:
            console.report(f"{step.name:<24} up to date")
            os.utime(study.report_dir / step.mark, (started, started))
            return
        _make_step(study, step, params, key, inputs, console=console, asked=asked)
        # Weights that were fetched during the run are there from now on, and data may have been fetched too.
        fetched = steps.compute_key(step, params)
        key |= {"data": fetched["data"], "weights": fetched["weights"]}
        graph.mark_done(study, step, key, inputs, started=started)


def _make_step(
    study: Study,
    step: Step,
    params: StudyParams,
    key: dict[str, Any],
    inputs: dict[str, str],
    *,
    console: Console,
    asked: Event,
) -> None:
    started, clock = datetime.now(UTC), time.monotonic()
    record = provenance.describe_run(study, step, params, key=key, inputs=inputs)
    graph.forget_done(study, step)
    (study.runs / step.name / "train.jsonl").unlink(missing_ok=True)
    provenance.finish_run(study, step, record, status="running", started=started)
    try:
        with set_aside(study, step), console.show_step(step.name, follow_log(study, step.name)):
            _run_work(study, step, params, record["run_id"], console=console)
    except BaseException as error:
        # The kernel, asked too, may have ended first: that is no failure.
        stopped = isinstance(error, KeyboardInterrupt) or asked.is_set()
        status = "interrupted" if stopped else "failed"
        provenance.finish_run(study, step, record, status=status, started=started)
        if stopped:
            raise KeyboardInterrupt from error
        if isinstance(error, LesionError):
            raise
        raise explain_failure(error, study, step, params, seconds=time.monotonic() - clock) from error
    record["data"] = provenance.describe_data(study, params)
    provenance.finish_run(study, step, record, status="ok", started=started, outputs=list_outputs(study, step))
    where = f"   {_relative(study.report_dir / step.product)}" if step.name == "index" else ""
    console.report(f"{step.name:<24} ok {format_duration(time.monotonic() - clock):>12}{where}")


def _run_work(study: Study, step: Step, params: StudyParams, run_id: str, *, console: Console) -> None:
    """What the step is there for."""
    # jsonschema would build a grammar of internationalised addresses, two seconds of every step, to check none.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # None: importing it fails
    if not step.is_notebook:
        resolve_name(f"lesion_utils.{step.entry}")(study, params, on_progress=console.show_count)
    else:
        _train_ahead(study, step, params, run_id, console=console)
        from lesion_utils.pipeline.notebook import run_notebook
        from lesion_utils.report.notebook_pages import write_notebook_page

        notebook = run_notebook(study, step, params, run_id)
        page = study.html / f"{step.name}.html"
        write_notebook_page(notebook, page, study=study.name)


def _train_ahead(study: Study, step: Step, params: StudyParams, run_id: str, *, console: Console) -> None:
    """With `JOBS` or `CLUSTER`, train the study's networks in other processes; the notebooks then find that done.

    What fails fails again in its own notebook, which says more; only this step's own failures end it here.
    """
    if not step.network or not (os.environ.get("JOBS") or os.environ.get("CLUSTER")):
        return
    from lesion_utils.pipeline.notebook import kernel_environment
    from lesion_utils.training.ahead import train_ahead
    from lesion_utils.training.jobs import list_jobs

    with kernel_environment(run_id):
        failed = train_ahead(list_jobs(study, params), console=console)
    for job, error in failed.items():
        console.report(f"{job}: {str(error).splitlines()[0]}")
    own = [error for job, error in failed.items() if job.network == step.network]
    if own:
        raise own[0]


@contextmanager
def lock_device(study: Study, step: Step, *, console: Console) -> Iterator[None]:
    """Hold the device that a step computes on; says so when it has to wait for another run."""
    device = choose_device() if step.network else "cpu"
    path = paths.reports_root() / f".{device}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        with console.show_step(step.name, lambda: f"waits for another run on this {device}"):
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def choose_device() -> str:
    """The device that training will take, guessed without loading torch: only a lock's name hangs on it."""
    asked = os.environ.get("DEVICE", "").strip().lower() or "auto"
    if asked == "cuda" or (asked == "auto" and shutil.which("nvidia-smi")):
        return f"cuda{os.environ.get('CUDA_VISIBLE_DEVICES', '').partition(',')[0] or 0}"
    if asked != "auto":
        return re.sub(r"\W", "", asked)
    return "mps" if (platform.system(), platform.machine()) == ("Darwin", "arm64") else "cpu"


@contextmanager
def end_on_signals() -> Iterator[Event]:
    """Being asked to end (`kill`, a closed terminal) stops a run as Ctrl-C does, and with it the kernel.

    Yields whether it was asked. Once is enough: asked again, it goes on ending.
    """
    asked = Event()

    def interrupt(number: int, frame: object) -> None:
        if not asked.is_set():
            asked.set()
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def set_aside(study: Study, step: Step) -> Iterator[None]:
    """Move a notebook's earlier outputs away, so that none outlives its cause; they return if the run fails."""
    store = study.runs / step.name / "previous"
    _put_back(store, study.report_dir)  # what a killed run had moved
    for path in list_outputs(study, step) if step.is_notebook else []:
        kept = store / path.relative_to(study.report_dir)
        kept.parent.mkdir(parents=True, exist_ok=True)
        path.replace(kept)
    try:
        yield
    except BaseException:
        _put_back(store, study.report_dir)
        raise
    shutil.rmtree(store, ignore_errors=True)


def _put_back(store: Path, folder: Path) -> None:
    for kept in [path for path in store.rglob("*") if path.is_file()]:
        path = folder / kept.relative_to(store)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            kept.replace(path)
    shutil.rmtree(store, ignore_errors=True)


def list_outputs(study: Study, step: Step) -> list[Path]:
    """The files of the report that are a step's, sorted."""
    patterns = (step.product, *step.makes)
    found = {path for pattern in patterns for path in study.report_dir.glob(pattern) if path.is_file()}
    return sorted(found)


# --- a failed step in the words of the person who has to go on ----------------------------------

_MEMORY = re.compile(r"out of memory|(can't|cannot|unable to) allocate|not enough memory|MemoryError", re.IGNORECASE)
_LAST_LINES = 8


def explain_failure(error: BaseException, study: Study, step: Step, params: StudyParams, *, seconds: float) -> RunError:
    """The message of a failed step: the cell, the last lines, what to try, and where to read on.

    Args:
        error: what papermill, or the step's own code, raised.
        seconds: that the step had run.
    """
    partial = study.notebooks / f"{step.name}.partial.ipynb"
    cell = _describe_cell(partial) if step.is_notebook else ""
    lines = [f"{step.name} failed{cell} after {format_clock(seconds)}"]
    lines += [f"  {line}" for line in [*_read_last_lines(error), *_suggest(error, study, step, params)]]
    log = study.runs / step.name / "train.jsonl"
    named = {"notebook": partial if step.is_notebook else None, "log": log}
    lines += [f"  {what:<9} {_relative(path)}" for what, path in named.items() if path and path.is_file()]
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
    """What to lower when memory ran out."""
    words = f"{getattr(error, 'ename', type(error).__name__)} {getattr(error, 'evalue', error)}"
    if not (is_dead_kernel(error) or _MEMORY.search(words)):
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


def _relative(path: Path) -> str:
    root = paths.project_root()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
