"""The index page's content: what a newcomer has to find on it, and that nothing in it is taken for markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from fake_report import edit_json, make_fake_project, write_record
from sections import change_data

from lesion_utils.config.load import load_study
from lesion_utils.core.errors import RunError
from lesion_utils.core.paths import Study
from lesion_utils.report.content import Report
from lesion_utils.report.index import build_site
from lesion_utils.report.pages import describe_value, draw_interval, format_bytes, format_date, format_number


class TextOf(HTMLParser):
    """The page as text."""

    def __init__(self, page: str):
        super().__init__()
        self.parts: list[str] = []
        self.feed(re.sub(r"(?s)<style>.*?</style>", "", page))

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def __str__(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.parts))


def build(study: Study, **data) -> str:
    """The page, with other parameters of the data."""
    return build_site(study, change_data(load_study(study.params_dir), **data)).read_text(encoding="utf-8")


def test_a_newcomer_finds_what_was_run_on_what_with_what_result_how_sure_and_how_again(study):
    text = str(TextOf(build(study)))
    for what in (
        "Demo: ResNet50 and VGG19 from scratch on small copies of ISIC 2016 Part 3",
        "0123456789",  # commit
        "Fixture CPU",
        "exact",
        "180 images (120 training, 60 test)",
        "0.610",
        "0.530 to 0.680",
        "−0.050 to 0.100",
        "make all STUDY=demo",
        "git checkout 0123456789abcdef0123456789abcdef01234567",
        "unchanged",
        "Research software, not a medical device",
        "in the public domain (CC-0)",
        "Deep residual learning",
        "torch: 2.14.1",
        "1 h 07 min",  # how long 04 took
    ):
        assert what in text, what


def test_what_a_reader_must_know_first_stands_before_the_results(study):
    page = build(study, remarks=["Not <the> same."])
    assert 0 < page.index("Not &lt;the&gt; same.") < page.index('id="results"')
    assert "Before you read the numbers" not in build(study, remarks=[])


def test_a_figure_of_photographs_that_is_absent_keeps_its_place_and_says_how_to_draw_it(study):
    for path in [*study.figures.glob("01_eda_examples.*g"), *study.figures.glob("01_eda_curve.*")]:
        path.unlink()
    page = build(study)
    place = page[page.index('class="placeholder"') :][:400]
    assert "shows photographs" in place
    assert "DATA_DIR=/path/to/the/images make all STUDY=demo" in place
    assert page.count('class="placeholder"') == 1


def test_every_step_links_to_what_exists(study):
    page = build(study)
    row = page[page.index("ResNet50, three regimes</th>") :].split("</tr>")[0]
    links = dict(re.findall(r'<a href="([^"]+)">([^<]+)</a>', row))
    step = "03_resnet50_finetune"
    assert links == {
        f"html/{step}.html": "page",
        f"html/{step}.html#code": "with code",
        f"metrics/{step}.json": "metrics",
        f"runs/{step}/params.json": "params",
        f"runs/{step}/run.json": "run.json",
        f"runs/{step}/train.jsonl": "log",
    }
    (study.html / f"{step}.html").unlink()
    assert f'href="html/{step}.html' not in build(study)


def test_building_twice_writes_the_same_bytes_once(study, params):
    path = build_site(study, params)
    before = path.stat().st_mtime_ns, path.read_bytes()
    build_site(study, params)
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before


def test_the_verdict_on_the_page_is_that_of_verify(study):
    (study.predictions / "vgg19.csv").write_text("x")
    text = str(TextOf(build(study)))
    assert "changed by hand" in text
    assert "predictions/vgg19.csv : changed by hand" in text


def test_a_study_that_has_hardly_begun_has_a_page(tmp_path, monkeypatch):
    make_fake_project(tmp_path, monkeypatch)
    study = Study("demo")
    study.data.mkdir(parents=True)
    (study.data / "manifest.json").write_text('{"summary": "12 images"}')
    write_record(study, "data", [study.data / "manifest.json"])
    text = str(TextOf(build(study)))
    assert "The comparison has not run yet" in text
    assert "No step has drawn a figure yet" in text
    assert "missing" in text


def test_a_step_that_found_its_networks_trained_has_cost_what_training_took(study):
    report, step = Report(study.report_dir), "03_resnet50_finetune"
    wall = report.count_seconds(step)
    folder = study.runs / step / "scratch-seed1-abc"
    folder.mkdir(parents=True)
    (folder / "history.jsonl").write_text('{"seconds": 4000.0, "seconds_validation": 500.0}\n' * 2)
    edit_json(study.metrics / f"{step}.json", runs=[{"folder": folder.name}])
    again = Report(study.report_dir)
    assert again.count_seconds(step) == 9000 > wall
    assert again.seconds == pytest.approx(report.seconds + 9000 - wall)


def test_a_damaged_file_is_named(study):
    (study.metrics / "05_comparison.json").write_text("{")
    with pytest.raises(RunError, match=r"05_comparison\.json: not readable as JSON"):
        build(study)


def test_each_notebook_has_one_figure_and_every_table_a_link(study):
    page = build(study)
    assert page.count("<figure") == 5
    for path in study.metrics.glob("*.csv"):
        assert f'href="metrics/{path.name}"' in page


def test_the_tiles_come_first_and_notebooks_are_linked_before_the_results(study):
    tile = {"title": "Best model", "value": "AUC 0.8", "detail": "<ResNet50>"}
    edit_json(study.metrics / "05_comparison.json", tiles=[tile])
    page = build(study)
    places = ["not a medical device", "AUC 0.8", "&lt;ResNet50&gt;", 'href="html/01_eda.html"', 'id="results"']
    places += ['id="notebooks"', 'id="provenance"']
    assert sorted(places, key=page.index) == places


def test_numbers_without_an_interval_are_shown_without_one(study):
    path = study.metrics / "05_comparison.json"
    first, *others = json.loads(path.read_text())["headline"]
    row = {"label": "a published row", "metric": "AP", "value": 0.637}
    edit_json(path, headline=[first | dict.fromkeys(("value", "low", "high")), *others, row])
    page = build(study)
    assert "– to –" not in page and "None" not in str(TextOf(page))
    row = page[page.index("a published row</th>") :].split("</tr>")[0]
    assert re.findall(r'class="num">([^<]+)<', row) == ["0.637", "–", "–"]


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (format_bytes, 999, "999 B"),
        (format_bytes, 1_500_000_000, "1.5 GB"),
        (format_date, "2026-03-01T10:05:42Z", "1 March 2026, 10:05 UTC"),
        (format_number, -0.05, "−0.050"),
        (describe_value, {"a": [1, 2], "b": None, "c": True}, "a: 1, 2, c: yes"),
        (describe_value, 12345, "12,345"),
    ],
)
def test_values_are_written_as_people_read_them(function, value, text):
    assert function(value) == text


def test_intervals_lie_where_their_axis_says():
    auc = {"label": "a", "metric": "AUC", "value": 0.5, "low": 0.25, "high": 1.0}
    difference = {"label": "b", "metric": "AUC", "value": 0.0, "low": -0.1, "high": 0.1}
    named = {"label": "c", "metric": "AUC", "value": 0.05, "low": 0.01, "high": 0.09, "difference": True}
    items = [auc, difference, named]
    assert draw_interval(auc, items) == {"low": 25, "value": 50, "high": 100}
    drawn = draw_interval(difference, items)
    assert drawn["value"] == 50
    assert drawn["low"] + drawn["high"] == pytest.approx(100)
    assert draw_interval(named, items)["low"] > 50
    assert draw_interval(auc | {"low": None}, items) is None
