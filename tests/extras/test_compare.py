"""Two reports side by side: numbers, predictions, circumstances, figures, notebooks; as text and as a table."""

from __future__ import annotations

import json

import nbformat
import pandas as pd
import pytest
from fake_report import copy_fake_project, edit_json
from hypothesis import given
from hypothesis import strategies as st

from lesion_utils.core.errors import RunError
from lesion_utils.core.paths import Study
from lesion_utils.extras.compare import Number, compare_reports, describe_comparison, write_comparison


@pytest.fixture
def reports(study):
    """The folders of two reports whose numbers differ by 0.02."""
    return study.report_dir, study.report_dir.with_name("other")


def interval(value: float, low: float, high: float) -> dict:
    return {"value": value, "low": low, "high": high}


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        (interval(0.7, 0.6, 0.8), interval(0.7, 0.6, 0.8), "same"),
        (interval(0.7, 0.6, 0.8), interval(0.75, 0.65, 0.85), "within interval"),
        (interval(0.7, 0.6, 0.8), interval(0.75, 0.74, 0.76), "differs"),  # 0.7 is outside B's narrower interval
        (interval(0.7, 0.6, 0.8), interval(0.9, 0.85, 0.95), "differs"),
        (interval(0.7, None, None), interval(0.71, 0.6, 0.8), "within tolerance"),
        (interval(0.065, None, None), interval(0.065 + 1e-9, None, None), "within tolerance"),  # calibration errors
        (interval(0.065, None, None), interval(0.072, None, None), "differs"),
        (interval(0.5, None, None), interval(0.53, None, None), "differs"),
        (interval(None, None, None), interval(0.5, 0.4, 0.6), "differs"),
        (interval(0.7, 0.6, 0.8), None, "only in A"),
        (None, interval(0.7, 0.6, 0.8), "only in B"),
    ],
)
def test_the_verdict_on_a_number(a, b, verdict):
    assert Number("x", a, b).verdict == verdict


@given(st.tuples(*[st.floats(0, 1)] * 3).map(sorted), st.tuples(*[st.floats(0, 1)] * 3).map(sorted))
def test_the_verdict_does_not_depend_on_the_order(left, right):
    a, b = (interval(value, low, high) for low, value, high in (left, right))
    assert Number("x", a, b).verdict == Number("x", b, a).verdict


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    copy_fake_project(tmp_path, monkeypatch)
    return Study("demo")


def test_a_report_agrees_with_itself(reports):
    comparison = compare_reports(reports[0], reports[0])
    assert comparison.verdict == "same"
    assert comparison.circumstances == []
    assert all(same for *_, same in comparison.figures)
    assert {agreement for _, agreement in comparison.predictions} == {"60 scores, identical byte for byte"}
    assert {changes for _, changes in comparison.diff_notebooks(outputs=True)} == {""}


def test_numbers_are_found_wherever_they_stand_and_named_so_that_they_can_be_found(reports):
    row = {"model": "resnet50", "regime": "finetune", "ece": interval(0.1, 0.05, 0.2)}
    edit_json(reports[1] / "metrics" / "05_comparison.json", calibration=[row])
    comparison = compare_reports(*reports)
    verdicts = {number.name: number.verdict for number in comparison.numbers}
    assert verdicts == {
        "05_comparison › headline › ResNet50, fine-tuned, AUC": "within interval",
        "05_comparison › headline › VGG19, fine-tuned, AUC": "within interval",
        "05_comparison › headline › VGG19 minus ResNet50, AUC": "within interval",
        "05_comparison › calibration › resnet50, finetune › ece": "only in B",
    }
    assert comparison.verdict == "only in B"


def test_a_number_outside_decides_the_verdict(reports):
    path = reports[1] / "metrics" / "05_comparison.json"
    first, second, *others = json.loads(path.read_text())["headline"]
    edit_json(path, headline=[first, second | interval(0.9, 0.85, 0.95), *others])
    assert compare_reports(*reports).verdict == "differs"
    assert "outside the other report's interval" in describe_comparison(compare_reports(*reports))


def test_predictions_are_compared_score_by_score(reports):
    path = reports[1] / "predictions" / "vgg19.csv"
    lines = (reports[0] / "predictions" / "vgg19.csv").read_text().splitlines()
    cells = lines[1].split(",")
    before = float(cells[-1])
    cells[-1] = "0.9" if before < 0.5 else "0.1"
    path.write_text("\n".join([lines[0], ",".join(cells), *lines[2:-1]]) + "\n")
    largest = f"largest difference {abs(float(cells[-1]) - before):.3g}"
    assert dict(compare_reports(*reports).predictions)["vgg19.csv"] == (
        f"59 scores in common, {largest}, 1 on the other side of 0.5, 1 only in A"
    )


def test_what_may_explain_a_difference_is_listed_once(reports):
    for path in reports[1].glob("runs/*/run.json"):
        record = json.loads(path.read_text())
        record["device"]["name"] = "Another CPU"
        record["params"].setdefault("data", {})["seed"] = 7
        path.write_text(json.dumps(record))
    rows = compare_reports(*reports).circumstances
    assert sorted(name for name, _, _ in rows) == ["device.name", "params.data.seed"]
    assert ("params.data.seed", "2016", "7") in rows


def test_notebooks_are_compared_by_source_and_on_request_by_output(reports):
    path = reports[1] / "notebooks" / "05_comparison.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[3].outputs[0].text = "epoch 2\n"
    nbformat.write(notebook, path)
    comparison = compare_reports(*reports)
    assert dict(comparison.diff_notebooks())["05_comparison.ipynb"] == ""
    assert "epoch 2" in dict(comparison.diff_notebooks(outputs=True))["05_comparison.ipynb"]
    notebook.cells[3].source += "\nprint('more')"
    nbformat.write(notebook, path)
    assert "print('more')" in dict(comparison.diff_notebooks())["05_comparison.ipynb"]
    assert "print('more')" in describe_comparison(comparison)


def test_the_table_holds_both_sides(reports, tmp_path):
    comparison = compare_reports(*reports)
    table = pd.read_csv(write_comparison(comparison, tmp_path / "compare.csv"))
    assert table["name"].tolist() == [number.name for number in comparison.numbers]
    first = table.iloc[0]
    assert first[["a_value", "a_low", "a_high"]].tolist() == pytest.approx([0.61, 0.53, 0.68])
    assert first[["b_value", "b_low", "b_high"]].tolist() == pytest.approx([0.63, 0.55, 0.70])
    assert first["verdict"] == "within interval"


def test_a_folder_that_is_no_report_is_named(reports, tmp_path):
    with pytest.raises(RunError, match=r"B=.*nothing: there is no report here"):
        compare_reports(reports[0], tmp_path / "nothing")


def test_a_published_copy_which_has_only_svg_is_compared(reports):
    for path in (reports[1] / "figures").glob("*.png"):
        path.unlink()
    comparison = compare_reports(*reports)
    text = describe_comparison(comparison)
    assert "05_comparison_curve: different" in text
    assert "not in this copy" not in text
    svg = reports[1] / "figures" / "05_comparison_curve.svg"
    svg.write_bytes((reports[0] / "figures" / "05_comparison_curve.svg").read_bytes())
    assert "05_comparison_curve: the same" in describe_comparison(compare_reports(*reports))
