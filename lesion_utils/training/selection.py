"""Which epoch is chosen: figures of the validation images, and how two epochs compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score


def score_validation(targets: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Loss (plain cross-entropy), AP and AUC; rounded to 12 digits, so that equal rankings score exactly the same.

    Args:
        targets: (N,) int, 0 or 1.
        logits: (N,) float.
    """
    logits = logits.astype(np.float64)
    return {
        "val_loss": float(np.mean(np.logaddexp(0, np.where(targets == 1, -logits, logits)))),
        "val_ap": round(float(average_precision_score(targets, logits)), 12),
        "val_auc": round(float(roc_auc_score(targets, logits)), 12),
    }


def rank_epoch(record: Mapping[str, Any]) -> tuple[float, float]:
    """The better epoch has the larger rank: higher validation AP, then lower validation loss."""
    return record["val_ap"], -record["val_loss"]


def deterministic_part(record: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch's record without its times, so that the same training gives the same file."""
    return {k: v for k, v in record.items() if k not in ("seconds", "seconds_validation", "images_per_s")}
