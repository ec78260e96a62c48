"""What the terminal shows while a step runs: a clock, the latest line of each training log, and one line at the end."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from lesion_utils.core.events import Event
from lesion_utils.core.names import name_training
from lesion_utils.core.paths import Study

#: Seconds between two looks on a terminal, and between two lines in a log file.
TERMINAL_INTERVAL, FILE_INTERVAL = 1.0, 60.0

#: From the line's beginning, everything below goes.
_CLEAR = "\r\x1b[J"


class Console:
    """One line per step; on a terminal, a line above it that changes while the step runs."""

    def __init__(self, out: TextIO | None = None):
        self._out = out or sys.stdout
        self._terminal = self._out.isatty()
        self._count = ""

    def report(self, line: str) -> None:
        """Say a line that stays."""
        self._write(f"{_CLEAR * self._terminal}{line}\n")

    def show(self, event: Event | str) -> None:
        """Remember how far a piece of work is; the clock shows it."""
        self._count = event if isinstance(event, str) else describe_event(event)

    @contextmanager
    def show_step(self, name: str, read_status: Callable[[], str] = lambda: "") -> Iterator[None]:
        """Show the time since the start and `read_status()`, or else the latest event, while the block runs."""
        self._count = ""
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(name, read_status, ended), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    def _watch(self, name: str, read_status: Callable[[], str], ended: threading.Event) -> None:
        start = time.monotonic()
        while not ended.wait(TERMINAL_INTERVAL if self._terminal else FILE_INTERVAL):
            text = f"{name:<24} {format_clock(time.monotonic() - start)}  {read_status() or self._count}".rstrip()
            if self._terminal:
                size = shutil.get_terminal_size()
                lines = [line[: size.columns - 1] for line in text.splitlines()[: size.lines - 1]]
                self._write(_CLEAR + "\n".join(lines) + "\x1b[A" * (len(lines) - 1))
            else:
                self.report(text)
        if self._terminal:
            self._write(_CLEAR)

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def follow_log(study: Study, step: str) -> Callable[[], str]:
    """A function that returns the latest line of a step's training log in words; "" while there is none."""
    path = study.runs / step / "train.jsonl"

    def read() -> str:
        with suppress(OSError, ValueError, KeyError, IndexError):  # not there yet, or half a line
            return describe_event(json.loads(path.read_text(encoding="utf-8").splitlines()[-1]))
        return ""

    return read


def list_remarks(study: Study, step: str) -> list[str]:
    """The sentences in a step's training log that stay on the terminal, such as why a run was trained again."""
    path = study.runs / step / "train.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [event["remark"] for event in map(json.loads, lines) if "remark" in event]


def describe_event(event: Mapping[str, Any]) -> str:
    """An event as one line; what matters most comes first, since a terminal of 80 columns shows half of it.

    "from scratch, seed 1: 40 s left, epoch 3 of 16, validation AP 0.412, AUC 0.701, loss 0.531, 41 images/s"
    """
    if "remark" in event:
        return event["remark"]
    source = f"{event['candidate']}: " if "candidate" in event else ""
    source += f"{name_training(event)}: " if "regime" in event else ""
    if "stage" in event:
        return source + event["stage"] + (f", {event['done']:,} of {event['total']:,}" if event["total"] else "")
    return (
        f"{source}{format_duration(event['seconds_left'])} left, epoch {event['epoch']} of {event['epochs']}, "
        f"validation AP {event['val_ap']:.3f}, AUC {event['val_auc']:.3f}, loss {event['loss']:.3f}, "
        f"{event['images_per_s']:.0f} images/s"
    )


def format_clock(seconds: float) -> str:
    """Hours, minutes and seconds, such as 00:12:41."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"


def format_duration(seconds: float | None) -> str:
    """A time as one says it: "42 s", "1 min 42 s", "2 h 05 min"; "unknown" for None."""
    if seconds is None:
        return "unknown"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"
