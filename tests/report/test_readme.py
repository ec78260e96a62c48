"""The README's generated blocks: from the published copies' files, and nowhere else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from fake_report import edit_json

from lesion_utils.core.errors import RunError
from lesion_utils.core.paths import project_root
from lesion_utils.report.content import Report
from lesion_utils.report.readme import BLOCK, render_block, update_readme

BEGIN, END = "<!-- results:demo:begin -->\n", "<!-- results:demo:end -->"


@pytest.fixture
def copy(study, tmp_path) -> Path:
    """A published copy, as far as the README reads it."""
    return Path(shutil.copytree(study.report_dir, tmp_path / "docs" / "demo"))


def test_the_block_is_written_between_the_marks_and_nothing_else_changes(copy, tmp_path):
    readme = tmp_path / "README.md"
    empty = "<!-- results:nothing_yet:begin -->\n<!-- results:nothing_yet:end -->"
    readme.write_text(f"# Title\n\n{BEGIN}old\n{END}\n\nThe rest, with a | and trailing spaces.  \n{empty}\n")
    assert update_readme(readme)
    text = readme.read_text()
    assert text.startswith(f"# Title\n\n{BEGIN}")
    assert text.endswith(f"{END}\n\nThe rest, with a | and trailing spaces.  \n{empty}\n")
    assert "**ResNet50, fine-tuned**: AUC 0.610 (0.530 to 0.680)" in text
    assert "](docs/demo/figures/05_comparison_curve.svg)" in text and "](docs/demo/index.html)" in text
    assert "180 images (120 training, 60 test); " in text and "of computing on Fixture CPU" in text
    assert not update_readme(readme), "the second time there is nothing to write"
    path = copy / "metrics" / "05_comparison.json"
    path.write_text(path.read_text().replace("0.61,", "0.62,"))
    assert update_readme(readme) and "AUC 0.620 (" in readme.read_text()


def test_a_project_without_a_readme_publishes_all_the_same(tmp_path):
    assert update_readme(tmp_path / "README.md") is False and not list(tmp_path.iterdir())


def test_the_selected_model_comes_first_and_nothing_in_it_is_markup(copy):
    path = copy / "metrics" / "05_comparison.json"
    rows = json.loads(path.read_text())["headline"]
    row = {"label": "a | b\n<b>", "metric": "sensitivity, threshold from validation", "value": 0.637}
    difference = {
        "label": "a \u2212 metadata alone",
        "metric": "AUC",
        "value": 0.1,
        "low": 0.01,
        "high": 0.2,
        "difference": True,
    }
    edit_json(path, headline=[*rows, row, difference])
    record = json.loads((copy / "runs" / "data" / "run.json").read_text())
    record["params"]["data"]["remarks"] = ["The images are copies."]
    edit_json(copy / "runs" / "data" / "run.json", **record)
    block = render_block(Report(copy))
    assert "\n- **a \\| b \\<b\\>**: sensitivity, threshold from validation 0.637.\n" in block
    assert "- a \u2212 metadata alone: AUC 0.100 (0.010 to 0.200).\n" in block
    assert "\nThe images are copies.\n" in block


def test_a_report_without_numbers_says_what_to_do(copy):
    (copy / "metrics" / "05_comparison.json").unlink()
    with pytest.raises(RunError, match="make publish STUDY=demo"):
        render_block(Report(copy))


def test_the_committed_readme_shows_what_the_published_copies_say():
    readme = (project_root() / "README.md").read_text(encoding="utf-8")
    blocks = {found[2]: found[3] for found in BLOCK.finditer(readme)}
    published = {path.parent.name for path in (project_root() / "docs").glob("*/index.html")}
    assert published <= set(blocks), "a published study has no block"
    for name, block in blocks.items():
        assert block == (render_block(Report(project_root() / "docs" / name)) if name in published else "")
    for link in re.findall(r"\]\((?!https:)([^)#]+)\)", readme):
        assert (project_root() / link).exists(), f"the link to {link} leads nowhere"


def test_a_report_of_an_earlier_version_says_so(copy):
    path = copy / "metrics" / "05_comparison.json"
    edit_json(path, tiles=[], sentences=["ResNet50 is better."])
    assert render_block(Report(copy)).count("This report was made by an earlier version of the software.") == 1
    edit_json(path, tiles=[{"title": "Best model", "value": "AUC 0.6", "detail": "ResNet50"}])
    assert "earlier version" not in render_block(Report(copy))
