"""The house style: figures are the same bytes twice, carry their run, and their colours part for every eye."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from figure_inputs import FIGURES, LONG, NETWORKS
from matplotlib.figure import Figure
from PIL import Image

from lesion_utils.core.names import COMBINATION, SeriesName, name_series
from lesion_utils.figures import comparison, style
from lesion_utils.figures.style import save


@pytest.mark.parametrize(
    "name",
    ["roc", "gradcam"]
    + [pytest.param(n, marks=pytest.mark.slow) for n in ("learning curves", "predictions", "colour", "heat map")],
)
def test_the_same_input_gives_the_same_bytes(name, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "DPI", 40)  # the coarser, the sooner
    fig, again = (FIGURES[name]() for _ in range(2))
    metadata = {"Title": name, "Description": "dé <&>", "Identifier": "run 7"}
    first = [p.read_bytes() for p in save(fig, tmp_path / "a" / "x.y", metadata=metadata)]
    twice = [p.read_bytes() for p in save(fig, tmp_path / "b", metadata=metadata)]
    rebuilt = [p.read_bytes() for p in save(again, tmp_path / "c", metadata=metadata)]
    assert first == twice == rebuilt


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_process_or_the_users_style(tmp_path):
    """Another process with another hash seed, and a matplotlibrc that wants everything else."""
    code = """
import hashlib, sys, matplotlib
from lesion_utils.figures import calibration, style
if sys.argv[1] == "odd":
    matplotlib.rcParams.update({"font.size": 30, "svg.hashsalt": "x", "axes.grid": True, "savefig.bbox": "tight"})
fig = calibration.plot_confusion({"ResNet50": [[292, 12], [47, 28]]})
print([hashlib.sha256(style.render_figure(fig, kind)).hexdigest() for kind in ("png", "svg", "pdf")])
"""
    seen = set()
    for which, salt in (("plain", "1"), ("odd", "2")):
        command = [sys.executable, "-c", code, which]
        environment = {"PYTHONHASHSEED": salt}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        seen.add(done.stdout)
    assert len(seen) == 1


def test_saved_files_carry_the_run_and_no_date(tmp_path):
    png, svg, pdf = save(FIGURES["confusion"](), tmp_path / "x", metadata={"Title": "t", "Identifier": "run-42"})
    with Image.open(png) as image:
        assert image.info["Identifier"] == "run-42"
        assert image.width == int(style.SINGLE * style.MM * style.DPI)
    text = svg.read_text(encoding="utf-8")
    ET.fromstring(text)
    assert "run-42" in text
    assert not re.search(r"dc:date|20\d\d-\d\d-\d\d", text)
    assert b"/Keywords (run-42)" in pdf.read_bytes() and b"Date" not in pdf.read_bytes()


def test_an_unknown_metadata_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Colour"):
        save(FIGURES["confusion"](), tmp_path / "x", metadata={"Colour": "red"})


def test_a_plain_matplotlib_figure_can_be_saved(tmp_path):
    fig = Figure()
    fig.subplots().plot([1, 2])
    png, svg, _ = save(fig, tmp_path / "x", metadata={})
    assert png.stat().st_size > 1000
    assert svg.stat().st_size > 1000


def test_pyplot_holds_no_figure_and_the_users_style_is_left_alone():
    assert plt.get_fignums() == []
    with matplotlib.rc_context({"font.size": 23}):
        FIGURES["roc"]()
        assert matplotlib.rcParams["font.size"] == 23


def test_a_figure_shows_itself_in_a_notebook():
    data, size = FIGURES["roc"]()._repr_png_()
    assert data.startswith(b"\x89PNG")
    assert size["width"] == round(style.SINGLE * style.SCREEN_SCALE)
    json.dumps(size)


def to_linear(colour):
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(one, other="white"):
    """Contrast ratio of WCAG 2."""
    light, dark = sorted((to_linear(c) @ [0.2126, 0.7152, 0.0722] for c in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


#: Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB; and a photocopier.
VISIONS = {
    "full": np.eye(3),
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
    ]),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
    ]),
    "tritanopia": np.array([
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900],
    ]),
    "grey": np.tile([0.2126, 0.7152, 0.0722], (3, 1)),
}  # fmt: skip


def to_lab(linear):
    """CIE 1976 L*a*b* (D65) of linear RGB."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(
        linear, 0, 1
    )
    x, y, z = np.cbrt(np.maximum(xyz / [0.9505, 1, 1.089], 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("palette", [style.CLASS_COLOURS, dict(enumerate(style.MODEL_COLOURS[:2]))])
def test_the_two_colours_of_a_pair_differ_for_every_eye(palette, vision):
    one, other = (to_lab(VISIONS[vision] @ to_linear(c)) for c in palette.values())
    assert np.linalg.norm(one - other) > (15 if vision == "grey" else 25)


@pytest.mark.parametrize(
    "colour", [*style.CLASS_COLOURS.values(), *style.MODEL_COLOURS, style.GREY, *style.OTHER_COLOURS]
)
def test_a_colour_can_be_read_as_type_on_white(colour):
    assert contrast(colour) >= 4.5


def test_type_on_the_darkest_cell_of_a_heat_map_can_be_read():
    assert contrast(style.INK, comparison.SHADE) >= 4.5


def test_networks_and_regimes_look_the_same_in_every_list():
    vgg = NETWORKS[1]
    assert style.style_series([vgg])[vgg] == style.style_series([LONG, "id alone", vgg])[vgg]
    looks = [tuple(map(str, s.values())) for s in style.style_series([*"wxyz", *NETWORKS]).values()]
    assert len(set(looks)) == 8


def test_colours_go_by_the_network_and_not_by_its_name():
    """Any network has a colour of its own, which its regimes and classifiers share, and a combination none of these."""
    keys = [("vgg19", "finetune"), ("convnext_atto", "finetune"), ("convnext_atto", "features:knn")]
    names = [name_series(*key) for key in [*keys, (COMBINATION, "ConvNeXt-Atto, fine-tuned + RBF SVM")]]
    renamed = [SeriesName(f"row {k}", n.model, n.regime) for k, n in enumerate(names)]
    for listed in (names, renamed):
        looks = [style.style_series(listed)[name] for name in listed]
        colours = [look["color"] for look in looks]
        assert colours[0] == style.MODEL_COLOURS[1] and colours[1] == colours[2]
        assert len(set(colours)) == 3 and set(colours[:3]) <= set(style.MODEL_COLOURS)
        assert looks[2]["markerfacecolor"] == "white"
    many = [name_series(f"net{k}", "finetune") for k in range(len(style.MODEL_COLOURS))]
    assert {look["color"] for look in style.style_series(many).values()} == set(style.MODEL_COLOURS)


def test_class_colours_and_order_are_the_same_in_every_figure():
    balance = FIGURES["class balance"]()
    bars = [matplotlib.colors.to_hex(p.get_facecolor()) for p in balance.findobj(matplotlib.patches.Rectangle)]
    assert [bars.count(c) > 0 for c in style.CLASS_COLOURS.values()] == [True, True]
    for name in ("class balance", "colour", "scores"):
        legend = FIGURES[name]().subfigs[0].legends[0]
        assert [t.get_text() for t in legend.get_texts()][:2] == list(style.CLASS_NAMES)
        colours = [matplotlib.colors.to_hex(h.get_facecolor()) for h in legend.legend_handles[:2]]
        assert colours == list(style.CLASS_COLOURS.values())
    grid = FIGURES["samples"]()
    frames = [matplotlib.colors.to_hex(ax.spines["left"].get_edgecolor()) for ax in grid.axes if ax.get_visible()]
    assert frames == list(style.CLASS_COLOURS.values()) * 4
