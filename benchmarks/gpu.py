"""Whether training is right on a GPU, and how fast: one line of JSON per part, the most important parts first.

    python benchmarks/gpu.py [--tiny] [--parts facts smoke ...]

facts        GPU, driver, compute capability, memory, versions
smoke        one epoch of both networks in three regimes
determinism  the same run in two processes: the same weights and scores
resume       a run that is killed after its first epoch and continued: the same weights and scores
traps        resizing and logits against the CPU's, ONNX export, names of runs, synchronising calls per step
speed        images per second at 224 px against a fixed batch and against timm's loader; the loader alone
memory       both networks within 4 and 8 GB
sharing      one, two and three runs at once on one device: their speed, the same scores

A part that lacks something says so in `skipped`; `ok` is false if a bar is missed. Images and weights are random. About
eight minutes on a GPU (an estimate: not measured yet). `--tiny` shows on a CPU, in seconds, that the script works.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from lesion_utils.config.load import load_study
from lesion_utils.core.errors import TrainingError
from lesion_utils.core.names import NETWORKS
from lesion_utils.core.paths import params_root
from lesion_utils.models.checkpoint import load_checkpoint
from lesion_utils.models.compute import choose_compute, computing, describe_gpu, explain_unusable_gpu
from lesion_utils.models.inference import forward_logits, prefetch
from lesion_utils.models.predict import load_network, place_network
from lesion_utils.models.preprocess import resize_pixels
from lesion_utils.models.weights import find_weights
from lesion_utils.training.inputs import load_batches
from lesion_utils.training.optim import make_optimizer
from lesion_utils.training.task import TrainingTask, identify, name_run
from lesion_utils.training.train import Run, train_run

#: Least ratio of the speeds: to a fixed batch, to timm's loader, of the loader alone to training.
BARS = {"of_fixed_batch": 0.95, "of_timm": 1.0, "loader_of_training": 2.0}
#: Largest difference of a float32 logit from the CPU's.
LOGIT_TOLERANCE = 1e-3

Job = dict[str, Any]
Answer = dict[str, Any]


class DrawnImages:
    """Noise with labels, as training expects it: `count` images to train with, a few to validate and to test."""

    def __init__(self, count: int, side: int):
        subset = ["train"] * count + ["val"] * 8 + ["test"] * 4
        self.images = np.random.default_rng(0).integers(0, 256, (len(subset), side, side, 3), dtype=np.uint8)
        ids = [f"ISIC_{i:07d}" for i in range(len(subset))]
        self.table = pd.DataFrame({"image_id": ids, "target": np.arange(len(ids)) % 2, "subset": subset})
        self.duplicates = pd.DataFrame(columns=["image_id_a", "image_id_b"])


class Bench:
    """The parts, and what they share.

    Args:
        folder: of all files.
        tiny: small networks, images and counts.
    """

    def __init__(self, folder: Path, *, tiny: bool):
        self.folder, self.tiny = folder, tiny
        self.compute = choose_compute(self.task({}).settings)
        self.cuda = self.compute.device == "cuda"

    def write_weights(self) -> None:
        """Random weights of both networks, where `weights` of `task` finds them."""
        for network in NETWORKS:
            model = timm.create_model(self.task({"network": network}).settings.backbone)
            save_file(model.state_dict(), self.folder / f"{network}.safetensors")

    def task(self, job: Job) -> TrainingTask:
        """A run of the study `isic2016`; `job` may have network, regime, steps, batch_size, epochs and settings."""
        network, regime = job.get("network", NETWORKS[0]), job.get("regime", "finetune")
        params = load_study(params_root() / "isic2016")
        settings = params.network(network)
        batch_size = 4 if self.tiny else job.get("batch_size", 16)
        regime_changes = {"epochs": job.get("epochs", 1), "head": "new"}  # to fit the head is the CPU's work
        changes = {"batch_size": batch_size, "weights": f"{network}.safetensors", "tta": "none"}
        changes |= {
            "regimes": {name: each.model_copy(update=regime_changes) for name, each in settings.regimes.items()}
        }
        changes |= {"backbone": "small_cnn.untrained", "image_size": 32} if self.tiny else {}
        settings = settings.model_copy(update={**changes, **job.get("settings", {})})
        images = DrawnImages(batch_size * (2 if self.tiny else job.get("steps", 4)), 40 if self.tiny else 256)
        return TrainingTask(params.model_copy(update={network: settings}), network, regime, 1, images)

    def train(self, job: Job) -> Answer:
        """Train a run in `job["folder"]`, or continue it."""
        task = self.task(job)
        folder = self.folder / job["folder"]

        def end(event: Mapping[str, Any]) -> None:
            if event.get("epoch") == job.get("kill_after"):
                os.kill(os.getpid(), signal.SIGKILL)

        source = None if task.regime == "scratch" else find_weights(task.settings)
        begun = time.perf_counter()
        result = train_run(task, folder=folder, source=source, on_event=end if "kill_after" in job else None)
        record = result.record
        return {
            "digest": digest_run(result.folder),
            "seconds": round(time.perf_counter() - begun, 2),
            "images_per_s": round(float(result.history["images_per_s"].max()), 1),
            "loss": round(float(result.history["loss"].iloc[-1]), 4),
            "nondeterministic": record["nondeterministic"],
            "peak_gib": record["compute"].get("peak_memory_gib"),
            "path": str(result.folder),
        }

    def train_apart(self, *jobs: Job) -> list[Answer]:
        """Train runs at the same time, each in a process of its own; an answer is `exit` if the process was killed."""
        context = multiprocessing.get_context("forkserver")  # which has not started CUDA, as a fork of this might
        context.set_forkserver_preload(["lesion_utils.training.train"])
        processes = []
        for number, job in enumerate(jobs):
            answer = self.folder / f"{job['folder']}-{number}.json"
            process = context.Process(target=_train_here, args=(dict(os.environ), self.folder, self.tiny, job, answer))
            process.start()
            processes.append((process, answer))
        answers = []
        for process, answer in processes:
            process.join()
            answers.append(json.loads(answer.read_text()) if answer.is_file() else {"exit": process.exitcode})
            answer.unlink(missing_ok=True)
        return answers

    # --- parts --------------------------------------------------------------------------------------------------------

    def facts(self) -> Answer:
        """What this machine is."""
        gpu = {**describe_gpu(), "built_for": torch.cuda.get_arch_list()} if self.cuda else {}
        versions = {"timm": timm.__version__, "cores": os.cpu_count(), "unusable_gpu": explain_unusable_gpu()}
        return {**self.compute.to_dict(), **gpu, **versions, "skipped": None if self.cuda else "GPU: none is used"}

    def smoke(self) -> Answer:
        """Both networks in three regimes."""
        jobs = [(network, regime) for network in NETWORKS for regime in ("scratch", "features", "finetune")]
        runs = {}
        for network, regime in jobs:
            told = self.train({"network": network, "regime": regime, "folder": "smoke"})
            runs[f"{network} {regime}"] = {
                key: told[key] for key in ("seconds", "loss", "nondeterministic", "peak_gib")
            }
        return {"runs": runs, "ok": all(np.isfinite(run["loss"]) for run in runs.values())}

    def determinism(self) -> Answer:
        """The same runs in two processes."""
        same, warned = {}, set()
        for network in NETWORKS[: 1 if self.tiny else None]:
            jobs = [{"network": network, "regime": "scratch", "folder": f"process{i}"} for i in range(2)]
            first, second = (self.train_apart(job)[0] for job in jobs)
            same[network] = first["digest"] == second["digest"]
            warned |= set(first["nondeterministic"] + second["nondeterministic"])
        return {"same": same, "nondeterministic": sorted(warned), "ok": all(same.values())}

    def resume(self) -> Answer:
        """A run that is killed, and one that is not; also in float16, whose loss scale is part of the state."""
        same = {}
        for precision in ["auto", "float16"] if self.cuda else ["auto"]:
            job = {"epochs": 3, "settings": {"precision": precision}}
            killed, *_ = self.train_apart({**job, "folder": f"killed-{precision}", "kill_after": 1})
            assert killed == {"exit": -signal.SIGKILL}, killed
            continued, *_ = self.train_apart({**job, "folder": f"killed-{precision}"})
            whole, *_ = self.train_apart({**job, "folder": f"whole-{precision}"})
            same[precision] = continued["digest"] == whole["digest"]
        return {"same": same, "ok": all(same.values())}

    def traps(self) -> Answer:
        """What differs between devices, and what makes the CPU wait for the GPU."""
        path = Path(self.train({"folder": "traps", "regime": "scratch"})["path"])
        task, device = self.task({"regime": "scratch"}), self.compute.device
        pixels = torch.from_numpy(task.data.images)
        side = task.settings.image_size
        resized = [resize_pixels(pixels.to(place), side, "bicubic").cpu() for place in (device, "cpu")]
        float32 = task.settings.model_copy(update={"precision": "float32"})
        network = load_network(path / "best.pt")
        about = vars(network)
        logits = []
        for place in ("cpu", device):  # the network itself is moved, and stays on the device
            logits.append(place_network(network.model, float32, about, device=place).predict(task.data.images))
        difference = float(np.abs(logits[0] - logits[1]).max())
        computes = [replace(self.compute, threads=threads) for threads in (1, 2)]
        names = {name_run(task, identify(task, compute=compute, source=None)) for compute in computes}
        told: Answer = {"resized_same": torch.equal(*resized), "logits_differ_by": difference}
        told["names_have_threads"] = len(names) == 2
        bars = [torch.equal(*resized), difference <= LOGIT_TOLERANCE, (len(names) == 2) == (device == "cpu")]
        if self.cuda:
            few, many = (self._count_waits(steps) for steps in (4, 12))
            told["waits_per_step"], told["waits_per_epoch"] = (many - few) / 8, few
            bars.append(many == few)
        missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
        if self.tiny or missing:
            told["onnx"] = "skipped: " + (f"needs {', '.join(missing)}" if missing else "--tiny")
        else:
            from lesion_utils.extras.onnx import write_onnx

            network.model.cpu().to(memory_format=torch.contiguous_format)
            shown = {name: about[name] for name in ("regime", "seed", "selected", "stored_size", "aspect")}
            shown |= {"label": "noise", "settings": network.settings.model_dump(mode="json")}
            told["onnx"] = write_onnx(network, self.folder / "model.onnx", shown, task.data.images[:8])
        told["skipped"] = None if self.cuda else "synchronising calls: only CUDA counts them"
        return {**told, "ok": all(bars)}

    def _count_waits(self, steps: int) -> int:
        """Calls in an epoch, not its first, that make the CPU wait for the GPU."""
        run = self._make_run({"steps": steps, "regime": "scratch"})
        with computing(run.compute):
            run.train_epoch(0)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                try:
                    run.train_epoch(0)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in caught)

    def speed(self) -> Answer:
        """Both networks at batches of 16 and 64."""
        rows, met, has_timm = {}, [], importlib.util.find_spec("timm.data.loader") is not None
        for network in NETWORKS:
            for batch_size in [4] if self.tiny else [16, 64]:
                job = {"network": network, "regime": "scratch", "batch_size": batch_size, "steps": 640 // batch_size}
                run = self._make_run(job)
                loops: dict[str, Callable[[], object]] = {
                    "fixed": partial(train_fixed, run),
                    "training": partial(run.train_epoch, 0),
                    "loader": partial(exhaust, run),
                }
                if has_timm:
                    loader = make_timm_loader(run, workers=0 if self.tiny else min(8, os.cpu_count() or 1))
                    loops["timm"] = partial(train_plainly, run, loader)
                row = {}
                with computing(run.compute):
                    for name, loop in loops.items():
                        times = [self._time(loop) for _ in range(1 if self.tiny else 3)]  # the first warms up
                        row[name] = len(run.train_rows) / min(times)
                ratios = {"of_fixed_batch": row["training"] / row["fixed"]}
                ratios["loader_of_training"] = row["loader"] / row["training"]
                if has_timm:
                    ratios["of_timm"] = row["training"] / row["timm"]
                met += [ratios[name] >= BARS[name] for name in ratios]
                figures = {name: round(value, 2) for name, value in (row | ratios).items()}
                rows[f"{network} batch {batch_size}"] = figures
        skipped = None if has_timm else "timm's loader cannot be imported"
        return {"images_per_s": rows, "ok": None if self.tiny else all(met), "skipped": skipped}

    def _time(self, loop: Callable[[], object]) -> float:
        begun = time.perf_counter()
        loop()
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    def memory(self) -> Answer:
        """Whether both networks train within a limit, or say what to change."""
        if not self.cuda:
            return {"skipped": "needs CUDA"}
        told = {}
        for network in NETWORKS:
            for limit in (4, 8):
                job = {"network": network, "regime": "scratch", "folder": f"{limit}gb", "limit_gib": limit}
                answer, *_ = self.train_apart(job)
                told[f"{network} {limit} GiB"] = answer.get("peak_gib") or answer.get("error") or answer
        explained = [isinstance(each, float) or "try batch_size" in str(each) for each in told.values()]
        return {"peak_gib": told, "ok": all(explained)}

    def sharing(self) -> Answer:
        """Several runs at once: all scores are those of a run alone."""
        speeds, digests = {}, set()
        for count in (1, 2) if self.tiny else (1, 2, 3):
            jobs = [{"epochs": 2, "steps": 20, "folder": f"shared{count}-{i}"} for i in range(count)]
            answers = self.train_apart(*jobs)
            speeds[count] = round(sum(answer["images_per_s"] for answer in answers), 1)
            digests |= {answer["digest"] for answer in answers}
        return {"images_per_s": speeds, "same": len(digests) == 1, "ok": len(digests) == 1}

    def _make_run(self, job: Job) -> Run:
        task = self.task(job)
        folder = self.folder / "unused"
        return Run(task, compute=choose_compute(task.settings), source=None, identity={}, folder=folder)


def _train_here(environment: dict[str, str], folder: Path, tiny: bool, job: Job, answer: Path) -> None:
    """In a process of its own: train, and write what came of it."""
    os.environ.update(environment)  # the server of a fork has the variables of its own start
    try:
        if "limit_gib" in job:
            torch.cuda.set_per_process_memory_fraction(
                min(1.0, job["limit_gib"] * 2**30 / torch.cuda.mem_get_info()[1])
            )
        told = Bench(folder, tiny=tiny).train(job)
    except TrainingError as error:  # memory is short
        told = {"error": str(error)}
    answer.write_text(json.dumps(told))


def digest_run(folder: Path) -> str:
    """SHA-256 of a run's weights and scores."""
    digest = hashlib.sha256((folder / "predictions.csv").read_bytes())
    for name, tensor in load_checkpoint(folder / "best.pt")["model"].items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def train_fixed(run: Run) -> None:
    """As many steps as an epoch has, on one batch that is on the device."""
    settings, device = run.task.settings, run.compute.device
    x = torch.rand(settings.batch_size, 3, settings.image_size, settings.image_size, device=device)
    batch = (x, torch.arange(len(x), device=device) % 2)
    train_plainly(run, [batch] * (len(run.train_rows) // len(x)))


def train_plainly(run: Run, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Forward pass, backward pass and step, at the run's precision."""
    model, optimizer = run.model.train(), make_optimizer(run.model, run.task.settings, run.task.regime)
    for x, y in batches:
        x = x.contiguous(memory_format=run.compute.memory_format)
        logits = forward_logits(model, x, compute=run.compute)[:, 0]
        nn.functional.binary_cross_entropy_with_logits(logits, y.float()).backward()
        optimizer.step()
        optimizer.zero_grad()


def exhaust(run: Run) -> None:
    """The batches of an epoch and no network."""
    device = run.compute.device
    for _ in prefetch(load_batches(run.task, run.inputs, epoch=0, device=device), device=device):
        pass


class InMemory(torch.utils.data.Dataset[Any]):
    """What timm's loader reads: images that are in memory."""

    transform: Any = None  # set by timm

    def __init__(self, images: np.ndarray):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), index % 2


def make_timm_loader(run: Run, *, workers: int) -> Any:
    """timm's loader with its prefetcher and its usual augmentation."""
    from timm.data.loader import create_loader

    settings, device = run.task.settings, torch.device(run.compute.device)
    given: dict[str, Any] = {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": device.type == "cuda",
    }
    images: Any = InMemory(run.task.data.images[run.train_rows])
    return create_loader(
        images, settings.image_size, settings.batch_size, is_training=True, vflip=0.5, device=device, **given
    )


PARTS = ("facts", "smoke", "determinism", "resume", "traps", "speed", "memory", "sharing")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; 1 if one of them missed a bar or failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small networks and images, for a CPU")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args(arguments)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        settings = {"WEIGHTS_DIR": folder, "LESION_CACHE": f"{folder}/cache", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        settings |= {"THREADS": "1"} if options.tiny else {}
        with mock.patch.dict(os.environ, settings):
            bench = Bench(Path(folder), tiny=options.tiny)
            bench.write_weights()
            for part in options.parts:
                begun = time.perf_counter()
                try:
                    told = getattr(bench, part)()
                except Exception as error:  # the other parts are still worth their time
                    told = {"ok": False, "error": f"{type(error).__name__}: {error}"}
                failed |= told.get("ok") is False
                print(json.dumps({"part": part, **told, "part_s": round(time.perf_counter() - begun, 1)}), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
