"""A folder of photographs: the network's own scores, what cannot be read said, and a contact sheet."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_study import make_params
from trained_report import DATA, use_machine, write_trained_report

from lesion_utils import cli
from lesion_utils.core.errors import CheckpointError, DataError, ParamsError, RunError
from lesion_utils.core.paths import Study
from lesion_utils.data.images import decode_square
from lesion_utils.extras import predict
from lesion_utils.extras.export import export_run
from lesion_utils.extras.judge import find_threshold, judge_folder
from lesion_utils.extras.predict import (
    decode_image,
    find_folder,
    open_model,
    score_folder,
    write_contact_sheet,
    write_scores,
)
from lesion_utils.extras.runs import choose_runs
from lesion_utils.figures.cases import plot_contact_sheet
from lesion_utils.models.gradcam import map_images

STUDY = Study("demo")
ROWS = range(11)


@pytest.fixture(scope="module", autouse=True)
def trained(tmp_path_factory):
    """One report for the whole module, with two seeds."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        use_machine(patch, root)
        write_trained_report(STUDY, make_params(seeds=[1, 2]))
        yield root


@pytest.fixture(scope="module")
def network(trained):
    return choose_runs(STUDY)[0].load()


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Eleven images, one of them cut short, one in capitals; a file that is none; what is not searched."""
    folder = tmp_path / "photo graphs"
    (folder / "inside.png").mkdir(parents=True)
    for row in ROWS:
        Image.fromarray(DATA.images[row]).save(folder / f"{row:02d}.png")
    (folder / "10.png").rename(folder / "10.PNG")
    (folder / "03.png").write_bytes((folder / "03.png").read_bytes()[:200])
    (folder / "05.jpg").write_bytes(b"not an image")
    for name in ("notes.txt", "movie.gif"):
        (folder / name).write_text("not searched")
    (folder / "._00.png").write_bytes(b"what a Mac leaves beside a file")
    return folder


@pytest.fixture
def sheet(monkeypatch):
    """What the sheet was drawn from."""
    drawn = {}

    def keep(images, names, probs, maps, **rest):
        drawn.update(images=images, names=names, probs=probs, maps=maps, **rest)
        drawn["fig"] = plot_contact_sheet(images, names, probs, maps, **rest)
        return drawn["fig"]

    monkeypatch.setattr(predict, "plot_contact_sheet", keep)
    return drawn


def test_a_folder_is_scored_and_broken_images_are_reported(photographs, network, tmp_path):
    told = []
    scored = score_folder(photographs, network, on_event=told.append)
    assert told == [{"stage": "scores", "done": done, "total": 13} for done in (8, 13)]
    assert scored.problems["file"].tolist() == ["03.png", "05.jpg", "movie.gif", "notes.txt"]
    assert scored.problems["problem"].str.contains("does not decode|not an image file").all()
    good = [row for row in ROWS if row != 3]
    by_name = scored.scores.sort_values("file")
    assert by_name["file"].str.lower().tolist() == [f"{row:02d}.png" for row in good]
    np.testing.assert_allclose(by_name["logit"], network.predict(DATA.images, np.array(good)), rtol=1e-5, atol=1e-6)
    probability = scored.scores["probability"]
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-scored.scores["logit"])))
    assert probability.is_monotonic_decreasing and (scored.scores["malignant"] == (probability > 0.5)).all()
    saved = pd.read_csv(write_scores(scored, tmp_path / "out"))
    assert saved["file"].tolist() == scored.scores["file"].tolist()
    np.testing.assert_allclose(saved["logit"], scored.scores["logit"], rtol=1e-8)
    problems = pd.read_csv(tmp_path / "out" / "problems.csv")["file"].tolist()
    assert problems == ["03.png", "05.jpg", "movie.gif", "notes.txt"]
    for name in problems:
        (photographs / name).unlink()
    write_scores(score_folder(photographs, network), tmp_path / "out")
    assert not (tmp_path / "out" / "problems.csv").exists(), "problems that are gone leave no list"


@pytest.mark.parametrize("aspect", ["squash", "crop", "pad"])
def test_an_image_is_decoded_as_the_network_saw_its_own_or_refused_with_its_reason(tmp_path, network, aspect):
    Image.fromarray(DATA.images[0]).resize((90, 60)).save(tmp_path / "a.png")
    square = decode_image(tmp_path / "a.png", replace(network, aspect=aspect))
    assert np.array_equal(square, decode_square(tmp_path / "a.png", size=network.stored_size, aspect=aspect))
    Image.new("RGB", (1, 1)).save(tmp_path / "b.png")
    assert "absurd size, 1 x 1 px" in decode_image(tmp_path / "b.png", network)
    assert "cannot be read" in decode_image(tmp_path / "gone.png", network)


def test_a_folder_without_readable_images_is_an_error(tmp_path, network):
    with pytest.raises(DataError, match="there are no images here"):
        score_folder(tmp_path, network)
    (tmp_path / "a.jpg").write_bytes(b"no")
    with pytest.raises(DataError, match=r"no image here can be read\n.*\n.*a\.jpg: does not decode: not an image"):
        score_folder(tmp_path, network)
    with pytest.raises(DataError, match="there is no such folder: /nowhere"):
        find_folder("/nowhere")
    with pytest.raises(DataError, match="say which photographs"):
        find_folder("")


def test_the_contact_sheet_shows_the_highest_scores_with_their_own_maps(photographs, network, tmp_path, sheet):
    (photographs / "00.png").rename(photographs / "$a$ <b> & an umlaut ä, a very long name.png")
    (photographs / "01.png").rename(photographs / os.fsdecode(b"bad\xff.png"))
    scored, about = score_folder(photographs, network), open_model("resnet50", STUDY)[1]
    assert "bad\ufffd.png" in write_scores(scored, tmp_path / "out").read_text(encoding="utf-8")
    path = write_contact_sheet(scored, network, about, tmp_path, shown=9)
    top = scored.scores.head(9)
    assert sheet["names"] == [predict.readable_name(file) for file in top["file"]]
    assert sheet["probs"].tolist() == top["probability"].tolist()
    for file, image, heat in zip(top["file"], sheet["images"], sheet["maps"], strict=True):
        assert np.array_equal(image, np.asarray(Image.open(photographs / file)))
        np.testing.assert_allclose(heat, map_images(network, image[None])[0], atol=1e-5)
    with Image.open(path) as png:
        assert png.format == "PNG" and set(png.info) <= {"dpi", "Software"}
    texts = " ".join(text.get_text() for text in sheet["fig"].findobj(lambda a: hasattr(a, "get_text")))
    assert "Not a medical device" in " ".join(texts.split()) and "the 9 highest of 10" in " ".join(texts.split())
    assert "$a$ <b> & a" in texts


def test_what_goes_away_or_has_no_map_leaves_a_sheet(photographs, network, tmp_path, sheet, monkeypatch):
    scored, about = score_folder(photographs, network), open_model("resnet50", STUDY)[1]
    (photographs / "00.png").unlink()
    monkeypatch.setattr(predict, "map_images", Mock(side_effect=ParamsError("no map")))
    write_contact_sheet(scored, network, about, tmp_path)
    assert len(sheet["names"]) == 9 and "00.png" not in sheet["names"] and sheet["maps"] is None


def test_a_model_is_named_in_three_ways_and_is_the_same(photographs, tmp_path):
    run = choose_runs(STUDY)[0]
    names = ["resnet50", f"resnet50/scratch/{run.seed}", str(run.folder / "best.pt"), str(export_run(run))]
    scores = []
    for name in names:
        network, about = open_model(name, STUDY)
        assert about["data"] == "54 images of noise" and about["label"].endswith(f"scratch, seed {run.seed}")
        scores.append(score_folder(photographs, network).scores)
    assert all(scores[0].equals(other) for other in scores[1:])
    shutil.copy(run.folder / "best.pt", tmp_path / "mine.pt")  # carried elsewhere, its origin is not guessed
    _, about = open_model(str(tmp_path / "mine.pt"), STUDY)
    assert (about["study"], about["data"]) == (None, "unknown")


@pytest.mark.parametrize("model", ["", "resnet18", "resnet50/scratch/9", "/nowhere/best.pt", "reports/demo/models/no"])
def test_a_wrong_model_lists_what_there_is(model, tmp_path):
    with pytest.raises(RunError, match=r"Study demo: resnet50/scratch/1 \(or 2\)"):
        open_model(model, STUDY)
    with pytest.raises(RunError, match="Study isic2016 has none yet"):
        open_model(model, Study("isic2016"))
    with pytest.raises(CheckpointError, match="not an exported network"):
        open_model(str(tmp_path), STUDY)


def test_the_verb_reports_and_goes_on(photographs, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["predict", "--images", str(photographs), "--model", "resnet50", "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert shown.err.splitlines()[0].startswith("not read: 03.png: does not decode")
    assert "10 images scored" in shown.out
    assert sorted(p.name for p in out.iterdir()) == ["contact_sheet.png", "problems.csv", "scores.csv"]
    assert cli.main(["predict", "--images", str(tmp_path / "nowhere"), "--model", "resnet50", "--out", str(out)]) == 1
    assert cli.main(["export", "--model", "resnet50/scratch/2"]) == 0
    assert capsys.readouterr().out.strip().endswith("demo/models/resnet50_scratch_seed2")


def test_scores_go_to_a_folder_that_git_ignores():
    ignored = (Path(predict.__file__).parents[2] / ".gitignore").read_text().splitlines()
    assert "/predictions/" in ignored


def test_labels_say_what_the_scores_are_worth_by_the_measures_of_the_study(network, tmp_path, capsys, monkeypatch):
    """The tiny study's own test images: the same numbers as 05_comparison has for this run."""
    rows = np.flatnonzero(DATA.table["subset"] == "test")
    folder = tmp_path / "photographs"
    folder.mkdir()
    lines = ["Image;Label;Site"]
    for row in rows:
        Image.fromarray(DATA.images[row]).save(folder / f"{row}.PNG")
        lines.append(f"{row}{'.png' * (row % 2)};{'malignant' if DATA.table['target'][row] else 'Benign'};S{row % 2}")
    Image.fromarray(DATA.images[0]).save(folder / "without.png")
    (tmp_path / "labels.csv").write_text("\n".join([*lines, "gone;0;S1"]))
    about = open_model("resnet50/scratch/1", STUDY)[1] | {"study": "demo"}
    results = pd.read_csv(STUDY.metrics / "05_comparison_results.csv", dtype={"seed": str}).query("seed == '1'")
    threshold = find_threshold(network, about)
    assert threshold == pytest.approx(results["threshold"].iloc[0])
    scored = score_folder(folder, network)
    measures, matched = judge_folder(
        scored, str(tmp_path / "labels.csv"), make_params().comparison, threshold=threshold
    )
    whole = measures.query("group == 'all'").set_index("metric")
    expected = results.set_index("metric")
    at_target, ends = ["sensitivity_at_target", "specificity_at_target"], ["value", "low", "high"]
    np.testing.assert_allclose(whole["value"][["ap", "auc"]], expected["value"][["ap", "auc"]], rtol=1e-6)
    np.testing.assert_allclose(whole.loc[at_target, ends], expected.loc[at_target, ends], rtol=1e-6)
    assert set(measures["group"]) == {"all", "site S0", "site S1"}
    assert matched.startswith("12 of 13 scored images and 13 labels")
    monkeypatch.setattr("lesion_utils.config.load.load_study", lambda _: make_params())  # fewer bootstrap draws
    said = ["predict", "--images", str(folder), "--model", "resnet50/scratch/1", "--out", str(tmp_path / "out")]
    said += ["--labels", str(tmp_path / "labels.csv")]
    assert cli.main(said) == 0
    assert "average precision" in capsys.readouterr().out and (tmp_path / "out" / "measures.csv").is_file()
    for line, words in (("1,perhaps", "neither benign nor malignant: 'perhaps' (1)"), ("x,0", "none of its 1 lines")):
        (tmp_path / "labels.csv").write_text(f"image,label\n{line}\n")
        assert cli.main(said) == 1 and words in capsys.readouterr().err
