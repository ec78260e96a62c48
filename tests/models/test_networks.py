"""One contract over every family of networks, one's own among them; and weight files, sound and not."""

from __future__ import annotations

import copy
from pathlib import Path

import timm
import torch
from pytest import approx, fixture, mark, param, raises
from safetensors.torch import save_file
from sections import network_params
from timm.models import group_parameters
from tiny_study import regimes
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from lesion_utils.core.errors import ParamsError, WeightsError
from lesion_utils.models.networks import (
    WindowConv2d,
    build_network,
    data_config,
    features_of,
    gradcam_layer,
    head_of,
    leaves_out_wide_layers,
    make_architecture,
    multiply_full_windows,
    restore_network,
    stage_means,
)
from lesion_utils.models.weights import SIZES
from lesion_utils.training.optim import freeze_layers, parameter_groups, set_train_mode

BACKBONES = [
    "resnet50.tv_in1k",
    param("vgg19.tv_in1k", marks=mark.slow),  # 140 million weights, drawn and passed through by every test
    "mobilenetv2_100.ra_in1k",
    "convnext_atto.d2_in1k",
    "regnety_002",
    "resnet18",
]

VGG11_CONVOLUTIONS = make_layers(cfgs["A"], batch_norm=False)


@fixture(scope="module", params=[*BACKBONES, "small_cnn", "vit_tiny_patch16_224", "vgg11.tv_in1k, head average"])
def network(request):
    backbone, _, average = request.param.partition(",")
    params = network_params(backbone, head="average" if average else "original")
    return params, build_network(params, pretrained=False, seed=0)


@fixture
def x():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_one_logit_made_of_features_by_the_head(network, x):
    _, model = network
    model.eval()
    with torch.no_grad():
        logits, features = model(x), features_of(model, x)
        assert logits.shape == (2, 1) and features.ndim == 2
        assert torch.equal(head_of(model)(features), logits)


def test_every_parameter_is_in_one_group_slower_towards_the_input_and_norms_do_not_decay(network):
    params, model = network
    groups = parameter_groups(model, params, "finetune")
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(map(id, model.parameters()))
    rate = {id(p): g["lr"] for g in groups for p in g["params"]}
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert all(rate[id(p)] == approx(0.1) for p in head_of(model).parameters())
    first = next(p for p in model.parameters() if p.ndim == 4)
    assert rate[id(first)] == min(rate.values()) <= 0.1 * 0.8**2
    for name, p in model.named_parameters():
        undecayed = p.ndim <= 1 or name in ("cls_token", "pos_embed")
        assert decay[id(p)] == (0.0 if undecayed else 0.01), name


def test_layer_decay_of_one_is_one_rate(network):
    params, model = network
    flat = network_params(params.backbone, regimes=regimes(lr=0.1))
    assert {g["lr"] for g in parameter_groups(model, flat, "scratch")} == {0.1}


def test_features_regime_trains_the_head_alone(network):
    params, model = network
    groups = parameter_groups(model, params, "features")
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in head_of(model).parameters()}
    assert all(g["lr"] == 0.1 for g in groups)


def test_a_frozen_backbone_gets_no_gradient(network, x):
    params, model = network
    freeze_layers(model, params, "features")
    model(x).sum().backward()
    head = {id(p) for p in head_of(model).parameters()}
    assert all((p.grad is not None) == (id(p) in head) for p in model.parameters())
    freeze_layers(model, params, "finetune")
    assert all(p.requires_grad for p in model.parameters())
    model.zero_grad()


def test_batchnorm_policy(network, x):
    _, model = network
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [m.running_mean.clone() for m in norms]
    set_train_mode(model, batchnorm="frozen")
    model(x)
    assert all(torch.equal(m.running_mean, b) for m, b in zip(norms, before, strict=True))
    assert model.training
    set_train_mode(model, batchnorm="train")
    model(x)
    assert not any(torch.equal(m.running_mean, b) for m, b in zip(norms, before, strict=True))
    model.eval()


def test_gradcam_layer_is_the_last_map(network, x):
    params, model = network
    if params.backbone.startswith("vit"):
        with raises(ParamsError, match="convolutional"):
            gradcam_layer(model)
        return
    seen = []
    handle = gradcam_layer(model).register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    model.eval()(x)
    handle.remove()
    side = 4 if params.backbone.startswith(("vgg", "small_cnn")) else 2  # VGG: before its last pooling
    assert len(seen) == 1 and seen[0][2:] == (side, side)


def test_data_config_is_the_pretraining_one():
    resnet, small = (
        data_config(build_network(network_params(name), pretrained=False, seed=0)) for name in ("resnet18", "small_cnn")
    )
    assert resnet == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")  # a1_in1k
    assert small.mean == (0.5, 0.5, 0.5)
    assert torch.allclose(small.normalise(torch.full((1, 3, 2, 2), 0.75)), torch.tensor(1.0))


def test_the_seed_decides_the_weights_and_nothing_else_is_disturbed():
    params = network_params("resnet18")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c = (build_network(params, pretrained=False, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(a.conv1.weight, b.conv1.weight) and not torch.equal(a.conv1.weight, c.conv1.weight)


def test_dropout_is_the_one_of_the_parameters():
    model = build_network(network_params("resnet18", drop_rate=0.5), pretrained=False, seed=0)
    x = torch.rand(4, 3, 64, 64)
    zeros = [(features_of(model.train(mode), x) == 0).float().mean() for mode in (True, False)]
    assert zeros[0] > 0.3 > zeros[1]


def load(path: Path, backbone: str = "resnet10t", *, seed: int = 0) -> nn.Module:
    return build_network(network_params(backbone, weights=str(path)), pretrained=True, seed=seed)


@mark.parametrize(
    ("kind", "classes"), [("safetensors", 1000), ("safetensors", 7), ("safetensors", 0), ("pth", 0), ("half", 1000)]
)
def test_weight_files_are_loaded_whole(tmp_path, classes, kind):
    source = timm.create_model("resnet10t", num_classes=classes)
    state = {k: v.half() if kind == "half" and v.is_floating_point() else v for k, v in source.state_dict().items()}
    path = tmp_path / f"w.{'pth' if kind == 'pth' else 'safetensors'}"
    torch.save({"state_dict": state}, path) if kind == "pth" else save_file(state, path)
    model, again, other = (load(path, seed=seed) for seed in (3, 3, 4))
    assert model.fc.out_features == 1
    for name, value in model.state_dict().items():
        if not name.startswith("fc."):
            assert value.dtype == source.state_dict()[name].dtype
            assert torch.allclose(value.float(), state[name].float()), name
    assert torch.equal(model.fc.weight, again.fc.weight) and not torch.equal(model.fc.weight, other.fc.weight)


@mark.slow
def test_torchvision_vgg_is_converted(tmp_path):
    """The file that most people have of VGG19 is torchvision's, with fully connected layers."""
    import torchvision

    theirs = torchvision.models.vgg11().eval()
    torch.save(theirs.state_dict(), tmp_path / "vgg11-8a719046.pth")
    ours = load(tmp_path / "vgg11-8a719046.pth", "vgg11.tv_in1k")
    x = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = theirs.classifier[:-1](torch.flatten(theirs.avgpool(theirs.features(x)), 1))
        assert torch.allclose(features_of(ours.eval(), x), expected, atol=1e-5)


def test_a_vgg_with_an_averaging_head_is_its_convolutions_and_one_layer():
    """VGG19: the number of weights, the layers as timm counts them, and features that are the mean of the last map."""
    params = network_params("vgg19.tv_in1k", head="average", drop_rate=0.5)
    model = build_network(params, pretrained=False, seed=0).eval()
    assert sum(p.numel() for p in model.parameters()) == 20_024_897  # 16 convolutions, and 512 weights and a bias
    layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    assert len(set(layers.values())) == 17 and layers["head.fc.weight"] == 16
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(features_of(model, x), model.forward_features(x).mean(dim=(2, 3)))
        assert stage_means(model, x, stages=2).shape == (2, 1024)
    assert (features_of(model.train(), x) == 0).float().mean() > 0.3  # dropout


@mark.parametrize("holds", ["everything", "the convolutions alone"])
def test_a_vgg_with_an_averaging_head_takes_the_convolutions_of_a_file(holds, tmp_path):
    state = {f"features.{name}": value for name, value in VGG11_CONVOLUTIONS.state_dict().items()}
    if holds == "everything":
        state |= {f"classifier.{layer}.weight": torch.rand(4, 4) for layer in (0, 3, 6)}
    save_file({name: value.half() for name, value in state.items()}, tmp_path / "w.safetensors")
    params = network_params("vgg11.tv_in1k", head="average", weights=str(tmp_path / "w.safetensors"))
    model = build_network(params, pretrained=True, seed=1)
    assert all(torch.equal(v.half(), state[f"features.{n}"].half()) for n, v in model.features.state_dict().items())
    assert torch.equal(model.head.fc.weight, build_network(params, pretrained=True, seed=1).head.fc.weight)
    save_file({name: v for name, v in state.items() if name != "features.3.weight"}, tmp_path / "w.safetensors")
    with raises(WeightsError, match=r"do not fit vgg11.*[\s\S]*features\.3\.weight"):
        build_network(params, pretrained=True, seed=1)


@mark.slow  # 130 million weights are drawn before the file is seen to lack them
def test_a_file_of_convolutions_alone_says_which_head_it_fits(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({f"features.{name}": value for name, value in VGG11_CONVOLUTIONS.state_dict().items()}, path)
    with raises(WeightsError, match=r"do next +set head: average"):
        load(path, "vgg11.tv_in1k")


def test_a_network_that_averages_anyway_is_the_same_with_either_head():
    heads = [network_params("resnet10t", head=head) for head in ("original", "average")]
    assert [leaves_out_wide_layers(params) for params in heads] == [False, False]
    assert leaves_out_wide_layers(network_params("vgg11.tv_in1k", head="average"))


@mark.fault("weights", "NaN among the weights", "refused")
def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = timm.create_model("resnet10t").state_dict()
    state["layer3.0.conv1.weight"][0, 0] = float("nan")
    save_file(state, tmp_path / "w.safetensors")
    with raises(WeightsError, match=r"w\.safetensors: layer3.0.conv1.weight holds numbers that are not finite"):
        load(tmp_path / "w.safetensors")


@mark.fault("weights", "another network's weights, or a part of them", "refused, with the tensor's name")
def test_weights_with_a_missing_tensor_are_refused(tmp_path):
    state = timm.create_model("resnet10t").state_dict()
    del state["layer3.0.conv1.weight"]
    save_file(state, tmp_path / "w.safetensors")
    with raises(WeightsError, match=r"do not fit resnet10t[\s\S]*layer3.0.conv1.weight"):
        load(tmp_path / "w.safetensors")


@mark.parametrize("name, content", [("w.safetensors", b"short"), ("w.pth", b"not a checkpoint")])
@mark.fault("weights", "truncated or empty weights", "refused by name")
def test_damaged_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with raises(WeightsError, match="damaged"):
        load(tmp_path / name)


@mark.fault("weights", "code in a file of weights", "never run")
def test_a_checkpoint_that_runs_code_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    torch.save({"state_dict": Bomb()}, tmp_path / "w.pth")
    with raises(WeightsError):
        load(tmp_path / "w.pth")
    assert not (tmp_path / "exploded").exists()


@mark.parametrize("name", ["resnt50", "resnet50.xx_in1k"])
def test_unknown_backbones_are_named_with_their_like(name):
    with raises(ParamsError, match=r"no backbone[\s\S]*resnet50"):
        build_network(network_params(name), pretrained=False, seed=0)


@mark.slow
def test_real_resnet50_weights_see_imagenet(real_weights):
    """Pretrained features of two noisy copies of a picture are closer than those of two pictures."""
    model = load(real_weights / "resnet50.imagenet_pqf.safetensors", "resnet50.tv_in1k").eval()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    generator = torch.Generator().manual_seed(0)
    pictures = torch.nn.functional.interpolate(torch.rand(4, 3, 8, 8, generator=generator), size=96, mode="bicubic")
    noisy = pictures + 0.02 * torch.randn(pictures.shape, generator=generator)
    with torch.no_grad():
        a, b = (
            nn.functional.normalize(features_of(model, data_config(model).normalise(v)), dim=1)
            for v in (pictures, noisy)
        )
    assert (a @ b.T).argmax(1).tolist() == [0, 1, 2, 3]


def test_real_mobilenet_weights_without_a_classifier(real_weights):
    model = load(real_weights / "mobilenetv2_100.imagenet_features.safetensors", "mobilenetv2_100").eval()
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 1)


def test_download_sizes_are_those_of_the_networks():
    for tag, size in SIZES.items():
        with torch.device("meta"):
            state = timm.create_model(tag).state_dict()
        assert round(sum(t.numel() * t.element_size() for t in state.values()) / 1e6) == size


def test_a_window_as_large_as_its_input_is_a_matrix_product_of_the_same_numbers():
    """Outputs and gradients of VGG's first wide layer are those of the convolution."""
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(16, 32, 7).to(memory_format=torch.channels_last)
    product = multiply_full_windows(torch.nn.Sequential(copy.deepcopy(plain)))
    assert type(product[0]) is WindowConv2d and list(product[0].state_dict()) == list(plain.state_dict())
    for size in (7, 9):
        x = torch.randn(4, 16, size, size).contiguous(memory_format=torch.channels_last)
        plain.zero_grad()
        product.zero_grad()
        expected, found = plain(x), product(x)
        expected.square().sum().backward()
        found.square().sum().backward()
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(product[0].weight.grad, plain.weight.grad)
    with torch.device("meta"):
        vgg = multiply_full_windows(timm.create_model("vgg19"))
    assert [name for name, module in vgg.named_modules() if type(module) is WindowConv2d] == ["pre_logits.fc1"]


@mark.parametrize("backbone", ["resnet10t", "convnext_atto.d2_in1k", "vit_tiny_patch16_224", "small_cnn.untrained"])
def test_a_network_is_restored_from_its_weights_and_draws_none(backbone):
    params = network_params(backbone)
    model, x = build_network(params, pretrained=False, seed=3).eval(), torch.rand(2, 3, 64, 64)
    before = torch.random.get_rng_state()
    restored = restore_network(params, model.state_dict()).eval()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(restored(x), model(x))


def test_a_network_of_shapes_alone_is_described_as_the_real_one():
    params = network_params("resnet10t", head="original")
    outline, model = make_architecture(params, device="meta"), make_architecture(params)
    assert {n: v.shape for n, v in outline.state_dict().items()} == {n: v.shape for n, v in model.state_dict().items()}
    assert all(parameter.is_meta for parameter in outline.parameters())
