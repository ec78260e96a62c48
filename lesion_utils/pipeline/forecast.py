"""What would run, why, and how long it took the last time."""

from __future__ import annotations

from lesion_utils.config.schema import StudyParams
from lesion_utils.core.console import format_duration
from lesion_utils.core.paths import Study
from lesion_utils.pipeline.graph import explain_study
from lesion_utils.provenance.record import load_ok_record
from lesion_utils.provenance.steps import STEPS

#: Reasons that one sentence holds.
_SPELT_OUT = 3


def tell_why(study: Study, params: StudyParams) -> str:
    """One sentence per step: "04_vgg19_finetune runs because params vgg19.optim.momentum 0.9 -> 0.95"."""
    return "\n".join(_tell_step(name, reasons) for name, reasons in explain_study(study, params).items())


def _tell_step(name: str, reasons: list[str]) -> str:
    if not reasons:
        return f"{name} is up to date"
    only_follows = all(reason.endswith(" runs") for reason in reasons)
    verb = "follows, since" if only_follows else "runs because"
    more = f"; and {len(reasons) - _SPELT_OUT} more" if len(reasons) > _SPELT_OUT else ""
    return f"{name} {verb} {'; '.join(reasons[:_SPELT_OUT])}{more}"


def tell_plan(study: Study, params: StudyParams) -> str:
    """A table of the steps: whether each would run, and the time and memory of its last run that succeeded."""
    rows, seconds, unknown = [], 0.0, 0
    for name, reasons in explain_study(study, params).items():
        record = load_ok_record(study, STEPS[name])
        took = format_duration(record["wall_seconds"]) if record else "not known yet"
        memory = f"{record['peak_memory_bytes'] / 2**30:.1f} GiB" if record else ""
        now = "runs" if reasons else "up to date"
        rows.append(f"{name:<24} {now:<10} {took:>14} {memory:>10}".rstrip())
        if now == "runs":
            seconds += record["wall_seconds"] if record else 0
            unknown += record is None
    more = f", and {unknown} steps of unknown length" if unknown else ""
    total = f"in all about {format_duration(seconds)}{more}"
    return "\n".join([f"{'step':<24} {'now':<10} {'last took':>14} {'memory':>10}", *rows, total])
