"""Verification: clean where nothing changed, and the right word for whatever did."""

from __future__ import annotations

import itertools
import json
from contextlib import suppress

import pytest
from fake_report import copy_fake_project, write_record
from small_project import STEPS

from lesion_utils.config.load import load_study
from lesion_utils.core.errors import LesionError, ParamsError
from lesion_utils.core.files import dump_json
from lesion_utils.core.paths import Study
from lesion_utils.core.run_files import write_done
from lesion_utils.core.seal import seal_record
from lesion_utils.pipeline import graph
from lesion_utils.pipeline.graph import mark_done
from lesion_utils.provenance.verify import describe_findings, describe_verdict, verify_study
from lesion_utils.report.index import build_site
from lesion_utils.report.publish import publish_study


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    copy_fake_project(tmp_path, monkeypatch)
    return Study("demo")


def list_bad(study: Study) -> dict[str, str]:
    return {finding.path: finding.state for finding in verify_study(study) if not finding.is_clean}


def edit_yaml(study: Study, file: str, old: str, new: str) -> None:
    path = study.params_dir / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_an_untouched_report_is_unchanged(study):
    findings = verify_study(study)
    assert {finding.state for finding in findings} == {"unchanged"}
    assert describe_verdict(findings)["headline"] == "unchanged"
    files = {p.relative_to(study.report_dir).as_posix() for p in study.report_dir.rglob("*") if p.is_file()}
    assert {finding.path for finding in findings} == files, "every file is checked"


@pytest.mark.fault("security", "scores of a run replaced, and the hash in its DONE", "found by `make verify`")
def test_a_run_that_was_sealed_anew_is_not_the_recorded_one(study):
    folder = study.report_dir / RUN
    (folder / "predictions.csv").write_text("perfect")
    write_done(folder, {"network": "resnet50"})
    assert list_bad(study) == {f"{RUN}/DONE": "changed by hand"} | {
        f"{RUN}/{name}": "not recorded" for name in ("best.pt", "history.jsonl", "predictions.csv")
    }


@pytest.mark.fault("upgrades", "one flipped byte in any file of a report", "found by `make verify`")
def test_one_flipped_byte_is_found_in_every_file(study):
    """All artefacts together, then each record by itself, at the start, the middle or the end."""
    paths = [finding.path for finding in verify_study(study)]
    records = [path for path in paths if path.endswith(("/run.json", "/DONE"))]
    assert len(records) == 9
    for together in ([path for path in paths if path not in records], *([path] for path in records)):
        whole = {path: (study.report_dir / path).read_bytes() for path in together}
        for i, (path, content) in enumerate(whole.items(), start=len(together[0])):
            flipped = bytearray(content)
            flipped[(0, len(content) // 2, len(content) - 1)[i % 3]] ^= 1
            (study.report_dir / path).write_bytes(flipped)
        found = list_bad(study)
        assert {found.get(path) for path in together} == {"changed by hand"}, together
        for path, content in whole.items():
            (study.report_dir / path).write_bytes(content)
    assert not list_bad(study)


def change_record(study: Study, step: str, *, sealed: bool = False, **fields: object) -> None:
    path = study.runs / step / "run.json"
    record = json.loads(path.read_text()) | fields
    path.write_text(dump_json(seal_record(record) if sealed else record))


RUN = "runs/03_resnet50_finetune/finetune-seed1-0123"


def add_unfinished_run(study: Study) -> None:
    folder = (study.report_dir / RUN).with_name("finetune-seed2-0123")
    folder.mkdir()
    for name in ("last.pt", "best.pt"):
        (folder / name).touch()


#: What is done to a file of the report, and what is said of it.
CHANGES = {
    "a record, edited and tidied": (
        lambda study: change_record(study, "03_resnet50_finetune", wall_seconds=1.0),
        "runs/03_resnet50_finetune/run.json", "changed by hand",
    ),
    "a step that failed": (
        lambda study: change_record(study, "05_comparison", sealed=True, status="failed", outputs=[]),
        "runs/05_comparison/run.json", "failed",
    ),
    "a step that never ran": (
        lambda study: (study.runs / "05_comparison" / "run.json").unlink(), "runs/05_comparison/run.json", "missing",
    ),
    "a figure, deleted": (
        lambda study: (study.figures / "01_eda_examples.png").unlink(), "figures/01_eda_examples.png", "missing",
    ),
    "the page, deleted": (lambda study: (study.report_dir / "index.html").unlink(), "index.html", "missing"),
    "a file that no step made": (
        lambda study: (study.figures / "extra.png").touch(), "figures/extra.png", "not recorded",
    ),
    "a file that no step made, among a run's": (
        lambda study: (study.report_dir / RUN / "notes.txt").touch(), f"{RUN}/notes.txt", "not recorded",
    ),
    "a page of selected settings that no run wrote": (
        lambda study: (study.report_dir / "selection.md").touch(), "selection.md", "not recorded",
    ),
    "the scores of a run, edited": (
        lambda study: (study.report_dir / RUN / "predictions.csv").write_text("perfect"),
        f"{RUN}/predictions.csv", "changed by hand",
    ),
    "the weights of a run, deleted": (
        lambda study: (study.report_dir / RUN / "best.pt").unlink(), f"{RUN}/best.pt", "missing",
    ),
    "the mark of a step, from another run": (
        lambda study: mark_done(study, STEPS["01_eda"], {}, {}, started=1.0),
        "keys/01_eda.done.json", "changed by hand",
    ),
    "a training that is not finished": (add_unfinished_run, f"{RUN}/best.pt", None),
    "a notebook on its way": (
        lambda study: (study.notebooks / "05_comparison.partial.ipynb").touch(), "notebooks/05_comparison.ipynb", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "path", "state"), CHANGES.values(), ids=CHANGES)
def test_each_change_has_its_word(study, change, path, state):
    change(study)
    found = list_bad(study)
    assert found.get(path) == state and bool(found) == bool(state)


#: What a field of a record may hold after an edit, a damage or another program.
ODD = (None, 3, "x", [3], {"a": [None]}, [{"path": 3, "sha256": "x"}], [{"path": "\x00/../..", "sha256": "x"}])


@pytest.mark.parametrize("name", ["keys/03_resnet50_finetune.done.json", "runs/03_resnet50_finetune/run.json",
                                  "runs/data/run.json", f"{RUN}/DONE"])  # fmt: skip
@pytest.mark.slow
@pytest.mark.fault("upgrades", "records and marks with odd values in any field", "named by verify; no traceback")
def test_records_of_any_shape_are_named_and_never_end_in_a_traceback(study, name):
    path, params = study.report_dir / name, load_study(study.params_dir)
    record = json.loads(path.read_text())
    contents = [b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"[]"]
    for field, value in zip(record, itertools.cycle(ODD), strict=False):
        contents.append(dump_json(seal_record({**record, field: value})).encode())
    for content in contents:
        path.write_bytes(content)
        verify_study(study)
        graph.tell_plan(study, params)
    for content in contents[:4]:
        path.write_bytes(content)
        assert name in list_bad(study)
        with suppress(LesionError):
            build_site(study, params)
        with pytest.raises(LesionError):
            publish_study(study, params)


def test_a_changed_parameter_makes_its_steps_stale_and_names_itself(study):
    edit_yaml(study, "vgg19.yaml", "batch_size: ", "batch_size: 1")
    findings = [finding for finding in verify_study(study) if not finding.is_clean]
    assert {finding.step for finding in findings} == {"02_augmentation_preview", "04_vgg19_finetune", "index"}
    assert {finding.state for finding in findings} == {"stale"}
    assert all("params vgg19.batch_size" in finding.detail for finding in findings)


def test_changed_predictions_make_the_comparison_stale(study):
    path = study.predictions / "vgg19.csv"
    path.write_text(path.read_text().replace("vgg19", "VGG19"))
    bad = {finding.path: finding for finding in verify_study(study)}
    assert bad["predictions/vgg19.csv"].state == "changed by hand"
    assert bad["metrics/05_comparison.json"].state == "stale"
    assert "predictions/vgg19.csv changed" in bad["metrics/05_comparison.json"].detail
    assert bad["metrics/01_eda.json"].state == "unchanged"


def test_a_step_that_ran_again_makes_the_index_stale(study):
    record = json.loads((study.runs / "01_eda" / "run.json").read_text())
    write_record(study, "01_eda", [study.report_dir / o["path"] for o in record["outputs"]], number=30)
    assert set(list_bad(study).values()) == {"stale"}
    assert "runs/01_eda/run.json changed" in describe_findings(
        verify_study(study), folder="reports/demo", do="make why STUDY=demo"
    )


def test_new_words_make_a_step_stale(study, tmp_path):
    path = tmp_path / "notebooks" / "01_eda.ipynb"
    path.write_text(path.read_text().replace("What is in the data", "What the data are"))
    findings = [finding for finding in verify_study(study) if not finding.is_clean]
    assert {finding.step for finding in findings} == {"01_eda"}
    assert {finding.state for finding in findings} == {"stale"}
    assert {finding.detail for finding in findings} == {"the notebook changed"}


def test_the_text_names_the_worst_first_and_what_to_do(study):
    edit_yaml(study, "comparison.yaml", "bootstrap_draws: ", "bootstrap_draws: 1")
    (study.predictions / "resnet50.csv").write_text("")
    text = describe_findings(verify_study(study), folder="reports/demo", do="make why").splitlines()
    assert text[0].startswith("reports/demo: changed by hand (")
    assert text[1].split()[:4] == ["changed", "by", "hand", "predictions/resnet50.csv"]
    assert "05_comparison, " in text[2]
    assert "make why" in text[-1]


def test_no_verdict_without_parameters(study):
    (study.params_dir / "vgg19.yaml").write_text("lr: [")
    with pytest.raises(ParamsError, match=r"vgg19\.yaml"):
        verify_study(study)


def test_nothing_at_all_is_not_a_clean_report():
    assert describe_verdict([])["tone"] == "bad"
