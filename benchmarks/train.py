"""How much of the time is spent in the network, and how much faster this is than a plain loop.

    python benchmarks/train.py [--networks resnet50 vgg19] [--steps 4] [--rounds 3] [--images FOLDER]

In one run, in turns, so that whatever else the machine does falls on all three alike, for each network at 224 px:

(a) the ceiling: forward, backward and step on one fixed batch that is already there, at the project's precision;
(b) this project's epoch: memory map, augmentation, loss, clipping, step;
(c) the loop that most notebooks have: PIL decoding, torchvision transforms, a DataLoader, float32, torch's defaults.

Images per second are medians over the rounds. (c) reads the JPEG files in FOLDER, or drawn ones of 1024 x 768 px.
Validation, which is inference, and writing a checkpoint are timed apart. Peak memory is that of (b), a validation and
a checkpoint in a process of their own. All three have the memory settings that a run's kernel has, which help (c) too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from lesion_utils.config.load import load_study
from lesion_utils.config.schema import StudyParams
from lesion_utils.core.paths import params_root
from lesion_utils.models.compute import choose_compute, computing
from lesion_utils.models.inference import forward_logits
from lesion_utils.pipeline.notebook import KEEP_MEMORY
from lesion_utils.provenance.record import measure_peak_memory
from lesion_utils.training.optim import make_optimizer
from lesion_utils.training.task import TrainingTask, identify
from lesion_utils.training.train import Run

BARS = {"b/a": 0.95, "b/c": 2.5}
MEMORY_BARS = {"resnet50": 4.0, "vgg19": 8.0}


@dataclass(frozen=True)
class DrawnImages:
    """Noise with labels, as training wants it."""

    images: np.ndarray
    table: pd.DataFrame


class NotebookDataset(torch.utils.data.Dataset):
    """Decodes, resizes and augments one image at a time."""

    def __init__(self, files: list[Path], image_size: int):
        self.files = files
        self.transform = transforms.Compose(
            [
                transforms.Resize((image_size, image_size)),
                transforms.RandomHorizontalFlip(),
                transforms.RandomVerticalFlip(),
                transforms.RandomAffine(180, translate=(0.05, 0.05), scale=(0.9, 1.15)),
                transforms.ColorJitter(0.1, 0.1, 0.1, 0.01),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, float]:
        return self.transform(Image.open(self.files[index]).convert("RGB")), float(index % 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["resnet50", "vgg19"])
    parser.add_argument("--steps", type=int, default=4, help="steps of 16 images per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=Path, help="folder of JPEG files for (c)")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.images and len(list(options.images.glob("*.jpg"))) < 2:
        parser.error(f"--images: no JPEG files (*.jpg) in {options.images}: name the folder that holds the photographs")
    if not KEEP_MEMORY.items() <= os.environ.items():  # glibc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
    if options.memory_of:
        print(json.dumps(use_memory(options.memory_of)))
        return
    results = {name: measure(name, options) for name in options.networks}
    print(json.dumps(results, indent=2))
    missed = [f"{name} {key}" for name, r in results.items() for key, met in r["bars"].items() if not met]
    print("all bars met" if not missed else f"below the bar: {', '.join(missed)}")
    sys.exit(bool(missed))


def measure(name: str, options: argparse.Namespace) -> dict:
    """Everything about one network."""
    params = study_params(name)
    count = options.steps * getattr(params, name).batch_size
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(name, params, count, Path(folder))
        files = sorted(options.images.glob("*.jpg"))[:count] if options.images else draw_files(count, Path(folder))
        loops = {"a": ceiling_loop(run, options.steps), "b": lambda: run.train_epoch(0)}
        loops["c"] = notebook_loop(name, files, run.task.settings.batch_size, run.compute.device)
        speeds = {key: [] for key in loops}
        for number in range(options.rounds + 1):  # the first round warms up
            for key, loop in loops.items():
                if key == "c":
                    seconds = time_call(loop, run.compute.device)
                else:
                    with computing(run.compute):
                        seconds = time_call(loop, run.compute.device)
                if number:
                    speeds[key].append(count / seconds)
                    print(f"{name} ({key}) {speeds[key][-1]:.2f} images/s", file=sys.stderr)
        with computing(run.compute):
            validation = len(run.val_rows) / time_call(run.validate, run.compute.device)
            run.add_epoch({"epoch": 1, "val_ap": 0.5, "val_loss": 0.5})
            saving = time_call(run.save, "cpu")
    medians = {key: statistics.median(values) for key, values in speeds.items()}
    ratios = {"b/a": medians["b"] / medians["a"], "b/c": medians["b"] / medians["c"]}
    memory = measure_memory(name)
    bars = {key: value >= BARS[key] for key, value in ratios.items()} | {"memory": memory < MEMORY_BARS[name]}
    return {
        "compute": run.compute.to_dict(),
        "images_per_s": {key: round(value, 2) for key, value in medians.items()},
        "ratios": {key: round(value, 3) for key, value in ratios.items()},
        "validation_images_per_s": round(validation, 2),
        "checkpoints_s": round(saving, 2),
        "peak_memory_gb": round(memory, 2),
        "bars": bars,
    }


def study_params(name: str, image_size: int = 224) -> StudyParams:
    """The paper study from random weights; what the weights are changes no time."""
    params = load_study(params_root() / "isic2016")
    settings = getattr(params, name)
    regimes = {"scratch": settings.regimes["scratch"]}
    changes = {"weights": "none", "regimes": regimes, "batch_size": 16, "image_size": image_size}
    settings = settings.model_copy(update=changes)
    return params.model_copy(update={name: settings})


def make_run(name: str, params: StudyParams, count: int, folder: Path) -> Run:
    """A run on noise: `count` training images and a third as many for validation."""
    size, validation = params.data.stored_size, max(count // 3, 2)
    images = np.random.default_rng(0).integers(0, 256, (count + validation, size, size, 3), dtype=np.uint8)
    path = folder / "images.u8"
    images.tofile(path)
    table = pd.DataFrame(
        {
            "image_id": [f"ISIC_{i:07d}" for i in range(len(images))],
            "target": np.arange(len(images)) % 2,
            "subset": ["train"] * count + ["val"] * validation,
        }
    )
    data = DrawnImages(np.memmap(path, np.uint8, "r", shape=images.shape), table)
    task = TrainingTask(params, name, "scratch", 1, data)
    compute = choose_compute(task.settings)
    identity = identify(task, compute=compute, source=None)
    return Run(task, compute=compute, source=None, identity=identity, folder=folder / "run")


def ceiling_loop(run: Run, steps: int) -> Callable[[], None]:
    """(a)"""
    settings = run.task.settings
    model = run.model
    optimizer = make_optimizer(model, settings, run.task.regime)
    size = (settings.batch_size, 3, settings.image_size, settings.image_size)
    x = torch.rand(size, device=run.compute.device).contiguous(memory_format=run.compute.memory_format)
    y = (torch.arange(len(x), device=x.device) % 2).float()

    def loop() -> None:
        model.train()
        for _ in range(steps):
            logits = forward_logits(model, x, compute=run.compute)[:, 0]
            nn.functional.binary_cross_entropy_with_logits(logits, y).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return loop


def notebook_loop(name: str, files: list[Path], batch_size: int, device: str) -> Callable[[], None]:
    """(c)"""
    model = timm.create_model(name, num_classes=1).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    dataset = NotebookDataset(files, 224)
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=2)

    def loop() -> None:
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(x.to(device))[:, 0], y.float().to(device))
            loss.backward()
            optimizer.step()
            loss.item()

    return loop


def time_call(function: Callable[[], object], device: str) -> float:
    """Seconds that a call takes, on the device too."""
    begun = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def draw_files(count: int, folder: Path) -> list[Path]:
    """JPEG files of 1024 x 768 px, a usual size of the challenge's photographs."""
    rng = np.random.default_rng(0)
    files = []
    for i in range(count):
        blurred = Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)).resize((1024, 768))
        blurred.save(folder / f"{i:04d}.jpg", quality=90)
        files.append(folder / f"{i:04d}.jpg")
    return files


def measure_memory(name: str) -> float:
    """Peak memory of training, GB, in a process of its own; of the GPU if there is one."""
    command = [sys.executable, __file__, "--memory-of", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def use_memory(name: str) -> float:
    """Two steps, a validation and both checkpoints; the peak in GB."""
    params = study_params(name)
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(name, params, 2 * getattr(params, name).batch_size, Path(folder))
        with computing(run.compute):
            run.train_epoch(0)
            run.validate()
            run.add_epoch({"epoch": 1, "val_ap": 0.5, "val_loss": 0.5})
            run.save()
            run.train_epoch(1)
        if run.compute.device == "cuda":
            return torch.cuda.max_memory_allocated() / 1e9
    return measure_peak_memory() / 1e9


if __name__ == "__main__":
    main()
