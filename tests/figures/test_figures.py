"""Every figure, on ordinary and on awkward inputs: it renders, nothing overlaps, and it shows what it was given."""

from __future__ import annotations

import itertools
import re
from functools import cache

import numpy as np
import pandas as pd
import pytest
from figure_inputs import (
    BAND,
    FIGURES,
    NETWORKS,
    PROBS,
    TARGETS,
    draw_block_scores,
    draw_images,
    draw_regimes,
    draw_scores,
    name_ids,
)
from matplotlib.text import Text
from sklearn.metrics import average_precision_score, roc_auc_score

from lesion_utils.evaluation.predictions import select_outcomes
from lesion_utils.evaluation.shortcuts import CONTROL
from lesion_utils.figures import style
from lesion_utils.figures.calibration import plot_reliability
from lesion_utils.figures.cases import plot_prediction_grid
from lesion_utils.figures.comparison import plot_regimes, plot_scores_by_block
from lesion_utils.figures.roc import plot_precision_recall, plot_roc

#: By the names of inputs; the awkward ones, after a comma, are for the whole suite.
INPUTS = [pytest.param(name, marks=pytest.mark.slow) if "," in name else name for name in FIGURES]


@pytest.fixture(scope="module")
def drawn():
    """Draws each figure once."""
    return cache(lambda name: FIGURES[name]())


@pytest.fixture
def list_texts(monkeypatch):
    """What is written where: the texts that matplotlib really draws, with their boxes in pixels."""
    written = {}
    original = Text.draw

    def record(text, renderer):
        if text.get_visible() and text.get_text().strip():
            written[id(text)] = text.get_text(), text.get_window_extent(renderer)
        original(text, renderer)

    def draw(fig):
        monkeypatch.setattr(Text, "draw", record)
        style.house_style(fig.draw_without_rendering)()  # ticks are made when they are drawn
        return list(written.values())

    return draw


@pytest.mark.parametrize("name", INPUTS)
def test_no_text_covers_another_or_leaves_the_figure(drawn, list_texts, name):
    fig = drawn(name)
    boxes = list_texts(fig)
    for text, box in boxes:
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= fig.bbox.x1 + 1 and box.y1 <= fig.bbox.y1 + 1
        assert inside, f"{text!r} leaves the figure: {box}"
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        down = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across < 1 or down < 2, f"{one!r} and {other!r} overlap by {across:.0f} x {down:.0f} px"


@pytest.mark.parametrize("name", INPUTS)
def test_it_stands_on_the_grid_states_what_it_shows_and_is_never_empty(drawn, name):
    fig = drawn(name)
    width = fig.get_figwidth() / style.MM
    assert style.SINGLE - 0.01 <= width <= style.DOUBLE + 0.01
    assert fig.get_figheight() / style.MM < 260, "taller than a page"
    assert len(fig.alt) > 20
    assert not re.search(r"\bnan\b", fig.alt)
    assert [t for t in fig.texts if t.get_gid() == "note" and t.get_text()]
    smallest = min(t.get_fontsize() for t in fig.findobj(Text) if t.get_text().strip())
    assert smallest >= 6, "type below 6 pt cannot be read in a column"


def find_line(fig, drawstyle, colour):
    lines = [line for line in fig.axes[0].lines if line.get_color() == colour and len(line.get_xdata()) > 2]
    (line,) = [line for line in lines if line.get_drawstyle() == drawstyle]
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


@pytest.mark.parametrize("seed", range(5))
def test_the_area_of_the_drawn_steps_is_the_average_precision(seed):
    targets, probs = draw_scores(n=60, names=NETWORKS[:1], seed=seed)
    scores = np.round(probs[NETWORKS[0]], 1)  # ties
    x, y = find_line(plot_precision_recall(targets, {NETWORKS[0]: scores}), "steps-pre", style.MODEL_COLOURS[0])
    assert np.sum(np.diff(x) * y[1:]) == pytest.approx(average_precision_score(targets, scores), abs=1e-12)
    x, y = find_line(plot_roc(targets, {NETWORKS[0]: scores}), "default", style.MODEL_COLOURS[0])
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(targets, scores), abs=1e-12)


def test_the_operating_point_is_strictly_above_one_half():
    targets, scores = np.array([0, 0, 1, 1]), np.array([0.5, 0.6, 0.5, 0.9])
    fig = plot_roc(targets, {"VGG19": scores})
    (point,) = [line.get_xydata()[0] for line in fig.axes[0].lines if len(line.get_xdata()) == 1]
    assert tuple(point) == (0.5, 0.5)


def test_reliability_bins_hold_every_image_once():
    targets, probs = draw_scores(n=200, names=NETWORKS[:1])
    scores = np.round(probs[NETWORKS[0]], 2)
    fig = plot_reliability(targets, {"x": scores}, confidence=0.95)
    (line,) = [line for line in fig.axes[0].lines if line.get_marker() == "o"]
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, 11)))
    expected = pd.Series(targets).groupby(pd.cut(scores, edges, include_lowest=True)).mean()
    np.testing.assert_allclose(line.get_ydata(), expected.dropna().to_numpy())


def test_outcomes_are_sorted_into_their_cells_and_drawn_from_all_of_them():
    targets, scores = np.array([1, 1, 0, 0, 1, 0]), np.array([0.5, 0.51, 0.5, 0.7, 0.9, 0.1])
    cells = select_outcomes(targets, scores, count=9)
    assert {k: v.tolist() for k, v in cells.items()} == {"TP": [4, 1], "FN": [0], "FP": [3], "TN": [2, 5]}
    many, probs = np.ones(500, int), np.linspace(0.51, 0.99, 500)
    picks = select_outcomes(many, probs, count=20, seed=3)["TP"]
    assert len(set(picks)) == 20
    assert picks.min() < 200 and picks.max() > 300, "neither the surest nor the least sure alone"
    assert np.array_equal(picks, select_outcomes(many, probs, count=20, seed=3)["TP"])


def test_a_prediction_grid_reads_only_the_images_it_shows():
    read = []

    class Stack:
        def __getitem__(self, k):
            read.append(int(k))
            return draw_images(1)[0]

    plot_prediction_grid(Stack(), name_ids(120), TARGETS, PROBS[NETWORKS[0]], columns=3)
    shown = select_outcomes(TARGETS, PROBS[NETWORKS[0]], count=3)
    assert sorted(read) == sorted(np.concatenate(list(shown.values())).tolist())


def test_bands_lie_where_they_were_given():
    fig = FIGURES["roc"]()
    (band,) = fig.axes[0].collections
    seen = band.get_paths()[0].vertices
    for x, low, high in zip(*BAND, strict=True):
        column = seen[np.isclose(seen[:, 0], x), 1]
        assert np.isclose(column, low).any() and np.isclose(column, high).any()


def test_controls_are_grey_by_block_as_in_the_forest_plot():
    rows = draw_block_scores(["all images"], [NETWORKS[0], "Metadata alone: archive order"])
    rows.loc[rows["name"] != NETWORKS[0], "model"] = CONTROL
    colours = [line.get_color() for line in plot_scores_by_block(rows).axes[0].lines if line.get_linestyle() == "None"]
    assert colours == [style.MODEL_COLOURS[0], style.GREY]


def test_published_readers_are_a_point_of_the_roc_curve_with_their_source():
    fig = plot_roc(TARGETS, PROBS, readers={"Readers (Someone 2018)": (0.82, 0.59)})
    (cross,) = (line for line in fig.axes[0].lines if line.get_marker() == "x")
    assert cross.get_xydata().ravel() == pytest.approx([0.41, 0.82])
    assert "Readers (Someone 2018)" in fig.alt
    legend = [text.get_text() for text in fig.subfigs[0].legends[0].get_texts()]
    assert "Readers (Someone 2018)" in legend


def test_figures_from_secondary_sources_are_crossed_out():
    rows = draw_regimes(["accuracy"], ["scratch"])
    rows["mark"] = np.where(rows["source"].str.contains("Lopez"), "secondary source", "")
    fig = plot_regimes(rows)
    crosses = [line.get_xydata() for line in fig.axes[0].lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert len(crosses) == 1 and crosses[0][0][0] == 0.7
    legend = [text.get_text() for text in fig.subfigs[0].legends[0].get_texts()]
    assert legend[-1] == "crossed out: secondary source"


def test_reliability_says_which_intervals_it_draws():
    fig = plot_reliability(TARGETS, PROBS, confidence=0.9)
    assert any("90 % Wilson" in text.get_text() for text in fig.texts)
    wide = plot_reliability(TARGETS, PROBS, confidence=0.99)
    spans = [np.ptp(f.axes[0].collections[0].get_segments()[0][:, 1]) for f in (fig, wide)]
    assert spans[0] < spans[1]
