"""The study as a list of steps: what each uses, reads and makes, and the key that says what it depends on.

Needs no heavy library, so that every question about the study is answered at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from lesion_utils.config.schema import StudyParams
from lesion_utils.core.errors import RunError
from lesion_utils.core.files import read_json
from lesion_utils.core.paths import Study, project_root
from lesion_utils.provenance.fingerprint import (
    digest_file,
    fingerprint_modules,
    fingerprint_notebook,
    list_notebook_modules,
)
from lesion_utils.provenance.outside import fingerprint_source, fingerprint_weights

NETWORKS = ("resnet50", "vgg19")


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
        Step("data", ("data",), makes=("data/*",), entry=("data.prepare",)),
        _notebook("01_eda", ("data",), _DATA),
        _notebook("02_augmentation_preview", ("data", "augmentation"), _DATA),
        _notebook("03_resnet50_finetune", ("data", "augmentation", "resnet50"), _DATA, "predictions/resnet50*"),
        _notebook("04_vgg19_finetune", ("data", "augmentation", "vgg19"), _DATA, "predictions/vgg19*"),
        _notebook("05_comparison", ("data", "comparison"), (*_DATA, *_PREDICTIONS, *_CHOICES, _CONTROL)),
        Step("index", ("data", "augmentation", *NETWORKS, "comparison"), ("runs",), (), ("report.index",)),
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
        `params` (by file), `code` (fingerprint by module), `notebook`, `data` and `weights` (null where they do not
        concern it).
    """
    entry = list_notebook_modules(step.notebook) if step.is_notebook else step.entry
    return {
        "params": {name: getattr(params, name).model_dump(mode="json") for name in step.uses},
        "code": fingerprint_modules(entry),
        "notebook": fingerprint_notebook(step.notebook) if step.is_notebook else None,
        "data": fingerprint_source(params.data) if step.name == "data" else None,
        "weights": fingerprint_weights(getattr(params, step.network)) if step.network else None,
    }


def hash_inputs(study: Study, step: Step) -> dict[str, str]:
    """SHA-256 of each file that a step takes from earlier ones; the index takes every other step's record."""
    paths = [study.report_dir / name for name in step.reads if name != "runs"]
    if "runs" in step.reads:
        paths += [study.runs / name / "run.json" for name in STEPS if name != step.name]
    return {p.relative_to(study.report_dir).as_posix(): digest_file(p) for p in paths if p.is_file()}


def load_done(study: Study, step: Step) -> dict[str, Any] | None:
    """Key and inputs with which a step last succeeded here; None where it never did."""
    return read_json(study.keys / f"{step.name}.done.json")


def load_record(study: Study, step: Step) -> dict[str, Any] | None:
    """A step's `run.json`."""
    return read_json(study.runs / step.name / "run.json")


def list_upstream(step: Step) -> list[str]:
    """Names of the steps whose files a step reads, in order."""
    if "runs" in step.reads:
        return [name for name in STEPS if name != step.name]
    return [name for name, other in STEPS.items() if any(other.may_make(path) for path in step.reads)]


# --- a sentence for every change ------------------------------------------------------------------


def explain_key(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each difference of two keys: parameters, notebook, data, weights, code."""
    for key, before, after in list_differences(old["params"], new["params"]):
        yield f"params {key} {before} -> {after}"
    if old["notebook"] != new["notebook"]:
        yield "the notebook changed"
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
