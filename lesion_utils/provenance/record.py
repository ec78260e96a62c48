"""`run.json`: what a step was made from, by what, when, and every file that came out of it.

No user name, host name or absolute path is recorded: a report can be sent to anyone.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from lesion_utils.config.schema import StudyParams
from lesion_utils.core import paths
from lesion_utils.core.files import digest_bytes, digest_file, dump_json, read_json, write_atomic
from lesion_utils.core.git import run_git
from lesion_utils.core.machine import name_processor
from lesion_utils.core.names import NETWORKS, name_data_set, name_model
from lesion_utils.core.paths import Study, project_root
from lesion_utils.core.run_files import DONE
from lesion_utils.core.seal import load_sealed, seal_record
from lesion_utils.core.settings import read_count, read_omp_threads
from lesion_utils.provenance.steps import Step
from lesion_utils.provenance.verify import SELECTION

SCHEMA_VERSION = 1
#: What a record has of a GPU beside its name.
_GPU_FACTS = ("capability", "memory_gib", "driver", "cuda", "cudnn")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


def name_run(step: Step, key: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The run's id: the same content has the same one on any day and machine, so that figures carrying it compare."""
    content = [key["params"], key["code"], key["notebook"], inputs]
    return f"{step.name}-{digest_bytes(dump_json(content).encode())[:12]}"


def describe_run(
    study: Study, step: Step, params: StudyParams, *, key: Mapping[str, Any], inputs: Mapping[str, str]
) -> dict[str, Any]:
    """What is known before a step runs: all of `run.json` but times, memory, device and outputs."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": name_run(step, key, inputs),
        "step": step.name,
        "study": study.name,
        "title": read_title(step, params),
        **describe_code(),
        **key,
        "data": describe_data(study, params),
        "packages": list_packages(),
        "lock_hash": digest_file(project_root() / "requirements" / "run.lock"),
        "seeds": list_seeds(step, params),
        "inputs": dict(inputs),
        "outputs": [],
    }


def finish_run(
    study: Study, step: Step, record: Mapping[str, Any], *, status: str, started: datetime, outputs: Iterable[Path] = ()
) -> dict[str, Any]:
    """Complete a record and write it as `runs/<step>/run.json`.

    Args:
        status: "running", "ok", "failed" or "interrupted".
        started: UTC.
    """
    ended = datetime.now(UTC)
    finished = {
        **record,
        "device": describe_device(),
        "determinism": {"level": None, "warned_ops": []},
        **(describe_training(study, step) if status == "ok" else {}),
        "status": status,
        "started": f"{started:{_TIME}}",
        "ended": f"{ended:{_TIME}}",
        "wall_seconds": round((ended - started).total_seconds(), 2),
        "peak_memory_bytes": measure_peak_memory(),
        "outputs": [_describe_output(study, path) for path in sorted(outputs)],
        "runs": _hash_runs(study, step) if status == "ok" else {},
    }
    write_atomic(study.runs / step.name / "run.json", dump_json(seal_record(finished)))
    return finished


def finish_broken_run(
    study: Study, step: Step, record: Mapping[str, Any], *, status: str, started: datetime, logs: Iterable[Path]
) -> None:
    """Record that a run failed, after the files of the last run that succeeded are back.

    The record goes on to describe these files, and what they were made from; without any, it describes the run that
    failed.

    Args:
        status: "failed" or "interrupted".
        started: UTC.
        logs: of the run that failed.
    """
    path = study.runs / step.name / "run.json"
    earlier = load_sealed(path) or {}
    kept = [output for output in earlier.get("outputs", []) if not output["path"].startswith("runs/")]
    if not kept:
        finish_run(study, step, record, status=status, started=started, outputs=logs)
        return
    now = {"status": status, "reasons": record["reasons"]}
    now |= {"started": f"{started:{_TIME}}", "ended": f"{datetime.now(UTC):{_TIME}}"}
    outputs = [*kept, *(_describe_output(study, log) for log in sorted(logs))]
    write_atomic(path, dump_json(seal_record({**earlier, **now, "outputs": outputs})))


def write_selection_record(study: Study, outputs: Iterable[Path]) -> None:
    """Write `runs/selection/run.json`: the files of `make select`, with their hashes."""
    files = [_describe_output(study, path) for path in sorted(outputs)]
    record = {"step": SELECTION, "status": "ok", **describe_code(), "outputs": files}
    write_atomic(study.runs / SELECTION / "run.json", dump_json(seal_record(record)))


def _hash_runs(study: Study, step: Step) -> dict[str, str]:
    """SHA-256 of the `DONE` of each training run that a step's results are made of, by the name of its folder."""
    metrics = read_json(study.metrics / f"{step.name}.json") if step.network else None
    names = [run["folder"] for run in (metrics or {}).get("runs", []) if "folder" in run]
    marks = {name: study.runs / step.name / name / DONE for name in names}
    return {name: digest_file(mark) for name, mark in marks.items() if mark.is_file()}


def describe_training(study: Study, step: Step) -> dict[str, Any]:
    """What only training knows, from the numbers that its notebook saved: the device, determinism and weights."""
    runs = (read_json(study.metrics / f"{step.name}.json") or {}).get("runs") if step.network else None
    if not runs:
        return {}
    compute = runs[0]["compute"]
    peaks = [run["compute"]["peak_memory_gib"] for run in runs if "peak_memory_gib" in run["compute"]]  # of a GPU
    used = next((run["weights"] for run in runs if run["weights"]), {"name": "none"})
    return {
        "device": {
            "type": compute["device"],
            "name": compute["processor"],
            "threads": compute["threads"],
            "precision": compute["precision"],
            **{name: compute[name] for name in _GPU_FACTS if name in compute},
            **({"peak_memory_gib": max(peaks)} if peaks else {}),
        },
        "determinism": {
            "level": compute["level"],
            "warned_ops": sorted({name for run in runs for name in run["nondeterministic"]}),
        },
        "weights": used,
    }


def read_title(step: Step, params: StudyParams) -> str:
    """A notebook's first heading, with this study's networks and images in place of those that it was written for."""
    if not step.is_notebook:
        return {"data": "The data", "index": "The report"}[step.name]
    cells = (read_json(step.notebook) or {"cells": []})["cells"]
    prose = "".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "markdown")
    title = next(iter(re.findall(r"^# (.+)$", prose, re.MULTILINE)), step.name).strip()
    models = {name_model(slot): name_model(params.models[step.network or slot]) for slot in NETWORKS}
    title = re.sub("|".join(models), lambda found: models[found[0]], title)
    return title if params.data.is_challenge else title.replace("ISIC 2016", "own images")


def describe_code() -> dict[str, str | None]:
    """The commit, and a hash of what differs from it in code, notebooks and parameters; null where there is no git."""
    watched = ["--", "lesion_utils", "notebooks", "params", "pyproject.toml", "requirements"]
    commit = run_git("rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty_hash": None}
    changes = run_git("diff", "HEAD", "--binary", *watched) or ""
    new = (run_git("ls-files", "--others", "--exclude-standard", *watched) or "").splitlines()
    changes += "".join(f"{name} {digest_file(project_root() / name)}\n" for name in new)
    return {"commit": commit.strip(), "dirty_hash": digest_bytes(changes.encode()) if changes else None}


def describe_data(study: Study, params: StudyParams) -> dict[str, Any]:
    """Where the images come from and what they are, from the manifest that the step `data` wrote."""
    manifest = read_json(study.data / "manifest.json") or {}
    return {
        "source": params.data.source,
        "content_hash": manifest.get("content"),
        "description": manifest.get("summary") or name_data_set(params.data.source),
    }


def list_packages() -> dict[str, str]:
    """Versions of Python and of every package that the project asks for by name, as installed."""
    with (project_root() / "pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["project"]["dependencies"]
    names = [re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in wanted]
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    return versions


def list_seeds(step: Step, params: StudyParams) -> dict[str, Any]:
    """Every seed among the parameters that a step uses."""
    sections = {name: getattr(params, name).model_dump() for name in step.uses}
    named = ((name, key, section) for name, section in sections.items() for key in ("seed", "seeds"))
    return {f"{name}.{key}": section[key] for name, key, section in named if key in section}


def describe_device() -> dict[str, Any]:
    """The processor, without asking torch; a step that uses another device notes that itself."""
    threads = read_count("THREADS") or read_omp_threads() or os.cpu_count() or 1
    return {"type": "cpu", "name": name_processor(), "threads": threads}


def measure_peak_memory() -> int:
    """Most memory that this process, or one that it started and that has ended, held at once, bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    children = unit * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    try:  # Linux hands a parent's peak on to the process that it starts, except here
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        own = 1024 * int(re.findall(r"VmHWM:\s+(\d+)", status)[0])
    except OSError:
        own = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(own, children)


def scrub_paths(text: str, own: Iterable[str] = ()) -> str:
    """Text without this machine's folders: the project's become relative, others get a name, the home becomes `~`.

    Args:
        text: such as a traceback, or a notebook's JSON.
        own: further folders and files to take out, such as those of a study's own images.
    """
    named = {
        **{f"<own {number}>": paths.find_own(place) for number, place in enumerate(own, start=1)},
        "$DATA_DIR": paths.data_dir(),
        "$WEIGHTS_DIR": paths.weights_dir(),
        "$LESION_CACHE": paths.cache_dir(),
        "$REPORTS_DIR": paths.reports_root(),
        "<env>": Path(sys.prefix),
        "<python>": Path(sys.base_prefix),
        "~": Path.home(),
    }
    others = {name: p for name, p in named.items() if p and p != Path("/") and not p.is_relative_to(project_root())}
    for name, path in sorted((others | {".": project_root()}).items(), key=lambda item: -len(str(item[1]))):
        in_json = json.dumps(str(path), ensure_ascii=False)[1:-1]  # a quotation mark has a backslash there
        text = re.sub(f"(?:{re.escape(str(path))}|{re.escape(in_json)})" + r"(?![\w.-])", name, text)
    # Each pattern begins with fixed text: an executed notebook is megabytes of images in one line.
    cells = re.escape(tempfile.gettempdir()) + r"/ipykernel_\d+/\d+\.py"
    return re.sub(cells, "<cell>", text).replace("./lesion_utils/", "lesion_utils/")


def _describe_output(study: Study, path: Path) -> dict[str, Any]:
    relative = path.relative_to(study.report_dir).as_posix()
    return {"path": relative, "sha256": digest_file(path), "bytes": path.stat().st_size}
