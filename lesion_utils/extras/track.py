"""A study's trainings and results as MLflow or TensorBoard shows them: those that are done, and those that go on.

Every training is a run there, with its learning curves and, once it is done, its parameters; so is every row of the
comparison, with its test metrics and their intervals. Tracking again adds what is new, and nothing twice.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol
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
#: Under this tag TensorBoard has a run's parameters.
_SETTINGS_SHOWN = "_hparams_/session_start_info"

Record = Mapping[str, str] | None


class Point(NamedTuple):
    """Figures of one moment: an epoch's, or a row's of the comparison."""

    step: int
    at: float  # seconds since 1970
    figures: dict[str, float]


class Log(Protocol):
    """Where runs are shown."""

    place: str  # as the last line says it

    def show(self, key: str, name: str, tags: Mapping[str, Any], points: Sequence[Point], record: Record) -> None:
        """Add what is new of a run.

        Args:
            key: what tells this run from all others.
            name: of the run, as people read it.
            tags: what it is.
            points: all that there are so far.
            record: parameters, once there will be no more points; None before.
        """


def track_study(study: Study, to: str) -> str:
    """Write what is new of a study to MLflow, in the experiment of its name, or to TensorBoard.

    Args:
        to: a folder, which gets an `mlflow.db`, or any address that MLflow knows, such as http://localhost:5000. A
            folder called `tensorboard` gets TensorBoard's files, in a folder of the study's name.

    Returns:
        a sentence: what is there now.

    Raises:
        RunError: nothing has been trained, or MLflow or TensorBoard does not take it.
    """
    histories, results = sorted(study.runs.glob("*/*/history.jsonl")), study.metrics / "05_comparison_results.csv"
    if not histories:
        raise RunError("nothing has been trained", where=study.runs, do=f"run: make all STUDY={study.name}")
    tool = TensorBoard if "://" not in to and Path(to).name == "tensorboard" else MLflow
    try:
        log = tool(study.name, to)
        done = [track_training(log, history) for history in histories]
        rows = track_results(log, results) if results.is_file() else 0
    except (OSError, ModuleNotFoundError):
        raise
    except Exception as error:  # the tool's own, its database's, its server's; the remedy is the same
        what = f"{tool.__name__} does not take it: {' '.join(str(error).split())[:300]}"
        expected, do = "a folder, or the address of a server that runs", "correct that, and give the same command again"
        raise RunError(what, where=f"TO={to}", expected=expected, do=do) from error
    return f"{log.place}  {sum(done)} of {len(done)} trainings done, {rows} rows of the comparison"


def track_training(log: Log, history: Path) -> bool:
    """Show the epochs of a training so far; whether it is done."""
    # In this order: an epoch that ends in between is shown next time, and a training that is done has all its epochs.
    record, text = read_done(history.parent), history.read_text(encoding="utf-8")
    epochs = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    if not epochs:
        return False
    key = {name: epochs[0][name] for name in _NAMES[:3] if name in epochs[0]}
    step, folder, points = history.parts[-3], history.parts[-2], []
    left = sum(epoch["seconds"] + epoch["seconds_validation"] for epoch in epochs)
    for epoch in epochs:
        left -= epoch["seconds"] + epoch["seconds_validation"]
        figures = {name: value for name, value in epoch.items() if name not in _NAMES}
        points.append(Point(epoch["epoch"], history.stat().st_mtime - left, figures))
    params = flatten_params(record) if record else None
    log.show(f"{step}/{folder}", f"{step}, {name_training(key)}", {"step": step, **key}, points, params)
    return record is not None


def track_results(log: Log, results: Path) -> int:
    """Show the rows of the comparison, a run each; how many there are."""
    rows = read_csv(results).groupby(["name", "seed"], sort=False)
    for (name, seed), row in rows:
        columns = zip(ENDS, ("value", "low", "high"), strict=True)
        parts = [row.set_index("metric")[column].dropna().add_suffix(end).to_dict() for end, column in columns]
        figures = {f"test_{name}": value for part in parts for name, value in part.items()}
        key = f"{results.stem}/{digest_bytes(json.dumps([name, seed, figures]).encode())[:12]}"
        tags = {"step": results.stem, "seed": seed}
        log.show(key, f"{name}, seed {seed}", tags, [Point(0, results.stat().st_mtime, figures)], {})
    return len(rows)


class MLflow:
    """An experiment of MLflow's; see `Log`."""

    def __init__(self, experiment: str, to: str):
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of each table of a new database
        from mlflow import MlflowClient

        place = None if "://" in to else Path(to).resolve()
        if place:
            place.mkdir(parents=True, exist_ok=True)
            (place / "mlflow.db").touch()  # MLflow would try for minutes where that cannot be
        self.place = f"sqlite:///{quote(str(place))}/mlflow.db" if place else to
        self._client = MlflowClient(self.place)
        known = self._client.get_experiment_by_name(experiment)
        files = (place / "artifacts").as_uri() if place else None
        self._experiment = known.experiment_id if known else self._client.create_experiment(experiment, files)

    def show(self, key: str, name: str, tags: Mapping[str, Any], points: Sequence[Point], record: Record) -> None:
        from mlflow.entities import Metric, Param

        if run := self._open(key, name, tags):
            new = points[len(self._client.get_metric_history(run, "loss")) :]
            metrics = [
                Metric(k, v, round(1000 * point.at), point.step) for point in new for k, v in point.figures.items()
            ]
            params = [Param(name, value) for name, value in (record or {}).items()]
            for start in range(0, max(len(metrics), len(params)), 100):  # with more at once some stores refuse it
                some = slice(start, start + 100)
                self._client.log_batch(run, metrics[some], params[some])
            if record is not None:
                self._client.set_terminated(run)

    def _open(self, key: str, name: str, tags: Mapping[str, Any]) -> str | None:
        """The id of the run that shows this, a new one if need be; None where it has been shown whole."""
        found = self._client.search_runs([self._experiment], f"tags.lesion_run = '{key}'", max_results=1)
        if found:
            return found[0].info.run_id if found[0].info.status == "RUNNING" else None
        tags = {"lesion_run": key, **{tag: str(value) for tag, value in tags.items()}}
        return self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id


class TensorBoard:
    """A folder of TensorBoard's, with a folder for each run; see `Log`."""

    def __init__(self, study: str, to: str):
        self._folder = Path(to).resolve() / study
        self.place = f"tensorboard --logdir {shlex.quote(to)}"

    def show(self, key: str, name: str, tags: Mapping[str, Any], points: Sequence[Point], record: Record) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        # The end of the key tells runs of one name apart, such as results before and after a change.
        folder = self._folder / re.sub(r"[^\w ,.+-]", "_", f"{name}, {key[-6:]}")
        folder.mkdir(parents=True, exist_ok=True)
        shown = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()  # 0: all of them
        known = {(tag, event.step) for tag in shown.Tags()["scalars"] for event in shown.Scalars(tag)}
        values = [(k, v, p.step, p.at) for p in points for k, v in p.figures.items() if (k, p.step) not in known]
        about = hparams(dict(record), {}) if record and _SETTINGS_SHOWN not in shown.summary_metadata else ()
        if values or about:
            with SummaryWriter(str(folder)) as writer:
                for tag, value, step, at in values:
                    writer.add_scalar(tag, value, step, walltime=at)
                for summary in about:
                    writer.file_writer.add_summary(summary)


def flatten_params(record: Mapping[str, Any]) -> dict[str, str]:
    """What a finished run depended on, but for its code: `optim.name` and the like."""
    identity = {name: value for name, value in record["identity"].items() if name != "code"}
    settings = identity.pop(record["network"])
    flat = pd.json_normalize({"network": record["network"], **settings, **identity}).iloc[0]
    return {name: str(value) for name, value in flat.items()}
