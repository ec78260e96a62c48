"""Decision curves against dcurves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from dcurves import dca
from hypothesis import given, settings
from scored_labels import scored_labels

from lesion_utils.core.errors import MetricError
from lesion_utils.evaluation.decisions import compute_net_benefit, trace_decision_curves


@settings(max_examples=25)  # dcurves takes its time
@given(scored_labels())
def test_net_benefit_agrees_with_dcurves(case):
    targets, probs = case
    thresholds = np.array([0.01, 0.1, 0.25, 0.3, 0.5, 0.75, 0.9])
    theirs = dca(
        data=pd.DataFrame({"y": targets, "score": probs}),
        outcome="y",
        modelnames=["score"],
        thresholds=thresholds,
        models_to_prob=None,
    )
    ours = trace_decision_curves(targets, {"score": probs}, thresholds=thresholds)
    for mine, name in (("score", "score"), ("treat all", "all"), ("treat none", "none")):
        expected = theirs[theirs["model"] == name].sort_values("threshold")["net_benefit"].to_numpy(float)
        np.testing.assert_allclose(ours[ours["name"] == mine]["net_benefit"], expected, atol=1e-9)


@pytest.mark.parametrize("threshold", [0.0, 1.0, np.nan])
def test_net_benefit_needs_finite_odds(threshold):
    with pytest.raises(MetricError, match="between 0 and 1"):
        compute_net_benefit([0, 1], [0.2, 0.8], thresholds=[threshold])
