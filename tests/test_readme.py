"""The README's generated block: from the report's files, and nowhere else."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from fake_report import copy_fake_project, use_project

from lesion_utils.errors import RunError
from lesion_utils.paths import Study
from lesion_utils.readme import BEGIN, END, is_current, render_block, update_readme
from lesion_utils.site_content import Report


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
    assert "](reports/demo/figures/05_comparison_curve.png)" in text
    assert "**synthetic data**" in text
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
    assert "](reports/demo/figures/01_eda_curve.png)" in block
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


def test_the_committed_readme_shows_what_the_committed_report_says(tmp_path, monkeypatch):
    """Of the files under version control, since running the demo on another machine may change the last digits."""
    root = Path(__file__).resolve().parent.parent
    listed = subprocess.run(["git", "ls-files", "README.md", "reports/demo"], cwd=root, capture_output=True, text=True)
    if "reports/demo/metrics/05_comparison.json" not in listed.stdout:
        pytest.skip("no report of the demo is under version control")
    export = ["git", "checkout-index", "--stdin", f"--prefix={tmp_path}/"]
    subprocess.run(export, input=listed.stdout, cwd=root, text=True, check=True)
    use_project(tmp_path, monkeypatch)
    assert is_current(tmp_path / "README.md", Study("demo")), "run: python -m lesion_utils readme"
