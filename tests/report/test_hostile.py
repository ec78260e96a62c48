"""A study whose every text is markup: text in all pages, in Markdown, LaTeX and JSON, and nothing that runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from fake_report import copy_fake_project, edit_json, write_fake_report, write_index, write_record
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from ruamel.yaml import YAML

from lesion_utils.config.load import load_study
from lesion_utils.core.markup import escape_markdown
from lesion_utils.core.paths import Study
from lesion_utils.extras.paper import escape_tex
from lesion_utils.notebooks.study import OpenStudy, write_html
from lesion_utils.report.content import Report
from lesion_utils.report.notebook_pages import write_notebook_page
from lesion_utils.report.publish import publish_study
from lesion_utils.report.readme import render_block

TEXT = (
    "<script>alert(1)</script><img src=x alt=x onerror=alert(2)> **bold** `code` [a](javascript:alert(3)) "
    "</details></table> $x$ & | \\input{/etc/passwd} % {{ title }} =1+1"
)
#: Elements that no page of the project has; their sandbox, a Content-Security-Policy, would stop most of them.
NEVER = ("iframe", "object", "embed", "form", "link[rel=stylesheet]", "img[onerror]", "a[href^='javascript:']")


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """A published study with hostile title, remarks, headline, sentences, captions, tables and outputs."""
    copy_fake_project(tmp_path, monkeypatch)
    study = Study("demo")
    path = study.params_dir / "data.yaml"
    yaml = YAML()
    content = yaml.load(path)
    content["title"], content["remarks"] = f"Title {TEXT}", [f"Remark {TEXT}"]
    yaml.dump(content, path)
    write_fake_report(study)
    make_hostile(study)
    write_index(study)
    return study


def make_hostile(study: Study) -> None:
    paths = [study.metrics / "05_comparison.json", study.metrics / "05_comparison_results.csv"]
    metrics = json.loads(paths[0].read_text())
    for row in metrics["headline"]:
        row["label"] += f" {TEXT}"
    metrics |= {"sentences": [f"Sentence {TEXT}"] * 2, "limits": [f"Limit {TEXT}"]}
    paths[0].write_text(json.dumps(metrics))
    paths[1].write_text(f'site\n"{TEXT}"\n')
    figure = study.figures / "05_comparison_curve.json"
    edit_json(figure, caption=f"Caption {TEXT}", alt=f"Alt {TEXT}")
    record = json.loads((study.runs / "05_comparison" / "run.json").read_text())
    made = [study.report_dir / output["path"] for output in record["outputs"]]
    write_record(study, "05_comparison", made, number=5)


def find_live(page: Path) -> list[str]:
    """What runs, loads or belongs to no page of the project."""
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    found = [str(element)[:80] for kind in NEVER for element in soup.select(kind)]
    found += [str(script)[:80] for script in soup("script") if "alert" in script.text]
    return found + [str(image)[:80] for image in soup("img") if not image["src"].startswith("data:")]


def test_the_pages_show_every_text_as_it_is(study):
    folder = publish_study(study, load_study(study.params_dir))
    for page in (folder / "index.html", folder.parent / "index.html"):
        assert find_live(page) == [], page
        shown = " ".join(BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").get_text(" ").split())
        own = ("Remark", "Sentence", "Limit", "Caption") if page.parent == folder else ()
        for word in ("Title", *own):
            assert f"{word} {TEXT}" in shown, (page.name, word)


def test_a_notebooks_card_sentences_and_tables_are_text(study, monkeypatch, tmp_path):
    params = load_study(study.params_dir)
    own = OpenStudy(params, study, "01_eda", "01_eda-0123")
    monkeypatch.setattr(OpenStudy, "open_data", lambda self: type("Data", (), {"summary": TEXT}))
    outputs = [
        new_output("display_data", {"text/html": own.card().data}),
        new_output("display_data", {"text/markdown": own.say_list([TEXT]).data}),
        new_output("display_data", {"text/html": write_html(pd.DataFrame({"site": [TEXT]}))}),
        new_output("stream", name="stdout", text=TEXT),
    ]
    nbformat.write(
        new_notebook(cells=[new_markdown_cell("# T"), new_code_cell("x", outputs=outputs)]), tmp_path / "x.ipynb"
    )
    page = write_notebook_page(tmp_path / "x.ipynb", tmp_path / "html" / "x.html", study="demo")
    assert find_live(page) == []
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    shown = " ".join(soup.get_text(" ").split())
    for word in ("Title", "Remark"):
        assert f"{word} {TEXT}" in shown, word
    assert shown.count(TEXT) >= 4


def test_it_is_text_in_the_readme_and_in_latex(study):
    report = Report(study.report_dir)
    block = render_block(report)
    assert not re.search(r"(?<!\\)[<>`$]", re.sub(r"\*\*\[|\]\(|!\[", "", block))
    tex = escape_tex(f"[{TEXT}\n\n\\end{{document}}")
    assert "\n" not in tex and not re.search(r"\\(input|end)\b", tex) and not tex.startswith("[")
    assert not re.search(r"(?<!\\)[%&#_]", tex)
    assert escape_markdown("a\n\n# b") == "a # b"
