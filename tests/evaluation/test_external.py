"""Scores on external images, against scikit-learn and the measures of the internal test set."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from drawn_predictions import COMPARISON, draw_external, draw_predictions, get_row
from scipy.special import expit
from sklearn import metrics as sk

from lesion_utils.evaluation.external import EVERYONE, examine_external, judge_scores, measure_drops, widen_measures
from lesion_utils.evaluation.intervals import wilson_interval
from lesion_utils.evaluation.predictions import add_ensembles, select_run
from lesion_utils.evaluation.shortcuts import CONTROL, FEWEST
from lesion_utils.evaluation.tables import tabulate_results


def draw_scores(count: int = 300, *, skill: float = 1.5, shift: float = 0.0, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    targets = (np.arange(count) % 4 == 0).astype(int)
    logits = skill * targets - 1.5 + shift + rng.normal(size=count)
    return pd.DataFrame({"target": targets, "logit": logits, "probability": expit(logits)})


def test_the_measures_are_those_of_scikit_learn_and_calls_follow_the_threshold_of_home():
    table, threshold = draw_scores(), 0.3
    rows = judge_scores(table, COMPARISON, threshold=threshold).set_index("metric")
    called = table["probability"] > threshold
    expected = {
        "ap": sk.average_precision_score(table["target"], table["probability"]),
        "auc": sk.roc_auc_score(table["target"], table["probability"]),
        "sensitivity_at_target": sk.recall_score(table["target"], called),
        "specificity_at_target": sk.recall_score(1 - table["target"], ~called),
    }
    for metric, value in expected.items():
        assert rows.loc[metric, "value"] == pytest.approx(value)
        assert rows.loc[metric, "low"] < value < rows.loc[metric, "high"]
    hits = int((called & (table["target"] == 1)).sum())
    assert rows.loc["sensitivity_at_target", ["low", "high"]].tolist() == pytest.approx(
        wilson_interval(hits, 75, confidence=0.95)
    )
    at_half = judge_scores(table, COMPARISON, threshold=None)
    assert {"sensitivity", "specificity"} < set(at_half["metric"])


def test_a_shift_of_all_log_odds_shows_in_calibration_and_nowhere_in_the_ranking():
    plain, moved = (
        judge_scores(draw_scores(2000, shift=shift), COMPARISON, threshold=None).set_index("metric")["value"]
        for shift in (0, 1)
    )
    assert plain["auc"] == moved["auc"] and plain["slope"] == pytest.approx(moved["slope"])
    assert moved["in_the_large"] == pytest.approx(plain["in_the_large"] - 1)


def test_groups_of_one_class_have_calls_alone_and_small_ones_no_interval_of_their_ranking():
    table = draw_scores(80)
    table["site"] = np.where(table["target"] == 0, "A", "B")
    table["skin_type"] = ["I"] * 60 + ["VI"] * 16 + [""] * 4
    rows = judge_scores(table, COMPARISON, threshold=None)
    groups = rows.groupby("group")["metric"].agg(set)
    assert groups["site A"] == {"specificity"} and groups["site B"] == {"sensitivity"}
    small = rows[rows["group"] == "skin type VI"].set_index("metric")
    assert small["malignant"].iloc[0] == 4 < FEWEST
    assert small.loc[["ap", "auc", "slope"], "low"].isna().all() and small.loc["sensitivity", "low"] >= 0
    assert small["value"].notna().all()
    assert set(rows["group"]) == {EVERYONE, "site A", "site B", "skin type I", "skin type VI"}
    wide = widen_measures(rows).set_index("group")
    assert wide.loc["site A", "AUC"] == "–" and wide.loc["skin type VI", "images"] == 16


def test_a_drop_is_home_minus_external_and_its_interval_holds_what_was_planted():
    home, away = draw_scores(600, skill=2, seed=1), draw_scores(600, skill=1, seed=2)
    rows = measure_drops(home, away, COMPARISON, threshold=0.3).set_index("metric")
    auc = [sk.roc_auc_score(side["target"], side["probability"]) for side in (home, away)]
    assert rows.loc["auc", ["internal", "external", "drop"]].tolist() == pytest.approx([*auc, auc[0] - auc[1]])
    assert 0 < rows.loc["auc", "low"] < rows.loc["auc", "drop"] < rows.loc["auc", "high"]
    none = measure_drops(home, home, COMPARISON, threshold=0.3)
    assert (none["drop"] == 0).all() and (none["low"] < 0).all() and (none["high"] > 0).all(), "two samples, not one"
    assert measure_drops(home, away[:20], COMPARISON, threshold=None).empty


def test_every_network_and_the_control_are_judged_without_what_training_has_seen():
    home = add_ensembles(draw_predictions())
    results = tabulate_results(home, COMPARISON)
    drawn, own, others = draw_external()
    away = add_ensembles(drawn)
    others.loc[:4, "seen_in"] = ["train", "val", "test", "left_out", ""]
    external = examine_external(home, away, results, COMPARISON, images=own, others=others)
    assert set(external.measures["images"]) == {88}, "of train and val, two are left out; of test and left_out, none"
    models = external.measures[["model", "regime"]].drop_duplicates()
    assert len(models) == 7 and (models["model"] == CONTROL).sum() == 1
    row = select_run(away[away["image_id"].isin(others["image_id"][2:])], model="vgg19", regime="finetune")
    own = "model == 'vgg19' and regime == 'finetune' and metric == "
    told = external.measures.query(f"{own} 'auc'")["value"].item()
    assert told == pytest.approx(sk.roc_auc_score(row["target"], row["probability"]))
    internal = external.drops.query(f"{own} 'sensitivity_at_target'")["internal"].item()
    assert internal == pytest.approx(get_row(results, "vgg19", "finetune", "sensitivity_at_target")["value"])
