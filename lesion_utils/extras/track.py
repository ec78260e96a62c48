"""A study's trainings and results as MLflow shows them: those that are done, and those that go on.

Every training is a run in MLflow, with its learning curves and, once it is done, its parameters; so is every row of the
comparison, with its test metrics and their intervals. Tracking again adds what is new, and nothing twice.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from lesion_utils.core.errors import RunError
from lesion_utils.core.files import digest_bytes
from lesion_utils.core.names import name_training
from lesion_utils.core.paths import Study
from lesion_utils.core.run_files import read_done
from lesion_utils.data.tables import read_csv
from lesion_utils.evaluation.intervals import ENDS

#: Of MLflow, where nothing else is set: it sends no reports of its use, prints no address for each run, and says within
#: seconds, not minutes, that a server does not answer.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
#: Names of an epoch in a history; the rest of it are figures.
_NAMES = ("regime", "seed", "fold", "epoch", "epochs")


def track_study(study: Study, to: str) -> str:
    """Write what is new of a study to MLflow, in the experiment of its name.

    Args:
        to: a folder, which gets an `mlflow.db`, or any address that MLflow knows, such as http://localhost:5000.

    Returns:
        a sentence: what is there now.

    Raises:
        RunError: nothing has been trained, or MLflow does not take it.
    """
    histories, results = sorted(study.runs.glob("*/*/history.jsonl")), study.metrics / "05_comparison_results.csv"
    if not histories:
        raise RunError("nothing has been trained", where=study.runs, do=f"run: make all STUDY={study.name}")
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of each table of a new database
    try:
        log = Log(study.name, to)
        done = [log.track_training(history) for history in histories]
        rows = log.track_results(results) if results.is_file() else 0
    except OSError:
        raise
    except Exception as error:  # MLflow's own, its database's, its server's; the remedy is the same
        what = f"MLflow does not take it: {' '.join(str(error).split())[:300]}"
        expected, do = "a folder, or the address of a server that runs", "mend that, and give the same command again"
        raise RunError(what, where=f"TO={to}", expected=expected, do=do) from error
    return f"{log.uri}  {sum(done)} of {len(done)} trainings done, {rows} rows of the comparison"


class Log:
    """An experiment of MLflow's.

    Attributes:
        uri: of its store.
    """

    def __init__(self, experiment: str, to: str):
        from mlflow import MlflowClient

        place = None if "://" in to else Path(to).resolve()
        if place:
            place.mkdir(parents=True, exist_ok=True)
            (place / "mlflow.db").touch()  # MLflow would try for minutes where that cannot be
        self.uri = f"sqlite:///{quote(str(place))}/mlflow.db" if place else to
        self._client = MlflowClient(self.uri)
        known = self._client.get_experiment_by_name(experiment)
        files = (place / "artifacts").as_uri() if place else None
        self._experiment = known.experiment_id if known else self._client.create_experiment(experiment, files)

    def track_training(self, history: Path) -> bool:
        """Add the epochs of a training that are new; whether it is done."""
        epochs = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
        key = {name: epochs[0][name] for name in _NAMES[:3] if name in epochs[0]}
        step, folder, record = history.parts[-3], history.parts[-2], read_done(history.parent)
        if run := self._open(f"{step}/{folder}", f"{step}, {name_training(key)}", {"step": step, **key}):
            known, metrics = len(self._client.get_metric_history(run, "loss")), []
            left = sum(epoch["seconds"] + epoch["seconds_validation"] for epoch in epochs[known:])
            for epoch in epochs[known:]:
                left -= epoch["seconds"] + epoch["seconds_validation"]
                figures = {name: value for name, value in epoch.items() if name not in _NAMES}
                metrics += list_metrics(figures, at=history.stat().st_mtime - left, step=epoch["epoch"])
            self._write(run, metrics, list_params(record) if record else [], ended=record is not None)
        return record is not None

    def track_results(self, results: Path) -> int:
        """Add the rows of the comparison that are new, a run each; how many there are."""
        rows = read_csv(results).groupby(["name", "seed"], sort=False)
        for (name, seed), row in rows:
            columns = zip(ENDS, ("value", "low", "high"), strict=True)
            parts = [row.set_index("metric")[column].dropna().add_suffix(end).to_dict() for end, column in columns]
            figures = {f"test_{name}": value for part in parts for name, value in part.items()}
            key = f"{results.stem}/{digest_bytes(json.dumps([name, seed, figures]).encode())[:12]}"
            if run := self._open(key, f"{name}, seed {seed}", {"step": results.stem, "seed": seed}):
                self._write(run, list_metrics(figures, at=results.stat().st_mtime), [], ended=True)
        return len(rows)

    def _open(self, key: str, name: str, tags: Mapping[str, Any]) -> str | None:
        """The id of the run that shows this, a new one if need be; None where it has been shown whole."""
        found = self._client.search_runs([self._experiment], f"tags.lesion_run = '{key}'", max_results=1)
        if found:
            return found[0].info.run_id if found[0].info.status == "RUNNING" else None
        tags = {"lesion_run": key, **{tag: str(value) for tag, value in tags.items()}}
        return self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id

    def _write(self, run: str, metrics: list[Any], params: list[Any], *, ended: bool) -> None:
        for start in range(0, max(len(metrics), len(params)), 100):  # with more at once some stores refuse it
            some = slice(start, start + 100)
            self._client.log_batch(run, metrics[some], params[some])
        if ended:
            self._client.set_terminated(run)


def list_metrics(figures: Mapping[str, float], *, at: float, step: int = 0) -> list[Any]:
    """Figures as MLflow takes them, at a time in seconds since 1970."""
    from mlflow.entities import Metric

    return [Metric(name, value, round(1000 * at), step) for name, value in figures.items()]


def list_params(record: Mapping[str, Any]) -> list[Any]:
    """What a finished run depended on, but for its code: `optim.name` and the like, as MLflow takes them."""
    from mlflow.entities import Param

    identity = {name: value for name, value in record["identity"].items() if name != "code"}
    settings = identity.pop(record["network"])
    flat = pd.json_normalize({"network": record["network"], **settings, **identity}).iloc[0]
    return [Param(name, str(value)) for name, value in flat.items()]
