"""Running one step: only where its content changed, one training at a time per device, never half done.

A step is done when its mark is there, which is what `make` compares; a run removes it first and writes it last. So
whatever stops a run, and whenever, its step does not count as done, and the same command goes on from the last epoch.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from threading import Event
from typing import Any

from filelock import FileLock, Timeout

from lesion_utils.config.load import load_study
from lesion_utils.config.schema import StudyParams
from lesion_utils.core import paths
from lesion_utils.core.console import Console, follow_log, format_duration, list_remarks
from lesion_utils.core.errors import LesionError
from lesion_utils.core.files import DISK_ERRORS, cannot_write, dump_json, read_json, remove_halves, write_atomic
from lesion_utils.core.paths import Study, name_file
from lesion_utils.core.running import mark_running
from lesion_utils.core.settings import explain_old_driver, find_device, guess_device
from lesion_utils.data.challenge import FOLDERS, LABEL_FILES
from lesion_utils.pipeline import graph
from lesion_utils.pipeline.failure import explain_failure
from lesion_utils.provenance import record as provenance
from lesion_utils.provenance import steps
from lesion_utils.provenance.steps import Step

#: In the folder of a step's earlier outputs: their names.
_NAMES = "names.json"

#: Trains the networks of a study, and raises if one of the named network failed.
TrainAhead = Callable[[Study, StudyParams, str, Console], None]


def run_step(name: str, study: Study, *, console: Console, train_ahead: TrainAhead | None = None) -> None:
    """Run a step of a study, unless it is up to date.

    Args:
        name: of the step.
        study: whose step.
        console: shows how far it is.
        train_ahead: called before the notebook of a network, which then finds its trainings done.

    Raises:
        LesionError: the parameters are wrong, or the step failed; says what to do.
        KeyboardInterrupt: it was interrupted, or asked to end.
    """
    step = steps.find_step(study, name)
    params = load_study(study.params_dir)
    with take_turns(step, console=console), mark_running(study, step.name), end_on_signals() as asked:
        started = time.time()
        key, inputs = steps.compute_key(step, params), steps.hash_inputs(study, step)
        fetched = _list_fetched(key, params)
        reasons = graph.list_reasons(study, step, key, inputs)
        if not reasons:
            console.report(f"{step.name:<24} up to date")
            os.utime(study.report_dir / step.mark, (started, started))
            return
        if step.network and find_device() is None and (why := explain_old_driver()):
            console.report(f"{step.name:<24} {why}; computing on the CPU instead")
        work = partial(_run_work, study, step, params, console=console, train_ahead=train_ahead)
        _make_step(study, step, params, key, inputs, work, reasons=reasons, console=console, asked=asked)
        now = steps.compute_key(step, load_study(study.params_dir))
        key |= {name: now[name] for name in fetched}
        if changed := [name for name in ("params", "code", "notebook", "data", "weights") if key[name] != now[name]]:
            what = f"{', '.join(changed)} changed while it ran: the next make all runs it again"
            console.report(f"{step.name:<24} {what}")
        graph.mark_done(study, step, key, inputs, started=started)


def _record_reason(reason: steps.Reason) -> str:
    """A reason as a record has it, which may be published: without values of parameters and without places."""
    if reason.kind in ("images", "weights"):
        return reason.kind
    if reason.kind == "new":
        return "it had not run on this machine"
    return " ".join(reason.text.split()[:2]) if reason.kind == "params" else reason.text


def _list_fetched(key: Mapping[str, Any], params: StudyParams) -> list[str]:
    """Parts of a key that a run is about to fetch: they count as they are after it, all others as they were before."""
    names = (*FOLDERS.values(), *LABEL_FILES.values())
    data_are_there = params.data.source != "isic2016" or all((paths.data_dir() / name).exists() for name in names)
    weights_are_there = (key["weights"] or {}).get("state") == "local"
    fetches = {"data": not data_are_there, "weights": not weights_are_there}
    return [name for name, fetched in fetches.items() if fetched]


def _make_step(
    study: Study,
    step: Step,
    params: StudyParams,
    key: dict[str, Any],
    inputs: dict[str, str],
    work: Callable[[str], None],
    *,
    reasons: list[steps.Reason],
    console: Console,
    asked: Event,
) -> None:
    started, clock = datetime.now(UTC), time.monotonic()
    record = provenance.describe_run(study, step, params, key=key, inputs=inputs)
    record["reasons"] = [_record_reason(reason) for reason in reasons]
    place = graph.describe_place(study, step.name)
    if not os.environ.get("CLUSTER"):  # whose other machines have processes of their own
        remove_halves(study.report_dir)
    (study.report_dir / step.mark).unlink(missing_ok=True)  # not done until it ends, whatever stops it
    (study.runs / step.name / "train.jsonl").unlink(missing_ok=True)
    try:
        with set_aside(study, step):
            provenance.finish_run(study, step, record, status="running", started=started)
            with console.show_step(step.name, follow_log(study, step.name)):
                console.show(place)  # until the work itself says how far it is
                work(record["run_id"])
            for remark in list_remarks(study, step.name):
                console.report(remark)
            record["data"] = provenance.describe_data(study, params)
            outputs = [*list_outputs(study, step), *list_logs(study, step)]
            provenance.finish_run(study, step, record, status="ok", started=started, outputs=outputs)
    except BaseException as error:
        # The kernel, asked too, may have ended first: that is no failure.
        stopped = isinstance(error, KeyboardInterrupt) or asked.is_set()
        status = "interrupted" if stopped else "failed"
        with suppress(LesionError):  # on a full disk; "running" without its mark is no success either
            logs = list_logs(study, step)
            provenance.finish_broken_run(study, step, record, status=status, started=started, logs=logs)
        if stopped:
            raise KeyboardInterrupt from error
        if isinstance(error, LesionError):
            raise
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise cannot_write(Path(error.filename or study.report_dir), error) from error
        raise explain_failure(error, study, step, params, seconds=time.monotonic() - clock) from error
    more = "" if reasons[0].kind == "new" else f"   because {reasons[0]}"
    more = f"   {name_file(study.report_dir / step.product)}" if step.name == "index" else more
    console.report(f"{step.name:<24} ok {format_duration(time.monotonic() - clock):>12}{more}")


def _run_work(
    study: Study, step: Step, params: StudyParams, run_id: str, *, console: Console, train_ahead: TrainAhead | None
) -> None:
    """What the step is there for."""
    # jsonschema would build a grammar of internationalised addresses, two seconds of every step, to check none.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # None: importing it fails
    if not step.is_notebook:
        resolve_name(f"lesion_utils.{step.entry}")(study, params, on_event=console.show)
    else:
        from lesion_utils.pipeline.notebook import kernel_environment, run_notebook
        from lesion_utils.report.notebook_pages import write_notebook_page

        if step.network and train_ahead:
            with kernel_environment(run_id):
                train_ahead(study, params, step.network, console)
        notebook = run_notebook(study, step, params, run_id)
        page = study.html / f"{step.name}.html"
        write_notebook_page(notebook, page, study=study.name)


@contextmanager
def take_turns(step: Step, *, console: Console) -> Iterator[None]:
    """Hold the device that a step trains on; where it trains nothing, the step, which a second run waits for.

    Says so when it has to wait for another run, of whichever study.
    """
    held = guess_device() if step.network else step.name
    path = paths.reports_root() / f".{held}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        with console.show_step(step.name, lambda: f"waits for another run, which holds {held}"):
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


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
    """Keep a step's earlier outputs and their record until it ends; if it fails, all return and nothing new stays.

    A notebook's outputs are moved away, so that none outlives its cause. The other steps leave a file alone that would
    not change, so theirs are copied, as is the record.
    """
    store, record = study.runs / step.name / "previous", study.runs / step.name / "run.json"
    _put_back(store, study, step)  # what a killed run had moved
    paths = [*list_outputs(study, step), *([record] if record.is_file() else [])]
    names = [path.relative_to(study.report_dir).as_posix() for path in paths]
    write_atomic(store / _NAMES, dump_json({"files": names}))  # first: a kill may come between two files
    for path, name in zip(paths, names, strict=True):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        if step.is_notebook and path != record:
            path.replace(store / name)
        else:
            shutil.copy2(path, store / name)
    try:
        yield
    except BaseException:
        _put_back(store, study, step)
        raise
    (store / _NAMES).unlink()  # from here on the new files count
    shutil.rmtree(store, ignore_errors=True)


def _put_back(store: Path, study: Study, step: Step) -> None:
    """Give a step the outputs that it had; a kill in between changes nothing about what a second call leaves."""
    kept = read_json(store / _NAMES)
    if kept is not None:
        for path in list_outputs(study, step):
            if path.relative_to(study.report_dir).as_posix() not in kept["files"]:
                path.unlink()
        for name in kept["files"]:
            if (store / name).is_file():
                (study.report_dir / name).parent.mkdir(parents=True, exist_ok=True)
                (store / name).replace(study.report_dir / name)
    shutil.rmtree(store, ignore_errors=True)


def list_outputs(study: Study, step: Step) -> list[Path]:
    """The files of the report that are a step's, sorted."""
    patterns = (step.product, *step.makes)
    return sorted({path for pattern in patterns for path in study.report_dir.glob(pattern) if path.is_file()})


def list_logs(study: Study, step: Step) -> list[Path]:
    """What a run leaves beside its record: the injected parameters, the training log, kept scores of external sets."""
    patterns = ("params.json", "train.jsonl", "*/external-*.f32")
    return [path for pattern in patterns for path in (study.runs / step.name).glob(pattern) if path.is_file()]
