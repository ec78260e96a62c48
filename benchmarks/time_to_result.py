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

Measured on an AMD EPYC of the fifth generation that did nothing else, held to AVX2 and float32 by
ATEN_CPU_CAPABILITY=avx2 and ONEDNN_MAX_CPU_ISA=AVX2; two threads, batch 16:

    training, images/s        project  fixed batch   ratio     a step's seconds: network  optimiser  data
    resnet50,  64 px             65.2         72.1    0.91                          0.21       0.03  0.00
    resnet50, 224 px             7.93         7.93    1.00                          1.98       0.03  0.01
    vgg19,     64 px             16.2         17.0    0.95                          0.89       0.09  0.00

    scoring, images/s         project  model(x)  a script's  timm's validate   to each           graph, s
    resnet50,  64 px              303       253         250             116    1.20, 1.21, 2.6        0.1
    resnet50, 224 px             28.9      22.9        15.1            20.6    1.26, 1.92, 1.40       0.6
    vgg19,     64 px             62.0      41.3        17.7            35.2    1.50, 3.50, 1.8        0.3

On one thread ResNet50 is scored at 224 px 1.21 times as fast as by `model(x)` and 1.72 times as by a script's, VGG19
1.06 and 1.45 times; VGG19 trains at 224 px at 0.86 images/s, 0.99 of a fixed batch. With bfloat16, on two threads,
ResNet50 trains at 224 px at 23.2 images/s, 0.98 of a fixed batch, and is scored at 84.7, where `model(x)`, which stays
with float32, makes 38.2 and a script's 19.3. Peak memory at 224 px: ResNet50 3.2 GB, VGG19 5.5 GB.

VGG19 at 64 px learned at 10.5 images/s, in turns with today's 16.9, before its first wide layer was a matrix product
and before AdamW was shown rows of memory: 1.6 times as fast. Batches of 64, as the demo has them, make it 20.3. Of a
step's 0.95 s its convolutions take 0.66, forward and backward, 153 GFLOP at 231 GFLOP/s: no slower than a product of
two matrices of 2048 x 2048, 223. Its two wide layers take 0.2 s, AdamW 0.04, the gradient's norm and its scaling 0.03.

The whole demo, `make all` with the environment installed, in wall time on two cores of an AMD EPYC that did nothing
else. Since its networks are trained until they have learned (1 December 2026): 6 min 32 s on the third generation (AVX2
alone), about 3 min 30 s on the fourth with bfloat16. With fewer epochs, before: 5 min 50 s on the third generation; on
the fifth 1 min 50 s with bfloat16, 2 min 14 s held to AVX2, and by step:

    seconds                    whole   start  imports  training  final scores  other cells  page
    01_eda                       7.5     1.5      1.3                                  4.2   0.7
    02_augmentation_preview      7.2     1.5      3.0                                  2.3   0.0
    03_resnet50_finetune        36.5     1.4      4.0      19.0           3.3          7.4   0.3
    04_vgg19_finetune           66.4     1.5      4.1      28.6          16.5         14.6   1.2
    05_comparison               11.6     1.5      1.3                                  7.9   0.7

`make -j3 all` took 2 min 7 s (1 min 40 s with bfloat16): what trains nothing runs beside what trains. JOBS=2 with one
thread each took 2 min 38 s (2 min 4 s), since VGG19 trains longer than all the rest; so one training after the other,
with all threads, is the default.
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
from lesion_utils.training.train import Run, read_history


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
    prefetch = inference.prefetch

    def wait(batches: Iterable, *, device: str) -> Iterator:
        following = timed(partial(next, prefetch(batches, device=device), None), seconds, "data")
        return iter(following, None)

    with ExitStack() as stack:
        stack.enter_context(mock.patch("lesion_utils.training.train.prefetch", wait))
        for owner, name in ((nn.utils, "clip_grad_norm_"), (run.optimizer, "step"), (run, "_update_average")):
            function = timed(getattr(owner, name), seconds, "optimiser")
            stack.enter_context(mock.patch.object(owner, name, function))
        run.train_epoch(0)


def score_by_project(run: Run, seconds: Counter) -> None:
    """From the memory map, as validation does; adds the seconds of making the graph."""
    scorer = inference.Scorer(run.model, run.task.settings, run.compute)
    with mock.patch.object(inference, "fuse_network", timed(inference.fuse_network, seconds, "graph")):
        scorer.logits(run.task.data.images, run.train_rows, tta="none")


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
