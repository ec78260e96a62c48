"""The reviewers' checklists: every item answered, from the study's own numbers."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter
from types import SimpleNamespace

import pandas as pd
import pytest
from drawn_predictions import COMPARISON, collect_findings, draw_predictions
from sections import change_data

from lesion_utils.config.load import load_study
from lesion_utils.core.paths import Study
from lesion_utils.evaluation.predictions import add_ensembles
from lesion_utils.evaluation.tables import tabulate_results
from lesion_utils.notebooks import checklist
from lesion_utils.notebooks.checklist import answer_items, show_items
from lesion_utils.notebooks.headline import summarise

ITEMS = pd.read_csv(Path(checklist.__file__).with_name("checklist.csv"), dtype=str, keep_default_na=False)
DATA = SimpleNamespace(
    table=pd.DataFrame({"subset": ["train"] * 700 + ["val"] * 180 + ["test"] * 120 + ["left_out"] * 4}),
    label_changes=pd.DataFrame({"image_id": ["a", "b"]}),
    summary="1,004 images of the test",
    external=pd.DataFrame({"set": []}),
)


@pytest.fixture(scope="module")
def outcome(seen):
    predictions = add_ensembles(draw_predictions())
    results = tabulate_results(predictions, COMPARISON)
    return summarise(collect_findings(predictions, results, seen))


@pytest.fixture(scope="module", params=["demo", "isic2016"])
def answers(request, outcome):
    return answer_items(load_study(Study(request.param).params_dir), DATA, outcome)


def test_every_item_stands_once_and_in_order():
    lasts = {"CLAIM 2024": (44, 44), "CLEAR Derm": (25, 25), "TRIPOD+AI": (27, 52), "STARD-AI": (40, 48)}
    for name, (last, count) in lasts.items():
        items = ITEMS.loc[ITEMS["guideline"] == name, "item"]
        assert len(items) == count, f"{name}: the guideline has {count} rows"
        numbers = items.str.extract(r"^(\d+)[a-g]?$")[0].astype(int)
        assert numbers.is_monotonic_increasing and items.is_unique and numbers.between(1, last).all()
    assert set(ITEMS["guideline"]) == set(lasts)
    assert (ITEMS[["asks", "answer", "met"]] != "").all(axis=None)


def test_no_template_holds_a_number_of_its_own():
    """Numbers come from the study; what is left are names of notebooks, items, years and citations."""
    for text in ITEMS["answer"]:
        words = "".join(part for part, *_ in Formatter().parse(text))
        assert not re.search(r"%|\b0\.\d", words), text


def test_of_images_of_ones_own_nothing_is_said_that_holds_for_the_challenge_alone(outcome):
    params = change_data(load_study(Study("demo").params_dir), source="folder", images="a", labels="b")
    data = SimpleNamespace(**vars(DATA) | {"table": DATA.table.assign(patient="P")})
    text = " ".join(answer_items(params, data, outcome)["answer"])
    assert text.count("None. Training and test images come from the same source") == 1
    data.external = pd.DataFrame({"set": ["PH2"] * 200})
    rows = answer_items(params, data, outcome).set_index(["guideline", "item"])
    assert rows.loc[("CLAIM 2024", "33"), "met"] == rows.loc[("CLAIM 2024", "20"), "met"] == "met"
    assert rows["answer"].str.startswith("PH2 (200 images), scored after training").sum() == 1
    assert not re.findall(r".{40}(?:challenge|ISIC|CC-0|official|melanoma|image number)", text)
    assert "all images of a patient are in one partition" in text and "{" not in text


def test_every_answer_is_filled_in(answers):
    assert len(answers) == len(ITEMS) and answers["answer"].str.len().min() > 4
    assert not answers["answer"].str.contains(r"[{}]|\bnan\b|None:|\(\)").any()
    assert set(answers["met"]) == {"met", "partly", "not", "not applicable"}


def test_the_numbers_are_the_studys(answers, outcome):
    claim = answers[answers["guideline"] == "CLAIM 2024"].set_index("item")["answer"]
    assert "700 training, 180 validation, 120 test images; 4 removed" in claim["35"]
    assert "120 test images, 24 malignant" in claim["21"] and outcome["power"] in claim["21"]
    assert f"{outcome['headline'][0]['value']:.3f}" in claim["38"]
    assert outcome["best"]["name"] in claim["26"]
    assert "changed since: 2;" in claim["14"], "labels that have changed since"


def test_folds_and_kept_epochs_are_told_as_they_are(outcome):
    folds = change_data(load_study(Study("demo").params_dir), folds=5)
    folds = folds.model_copy(update={"vgg19": folds.vgg19.model_copy(update={"keep": "last"})})
    data = SimpleNamespace(**vars(DATA) | {"table": DATA.table.replace("val", "train")})
    claim = answer_items(folds, data, outcome).query("guideline == 'CLAIM 2024'").set_index("item")["answer"]
    assert "5-fold cross-validation within the training images" in claim["19"]
    assert claim["35"].startswith("880 training, 120 test images;")
    assert "from the last epoch (VGG19)" in claim["26"] and "folds (5)" in claim["27"]


def test_weights_that_are_averages_and_views_are_said_to_be(outcome):
    """The settings of the large study: a mean of weights is not the last epoch, and unused weights are not named."""
    params = load_study(Study("demo").params_dir)
    averaging = params.vgg19.averaging.model_copy(update={"method": "swa"})
    for slot in ("resnet50", "vgg19"):
        changed = {"averaging": averaging, "keep": "last", "tta": "flips"}
        params = params.model_copy(update={slot: getattr(params, slot).model_copy(update=changed)})
    claim = answer_items(params, DATA, outcome).query("guideline == 'CLAIM 2024'").set_index("item")["answer"]
    assert claim["26"].startswith("Weights: mean over the last epochs (SWA), from the last epoch.")
    assert "eight flips" in claim["27"] and "tv_in1k" not in claim["22"] + claim["24"]
    assert "expected calibration error" in claim["29"]


def test_a_value_that_both_networks_share_is_said_once():
    assert checklist._tell_apart({"ResNet50": 64, "VGG19": 64}) == "64"
    assert checklist._tell_apart({"ResNet50": 64, "VGG19": 48}) == "64 (ResNet50), 48 (VGG19)"


def test_the_table_survives_markdown(answers):
    lines = show_items(answers.assign(answer="a | b")).data.splitlines()
    assert len(lines) == len(answers) + 2
    assert lines[2] == r"| CLAIM 1 | AI method named in title or abstract | met | a \| b |"
