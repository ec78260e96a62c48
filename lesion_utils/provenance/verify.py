"""Is a report what its records say? Every file against its recorded hash, every step against its present inputs.

Nothing runs again. A record (`run.json`) is sealed with a hash of itself, and lists the hash of every file of its step,
and of the `DONE` of every training run that its results are made of; `DONE` in turn lists the files of that run.
A published copy is a part of a report, and is checked against the list that `make publish` wrote beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from lesion_utils.config.load import load_study
from lesion_utils.config.schema import StudyParams
from lesion_utils.core.errors import RunError
from lesion_utils.core.files import digest_file
from lesion_utils.core.paths import Study
from lesion_utils.core.run_files import DONE, KEPT, list_damage
from lesion_utils.core.seal import read_sealed
from lesion_utils.provenance import steps
from lesion_utils.provenance.steps import Reason, Step, list_steps

#: What can be said of a file, best first; only the first is clean.
STATES = ("unchanged", "stale", "not recorded", "missing", "failed", "changed by hand")

#: Folders of a report that are checked by other means, or belong to their author.
_OTHERS = ("interactive", "models", "paper")

#: What lies in a report while a step runs, or to go on from; nothing is made from it without being checked.
_WORK = ("*.partial.ipynb", "keys/images.txt", "runs/*/jobs/*", "runs/*/previous/*", "runs/*/*/last.pt")

#: The list of a published copy's files, as `sha256sum` writes it.
SUMS = "SHA256SUMS"

#: What the settings are chosen by (`make select`): no step of the graph, but its files have a record as a step's.
SELECTION = "selection"


@dataclass(frozen=True)
class Finding:
    """What verification says of one file: its path in the report, its step, one of `STATES`, and why."""

    path: str
    step: str
    state: str
    detail: str = ""

    @property
    def is_clean(self) -> bool:
        return self.state == STATES[0]


def verify_study(study: Study, *, skip: Collection[str] = ()) -> list[Finding]:
    """Check every file of a study's report; takes as long as reading the files.

    Args:
        skip: names of steps to leave out; the index page leaves itself out while it is made.

    Returns:
        one finding per file, clean ones included, in the order of the steps.

    Raises:
        ParamsError: the study's parameters are wrong, so nothing can be said about what depends on them.
    """
    params = load_study(study.params_dir)
    checked = [step for step in list_steps(study).values() if step.name not in skip]
    findings = [finding for step in checked for finding in _verify_step(study, step, params)]
    findings += _verify_selection(study)
    for path in _find_strays(study, {finding.path for finding in findings}, skip):
        owner = next((name for name, step in list_steps(study).items() if step.may_make(path)), "")
        findings.append(Finding(path, owner, "not recorded", "no run that ended well made it"))
    return findings


def verify_copy(folder: Path) -> list[Finding]:
    """Check every file of a published copy, listed or not, against the list that lies beside it.

    Raises:
        RunError: there is no list, or it is not one.
    """
    listed = _read_sums(folder, do=f"run: make publish STUDY={folder.name}")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {SUMS}
    return [_verify_listed(folder, path, listed.get(path)) for path in sorted(there | set(listed))]


def verify_paper(folder: Path) -> list[Finding]:
    """Check what `make paper` wrote, and whether the report's files that it was written from are still the same.

    Other files in the folder, such as the manuscript, are their author's.

    Raises:
        RunError: there is no list, or it is not one.
    """
    listed = _read_sums(folder, do=f"run: make paper STUDY={folder.parent.name}")
    findings = [_verify_listed(folder, path, digest) for path, digest in listed.items()]
    newer = [f.path.removeprefix("../") for f in findings if f.path.startswith("../") and not f.is_clean]
    own, why = [f for f in findings if not f.path.startswith("../")], f"{', '.join(newer)} changed since"
    return [replace(f, state="stale", detail=why) if newer and f.is_clean else f for f in own]


def _read_sums(folder: Path, *, do: str) -> dict[str, str]:
    """SHA-256 of each file that a folder's list names."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        return {path: digest for digest, path in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise RunError(f"not readable as a list of files ({error})", where=folder / SUMS, do=do) from None


def _verify_listed(folder: Path, path: str, digest: str | None) -> Finding:
    if digest is None:
        return Finding(path, "", "not recorded", f"{SUMS} does not list it")
    if not (folder / path).is_file():
        return Finding(path, "", "missing", f"{SUMS} lists it, but it is not there")
    if digest_file(folder / path) != digest:
        return Finding(path, "", "changed by hand", f"its content is not the one that {SUMS} lists")
    return Finding(path, "", "unchanged")


def describe_verdict(findings: Collection[Finding]) -> dict[str, str]:
    """The verdict in words: `headline`, `files`, `counts`, `sentence`, and `tone` ("good", "warn" or "bad")."""
    tally = Counter(finding.state for finding in findings)
    counts = ", ".join(f"{tally[state]} {state}" for state in STATES if tally[state]) or "nothing to check"
    worst = max((STATES.index(state) for state in tally), default=STATES.index("missing"))
    if worst == 0:
        headline, tone = "unchanged", "good"
        sentence = f"Every file is the one its record describes, and every step's inputs are unchanged ({counts})."
    else:
        headline, tone = STATES[worst], "warn" if STATES[worst] == "stale" else "bad"
        sentence = f"Not everything here agrees with its record and with its inputs as they are now ({counts})."
    files = f"{sum(finding.is_clean for finding in findings)} of {len(findings)} files"
    return {"headline": headline, "tone": tone, "files": files, "counts": counts, "sentence": sentence}


def describe_findings(findings: Collection[Finding], *, folder: str, do: str) -> str:
    """What is not clean in a folder, one line per file or per step, and the verdict, for a terminal."""
    lines = [f"  {state:<16} {what:<44} {why}".rstrip() for state, what, why in _group(findings)]
    verdict = describe_verdict(findings)
    if lines:
        lines.append(f"  do next          {do}")
    return "\n".join([f"{folder}: {verdict['headline']} ({verdict['counts']})", *lines])


def _group(findings: Collection[Finding]) -> list[tuple[str, str, str]]:
    """(state, what, why) of what is not clean, the worst first; a step whose files share a reason takes one line."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for finding in findings:
        if not finding.is_clean:
            groups.setdefault((finding.state, finding.step, finding.detail), []).append(finding.path)
    rows = []
    for (state, step, why), paths in sorted(groups.items(), key=lambda group: -STATES.index(group[0][0])):
        whole = step and state in ("stale", "not recorded") and len(paths) > 1
        rows += [(state, f"{step}, {len(paths)} files", why)] if whole else [(state, path, why) for path in paths]
    return rows


def _verify_step(study: Study, step: Step, params: StudyParams) -> Iterator[Finding]:
    path = f"runs/{step.name}/run.json"
    record, problem = _read_record(study.report_dir / path)
    if record is None:
        missing = not (study.report_dir / path).is_file()
        yield Finding(path, step.name, "missing" if missing else "changed by hand", problem)
        return
    if problem:
        yield Finding(path, step.name, "changed by hand", problem)
    elif record["status"] != "ok":
        yield Finding(path, step.name, "failed", f"its last run ended as {record['status']!r}")
    reasons = "; ".join(map(str, _list_reasons(study, step, params, record)))
    if not problem and record["status"] == "ok":
        yield Finding(path, step.name, "stale" if reasons else "unchanged", reasons)
    for output in record["outputs"]:
        yield _verify_output(study, step.name, output, reasons)
    yield from _verify_mark(study, step, record)
    yield from _verify_runs(study, step.name, record.get("runs", {}))


def _read_record(path: Path) -> tuple[dict[str, Any] | None, str]:
    """A record, and what is wrong with it; None if it cannot be used."""
    record, problem = read_sealed(path)
    if record is None:
        return None, problem if path.is_file() else "the step has not run"
    if not record.keys() >= {"status", "params", "code", "notebook", "inputs", "outputs"}:
        return None, "the record cannot be read"
    return record, problem


def _verify_output(study: Study, step: str, output: Mapping[str, Any], reasons: str = "") -> Finding:
    path = study.report_dir / output["path"]
    if not path.is_file():
        return Finding(output["path"], step, "missing", "recorded, but not there")
    if digest_file(path) != output["sha256"]:
        return Finding(output["path"], step, "changed by hand", "its content is not the one recorded")
    return Finding(output["path"], step, "stale" if reasons else "unchanged", reasons)


def _verify_mark(study: Study, step: Step, record: Mapping[str, Any]) -> Iterator[Finding]:
    """The mark by which `make` takes a step for done; a report that was made on another machine may have none."""
    if not (study.report_dir / step.mark).is_file():
        return
    mark, problem = read_sealed(study.report_dir / step.mark)
    if mark is None or (problem and "seal" in mark):  # marks of earlier versions have no seal
        yield Finding(step.mark, step.name, "changed by hand", problem)
    elif any(mark.get(key) != record[key] for key in ("params", "code", "notebook", "inputs")):
        yield Finding(step.mark, step.name, "changed by hand", "it is not the mark of the run that is recorded")
    else:
        yield Finding(step.mark, step.name, "unchanged")


def _verify_runs(study: Study, step: str, recorded: Mapping[str, str]) -> Iterator[Finding]:
    """The files of each finished training run in a step's folder, also of runs with earlier parameters.

    Args:
        recorded: SHA-256 of `DONE` by the run's folder, for the runs that the step's results are made of.
    """
    for name in sorted({path.parent.name for path in (study.runs / step).glob(f"*/{DONE}")} | set(recorded)):
        folder = study.runs / step / name
        damage = list_damage(folder)
        if name in recorded and not damage and digest_file(folder / DONE) != recorded[name]:
            damage = {DONE: "the record of the step has another one"}
        for file in (DONE, *KEPT):
            path, why = f"runs/{step}/{name}/{file}", damage.get(file, "")
            if why:
                state = "changed by hand" if (folder / file).is_file() else "missing"
                yield Finding(path, step, state, why)
            elif DONE not in damage:
                yield Finding(path, step, "unchanged")
            elif (folder / file).is_file():
                yield Finding(path, step, "not recorded", f"the run's {DONE} does not account for it")


def _verify_selection(study: Study) -> Iterator[Finding]:
    """What `make select` wrote, and the runs of its trials."""
    path = f"runs/{SELECTION}/run.json"
    if (study.report_dir / path).is_file():
        record, problem = read_sealed(study.report_dir / path)
        yield Finding(path, SELECTION, "changed by hand" if problem else "unchanged", problem)
        for output in (record or {}).get("outputs", []):
            yield _verify_output(study, SELECTION, output)
    yield from _verify_runs(study, SELECTION, {})


def _list_reasons(study: Study, step: Step, params: StudyParams, record: Mapping[str, Any]) -> list[Reason]:
    """Which inputs of a step are other than they were.

    What is known of files outside the report (images, weights) holds for one machine: it counts where the step ran.
    """
    key, inputs = steps.compute_key(step, params), steps.hash_inputs(study, step)
    done = steps.load_done(study, step)
    if done is None:
        done = {**record, "data": None, "weights": None}
        key = {**key, "data": None, "weights": None}
    return [*steps.explain_key(done, key), *steps.explain_inputs(done["inputs"], inputs)]


def _find_strays(study: Study, known: Collection[str], skip: Collection[str]) -> list[str]:
    """Files anywhere in a report that no record names; hidden files, which no reader sees, do not count."""
    every = list_steps(study)
    expected = {*known, *(f"keys/{name}.json" for name in every), *(step.mark for step in every.values())}
    expected |= {f"runs/{name}/run.json" for name in skip}
    strays = []
    for path in sorted(path for path in study.report_dir.rglob("*") if path.is_file()):
        relative = path.relative_to(study.report_dir)
        name, hidden = relative.as_posix(), any(part.startswith(".") for part in relative.parts)
        skipped = any(every[step].may_make(name) for step in skip)
        if name in expected or hidden or skipped or relative.parts[0] in _OTHERS or _is_work(path, name):
            continue
        strays.append(name)
    return strays


def _is_work(path: Path, name: str) -> bool:
    """Whether a file lies there while a step runs, or belongs to a training run that is not finished."""
    unfinished = path.name in KEPT and fnmatch(name, "runs/*/*/*") and not (path.parent / DONE).exists()
    return unfinished or any(fnmatch(name, pattern) for pattern in _WORK)
