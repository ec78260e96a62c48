"""Averages of the weights over training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lesion_utils.config.schema import Averaging


class WeightAverage:
    """The average of a network's weights and BatchNorm statistics; with method "none", nothing at all.

    "ema" moves towards the weights after each step, at first faster than `decay`, so that the random start is soon
    forgotten: min(decay, (1 + n) / (10 + n)) after n steps. "swa" is the plain mean over the ends of the epochs after
    `swa_start` (Izmailov et al. 2018).

    Args:
        live: the network's tensors by name; they share memory with the network.
        params: how.
        epochs: length of training.
    """

    def __init__(self, live: dict[str, Tensor], params: Averaging, *, epochs: int):
        self.params, self.count = params, 0
        self.first_epoch = min(int(params.swa_start * epochs), epochs - 1)
        self._live = {k: v for k, v in live.items() if v.is_floating_point()} if params.method != "none" else {}
        self._mean = {k: v.clone() for k, v in self._live.items()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Take the weights in after a step (EMA)."""
        if self.params.method == "ema":
            self._move(1 - min(self.params.decay, (1 + self.count) / (10 + self.count)))

    @torch.no_grad()
    def after_epoch(self, epoch: int) -> None:
        """Take the weights in after an epoch, counted from 0 (SWA)."""
        if self.params.method == "swa" and epoch >= self.first_epoch:
            self._move(1 / (1 + self.count))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the network has the averaged weights, if there are any yet."""
        if not self.count:
            yield
            return
        own = {k: v.clone() for k, v in self._live.items()}
        _copy(self._mean, self._live)
        try:
            yield
        finally:
            _copy(own, self._live)

    def state_dict(self) -> dict:
        """Everything that `load_state_dict` needs."""
        return {"count": self.count, "mean": self._mean}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a saved average."""
        self.count = state["count"]
        _copy(state["mean"], self._mean)

    def _move(self, share: float) -> None:
        torch._foreach_lerp_(list(self._mean.values()), list(self._live.values()), share)
        self.count += 1


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
