"""Whether a step must run, and why.

`make` compares times, and a key's file changes only when its content does; before anything runs, contents decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lesion_utils.config.schema import StudyParams
from lesion_utils.core.files import dump_json, write_atomic, write_if_changed
from lesion_utils.core.paths import Study
from lesion_utils.provenance.steps import (
    STEPS,
    Step,
    compute_key,
    explain_inputs,
    explain_key,
    hash_inputs,
    list_upstream,
    load_done,
    load_record,
)


def write_keys(study: Study, params: StudyParams) -> None:
    """Write `keys/<step>.json` for every step; a file's time changes only when the step may have to run."""
    for step in STEPS.values():
        path = study.keys / f"{step.name}.json"
        changed = write_if_changed(path, dump_json(compute_key(step, params)))
        if not changed and list_missing(study, step):
            path.touch()


def mark_done(study: Study, step: Step, key: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """Remember what a step succeeded with; the last thing that a run writes."""
    write_atomic(study.keys / f"{step.name}.done.json", dump_json({**key, "inputs": inputs}))


def forget_done(study: Study, step: Step) -> None:
    """A step that starts is not done until it ends, whatever stops it."""
    (study.keys / f"{step.name}.done.json").unlink(missing_ok=True)


def list_missing(study: Study, step: Step) -> list[str]:
    """Recorded outputs of a step that are not there, and its target."""
    record = load_record(study, step) or {}
    expected = dict.fromkeys([step.target, *(output["path"] for output in record.get("outputs", []))])
    return [path for path in expected if not (study.report_dir / path).is_file()]


def list_reasons(study: Study, step: Step, key: Mapping[str, Any], inputs: Mapping[str, str] | None) -> list[str]:
    """Why a step has to run, most telling first; empty when it is up to date.

    Args:
        key: from `compute_key`.
        inputs: from `hash_inputs`; None while they are not made yet.
    """
    done = load_done(study, step)
    if done is None:
        record = load_record(study, step) or {}
        unfinished = {"failed": "it failed", "interrupted": "it was interrupted", "running": "it was killed"}
        return [unfinished.get(record.get("status", ""), "it has not run on this machine yet")]
    changes = [*explain_key(done, key), *(explain_inputs(done["inputs"], inputs) if inputs is not None else ())]
    return [*changes, *(f"{path} is missing" for path in list_missing(study, step))]


def explain_study(study: Study, params: StudyParams) -> dict[str, list[str]]:
    """For each step, why it would run; empty lists for those that are up to date."""
    reasons: dict[str, list[str]] = {}
    for step in STEPS.values():
        before = [why for name in list_upstream(step) if (why := _explain_upstream(step, name, reasons[name]))]
        inputs = None if before else hash_inputs(study, step)
        reasons[step.name] = [*list_reasons(study, step, compute_key(step, params), inputs), *before]
    return reasons


def _explain_upstream(step: Step, name: str, reasons: list[str]) -> str:
    """What an earlier step's reasons mean for one that reads its files; only the index reads its page and record."""
    return f"{name} runs" if reasons else ""
