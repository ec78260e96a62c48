"""What decoding costs, and what decoding once saves.

    python benchmarks/data.py [--data ../shared/data/isic2016] [--size 256]

Compares, in images per second, a Dataset that opens and resizes every file in every epoch (Pillow and torchvision's
transforms in a DataLoader with two workers, as tutorials have it) with batches taken from the cache; then the time of
building the cache with that of decoding the same files in parallel and keeping nothing; then the memory and the time
of the whole step "data". Both sides deliver shuffled batches of 32 uint8 images of the same size.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lesion_utils.config.load import load_study
from lesion_utils.core import paths
from lesion_utils.data import prepare
from lesion_utils.data.cache import open_cache
from lesion_utils.data.images import inspect_images
from lesion_utils.evaluation import shortcuts

WORKERS, BATCH = 2, 32


class UsualDataset(Dataset):
    """Opens a file and resizes it, each time it is asked."""

    def __init__(self, files: list[Path], size: int):
        self.files = files
        self.transform = v2.Compose([v2.Resize((size, size)), v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB"))


def time_usual_epoch(files: list[Path], size: int) -> float:
    """Images/s of one shuffled epoch of the usual Dataset; the workers are running before the clock starts."""
    loader = DataLoader(
        UsualDataset(files, size), BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True, prefetch_factor=1
    )
    next(iter(loader))
    start = time.perf_counter()
    images = sum(len(batch) for batch in loader)
    return images / (time.perf_counter() - start)


def time_cached_epochs(images: np.ndarray, *, least_seconds: float = 1.0) -> float:
    """Images/s of shuffled epochs from the cache, until a second has passed."""
    rng, seen, start = np.random.default_rng(0), 0, time.perf_counter()
    while time.perf_counter() - start < least_seconds:
        order = rng.permutation(len(images))
        for at in range(0, len(order), BATCH):
            seen += len(torch.from_numpy(images[order[at : at + BATCH]]))
    return seen / (time.perf_counter() - start)


def time_plain_decoding(files: list[Path], size: int) -> float:
    """Seconds to decode and resize all files in parallel, keeping nothing."""

    def decode(path: Path) -> int:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)).size

    start = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as pool:
        sum(pool.map(decode, files))
    return time.perf_counter() - start


def time_build(table: pd.DataFrame, size: int) -> tuple[float, float, np.ndarray]:
    """Seconds to build a cache from nothing, seconds to open it again, and the images."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LESION_CACHE"] = folder
        start = time.perf_counter()
        hashed = table.assign(sha256=inspect_images(table, workers=WORKERS)[0]["sha256"])
        open_cache(hashed, size, "squash")
        built = time.perf_counter()
        images = open_cache(hashed, size, "squash")
        return built - start, time.perf_counter() - built, images


class MemoryWatch:
    """Peak of this process's own memory (MB), without file pages that the system may drop at any time."""

    def __enter__(self) -> MemoryWatch:
        self.peak, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            status = Path("/proc/self/status").read_text()
            self.peak = max(self.peak, int(status.split("RssAnon:")[1].split()[0]) / 1024)


def measure_step(data: Path) -> tuple[float, float]:
    """Seconds of the whole step "data" and of the metadata control, on empty folders."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"DATA_DIR": str(data), "LESION_CACHE": f"{folder}/cache", "REPORTS_DIR": f"{folder}/reports"}
        params = SimpleNamespace(data=load_study(paths.Study("isic2016").params_dir).data)
        start = time.perf_counter()
        prepared = prepare.prepare_study(paths.Study("isic2016"), params)
        middle = time.perf_counter()
        shortcuts.predict_from_metadata(prepared.table)
        return middle - start, time.perf_counter() - middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=paths.project_root().parent / "shared/data/isic2016")
    parser.add_argument("--size", type=int, default=256)
    args = parser.parse_args()
    table, _ = prepare.read_verified(args.data, counts=None)
    native = pd.DataFrame({"path": sorted((args.data / "native").glob("*.jpg"))})
    native["image_id"] = [path.stem for path in native["path"]]
    with MemoryWatch() as memory:
        print(f"{'images/s, ' + str(args.size) + ' px':34s} {'usual':>8s} {'cache':>9s} {'gain':>7s}")
        for name, some in (("native resolution", native), ("640 px", table)):
            usual = time_usual_epoch(list(some["path"]), args.size)
            cached = time_cached_epochs(time_build(some, args.size)[2])
            print(f"  {name + f' ({len(some)} files)':32s} {usual:8.1f} {cached:9.0f} {cached / usual:6.0f}x")
        print(f"{'seconds':34s} {'plain':>8s} {'build':>9s} {'ratio':>7s} {'open':>9s}")
        for name, some in (("native resolution", native), ("640 px", table)):
            plain = min(time_plain_decoding(list(some["path"]), args.size) for _ in range(2))
            build, opened = min(time_build(some, args.size)[:2] for _ in range(2))
            print(f"  {name:32s} {plain:8.2f} {build:9.2f} {build / plain:7.2f} {1000 * opened:6.1f} ms")
    print(f"peak memory of its own: {memory.peak:.0f} MB (torch and the libraries included)")
    with MemoryWatch() as memory:
        step, scores = measure_step(args.data)
    print(f'the whole step "data": {step:.1f} s; metadata control: {scores:.1f} s; peak {memory.peak:.0f} MB')


if __name__ == "__main__":
    main()
