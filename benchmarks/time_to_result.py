"""Where the time to a result goes, in one run.

    python benchmarks/time_to_result.py [--study demo] [--networks resnet50 vgg19] [--sizes 64 224] [--steps 3]

1. The report that a study has: seconds of each step, by the clocks of its notebook and record: until the first cell
   runs (Python, kernel), its imports, training, final scores, all other cells (figures, tables), the page.
2. Training, by network and size: images/s of the project's epoch and, in turns with it, of a fixed batch without
   augmentation, clipping or averages; seconds of a step in network, optimiser (with both) and waiting for data.
3. Scoring: images/s of the project once its graph is made (seconds of that apart), of a plain `model(x)` loop over
   ready batches, with the memory settings of a run's kernel and as a script of its own, and of the way of timm's
   validate.py, which decodes files; in turns too.
4. Peak memory of training, a validation and a checkpoint, GB, in a process of its own.

Measured on an AMD EPYC (Zen 3, AVX2 alone, float32), one thread, batch 16. Two to five other programs used the two
cores, so these are processor seconds (decoding by timm's workers, other processes, is not in them):

    training, images/s        project  fixed batch   ratio     a step's seconds: network  optimiser  data
    resnet50,  64 px             13.2         16.6    0.80                          1.02       0.18  0.01
    resnet50, 224 px             1.77         1.78    0.99                          8.84       0.21  0.04
    vgg19,     64 px             2.74         3.08    0.89                          4.09       2.09  0.01

    scoring, images/s         project  model(x)  timm's validate   ratio    graph, s
    resnet50,  64 px             76.6      63.1             59.2    1.21         0.4
    resnet50, 224 px             7.28      6.21             6.25    1.17         2.3
    vgg19,     64 px             15.6       9.8              9.6    1.59         1.2

VGG19's 139.6 million weights, with the cores less busy: fused AdamW took 430 to 480 ms with tensors in channels last,
as they were when the table was made, and takes 110 since `optim.step_in_memory_order` shows it rows of memory; clipping
takes 96 (45 to read the norm, 50 to scale), a moving average 102. On two quiet threads a step of the demo (batch 64, 32
px) is 0.9 to 1.1 s forward, 2.4 to 2.9 s backward, half of it in convolutions, 0.1 s clipping and 0.1 s AdamW. The
network alone, without the reading of images, scores ResNet50 at 224 px 1.25 times as fast as `model(x)` with the memory
settings of a run's kernel, which both have above, and 1.4 times (6.1 to 7.9 against 4.5 to 5.1 images/s) with the C
library's own, which a plain script has; at 64 px 1.6 times so. Peak memory at 224 px: ResNet50 3.3 GB. The fixed costs
of a notebook, in wall seconds: 2.5 until its first cell runs, 4 (01, without torch) to 10 (03, timm and torch) for
imports, 2 for its page, and for each figure, in processor seconds: PNG 0.23, SVG 0.19, PDF 0.60 (the comparison's
alone).

The whole demo, `make all` once the environment stood, in wall time on two cores that did nothing else: 5 min 50 s on an
AMD EPYC of the third generation (AVX2 alone); of the fifth, 1 min 45 s with bfloat16, 2 min 18 s in float32 with AVX2
alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import pandas as pd
import timm
import torch
from timm.data import create_loader, resolve_data_config
from torch import nn
from train import NotebookDataset, ceiling_loop, draw_files, make_run, measure_memory, study_params, time_call

from lesion_utils.core.paths import Study
from lesion_utils.models import inference
from lesion_utils.models.compute import computing
from lesion_utils.pipeline.notebook import KEEP_MEMORY
from lesion_utils.training import run as running
from lesion_utils.training.fit import read_history
from lesion_utils.training.run import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="demo")
    parser.add_argument("--networks", nargs="*", default=["resnet50", "vgg19"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 224])
    parser.add_argument("--steps", type=int, default=3, help="steps of 16 images per round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Seems like `optimizer.step")  # it is timed
    if not KEEP_MEMORY.items() <= os.environ.items():  # as in a run's kernel; glibc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
    steps = tabulate_steps(Study(options.study)).round(1)
    print(steps.to_string() if len(steps) > 1 else f"{options.study} has no report yet: make all", flush=True)
    for name in options.networks:
        for size in options.sizes:
            print(f"\n{name}, {size} px", flush=True)
            print(measure(name, size, options).round(2).to_string(header=False), flush=True)
        print(f"peak memory at 224 px, GB  {measure_memory(name):.2f}", flush=True)


def tabulate_steps(study: Study) -> pd.DataFrame:
    """Seconds of each step of a study's last report, as its record and its executed notebook have them."""
    rows = {}
    for path in sorted(study.runs.glob("*/run.json"), key=lambda path: path.stat().st_mtime):
        record, step = json.loads(path.read_text()), path.parent
        rows[step.name] = {"whole": record["wall_seconds"]}
        notebook = study.notebooks / f"{step.name}.ipynb"
        if not notebook.is_file():
            continue
        content = json.loads(notebook.read_text(encoding="utf-8"))
        cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
        clocks = [cell["metadata"]["papermill"] for cell in cells]
        seconds = [clock["duration"] for clock in clocks]
        begun, ended = map(datetime.fromisoformat, (clocks[0]["start_time"], clocks[-1]["end_time"]))
        fitting = sum(s for cell, s in zip(cells, seconds, strict=True) if "train_network" in "".join(cell["source"]))
        trained = read_history(step)[["seconds", "seconds_validation"]].to_numpy().sum() if fitting else 0.0
        rows[step.name] |= {
            "start": (begun - datetime.fromisoformat(record["started"])).total_seconds(),
            "imports": seconds[2],  # after the parameters' cells
            "training": trained,
            "final scores": fitting - trained,
            "other cells": sum(seconds[3:]) - fitting,
            "page": (datetime.fromisoformat(record["ended"]) - ended).total_seconds(),
        }
    table = pd.DataFrame(rows).T
    table.loc["sum"] = table.sum()
    return table


def measure(name: str, size: int, options: argparse.Namespace) -> pd.Series:
    """Images/s of training and scoring, each way, and what a step's seconds are spent on; medians over the rounds."""
    params = study_params(name, size)
    count = options.steps * getattr(params, name).batch_size
    parts: list[Counter] = []
    with tempfile.TemporaryDirectory() as folder:
        run, files = make_run(name, params, count, Path(folder)), draw_files(count, Path(folder))
        plain = make_plain(name).to(run.compute.device)
        script = start_script()
        in_script = partial(score_in_script, name, size, options.steps, torch.get_num_threads())
        ways = {
            "training, project": lambda: train_by_project(run, parts[-1]),
            "training, fixed batch": ceiling_loop(run, options.steps),
            "scoring, project": lambda: score_by_project(run, parts[-1]),
            "scoring, model(x)": lambda: score_plainly(plain, size, options.steps),
            "scoring, a script's model(x)": lambda: script.submit(in_script).result(),
            "scoring, timm's validate": score_as_timm(plain, size, files),
        }
        speeds: dict[str, list[float]] = {way: [] for way in ways}
        with script, computing(run.compute):
            for _ in range(options.rounds + 1):  # the first warms up
                parts.append(Counter())
                for way, function in ways.items():
                    seconds = time_call(function, run.compute.device)
                    parts[-1][way] = seconds - (parts[-1]["graph"] if way == "scoring, project" else 0)
                    speeds[way].append(count / parts[-1][way])
    rows = {f"{way}, images/s": statistics.median(values[1:]) for way, values in speeds.items()}
    for kind, other in (
        ("training", "fixed batch"),
        ("scoring", "model(x)"),
        ("scoring", "a script's model(x)"),
    ):
        rows[f"{kind}, project / {other}"] = rows[f"{kind}, project, images/s"] / rows[f"{kind}, {other}, images/s"]
    seconds = pd.DataFrame(parts[1:]).median()
    for part in ("optimiser", "data"):
        rows[f"a step's seconds, {part}"] = seconds[part] / options.steps
    in_network = seconds["training, project"] - seconds["optimiser"] - seconds["data"]
    return pd.Series(rows | {"a step's seconds, network": in_network / options.steps, "graph, s": seconds["graph"]})


def timed(function: Callable, seconds: Counter, part: str) -> Callable:
    """The same function, which adds the seconds that it takes to a part."""

    def call(*args, **kwargs):
        begun = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[part] += time.perf_counter() - begun

    return call


def train_by_project(run: Run, seconds: Counter) -> None:
    """An epoch; adds the seconds in the optimiser and those of waiting for data."""
    prefetch = running.prefetch

    def wait(batches: Iterable) -> Iterator:
        following = timed(partial(next, prefetch(batches), None), seconds, "data")
        return iter(following, None)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(running, "prefetch", wait))
        for owner, name in ((nn.utils, "clip_grad_norm_"), (run.optimizer, "step"), (run, "_update_average")):
            function = timed(getattr(owner, name), seconds, "optimiser")
            stack.enter_context(mock.patch.object(owner, name, function))
        run.train_epoch(0)


def score_by_project(run: Run, seconds: Counter) -> None:
    """From the memory map, as validation does; adds the seconds of making the graph."""
    settings = {"params": run.task.settings, "compute": run.compute, "tta": "none"}
    with mock.patch.object(inference, "fuse_network", timed(inference.fuse_network, seconds, "graph")):
        inference.predict_logits(run.model, run.task.data.images, run.train_rows, **settings)


@torch.no_grad()
def score_plainly(model: nn.Module, size: int, batches: int) -> None:
    """One batch of 16 that is already there, again and again."""
    x = torch.rand(16, 3, size, size, device=next(model.parameters()).device)
    for _ in range(batches):
        model(x)


def start_script() -> ProcessPoolExecutor:
    """A process such as a plain script is one, with the C library's own settings of memory."""
    with mock.patch.dict(os.environ):
        for name in KEEP_MEMORY:
            del os.environ[name]
        script = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        script.submit(int).result()  # starts it
    return script


def score_in_script(name: str, size: int, batches: int, threads: int) -> None:
    """As `score_plainly`, called in another process; the first call makes the network."""
    torch.set_num_threads(threads)
    score_plainly(make_plain(name), size, batches)


@cache
def make_plain(name: str) -> nn.Module:
    """timm's network as it comes."""
    return timm.create_model(name, num_classes=1).eval()


def score_as_timm(model: nn.Module, size: int, files: list[Path]) -> Callable[[], None]:
    """timm's loader and validate.py's loop with its defaults."""
    device = next(model.parameters()).device
    config = resolve_data_config({"img_size": size}, model=model)
    settings = {key: config[key] for key in ("interpolation", "mean", "std", "crop_pct")}
    dataset, shape = NotebookDataset(files, size), (3, size, size)
    loader = create_loader(dataset, shape, 16, use_prefetcher=False, num_workers=2, pin_memory=False, **settings)

    @torch.inference_mode()
    def score() -> None:
        for x, _ in loader:
            model(x.to(device)).cpu()

    return score


if __name__ == "__main__":
    main()
