"""What a network adds to a baseline, on scores made so that the answer is known; statsmodels as the oracle."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from drawn_predictions import COMPARISON
from scipy.special import expit
from scipy.stats import chi2
from sklearn import metrics as sk

from lesion_utils.evaluation.added_value import likelihood_ratio, measure_added_value
from lesion_utils.evaluation.predictions import add_ensembles
from lesion_utils.evaluation.sentences import state_added_value

RNG = np.random.default_rng(3)


def draw(*, network: float, baseline: float = 1.2, shared: bool = False, images: int = 600) -> tuple[pd.DataFrame, ...]:
    """Predictions of one network and scores of a baseline with the same AUC, on other or on the same evidence.

    Args:
        network: separation of the classes by the network's own evidence, in standard deviations.
        baseline: by the baseline's.
        shared: whether the network reads the baseline's score, with noise, and nothing else.
        images: test images and out-of-fold images, each.
    """
    rng = np.random.default_rng(0)
    target = np.tile(np.arange(images) % 5 == 0, 2).astype(int)
    alone = rng.normal(size=2 * images) + baseline * target
    own = alone + 0.3 * rng.normal(size=2 * images) if shared else rng.normal(size=2 * images) + network * target
    base = pd.DataFrame({
        "image_id": [f"ISIC_{k:07d}" for k in range(2 * images)], "split": ["test"] * images + ["val"] * images,
        "target": target,
    })  # fmt: skip
    scores = {"model": "resnet50", "regime": "finetune", "seed": 1, "logit": own - 2, "probability": expit(own - 2)}
    metadata = base.assign(control="archive order", probability=expit(alone - 2))
    return add_ensembles(base.assign(**scores)), metadata


def test_the_likelihood_ratio_is_statsmodels():
    targets = RNG.permutation(np.arange(300) % 4 == 0).astype(int)
    a, b = RNG.normal(size=300) + targets, RNG.normal(size=300) + 0.3 * targets
    fits = [sm.Logit(targets, sm.add_constant(x)).fit(disp=0).llf for x in (a, np.column_stack([a, b]))]
    found = likelihood_ratio(targets, expit(a), expit(b))
    assert found.statistic == pytest.approx(2 * (fits[1] - fits[0]), rel=1e-6)
    assert found.p == pytest.approx(chi2.sf(found.statistic, 1))


def test_the_increment_is_that_of_the_plain_mean():
    predictions, metadata = draw(network=1.2)
    rows = measure_added_value(predictions, metadata, COMPARISON).set_index("metric")
    test = predictions[(predictions["split"] == "test") & (predictions["seed"] == "ensemble")].sort_values("image_id")
    alone = metadata[metadata["split"] == "test"].sort_values("image_id")["probability"].to_numpy()
    together = (alone + test["probability"]) / 2
    assert rows.loc["auc", "together"] == pytest.approx(sk.roc_auc_score(test["target"], together))
    assert rows.loc["ap", "alone"] == pytest.approx(sk.average_precision_score(test["target"], alone))
    assert np.allclose(rows["increment"], rows["together"] - rows["alone"])
    assert (rows["lr_split"] == "val").all() and (rows["lr_images"] == 600).all()
    few = measure_added_value(predictions, metadata[metadata["split"] == "test"], COMPARISON)
    assert (few["lr_split"] == "test").all()


def test_an_equal_auc_on_other_evidence_adds_value():
    """The difference of the AUCs is near zero, and the network still tells what the baseline does not know."""
    predictions, metadata = draw(network=1.2)
    said = state_added_value(measure_added_value(predictions, metadata, COMPARISON))
    assert said.startswith("The network adds information that the metadata lack. Averaging ResNet50, fine-tuned with")
    assert "(p < 0.001) on the 600 out-of-fold scores of the training images" in said
    assert said.index("AUC from 0.") < said.index("average precision from 0.")


def test_the_same_evidence_with_noise_adds_nothing():
    said = state_added_value(measure_added_value(*draw(network=0, shared=True), COMPARISON))
    assert said.startswith("No added value over the metadata was shown")


def test_noise_makes_the_baseline_worse():
    said = state_added_value(measure_added_value(*draw(network=0, baseline=2.0), COMPARISON))
    assert said.startswith("Averaged with the network, the baseline ranks the test images worse")


def test_tests_that_disagree_settle_nothing():
    rows = measure_added_value(*draw(network=1.2), COMPARISON)
    assert "not settled" in state_added_value(rows.assign(lr_p=0.2))
    assert "not settled" in state_added_value(rows.assign(low=-0.01))
