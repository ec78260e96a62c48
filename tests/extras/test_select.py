"""Trials: they see no test image, change what they say, and their page says what their numbers say."""

from __future__ import annotations

import io
import shutil
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import expit
from sklearn.metrics import average_precision_score
from tiny_study import make_images, make_params, regimes

from lesion_utils.config.load import load_file, load_study
from lesion_utils.config.selection import Question, Selection, change_params
from lesion_utils.core.console import Console
from lesion_utils.core.errors import ParamsError, RunError
from lesion_utils.core.files import digest_file
from lesion_utils.core.paths import Study, params_root
from lesion_utils.extras import select
from lesion_utils.extras.jobs import run_job
from lesion_utils.extras.select import TrialScores, run_trials
from lesion_utils.training.classifiers import split_folds
from lesion_utils.training.train import Run

WEIGHTS = {"weights": "small.safetensors", "regimes": regimes("scratch", "features", "finetune", epochs=1)}


@pytest.fixture
def data(small_machine, few_fits, tmp_path):
    """Images on disk; the test images' files are broken, so that opening one would show."""
    made = make_images(train=30, val=12, test=6)
    paths = [tmp_path / f"{image_id}.png" for image_id in made.table["image_id"]]
    for path, pixels, subset in zip(paths, made.images, made.table["subset"], strict=True):
        Image.fromarray(pixels).save(path)
        if subset == "test":
            path.write_bytes(b"")
    pairs = [("ISIC_0000000", "ISIC_0000001"), ("ISIC_0000002", "ISIC_0000043")]  # the last one is a test image
    duplicates = pd.DataFrame(pairs, columns=["image_id_a", "image_id_b"])
    table = made.table.assign(path=paths, sha256=[digest_file(path) for path in paths])
    return SimpleNamespace(table=table, duplicates=duplicates)


SILENT = Console(io.StringIO())
ASKED = {"question": "Which?", "network": "resnet50", "seeds": [1, 2], "because": "It is enough."}


def ask(judge: str, **candidates) -> Selection:
    question = Question(**ASKED, judge=judge, candidates=candidates, choice=next(iter(candidates)))
    return Selection(questions=[question])


@pytest.mark.parametrize("judge", ["logistic", "finetune"])
def test_trials_score_what_was_not_learnt_from_and_no_test_image(data, tmp_path, judge):
    size = "resnet50.image_size" if judge == "finetune" else "resnet50.classifier_features.image_sizes"
    small, large = (32, 40) if judge == "finetune" else ([32], [40])
    selection = ask(judge, small={size: small}, large={size: large})
    events = []
    params = make_params(**WEIGHTS)
    scores = run_trials(selection, params, data, folder=tmp_path / "runs", on_event=events.append).scores
    scored = {"logistic": {"train", "val"}, "finetune": {"val"}}[judge]
    expected = set(data.table["image_id"][data.table["subset"].isin(scored)])
    for _, rows in scores.groupby(["candidate", "seed"]):
        assert set(rows["image_id"]) == expected
        assert rows["image_id"].is_unique
    one, other = (scores["probability"][scores["candidate"] == name].to_numpy() for name in ("small", "large"))
    assert not np.array_equal(one, other)
    if judge == "finetune":
        assert {event["candidate"] for event in events} == {"small", "large"}
        again = run_trials(selection, params, data, folder=tmp_path / "runs").scores
        pd.testing.assert_frame_equal(again, scores)
        assert len(list((tmp_path / "runs").iterdir())) == 4, "a trial that is done is read, not run"


def test_finalists_of_a_screening_are_trained_in_all_folds_and_the_best_is_chosen(data, tmp_path, monkeypatch):
    """All candidates in the first of three folds, the better two in all, and the page says so."""
    fold = np.where(data.table["subset"] == "test", 0, np.arange(len(data.table)) // 3 % 3 + 1)
    data.table = data.table.assign(subset=data.table["subset"].replace("val", "train"), fold=fold)
    monkeypatch.setenv("REPORTS_DIR", str(tmp_path / "reports"))
    monkeypatch.setattr(select, "load_prepared", lambda *_: data)
    grid = {"resnet50.regimes.scratch.lr": [1e-6, 1e-2, 3e-2]}
    asked = {name: value for name, value in ASKED.items() if name != "because"} | {"seeds": [1]}
    question = Question(**asked, judge="scratch", grid=grid, folds=[1], finalists=2)
    monkeypatch.setattr(select, "load_file", lambda *_: Selection(questions=[question]))
    ahead = []
    monkeypatch.setattr(select, "train_ahead", lambda jobs, *, console: ahead.append([(j.title, j.fold) for j in jobs]))
    study, params = Study("isic2016_640px"), make_params(regimes=regimes("scratch", epochs=2))
    text = select.select_settings(study, params, console=SILENT)

    table = pd.read_csv(study.report_dir / "selection/trials.csv")
    screening, full = (table[table["stage"] == stage].set_index("candidate") for stage in ("screening", "all"))
    assert list(screening.index) == ["lr 1e-06", "lr 0.01", "lr 0.03"] and set(screening["images"]) == {15}
    assert set(full.index) == set(screening["ap"].nlargest(2).index) and set(full["images"]) == {42}
    assert full["chosen"].sum() == 1 and full["ap"].idxmax() == full.index[full["chosen"]][0]
    assert [{fold for _, fold in jobs} for jobs in ahead] == [{1}, {1, 2, 3}]
    assert len(list((study.runs / "selection").glob("*/DONE"))) == 3 + 2 * 2, "finalists' first fold is read again"
    assert "All candidates, trained in fold 1:" in text and "The 2 candidates of the highest AP" in text
    assert f"**Chosen: {full['ap'].idxmax()}.** It has the highest AP." in text
    assert "mean AP of the combinations" in text
    page = (study.html / "selection.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 1 and "selection/margins" not in page, "the chart is in the page"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"finalists": 2}, "name the folds"),
        ({"finalists": 2, "folds": [1]}, "fewer than the candidates"),
        ({"judge": "logistic", "folds": [1]}, "only a regime"),
        ({"because": None}, "together with choice"),
        ({"choice": None, "because": None, "answered": "on a Monday"}, "names the candidate"),
    ],
)
def test_questions_that_cannot_be_run_are_refused(changes, what):
    question = {**ASKED, "judge": "finetune", "candidates": {"a": {}, "b": {}}, "choice": "a", **changes}
    with pytest.raises(ValueError, match=what):
        Question(**question)


def test_duplicates_stay_in_one_fold():
    targets, groups = np.tile([0, 1], 20), np.repeat(np.arange(20), 2)
    seen = []
    for train, held_out in split_folds(targets, groups, seed=1):
        assert not set(groups[train]) & set(groups[held_out])
        seen += list(held_out)
    assert sorted(seen) == list(range(40))


def test_changes_reach_the_parameters_and_mistakes_are_named():
    params = make_params()
    changed = change_params(params, {"resnet50.regimes.scratch.lr": 0.5, "data.aspect": "crop"}, where="here")
    assert (changed.resnet50.regimes["scratch"].lr, changed.data.aspect) == (0.5, "crop")
    assert changed.vgg19 == params.vgg19
    with pytest.raises(ParamsError, match=r"here: there is no parameter 'resnet50.optim.nmae'"):
        change_params(params, {"resnet50.optim.nmae": "sgd"}, where="here")
    with pytest.raises(ParamsError, match=r"resnet50.image_size: .*greater than or equal to 32"):
        change_params(params, {"resnet50.image_size": 3}, where="here")


def test_a_choice_must_be_a_candidate():
    with pytest.raises(ValueError, match="choice: name one of the candidates"):
        Question(**ASKED, judge="logistic", candidates={"a": {}, "b": {}}, choice="c")


def test_a_grid_is_every_combination_named_by_its_values_and_each_parameter_has_its_margin():
    grid = {"resnet50.regimes.finetune.lr": [0.1, 0.2], "resnet50.mixup": [0.0, 0.4]}
    asked = ASKED | {"judge": "scratch"}
    question = Question(**asked, grid=grid, candidates={"as it is": {}}, choice="lr 0.2, mixup 0.4")
    assert next(iter(question.candidates)) == "as it is" and len(question.candidates) == 5
    assert question.candidates["lr 0.2, mixup 0.0"] == {"resnet50.regimes.finetune.lr": 0.2, "resnet50.mixup": 0.0}
    twice = {"resnet50.regimes.finetune.lr": [1], "vgg19.regimes.finetune.lr": [2, 3]}
    named = Question(**asked, grid=twice, choice="resnet50.regimes.finetune.lr 1, vgg19.regimes.finetune.lr 3")
    assert len(named.candidates) == 2
    aps = dict(zip(question.candidates, (0.9, 0.1, 0.3, 0.4, 0.6), strict=True))
    rows = pd.DataFrame({"stage": "all", "candidate": list(aps), "ap": list(aps.values())})
    margins = select.group_margins(rows, question)
    assert margins["resnet50.mixup"] == {"0.0": [0.1, 0.4], "0.4": [0.3, 0.6]}
    margin = "\n".join(select._write_margin("lr", margins["resnet50.regimes.finetune.lr"]))
    assert margin.endswith("| 0.1 | 0.200 | 0.100 | 0.300 |\n| 0.2 | 0.500 | 0.400 | 0.600 |")
    for wrong, what in (([], "give each parameter a list"), ([1], "two or more")):
        with pytest.raises(ValueError, match=what):
            Question(**asked, grid={"resnet50.mixup": wrong}, choice="mixup 1")


def test_trainings_are_the_tasks_that_trials_will_ask_for(data, tmp_path, monkeypatch):
    """Trained ahead, in this process, they are all that `run_trials` needs: it trains nothing more."""
    monkeypatch.setenv("REPORTS_DIR", str(tmp_path / "reports"))
    params, study = make_params(**WEIGHTS), Study("isic2016_640px")
    selection = ask("finetune", plain={}, mixed={"resnet50.mixup": 0.4})
    monkeypatch.setattr(select, "load_prepared", lambda *_: data)
    trials = select.list_trials(0, selection.questions[0], params, data)
    jobs = select.list_trainings(study, trials, None)
    assert [(job.title, job.seed) for job in jobs] == [("plain", 1), ("plain", 2), ("mixed", 1), ("mixed", 2)]
    for job in jobs:
        run_job(job, {})
    monkeypatch.setattr(Run, "train_epoch", None)
    scores = run_trials(selection, params, data, folder=study.runs / "selection").scores
    assert len(scores) == 4 * 12


def test_the_page_says_what_the_scores_say():
    rng = np.random.default_rng(0)
    images = pd.DataFrame({"image_id": [f"ISIC_{i:07d}" for i in range(60)], "target": np.tile([0, 0, 1], 20)})
    parts, remarks = [], {}
    for (name, noise), seed in product({"good": 0.5, "bad": 3.0}.items(), (1, 2)):
        probs = expit(images["target"] + rng.normal(0, noise, 60))
        parts.append(images.assign(probability=probs, question=0, stage="all", candidate=name, seed=seed))
        remarks[0, "all", name, seed] = {"epoch": 3, "epochs": 8, "minutes": 2.0, "last_epochs_ap": 0.5}
    scores = pd.concat(parts, ignore_index=True)
    selection = ask("finetune", good={}, bad={})
    trials = TrialScores(scores, remarks)
    table = select.tabulate_trials(selection, trials, make_params().comparison).set_index("candidate")
    mean = scores[scores["candidate"] == "bad"].groupby("image_id")[["target", "probability"]].mean()
    expected = average_precision_score(mean["target"], mean["probability"])
    assert table.loc["bad", "ap"] == pytest.approx(expected, abs=1e-9)
    assert table.loc["bad", "difference"] == pytest.approx(expected - table.loc["good", "ap"], abs=1e-9)
    text = select.write_text(selection, scores, table.reset_index(), params=make_params(), study="mine")
    assert f"| bad | 60 | {expected:.3f} (" in text
    assert "**Chosen: good.** It is enough." in text
    assert "3 of 8" in text


def test_a_study_without_questions_says_where_to_find_some(tmp_path, monkeypatch):
    study = SimpleNamespace(params_dir=tmp_path, name="mine")
    with pytest.raises(ParamsError, match=r"params/mine/selection.yaml.*\n.*\n.*copy params/isic2016_640px"):
        select.select_settings(study, make_params(), console=SILENT)


def test_the_committed_selection_is_valid():
    for path in params_root().glob("*/selection.yaml"):
        params = load_study(path.parent)
        for question in load_file(path, Selection).questions:
            for name, changes in question.candidates.items():
                change_params(params, changes, where=name)


def score_in_order(table: pd.DataFrame) -> pd.DataFrame:
    """What a judge might say of each image, at once."""
    return table[["image_id", "target"]].assign(probability=np.linspace(0.1, 0.9, len(table)))


def test_an_answered_question_is_not_asked_again_and_its_evidence_stays(data, tmp_path, monkeypatch):
    """Whatever the study's settings are by now: its rows are the file's, the open question's are made."""
    monkeypatch.setenv("REPORTS_DIR", str(tmp_path / "reports"))
    monkeypatch.setattr(select, "docs_root", lambda: tmp_path / "docs")
    monkeypatch.setattr(select, "load_prepared", lambda *_: data)
    both, params = ask("logistic", one={}, other={"resnet50.batch_size": 4}), make_params(**WEIGHTS)
    study, question = Study("isic2016_640px"), both.questions[0]
    monkeypatch.setattr(select, "load_file", lambda *_: both)
    monkeypatch.setattr(select, "_cross_validate", lambda trial, **_: score_in_order(trial.known.table))
    select.select_settings(study, params, console=SILENT)
    folder = study.report_dir / "selection"
    assert not list(folder.glob("*.svg")), "without a grid there are no margins"
    before = {path.name: path.read_text() for path in folder.iterdir()}
    old = question.model_copy(update={"answered": "on a Monday", "candidates": {"gone": {"no.key": 1}, "one": {}}})
    both = Selection(questions=[old, question.model_copy(update={"question": "And now?"})])
    text = select.select_settings(study, params, console=SILENT)
    for name, content in before.items():
        assert (folder / name).read_text().startswith(content), f"{name} lost rows"
        assert len((folder / name).read_text().splitlines()) == 2 * len(content.splitlines()) - 1
    assert "Run on a Monday; the results are kept unchanged." in text and "## And now?" in text
    shutil.rmtree(folder)
    with pytest.raises(RunError, match="which is answered, is missing"):
        select.select_settings(study, params, console=SILENT)
