"""`make publish`: a finished report copied to `docs/<study>/`, where version control keeps it and a forge serves it.

A copy holds the pages, every file that they link to, and what their numbers can be checked with. `SHA256SUMS` lists all
of it, for `make verify` and for `sha256sum --check`; `ro-crate-metadata.json` says which step made what. Photographs go
along where the study's data.yaml allows it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from lesion_utils.config.schema import StudyParams
from lesion_utils.core.errors import RunError
from lesion_utils.core.files import cannot_write, digest_file, dump_json, write_atomic, write_if_changed
from lesion_utils.core.paths import Study, docs_root
from lesion_utils.evaluation.openings import publish_openings
from lesion_utils.provenance.steps import list_steps
from lesion_utils.provenance.verify import SUMS, verify_study
from lesion_utils.report.content import Figure, Report, scores_images
from lesion_utils.report.crate import write_crate
from lesion_utils.report.explore import PAGE as EXPLORER
from lesion_utils.report.explore import cut_strip
from lesion_utils.report.index import COMPARISON, build_site
from lesion_utils.report.notebook_pages import write_notebook_page
from lesion_utils.report.pages import format_number, name_credit, render_page

#: What goes along beside the pages and what they link to: records, learning curves, scores, how settings were chosen.
KEPT = (
    *("index.html", "data/manifest.json", "data/duplicates.csv", "data/split.csv", "figures/*.json", "metrics/*"),
    *("predictions/*.csv", "*.md"),
    *("selection/*.csv", "selection/*.svg", "runs/*/run.json", "runs/*/params.json", "runs/*/*/history.jsonl"),
)


def publish_study(study: Study, params: StudyParams) -> Path:
    """Copy a report to `docs/<study>/`, list it on `docs/index.html` and its test evaluations in `docs/openings.csv`.

    The copy is built in a folder beside and then takes the place of an earlier one. If anything fails, the earlier copy
    and the list stay as they were.

    Returns:
        The copy's folder. Scores of external images are not in it, unless `data.yaml` allows it for every set.

    Raises:
        RunError: the report has no page, a link leads nowhere, or no record accounts for a file. Stale files are
            published, and so is a report that lacks files to which no page links: its page says so.
        DataError: a file cannot be written.
    """
    accounted = _refuse_unaccounted(study)
    folder = docs_root() / study.name
    work = folder.with_name(f".publishing-{study.name}")
    copy, earlier = work / study.name, work / "earlier"
    if earlier.is_dir() and not folder.exists():
        earlier.replace(folder)  # an earlier publication was killed between the two renames below
    shutil.rmtree(work, ignore_errors=True)
    swapped = False
    try:
        _fill_copy(study, params, copy, accounted)
        others = [path.parent for path in docs_root().glob("*/index.html") if path.parent != folder]
        front_page = _render_front_page([copy, *others])
        if folder.is_dir():
            folder.replace(earlier)
        copy.replace(folder)
        swapped = True
        publish_openings(study.name)
        _write_front_page(front_page)
    except BaseException as error:
        if swapped:
            shutil.rmtree(folder)
        if earlier.is_dir():
            earlier.replace(folder)
        if isinstance(error, OSError):
            raise cannot_write(folder, error) from error
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _fill_copy(study: Study, params: StudyParams, copy: Path, accounted: Collection[str]) -> None:
    """Write everything that a copy holds, its list of files last."""
    for name in sorted(_list_published(study, params) & set(accounted)):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(study.report_dir / name, copy / name)
    if not (params.data.publish_photographs and params.data.may_publish_scores):
        _write_pages_again(study, params, copy)
    _link_back(copy / "index.html")
    _refuse_dead_links(study, copy)
    write_crate(Report(study.report_dir), copy)
    write_sums(copy)


def _list_published(study: Study, params: StudyParams) -> set[str]:
    """The files of a report that its copy has, named relative to its folder."""
    found = [path for pattern in KEPT for path in study.report_dir.glob(pattern)]
    found += [*(f.svg for f in Report(study.report_dir).figures if f.svg and not f.shows_images)]
    kept = {path.relative_to(study.report_dir).as_posix() for path in found} | set(_list_links(study))
    if not all(place.publish for place in params.data.external.values()):
        kept -= {name for name in kept if name.startswith("predictions/") and name.endswith("_external.csv")}
    if not params.data.may_publish_scores:
        kept -= {name for name in kept if scores_images(study.report_dir / name)} | {EXPLORER}
    return kept


def write_sums(folder: Path, names: Iterable[str] | None = None) -> None:
    """List files with their SHA-256, as `sha256sum` does: those named relative to the folder, or all that are in it."""
    if names is None:
        names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != SUMS)
    write_atomic(folder / SUMS, "".join(f"{digest_file(folder / name)}  {name}\n" for name in sorted(names)))


def _render_front_page(copies: Iterable[Path]) -> str:
    """The published studies with their results, the demo last, and photographs of the first that shows any."""
    reports = [Report(copy) for copy in sorted(copies, key=lambda copy: (copy.name == "demo", copy.name))]
    shown = [(report, report.tiles or _list_best(report), _find_curve(report)) for report in reports]
    strips = ((cut_strip(report.folder / EXPLORER), report) for report in reports)
    strip, source = next((found for found in strips if found[0]), (None, None))
    credit = name_credit(source.source) if source else ""
    return render_page("docs.html.j2", reports=shown, strip=strip, credit=credit)


def _list_best(report: Report) -> list[dict[str, str]]:
    """The one tile that a report of an earlier version has numbers for: its best model's AUC."""
    name = (report.metrics.get("05_comparison", {}).get("best") or {}).get("name")
    rows = (item for item in report.headline if item["label"] == name and item["metric"] == "AUC")
    numbers = (map(format_number, (item["value"], item["low"], item["high"])) for item in rows)
    values = ("AUC {} ({} to {})".format(*triple) for triple in numbers)
    return [{"title": "Best model by validation", "value": value, "detail": str(name)} for value in values]


def _find_curve(report: Report) -> Figure | None:
    """The ROC curves of all models, if the copy has them."""
    found = (figure for figure in report.figures if (figure.step, figure.name) == (COMPARISON, "roc"))
    return next((figure for figure in found if figure.file), None)


def _write_front_page(page: str) -> None:
    write_if_changed(docs_root() / "index.html", page)
    write_if_changed(docs_root() / ".nojekyll", "")  # a forge serves the files as they are


def _list_links(study: Study) -> list[str]:
    page = study.report_dir / "index.html"
    return re.findall(r'href="([^"#:]+)["#]', page.read_text(encoding="utf-8")) if page.is_file() else []


def _refuse_dead_links(study: Study, copy: Path) -> None:
    """Raise if a page of a copy links to a file that is not in it."""
    for page in sorted(copy.rglob("*.html")):
        links = re.findall(r'href="([^"#:]+)["#]', page.read_text(encoding="utf-8"))
        if missing := [link for link in links if link != "../index.html" and not (page.parent / link).is_file()]:
            raise RunError(
                f"the page links to {missing[0]}, which is not part of the report",
                where=f"reports/{study.name}/{page.relative_to(copy).as_posix()}",
                do=f"run: make all STUDY={study.name}, then make publish STUDY={study.name}",
            )


def _link_back(page: Path) -> None:
    """Let a copy's page lead to the list of all copies, which lies beside its folder."""
    start = '<header class="page">'
    link = f'{start}\n<p class="eyebrow"><a href="../index.html">All published studies</a></p>'
    page.write_text(page.read_text(encoding="utf-8").replace(start, link, 1), encoding="utf-8")


def _write_pages_again(study: Study, params: StudyParams, copy: Path) -> None:
    """Write a copy's pages again, without what the study's data.yaml does not allow to be published."""
    photographs, scores = params.data.publish_photographs, params.data.may_publish_scores
    build_site(study, params, folder=copy, photographs=photographs, scores=scores)
    every = list_steps(study)
    for page in sorted(path for path in copy.glob("html/*.html") if path.stem in every):  # not selection.html
        notebook = study.notebooks / f"{page.stem}.ipynb"
        bare = photographs and (scores or not every[page.stem].network)  # a network's photographs bear their scores
        write_notebook_page(notebook, page, study=study.name, photographs=bare, scores=scores)
    for path in sorted(copy.glob("figures/*.json")):
        figure = json.loads(path.read_text(encoding="utf-8"))
        if figure.get("shows_images"):
            write_atomic(path, dump_json({**figure, "alt": figure["caption"]}))


def _refuse_unaccounted(study: Study) -> set[str]:
    """Raise if a file of the report is not as a record says; returns the files that records account for."""
    findings = verify_study(study)
    unaccounted = ("not recorded", "failed", "changed by hand")
    needed = ("index.html", *_list_links(study))
    found = [f"{finding.path} ({finding.state})" for finding in findings if finding.state in unaccounted]
    found += [f"{name} (missing)" for name in needed if not (study.report_dir / name).is_file()]
    if found:
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        raise RunError(
            f"the report cannot be published: {'; '.join(found[:3])}{more}",
            where=f"reports/{study.name}",
            expected="a complete report: index.html, every linked file, and all files as recorded",
            do=f"remove files that no step wrote; make all STUDY={study.name}, then make publish STUDY={study.name}",
        )
    return {finding.path for finding in findings}
