"""The README's generated block: from the report's files, and nowhere else."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from fake_report import copy_fake_project, use_project, write_fake_report

from lesion_utils.core.errors import RunError
from lesion_utils.core.paths import Study
from lesion_utils.report.content import Report
from lesion_utils.report.readme import is_current, list_blocks, mark_block, render_block, update_readme

BEGIN, END = mark_block("demo")


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = copy_fake_project(tmp_path, monkeypatch)
    (folder / "README.md").write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nThe rest, with a | and trailing spaces.  \n")
    return folder


def test_the_block_is_written_between_the_marks_and_nothing_else_changes(project):
    readme, study = project / "README.md", Study("demo")
    assert not is_current(readme, study)
    assert update_readme(readme, study)
    text = readme.read_text()
    assert text.startswith(f"# Title\n\n{BEGIN}\n")
    assert text.endswith(f"{END}\n\nThe rest, with a | and trailing spaces.  \n")
    assert "| ResNet50, fine-tuned | AUC | 0.610 | 0.530 to 0.680 | 60 |" in text
    assert "](reports/demo/figures/05_comparison_curve.svg)" in text
    assert is_current(readme, study)
    assert not update_readme(readme, study), "the second time there is nothing to write"


def test_other_numbers_in_the_report_make_the_block_old(project):
    readme, study = project / "README.md", Study("demo")
    update_readme(readme, study)
    path = study.metrics / "05_comparison.json"
    path.write_text(path.read_text().replace("0.61,", "0.62,"))
    assert not is_current(readme, study)


def test_a_figure_can_be_chosen(project):
    block = render_block(Report(Study("demo").report_dir), figure="01_eda_curve")
    assert "](reports/demo/figures/01_eda_curve.svg)" in block
    image = next(line for line in block.splitlines() if line.startswith("!"))
    assert "<script>" not in image.replace("\\<script\\>", "")
    with pytest.raises(RunError, match="no figure 'nope'"):
        render_block(Report(Study("demo").report_dir), figure="nope")


def test_labels_cannot_break_the_table(project):
    path = Study("demo").metrics / "05_comparison.json"
    metrics = json.loads(path.read_text())
    metrics["headline"][0]["label"] = "a | b\n<b>"
    path.write_text(json.dumps(metrics))
    assert "| a \\| b \\<b\\> | AUC |" in render_block(Report(Study("demo").report_dir))


def test_without_marks_or_numbers_it_says_so(project):
    (project / "README.md").write_text("no marks")
    with pytest.raises(RunError, match="marks of the generated block"):
        update_readme(project / "README.md", Study("demo"))
    (Study("demo").metrics / "05_comparison.json").unlink()
    with pytest.raises(RunError, match="make all STUDY=demo"):
        render_block(Report(Study("demo").report_dir))


def test_each_study_has_its_block_and_one_without_a_report_stays_empty(project):
    readme = project / "README.md"
    marks = {name: mark_block(name) for name in ("other", "nothing_yet")}
    empty = "".join(f"{begin}\n{end}\n" for begin, end in marks.values())
    readme.write_text(f"{BEGIN}\nold\n{END}\nbetween\n{empty}")
    assert update_readme(readme)
    blocks = list_blocks(readme)
    assert list(blocks) == ["demo", "other", "nothing_yet"]
    assert "| ResNet50, fine-tuned | AUC | 0.610 |" in blocks["demo"]
    assert "| ResNet50, fine-tuned | AUC | 0.630 |" in blocks["other"]
    assert "](reports/other/figures/" in blocks["other"]
    assert blocks["nothing_yet"] == ""
    assert f"{END}\nbetween\n" in readme.read_text()
    assert is_current(readme, Study("demo")) and is_current(readme, Study("other"))
    assert not update_readme(readme)


def test_a_real_study_says_what_it_is_on(project):
    study = Study("demo")
    write_fake_report(study)
    block = render_block(Report(study.report_dir))
    assert "study `demo` on ISIC 2016 Part 3, fixture: 180 images (120 training, 60 test);" in block


def test_remarks_of_a_study_stand_below_its_numbers(project):
    study = Study("demo")
    path = study.runs / "data" / "run.json"
    record = json.loads(path.read_text())
    record.setdefault("params", {}).setdefault("data", {})["remarks"] = ["The images are copies."]
    path.write_text(json.dumps(record))
    assert render_block(Report(study.report_dir)).endswith("\n\n- The images are copies.\n")


def test_a_published_result_has_a_row_without_an_interval(project):
    path = Study("demo").metrics / "05_comparison.json"
    metrics = json.loads(path.read_text())
    metrics["headline"].append({"label": "The winner of 2016", "metric": "AP", "value": 0.637})
    path.write_text(json.dumps(metrics))
    block = render_block(Report(Study("demo").report_dir))
    assert "\n| The winner of 2016 | AP | 0.637 | – | – |\n" in block


def test_the_committed_readme_shows_what_the_committed_report_says(tmp_path, monkeypatch):
    """Of the files under version control, since running the demo on another machine may change the last digits."""
    root = Path(__file__).resolve().parents[2]
    listed = subprocess.run(["git", "ls-files", "README.md", "reports"], cwd=root, capture_output=True, text=True)
    if "README.md" not in listed.stdout:
        pytest.skip("the README is not under version control")
    export = ["git", "checkout-index", "--stdin", f"--prefix={tmp_path}/"]
    subprocess.run(export, input=listed.stdout, cwd=root, text=True, check=True)
    use_project(tmp_path, monkeypatch)
    blocks = list_blocks(tmp_path / "README.md")
    assert "demo" in blocks
    for name, block in blocks.items():
        if f"reports/{name}/metrics/05_comparison.json" in listed.stdout:
            assert is_current(tmp_path / "README.md", Study(name)), "run: python -m lesion_utils readme"
            image = re.search(r"\]\((reports/\S+?\.\w+)\)", block.partition("![")[2])
            assert image and image[1] in listed.stdout.splitlines(), "the picture is not committed"
        else:
            assert block == "", f"no report of {name} is committed"
