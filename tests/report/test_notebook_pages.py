"""An executed notebook as a page: everything inside, code folded away, nothing that runs but the one button."""

from __future__ import annotations

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lesion_utils.core.errors import RunError
from lesion_utils.report.notebook_pages import write_notebook_page

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # one PNG pixel
)


def convert(tmp_path, cells) -> str:
    notebook = tmp_path / "01_eda.ipynb"
    nbformat.write(new_notebook(cells=cells), notebook)
    return write_notebook_page(notebook, tmp_path / "html" / "x.html", study="demo").read_text()


def show(data: dict, **metadata) -> nbformat.NotebookNode:
    return new_code_cell("draw()", outputs=[new_output("display_data", data, metadata=metadata)])


def test_code_is_folded_and_kept_and_shown_where_a_cell_asks_for_it(tmp_path):
    shown = new_code_cell("train()", metadata={"tags": ["show-code"]})
    page = convert(tmp_path, [new_markdown_cell("# Title"), new_code_cell("a < b", execution_count=3), shown])
    assert page.count('<details class="code shown" open="">') == page.count('<details class="code">') == 1
    cell = re.search(r'(?s)<details class="code">.*?</details>', page)[0]
    assert "Code [3]" in cell
    assert "&lt;" in cell
    assert "<details open" not in page


def test_a_section_that_is_collapsed_in_jupyterlab_is_folded(tmp_path):
    collapsed = {"jp-MarkdownHeadingCollapsed": True}
    page = convert(
        tmp_path,
        [
            new_markdown_cell("# Title"),
            new_markdown_cell("## Open\n\nShown."),
            new_markdown_cell("## Details\n\nMore.", metadata=collapsed),
            new_markdown_cell("Also folded."),
            new_markdown_cell("## Last\n\nShown again."),
            new_markdown_cell("## End", metadata=collapsed),
        ],
    )
    folded = re.findall(r'<details class="section">(.*?)</details>', page, re.DOTALL)
    assert len(folded) == 2 and "Details</h2></summary>" in folded[0]
    assert "More." in folded[0] and "Also folded." in folded[0] and "Shown" not in folded[0]


def test_a_page_has_contents_and_leads_to_its_neighbours(tmp_path):
    cells = [new_markdown_cell("# T\n\n## One & <two>"), new_markdown_cell("## Last")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "x.ipynb")
    pages = {name: tmp_path / f"{name}.html" for name in ("01_eda", "03_resnet50_finetune", "05_comparison")}
    texts = {
        name: write_notebook_page(tmp_path / "x.ipynb", page, study="demo").read_text() for name, page in pages.items()
    }
    found = {name: re.findall(r'<a href="(\w+)\.html" rel="(\w+)"', text) for name, text in texts.items()}
    assert found["01_eda"] == [("02_augmentation_preview", "next")] * 2
    assert found["03_resnet50_finetune"] == [("02_augmentation_preview", "prev"), ("04_vgg19_finetune", "next")] * 2
    assert found["05_comparison"] == [("04_vgg19_finetune", "prev")] * 2
    text = texts["01_eda"]
    assert '<li><a href="#section-1">One &amp; &lt;two&gt;</a></li>' in text and '<h2 id="section-2">Last</h2>' in text


def test_the_title_is_the_first_heading(tmp_path):
    page = convert(tmp_path, [new_code_cell("# not this"), new_markdown_cell("# The question\n\n# Another")])
    assert "<title>The question – demo</title>" in page


def test_images_are_inside_and_have_the_text_that_was_given_or_the_heading_above(tmp_path):
    cells = [
        new_markdown_cell("# T\n\n## Classes"),
        show({"image/png": PIXEL}),
        show({"image/png": PIXEL}, **{"image/png": {"alt": 'Bars of "both" classes'}}),
    ]
    page = convert(tmp_path, cells)
    assert re.findall(r"""<img alt=(".*?"|'.*?') """, page) == [
        '"Figure under “Classes”"',
        "'Bars of \"both\" classes'",
    ]
    assert page.count("data:image/webp;base64,") == 2 and "image/png" not in page


@pytest.mark.fault("security", "scripts in a notebook's output", "left out for their text")
def test_scripts_and_widgets_in_outputs_are_left_out_for_their_text(tmp_path):
    outputs = {
        "application/javascript": "alert(1)",
        "application/vnd.jupyter.widget-view+json": {},
        "text/plain": "bar",
    }
    page = convert(tmp_path, [new_markdown_cell("# T"), show(outputs)])
    assert "alert(1)" not in page
    assert "<pre>bar</pre>" in page.replace("\n", "")


@pytest.mark.fault("security", "requests from a page", "its policy forbids them")
def test_the_policy_allows_the_one_script_and_no_address(tmp_path):
    page = convert(tmp_path, [new_markdown_cell("# T")])
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert "default-src &#39;none&#39;" in policy or "default-src 'none'" in policy
    assert not re.search(r"https?:", policy)
    assert not re.search(r"""(src|href)=["']https?:""", page), "nothing is loaded from anywhere"
    assert page.count("<script") == 1


def test_colours_of_an_error_survive_and_its_text_is_escaped(tmp_path):
    error = new_output("error", ename="E", evalue="v", traceback=["\x1b[0;31mValueError\x1b[0m <x>"])
    page = convert(tmp_path, [new_markdown_cell("# T"), new_code_cell("fail()", outputs=[error])])
    assert '<span class="ansi-red-fg">ValueError</span> &lt;x&gt;' in page


def test_a_damaged_notebook_is_named(tmp_path):
    path = tmp_path / "broken.ipynb"
    path.write_text("{")
    with pytest.raises(RunError, match=r"broken\.ipynb: not readable as a notebook"):
        write_notebook_page(path, tmp_path / "x.html", study="demo")
