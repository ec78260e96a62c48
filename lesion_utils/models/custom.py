"""Networks of one's own, registered with timm: a name written here can stand in a YAML file as `backbone`.

`small_cnn` shows all that a network needs. Copy it, change it, and nothing else in the project has to know.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

#: How timm describes networks: what their input looked like and which layer is the last.
default_cfgs = generate_default_cfgs(
    {
        "small_cnn.untrained": {
            "num_classes": 1000,
            "input_size": (3, 64, 64),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.25, 0.25, 0.25),
            "interpolation": "bilinear",
            "classifier": "fc",
        }
    }
)


class SmallCNN(nn.Module):
    """Four convolutions, each followed by BatchNorm and ReLU and halving the map, then the mean and a linear layer.

    Args:
        num_classes: logits; 0 makes a network without a last layer.
        in_chans: channels of the input.
        drop_rate: dropout before the last layer.
        width: channels after the first convolution; each level doubles them.
    """

    def __init__(self, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.0, width: int = 16):
        super().__init__()
        channels = [in_chans, *(width * 2**level for level in range(4))]
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True))
            for a, b in pairwise(channels)
        )
        self.drop = nn.Dropout(drop_rate)
        self.num_features = channels[-1]
        self.feature_info = [
            {"module": f"levels.{level}", "num_chs": channels[level + 1], "reduction": 2 ** (level + 1)}
            for level in range(4)
        ]  # the last one is where Grad-CAM looks
        self.reset_classifier(num_classes)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Names of the layers from the input on, for discriminative learning rates."""
        return {"stem": r"^levels\.0", "blocks": r"^levels\.(\d+)"}

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to a map of features (N, num_features, H/16, W/16)."""
        for level in self.levels:
            x = level(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """A map of features to logits, or to what the last layer sees."""
        x = self.drop(x.mean(dim=(2, 3)))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


@register_model
def small_cnn(pretrained: bool = False, **kwargs: Any) -> SmallCNN:
    """A small network, quick to train from scratch."""
    return build_model_with_cfg(SmallCNN, "small_cnn", pretrained, **kwargs)
