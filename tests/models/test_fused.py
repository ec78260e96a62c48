"""Networks that are fused for scoring give what they gave, whatever their structure, and stay as they were."""

from dataclasses import replace

import pytest
import torch
from sections import network_params
from torch import nn

from lesion_utils.models.compute import Compute
from lesion_utils.models.fused import _FusedConv2d, fuse_network
from lesion_utils.models.networks import build_network, features_of

FLOAT32 = Compute("cpu", "any", "float32", 1, "exact", torch.__version__)
BFLOAT16 = replace(FLOAT32, precision="bfloat16")


def draw_network(name: str) -> nn.Module:
    """A network, "vgg11 average" for one with that head, whose BatchNorm has statistics, as after training."""
    backbone, *head = name.split()
    params = network_params(backbone, head=head[0] if head else "original", image_size=224)
    model = build_network(params, pretrained=False, seed=0)
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.1)
    return FLOAT32.place(model).eval()


@pytest.mark.parametrize(
    ("backbone", "convolutions"),
    [
        pytest.param("resnet50", 53, marks=pytest.mark.slow),
        ("resnet18", 20),
        ("vgg11 average", 8),
        pytest.param("vgg11", 8, marks=pytest.mark.slow),  # 130 million weights
        pytest.param("densenet121", 1, marks=pytest.mark.slow),
        ("mobilenetv3_small_050", 1),
        ("convnext_atto", 0),
        ("vit_tiny_patch16_224", 0),
    ],
)
@torch.no_grad()
def test_a_fused_network_gives_the_same_features(backbone, convolutions):
    model = draw_network(backbone)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.rand(3, 3, 224, 224) if "vit" in backbone else torch.rand(3, 3, 64, 64)
    x = x.contiguous(memory_format=torch.channels_last)
    expected, fused = features_of(model, x), fuse_network(model, features_of, compute=FLOAT32, example=x)
    assert sum(isinstance(module, _FusedConv2d) for module in getattr(fused, "modules", list)()) >= convolutions
    for count in (3, 2):  # the last batch is smaller
        torch.testing.assert_close(fused(x[:count]), expected[:count], rtol=1e-4, atol=1e-5 * expected.abs().max())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("backbone", "convolutions"), [("resnet18", 20), ("vgg11 average", 8), ("convnext_atto", 0)])
@torch.no_grad()
def test_a_fused_network_in_bfloat16_is_as_exact_as_autocast(backbone, convolutions):
    """The weights are converted once, and BatchNorm is folded before that, so nothing is rounded more often."""
    model = draw_network(backbone)
    x = torch.rand(3, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    exact, fused = features_of(model, x), fuse_network(model, features_of, compute=BFLOAT16, example=x)
    with BFLOAT16.autocast():
        found, plain = fused(x), features_of(model, x)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():  # oneDNN wants AVX-512; without it, the network is scored as it is
        assert sum(isinstance(module, _FusedConv2d) for module in getattr(fused, "modules", list)()) >= convolutions
    assert not torch.equal(found.float(), exact), "it computes in bfloat16"
    error, error_of_autocast = ((y.float() - exact).abs().max() / exact.abs().max() for y in (found, plain))
    assert error <= max(1.5 * error_of_autocast, 0.01)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


class Branching(nn.Module):
    """What the graph must not hold: the input decides where Python goes."""

    def forward_features(self, x):
        return x * 2 if x.sum() > 0 else x

    def forward_head(self, x, pre_logits):
        return x.flatten(1)


class Rectifying(nn.Module):
    """A convolution whose input is changed in place before its result is added to something."""

    def __init__(self):
        super().__init__()
        self.conv, self.inplace, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), nn.ReLU()

    def forward_features(self, x):
        x = x - 0.5
        y = self.conv(x)
        return self.relu(y + self.inplace(x))

    def forward_head(self, x, pre_logits):
        return x.flatten(1)


@pytest.mark.parametrize("kind", [Branching, Rectifying])
@torch.no_grad()
def test_a_network_of_another_structure_gives_the_same_features(kind):
    torch.manual_seed(0)
    model, x = kind().eval(), torch.rand(2, 3, 8, 8)
    fused = fuse_network(model, features_of, compute=FLOAT32, example=x)
    for sign in (1, -1):
        torch.testing.assert_close(fused(sign * x), features_of(model, sign * x))
