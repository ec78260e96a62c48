"""What is committed of a report: no photograph, no dead link, nothing unlisted, and every byte of it checked."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fake_report import copy_fake_project, write_fake_report, write_index, write_record
from PIL import Image

from lesion_utils.config.load import load_study
from lesion_utils.core.errors import RunError
from lesion_utils.core.files import dump_json
from lesion_utils.core.paths import Study
from lesion_utils.provenance.verify import describe_verdict, seal_record, verify_study
from lesion_utils.report.publish import Copy, describe_copy, explain_absence, publish_study

ROOT = Path(__file__).resolve().parents[2]
HISTORY = "runs/03_resnet50_finetune/finetune-seed1-0123/history.jsonl"


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """A finished report of a real study, with what training leaves beside the recorded files."""
    copy_fake_project(tmp_path, monkeypatch)
    return finish(Study("demo"))


def finish(study: Study) -> Study:
    write_fake_report(study)
    write_index(study)
    folder = (study.report_dir / HISTORY).parent
    folder.mkdir(parents=True)
    for name in ("best.pt", "last.pt", "DONE", "history.jsonl"):
        (folder / name).write_text(name)
    (study.report_dir / "selection.md").write_text("# What was chosen\n")
    study.keys.mkdir(exist_ok=True)
    (study.keys / "01_eda.json").write_text("{}")
    return study


def publish(study: Study) -> Copy:
    return publish_study(study, load_study(study.params_dir))


def strip_to_copy(study: Study) -> dict:
    """Remove what is not published, as a clone would; returns published.json."""
    listed = read_list(study)
    kept = {item["path"] for item in listed["files"]} | {"published.json"}
    for path in [path for path in study.report_dir.rglob("*") if path.is_file()]:
        if path.relative_to(study.report_dir).as_posix() not in kept:
            path.unlink()
    return listed


def read_list(study: Study) -> dict:
    return json.loads((study.report_dir / "published.json").read_text())


def list_bad(study: Study) -> dict[str, str]:
    return {finding.path: finding.state for finding in verify_study(study) if not finding.is_clean}


def test_photographs_pages_weights_and_keys_stay_out(study):
    copy = publish(study)
    names = {item.path for item in copy.published}
    assert {"index.html", "selection.md", ".gitignore", HISTORY, "data/manifest.json", "predictions/vgg19.csv"} <= names
    assert {"figures/01_eda_curve.svg", "figures/01_eda_examples.json", "runs/index/run.json"} <= names
    assert not [name for name in names if name.startswith(("html/", "notebooks/", "keys/")) or name.endswith("png")]
    assert not [name for name in names if Path(name).name in ("best.pt", "last.pt", "DONE", "train.jsonl")]
    reasons = {item.path: item.reason for item in copy.left_out}
    assert reasons["figures/01_eda_examples.svg"] == reasons["figures/01_eda_examples.png"]
    assert reasons["figures/01_eda_examples.svg"].startswith("shows photographs")
    assert reasons["html/01_eda.html"].startswith("holds figures that show photographs")
    assert "photographs" not in reasons["html/05_comparison.html"]


def test_a_figure_that_says_nothing_of_itself_counts_as_photographs(study):
    assert explain_absence(study, "figures/01_eda_unknown.svg", photographs={}).startswith("shows photogr")


def test_no_photograph_is_inside_the_page_and_its_place_says_how_to_draw_it(study):
    whole = embedded_images(study.report_dir / "index.html")
    publish(study)
    page = (study.report_dir / "index.html").read_text()
    assert len(whole) - len(embedded_images(study.report_dir / "index.html")) == 2, "01 and 02 have one each"
    assert page.count('class="placeholder"') == 2
    place = page[page.index('class="placeholder"') :][:600]
    assert "shows photographs of the data set" in place
    assert "DATA_DIR=/path/to/the/images make all STUDY=demo" in place
    assert "standing in for a figure of 01_eda" in place, "the caption stays"


def embedded_images(page: Path) -> list[str]:
    return re.findall(r'<img src="data:[^"]+"', page.read_text())


def test_a_photograph_in_a_figure_that_does_not_own_up_to_it_is_found(study):
    """A flag can be forgotten; a chart's few colours cannot be taken for a photograph's."""
    rng = np.random.default_rng(0)
    for name, colours in (("01_eda_curve", 16), ("02_augmentation_preview_curve", 1 << 24)):
        pixels = (rng.integers(0, 256, (40, 40, 3)) // max(1, 256 // round(colours ** (1 / 3)))).astype(np.uint8)
        packed = io.BytesIO()
        Image.fromarray(pixels).save(packed, "png")
        text = base64.b64encode(packed.getvalue()).decode()
        path = study.figures / f"{name}.svg"
        path.write_text(path.read_text().replace("</svg>", f'<image xlink:href="data:image/png;base64,{text}"/></svg>'))
        step = name.removesuffix("_curve")
        record = json.loads((study.runs / step / "run.json").read_text())
        write_record(study, step, [study.report_dir / o["path"] for o in record["outputs"]])
    write_index(study)
    published = {item.path for item in publish(study).published}
    assert "figures/01_eda_curve.svg" in published
    assert "figures/02_augmentation_preview_curve.svg" not in published
    assert (study.report_dir / "index.html").read_text().count('class="placeholder"') == 3


def test_no_link_leads_to_what_is_not_published(study):
    copy = publish(study)
    page = (study.report_dir / "index.html").read_text()
    links = {link for link in re.findall(r'href="([^"]+)"', page) if not link.startswith(("#", "data:"))}
    published = {item.path for item in copy.published} | {"published.json"}
    assert links <= published
    assert {"figures/05_comparison_curve.svg", "metrics/05_comparison.json", "published.json", "selection.md"} <= links
    assert "is not part of this copy: <code>DATA_DIR=/path/to/the/images make all STUDY=demo" in page
    results = page[page.index('id="results"') : page.index('id="figures"')]
    assert 'href="selection.md"' in results, "what was tried belongs beside what came out"


def test_where_everything_is_everything_is_checked(study):
    publish(study)
    assert not list_bad(study)
    assert describe_verdict(verify_study(study))["headline"] == "unchanged"
    path = study.figures / "01_eda_examples.png"
    path.write_bytes(path.read_bytes() + b"x")
    assert list_bad(study) == {"figures/01_eda_examples.png": "changed by hand"}


def test_in_a_copy_what_was_left_out_is_left_out_and_the_rest_is_clean(study):
    copy = publish(study)
    strip_to_copy(study)
    findings = verify_study(study)
    states = [finding.state for finding in findings]
    assert set(states) == {"unchanged", "left out"}
    assert states.count("left out") == len(copy.left_out)
    assert states.count("unchanged") == len(copy.published) + 1
    assert describe_verdict(findings)["tone"] == "good"


def test_one_flipped_byte_of_any_file_of_a_copy_is_found(study):
    publish(study)
    listed = strip_to_copy(study)
    for i, name in enumerate([*(item["path"] for item in listed["files"]), "published.json"]):
        path = study.report_dir / name
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[(0, len(whole) // 2, len(whole) - 1)[i % 3]] ^= 1
        path.write_bytes(flipped)
        assert list_bad(study).get(name) == "changed by hand", name
        path.unlink()
        assert list_bad(study), name
        path.write_bytes(whole)
    assert not list_bad(study)


def test_the_list_cannot_be_rewritten_to_excuse_a_missing_file(study):
    publish(study)
    listed = strip_to_copy(study)
    name = "metrics/05_comparison.json"
    (study.report_dir / name).unlink()
    moved = next(item for item in listed["files"] if item["path"] == name) | {"reason": "no reason"}
    listed["files"] = [item for item in listed["files"] if item["path"] != name]
    listed["left_out"].append(moved)
    (study.report_dir / "published.json").write_text(dump_json(listed))
    assert list_bad(study)["published.json"] == "changed by hand"
    assert list_bad(study)[name] == "missing"


def test_a_record_that_was_edited_and_sealed_again_is_not_the_published_one(study):
    publish(study)
    path = study.runs / "03_resnet50_finetune" / "run.json"
    path.write_text(dump_json(seal_record(json.loads(path.read_text()) | {"wall_seconds": 1.0})))
    assert list_bad(study)["runs/03_resnet50_finetune/run.json"] == "stale"


def test_a_report_that_is_not_whole_or_was_changed_is_not_published(study):
    (study.metrics / "01_eda.json").write_text("{}")
    with pytest.raises(RunError, match=r"metrics/01_eda\.json \(changed by hand\)"):
        publish(study)
    (study.metrics / "01_eda.json").unlink()
    with pytest.raises(RunError, match="missing"):
        publish(study)
    assert not (study.report_dir / "published.json").exists()


def test_a_copy_cannot_be_published_again_and_loses_nothing_by_the_attempt(study):
    publish(study)
    strip_to_copy(study)
    with pytest.raises(RunError, match="cannot be published"):
        publish(study)
    assert not list_bad(study)


def test_publishing_again_follows_the_files_and_is_otherwise_the_same(study):
    publish(study)
    before = (study.report_dir / "index.html").read_bytes()
    (study.report_dir / "selection.md").write_text("# Other words\n")
    assert list_bad(study) == {"selection.md": "changed by hand"}
    publish(study)
    assert not list_bad(study)
    assert (study.report_dir / "index.html").read_bytes() == before


def test_a_page_that_is_made_again_is_no_published_one(study):
    publish(study)
    write_index(study)
    assert not (study.report_dir / "published.json").exists()
    assert not list_bad(study)


def test_git_takes_what_is_listed_and_nothing_else(study, tmp_path):
    copy = publish(study)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert check_ignored(tmp_path, study.report_dir) == (set(), {item.path for item in copy.left_out})
    listed = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard", "."], cwd=study.report_dir, capture_output=True, text=True
    ).stdout.split()
    assert set(listed) == {item.path for item in copy.published} | {"published.json"}
    assert copy.tracked == []
    assert describe_copy(copy).endswith("next: git add reports/demo")
    path = study.figures / "05_comparison_curve.png"
    subprocess.run(["git", "add", "-f", path], cwd=tmp_path, check=True)
    copy = publish(study)
    assert copy.tracked == ["figures/05_comparison_curve.png"]
    assert describe_copy(copy).endswith("next: git rm -rq --cached reports/demo; git add reports/demo")


def test_before_it_is_published_nothing_of_a_report_goes_under_version_control(study, tmp_path):
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    listed = ["git", "ls-files", "--others", "--exclude-standard", "reports"]
    assert subprocess.run(listed, cwd=tmp_path, capture_output=True, text=True).stdout == ""


def check_ignored(repository: Path, report: Path) -> tuple[set[str], set[str]]:
    """Which of the published files git ignores, and which of those left out."""
    listed = json.loads((report / "published.json").read_text())
    found = []
    for items in (listed["files"], listed["left_out"]):
        asked = "".join(f"{report / item['path']}\n" for item in items)
        command = ["git", "check-ignore", "--no-index", "--stdin"]
        done = subprocess.run(command, input=asked, cwd=repository, capture_output=True, text=True, check=False)
        found.append({Path(name).relative_to(report).as_posix() for name in done.stdout.splitlines()})
    return found[0], found[1]


@pytest.mark.parametrize("name", ["demo", "isic2016_640px"])
def test_the_committed_report_is_what_its_list_says(name):
    report = ROOT / "reports" / name
    done = (
        subprocess.run(["git", "ls-files", "."], cwd=report, capture_output=True, text=True)
        if report.is_dir()
        else None
    )
    if done is None or "published.json" not in done.stdout.split("\n"):
        pytest.skip(f"reports/{name} has not been published yet")
    raw = subprocess.run(["git", "show", ":./published.json"], cwd=report, capture_output=True, check=True).stdout
    listed = json.loads(raw)
    assert set(done.stdout.split()) == {item["path"] for item in listed["files"]} | {"published.json"}
    assert not [item for item in listed["files"] if Path(item["path"]).suffix in (".pt", ".ipynb", ".jpg")]
    if (report / "published.json").is_file():
        published, left_out = check_ignored(ROOT, report)
        assert (published, left_out) == (
            set(),
            {i["path"] for i in json.loads((report / "published.json").read_text())["left_out"]},
        )
