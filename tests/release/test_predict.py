"""A folder of photographs: the network's own scores, broken files reported, and a page that is safe to open."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_study import make_params
from trained_report import DATA, write_trained_report

from lesion_utils import cli
from lesion_utils.core.errors import CheckpointError, DataError, RunError
from lesion_utils.core.paths import Study
from lesion_utils.release import page as scoring_page
from lesion_utils.release import predict
from lesion_utils.release.export import export_run
from lesion_utils.release.page import draw_pictures, lay_over, write_page
from lesion_utils.release.predict import find_folder, list_images, open_model, score_folder, write_scores
from lesion_utils.release.trained_runs import choose_runs

STUDY = Study("demo")
HOSTILE = "<img src=x onerror=alert(1)>&amp;\"'.png"
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


@pytest.fixture
def network():
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


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def named(self, name: str) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag == name]


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
    assert probability.is_monotonic_decreasing and set(scored.scores["malignant"]) == {0, 1}
    assert (scored.scores["malignant"] == (probability > 0.5)).all()
    saved = pd.read_csv(write_scores(scored, tmp_path / "out"))
    assert saved["file"].tolist() == scored.scores["file"].tolist()
    np.testing.assert_allclose(saved["logit"], scored.scores["logit"], rtol=1e-8)
    assert pd.read_csv(tmp_path / "out" / "problems.csv")["file"].tolist() == ["03.png", "05.jpg"]


def test_problems_that_are_gone_leave_no_list(photographs, network, tmp_path):
    write_scores(score_folder(photographs, network), tmp_path)
    for name in ("03.png", "05.jpg"):
        (photographs / name).unlink()
    write_scores(score_folder(photographs, network), tmp_path)
    assert not (tmp_path / "problems.csv").exists()


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


def test_the_page_shows_every_image_and_nothing_of_a_hostile_name_runs(photographs, network, tmp_path):
    (photographs / "00.png").rename(photographs / HOSTILE)
    (photographs / "05.jpg").rename(photographs / "<script>alert(2)<script>.jpg")
    scored, about = score_folder(photographs, network), open_model("resnet50", STUDY)[1]
    path = write_page(scored, network, about, tmp_path / "out")
    page = Page(path)
    images = page.named("img")
    assert len(images) == 2 * len(scored.scores)
    for image in images:
        picture = Image.open(io.BytesIO(base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"))))
        assert picture.format == "JPEG" and picture.size == (int(image["width"]), int(image["height"]))
        assert image["alt"].strip() and set(image) == {"src", "width", "height", "alt"}
    assert HOSTILE in page.text and "<script>alert(2)<script>.jpg" in page.text and not page.named("script")
    (policy,) = [meta["content"] for meta in page.named("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy and "script-src 'none'" in policy
    links = {a["href"] for a in page.named("a")}
    assert links == {"#main", "#images", "#problems", "#reading", "scores.csv", "problems.csv"}
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert {link[1:] for link in links if link.startswith("#")} <= ids
    assert len(page.named("main")) == len(page.named("header")) == len(page.named("h1")) == 1
    order = [float(value) for value in re.findall(r'class="value">([\d.]+)<', path.read_text())]
    assert order == sorted(order, reverse=True) and len(order) == len(scored.scores)


def test_the_page_says_what_the_network_is_not_for(photographs, network, tmp_path):
    about = open_model("resnet50", STUDY)[1]
    scored = score_folder(photographs, network)
    text = Page(write_page(scored, network, about, tmp_path)).text
    assert "not a medical device" in text and "Trained on synthetic data." in text
    text = Page(write_page(scored, network, about | {"synthetic": False}, tmp_path)).text
    assert "not a medical device" in text and "synthetic" not in text and "ISIC 2016 Part 3: 54 images" in text
    text = Page(write_page(scored, network, about | {"synthetic": None, "study": None}, tmp_path)).text
    assert "synthetic" not in text and "ISIC" not in text


def test_a_large_folder_shows_the_highest_and_says_so(photographs, network, tmp_path):
    scored = score_folder(photographs, network)
    told = []
    path = write_page(
        scored, network, open_model("resnet50", STUDY)[1], tmp_path, shown=3, on_progress=lambda *c: told.append(c)
    )
    page = Page(path)
    assert len(page.named("img")) == 6 and "The 3 highest of 10; all of them are in" in page.text
    assert told == [("pictures, image", 3, 3)]
    shown = re.findall(r"<h3>(.*?)</h3>", path.read_text())
    assert shown == scored.scores["file"].tolist()[:3]


def test_a_file_that_goes_away_and_a_network_without_maps_leave_a_page(photographs, network, tmp_path, monkeypatch):
    scored, about = score_folder(photographs, network), open_model("resnet50", STUDY)[1]
    (photographs / "00.png").unlink()
    page = Page(write_page(scored, network, about, tmp_path))
    assert len(page.named("img")) == 18 and "has gone since" in page.text
    monkeypatch.setattr(scoring_page, "can_explain", lambda network: False)
    page = Page(write_page(scored, network, about, tmp_path))
    assert len(page.named("img")) == 9 and "no map of features" in page.text


def test_pictures_carry_no_metadata(network, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "the patient's name"
    file = tmp_path / "a.jpg"
    Image.fromarray(DATA.images[0]).resize((300, 200)).save(file, exif=exif)
    ((photograph, heat, _),) = draw_pictures([file], network, explained=True)
    for picture in (photograph, heat):
        raw = base64.b64decode(picture.source.partition(",")[2])
        assert b"patient" not in raw and b"Exif" not in raw
        assert (picture.width, picture.height) == (240, 160)


@pytest.mark.parametrize(("aspect", "size"), [("squash", (240, 120)), ("crop", (120, 120)), ("pad", (240, 120))])
def test_the_map_lies_where_the_network_saw_it(aspect, size):
    """Heat in the middle of the right edge of the square: of the whole width, or of the middle's."""
    heat = np.zeros((9, 9), np.float32)
    heat[3:6, 6:] = 1
    grey = Image.new("RGB", (240, 120), (128, 128, 128))
    drawn = np.asarray(lay_over(grey, heat, aspect)).astype(int)
    assert drawn.shape[1::-1] == size
    changed = np.abs(drawn - 128).max(2) > 60
    rows, columns = np.nonzero(changed)
    assert columns.min() > 0.6 * size[0] and columns.max() == size[0] - 1
    assert rows.mean() == pytest.approx(size[1] / 2, abs=2)
    high = {"squash": 1 / 3, "crop": 1 / 3, "pad": 2 / 3}[aspect]  # the bars above and below are half of the square
    assert changed.any(1).mean() == pytest.approx(high, abs=0.1)
    untouched = lay_over(grey, 0 * heat, aspect)
    assert np.array_equal(np.asarray(untouched), np.full((*size[::-1], 3), 128))


def test_names_that_are_no_text_are_shown_with_question_marks(network, tmp_path):
    name = os.fsdecode(b"bad\xff.png")
    try:
        Image.fromarray(DATA.images[0]).save(tmp_path / "a.png")
        (tmp_path / "a.png").rename(tmp_path / name)
    except OSError:
        pytest.skip("this file system has text for names only")
    scored = score_folder(tmp_path, network)
    assert "bad�.png" in write_scores(scored, tmp_path / "out").read_text(encoding="utf-8")
    page = write_page(scored, network, open_model("resnet50", STUDY)[1], tmp_path / "out")
    assert "bad�.png" in Page(page).text


def test_a_model_is_named_in_three_ways_and_is_the_same(photographs):
    run = choose_runs(STUDY)[0]
    names = ["resnet50", f"resnet50/scratch/{run.seed}", str(run.folder / "best.pt"), str(export_run(run))]
    scores = []
    for name in names:
        network, about = open_model(name, STUDY)
        assert about["synthetic"] is True and about["data"] == "54 images of noise"
        assert about["label"].endswith(f"scratch, seed {run.seed}")
        scores.append(score_folder(photographs, network).scores)
    assert all(scores[0].equals(other) for other in scores[1:])


def test_a_checkpoint_that_was_carried_elsewhere_is_used_and_its_origin_not_guessed(tmp_path):
    shutil.copy(choose_runs(STUDY)[0].folder / "best.pt", tmp_path / "mine.pt")
    _, about = open_model(str(tmp_path / "mine.pt"), STUDY)
    assert (about["synthetic"], about["study"], about["data"]) == (None, None, "unknown")


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
    assert "trained on synthetic data" in shown.out and "10 images scored" in shown.out
    assert sorted(p.name for p in out.iterdir()) == ["index.html", "problems.csv", "scores.csv"]
    assert cli.main(["predict", "--images", str(tmp_path / "out"), "--model", "resnet50", "--out", str(out)]) == 1
    assert cli.main(["export", "--model", "resnet50/scratch/2"]) == 0
    assert capsys.readouterr().out.strip().endswith("demo/models/resnet50_scratch_seed2")


def test_scores_go_to_a_folder_that_git_ignores():
    ignored = (Path(predict.__file__).parents[2] / ".gitignore").read_text().splitlines()
    assert "/predictions/" in ignored


def test_images_are_found_by_ending_in_any_case(tmp_path):
    for name in ("b.JPG", "a.jpeg", "c.png", "d.tif", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in list_images(tmp_path)] == ["a.jpeg", "b.JPG", "c.png"]


def test_training_does_not_depend_on_handing_over():
    from lesion_utils.provenance.fingerprint import fingerprint_modules

    own = {f"lesion_utils/{name}.py" for name in ("export", "model_card", "scoring", "scoring_page", "trained_runs")}
    assert not own & set(fingerprint_modules(["training.fit", "models.predict", "models.gradcam"]))
