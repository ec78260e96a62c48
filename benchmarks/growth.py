"""What grows with the number of images, and how fast: time and memory of each part of a study but the network.

    python benchmarks/scale.py --data 1000 10000 100000 [--folder /tmp]

Each size is measured in a process of its own, on images made for the purpose: JPEG files of 72 x 64 px, one in five
malignant, one in fifty a copy of another one, spoilt and turned. A fifth are test images, which two made-up models
score. Seconds are the processor's, of all threads together, so that a busy machine changes them little; an exponent of
1 means twice the time for twice the images, n log n has 1.1 here.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.special import expit

from data import MemoryWatch
from lesion_utils.config.load import load_study
from lesion_utils.config.schema import StudyParams
from lesion_utils.core import paths
from lesion_utils.data import prepare
from lesion_utils.data.prepared import PreparedData
from lesion_utils.evaluation.calibration import expect_ece
from lesion_utils.evaluation.decisions import trace_decision_curves
from lesion_utils.evaluation.evaluate import CONFIDENCE, DRAWS, SEED, band_curves, evaluate_with_intervals
from lesion_utils.evaluation.intervals import draw_weights
from lesion_utils.evaluation.paired_tests import compare_bootstrap, compare_delong
from lesion_utils.models.compute import choose_compute, computing
from lesion_utils.models.inference import prefetch
from lesion_utils.models.networks import build_network
from lesion_utils.training.inputs import load_batches, make_inputs
from lesion_utils.training.task import TrainingTask

MALIGNANT, COPIES, STORED = 5, 50, 64
#: What a run may take besides its network, MB.
ROOM = 2000
#: Of n log n between 1,000 and 100,000 images, and what a measurement may be off by.
FASTEST = 1.11 + 0.1


def make_images(folder: Path, count: int) -> None:
    """Write images and their labels."""
    rng, lines, cells = np.random.default_rng(0), ["image,label"], np.empty(0)
    for number in range(count):
        copy = number % COPIES == COPIES - 1
        cells = np.rot90(cells, number // COPIES % 4) if copy else rng.integers(0, 256, (12, 12, 3), np.uint8)
        picture = Image.fromarray(np.ascontiguousarray(cells)).resize((72, 64), Image.Resampling.BICUBIC)
        place = folder / f"{number // 1000:03d}"
        place.mkdir(exist_ok=True)
        picture.save(place / f"image{number:06d}.jpg", quality=int(rng.integers(70, 95)))
        lines.append(f"image{number:06d},{int(number % MALIGNANT == 0)}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def make_params(folder: Path) -> StudyParams:
    """The demo's, on these images."""
    params = load_study(paths.params_root() / "demo")
    data = {"source": "folder", "images": str(folder), "labels": str(folder / "labels.csv"), "stored_size": STORED}
    data |= {"aspect": "squash", "split": "grouped", "folds": 1, "validation_fraction": 0.2}
    return params.model_copy(update={"data": params.data.model_validate(params.data.model_dump() | data)})


@contextmanager
def measure(parts: dict[str, list[float]], name: str) -> Iterator[None]:
    """Note the processor's seconds and the peak of memory, MB, of a block."""
    begun = time.process_time()
    with MemoryWatch() as memory:
        yield
    parts[name] = [round(time.process_time() - begun, 2), round(memory.peak)]


def measured(parts: dict[str, list[float]], name: str, function: Callable) -> Callable:
    """A function whose calls are measured."""

    def call(*given, **named):
        with measure(parts, name):
            return function(*given, **named)

    return call


def load_epoch(params: StudyParams, data: PreparedData) -> None:
    """An epoch of augmented batches, as the demo's first network would get them."""
    task = TrainingTask(params, "resnet50", "scratch", 1, data)
    compute = choose_compute(task.settings)
    with computing(compute):
        model = compute.place(build_network(task.settings, pretrained=False, seed=1))
        inputs = make_inputs(task, model, compute=compute, source=None, on_event=lambda event: None)
        for _ in prefetch(load_batches(task, inputs, epoch=0, device=compute.device), device=compute.device):
            pass


def evaluate_test(count: int) -> None:
    """Every metric, curve and test that the comparison has, with 10,000 draws, of two models."""
    rng = np.random.default_rng(0)
    targets = (np.arange(count) % MALIGNANT == 0).astype(int)
    first, second = (expit(rng.normal(targets, 1.5)) for _ in range(2))
    settings = {"weights": draw_weights(targets, draws=DRAWS, seed=SEED), "confidence": CONFIDENCE}
    evaluate_with_intervals(targets, first, **settings, target_threshold=0.4)
    band_curves(targets, first, **settings)
    compare_bootstrap(targets, first, second, metric="ap", **settings)
    compare_delong(targets, first, second, confidence=CONFIDENCE)
    trace_decision_curves(targets, {"first": first}, thresholds=np.linspace(0.01, 0.5, 50), **settings)
    expect_ece(first, draws=DRAWS, confidence=CONFIDENCE, seed=SEED)


def measure_size(folder: Path, count: int) -> dict[str, list[float]]:
    """Processor's seconds and memory, MB, of each part."""
    parts: dict[str, list[float]] = {}
    (folder / "images").mkdir()
    make_images(folder / "images", count)
    os.environ |= {"REPORTS_DIR": str(folder / "reports"), "LESION_CACHE": str(folder / "cache"), "DEVICE": "cpu"}
    params = make_params(folder / "images")
    prepare.find_duplicates = measured(parts, "duplicates", prepare.find_duplicates)
    with measure(parts, "preparing, duplicates included"):
        data = prepare.prepare_study(paths.Study("growth"), params)
    assert len(data.duplicates) >= 0.9 * (count // COPIES - 1), "copies were not found"
    with measure(parts, "an epoch of the loader"):
        load_epoch(params, data)
    with measure(parts, "evaluation with intervals"):
        evaluate_test(count // 5)
    return parts


def measure_growth(sizes: Sequence[int], folder: Path) -> bool:
    """Print what each part takes at each size, and its exponents; whether all grow as they may."""
    found = []
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            command = [sys.executable, __file__, place, str(size)]
            found.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    print(f"{'processor seconds, MB':32s}" + "".join(f"{size:>18,}" for size in sizes) + "   exponents")
    good = True
    for name in found[0]:
        seconds, memory = zip(*(parts[name] for parts in found), strict=True)
        pairs = zip(zip(sizes, seconds, strict=True), zip(sizes[1:], seconds[1:], strict=True), strict=False)
        grows = [math.log(t2 / t1) / math.log(n2 / n1) for (n1, t1), (n2, t2) in pairs]
        good &= max(grows, default=0) <= FASTEST and max(memory) <= ROOM
        cells = "".join(f"{s:11.1f} s {m:4.0f}" for s, m in zip(seconds, memory, strict=True))
        print(f"{name:32s}{cells}   {', '.join(f'{grow:.2f}' for grow in grows)}")
    print("none grows faster than n log n, or takes 2 GB" if good else "something grows too fast, or takes 2 GB")
    return good


if __name__ == "__main__":
    print(json.dumps(measure_size(Path(sys.argv[1]), int(sys.argv[2]))))
