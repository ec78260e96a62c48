"""The study as a graph of steps: what each depends on, whether it must run, and why.

A step's key is what it depends on: its parameters, the code that it reaches, its notebook, its data and weights.
`make` compares times, and a key's file changes only when its content does; before anything runs, contents decide.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from lesion_utils.errors import RunError
from lesion_utils.files import dump_json, write_atomic, write_if_changed
from lesion_utils.fingerprint import digest_file, fingerprint_modules, fingerprint_notebook, list_notebook_modules
from lesion_utils.paths import Study, project_root
from lesion_utils.prose import fingerprint_prose
from lesion_utils.schema import StudyParams

NETWORKS = ("resnet50", "vgg19")

#: The one reason that a step has to be looked at and need not run.
PROSE = "the notebook's prose changed: its page is rendered again"


@dataclass(frozen=True)
class Step:
    """One step of a study.

    Attributes:
        name: the notebook's name, or "data" or "index".
        uses: the YAML files whose values it depends on.
        reads: files of the report that earlier steps made; their content counts.
        makes: patterns of what it makes, besides its target, relative to the report's folder.
        entry: modules that do the work, for a step that is not a notebook.
    """

    name: str
    uses: tuple[str, ...]
    reads: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    entry: tuple[str, ...] = ()

    @property
    def is_notebook(self) -> bool:
        return not self.entry

    @property
    def network(self) -> str | None:
        """The network that this step trains, if any."""
        return next((name for name in NETWORKS if name in self.uses and self.is_notebook), None)

    @property
    def target(self) -> str:
        """The file whose time `make` compares, relative to the report's folder."""
        return {"data": "data/manifest.json", "index": "index.html"}.get(self.name, f"notebooks/{self.name}.ipynb")

    @property
    def notebook(self) -> Path:
        """The notebook as it is committed."""
        return project_root() / "notebooks" / f"{self.name}.ipynb"

    def may_make(self, path: str) -> bool:
        """Whether a file of the report, named relative to its folder, is this step's."""
        return any(fnmatch(path, pattern) for pattern in (self.target, *self.makes))


def _notebook(name: str, uses: tuple[str, ...], reads: tuple[str, ...], *makes: str) -> Step:
    figures = (f"figures/{name}_*", f"metrics/{name}.json", f"metrics/{name}_*", f"html/{name}.html")
    return Step(name, uses, reads, (*figures, *makes))


_DATA = ("data/manifest.json",)
_CONTROL = "metrics/01_eda_control_scores.csv"
_PREDICTIONS = ("predictions/resnet50.csv", "predictions/vgg19.csv")
_CHOICES = ("metrics/03_resnet50_finetune_choices.csv", "metrics/04_vgg19_finetune_choices.csv")

#: In the order in which they run.
STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step("data", ("data",), makes=("data/*",), entry=("prepare",)),
        _notebook("01_eda", ("data",), _DATA),
        _notebook("02_augmentation_preview", ("data", "augmentation"), _DATA),
        _notebook("03_resnet50_finetune", ("data", "augmentation", "resnet50"), _DATA, "predictions/resnet50*"),
        _notebook("04_vgg19_finetune", ("data", "augmentation", "vgg19"), _DATA, "predictions/vgg19*"),
        _notebook("05_comparison", ("data", "comparison"), (*_DATA, *_PREDICTIONS, *_CHOICES, _CONTROL)),
        Step("index", ("data", "augmentation", *NETWORKS, "comparison"), ("runs",), (), ("report",)),
    )
}


def find_step(name: str) -> Step:
    """The step of that name.

    Raises:
        RunError: there is none.
    """
    if name not in STEPS:
        raise RunError(f"there is no step {name!r}", expected="one of " + ", ".join(STEPS))
    return STEPS[name]


def compute_key(step: Step, params: StudyParams) -> dict[str, Any]:
    """What a step depends on, apart from the files of earlier steps; needs no heavy library.

    Returns:
        `params` (by file), `code` (fingerprint by module), `notebook`, `prose`, `data` and `weights` (null where they
        do not concern it).
    """
    from lesion_utils import sources, weights

    entry = list_notebook_modules(step.notebook) if step.is_notebook else step.entry
    return {
        "params": {name: getattr(params, name).model_dump(mode="json") for name in step.uses},
        "code": fingerprint_modules(entry),
        "notebook": fingerprint_notebook(step.notebook) if step.is_notebook else None,
        "prose": fingerprint_prose(step.notebook) if step.is_notebook else None,
        "data": sources.fingerprint_source(params.data) if step.name == "data" else None,
        "weights": weights.fingerprint(getattr(params, step.network)) if step.network else None,
    }


def hash_inputs(study: Study, step: Step) -> dict[str, str]:
    """SHA-256 of each file that a step takes from earlier ones; the index takes every other step's record."""
    paths = [study.report_dir / name for name in step.reads if name != "runs"]
    if "runs" in step.reads:
        paths += [study.runs / name / "run.json" for name in STEPS if name != step.name]
    return {p.relative_to(study.report_dir).as_posix(): digest_file(p) for p in paths if p.is_file()}


def write_keys(study: Study, params: StudyParams) -> None:
    """Write `keys/<step>.json` for every step; a file's time changes only when the step may have to run."""
    for step in STEPS.values():
        path = study.keys / f"{step.name}.json"
        changed = write_if_changed(path, dump_json(compute_key(step, params)))
        if not changed and list_missing(study, step):
            path.touch()


def load_done(study: Study, step: Step) -> dict[str, Any] | None:
    """Key and inputs with which a step last succeeded here; None where it never did."""
    return read_json(study.keys / f"{step.name}.done.json")


def mark_done(study: Study, step: Step, key: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """Remember what a step succeeded with; the last thing that a run writes."""
    write_atomic(study.keys / f"{step.name}.done.json", dump_json({**key, "inputs": inputs}))


def forget_done(study: Study, step: Step) -> None:
    """A step that starts is not done until it ends, whatever stops it."""
    (study.keys / f"{step.name}.done.json").unlink(missing_ok=True)


def load_record(study: Study, step: Step) -> dict[str, Any] | None:
    """A step's `run.json`."""
    return read_json(study.runs / step.name / "run.json")


def list_missing(study: Study, step: Step) -> list[str]:
    """Recorded outputs of a step that are not there, and its target."""
    record = load_record(study, step) or {}
    expected = dict.fromkeys([step.target, *(output["path"] for output in record.get("outputs", []))])
    return [path for path in expected if not (study.report_dir / path).is_file()]


def list_reasons(study: Study, step: Step, key: Mapping[str, Any], inputs: Mapping[str, str] | None) -> list[str]:
    """Why a step has to run, most telling first; empty when it is up to date, `PROSE` alone when it need not run.

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
    reasons = [*changes, *(f"{path} is missing" for path in list_missing(study, step))]
    return [reason for reason in reasons if reason != PROSE] or reasons


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
    if reasons == [PROSE]:
        return f"{name} is rendered again" if "runs" in step.reads else ""
    return f"{name} runs" if reasons else ""


def list_upstream(step: Step) -> list[str]:
    """Names of the steps whose files a step reads, in order."""
    if "runs" in step.reads:
        return [name for name in STEPS if name != step.name]
    return [name for name, other in STEPS.items() if any(other.may_make(path) for path in step.reads)]


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file's content; None where the file is missing or cut short."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


# --- a sentence for every change ------------------------------------------------------------------


def explain_key(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each difference of two keys: parameters, notebook, prose, data, weights, code."""
    for key, before, after in list_differences(old["params"], new["params"]):
        yield f"params {key} {before} -> {after}"
    if old["notebook"] != new["notebook"]:
        yield "the notebook's code changed"
    elif old.get("prose") != new.get("prose"):  # records from before it was noted have none
        yield PROSE
    if old["data"] != new["data"]:
        yield "the images' files changed"
    if old["weights"] != new["weights"]:
        yield "the pretrained weights changed"
    modules = sorted(m for m in old["code"].keys() | new["code"].keys() if old["code"].get(m) != new["code"].get(m))
    if modules:
        yield f"code changed in {', '.join(modules)}"


def explain_inputs(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each file of earlier steps that changed, appeared or went."""
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) != new.get(path):
            yield f"{path} {'changed' if path in old and path in new else 'is gone' if path in old else 'is new'}"


def list_differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Dotted key, value before, value after, of every leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            yield from list_differences(old.get(key, ...), new.get(key, ...), f"{prefix}.{key}" if prefix else key)
    elif old != new:
        yield prefix, _show(old), _show(new)


def _show(value: Any) -> str:
    return "(absent)" if value is ... else json.dumps(value)
