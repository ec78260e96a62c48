"""The ledger of test openings: one line per configuration, never rewritten, kept when published."""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd
import pytest
from drawn_predictions import COMPARISON, draw_predictions
from sklearn.metrics import average_precision_score, roc_auc_score

from lesion_utils.evaluation import openings
from lesion_utils.evaluation.openings import (
    LEDGER,
    Looks,
    count_looks,
    list_openings,
    number_evaluations,
    publish_openings,
    record_openings,
)
from lesion_utils.evaluation.predictions import add_ensembles
from lesion_utils.evaluation.ranking import compare_networks
from lesion_utils.evaluation.sentences import state_looks, state_primary

MONDAY, TUESDAY = datetime(2026, 11, 23, tzinfo=UTC), datetime(2026, 11, 24, tzinfo=UTC)


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(openings, "docs_root", lambda: tmp_path / "docs")
    monkeypatch.setattr(openings, "reports_root", lambda: tmp_path / "reports")
    return tmp_path


def make_predictions(*regimes: str) -> pd.DataFrame:
    rows = [
        {"image_id": f"{image}", "split": split, "model": "resnet50", "regime": regime, "seed": seed,
         "target": image % 2, "logit": 0.0, "probability": [0.2, 0.3, 0.4, 0.9][image] if split == "test" else 0.5}
        for regime in regimes for seed in (1, 2) for split in ("val", "test") for image in range(4)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def runs(*names: str) -> list[dict]:
    return [
        {"regime": name.partition("-")[0], "seed": 1, "fold": 1, "folder": name, "settings": f"of {name}"}
        for name in names
    ]


def test_an_opening_is_written_down_once():
    first = record_openings("s", make_predictions("scratch"), runs("scratch-a"), now=MONDAY)
    again = record_openings("s", make_predictions("scratch"), runs("scratch-a"), now=TUESDAY)
    assert again.equals(first) and first["date"].tolist() == ["2026-11-23"]
    (line,) = first.to_dict("records")
    assert (line["seeds"], line["folds"], line["test_images"], line["malignant"]) == (2, 1, 4, 2)
    assert line["ap"] == pytest.approx(average_precision_score([0, 1, 0, 1], [0.2, 0.3, 0.4, 0.9]), abs=1e-4)


def test_another_configuration_is_another_opening_and_the_first_one_stays():
    first = record_openings("s", make_predictions("scratch"), runs("scratch-a"), now=MONDAY)
    both = record_openings("s", make_predictions("scratch"), runs("scratch-b"), now=TUESDAY)
    assert both["date"].tolist() == ["2026-11-23", "2026-11-24"] and both.iloc[:1].equals(first)
    assert both["configuration"].nunique() == 2


def test_classifiers_are_other_lines_and_other_studies_stay_out():
    record_openings("other", make_predictions("scratch"), runs("scratch-a"), now=MONDAY)
    lines = record_openings("s", make_predictions("scratch", "features:knn"), runs("scratch-a"), now=MONDAY)
    assert lines["regime"].tolist() == ["scratch", "features:knn"] and set(lines["study"]) == {"s"}


def test_what_is_published_outlives_the_reports(folders):
    record_openings("other", make_predictions("scratch"), runs("scratch-a"), now=MONDAY)
    known = record_openings("s", make_predictions("scratch"), runs("scratch-a"), now=MONDAY)
    kept = publish_openings("s")
    assert set(pd.read_csv(kept)["study"]) == {"s"}
    (folders / "reports" / LEDGER).unlink()
    assert list_openings("s").equals(known)
    assert len(record_openings("s", make_predictions("scratch"), runs("scratch-b"), now=TUESDAY)) == 2


NOWHERE = pd.DataFrame(columns=["a", "b"])  # no other machine
PAIR = COMPARISON.model_copy(update={"primary": COMPARISON.primary.model_copy(update={"regime": "scratch"})})


def make_ledger(*lines: tuple[str, str, str, float, float]) -> pd.DataFrame:
    """Lines of date, model, configuration, AP and AUC."""
    known = {"study": "s", "regime": "scratch", "seeds": 1, "folds": 5, "test_images": 379, "malignant": 75}
    known["settings"] = ""  # of a ledger that an earlier version wrote
    keys = ["date", "model", "configuration", "ap", "auc"]
    return pd.DataFrame([known | dict(zip(keys, line, strict=True)) for line in lines])


#: Two evaluations; the code of the second was renamed and gave the same scores again.
TWICE = make_ledger(
    ("2026-11-23", "resnet50", "a1", 0.4316, 0.7024), ("2026-11-23", "vgg19", "b1", 0.327, 0.6774),
    ("2026-11-30", "vgg19", "b2", 0.2721, 0.6085), ("2026-11-30", "resnet50", "a2", 0.3723, 0.6911),
    ("2026-11-30", "resnet50", "a3", 0.3723, 0.6911), ("2026-11-30", "vgg19", "b3", 0.2721, 0.6085),
)  # fmt: skip


def test_the_same_scores_again_are_no_new_evaluation():
    rows = number_evaluations(TWICE)
    assert rows["evaluation"].tolist() == [1, 1, 2, 2]
    assert rows.set_index(["evaluation", "model"]).loc[(2, "resnet50"), "configuration"] == "a2, a3"


def test_scores_that_another_processor_rounds_differently_are_no_new_evaluation():
    again = make_ledger(("2026-12-02", "vgg19", "b4", 0.2722, 0.6084))
    rows = number_evaluations(pd.concat([TWICE, again], ignore_index=True))
    assert rows["evaluation"].max() == 2 and rows["configuration"].str.contains("b4").any()


def test_one_network_that_comes_with_other_scores_is_a_new_evaluation():
    lines = [("2026-12-01", "vgg19", "b4", 0.3, 0.65)]
    rows = number_evaluations(pd.concat([TWICE, make_ledger(*lines)], ignore_index=True))
    assert rows["evaluation"].tolist() == [1, 1, 2, 2, 3] and rows["model"].iloc[-1] == "vgg19"


#: The same settings and code on two machines, then other settings on the second.
MACHINES = make_ledger(
    ("2026-12-01", "resnet50", "a4", 0.51, 0.75), ("2026-12-01", "vgg19", "b4", 0.4, 0.71),
    ("2026-12-02", "resnet50", "a5", 0.52, 0.76), ("2026-12-02", "vgg19", "b5", 0.41, 0.7),
    ("2026-12-03", "resnet50", "a6", 0.53, 0.77),
).assign(settings=["sa", "sb", "sa", "sb", "other"])  # fmt: skip


def test_other_scores_of_the_same_settings_on_another_machine_are_no_new_evaluation_but_are_shown():
    rows = number_evaluations(pd.concat([TWICE, MACHINES], ignore_index=True))
    assert rows["evaluation"].tolist() == [1, 1, 2, 2, 3, 3, 3, 3, 4]
    assert rows.loc[rows["evaluation"] == 3, "auc"].tolist() == [0.75, 0.71, 0.76, 0.7]


@pytest.mark.parametrize("machine", [0, 1])
def test_the_level_of_the_test_is_that_of_the_settings_whichever_machine_is_the_present_one(machine):
    scores = add_ensembles(draw_predictions(seeds=1))
    now = scores[(scores["split"] == "test") & (scores["regime"] == "scratch") & (scores["seed"] == "ensemble")]
    lines = MACHINES[:4].reset_index(drop=True)
    for model, own in now.groupby("model"):
        own_line = lines.index[lines["model"] == model][machine]
        lines.loc[own_line, "auc"] = round(float(roc_auc_score(own["target"], own["probability"])), 4)
    looks = count_looks(pd.concat([TWICE, lines, lines[:2]], ignore_index=True), scores, PAIR)
    other = MACHINES["auc"].iloc[[2, 3] if machine == 0 else [0, 1]].tolist()
    assert looks.number == 3 and looks.machines.to_numpy().tolist() == [other]
    unknown = pd.concat([TWICE, lines.assign(settings="")], ignore_index=True)
    assert count_looks(unknown, scores, PAIR).number == 4


def test_a_ledger_without_settings_is_read_and_keeps_its_lines(folders):
    old = make_ledger(("2026-11-23", "resnet50", "a1", 0.4316, 0.7024)).drop(columns="settings")
    (folders / "docs").mkdir()
    old.to_csv(folders / "docs" / LEDGER, index=False)
    rows = record_openings("s", make_predictions("scratch"), runs("scratch-a"), now=TUESDAY)
    assert rows["settings"].iloc[0] == "" and len(rows["settings"].iloc[1]) == 12


def test_a_classical_classifier_has_settings_that_its_runs_do_not_know():
    rows = record_openings("s", make_predictions("scratch", "features:knn"), runs("scratch-a"), now=MONDAY)
    assert (rows.set_index("regime")["settings"] == "").to_dict() == {"scratch": False, "features:knn": True}


def test_the_present_evaluation_counts_once_whether_the_ledger_has_it_or_not():
    scores = add_ensembles(draw_predictions(seeds=1))
    looks = count_looks(TWICE, scores, PAIR)
    assert looks.number == 3 and looks.level == pytest.approx(0.05 / 3)
    assert looks.earlier[["a", "b"]].to_numpy().tolist() == [[0.7024, 0.6774], [0.6911, 0.6085]]
    now = scores[(scores["split"] == "test") & (scores["regime"] == "scratch") & (scores["seed"] == "ensemble")]
    values = {
        model: round(float(roc_auc_score(own["target"], own["probability"])), 4) for model, own in now.groupby("model")
    }
    lines = [("2026-12-01", model, "new", 0.5, value) for model, value in values.items()]
    both = pd.concat([TWICE, make_ledger(*lines)], ignore_index=True)
    assert count_looks(both, scores, PAIR).number == 3
    assert count_looks(make_ledger(*lines), scores, PAIR).number == 1
    assert count_looks(TWICE[:0], scores, PAIR).number == 1


def test_the_verdict_says_what_earlier_evaluations_gave_and_corrects_its_level():
    earlier = pd.DataFrame({"date": ["2026-11-23", "2026-11-30"], "a": [0.7024, 0.6911], "b": [0.6774, 0.6085]})
    third = Looks(3, earlier, NOWHERE, 0.05 / 3)
    said = state_looks(third, PAIR)
    assert said.startswith("This is the third evaluation of the declared comparison on the test set; the first 2 gave ")
    assert "AUC 0.702 (ResNet50) against 0.677 (VGG19) on 2026-11-23 and AUC 0.691" in said
    assert "0.05 / 3 = 0.017" in said
    rows = compare_networks(add_ensembles(draw_predictions()), PAIR)
    rows["p"] = 0.029  # significant by itself, and not after three looks
    assert "ranks the test images better" in state_primary(rows, PAIR)
    verdict = state_primary(rows, PAIR, third)
    assert verdict.startswith("No significant difference") and "at the level 0.017" in verdict
    assert verdict.endswith(said)
    first = Looks(1, earlier[:0], NOWHERE, 0.05)
    assert state_primary(rows, PAIR, first) == state_primary(rows, PAIR)
    assert "first evaluation" in state_looks(first, PAIR)
    other = Looks(1, earlier[:0], pd.DataFrame({"a": [0.75], "b": [0.71]}), 0.05)
    assert state_looks(other, PAIR).endswith(
        " On another machine, the same settings gave AUC 0.750 (ResNet50) against 0.710 (VGG19)."
    )
