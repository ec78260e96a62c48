"""What is published of a report: all that its pages need and no more, no photograph unasked, and every byte checked."""

from __future__ import annotations

import base64
import errno
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from unittest.mock import Mock

import nbformat
import numpy as np
import pandas as pd
import pytest
from fake_report import edit_json, write_index, write_record
from nbformat.v4 import new_output
from PIL import Image
from sections import change_data

from lesion_utils.cli import main
from lesion_utils.config.data import External
from lesion_utils.config.load import load_study
from lesion_utils.core.errors import DataError, RunError
from lesion_utils.core.paths import Study
from lesion_utils.core.run_files import write_done
from lesion_utils.provenance.record import write_selection_record
from lesion_utils.provenance.verify import verify_copy
from lesion_utils.report.explore import write_explorer
from lesion_utils.report.notebook_pages import HIDDEN, write_document
from lesion_utils.report.publish import _render_front_page, publish_study

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def study(study) -> Study:
    """With what training leaves beside the recorded files."""
    unfinished = study.runs / "03_resnet50_finetune" / "finetune-seed2-0123"
    unfinished.mkdir()
    for name in ("best.pt", "last.pt"):
        (unfinished / name).write_text(name)
    return study


def publish(study: Study, **data) -> Path:
    return publish_study(study, change_data(load_study(study.params_dir), **data))


def add_output(study: Study, step: str, *paths: Path) -> None:
    """Record what a step left anew, with more files, and make the page from it."""
    record = json.loads((study.runs / step / "run.json").read_text())
    write_record(study, step, [*(study.report_dir / output["path"] for output in record["outputs"]), *paths])
    write_index(study)


def list_bad(folder: Path) -> dict[str, str]:
    return {finding.path: finding.state for finding in verify_copy(folder) if not finding.is_clean}


def list_dead_links(folder: Path) -> list[str]:
    """Links of all pages below a folder that lead to nothing in it."""
    links = [
        (page, link)
        for page in folder.rglob("*.html")
        for link in re.findall(r'(?:href|src)="([^"#]+)', page.read_text(encoding="utf-8"))
        if not link.startswith(("data:", "https:"))
    ]
    return [f"{page.name}: {link}" for page, link in links if not (page.parent / link).is_file()]


def test_a_copy_holds_what_its_pages_need_and_no_weights_or_photographs_of_their_own(study, tmp_path):
    document, page = study.report_dir / "selection.md", study.html / "selection.html"
    document.write_text("# What was chosen\n")
    write_document(document, page, study="demo")
    write_selection_record(study, [document, page])
    write_index(study)
    folder = publish(study)
    assert folder == tmp_path / "docs" / "demo"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"index.html", "html/01_eda.html", "html/selection.html", "selection.md"} <= names
    assert {"data/manifest.json", "predictions/vgg19.csv"} <= names
    assert {"figures/01_eda_curve.svg", "runs/index/run.json", "metrics/05_comparison.json"} <= names
    assert "runs/03_resnet50_finetune/finetune-seed1-0123/history.jsonl" in names
    assert not [name for name in names if Path(name).suffix in (".png", ".ipynb", ".pt") or "DONE" in name]
    assert "figures/01_eda_examples.svg" not in names
    report, copy = ((place / "index.html").read_text().splitlines() for place in (study.report_dir, folder))
    assert [line for line in copy if line not in report] == [
        '<p class="eyebrow"><a href="../index.html">All published studies</a></p>'
    ]
    assert list_dead_links(tmp_path / "docs") == []
    assert 'href="demo/index.html"' in (tmp_path / "docs" / "index.html").read_text()
    assert not list_bad(folder)
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


def test_no_photograph_is_in_a_copy_where_the_study_forbids_it(study):
    notebook = study.notebooks / "01_eda.ipynb"
    node = nbformat.read(notebook, as_version=4)
    for name in ("curve", "examples"):  # a chart and a figure of photographs, as a notebook shows them
        png = base64.b64encode((study.figures / f"01_eda_{name}.png").read_bytes()).decode()
        node.cells[-2].outputs.append(new_output("display_data", {"image/png": png}))
    nbformat.write(node, notebook)
    add_output(study, "01_eda")
    document, page = study.report_dir / "selection.md", study.html / "selection.html"
    document.write_text("# What was chosen\n")
    write_selection_record(study, [document, write_document(document, page, study="demo")])
    write_index(study)
    folder = publish(study, publish_photographs=False)
    assert "What was chosen" in (folder / "html/selection.html").read_text()
    page = (folder / "html" / "01_eda.html").read_text()
    assert page.count(HIDDEN) == 2, "the examples, and a picture that no figure accounts for"
    assert page.count('src="data:image/webp') == 1, "the chart stays"
    index = (folder / "index.html").read_text()
    assert 'class="placeholder"' not in index, "its figures are charts"
    for path in study.figures.glob("02_augmentation_preview_curve.*"):
        path.unlink()
    add_output(study, "01_eda")
    assert 'class="placeholder"' not in (publish(study) / "index.html").read_text()
    assert (publish(study, publish_photographs=False) / "index.html").read_text().count('class="placeholder"') == 1


def test_one_changed_absent_or_added_file_of_a_copy_is_found(study, capsys):
    folder = publish(study)
    for i, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        whole, name = path.read_bytes(), path.relative_to(folder).as_posix()
        if name != "SHA256SUMS" and whole:
            flipped = bytearray(whole)
            flipped[(0, len(whole) // 2, len(whole) - 1)[i % 3]] ^= 1
            path.write_bytes(flipped)
            assert list_bad(folder) == {name: "changed by hand"}
            path.unlink()
            assert list_bad(folder) == {name: "missing"}
            path.write_bytes(whole)
    (folder / "extra.txt").write_text("x")
    assert list_bad(folder) == {"extra.txt": "not recorded"}
    shutil.rmtree(study.report_dir)
    assert main(["verify", "demo"]) == 1, "a clone has the copy alone"
    assert "docs/demo: not recorded" in capsys.readouterr().out
    (folder / "extra.txt").unlink()
    assert main(["verify", "demo"]) == 0
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(RunError, match="make publish STUDY=demo"):
        verify_copy(folder)


def test_what_no_record_accounts_for_is_not_published_and_the_earlier_copy_stays(study):
    before = (publish(study) / "SHA256SUMS").read_bytes()
    path = study.metrics / "01_eda.json"
    whole = path.read_text()
    path.write_text("{}")
    with pytest.raises(RunError, match=r"metrics/01_eda\.json \(changed by hand\)"):
        publish(study)
    path.write_text(whole)
    (study.html / "01_eda.html").unlink()
    with pytest.raises(RunError, match=r"html/01_eda\.html \(missing\)"):
        publish(study)
    folder = study.report_dir.parents[1] / "docs" / "demo"
    assert (folder / "SHA256SUMS").read_bytes() == before
    assert not list_bad(folder)


@pytest.mark.parametrize(
    "name", ["selection.md", "notes.md", "metrics/extra.csv", "selection/scores.csv", "runs/x/a.csv"]
)
def test_a_file_that_no_step_wrote_is_not_sealed(study, tmp_path, name):
    path = study.report_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("by hand\n")
    with pytest.raises(RunError, match=rf"{name} \(not recorded\)"):
        publish(study)
    assert not (tmp_path / "docs").exists() or not list((tmp_path / "docs").iterdir())


def test_the_history_of_a_run_that_has_not_ended_is_not_published(study):
    unfinished = study.runs / "03_resnet50_finetune" / "finetune-seed2-0123" / "history.jsonl"
    unfinished.write_text('{"epoch": 1}\n')
    assert not (publish(study) / unfinished.relative_to(study.report_dir)).exists()


def test_a_page_that_was_lost_is_made_again_before_publishing(study, tmp_path):
    """Its neighbours lead to it."""
    (study.html / "03_resnet50_finetune.html").unlink()
    write_index(study)
    with pytest.raises(RunError, match=r"html/02_\w+.html: the page links to 03_resnet50_finetune.html"):
        publish(study)
    assert not (tmp_path / "docs" / "demo").exists()


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize(
    "function", ["write_crate", "write_sums", "_render_front_page", "publish_openings", "_write_front_page"]
)
def test_a_publication_that_fails_leaves_everything_as_it_was(study, tmp_path, monkeypatch, function, again):
    (tmp_path / "docs").mkdir()
    if again:
        publish(study)
    before = read_all(tmp_path / "docs")

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"lesion_utils.report.publish.{function}", fail)
    with pytest.raises(DataError, match="No space left"):
        publish(study)
    assert read_all(tmp_path / "docs") == before
    assert not [path for path in (tmp_path / "docs").iterdir() if path.name.startswith(".publishing")]


def test_a_publication_killed_between_its_two_renames_loses_no_copy(study, monkeypatch):
    folder = publish(study)
    work = folder.with_name(".publishing-demo")
    work.mkdir()
    folder.replace(work / "earlier")
    monkeypatch.setattr("lesion_utils.report.publish.write_crate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        publish(study)
    assert not list_bad(folder) and not work.exists()


def test_a_line_of_a_history_without_its_time_is_named(study):
    metrics = study.metrics / "03_resnet50_finetune.json"
    metrics.write_text(json.dumps({"runs": [{"folder": "finetune-seed1-0123"}]}))
    history = study.runs / "03_resnet50_finetune" / "finetune-seed1-0123" / "history.jsonl"
    record = json.loads((study.runs / "03_resnet50_finetune" / "run.json").read_text())
    recorded = [study.report_dir / output["path"] for output in record["outputs"]]
    for line in ('{"seconds_validation": 2}', "no JSON", "[]"):
        history.write_text(f'{{"seconds": 30.5, "seconds_validation": 2}}\n{line}\n')
        write_done(history.parent, {})
        write_record(study, "03_resnet50_finetune", [*recorded, metrics])
        with pytest.raises(RunError, match=r"history.jsonl:2: this line does not say how long its epoch took"):
            publish(study)
    assert not (study.report_dir.parents[1] / "docs" / "demo").exists()


def test_publishing_again_leaves_nothing_of_the_earlier_copy(study):
    (publish(study) / "old.txt").write_text("x")
    folder = publish(study)
    assert not (folder / "old.txt").exists()
    assert [path.name for path in sorted(folder.parent.iterdir())] == [".nojekyll", "demo", "index.html"]


def test_of_reports_nothing_goes_under_version_control_and_of_copies_everything(study, tmp_path):
    folder = publish(study)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    shutil.copy(ROOT / "reports" / "README.md", tmp_path / "reports")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    command = ["git", "ls-files", "--others", "--exclude-standard", "reports", "docs/demo"]
    listed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    published = {path.relative_to(tmp_path).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(listed) == {"reports/README.md"} | published


@pytest.mark.parametrize("folder", sorted(path.parent for path in (ROOT / "docs").glob("*/SHA256SUMS")), ids=str)
def test_a_committed_copy_is_what_its_list_says_and_no_link_leads_nowhere(folder):
    assert not list_bad(folder)
    assert list_dead_links(folder) == []


@pytest.mark.parametrize("allowed", [True, False])
def test_external_scores_are_copied_only_where_every_set_allows_it(study, allowed):
    (study.predictions / "resnet50_external.csv").write_text("image_id\n")
    add_output(study, "03_resnet50_finetune", study.predictions / "resnet50_external.csv")
    sets = {"P": External(images="a", labels="b", licence="CC-0", publish=True)}
    sets |= {} if allowed else {"Q": External(images="a", labels="b")}
    folder = publish(study, external=sets)
    assert (folder / "predictions" / "resnet50_external.csv").is_file() == allowed
    assert (folder / "predictions" / "resnet50.csv").is_file() and list_bad(folder) == {}


def test_the_page_to_explore_is_copied_only_where_scores_may_be_published(study, params):
    copy = publish_study(study, params)
    assert "explore.html" in (copy / "index.html").read_text()
    assert (copy / "explore.html").read_bytes() == (study.report_dir / "explore.html").read_bytes()
    own = change_data(params, source="folder", images="x", labels="y", publish_scores=False)
    copy = publish_study(study, own)
    assert not (copy / "explore.html").exists()
    assert "explore.html" not in (copy / "index.html").read_text()


def test_photographs_are_on_the_page_to_explore_only_where_they_may_be(study, params, tmp_path, monkeypatch):
    pixels = np.zeros((60, 32, 32, 3), np.uint8)
    monkeypatch.setattr(
        "lesion_utils.report.explore.load_prepared", lambda *_: Mock(images=pixels, rows_of=lambda ids: range(len(ids)))
    )
    for photographs in (True, False):
        page = write_explorer(study, params, tmp_path, photographs=photographs).read_text()
        assert ("data:image/webp" in page) is photographs
        assert ("not part of this copy" in page) is not photographs


def test_the_list_of_studies_shows_benign_lesions_then_malignant_ones_where_it_may(study, params, monkeypatch):
    blue, red = (0, 0, 200), (200, 0, 0)
    own = pd.read_csv(study.predictions / "vgg19.csv").drop_duplicates("image_id").set_index("image_id")["target"]

    pixels = np.zeros((len(own), 32, 32, 3), np.uint8)
    pixels[:] = [[[red if target else blue]] for target in own]
    data = Mock(images=pixels, rows_of=lambda ids: [own.index.get_loc(name) for name in ids])
    monkeypatch.setattr("lesion_utils.report.explore.load_prepared", lambda *_: data)
    write_explorer(study, params, study.report_dir, photographs=True)
    page = _render_front_page([study.report_dir])
    (source,) = re.findall(r'<img src="data:image/webp;base64,([^"]+)" alt="Six benign and six malignant', page)
    with Image.open(io.BytesIO(base64.b64decode(source))) as strip:
        side = strip.height
        middles = [strip.convert("RGB").getpixel((i * side + side // 2, side // 2)) for i in range(12)]
    assert strip.width == 12 * side and len(source) < 60_000
    assert [pixel[0] > pixel[2] for pixel in middles] == [False] * 6 + [True] * 6
    write_explorer(study, params, study.report_dir, photographs=False)
    assert "Six benign" not in _render_front_page([study.report_dir])
    (study.report_dir / "explore.html").unlink()
    assert "Six benign" not in _render_front_page([study.report_dir])


def test_the_list_of_studies_begins_with_the_real_one_and_shows_its_result(study, params):
    other = Study("other")
    edit_json(other.metrics / "05_comparison.json", best={"name": "ResNet50, fine-tuned"})
    page = _render_front_page([study.report_dir, other.report_dir])
    assert page.index("other/index.html") < page.index("demo/index.html")
    assert page.count("AUC 0.630 (0.550 to 0.700)") == 1, "the demo does not say which model is its best"
    assert 'href="demo/explore.html"' in page
