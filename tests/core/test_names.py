"""A network is named after its backbone, whatever file it stands in."""

from __future__ import annotations

import doctest

import pytest

from lesion_utils.core import names


@pytest.mark.parametrize(
    ("model", "written"),
    [
        ("resnet50", "ResNet50"),
        ("vgg16_bn", "VGG16-BN"),
        ("wide_resnet50_2", "Wide ResNet50-2"),
        ("convnextv2_atto", "ConvNeXtV2-Atto"),
        ("tf_efficientnetv2_s", "TF EfficientNetV2-S"),
        ("densenet121", "DenseNet121"),
        ("vit_tiny_patch16_384", "ViT-Tiny/16-384"),
        ("resnet50.tv_in1k@vgg19", "ResNet50 (tv_in1k, vgg19.yaml)"),
        ("resnetish_50", "resnetish_50"),
    ],
)
def test_networks_are_written_as_their_authors_write_them_and_unknown_ones_as_timm_does(model, written):
    assert names.name_model(model) == written


def test_the_mean_of_anything_is_named_after_all_that_it_averages():
    mixed = [("resnet50", "finetune"), ("vgg19", "features:knn")]
    assert names.name_combination(mixed) == "(ResNet50, fine-tuned) + (VGG19 features, k nearest neighbours)"
    both = [("resnet50", "features:knn"), ("vgg19", "features:knn")]
    assert names.name_combination(both) == "ResNet50 + VGG19 features, k nearest neighbours"
    assert names.name_series(names.COMBINATION, "both") == "both"


def test_the_examples_in_the_docstrings_hold():
    done = doctest.testmod(names)
    assert done.attempted and not done.failed
