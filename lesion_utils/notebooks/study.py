"""A notebook's handle on its study: parameters, folders, and everything that it writes.

```python
study = open_study(params, "01_eda")
study.card()
study.save_figure(fig, "class_balance", "Images of each class.")
study.save_metrics({"train_images": 900})
```
"""

from __future__ import annotations

import html
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from IPython import get_ipython
from IPython.display import HTML, Image, Markdown, display
from matplotlib.figure import Figure

from lesion_utils.config.load import resolve
from lesion_utils.config.schema import Network, StudyParams
from lesion_utils.core import paths
from lesion_utils.core.errors import RunError
from lesion_utils.core.files import append_line, dump_json, write_atomic, write_if_changed
from lesion_utils.core.names import name_data_set
from lesion_utils.data.prepared import PreparedData, load_prepared
from lesion_utils.data.tables import dump_csv, read_csv
from lesion_utils.figures.style import SCREEN_SCALE, save
from lesion_utils.provenance.record import describe_code

#: Steps whose figures `make paper` places.
FOR_THE_PAPER = ("05_comparison",)


@dataclass
class OpenStudy:
    """One step of one study, as its notebook sees it. Made by `open_study`."""

    params: StudyParams
    paths: paths.Study
    step: str
    run_id: str
    figures: list[str] = field(default_factory=list)

    def network(self, name: str) -> Network:
        """Parameters of a network, by the name of its file."""
        return self.params.network(name)

    @property
    def training_folder(self) -> Path:
        """Where this step keeps its checkpoints: one folder per regime and seed."""
        return self.paths.runs / self.step

    def open_data(self) -> PreparedData:
        """The images, labels and splits that the step `data` prepared.

        Raises:
            DataError: it has not been run.
        """
        return load_prepared(self.paths, self.params.data)

    def watch_training(self) -> TrainingProgress:
        """What takes the events of training, shows them under the cell and logs them for the terminal."""
        return TrainingProgress(self.training_folder / "train.jsonl")

    def card(self) -> HTML:
        """What this page was made from, folded, and what a reader must know before its numbers."""
        code = describe_code()
        commit = f"{code['commit'][:10]}{', with changes' if code['dirty_hash'] else ''}" if code["commit"] else None
        rows = {
            "study": f"{self.paths.name}: {self.params.data.title}",
            "commit": commit or "not under version control",
            "data": f"{name_data_set(self.params.data.source)}, {self.open_data().summary}",
            "run": self.run_id,
            "threads": os.environ.get("THREADS") or f"one per core ({os.cpu_count()})",
            "writes": f"reports/{self.paths.report_dir.relative_to(paths.reports_root()).as_posix()}/",
        }
        cells = (f"<tr><th>{key}</th><td>{html.escape(value)}</td></tr>" for key, value in rows.items())
        table = f"<table>{''.join(cells)}</table>"
        note = " ".join(self.params.data.remarks)
        return fold(f"How this page was made: study {self.paths.name}, commit {rows['commit']}", table, after=note)

    def save_figure(self, fig: Figure, name: str, caption: str, *, shows_images: bool = False) -> Image:
        """Write a figure as PNG and SVG, for `make paper` as PDF, with its caption, and return it for display.

        Args:
            fig: what a function of `lesion_utils.figures` returned.
            name: short name; the files are `figures/<step>_<name>.*`.
            caption: what the reader sees and what to look for, one or two sentences.
            shows_images: whether it shows photographs of the data set.
        """
        self.figures += [name] * (name not in self.figures)
        stem = self.paths.figures / f"{self.step}_{name}"
        source = name_data_set(self.params.data.source)
        metadata = {"Title": name, "Description": caption, "Identifier": self.run_id, "Source": source}
        kinds = ("png", "svg", "pdf") if self.step in FOR_THE_PAPER else ("png", "svg")
        png, *_ = save(fig, stem, metadata=metadata, kinds=kinds)
        alt = getattr(fig, "alt", "") or caption
        sidecar = {
            "step": self.step,
            "name": name,
            "place": self.figures.index(name),
            "caption": caption,
            "alt": alt,
            "shows_images": shows_images,
            "run_id": self.run_id,
        }
        write_if_changed(stem.with_suffix(".json"), dump_json(sidecar))
        width = round(fig.get_figwidth() * 25.4 * SCREEN_SCALE)
        return Image(data=png.read_bytes(), format="png", width=width, alt=alt)

    def save_metrics(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Write `metrics/<step>.json`; returns what a later reader will load."""
        path = self.paths.metrics / f"{self.step}.json"
        write_if_changed(path, dump_json(_to_plain(values)))
        return json.loads(path.read_text(encoding="utf-8"))

    def save_table(self, frame: pd.DataFrame, name: str) -> pd.DataFrame:
        """Write `metrics/<step>_<name>.csv`, and return the frame for display."""
        write_if_changed(self.paths.metrics / f"{self.step}_{name}.csv", dump_csv(frame))
        return frame

    def load_table(self, step: str, name: str) -> pd.DataFrame:
        """A table that an earlier step saved.

        Raises:
            RunError: it has not been run.
        """
        path, do = self.paths.metrics / f"{step}_{name}.csv", f"run: make all STUDY={self.paths.name}"
        if not path.is_file():
            raise RunError(f"{self.step} needs what {step} saves", where=f"metrics/{path.name}", do=do)
        return read_csv(path, dtype={"image_id": str})

    def say_list(self, sentences: Sequence[str]) -> Markdown:
        """Sentences that were written from saved numbers, one below the other."""
        return Markdown("\n".join(f"- {sentence}" for sentence in sentences))

    def say(self, template: str, numbers: Mapping[str, Any]) -> Markdown:
        """A sentence whose numbers come from saved metrics: `study.say("AUC {auc:.3f}", metrics)`."""
        return Markdown(template.format_map(numbers))


class TrainingProgress:
    """Takes the events of training, writes each to a log, and shows the latest epoch of each run in a table.

    One display is updated in place: nested progress bars would leave thousands of dead lines in the page.
    """

    _COLUMNS: ClassVar = {
        "regime": "{regime}", "seed": "{seed}", "fold": "{fold}", "epoch": "{epoch} of {epochs}",
        "training loss": "{loss:.3f}", "validation AP": "{val_ap:.3f}", "validation AUC": "{val_auc:.3f}",
        "images/s": "{images_per_s:.0f}",
    }  # fmt: skip

    def __init__(self, log: Path):
        self._log = log
        write_atomic(log, "")
        self._rows: dict[tuple[Any, ...], str] = {}
        self._left = 0.0  # seconds
        self._display = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        append_line(self._log, json.dumps(event))
        if "epoch" not in event:  # for the terminal, which reads the log
            return
        event = {"fold": "–", **event}
        row = " | ".join(self._COLUMNS.values()).format_map(event)
        self._rows[event["regime"], event["seed"], event["fold"]] = f"| {row} |"
        self._left = event["seconds_left"]
        if self._display is None:
            self._display = display(Markdown(self.render()), display_id=True)
        else:
            self._display.update(Markdown(self.render()))

    def render(self) -> str:
        """The table as Markdown, one line per run, in the order in which they began; the time left until the end."""
        head = f"| {' | '.join(self._COLUMNS)} |"
        left = ["", f"About {self._left:.0f} s left."] if self._left >= 1 else []
        return "\n".join([head, "|" + "---|" * len(self._COLUMNS), *self._rows.values(), *left])


def open_study(params: str | Path | Mapping[str, Any], step: str) -> OpenStudy:
    """Open a study for one of its steps.

    By hand, as in JupyterLab, it writes to `reports/<study>/interactive/`: the report is written by `make` alone.

    Args:
        params: the folder of its YAML files, or the mapping that a run injects.
        step: name of the notebook, such as "01_eda".

    Raises:
        ParamsError: the parameters are wrong.
    """
    if shell := get_ipython():
        shell.display_formatter.formatters["text/html"].for_type(pd.DataFrame, write_html)
    name, resolved = resolve(params)
    study, run_id = paths.Study(name), os.environ.get("LESION_RUN_ID")
    if run_id:
        return OpenStudy(resolved, study, step, run_id)
    interactive = paths.Study(name, interactive=True)
    _bring_earlier(study, interactive, step)
    return OpenStudy(resolved, interactive, step, "interactive")


def fold(title: str, content: str, *, after: str = "") -> HTML:
    """A part of a page that a reader opens with a click.

    Args:
        title: plain text, always shown.
        content: HTML, shown after the click.
        after: plain text below, always shown.
    """
    text = f"<p>{html.escape(after)}</p>" if after else ""
    return HTML(f"<details><summary>{html.escape(title)}</summary>{content}</details>{text}")


def choose_samples(table: pd.DataFrame, *, subset: str, per_class: int, seed: int) -> pd.DataFrame:
    """Rows drawn at random, `per_class` of each class (fewer where there are fewer), benign first."""
    rows = table[table["subset"] == subset]
    return pd.concat(
        [group.sample(min(per_class, len(group)), random_state=seed) for _, group in rows.groupby("target")]
    )


def choose_examples(table: pd.DataFrame, *, seed: int) -> tuple[str, str]:
    """The ids of one benign and one malignant training image."""
    benign, malignant = choose_samples(table, subset="train", per_class=1, seed=seed)["image_id"]
    return benign, malignant


def write_html(table: pd.DataFrame) -> str:
    """A table as a page shows it: sentences whole, four decimals, and no index that only counts the rows.

    Its class `text-<n>` says that column n holds words, which a page sets flush left.
    """
    counts = table.index.name is None and pd.api.types.is_integer_dtype(table.index)
    words = [_holds_words(table[name]) for name in table]
    classes = [f"text-{number}" for number, is_text in enumerate(words, start=1 if counts else 2) if is_text]
    whole = {name: table[name].astype(object).fillna("\u2013") for name in table.select_dtypes("Int64")}
    table = table.assign(**whole)  # to_html leaves their "<NA>" as it is
    with pd.option_context("display.max_colwidth", None, "display.precision", 4):
        rows = pd.get_option("display.max_rows")
        return table.to_html(index=not counts, max_rows=rows, na_rep="\u2013", classes=classes)


def _holds_words(column: pd.Series) -> bool:
    """Whether any value begins with a letter."""
    return any(isinstance(value, str) and value[:1].isalpha() for value in column)


def _bring_earlier(study: paths.Study, interactive: paths.Study, step: str) -> None:
    """Copy what the study's other steps made, and an interactive one may read, unless there is something newer."""
    for kind in ("metrics", "predictions"):
        for path in (study.report_dir / kind).glob("*.*"):
            copy = interactive.report_dir / kind / path.name
            newer = not copy.exists() or copy.stat().st_mtime < path.stat().st_mtime
            if newer and not path.name.startswith(step):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, copy)


def _to_plain(value: Any) -> Any:
    """NumPy and pandas values as JSON has them; what is not a number becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, pd.DataFrame):
        return _to_plain(value.to_dict(orient="records"))
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_to_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _to_plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
