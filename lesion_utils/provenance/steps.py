"""The study as a list of steps: what each uses, reads and makes, and the key that says what it depends on.

Needs no heavy library, so that every question about the study is answered at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from lesion_utils.config.schema import StudyParams
from lesion_utils.config.sources import fingerprint_source, fingerprint_weights
from lesion_utils.core.definitions import fingerprint_definitions
from lesion_utils.core.errors import RunError
from lesion_utils.core.files import digest_file
from lesion_utils.core.names import NETWORKS
from lesion_utils.core.paths import Study, project_root
from lesion_utils.core.seal import load_sealed, read_sealed
from lesion_utils.provenance.fingerprint import fingerprint_notebook, read_code


@dataclass(frozen=True)
class Step:
    """One step of a study.

    Attributes:
        name: the notebook's name, or "data" or "index".
        uses: the YAML files whose values it depends on.
        reads: files of the report that earlier steps made; their content counts.
        makes: patterns of what it makes, besides its product, relative to the report's folder.
        entry: `module:function` that does the work, or the notebook's file without its ending.
        product: its main file, relative to the report's folder.
        network: the network that it trains, if any.
    """

    name: str
    uses: tuple[str, ...]
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    entry: str
    product: str
    network: str | None = None

    @property
    def is_notebook(self) -> bool:
        return ":" not in self.entry

    @property
    def mark(self) -> str:
        """The file whose time `make` compares, relative to the report's folder; the last that a run writes."""
        return f"keys/{self.name}.done.json"

    @property
    def notebook(self) -> Path:
        """The notebook as it is committed; further networks run through that of the first."""
        return project_root() / "notebooks" / f"{self.entry}.ipynb"

    def may_make(self, path: str) -> bool:
        """Whether a file of the report, named relative to its folder, is this step's."""
        return any(fnmatch(path, pattern) for pattern in (self.product, *self.makes))


#: Definitions that one reason names.
_NAMED = 6

#: Packages whose next release may give other numbers or figures.
_DECIDE_NUMBERS = ["torch", "torchvision", "timm", "captum", "numpy", "scipy", "scikit-learn", "pandas", "pillow"]
_DECIDE_NUMBERS += ["matplotlib", "seaborn"]

_DATA = ("data/manifest.json",)
_CONTROL = "metrics/01_eda_control_scores.csv"


def list_steps(study: Study) -> dict[str, Step]:
    """The steps of a study by their names, in the order in which they run."""
    return _list_steps(tuple(study.networks))


def list_names(networks: Sequence[str]) -> list[str]:
    """Names of the steps of a study with these networks, in the order in which they run."""
    return list(_list_steps(tuple(networks)))


@cache
def _list_steps(networks: Sequence[str]) -> dict[str, Step]:
    training = [find_training_step(name) for name in networks]
    results = [path for name in networks for path in _predictions(name)]
    tables = ("choices", "training", "single_scores")
    results += [f"metrics/{step.name}_{table}.csv" for step in training for table in tables]
    every = ("data", "augmentation", *networks)
    steps = (
        Step("data", ("data",), (), ("data/*",), "data.prepare:prepare_study", "data/manifest.json"),
        _notebook("01_eda", ("data",)),
        _notebook("02_augmentation_preview", every),
        *training,
        _notebook("05_comparison", ("data", "comparison"), (*results, _CONTROL)),
        Step("index", (*every, "comparison"), ("runs",), ("explore.html",), "report.index:build_site", "index.html"),
    )
    return {step.name: step for step in steps}


def find_training_step(network: str) -> Step:
    """The step that trains a network, named by the file that describes it, such as "resnet50"."""
    own = dict(zip(NETWORKS, ("03_resnet50_finetune", "04_vgg19_finetune"), strict=True))
    name = own.get(network, f"network_{network}")
    entry = own.get(network, own[NETWORKS[0]])
    step = _notebook(name, ("data", "augmentation", network), (), *_predictions(network))
    return replace(step, entry=entry, network=network)


def _predictions(network: str) -> tuple[str, str]:
    """The scores of the study's own images, and those of external test sets where it names any."""
    return f"predictions/{network}.csv", f"predictions/{network}_external.csv"


def _notebook(name: str, uses: tuple[str, ...], reads: tuple[str, ...] = (), *makes: str) -> Step:
    figures = (f"figures/{name}_*", f"metrics/{name}.json", f"metrics/{name}_*", f"html/{name}.html")
    return Step(name, uses, (*_DATA, *reads), (*figures, *makes), name, f"notebooks/{name}.ipynb")


def find_step(study: Study, name: str) -> Step:
    """The step of that name.

    Raises:
        RunError: there is none.
    """
    steps = list_steps(study)
    if name not in steps:
        raise RunError(f"there is no step {name!r}", expected="one of " + ", ".join(steps))
    return steps[name]


def compute_key(step: Step, params: StudyParams) -> dict[str, Any]:
    """What a step depends on, apart from the files of earlier steps; needs no heavy library.

    Returns:
        `params` (by file), `code` (hash by definition), `notebook`, `data` and `weights` (null where they do not
        concern it), `packages` (releases by name).
    """
    shown = params.hide_places()  # the images' content is in `data`, whose fingerprint does not depend on their folder
    entry = {"source": read_code(step.notebook), "entries": ()} if step.is_notebook else {"entries": [step.entry]}
    return {
        "params": {name: getattr(shown, name).model_dump(mode="json") for name in step.uses},
        "code": fingerprint_definitions(**entry),
        "notebook": fingerprint_notebook(step.notebook) if step.is_notebook else None,
        "data": fingerprint_source(params.data) if step.name == "data" else None,
        "weights": fingerprint_weights(params.network(step.network)) if step.network else None,
        "packages": read_versions(),
    }


@cache
def read_versions() -> dict[str, str]:
    """Releases, as installed, of the packages that decide numbers and figures."""
    found = {}
    for name in _DECIDE_NUMBERS:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name).partition("+")[0]  # 2.14.1+cpu is 2.14.1
    return found


def hash_inputs(study: Study, step: Step) -> dict[str, str]:
    """SHA-256 of each file that a step takes from earlier ones; the index takes every other step's record."""
    paths = [study.report_dir / name for name in step.reads if name != "runs"]
    if "runs" in step.reads:
        paths += [study.runs / name / "run.json" for name in list_steps(study) if name != step.name]
    return {p.relative_to(study.report_dir).as_posix(): digest_file(p) for p in paths if p.is_file()}


def load_done(study: Study, step: Step) -> dict[str, Any] | None:
    """Key and inputs with which a step last succeeded here; None if it never did, or its mark was changed."""
    done, problem = read_sealed(study.report_dir / step.mark)
    if done is None or (problem and "seal" in done):  # marks of earlier versions have no seal
        return None
    return done if done.keys() >= {"params", "code", "notebook", "data", "weights", "inputs"} else None


def load_record(study: Study, step: Step) -> dict[str, Any] | None:
    """A step's `run.json`; None if there is none, or it was changed."""
    return load_sealed(study.runs / step.name / "run.json")


def load_ok_record(study: Study, step: Step) -> dict[str, Any] | None:
    """The record of a step's last run if that succeeded."""
    record = load_record(study, step)
    whole = record is not None and record.keys() >= {"wall_seconds", "peak_memory_bytes"}
    return record if record and whole and record.get("status") == "ok" else None


def list_upstream(study: Study, step: Step) -> list[str]:
    """Names of the steps whose files a step reads, in order."""
    steps = list_steps(study)
    if "runs" in step.reads:
        return [name for name in steps if name != step.name]
    return [name for name, other in steps.items() if any(other.may_make(path) for path in step.reads)]


# --- a reason for every change ------------------------------------------------------------------


@dataclass(frozen=True)
class Reason:
    """Why a step has to run.

    Attributes:
        kind: "params", "notebook", "images", "weights", "packages", "code", "input" (a file of an earlier step),
            "missing" (a file of its own), "unfinished" (its last run), "new" (it never ran), "upstream" (an earlier
            step runs) or "running" (now, in another process).
        text: the same for a reader, such as "params vgg19.optim.momentum 0.9 -> 0.95".
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return self.text


def explain_key(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Reason]:
    """A reason for each difference of two keys: parameters, notebook, images, weights, packages, code."""
    for key, before, after in list_differences(old["params"], new["params"]):
        yield Reason("params", f"params {key} {before} -> {after}")
    if old["notebook"] != new["notebook"]:
        yield Reason("notebook", "the notebook changed")
    if old["data"] != new["data"]:
        yield Reason("images", "the images' files changed")
    if old["weights"] != new["weights"] and (new["weights"] or {}).get("state") != "not local":  # gone, not changed
        yield Reason("weights", "the pretrained weights changed")
    known = old.get("packages", {})  # absent from the marks of earlier versions
    for name, version in new.get("packages", {}).items():
        if known.get(name, version).partition("+")[0] != version:
            yield Reason("packages", f"{name} {known[name]} -> {version}")
    names = sorted(n for n in old["code"].keys() | new["code"].keys() if old["code"].get(n) != new["code"].get(n))
    if names:
        yield Reason("code", f"code: {', '.join(names[:_NAMED])}{' ...' * (len(names) > _NAMED)}")


def explain_inputs(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Reason]:
    """A reason for each file of earlier steps that changed, appeared or went."""
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) != new.get(path):
            how = "changed" if path in old and path in new else "is gone" if path in old else "is new"
            yield Reason("input", f"{path} {how}")


def list_differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Dotted key, value before, value after, of every leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            yield from list_differences(old.get(key, ...), new.get(key, ...), f"{prefix}.{key}" if prefix else key)
    elif old != new:
        yield prefix, _show(old), _show(new)


def _show(value: Any) -> str:
    return "(absent)" if value is ... else json.dumps(value)
