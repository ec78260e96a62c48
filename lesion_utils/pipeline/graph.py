"""Whether a step must run, why, and how long it took the last time.

`make` compares times, and a key's file changes only when its content does; before anything runs, contents decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from lesion_utils.config.schema import StudyParams
from lesion_utils.core.console import format_duration
from lesion_utils.core.errors import LesionError
from lesion_utils.core.files import dump_json, write_atomic, write_if_changed
from lesion_utils.core.machine import describe_gpus, name_processor
from lesion_utils.core.paths import Study, docs_root
from lesion_utils.core.running import list_running
from lesion_utils.core.seal import seal_record
from lesion_utils.core.settings import guess_device
from lesion_utils.provenance import steps
from lesion_utils.provenance.steps import Reason, Step
from lesion_utils.report.content import Report

#: Reasons that one sentence holds.
_SPELT_OUT = 3


def write_keys(study: Study, params: StudyParams) -> None:
    """Write `keys/<step>.json` for every step; a file's time changes only when the step may have to run."""
    for step in steps.list_steps(study).values():
        path, key = study.keys / f"{step.name}.json", steps.compute_key(step, params)
        changed = write_if_changed(path, dump_json(key))
        # make compares times alone: it does not see a missing output, nor a mark that `make -t` touched.
        if not changed and list_reasons(study, step, key, steps.hash_inputs(study, step)):
            path.touch()


def mark_done(study: Study, step: Step, key: Mapping[str, Any], inputs: Mapping[str, str], *, started: float) -> None:
    """Remember what a step succeeded with; the last thing that a run writes.

    Args:
        started: seconds since 1970. The mark gets this time, so that a change made during the run is newer than it.
    """
    write_atomic(study.report_dir / step.mark, dump_json(seal_record({**key, "inputs": inputs})), modified=started)


def list_missing(study: Study, step: Step) -> list[str]:
    """Recorded outputs of a step that are not there, and its product."""
    record = steps.load_record(study, step) or {}
    expected = dict.fromkeys([step.product, *(output["path"] for output in record.get("outputs", []))])
    return [path for path in expected if not (study.report_dir / path).is_file()]


def list_reasons(study: Study, step: Step, key: Mapping[str, Any], inputs: Mapping[str, str] | None) -> list[Reason]:
    """Why a step has to run, most telling first; empty when it is up to date.

    Args:
        inputs: None while they are not made yet.
    """
    done = steps.load_done(study, step)
    if done is None:
        ended = {"failed": "it failed", "interrupted": "it was interrupted", "running": "it was killed"}
        status = str((steps.load_record(study, step) or {}).get("status"))
        if status not in ended:
            return [Reason("new", "it has not run on this machine yet")]
        return [Reason("unfinished", ended[status])]
    changes = list(steps.explain_key(done, key))
    changes += steps.explain_inputs(done["inputs"], inputs) if inputs is not None else ()
    return [*changes, *(Reason("missing", f"{path} is missing") for path in list_missing(study, step))]


def explain_study(study: Study, params: StudyParams) -> dict[str, list[Reason]]:
    """For each step, why it would run; empty lists for those that are up to date."""
    reasons: dict[str, list[Reason]] = {}
    running = list_running(study)
    for step in steps.list_steps(study).values():
        if step.name in running:
            reasons[step.name] = [_explain_running(study, step)]
            continue
        upstream = [name for name in steps.list_upstream(study, step) if reasons[name]]
        before = [Reason("upstream", f"{name} {_verb(reasons[name])}") for name in upstream]
        inputs = None if before else steps.hash_inputs(study, step)
        reasons[step.name] = [*list_reasons(study, step, steps.compute_key(step, params), inputs), *before]
    return reasons


def _explain_running(study: Study, step: Step) -> Reason:
    """A step that runs now, in another terminal: its mark is gone, which looks like a run that was killed."""
    with suppress(KeyError, TypeError, ValueError):
        started = datetime.fromisoformat((steps.load_record(study, step) or {})["started"])
        return Reason("running", f"has been running since {started.astimezone():%Y-%m-%d %H:%M}")
    return Reason("running", "is running")


def tell_why(study: Study, params: StudyParams) -> str:
    """One sentence per step: "04_vgg19_finetune runs because params vgg19.optim.momentum 0.9 -> 0.95"."""
    return "\n".join(_tell_step(study, name, reasons) for name, reasons in explain_study(study, params).items())


def _tell_step(study: Study, name: str, reasons: Sequence[Reason]) -> str:
    if not reasons:
        record = steps.load_ok_record(study, steps.find_step(study, name)) or {}
        before = [str(reason) for reason in record.get("reasons", [])]  # absent from records of earlier versions
        return f"{name} is up to date" + (f"; it last ran because {_write_reasons(before)}" if before else "")
    if reasons[0].kind == "running":
        return f"{name} {reasons[0]}"
    link = "because" if _verb(reasons) == "runs" else "too, since"
    return f"{name} {_verb(reasons)} {link} {_write_reasons(reasons)}"


def _write_reasons(reasons: Sequence[object]) -> str:
    """The first reasons in one line, and how many more there are."""
    more = f"; and {len(reasons) - _SPELT_OUT} more" if len(reasons) > _SPELT_OUT else ""
    return f"{'; '.join(map(str, reasons[:_SPELT_OUT]))}{more}"


def _verb(reasons: Sequence[Reason]) -> str:
    """Where only earlier steps run, what they make decides: often it is the same again."""
    return "may run" if all(reason.kind == "upstream" for reason in reasons) else "runs"


def tell_plan(study: Study, params: StudyParams) -> str:
    """A table of the steps: whether each would run, and the time and memory of its last run that succeeded.

    What has not run here has the figures of the study's published report, with its processor below the table.
    """
    rows, seconds, unknown, published = [], 0.0, 0, set[str]()
    for name, reasons in explain_study(study, params).items():
        known = find_times(study, name)
        took = format_duration(known.seconds) if known else "not known yet"
        memory = f"{known.memory / 2**30:.1f} GiB" if known else ""
        mark = "*" if known and known.processor else ""
        published |= {known.processor.partition(", AVX")[0]} if known and mark and reasons else set()
        rows.append(
            f"{name:<24} {_verb(reasons) if reasons else 'up to date':<10} {took + mark:>14} {memory:>10}".rstrip()
        )
        if reasons:
            seconds += known.seconds if known else 0
            unknown += known is None
    more = f", and {unknown} steps of unknown length" if unknown else ""
    total = [f"in all about {format_duration(seconds)}{more}"]
    total += [f"* on {processor}, where the published report was made" for processor in sorted(published)]
    device = guess_device()
    trains = f"trains on {device}: {describe_gpus() if device.startswith('cuda') else name_processor()}"
    return "\n".join([f"{'step':<24} {'now':<10} {'took':>14} {'memory':>10}", *rows, *total, trains])


class Times(NamedTuple):
    """What a step took.

    Attributes:
        seconds: of its last run; of training where that run found its networks trained.
        memory: bytes, at most.
        processor: where, if that was not this machine's last run but the published report's; else "".
    """

    seconds: float
    memory: int
    processor: str


def find_times(study: Study, name: str) -> Times | None:
    """What a step took the last time that it succeeded here, or for the published report; None if neither is known."""
    if record := steps.load_ok_record(study, steps.find_step(study, name)):
        return Times(record["wall_seconds"], record["peak_memory_bytes"], "")
    published = Report(docs_root() / study.name)
    with suppress(LesionError, OSError, AttributeError, KeyError, TypeError, ValueError):  # it may be damaged, or older
        record = published.runs[name]
        return Times(float(published.count_seconds(name) or 0), record["peak_memory_bytes"], record["device"]["name"])
    return None


def describe_place(study: Study, name: str) -> str:
    """Which of how many steps this is, and how long it takes if that is known: "step 5 of 7, about 1 min 34 s"."""
    names, known = list(steps.list_steps(study)), find_times(study, name)
    return f"step {names.index(name) + 1} of {len(names)}" + (
        f", about {format_duration(known.seconds)}" if known else ""
    )
