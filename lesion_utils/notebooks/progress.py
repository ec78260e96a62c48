"""What training says while it runs: a log on disk, and one table in the notebook that updates itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from IPython.display import Markdown, display

from lesion_utils.core.paths import Study

COLUMNS = {
    "regime": "{}",
    "seed": "{}",
    "fold": "{}",
    "epoch": "{} of {epochs}",
    "loss": "{:.3f}",
    "val_ap": "{:.3f}",
    "val_auc": "{:.3f}",
    "images_per_s": "{:.0f}",
    "seconds_left": "{:.0f}",
}
HEADINGS = (
    "regime",
    "seed",
    "fold",
    "epoch",
    "training loss",
    "validation AP",
    "validation AUC",
    "images/s",
    "seconds left",
)


class TrainingProgress:
    """Takes the events of training; logs them to `runs/<step>/train.jsonl` and shows the latest epoch of each run.

    One display is updated in place: nested progress bars would leave thousands of dead lines in the page.
    """

    def __init__(self, study: Study, step: str):
        self._log = study.runs / step / "train.jsonl"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_text("", encoding="utf-8")
        self._latest: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        self._display = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
        if "stage" in event:  # for the terminal, which reads the log
            return
        event = {"fold": "–", **event}
        self._latest[event["regime"], event["seed"], event["fold"]] = event
        table = Markdown(self.render())
        if self._display is None:
            self._display = display(table, display_id=True)
        else:
            self._display.update(table)

    def render(self) -> str:
        """The table as Markdown, one line per run, in the order in which they began."""
        lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
        for event in self._latest.values():
            cells = (form.format(event[key], **event) for key, form in COLUMNS.items())
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)
