"""The hand-over file: what is refused, and that what is written is read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn_predictions import draw_predictions
from scipy.special import expit

from lesion_utils.core.errors import DataError, MetricError
from lesion_utils.core.names import COMBINATION
from lesion_utils.evaluation.predictions import (
    COLUMNS,
    ENSEMBLE,
    add_ensembles,
    check_predictions,
    find_missing,
    iterate_runs,
    join_folds,
    read_predictions,
    select_run,
    write_predictions,
    write_submission,
)

ISIC = Path(__file__).parents[1] / "oracles" / "isic"


@pytest.fixture
def table() -> pd.DataFrame:
    return draw_predictions(images=40, validation=20)


def test_written_predictions_are_read_again(table, tmp_path):
    path = write_predictions(table.sample(frac=1, random_state=1), tmp_path / "new" / "resnet50.csv")
    again = read_predictions(path)
    assert list(again.columns) == COLUMNS
    pd.testing.assert_frame_equal(again, check_predictions(table), rtol=1e-8, check_exact=False)
    before = path.read_bytes()
    write_predictions(again, path)
    assert path.read_bytes() == before, "reading and writing changes nothing"
    assert b"\r" not in before


def test_float32_survives_the_file(tmp_path, table):
    logits = table["logit"].to_numpy(np.float32)
    table = table.assign(logit=logits.astype(float), probability=expit(logits.astype(float)))
    again = read_predictions(write_predictions(table, tmp_path / "a.csv"))
    merged = again.merge(table, on=COLUMNS[:5])
    np.testing.assert_array_equal(merged["logit_x"].to_numpy(np.float32), merged["logit_y"].to_numpy(np.float32))


def test_several_files_are_read_together(table, tmp_path):
    paths = [write_predictions(rows, tmp_path / f"{model}.csv") for model, rows in table.groupby("model")]
    assert len(read_predictions(paths)) == len(table)


def break_seed(table, column, value):
    """One entry of one run's test rows changed."""
    at = table.index[(table["split"] == "test") & (table["seed"] == 1)][0]
    return table.assign(**{column: table[column].where(table.index != at, value)})


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda t: t.drop(columns="logit"), DataError, "lack logit"),
        (lambda t: t.iloc[:0], DataError, "not one prediction"),
        (lambda t: t.assign(split="train"), DataError, "val and test"),
        (lambda t: pd.concat([t, t.iloc[:1]]), DataError, "two scores"),
        (lambda t: break_seed(t, "target", 2), DataError, "0 or 1"),
        (lambda t: t.assign(target=t["target"].where(t["seed"] == 0, 1 - t["target"])), DataError, "0 or 1"),
        (lambda t: t.drop(index=t.index[0]), DataError, "same .* images"),
        (lambda t: break_seed(t, "logit", np.nan), MetricError, "NaN or infinite"),
        (lambda t: break_seed(t, "probability", np.nan), MetricError, "NaN or infinite"),
        (lambda t: break_seed(t, "logit", np.inf), MetricError, "NaN or infinite"),
        (lambda t: break_seed(t, "logit", 0.123), MetricError, "differs from the logistic function"),
    ],
)
def test_wrong_predictions_are_refused(table, change, error, says):
    with pytest.raises(error, match=says):
        check_predictions(change(table), where="resnet50.csv")


def test_a_refused_table_leaves_the_old_file(table, tmp_path):
    path = write_predictions(table, tmp_path / "a.csv")
    before = path.read_bytes()
    with pytest.raises(MetricError):
        write_predictions(break_seed(table, "logit", np.nan), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="run the training notebook"):
        read_predictions([tmp_path / "vgg19.csv"])


def test_ensembles_are_mean_probabilities(table):
    everyone = add_ensembles(table)
    mean = select_run(everyone, model="vgg19", regime="finetune")
    seeds = [select_run(everyone, model="vgg19", regime="finetune", seed=s) for s in (0, 1)]
    np.testing.assert_allclose(mean["probability"], (seeds[0]["probability"] + seeds[1]["probability"]) / 2)
    np.testing.assert_allclose(expit(mean["logit"]), mean["probability"])
    assert mean["image_id"].is_monotonic_increasing
    np.testing.assert_array_equal(mean["target"], seeds[0]["target"])


def test_an_ensemble_of_certain_models_has_finite_logits(table):
    sure = add_ensembles(table.assign(probability=table["target"].astype(float)))
    assert np.isfinite(sure.loc[sure["seed"] == ENSEMBLE, "logit"]).all()


def test_runs_come_with_both_splits_in_order(table):
    runs = {key: (validation, test) for key, validation, test in iterate_runs(add_ensembles(table))}
    assert ("resnet50", "scratch", ENSEMBLE) in runs and ("resnet50", "scratch", "1") in runs
    order = [test["image_id"].tolist() for _, test in runs.values()]
    assert all(ids == order[0] == sorted(order[0]) for ids in order)
    assert {len(validation) for validation, _ in runs.values()} == {20}


@pytest.mark.parametrize("case", ["graded", "hard", "tied", "tiny", "always_benign"])
def test_a_submission_is_what_the_official_scorer_accepted(case, tmp_path):
    accepted = ISIC / f"{case}.csv"
    entry = pd.read_csv(accepted)
    run = pd.DataFrame({"image_id": entry["image"], "probability": entry["malignant"]}).sample(frac=1, random_state=1)
    assert write_submission(run, tmp_path / "entry.csv").read_bytes() == accepted.read_bytes()


def test_a_submission_holds_one_run(table, tmp_path):
    with pytest.raises(DataError, match="one score per image"):
        write_submission(table, tmp_path / "entry.csv")


MEMBERS = [("resnet50", "finetune"), ("vgg19", "features")]


def test_a_combination_is_the_mean_of_its_members_each_averaged_over_its_own_seeds(table):
    uneven = table[(table["model"] != "vgg19") | (table["seed"] == 0)]  # one seed against two
    everyone = add_ensembles(uneven, {"both": MEMBERS})
    for split in ("test", "val"):
        both = select_run(everyone, model=COMBINATION, regime="both", split=split)
        first, second = (select_run(everyone, model=m, regime=r, split=split) for m, r in MEMBERS)
        np.testing.assert_allclose(both["probability"], (first["probability"] + second["probability"]) / 2, atol=1e-12)
        np.testing.assert_allclose(expit(both["logit"]), both["probability"], atol=1e-12)
        assert both["image_id"].tolist() == first["image_id"].tolist()
    assert set(everyone.loc[everyone["model"] == COMBINATION, "seed"]) == {ENSEMBLE}
    pd.testing.assert_frame_equal(everyone[everyone["model"] != COMBINATION], add_ensembles(uneven))


def test_a_combination_without_a_member_is_left_out_and_named(table):
    asked = {"both": MEMBERS, "gone": [MEMBERS[0], ("vgg19", "features:knn"), ("vgg19", "features:svm_rbf")]}
    everyone = add_ensembles(table, asked)
    assert set(everyone.loc[everyone["model"] == COMBINATION, "regime"]) == {"both"}
    assert find_missing(table, asked) == {"gone": asked["gone"][1:]}
    assert find_missing(table, {}) == {}


def test_folds_are_joined_and_an_image_that_two_held_out_is_refused(table):
    """A test image has the folds' mean; of two scores of an image held out, one is by a network that learnt from it."""
    run = table[
        (table["model"] == "resnet50") & (table["regime"] == "finetune") & (table["seed"] == table["seed"].min())
    ]
    test, held_out = run[run["split"] == "test"], run[run["split"] != "test"]
    other = test.assign(probability=test["probability"] / 2)
    joined = join_folds([pd.concat([test, held_out[:7]]), pd.concat([other, held_out[7:]])]).set_index("image_id")
    mean = joined.loc[test["image_id"], "probability"].to_numpy()
    np.testing.assert_allclose(mean, 0.75 * test["probability"])
    np.testing.assert_allclose(expit(joined.loc[test["image_id"], "logit"].to_numpy()), mean)
    assert len(joined) == len(run)
    with pytest.raises(DataError, match=f"{held_out['image_id'].iloc[6]}, fine-tuned, seed .: two folds held"):
        join_folds([held_out[:7], held_out[6:]])
