"""Each operation against an independent implementation of it; and that chance belongs to (seed, epoch, sample)."""

from __future__ import annotations

import colorsys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_study import NO_AUGMENTATION
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from lesion_utils.config.schema import Augmentation
from lesion_utils.models.preprocess import flip_views, resize_batch
from lesion_utils.training import augment
from lesion_utils.training.augment import FACTORS, OPERATIONS, Augmenter, apply_changes, draw_changes, operation_range

ON = {
    "rotation": 180.0, "horizontal_flip": 0.5, "vertical_flip": 0.5, "scale": [0.7, 1.4], "translation": 0.2,
    "shear": 10.0, "brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.05,
}  # fmt: skip


class CountOperations(TorchDispatchMode):
    """Counts operations that compute; views of a tensor start no kernel."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def make_params(**changes) -> Augmentation:
    return Augmentation(**(NO_AUGMENTATION | {"fill": "zeros"} | changes))


def make_images(count: int, size: int, *, seed: int = 0) -> torch.Tensor:
    """Smooth colour images: (count, size, size, 3) uint8 with values that stay clear of 0 and 255."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed)) * 140 + 60
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=True)
    return smooth.clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def test_the_numbers_of_a_batch_come_to_the_device_in_one_copy(monkeypatch):
    copy, copies = augment.copy_to, []
    monkeypatch.setattr(augment, "copy_to", lambda device, tensor: copies.append(tensor.shape) or copy(device, tensor))
    Augmenter(make_params(**ON), image_size=16, seed=1)(make_images(5, 20), torch.arange(5), 0)
    assert copies == [(5, 6 + 1 + 9 + 1 + 3)], "geometry, sides, colours, share of the mean luma, luma"


def change(images: torch.Tensor, *, size: int | None = None, fill: str = "zeros", **strengths) -> torch.Tensor:
    """Apply given strengths, the same to every image."""
    neutral = {name: float(name in FACTORS) for name in OPERATIONS} | {"translation": (0.0, 0.0)}
    draws = {name: np.array([value] * len(images)) for name, value in (neutral | strengths).items()}
    return apply_changes(images, draws, image_size=size or images.shape[1], params=make_params(fill=fill))


def as_float(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("stored, size", [(64, 64), (96, 64), (200, 48)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_ranges_of_zero_leave_a_plain_resize(stored, size, interpolation):
    images = make_images(3, stored)
    augment = Augmenter(make_params(), image_size=size, seed=1, interpolation=interpolation)
    resized = resize_batch(images, size, interpolation=interpolation)
    assert torch.equal(augment(images, torch.arange(3), 0), resized)
    resampling = Image.Resampling[interpolation.upper()]
    oracle = np.stack([np.asarray(Image.fromarray(i.numpy()).resize((size, size), resampling)) for i in images])
    assert np.abs(resized.permute(0, 2, 3, 1).numpy() * 255 - oracle).max() <= 1.01


def test_images_of_the_right_size_are_not_touched():
    images = make_images(2, 32)
    assert torch.equal(resize_batch(images, 32), as_float(images))


@pytest.mark.parametrize("flips, dims", [({"horizontal_flip": 1}, (3,)), ({"vertical_flip": 1}, (2,))])
def test_flips_are_exact(flips, dims):
    images = make_images(2, 33)
    assert torch.equal(change(images, **flips), as_float(images).flip(dims))


def test_flip_in_company_of_a_rotation_is_a_flip():
    images = make_images(1, 33)
    both = change(images, rotation=20.0, horizontal_flip=1)
    flipped_first = change(images.flip(2), rotation=20.0)
    assert (both - flipped_first).abs().max() < 1e-4


def test_positive_rotation_is_counter_clockwise_as_in_pillow():
    images = make_images(1, 65)
    for angle in (-150.0, -30.0, 7.5, 90.0):
        oracle = np.asarray(Image.fromarray(images[0].numpy()).rotate(angle, Image.Resampling.BILINEAR)) / 255
        ours = change(images, rotation=angle)[0].permute(1, 2, 0).numpy()
        row, column = np.ogrid[-1:1:65j, -1:1:65j]
        inside = row**2 + column**2 < 0.9  # what no rotation moves out of the frame
        assert np.abs(ours - oracle)[inside].max() < 0.02
    assert (change(images, rotation=90.0) - torch.rot90(as_float(images), 1, (2, 3))).abs().max() < 1e-4


@settings(max_examples=40)
@given(st.floats(-180, 180), st.floats(0.5, 2), *[st.floats(-0.4, 0.4)] * 2, st.floats(-40, 40), st.integers(0, 9))
def test_composed_geometry_agrees_with_torchvision(rotation, scale, right, down, shear, seed):
    images = make_images(1, 64, seed=seed)
    ours = change(images, rotation=rotation, scale=scale, translation=(right, down), shear=shear)
    settings = {"angle": -rotation, "translate": [right * 64, down * 64], "scale": scale, "shear": [shear, 0.0]}
    affine = partial(tv.affine, interpolation=InterpolationMode.BILINEAR, fill=0.0, **settings)
    within = torch.zeros(1, 1, 64, 64)
    within[..., 2:-2, 2:-2] = 1  # at the very edge, torchvision's fill and ours differ by half a pixel
    covered = affine(within) > 0.999
    tolerance = 2e-3 if scale >= 1 else 0.04  # ours is antialiased where it reduces, torchvision's is not
    assert torch.where(covered, ours - affine(as_float(images)), 0).abs().max() < tolerance
    assert covered.any()


def test_reflection_continues_the_image():
    images = make_images(1, 32)
    shifted = change(images, translation=(0.25, 0.0), fill="reflect")
    assert torch.allclose(shifted[..., :8], as_float(images)[..., :8].flip(3), atol=1e-4)
    assert torch.allclose(shifted[..., 8:], as_float(images)[..., :24], atol=1e-4)
    zeros = change(images, translation=(0.25, 0.0), fill="zeros")
    assert zeros[..., :7].max() == 0
    border = change(images, translation=(0.25, 0.0), fill="border")
    assert torch.allclose(border[..., :8], as_float(images)[..., :1].expand(-1, -1, -1, 8), atol=1e-4)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.7, 1.2])
def test_colour_agrees_with_torchvision(name, factor):
    images = make_images(3, 32)
    adjusted = getattr(tv, f"adjust_{name}")(as_float(images), factor)
    assert (change(images, **{name: factor}) - adjusted).abs().max() < 2e-3


def test_saturation_and_hue_scale_and_turn_the_chroma_plane_of_yiq():
    images = make_images(1, 8)
    ours = change(images, saturation=0.5, hue=0.1)
    for rgb, got in zip(*(x[0].permute(1, 2, 0).reshape(-1, 3).numpy() for x in (as_float(images), ours)), strict=True):
        y, i, q = colorsys.rgb_to_yiq(*rgb)
        chroma = 0.5 * complex(i, q) * np.exp(2j * np.pi * 0.1)
        expected = colorsys.yiq_to_rgb(y, chroma.real, chroma.imag)
        assert np.abs(np.array(expected) - got).max() < 0.01  # colorsys rounds its matrices
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    assert ((as_float(images) - ours) * luma).sum(1).abs().max() < 1e-5


def test_colours_stay_in_range():
    images = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x = change(images, brightness=1.9, contrast=1.9, saturation=1.9, hue=0.5)
    assert x.min() >= 0 and x.max() <= 1 and x.dtype == torch.float32


@settings(max_examples=25)
@given(st.permutations(range(10)), st.integers(1, 10), st.integers(0, 2**32 - 1), st.integers(0, 50))
def test_company_and_order_in_a_batch_change_nothing(order, size, seed, epoch):
    images, indices = make_images(10, 24), torch.arange(10) * 7
    augment = Augmenter(Augmentation(**ON, fill="reflect"), image_size=20, seed=seed)
    together = augment(images, indices, epoch)
    chosen = torch.tensor(order[:size])
    assert torch.equal(augment(images[chosen], indices[chosen], epoch), together[chosen])


def test_number_of_threads_changes_nothing():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 256, 256, 3), dtype=np.uint8))
    augment = Augmenter(Augmentation(**ON, fill="reflect"), image_size=224, seed=1)
    before, made = torch.get_num_threads(), []
    try:
        for cores in (1, 2, 3):
            torch.set_num_threads(cores)
            made.append((augment(images, torch.arange(8), 3), resize_batch(images, 224)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, made[0][k]) for several in made for k, one in enumerate(several))


@settings(max_examples=30)
@given(st.sampled_from(["reflect", "border", "zeros"]), st.sampled_from([(40, 32), (64, 24), (48, 48)]), st.integers())
def test_a_batch_as_a_whole_is_resampled_as_its_images_one_by_one(fill, sizes, seed):
    """The first is what a GPU does."""
    stored, size = sizes
    images = torch.from_numpy(np.random.default_rng(abs(seed)).integers(0, 256, (6, stored, stored, 3), dtype=np.uint8))
    params = make_params(**ON | {"scale": [0.5, 2.0], "translation": 0.4})
    draws = draw_changes(params, np.arange(6), seed=abs(seed) % 2**32, epoch=0)
    sides = np.array([min(stored, round(size * scale)) for scale in draws["scale"]])
    grid = augment._sampling_grid(torch.from_numpy(augment.compose_geometry(draws)).float(), size)
    one_by_one = augment._warp_each(images, sides, grid, fill=fill, interpolation="bilinear")
    together = augment._warp_together(images, sides, torch.from_numpy(sides).float(), grid, fill=fill)
    torch.testing.assert_close(together, one_by_one, atol=0.05, rtol=0)  # of 255; coordinates are rounded


def test_a_gpu_starts_as_many_kernels_for_a_large_batch_as_for_a_small_one(monkeypatch):
    monkeypatch.setattr(augment, "copy_to", lambda _, tensor: tensor.to("meta"))
    augmenter = Augmenter(make_params(**ON), image_size=32, seed=1)
    counts = []
    for size in (32, 32, 4):  # the first prepares the weights of each side
        images, numbers = make_images(size, 40).to("meta"), torch.arange(size)
        with CountOperations() as operations:
            augmenter(images, numbers, 0)
        counts.append(operations.count)
    assert counts[1] == counts[2] < min(65, counts[0]), counts


def test_seed_epoch_and_sample_each_change_the_draw():
    params = Augmentation(**ON, fill="reflect")
    draw = lambda i, seed, epoch: draw_changes(params, np.array([i]), seed=seed, epoch=epoch)["rotation"][0]  # noqa: E731
    assert len({draw(i, seed, epoch) for i in (0, 1, 900) for seed in (0, 1) for epoch in (0, 1)}) == 12
    assert draw(5, 3, 2) == draw(5, 3, 2)


def test_draws_fill_their_ranges():
    params = Augmentation(**ON, fill="reflect")
    draws = draw_changes(params, np.arange(20_000), seed=0, epoch=0)
    for name in OPERATIONS:
        low, high = operation_range(params, name)
        values = draws[name]
        assert low <= values.min() and values.max() <= high
        if name.endswith("_flip"):
            assert abs(values.mean() - 0.5) < 0.02
        elif name == "scale":
            assert np.log(values).mean() == pytest.approx(np.log(low * high) / 2, abs=0.01)
            assert values.min() < low * 1.01 and values.max() > high * 0.99
        else:
            assert abs(values.mean() - (low + high) / 2) < 0.02 * (high - low)
            assert values.std() == pytest.approx((high - low) / np.sqrt(12), rel=0.02)  # uniform
    columns = np.column_stack([draws["translation"], *(draws[n] for n in OPERATIONS if n != "translation")])
    correlation = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert np.abs(correlation).max() < 0.03  # no operation follows another


@pytest.mark.parametrize("name", ON)
def test_every_operation_does_something_alone(name):
    images = make_images(6, 24)
    augment = Augmenter(make_params(**{name: ON[name]}), image_size=24, seed=0)
    changed = (augment(images, torch.arange(6), 0) - as_float(images)).abs().amax(dim=(1, 2, 3)) > 0.01
    assert changed.sum() >= (1 if name.endswith("_flip") else 4)


@pytest.mark.parametrize(("stored", "size"), [(256, 32), (72, 64), (256, 224)])
@pytest.mark.parametrize("scale", [[1.0, 1.0], [0.8, 0.8], [0.9, 1.15]])
def test_training_views_are_as_antialiased_as_evaluation_views(stored, size, scale):
    noise = torch.randint(0, 256, (4, stored, stored, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augment = Augmenter(make_params(rotation=10.0, scale=scale, fill="reflect"), image_size=size, seed=0)

    def high_frequencies(x):
        return x.diff(dim=2).square().mean().sqrt() + x.diff(dim=3).square().mean().sqrt()

    assert high_frequencies(augment(noise, torch.arange(4), 0)) < 1.05 * high_frequencies(resize_batch(noise, size))


def test_without_a_change_of_colour_none_is_computed(monkeypatch):
    monkeypatch.setattr("lesion_utils.training.augment.compose_colour", lambda draws: 1 / 0)
    images = make_images(2, 16)
    assert torch.equal(change(images), as_float(images))
    with pytest.raises(ZeroDivisionError):
        change(images, hue=0.01)


def test_eight_views_are_the_symmetries_of_the_square():
    x = torch.rand(2, 3, 5, 5)
    views = flip_views(x)
    assert torch.equal(views[0], x)
    assert len({v.numpy().tobytes() for v in views}) == 8
    again = {w.numpy().tobytes() for v in views for w in flip_views(v)}
    assert again == {v.numpy().tobytes() for v in views}  # closed under itself: a group
