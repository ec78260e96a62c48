"""SIGKILL at random moments: the run goes on and ends with the bytes of one that was never stopped.

A few kills in the normal suite; `KILLS=20` for the full proof.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_study import make_images, make_params, regimes

from lesion_utils import loop
from lesion_utils.schema import StudyParams
from lesion_utils.train import train_network

KILLS = int(os.environ.get("KILLS", "4"))


def train_tiny(params: StudyParams, folder: Path, *, keep_every_epoch: bool = True) -> None:
    """What the killed process does. Every epoch is kept, so that many kills come while a checkpoint is written."""
    os.environ.update(THREADS="1", DEVICE="cpu")
    if keep_every_epoch:
        loop.CHECKPOINT_PATIENCE = 0
    train_network(params, "resnet50", data=make_images(), folder=folder)


def read_results(folder: Path) -> dict[str, object]:
    """Everything that must not differ: all files, without the times in history and record."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == "history.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [loop.deterministic_part(line) for line in lines]
        elif path.name == "DONE":
            found[name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("keep_every_epoch", [True, False])
def test_killed_runs_end_with_the_same_bytes(tmp_path, keep_every_epoch):
    params = make_params(
        regimes=regimes(epochs=6),
        seeds=[1, 2],
        averaging={"method": "ema"},
        optim={"warmup_epochs": 1.0, "final_lr": 0.0, "clip_norm": 1.0},
        mixup=0.3,
        drop_rate=0.3,
        tta="flips",
        precision="auto",
    )
    processes = multiprocessing.get_context("forkserver")  # imports torch once, not once per kill
    processes.set_forkserver_preload(["lesion_utils.train", "tiny_study"])

    def start(folder: Path):
        process = processes.Process(
            target=train_tiny, args=(params, folder), kwargs={"keep_every_epoch": keep_every_epoch}
        )
        process.start()
        return process

    for folder in ("warm", "whole"):  # the first one pays for imports
        begun = time.monotonic()
        process = start(tmp_path / folder)
        process.join()
        assert process.exitcode == 0
        took = time.monotonic() - begun
    expected = read_results(tmp_path / "whole")
    assert len([name for name in expected if name.endswith("DONE")]) == 2
    assert read_results(tmp_path / "warm") == expected

    rng, kills, finished = np.random.default_rng(), 0, 0
    while kills < KILLS or finished < 1:
        folder = tmp_path / f"broken{finished}"
        process = start(folder)
        process.join(timeout=rng.uniform(0, took) if kills < KILLS else None)
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
        else:
            assert process.exitcode == 0
            assert read_results(folder) == expected, f"after {kills} kills"
            finished += 1
    process = start(tmp_path / f"broken{finished}")
    process.join()
    assert read_results(tmp_path / f"broken{finished}") == expected
