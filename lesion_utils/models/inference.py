"""Networks applied to images without training: features and logits, batch by batch, with test-time augmentation."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import timm
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from lesion_utils.config.schema import Network
from lesion_utils.core.definitions import fingerprint_definitions
from lesion_utils.core.events import OnEvent
from lesion_utils.core.files import write_atomic
from lesion_utils.core.paths import cache_dir
from lesion_utils.models.compute import Compute
from lesion_utils.models.fused import fuse_network
from lesion_utils.models.networks import data_config, features_of, head_of, stage_means
from lesion_utils.models.preprocess import cut_middle, flip_views, resize_batch

T = TypeVar("T")
_END = object()

#: Test-time augmentation, and in how many views it shows an image.
VIEWS = {"none": 1, "flips": 8, "flips_and_middle": 16}


@dataclass(frozen=True)
class Scorer:
    """A network that scores images as they are, without augmentation or gradients.

    Attributes:
        model: a network of `build_network`, placed by `compute`.
        params: of the network; `backbone`, `head`, `image_size` and `batch_size` are used.
        compute: where and how.
        on_event: called after each batch.
    """

    model: nn.Module
    params: Network
    compute: Compute
    on_event: OnEvent | None = None

    @torch.no_grad()
    def logits(self, images: np.ndarray, rows: np.ndarray, *, tta: str) -> np.ndarray:
        """Logits of images; with test-time augmentation, the mean over their views.

        Args:
            images: (N, S, S, 3) uint8, RGB.
            rows: (M,) which of them.
            tta: a key of `VIEWS`.

        Returns:
            (M,) float32. The last layer computes in float32, see `forward_logits`.
        """
        features = torch.from_numpy(self.run_batches(images, rows, features_of, tta=tta)).to(self.compute.device)
        return head_of(self.model)(features).squeeze(2).mean(1).cpu().numpy()

    def features(self, images: np.ndarray, rows: np.ndarray, *, tta: str, weights: str, stages: int = 1) -> np.ndarray:
        """Features of images under a pretrained, frozen network: computed once, then read from the cache.

        They are computed again if the pixels, the weights, the settings, timm, the code or the machine changed, or if
        the file is damaged.

        Args:
            images: (N, S, S, 3) uint8, RGB.
            rows: (M,) which of them.
            tta: a key of `VIEWS`.
            weights: SHA-256 of the pretrained weights.
            stages: 1 for what the last layer sees; more for `networks.stage_means` of so many.

        Returns:
            (M, V, D) float32 for V views of each image, as `VIEWS` says.
        """
        params = self.params
        key = [params.backbone, params.head, params.image_size, params.batch_size, tta, weights, stages]
        key += [self.compute.identity, timm.__version__, _fingerprint_models()]
        key += [hash_array(np.ascontiguousarray(images[rows]))]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        path = cache_dir() / "features" / f"{params.backbone}-{digest}.f32"
        raw = _read_sealed(path)
        if raw is None:
            function = features_of if stages == 1 else partial(stage_means, stages=stages)
            raw = self.run_batches(images, rows, function, tta=tta).astype("<f4").tobytes()
            write_atomic(path, hashlib.sha256(raw).digest() + raw)
        return np.frombuffer(bytearray(raw), "<f4").reshape(len(rows), VIEWS[tta], -1)

    @torch.no_grad()
    def run_batches(
        self, images: np.ndarray, rows: np.ndarray, function: Callable[[nn.Module, Tensor], Tensor], *, tta: str
    ) -> np.ndarray:
        """Apply a function of the network and of images (N, 3, H, W) to all views of images: (M, V, D) float32."""
        self.model.eval()
        compute, outputs, network = self.compute, [], None
        for squares in prefetch(self._prepare(images, rows, tta=tta), device=compute.device):
            network = network or fuse_network(self.model, function, compute=compute, example=squares[0])
            views = squares if tta == "none" else [view for x in squares for view in flip_views(x)]
            with compute.autocast():
                views = [network(view.contiguous(memory_format=compute.memory_format)) for view in views]
            outputs.append(torch.stack(views, dim=1).float().cpu().numpy())
            if self.on_event:
                self.on_event({"done": sum(map(len, outputs)), "total": len(rows)})
        return np.concatenate(outputs)

    def _prepare(self, images: np.ndarray, rows: np.ndarray, *, tta: str) -> Iterator[list[Tensor]]:
        """The batches: the images, and with some views also their middles, as the network is given them."""
        config, size, compute = data_config(self.model), self.params.image_size, self.compute
        for start in range(0, len(rows), self.params.batch_size):
            pixels = read_rows(images, rows[start : start + self.params.batch_size], compute.device)
            squares = [pixels, cut_middle(pixels)] if tta == "flips_and_middle" else [pixels]
            resized = [resize_batch(x, size, interpolation=config.interpolation) for x in squares]
            yield [config.normalise(x).contiguous(memory_format=compute.memory_format) for x in resized]


def _fingerprint_models() -> dict[str, str]:
    """The code that features depend on."""
    entries = ("models.inference:Scorer", "models.networks:build_network", "models.compute:Compute")
    files = {"_fingerprint_models", "_read_sealed", "write_atomic", "find_weights"}
    files |= {"ParamsError", "WeightsError", "Network"}  # the network's values are part of the key
    return fingerprint_definitions(entries, without=files)


def _read_sealed(path: Path) -> bytes | None:
    """What follows the SHA-256 that a file begins with; None where there is no such file or it is damaged."""
    raw = path.read_bytes() if path.is_file() else b""
    return raw[32:] if raw and hashlib.sha256(raw[32:]).digest() == raw[:32] else None


def forward_logits(model: nn.Module, x: Tensor, *, compute: Compute) -> Tensor:
    """Logits (N, 1) float32 of normalised images.

    The last layer always computes in float32: bfloat16 would leave some hundred different scores, and ties between
    images of both classes.
    """
    with compute.autocast():
        features = features_of(model, x)
    return head_of(model)(features.float())


def read_rows(images: np.ndarray | Tensor, rows: np.ndarray, device: str) -> Tensor:
    """Rows of a memory map, or of images that are on the device already, on the device: (N, S, S, 3) uint8."""
    if isinstance(images, Tensor):
        return images[copy_to(device, torch.from_numpy(rows))]
    return copy_to(device, torch.from_numpy(np.asarray(images[rows])))


def place_images(images: np.ndarray, device: str) -> np.ndarray | Tensor:
    """Images (N, S, S, 3) uint8 on a CUDA device, if they take no more than a tenth of its free memory; else as they
    are, for `read_rows` to copy batch by batch."""
    if device != "cuda" or images.nbytes > torch.cuda.mem_get_info()[0] / 10:
        return images
    return copy_to(device, torch.from_numpy(np.array(images)))


def copy_to(device: str, tensor: Tensor) -> Tensor:
    """A tensor on the device. CUDA copies from pinned memory, since it waits for itself to copy from any other."""
    return (tensor.pin_memory() if device == "cuda" else tensor).to(device, non_blocking=True)


def hash_array(array: np.ndarray) -> str:
    """SHA-256 of an array's shape and bytes."""
    digest = hashlib.sha256(repr((array.shape, array.dtype.str)).encode())
    digest.update(array.data.cast("B"))
    return digest.hexdigest()


def prefetch(items: Iterable[T], *, device: str, ahead: int = 2) -> Iterator[T]:
    """Make items in a second thread while the caller works on earlier ones; the same items in the same order.

    The second thread computes on one core: threads of its parallel sections and of the network's would wait for each
    other on the same few cores (5 to 10 % of an epoch of ResNet50 on two cores).

    Args:
        items: what is made.
        device: on which it is made. On "mps" there is no second thread: two threads that use MPS abort the process
            (pytorch issue 197805).
        ahead: how many are made ahead.
    """
    if device == "mps":
        yield from items
        return
    source = iter(items)
    with ThreadPoolExecutor(1, initializer=_compute_on_one_core) as pool:
        waiting: deque[Future[Any]] = deque(pool.submit(next, source, _END) for _ in range(ahead))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, source, _END))
            yield item


def _compute_on_one_core() -> None:
    """For the calling thread alone."""
    torch.get_num_threads()  # at first use, torch gives a thread all cores, which would undo the next line
    threadpool_limits(1, user_api="openmp")
