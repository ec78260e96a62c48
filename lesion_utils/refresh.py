"""What follows a change that needs no new run: a page rendered again, and its record sealed again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lesion_utils import graph
from lesion_utils.files import dump_json, write_atomic
from lesion_utils.fingerprint import digest_file
from lesion_utils.graph import Step
from lesion_utils.paths import Study
from lesion_utils.prose import splice_prose
from lesion_utils.provenance import load_ok_record, read_title
from lesion_utils.schema import StudyParams
from lesion_utils.verify import seal_record


def refresh_page(study: Study, step: Step, params: StudyParams, key: Mapping[str, Any]) -> bool:
    """Give an executed notebook, and its page, the prose that its notebook has now.

    The new files are complete before they take the place of the old ones, so that whatever stops this leaves an
    executed notebook that can be read.

    Args:
        study: whose report it is.
        step: a notebook's.
        params: of the study.
        key: the step's, from `graph.compute_key`.

    Returns:
        False where nothing was done and the notebook has to run: the executed one is not the recorded one, or its code
        is other than it was.

    Raises:
        RunError: the page cannot be made.
    """
    import nbformat

    from lesion_utils.notebook_pages import write_notebook_page

    notebook, page = study.report_dir / step.target, study.html / f"{step.name}.html"
    record, done = load_ok_record(study, step), graph.load_done(study, step)
    if record is None or done is None or not _is_recorded(record, step.target, notebook):
        return False
    written, executed = (json.loads(path.read_text(encoding="utf-8")) for path in (step.notebook, notebook))
    spliced = splice_prose(written, executed)
    if spliced is None:
        return False
    partial = notebook.with_name(f"{step.name}.partial.ipynb")
    # As the run wrote it, so that the file differs in the words alone.
    node = nbformat.reads(json.dumps(spliced), as_version=nbformat.NO_CONVERT)
    write_atomic(partial, nbformat.writes(node, version=nbformat.NO_CONVERT))
    write_notebook_page(partial, page, study=study.name, synthetic=params.data.source == "synthetic")
    partial.replace(notebook)
    renew_record(study, step, [notebook, page], prose=key["prose"], title=read_title(step))
    rest = {name: value for name, value in done.items() if name != "inputs"}
    graph.mark_done(study, step, {**rest, "prose": key["prose"]}, done["inputs"])
    return True


def renew_record(study: Study, step: Step, rendered: Iterable[Path], **changes: Any) -> dict[str, Any]:
    """Seal a step's record again after some of its files were rendered again; everything else in it stays.

    Args:
        study: whose record it is.
        step: a step that succeeded.
        rendered: the files whose hashes are other now.
        changes: fields that change.

    Returns:
        the record as written.
    """
    record = graph.load_record(study, step) or {}
    new = {path.relative_to(study.report_dir).as_posix(): path for path in rendered}
    outputs = [_describe(output["path"], new.get(output["path"])) or output for output in record["outputs"]]
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    sealed = seal_record({**record, **changes, "outputs": outputs, "rendered": moment})
    write_atomic(study.runs / step.name / "run.json", dump_json(sealed))
    return sealed


def _describe(name: str, path: Path | None) -> dict[str, Any] | None:
    return path and {"path": name, "sha256": digest_file(path), "bytes": path.stat().st_size}


def _is_recorded(record: Mapping[str, Any], name: str, path: Path) -> bool:
    recorded = {output["path"]: output["sha256"] for output in record["outputs"]}
    return path.is_file() and digest_file(path) == recorded.get(name)
