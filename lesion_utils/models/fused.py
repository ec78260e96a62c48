"""A network as a graph for scoring on CPUs: BatchNorm is folded into convolutions, which also add and apply ReLU.

The passes over memory between convolutions take a third of the time; oneDNN does them while the values are still in
registers. It also gets the weights in the order in which it reads them, and in the precision in which it computes:
autocast would convert them to bfloat16 again for every batch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lesion_utils.models.compute import Compute


@torch.no_grad()
def fuse_network(
    model: nn.Module, function: Callable[[nn.Module, Tensor], Tensor], *, compute: Compute, example: Tensor
) -> Callable[[Tensor], Tensor]:
    """A function of a network in evaluation mode, the same but for rounding; the network itself stays as it is.

    Args:
        model: a network of `build_network`, placed by `compute`, in evaluation mode.
        function: of the network and of inputs (N, 3, H, W) float32.
        compute: where and how. Only CPUs gain.
        example: inputs to try the graph with.

    Returns:
        The function of inputs alone, to be called within `compute.autocast()`. It is a graph, or the function as it is
        if nothing is gained or the network cannot be traced (the values of its input decide which way Python goes).
    """
    plain = _Applied(model, function).eval()
    if compute.device != "cpu":
        return plain
    dtype = torch.bfloat16 if compute.precision == "bfloat16" else torch.float32
    try:
        tracer = _Tracer()
        fused = fx.GraphModule(plain, tracer.trace(plain))
        fused.graph.eliminate_dead_code()
        for node in list(fused.graph.nodes):
            module = _module_of(fused, node)
            if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
                _fuse_convolution(fused, node, module, dtype)
            elif dtype != torch.float32 and module is not None and _is_cast_by_autocast(module):
                fused.set_submodule(str(node.target), deepcopy(module).to(dtype))  # the network keeps its own
        fused.recompile()
        # Both would keep the weights alive until Python's garbage collection runs.
        tracer.root = fused.graph.owning_module = None  # type: ignore[assignment]  # that is the point
        with compute.autocast():
            fused(example)
    except Exception:  # a network that cannot be traced, or a torch without oneDNN, says so in a dozen ways
        return plain
    return fused


class _Applied(nn.Module):
    def __init__(self, model: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]):
        super().__init__()
        self.model, self._function = model, function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(self.model, x)


class _Tracer(fx.Tracer):
    """Looks into modules that are made of others, but where the input decides which way Python goes."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return not any(module.children()) or super().is_leaf_module(module, name)

    def call_module(
        self, module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> fx.Proxy:
        try:
            return super().call_module(module, forward, args, kwargs)
        except fx.proxy.TraceError:
            return self.create_proxy("call_module", self.path_of_module(module), args, kwargs)


def _is_cast_by_autocast(module: nn.Module) -> bool:
    """Whether all parameters of a module are those of products, which autocast computes in bfloat16."""
    owners = [part for part in module.modules() if next(part.parameters(recurse=False), None) is not None]
    return bool(owners) and all(isinstance(part, nn.Linear | nn.Conv2d) for part in owners)


class _FusedConv2d(nn.Module):
    """A convolution, the sum with another map of the same shape, and ReLU, in one pass."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, *, adds: bool, rectifies: bool):
        super().__init__()
        self._settings: tuple[Any, ...] = conv.padding, conv.stride, conv.dilation, conv.groups
        self._dtype = dtype
        self._weight = conv.weight.detach().to(dtype).to_mkldnn()
        self._packed_for: tuple[int, ...] | None = None
        self._bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self._after: tuple[Any, ...] = (("add", 1.0) if adds else ()) + ("relu" if rectifies else "none", [], "")

    def forward(self, x: Tensor, *other: Tensor) -> Tensor:
        """(N, C, H, W) to (N, D, H', W'), channels last, in the graph's precision."""
        x, other = x.to(self._dtype), tuple(tensor.to(self._dtype) for tensor in other)
        if self._packed_for is None:  # the best order depends on the maps' size
            self._packed_for = tuple(x.shape)
            self._weight = torch._C._nn.mkldnn_reorder_conv2d_weight(self._weight, *self._settings, self._packed_for)
        pointwise = torch.ops.mkldnn._convolution_pointwise
        run = pointwise.binary if other else pointwise.default
        return run(x, *other, self._weight, self._bias, *self._settings, *self._after)


def _fuse_convolution(fused: fx.GraphModule, node: fx.Node, conv: nn.Conv2d, dtype: torch.dtype) -> None:
    """Replace a convolution, and what follows it as far as it can be computed in the same pass."""
    chain: list[fx.Node] = [node]
    others: tuple[Any, ...] = ()
    following, source = _only_user(node), node.args[0]
    batchnorm = _module_of(fused, following)
    if following is not None and type(batchnorm) is nn.BatchNorm2d:
        chain.append(following)
        conv = fuse_conv_bn_eval(conv, batchnorm)
    addition, alone = _only_user(chain[-1]), isinstance(source, fx.Node) and len(source.users) == 1
    if _can_add(addition, chain[-1]) and _is_relu(fused, _only_user(addition)) and alone:
        others = (addition.args[1],)
        chain.append(addition)
    following = _only_user(chain[-1])
    rectifies = _is_relu(fused, following)
    if following is not None and rectifies:
        chain.append(following)
    name = f"fused_{node.name}"
    fused.add_submodule(name, _FusedConv2d(conv, dtype, adds=bool(others), rectifies=rectifies))
    with fused.graph.inserting_before(chain[-1] if others else node):  # the other map has to be there
        chain[-1].replace_all_uses_with(fused.graph.call_module(name, (*node.args, *others)))
    for done in reversed(chain):
        fused.graph.erase_node(done)


def _module_of(fused: fx.GraphModule, node: fx.Node | None) -> nn.Module | None:
    return fused.get_submodule(str(node.target)) if node is not None and node.op == "call_module" else None


def _only_user(node: fx.Node | None) -> fx.Node | None:
    return next(iter(node.users)) if node is not None and len(node.users) == 1 else None


def _can_add(addition: fx.Node | None, to: fx.Node) -> TypeGuard[fx.Node]:
    """Whether this is a sum of `to` and another tensor; `to += other` leaves the other as it was."""
    if addition is None or addition.target not in (operator.add, operator.iadd, torch.add) or addition.kwargs:
        return False
    return addition.args[0] is to and isinstance(addition.args[1], fx.Node)


def _is_relu(fused: fx.GraphModule, node: fx.Node | None) -> bool:
    return type(_module_of(fused, node)) is nn.ReLU
