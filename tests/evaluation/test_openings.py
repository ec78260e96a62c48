"""The ledger of test openings: one line per configuration, never rewritten, kept when published."""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from lesion_utils.evaluation import openings
from lesion_utils.evaluation.openings import LEDGER, list_openings, publish_openings, record_openings

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
    return [{"regime": name.partition("-")[0], "seed": 1, "fold": 1, "folder": name} for name in names]


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
