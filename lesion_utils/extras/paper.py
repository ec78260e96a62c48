"""`make paper`: a report as LaTeX for a manuscript: numbers, tables, figures, methods and checklists.

A manuscript takes the files in with `\\input`. They need the packages array, booktabs, longtable, graphicx and
hyperref. Every file is written from the report and the study's parameters, and listed with its sources in `SHA256SUMS`,
so that `make verify` sees a number that was changed by hand and a paper that is older than its report.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from lesion_utils.config.schema import StudyParams
from lesion_utils.core.errors import RunError
from lesion_utils.core.files import write_if_changed
from lesion_utils.core.names import REGIME_NAMES, find_architecture, join_words, name_model
from lesion_utils.core.paths import Study
from lesion_utils.data.tables import read_csv
from lesion_utils.evaluation.evaluate import label_metric
from lesion_utils.evaluation.intervals import ENDS, format_value
from lesion_utils.evaluation.tables import widen_results
from lesion_utils.report.content import Report
from lesion_utils.report.index import COMPARISON
from lesion_utils.report.publish import write_sums

TEMPLATES = Path(__file__).resolve().parent / "paper_templates"
#: Made of a template each.
WRITTEN = ("abstract.tex", "methods.tex", "results.tex", "limitations.tex", "figures.tex")
TABLES = ("results", "leaderboard", "checklist")

#: Columns of the table of results.
METRICS = ("ap", "auc", "sensitivity", "specificity")

#: A figure wider than this, in PDF's points, goes over both columns of the page: columns are 89 mm wide.
COLUMN = 89 / 25.4 * 72 + 1

_TRAINED = {**REGIME_NAMES, "features": "on frozen features"}
_DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
_TEX = str.maketrans({
    **{sign: rf"\{sign}" for sign in "&%$#_{}"}, **{sign: f"{{{sign}}}" for sign in "[]*"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "≥": r"$\geq$",
    "≤": r"$\leq$", "≈": r"$\approx$", "→": r"$\to$", "°": r"\textdegree{}", "·": r"\textperiodcentered{}",
})  # fmt: skip


def write_paper(study: Study, params: StudyParams) -> Path:
    """Write `reports/<study>/paper/`.

    Returns:
        The folder.

    Raises:
        RunError: the comparison has not run, or a chart of it has no PDF.
    """
    report, folder = Report(study.report_dir), study.report_dir / "paper"
    charts = [figure for figure in report.figures if figure.step == COMPARISON and not figure.shows_images]
    charts = [figure for figure in charts if not _shows_nothing(study.metrics / f"{COMPARISON}_{figure.name}.csv")]
    pdfs = {figure.name: study.figures / f"{COMPARISON}_{figure.name}.pdf" for figure in charts}
    tables = [study.metrics / f"{COMPARISON}_{name}.csv" for name in TABLES]
    sources = [study.metrics / f"{COMPARISON}.json", *tables, *pdfs.values()]
    if missing := [path for path in sources if not path.is_file()]:
        raise RunError(
            "the paper is written from a finished report",
            where=missing[0].relative_to(study.report_dir),
            expected="every table and chart of the comparison",
            do=f"run: make all STUDY={study.name}, then make paper STUDY={study.name}",
        )
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, path in pdfs.items():
        shutil.copyfile(path, folder / "figures" / f"{name}.pdf")
    results, board = (read_csv(path) for path in tables[:2])
    checklist = read_csv(tables[2], keep_default_na=False)
    placed = [{"name": f.name, "caption": f.caption, "wide": _is_wide(pdfs[f.name])} for f in charts]
    placed.sort(key=lambda figure: bool(figure["wide"]))  # the order in which they are numbered
    values = {
        "report": report,
        "params": params,
        "names": join_words(name_model(model) for model in params.models.values()),
        "networks": _describe(params),
        "pair": join_words(name_model(model) for model in params.named_comparison.pair),
        "notes": [*report.limits, *params.data.remarks],
        "figures": placed,
        "rows": list(_name_rows(report)),
    }
    open_template = _open_templates().get_template
    texts = {
        "numbers.tex": write_numbers(report),
        **{name: open_template(f"{name}.j2").render(values) for name in WRITTEN},
        "tables/results.tex": tabulate_results(results),
        "tables/leaderboard.tex": tabulate_leaderboard(board),
        "tables/checklist.tex": tabulate_checklist(checklist),
        "references.bib": (TEMPLATES / "references.bib").read_text(encoding="utf-8"),
    }
    for name, text in texts.items():
        write_if_changed(folder / name, text)
    read = [f"../{path.relative_to(study.report_dir).as_posix()}" for path in sources]
    write_sums(folder, [*texts, *(f"figures/{name}.pdf" for name in pdfs), *read])
    return folder


def _shows_nothing(table: Path) -> bool:
    """Whether the table of a chart, where it has one of its own, is without rows: the chart then says only that."""
    return table.is_file() and read_csv(table).empty


def write_numbers(report: Report) -> str:
    """A LaTeX macro per headline number, with its interval, and what else a text says of the test images."""
    lines = ["% A macro per headline number: value (low to high). Written by make paper; not to be changed by hand."]
    for macro, row in _name_rows(report):
        value, low, high = (float("nan") if row[key] is None else row[key] for key in ("value", "low", "high"))
        interval = format_value(value, low, high)
        about = escape_tex(f"{row['label']}, {row['metric']}")
        lines.append(rf"\newcommand{{\{macro}}}{{{escape_tex(interval)}}} % {about}")
    facts = report.metrics[COMPARISON]
    lines += [rf"\newcommand{{\Test{key.capitalize()}}}{{{facts[key]}}}" for key in ("images", "malignant")]
    return "\n".join(lines) + "\n"


def name_macro(*words: str) -> str:
    r"""A name that LaTeX takes, of letters only.

    >>> name_macro("VGG19, fine-tuned", "AUC")
    'VGGOneNineFineTunedAUC'
    """
    pieces = re.findall(r"[A-Za-z]+|\d", " ".join(words))
    return "".join(_DIGITS[int(p)] if p.isdigit() else p[0].upper() + p[1:] for p in pieces)


def escape_tex(value: object) -> str:
    """Text on one line in which LaTeX sees no command; signs that only Unicode has are spelled."""
    return " ".join(str(value).split()).translate(_TEX)


def tabulate_results(results: pd.DataFrame) -> str:
    """Every model, its seeds averaged, with the metrics that a reader asks for first."""
    return _write_latex(
        widen_results(results, METRICS).rename(columns={"name": "Model"}),
        f"@{{}}{_ragged(42)}llll@{{}}",
        position="tbp",
        environment="table*",
        label="tab:results",
        caption="Every model on the test images, with intervals. Sensitivity and specificity are those at a "
        "probability of 0.5.",
    )


def tabulate_leaderboard(board: pd.DataFrame) -> str:
    """This study's rows, the controls and the published ones, with AP and AUC."""
    rows = board.dropna(subset=["ap", "auc"], how="all")
    frame = rows[["name", "group"]].rename(columns={"name": "Work", "group": "Kind"})
    for metric in ("ap", "auc"):
        spans = rows[[metric + end for end in ENDS]].itertuples(index=False)
        frame[label_metric(metric)] = [format_value(*span) for span in spans]
    return _write_latex(
        frame,
        f"@{{}}{_ragged(80)}{_ragged(30)}ll@{{}}",
        environment="longtable",
        label="tab:leaderboard",
        caption="This study beside controls that see no pixels and published work.",
    )


def tabulate_checklist(items: pd.DataFrame) -> str:
    """The checklists' items with their answers."""
    frame = items.assign(item=items["guideline"] + " " + items["item"].astype(str))[["item", "asks", "answer"]]
    frame = frame.rename(columns={"item": "Item", "asks": "Asks for", "answer": "Answer"})
    return _write_latex(
        frame,
        f"@{{}}{_ragged(26)}{_ragged(42)}{_ragged(105)}@{{}}",
        environment="longtable",
        label="tab:checklist",
        caption="Reporting checklists, answered from the study's files.",
    )


def _ragged(width: int) -> str:
    """A column so many mm wide, set flush left: justified, a few words get wide gaps."""
    return rf">{{\raggedright\arraybackslash}}p{{{width}mm}}"


def _write_latex(frame: pd.DataFrame, columns: str, **options: str) -> str:
    text = frame.map(escape_tex).rename(columns=escape_tex).style.hide(axis="index")
    return text.to_latex(hrules=True, column_format=columns, **options)


def _name_rows(report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each headline row with its macro's name; rows that would share one are told apart by a letter."""
    seen: Counter[str] = Counter()
    for row in report.headline:
        name = name_macro(row["label"], row["metric"])
        seen[name] += 1
        yield name + ("" if seen[name] == 1 else chr(ord("A") + seen[name] - 1)), row


def _describe(params: StudyParams) -> list[dict[str, Any]]:
    """What the methods say of each network."""
    return [
        {
            "name": name_model(params.models[slot]),
            "cite": find_architecture(network.backbone),
            "own": network,
            "regimes": {_TRAINED[regime]: own for regime, own in network.regimes.items()},
        }
        for slot, network in params.networks.items()
    ]


def _is_wide(pdf: Path) -> bool:
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", pdf.read_bytes())
    return box is None or float(box[1]) > COLUMN


@cache
def _open_templates() -> jinja2.Environment:
    """Templates whose marks LaTeX leaves alone, and in which every value is escaped but file names, marked `safe`."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else escape_tex(value),
        variable_start_string="<<",
        variable_end_string=">>",
        line_statement_prefix="%%",
        comment_start_string="<#",
        comment_end_string="#>",
        keep_trailing_newline=True,
    )
