"""A folder of photographs: the network's own scores, what cannot be read said, and a contact sheet."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_study import make_params
from trained_report import DATA, write_trained_report

from lesion_utils import cli
from lesion_utils.core.errors import CheckpointError, DataError, ParamsError, RunError
from lesion_utils.core.paths import Study
from lesion_utils.figures.cases import plot_contact_sheet
from lesion_utils.models.gradcam import map_images
from lesion_utils.release import predict
from lesion_utils.release.export import export_run
from lesion_utils.release.judge import find_threshold, judge_folder
from lesion_utils.release.predict import (
    decode_image,
    find_folder,
    list_images,
    open_model,
    score_folder,
    write_contact_sheet,
    write_scores,
)
from lesion_utils.release.runs import choose_runs

STUDY = Study("demo")
ROWS = range(11)


@pytest.fixture(scope="module", autouse=True)
def trained(tmp_path_factory):
    """One report for the whole module, with two seeds."""
    folder = tmp_path_factory.mktemp("reports")
    with pytest.MonkeyPatch.context() as monkeypatch:
        settings = {"REPORTS_DIR": folder, "LESION_CACHE": folder / "cache", "THREADS": 1, "DEVICE": "cpu"}
        for name, value in settings.items():
            monkeypatch.setenv(name, str(value))
        write_trained_report(STUDY, make_params(seeds=[1, 2]))
        yield folder


@pytest.fixture(scope="module")
def network(trained):
    return choose_runs(STUDY)[0].load()


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Eleven images, one of them cut short; a file that is none; what is not searched."""
    folder = tmp_path / "photo graphs"
    (folder / "inside.png").mkdir(parents=True)
    for row in ROWS:
        Image.fromarray(DATA.images[row]).save(folder / f"{row:02d}.png")
    (folder / "03.png").write_bytes((folder / "03.png").read_bytes()[:200])
    (folder / "05.jpg").write_bytes(b"not an image")
    (folder / "notes.txt").write_text("not searched")
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
    scored = score_folder(photographs, network, on_progress=lambda *count: told.append(count))
    assert told == [("scores, image", 8, 12), ("scores, image", 12, 12)]
    assert scored.problems["file"].tolist() == ["03.png", "05.jpg"]
    assert scored.problems["problem"].str.contains("does not decode").all()
    good = [row for row in ROWS if row != 3]
    by_name = scored.scores.sort_values("file")
    assert by_name["file"].tolist() == [f"{row:02d}.png" for row in good]
    np.testing.assert_allclose(by_name["logit"], network.predict(DATA.images, np.array(good)), rtol=1e-5, atol=1e-6)
    probability = scored.scores["probability"]
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-scored.scores["logit"])))
    assert probability.is_monotonic_decreasing and (scored.scores["malignant"] == (probability > 0.5)).all()
    saved = pd.read_csv(write_scores(scored, tmp_path / "out"))
    assert saved["file"].tolist() == scored.scores["file"].tolist()
    np.testing.assert_allclose(saved["logit"], scored.scores["logit"], rtol=1e-8)
    assert pd.read_csv(tmp_path / "out" / "problems.csv")["file"].tolist() == ["03.png", "05.jpg"]
    for name in ("03.png", "05.jpg"):
        (photographs / name).unlink()
    write_scores(score_folder(photographs, network), tmp_path / "out")
    assert not (tmp_path / "out" / "problems.csv").exists(), "problems that are gone leave no list"


RED = Image.new("RGB", (64, 48), (200, 60, 50))


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (RED.convert("CMYK"), "jpg", (200, 60, 50)),
        (RED.convert("P"), "png", (200, 60, 50)),
        (RED.convert("RGBA"), "png", (200, 60, 50)),
        (Image.new("L", (64, 48), 90), "jpg", (90, 90, 90)),
        (Image.fromarray(np.full((48, 64), 20_000, np.uint16)), "png", "more than 8 bits"),
        (Image.fromarray(np.full((48, 64), 20_000, np.uint16)), "tif", "more than 8 bits"),
        (RED.convert("CMYK"), "tif", (200, 60, 50)),
        (RED.resize((6_000, 4_500)), "bmp", (200, 60, 50)),
        (Image.new("RGB", (1, 1)), "png", "absurd size, 1 x 1 px"),
        (Image.new("1", (20_001, 5_001)), "png", "absurd size, 20001 x 5001 px"),
        (Image.new("1", (20_000, 20_000)), "png", "exceeds limit"),
    ],
    ids=[
        "CMYK",
        "palette",
        "transparent",
        "grey",
        "16 bit",
        "16 bit TIFF",
        "CMYK TIFF",
        "large",
        "tiny",
        "wide",
        "bomb",
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_unusual_image_is_read_rightly_or_refused_with_its_reason(tmp_path, network, image, suffix, expected):
    file = tmp_path / f"a.{suffix}"
    image.save(file)
    square = decode_image(file, network)
    if isinstance(expected, str):
        assert expected in square
    else:
        assert np.abs(square.reshape(-1, 3).mean(0) - expected).max() < 6


@pytest.mark.parametrize("aspect", ["squash", "crop", "pad"])
def test_a_photograph_held_upright_is_scored_as_it_is_seen(tmp_path, network, aspect):
    """A telephone stores it lying on its side, with a note (EXIF orientation 6) to turn it."""
    upright = Image.fromarray(np.repeat(np.repeat(DATA.images[0], 3, axis=0), 2, axis=1))
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    network = replace(network, aspect=aspect)
    assert np.array_equal(
        decode_image(tmp_path / "turned.png", network), decode_image(tmp_path / "upright.png", network)
    )


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


def test_a_file_that_goes_away_and_a_network_without_maps_leave_a_sheet(
    photographs, network, tmp_path, sheet, monkeypatch
):
    def no_map(*_):
        raise ParamsError("no map")

    scored, about = score_folder(photographs, network), open_model("resnet50", STUDY)[1]
    (photographs / "00.png").unlink()
    monkeypatch.setattr(predict, "map_images", no_map)
    write_contact_sheet(scored, network, about, tmp_path)
    assert len(sheet["names"]) == 9 and "00.png" not in sheet["names"] and sheet["maps"] is None


def test_names_that_are_no_text_are_written_with_question_marks(network, tmp_path):
    name = os.fsdecode(b"bad\xff.png")
    try:
        Image.fromarray(DATA.images[0]).save(tmp_path / "a.png")
        (tmp_path / "a.png").rename(tmp_path / name)
    except OSError:
        pytest.skip("this file system has text for names only")
    assert "bad�.png" in write_scores(score_folder(tmp_path, network), tmp_path / "out").read_text(encoding="utf-8")


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
    judged = judge_folder(scored, str(tmp_path / "labels.csv"), make_params().comparison, threshold=threshold)
    whole = judged.measures.query("group == 'all'").set_index("metric")
    expected = results.set_index("metric")
    for metric in ("ap", "auc", "sensitivity_at_target", "specificity_at_target"):
        assert whole.loc[metric, "value"] == pytest.approx(expected.loc[metric, "value"]), metric
    for metric in ("sensitivity_at_target", "specificity_at_target"):
        assert whole.loc[metric, ["low", "high"]].tolist() == pytest.approx(
            expected.loc[metric, ["low", "high"]].tolist()
        )
    assert set(judged.measures["group"]) == {"all", "site S0", "site S1"}
    assert judged.matched.startswith("12 of 13 scored images and 13 labels")
    monkeypatch.setattr("lesion_utils.config.load.load_study", lambda _: make_params())  # fewer bootstrap draws
    said = ["predict", "--images", str(folder), "--model", "resnet50/scratch/1", "--out", str(tmp_path / "out")]
    assert cli.main([*said, "--labels", str(tmp_path / "labels.csv")]) == 0
    assert "average precision" in capsys.readouterr().out and (tmp_path / "out" / "measures.csv").is_file()
    (tmp_path / "labels.csv").write_text("image,label\n1,perhaps\n")
    assert cli.main([*said, "--labels", str(tmp_path / "labels.csv")]) == 1
    assert "labels.csv:2: unknown label 'perhaps' of 1" in capsys.readouterr().err
    (tmp_path / "labels.csv").write_text("image,label\nx,0\n")
    assert cli.main([*said, "--labels", str(tmp_path / "labels.csv")]) == 1
    assert "none of its 1 lines names an image" in capsys.readouterr().err


def test_images_are_found_by_ending_in_any_case(tmp_path):
    for name in ("b.JPG", "a.jpeg", "c.png", "d.tif", "e.gif", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in list_images(tmp_path)] == ["a.jpeg", "b.JPG", "c.png", "d.tif"]


def test_training_does_not_depend_on_handing_over():
    from lesion_utils.provenance.fingerprint import fingerprint_modules

    reached = fingerprint_modules(["training.fit", "models.predict", "models.gradcam"])
    assert reached and not [name for name in reached if name.startswith("lesion_utils/release/")]
