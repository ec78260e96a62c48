"""The notebooks' style: prose with calls, no outputs, the same code in 03 and 04."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from small_project import STEPS, list_reached_modules
from tiny_study import make_params

from lesion_utils.config.schema import StudyParams
from lesion_utils.notebooks.finetune import show_source
from lesion_utils.pipeline.notebook import adapt_notebook
from lesion_utils.training import loop

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["01_eda", "02_augmentation_preview", "03_resnet50_finetune", "04_vgg19_finetune", "05_comparison"]
TRAINING = NAMES[2:4]
#: What cells that begin with "# plain" may import.
PLAIN = {"timm", "torch", "torchvision"}


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)


def code_cells(name: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def is_parameters(cell: nbformat.NotebookNode) -> bool:
    return "parameters" in cell.metadata.get("tags", [])


def test_the_notebooks_are_these_five():
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_valid_notebook_without_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5), "cells need ids for readable diffs"
    assert notebook.metadata.kernelspec.name == "lesion-utils"
    for cell in code_cells(name):
        assert not cell.outputs, f"{name}: outputs in the cell {cell.source[:40]!r}; run `make strip`"
        assert cell.execution_count is None, f"{name}: execution count in {cell.source[:40]!r}"


@pytest.mark.parametrize("name", NAMES)
def test_its_first_cells_are_title_parameters_and_setup(name):
    """Title and question, then the parameters cell, then one setup cell that shows the card."""
    network = STEPS[name].network
    title, *rest = read(name).cells
    assert title.cell_type == "markdown"
    assert title.source.startswith("# ")
    for what in ("**In**", "**Out**", "**Time**"):
        assert what in title.source, f"{name}: the first cell says what goes in and out, and how long it takes"
    parameters, setup = [cell for cell in rest if cell.cell_type == "code"][:2]
    assert parameters.metadata.tags == ["parameters"]
    assert parameters.source == 'params = "../params/demo"' + (f'\nnetwork = "{network}"' if network else "")
    step = "find_training_step(network).name" if network else f'"{name}"'
    assert f"open_study(params, {step})" in setup.source
    assert setup.source.rstrip().endswith("study.card()")


@pytest.mark.parametrize("name", NAMES)
def test_every_code_cell_is_introduced_in_prose(name):
    cells = read(name).cells
    for before, cell in pairwise(cells):
        if cell.cell_type == "code" and not is_parameters(cell):
            assert before.cell_type == "markdown", f"{name}: no prose before {cell.source[:60]!r}"


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short_calls(name):
    """No functions, no classes, no loops, no magics, no absolute paths, at most fourteen lines."""
    forbidden = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.Try, ast.Global)
    for cell in code_cells(name):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= 14, f"{name}: {len(lines)} lines in {cell.source[:60]!r}; move it into the package"
        assert not re.search(r"""^\s*[%!]|["'](/|~|[A-Z]:\\)""", cell.source, re.MULTILINE), f"{name}: {cell.source}"
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, forbidden), f"{name}: {type(node).__name__} in {cell.source[:60]!r}"


@pytest.mark.parametrize("name", NAMES)
def test_it_imports_nothing_but_the_package(name):
    """And timm and torch, where the core of a data set, a transform and a forward pass is shown."""
    for cell in code_cells(name):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                plain = PLAIN if cell.source.startswith("# plain ") else set()
                assert {name.split(".")[0] for name in names} <= {"lesion_utils"} | plain, f"{name}: {cell.source[:80]}"


@pytest.mark.parametrize("name", NAMES[1:4])
def test_its_first_code_cell_after_the_setup_is_plain_pytorch(name):
    """A data set, a transform and, in the training notebooks, one forward pass, without a helper."""
    plain, *more = [cell.source for cell in code_cells(name)][2:4]
    assert plain.startswith("# plain ") and "TensorDataset(" in plain and "v2.Compose(" in plain
    if name in TRAINING:
        assert "timm.create_model(" in plain and "model(transform(images))" in more[0]


@pytest.mark.parametrize("name", NAMES)
def test_its_results_are_sentences_from_files_and_it_ends_with_something_to_try(name):
    cells = [cell for cell in read(name).cells if not cell.source.startswith("## References")]
    heading = "## What we found" if name == NAMES[-1] else "## Summary"
    start = next(place for place, cell in enumerate(cells) if cell.source.startswith(heading))
    end = next(place for place in range(start + 1, len(cells)) if cells[place].source.startswith("## "))
    assert "study.say" in cells[end - 1].source
    title, *suggestions = cells[-1].source.splitlines()
    assert title == "## Try this" and sum(line.startswith("- ") for line in suggestions) == 3


def test_both_networks_are_trained_by_the_same_bytes():
    first, second = ([cell for cell in code_cells(name) if not is_parameters(cell)] for name in TRAINING)
    assert [cell.source for cell in first] == [cell.source for cell in second]
    assert [cell.metadata for cell in first] == [cell.metadata for cell in second]


def test_the_first_of_them_shows_how_a_network_is_fine_tuned():
    """The words that a PyTorch reader looks for, and the loop itself, open on the page and printed from the package."""
    cells = read(TRAINING[0]).cells
    prose = " ".join(cell.source for cell in cells if cell.cell_type == "markdown").lower()
    for term in ("timm", "optimizer", "learning rate", "cross-entropy", "dropout", "weight decay", "logit"):
        assert term in prose, term
    shown = [cell.source for cell in cells if "show-code" in cell.metadata.get("tags", [])]
    assert any("timm.create_model(" in source for source in shown)
    assert "finetune.show_source(loop.train_epoch)" in shown
    printed = show_source(loop.train_epoch).data
    assert printed.strip("`").removeprefix("python\n") in Path(loop.__file__).read_text(encoding="utf-8")
    assert "def train_epoch(" in printed and ".step(optimizer)" in printed and len(printed.splitlines()) < 60


@pytest.mark.parametrize("name", TRAINING)
def test_every_work_that_it_leans_on_stands_among_its_references(name):
    *cells, references = read(name).cells
    assert references.source.startswith("## References")
    if name == TRAINING[0]:
        prose = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
        named = set(re.findall(r"([A-Z]\w+) (?:et al\.|and [A-Z]\w+)?,? ?\((?:\w+, )?(\d{4})\)", prose))
        named |= set(re.findall(r"\(([A-Z]\w+)(?: et al\.| and [A-Z]\w+)?, (\d{4})\)", prose))
        assert len(named) > 8
        for author, year in named:
            assert re.search(rf"- {author} .*\({year}\)", references.source), f"{author} {year}"


@pytest.mark.parametrize("name", NAMES)
def test_no_result_is_typed_by_hand(name):
    """Prose holds no decimal fractions, other than the decision threshold of the challenge; results come from files."""
    for cell in read(name).cells:
        if cell.cell_type == "markdown" and not cell.source.startswith("## Try this"):
            prose = re.sub(r"(arXiv|doi):\S+", "", cell.source)
            typed = set(re.findall(r"(?<![\w.])\d+\.\d+", prose)) - {"0.5"}
            assert not typed, f"{name}: typed numbers {typed} in {cell.source[:80]!r}"


def test_the_comparison_loads_no_network():
    """Everything in 05 comes from the saved predictions."""
    packages = {name.partition(".")[0] for name in list_reached_modules(ROOT / "notebooks" / "05_comparison.ipynb")}
    assert "evaluation" in packages and not {"training", "models"} & packages


@pytest.mark.parametrize("name", NAMES)
def test_of_own_images_no_prose_speaks_of_the_challenge(name, tmp_path):
    """Nor of labels of 2016, of entries and published scores, or of VGG19 where another network is trained."""
    raw = make_params().model_dump(mode="json")
    raw["data"] |= {"source": "folder", "images": "images", "labels": "labels.csv"}
    raw["resnet50"]["backbone"], raw["vgg19"]["backbone"] = "resnet18", "vgg11"
    own = StudyParams.model_validate(raw)
    cells = nbformat.read(adapt_notebook(STEPS[name], own, tmp_path / f"{name}.ipynb"), as_version=4).cells
    prose = [cell.source for cell in cells if cell.cell_type == "markdown"]
    said = " ".join(text for text in prose if not text.startswith("## References"))
    named = re.sub(r"`[^`]*`", "", said)
    assert not re.search(r"ISIC|[Cc]hallenge|Lopez|2016|published result|VGG19 |ResNet50 is", named), named
    code = {cell.id for cell in cells if cell.cell_type == "code"}
    assert {"a16b0a47", "c8a01e6f", "ca1c9198", "bd8397f1"}.isdisjoint(code), "label changes, entries, Lopez's table"
