"""Any timm backbone as a classifier with one logit: its weights, its features, and where Grad-CAM looks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from timm.models import load_state_dict
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import lesion_utils.models.custom  # noqa: F401 - registers them with timm
from lesion_utils.config.schema import Network
from lesion_utils.core.errors import ParamsError, WeightsError
from lesion_utils.models.weights import WeightsSource, find_weights


class DataConfig(NamedTuple):
    """The input that a network was pretrained on.

    Attributes:
        mean: of each of R, G, B, in [0, 1].
        std: likewise.
        interpolation: "bilinear" or "bicubic".
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str

    def normalise(self, x: Tensor) -> Tensor:
        """Standardise (N, 3, H, W) float32 images in [0, 1]."""
        mean, std = (_make_channels(values, x.dtype, x.device) for values in (self.mean, self.std))
        return (x - mean) / std


@cache
def _make_channels(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(3, 1, 1); made once, since each copy to a GPU would wait for it."""
    return torch.tensor(values, dtype=dtype, device=device)[:, None, None]


def build_network(params: Network, *, pretrained: bool, seed: int) -> nn.Module:
    """Make the network of a run, with one logit for malignant.

    The global random state is left as it was. Weights are loaded strictly; only the last layer is always new.

    Args:
        params: `backbone`, `head`, `weights`, `image_size` and `drop_rate` are used.
        pretrained: start from `params.weights`; else from random weights.
        seed: of the initialisation.

    Returns:
        A module from (N, 3, image_size, image_size) float32, normalised, to logits (N, 1).

    Raises:
        ParamsError: timm has no such backbone.
        WeightsError: the weights cannot be had or do not fit.
    """
    source = find_weights(params) if pretrained else None
    if pretrained and source is None:
        raise WeightsError(
            "a pretrained network was asked for, but weights is none",
            where=params.backbone,
            do="set weights: pretrained, or leave the regimes features and finetune out",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if source is None:
            return multiply_full_windows(make_architecture(params))
        model = _load_weights(params, source)
        torch.manual_seed(seed)
        model.reset_classifier(1)
    return multiply_full_windows(model)


def restore_network(params: Network, state: Mapping[str, Tensor]) -> nn.Module:
    """The network with weights that were saved; no random ones are drawn first.

    Args:
        params: `backbone`, `head`, `image_size` and `drop_rate` are used.
        state: every tensor of the network.

    Raises:
        RuntimeError: a tensor is missing, left over, or of another shape.
    """
    with _SkipDraws():
        model = multiply_full_windows(make_architecture(params))
    model.load_state_dict(state)
    return model


_DRAWS = (Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)


class _SkipDraws(TorchFunctionMode):
    """Leaves memory as it is instead of filling it with random numbers, for weights that are loaded next.

    Of VGG19's 140 million weights, that saves a second per network.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def make_architecture(params: Network, *, device: str = "cpu") -> nn.Module:
    """The network with one logit and random weights, as timm draws them from the global random state.

    Args:
        params: `backbone`, `head`, `image_size` and `drop_rate` are used.
        device: "meta" for a network of shapes alone, which takes neither memory nor time.

    Raises:
        ParamsError: timm has no such backbone.
    """
    settings = {**_backbone_settings(params), "drop_rate": params.drop_rate}
    with torch.device(device):
        if not leaves_out_wide_layers(params):
            return timm.create_model(params.backbone, num_classes=1, **settings)
        # fc6 and fc7 are removed at once: one unit wide, they cost nothing to draw (103 million weights otherwise).
        return _remove_wide_layers(timm.create_model(params.backbone, num_classes=1, mlp_ratio=1 / 4096, **settings))


def leaves_out_wide_layers(params: Network) -> bool:
    """Whether this is a VGG without fc6 and fc7; other networks average over the image with either head."""
    return params.head == "average" and params.model.startswith("vgg")


def _remove_wide_layers(vgg: Any) -> nn.Module:
    """Leave out a VGG's fc6 and fc7: the last layer then sees the mean over the image of the last convolution's map."""
    vgg.prune_intermediate_layers()
    vgg.reset_classifier(1, "avg")
    return vgg


class WindowConv2d(nn.Conv2d):
    """A convolution that is a matrix product where its window is the whole input, as in VGG's first wide layer.

    There the libraries' convolutions of 7 x 7 windows take most of a training step at small images; the product gives
    the same numbers but for rounding, and with channels last neither operand is copied.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) float to (N, D, H', W') float, as `nn.Conv2d`."""
        if tuple(x.shape[-2:]) != self.kernel_size:
            return super().forward(x)
        rows, weight = (tensor.permute(0, 2, 3, 1).flatten(1) for tensor in (x, self.weight))
        return F.linear(rows, weight, self.bias)[:, :, None, None]


def multiply_full_windows(model: nn.Module) -> nn.Module:
    """Let wide convolutions without padding be matrix products where they can; parameters keep their names."""
    for parent in list(model.modules()):
        for name, conv in list(parent.named_children()):
            if type(conv) is nn.Conv2d and min(conv.kernel_size) > 3 and (conv.padding, conv.groups) == ((0, 0), 1):
                setattr(parent, name, _make_window(conv))
    return model


def _make_window(conv: Any) -> WindowConv2d:
    """A `WindowConv2d` with the very parameters of a convolution."""
    window = WindowConv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, dilation=conv.dilation, device="meta"
    )
    window.weight, window.bias = conv.weight, conv.bias
    return window.train(conv.training)


def data_config(model: nn.Module) -> DataConfig:
    """Mean, standard deviation and interpolation that the network's pretraining used."""
    config = resolve_model_data_config(model)
    interpolation = config["interpolation"] if config["interpolation"] in ("bilinear", "bicubic") else "bilinear"
    return DataConfig(tuple(config["mean"]), tuple(config["std"]), interpolation)


def head_of(model: nn.Module) -> nn.Module:
    """The last layer, from features (N, D) to the logit."""
    return model.get_classifier()


def features_of(model: nn.Module, x: Tensor) -> Tensor:
    """What the last layer sees.

    Args:
        model: a network of `build_network`.
        x: (N, 3, H, W) float32, normalised.

    Returns:
        (N, D) features; `head_of(model)` makes logits of them.
    """
    return model.forward_head(model.forward_features(x), pre_logits=True)


def stage_means(model: nn.Module, x: Tensor, *, stages: int) -> Tensor:
    """The channels of a network's last stages, each averaged over the image, side by side.

    Earlier stages see finer structure than the last, which was made to tell everyday objects apart.

    Args:
        model: a network of `build_network`.
        x: (N, 3, H, W) float32, normalised.
        stages: how many, as timm counts them.

    Returns:
        (N, D), D the stages' channels together.

    Raises:
        ParamsError: the network has fewer stages, or gives no maps of them.
    """
    try:
        maps = model.forward_intermediates(x, indices=stages, intermediates_only=True)
    except (AttributeError, AssertionError) as error:
        raise ParamsError(
            f"{type(model).__name__} gives no maps of {stages} stages: {error}",
            where="classifier_features: stages",
            do="lower it; 1, what the last layer sees, works for every network",
        ) from error
    return torch.cat([stage.mean(dim=(2, 3)) for stage in maps], dim=1)


def gradcam_layer(model: nn.Module) -> nn.Module:
    """The last layer whose output is still a map, as Grad-CAM wants it (Selvaraju et al. 2017).

    It is timm's last feature level; where that ends in pooling (VGG), the layer before, whose map is twice as fine.

    Raises:
        ParamsError: the backbone has no such map (a vision transformer).
    """
    levels = getattr(model, "feature_info", None)
    levels = levels if isinstance(levels, list) else getattr(levels, "info", None)
    if not levels or hasattr(model, "num_prefix_tokens"):
        raise ParamsError(
            "Grad-CAM needs a network whose last level is a map of features",
            where=type(model).__name__,
            do="choose a convolutional backbone",
        )
    name = levels[-1]["module"]
    layer = model.get_submodule(name)
    if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        parent, _, index = name.rpartition(".")
        siblings: Any = model.get_submodule(parent)
        layer = siblings[int(index) - 1]
    return layer


def _backbone_settings(params: Network) -> dict[str, Any]:
    """Arguments of timm that depend on the kind of backbone."""
    try:
        config = timm.get_pretrained_cfg(params.backbone)  # knows the tags
        known = timm.is_model(params.backbone)
    except RuntimeError:
        known = False
    if not known:
        near = difflib.get_close_matches(params.backbone, timm.list_models() + timm.list_pretrained(), n=3)
        raise ParamsError(
            f"timm has no backbone {params.backbone!r}",
            where="backbone",
            expected=f"for example {', '.join(near)}" if near else "a name that timm.list_models() gives",
            do="correct it in the YAML file",
        )
    return {"img_size": params.image_size} if config is not None and config.fixed_input_size else {}


def _load_weights(params: Network, source: WeightsSource) -> nn.Module:
    """Make the backbone and load its weights strictly, whatever the file has for the last layer.

    With `head: average` only the convolutions are loaded, so the file may hold them alone.
    """
    state = _read_weights(source.path)
    try:
        if leaves_out_wide_layers(params):
            with _SkipDraws():
                model = make_architecture(params)
            last = {name: value for name, value in model.state_dict().items() if not name.startswith("features.")}
            convolutions = {name: value for name, value in state.items() if name.startswith("features.")}
            model.load_state_dict({**last, **convolutions})
            return model
        return _load_by_timm(params, state)
    except RuntimeError as error:
        hint = "name the backbone that they belong to"
        if params.model.startswith("vgg") and params.head == "original" and _holds_convolutions_alone(state):
            hint = "set head: average, which needs the convolutions alone"
        raise WeightsError(
            f"the weights do not fit {params.backbone}",
            where=source.path.name,
            expected="every tensor of the backbone, in its shape",
            do=f"{hint}; {' '.join(str(error).split())[:300]}",
        ) from error


def _holds_convolutions_alone(state: Mapping[str, Tensor]) -> bool:
    return all(name.startswith("features.") for name in state)


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, floats in float32.

    Raises:
        WeightsError: the file is damaged, holds more than weights, or numbers that are not finite.
    """
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # each format has its own errors; the remedy is the same
        raise WeightsError(
            "the file is damaged, or holds more than weights", where=path, do="fetch it again"
        ) from error
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    if broken := [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise WeightsError(
            f"{broken[0]} holds numbers that are not finite",
            where=path,
            expected="weights of a network that was trained to an end",
            do="fetch the file again, or name another",
        )
    return state


def _load_by_timm(params: Network, state: Mapping[str, Tensor]) -> nn.Module:
    """The backbone as the file has it, classifier included.

    timm converts the layouts it knows (torchvision's VGG, other sizes of position embeddings). A file without a
    classifier is loaded into a network without one.

    Raises:
        RuntimeError: a tensor is missing, left over, or of another shape.
    """
    config = timm.get_pretrained_cfg(params.backbone)
    key = f"{config.classifier}.weight" if config is not None else ""
    classes = state[key].shape[0] if key in state else (config.num_classes if config is not None else 1)
    settings = {**_backbone_settings(params), "drop_rate": params.drop_rate}
    problem: RuntimeError | None = None
    for num_classes in (classes, 0):
        overlay = {"state_dict": dict(state), "num_classes": num_classes, "label_offset": 0}
        own: dict[str, Any] = {"num_classes": num_classes, "pretrained_cfg_overlay": overlay, **settings}
        try:
            with _SkipDraws():
                return timm.create_model(params.backbone, pretrained=True, **own)
        except RuntimeError as error:
            problem = problem or error
    assert problem is not None  # the loop ends with a network or an error
    raise problem
