"""Documents say what is there: files, links and line counts."""

from __future__ import annotations

import re

import pytest

from lesion_utils.core.paths import project_root

ROOT = project_root()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_is_broken(page):
    for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{page.name}: the link to {link} leads nowhere"


def test_the_reading_order_has_ten_files_of_about_the_stated_length():
    found = re.findall(
        r"^\d+\. \[`(\S+)`\]\(\S+\) \((\d+) lines\)", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    assert len(found) == 10
    for file, lines in found:
        actual = len((ROOT / "lesion_utils" / file).read_text(encoding="utf-8").splitlines())
        assert abs(actual - int(lines)) <= 0.25 * actual, f"{file} has {actual} lines"


def test_files_that_contributing_names_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in re.findall(r"`(lesion_utils/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path
