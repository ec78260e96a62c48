"""What it costs to train in other processes, per task.

    python benchmarks/scale.py [--tasks 12] [--repeat 5] [--cluster tcp://host:port] [--efficiency]
    python benchmarks/scale.py --data 1000 10000 100000    what more images cost: see growth.py beside it

Trains the same small tasks one after the other in this process, and by worker processes: `JOBS=1` worker, so that the
difference, without the workers' start, is what the engine costs (sending, opening the images, logs). With
`--efficiency` on a quiet machine: two workers with one thread each against one process with two. Workers of a cluster
need `benchmarks/` on their `PYTHONPATH`.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import growth
import numpy as np
import pandas as pd

from lesion_utils.config.data import Data
from lesion_utils.config.load import load_study
from lesion_utils.core import paths
from lesion_utils.core.console import Console
from lesion_utils.core.paths import Study
from lesion_utils.extras import ahead
from lesion_utils.extras.jobs import Job, run_job
from lesion_utils.extras.select import TrainingImages

IMAGES, SIZE, EPOCHS = 256, 40, 4


def open_noise(study: Study, data: Data) -> TrainingImages:
    """Noise in two classes, a quarter of it for validation."""
    images = np.random.default_rng(0).integers(0, 255, (IMAGES, SIZE, SIZE, 3), dtype=np.uint8)
    subset = np.where(np.arange(IMAGES) % 4 == 0, "val", "train")
    ids = [f"image{number}" for number in range(IMAGES)]
    table = pd.DataFrame({"image_id": ids, "target": np.arange(IMAGES) // 4 % 2, "subset": subset})
    return TrainingImages(images, table, pd.DataFrame(columns=["image_id_a", "image_id_b"]))


def make_jobs(folder: Path, count: int) -> list[Job]:
    """The demo's first network, from scratch, in a few epochs, with as many seeds as tasks."""
    params = load_study(paths.params_root() / "demo")
    network = params.resnet50.model_copy(
        update={
            "regimes": {"scratch": params.resnet50.regimes["scratch"].model_copy(update={"epochs": EPOCHS})},
            "image_size": 32,
        }
    )
    params = params.model_copy(update={"resnet50": network})
    given = [("demo", params, "resnet50", "scratch", seed, None) for seed in range(count)]
    place = [(folder / "runs", folder / "logs" / f"{number}.jsonl", "resnet50") for number in range(count)]
    return [Job(*one, *other, open_noise) for one, other in zip(given, place, strict=True)]


def time_here(count: int, *, threads: int = 1) -> float:
    """Seconds in this process, one task after the other; the first task, which pays for imports, does not count."""
    settings = {"THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        warm, *jobs = make_jobs(Path(folder), count + 1)
        run_job(warm, settings)
        begun = time.monotonic()
        for job in jobs:
            run_job(job, settings)
        return time.monotonic() - begun


def time_workers(count: int, workers: int) -> float:
    """Seconds of worker processes, once each of them has trained a task."""
    os.environ["THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder, ahead.open_local(workers, []) as pool:
        jobs = make_jobs(Path(folder), count + 2 * workers)
        console = Console(io.StringIO())
        ahead._train(jobs[count:], pool, console=console)
        begun = time.monotonic()
        ahead._train(jobs[:count], pool, console=console)
        return time.monotonic() - begun


def time_cluster(address: str, count: int) -> float:
    """Seconds of a cluster, its examination of workers included."""
    folder = Path(tempfile.mkdtemp(dir=paths.reports_root()))
    try:
        os.environ |= {"CLUSTER": address}
        begun = time.monotonic()
        ahead.train_ahead(make_jobs(folder, count), console=Console())
        return time.monotonic() - begun
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=12)
    parser.add_argument("--cluster", default="")
    parser.add_argument("--efficiency", action="store_true")
    parser.add_argument("--repeat", type=int, default=1, help="times that each way is measured, in turns")
    parser.add_argument("--data", type=int, nargs="+", metavar="IMAGES", help="measure these sizes instead of tasks")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for the images of --data")
    options = parser.parse_args()
    if options.data:
        sys.exit(not growth.measure_growth(options.data, options.folder))
    paths.reports_root().mkdir(exist_ok=True)
    os.environ |= {"THREADS": "1", "DEVICE": "cpu"}
    if options.cluster:
        print(f"cluster: {time_cluster(options.cluster, options.tasks):.1f} s for {options.tasks} tasks")
        return
    tasks = options.tasks
    compare("one process", partial(time_here, tasks), "one worker", partial(time_workers, tasks, 1), options)
    if options.efficiency:
        one, two = partial(time_here, tasks, threads=2), partial(time_workers, tasks, 2)
        compare("one process of two threads", one, "two workers of one", two, options)


def compare(
    name: str, first: Callable[[], float], other: str, second: Callable[[], float], options: argparse.Namespace
) -> None:
    """Time two ways in turns, so that a busy hour concerns both, and print every time and the medians."""
    pairs = [(first(), second()) for _ in range(options.repeat)]
    more = median((there - here) / options.tasks for here, there in pairs)
    ratio = median(here / there for here, there in pairs)
    print(f"{options.tasks} tasks, s: " + ", ".join(f"{here:.1f} and {there:.1f}" for here, there in pairs))
    print(f"  {name} and {other}: {more:+.2f} s per task, {ratio:.2f} times as fast (medians)", flush=True)


if __name__ == "__main__":
    main()
