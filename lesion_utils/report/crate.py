"""Reports and code as other programs read them: RO-Crate for a published report, CodeMeta for the project.

The crate's profile is Process Run Crate 0.5 (https://w3id.org/ro/wfrun/process/0.5): an action for each step, with what
it read, what it made and what it ran, all taken from the steps' records.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rocrate.model.contextentity import ContextEntity
from rocrate.model.entity import Entity
from rocrate.rocrate import ROCrate

from lesion_utils.core.files import digest_file, dump_json, write_atomic
from lesion_utils.report.content import Report

CRATE = "ro-crate-metadata.json"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
TERMS = "https://w3id.org/ro/terms/workflow-run/context"
LICENSES = "https://spdx.org/licenses/"
DATA_SET = "https://arxiv.org/abs/1605.01397"


def write_crate(report: Report, folder: Path) -> None:
    """Write `ro-crate-metadata.json` of a copy: its report's records say which step made what of it."""
    crate = ROCrate(version="1.1")
    crate.metadata.extra_contexts.append(TERMS)
    crate.name, crate.license = report.title, LICENSES + "MIT"
    crate.description = " ".join(report.sentences[:1]) or f"Report of the study {report.study}."
    crate.datePublished = max(run.get("ended") or "" for run in report.runs.values())
    crate.root_dataset["conformsTo"] = _add(crate, PROFILE, "CreativeWork", name="Process Run Crate", version="0.5")
    if report.manifest.get("source") != "folder":
        crate.root_dataset["citation"] = _add(crate, DATA_SET, "ScholarlyArticle", name="Gutman et al. 2016, ISIC 2016")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != CRATE)
    files = {name: crate.add_file(dest_path=name, properties=_describe_file(folder / name)) for name in names}
    for step, run in report.runs.items():
        crate.root_dataset.append_to("mentions", _add_action(crate, step, run, files))
    write_atomic(folder / CRATE, dump_json(crate.metadata.generate()))


def _add_action(crate: ROCrate, step: str, run: Mapping[str, Any], files: Mapping[str, Entity]) -> Entity:
    """One step: its notebook or module at its commit, the files that it read and those that it made."""
    software = {"name": f"lesion-utils, {step}", "version": run.get("commit") or "unknown"}
    read = [files[name] for name in run.get("inputs", {}) if name in files]
    weights = run.get("weights") or {}
    if digest := weights.get("sha256"):
        read.append(_add(crate, f"#{digest[:12]}", "CreativeWork", name=weights["name"], sha256=digest))
    made = [output["path"] for output in run.get("outputs", [])] + [f"runs/{step}/run.json"]
    return _add(
        crate,
        f"#{run['run_id']}",
        "CreateAction",
        name=run.get("title") or step,
        startTime=run.get("started"),
        endTime=run.get("ended"),
        actionStatus="http://schema.org/" + ("Completed" if run.get("status") == "ok" else "Failed") + "ActionStatus",
        instrument=_add(crate, f"#software-{step}", "SoftwareApplication", **software),
        object=read,
        result=[files[name] for name in made if name in files],
    )


def _add(crate: ROCrate, identifier: str, kind: str, /, **properties: object) -> Entity:
    entity = crate.add(ContextEntity(crate, identifier, properties={"@type": kind}))
    for key, value in properties.items():
        if value not in (None, []):
            entity[key] = value
    return entity


def _describe_file(path: Path) -> dict[str, str]:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return {"sha256": digest_file(path), "contentSize": str(path.stat().st_size), "encodingFormat": kind}
