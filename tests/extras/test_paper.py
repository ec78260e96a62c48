"""What a manuscript takes from a report: every number from its file, LaTeX that compiles, and a check that it is so."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from lesion_utils.cli import main
from lesion_utils.core.errors import RunError
from lesion_utils.core.paths import Study, docs_root
from lesion_utils.extras.paper import WRITTEN, _is_wide, escape_tex, name_macro, write_paper
from lesion_utils.provenance.verify import verify_paper
from lesion_utils.report.content import Report

#: What a manuscript needs to take the files in.
MANUSCRIPT = r"""
\documentclass[9pt,twocolumn]{extarticle}
\usepackage[a4paper,textwidth=183mm,textheight=250mm,columnsep=5mm]{geometry}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{lmodern,textcomp,array,booktabs,longtable,graphicx,microtype}
\usepackage[hidelinks]{hyperref}
\emergencystretch=2em
\renewcommand{\topfraction}{.9}\renewcommand{\dbltopfraction}{.9}\renewcommand{\dblfloatpagefraction}{.7}\renewcommand{\textfraction}{.05}
\setcounter{topnumber}{3}\setcounter{dbltopnumber}{3}\setcounter{totalnumber}{4}
\input{numbers}


\begin{document}
\begin{abstract}\input{abstract}\end{abstract}
\section{Methods}\input{methods}
\section{Results}\input{results}
\section{Limitations}\input{limitations}
\bibliographystyle{unsrt}\bibliography{references}
\onecolumn\appendix
\section{Further figures}\input{figures}\clearpage
{\footnotesize\input{tables/leaderboard}}
\cite{claim,clearderm,tripod}
{\footnotesize\input{tables/checklist}}
\end{document}
"""
PUBLISHED = sorted(path.parents[1] for path in docs_root().glob("*/metrics/05_comparison_checklist.csv"))[0]


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """A published report, with a PDF beside each chart as a run leaves it."""
    monkeypatch.setenv("REPORTS_DIR", str(tmp_path))
    study = Study(Path(shutil.copytree(PUBLISHED, tmp_path / PUBLISHED.name)).name)
    for number, chart in enumerate(study.figures.glob("05_comparison_*.svg")):
        Figure(figsize=((89, 183)[number % 2] / 25.4, 2)).savefig(chart.with_suffix(".pdf"))
    return study


@pytest.fixture
def paper(study, params) -> Path:
    return write_paper(study, params)


def read_all(folder: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.tex")))


def test_every_headline_number_is_a_macro_with_its_interval(study, paper):
    defined = dict(re.findall(r"\\newcommand\{\\(\w+)\}\{(.*)\} %", (paper / "numbers.tex").read_text()))
    rows = Report(study.report_dir).headline
    assert len(defined) == len(rows) > 3
    for row, text in zip(rows, defined.values(), strict=True):
        assert text == f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})".replace("-", "$-$")
    used = re.findall(r"\\(\w+)\{\}", (paper / "results.tex").read_text())
    assert set(used) == {*defined, "TestImages", "TestMalignant"}


def test_the_paper_is_whole(paper):
    """What it takes in is there, what it cites is in the bibliography, and braces and environments close."""
    text = read_all(paper)
    assert {path.name for path in paper.glob("*.tex")} == {"numbers.tex", *WRITTEN}
    for name in re.findall(r"\\input\{(\S+?)\}", text):
        assert (paper / f"{name}.tex").is_file()
    assert sorted(re.findall(r"\\ref\{(fig:\S+?)\}", text)) == sorted(re.findall(r"\\label\{(fig:\S+?)\}", text))
    pictures = re.findall(r"\\includegraphics\{(\S+?)\}", text)
    assert sorted(pictures) == sorted(f"figures/{path.name}" for path in (paper / "figures").iterdir())
    known = set(re.findall(r"^@\w+\{(\w+),", (paper / "references.bib").read_text(), re.MULTILINE))
    assert set(re.findall(r"\\cite\{(\w+)\}", text)) <= known
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert sorted(re.findall(r"\\begin(\{\S+?\})", text)) == sorted(re.findall(r"\\end(\{\S+?\})", text))


def test_a_chart_of_an_empty_table_is_left_out(study, params):
    table = study.metrics / "05_comparison_classifiers.csv"
    for rows, shown in (("", False), ("knn,0.5\n", True)):
        table.write_text(f"classifier,ap\n{rows}")
        paper = write_paper(study, params)
        assert ("figures/classifiers.pdf" in read_all(paper)) == shown
        assert "figures/roc.pdf" in read_all(paper)


def test_figures_stand_in_the_column_that_they_were_drawn_for(paper):
    """Narrow ones in the text, wide ones on the pages of one column that end it."""
    for name, wide in (("results", False), ("figures", True)):
        shown = re.findall(r"\\includegraphics\{(\S+?)\}", (paper / f"{name}.tex").read_text())
        assert {_is_wide(paper / path) for path in shown} == {wide}


def test_the_limitations_and_the_abstract_are_those_of_the_report(study, params, paper):
    report = Report(study.report_dir)
    limitations = (paper / "limitations.tex").read_text()
    assert limitations.count(r"\item") == len(report.limits) + len(params.data.remarks) > len(report.limits)
    assert escape_tex(report.sentences[0]) in (paper / "abstract.tex").read_text()


def test_published_rows_without_ap_and_auc_are_left_out(study, paper):
    rows = pd.read_csv(study.metrics / "05_comparison_leaderboard.csv")
    without = rows[rows["ap"].isna() & rows["auc"].isna()]["name"]
    assert len(without) and not any(
        escape_tex(name) in (paper / "tables" / "leaderboard.tex").read_text() for name in without
    )


def test_methods_and_checklists_say_what_the_files_say(params, paper):
    methods = (paper / "methods.tex").read_text()
    assert f"to a square of {params.data.stored_size} px" in methods
    assert f"{params.comparison.bootstrap_draws:,} stratified bootstrap resamples" in methods
    assert rf"\nolinkurl{{{params.resnet50.backbone}}}" in methods
    assert "CLEAR Derm 25" in (paper / "tables" / "checklist.tex").read_text()


def test_verify_sees_a_changed_number_and_a_newer_report_and_leaves_a_manuscript_to_its_author(
    study, params, paper, capsys
):
    assert all(finding.is_clean for finding in verify_paper(paper))
    (paper / "main.tex").write_text("mine")
    write_paper(study, params)
    assert (paper / "main.tex").read_text() == "mine"
    numbers = paper / "numbers.tex"
    numbers.write_text(numbers.read_text().replace("0.", "1.", 1))
    assert [f"{f.path} {f.state}" for f in verify_paper(paper) if not f.is_clean] == ["numbers.tex changed by hand"]
    write_paper(study, params)
    table = study.metrics / "05_comparison_results.csv"
    table.write_text(table.read_text() + "\n")
    assert {f.state for f in verify_paper(paper)} == {"stale"}
    main(["verify", study.name])
    said = capsys.readouterr().out
    assert f"reports/{study.name}/paper: stale" in said and "metrics/05_comparison_results.csv changed since" in said
    assert f"do next          make paper STUDY={study.name}" in said


def test_an_unfinished_report_has_no_paper(study, params):
    (study.figures / "05_comparison_roc.pdf").unlink()
    with pytest.raises(RunError, match="from a finished report"):
        write_paper(study, params)


def test_text_is_no_command():
    assert escape_tex(r"50 % of a_b & {x} \input") == r"50 \% of a\_b \& \{x\} \textbackslash{}input"
    assert name_macro("ResNet50 − VGG19", "AUC") == "ResNetFiveZeroVGGOneNineAUC"


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("latexmk") or shutil.which("tectonic")), reason="no TeX: latexmk or tectonic")
def test_a_manuscript_compiles(paper):
    (paper / "main.tex").write_text(MANUSCRIPT)
    tex = ["tectonic"] if shutil.which("tectonic") else ["latexmk", "-pdf", "-interaction=nonstopmode"]
    done = subprocess.run([*tex, "main.tex"], cwd=paper, capture_output=True, text=True, errors="replace", check=False)
    log = (paper / "main.log").read_text(errors="replace") if (paper / "main.log").is_file() else ""
    assert done.returncode == 0, done.stdout[-3000:]
    assert (paper / "main.pdf").stat().st_size > 20_000
    assert "undefined" not in log and "Missing character" not in log
