"""Inputs of every figure, ordinary and awkward: `FIGURES` maps a name to a call that draws it."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from lesion_utils.core.names import SeriesName, name_model, name_series
from lesion_utils.figures import calibration, cases, comparison, dataset, images, roc, training
from lesion_utils.figures.cases import OUTCOMES

LONG = "ResNet50 features, gradient boosting with a name that somebody made far too long for any legend"
NETWORKS = tuple(
    name_series(*key)
    for key in (("resnet50", "finetune"), ("vgg19", "finetune"), ("resnet50", "scratch"), ("vgg19", "features"))
)
SVM = SeriesName("VGG19 features, RBF SVM [best of 7 by validation]", "vgg19", "features:svm_rbf")


def add_keys(rows):
    """`model` and `regime` beside the name of each row, as the tables of 05 have them."""
    own = {name: (name.model, name.regime) for name in (*NETWORKS, SVM)}
    return rows.assign(
        **{key: [own.get(n, ("", ""))[k] for n in rows["name"]] for k, key in enumerate(("model", "regime"))}
    )


def draw_scores(n=120, names=NETWORKS[:2], seed=0):
    random = np.random.default_rng(seed)
    targets = np.r_[0, 1, random.random(n - 2) < 0.2].astype(int)
    return targets, {name: 1 / (1 + np.exp(1.5 - targets - random.normal(size=n))) for name in names}


def draw_images(n, size=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def name_ids(n):
    return [f"ISIC_{k:07d}" for k in range(n)]


def draw_table(n=80, sizes=((1022, 767), (4288, 2848), (600, 450)), subsets=("train", "val", "test", "left_out")):
    random = np.random.default_rng(1)
    frame = pd.DataFrame({"image_id": name_ids(n), "target": np.r_[0, 1, random.random(n - 2) < 0.3].astype(int)})
    frame["subset"] = random.choice(subsets, n)
    frame[["width", "height"]] = [sizes[k] for k in random.integers(0, len(sizes), n)]
    return frame.assign(red_mean=random.normal(180, 20, n), blue_std=random.gamma(3, 9, n), constant=7.0)


def draw_blocks(names):
    rows = [(b, s, 50 + 9 * k, 7 * k, 0.1 * k, 0.1 * k + 0.2) for k, b in enumerate(names) for s in ("train", "test")]
    return pd.DataFrame(rows, columns=["block", "split", "images", "malignant", "low", "high"])


def draw_history(regimes, seeds, epochs):
    rows = []
    for regime, seed, epoch in itertools.product(regimes, range(seeds), range(1, epochs + 1)):
        loss, score = 0.7 / epoch + 0.01 * seed, 0.8 - 0.3 / epoch
        rows.append((regime, seed, epoch, loss, loss + 0.1, score - 0.2, score, epoch == epochs))
    columns = ["regime", "seed", "epoch", "train_loss", "val_loss", "val_ap", "val_auc", "selected"]
    return pd.DataFrame(rows, columns=columns)


def draw_pairs(n):
    pair = {"image_id_a": "ISIC_0000280", "split_a": "train", "target_a": 1}
    pair |= {"image_id_b": "ISIC_0000279", "split_b": "test", "target_b": 1}
    return pd.DataFrame([pair | {"kind": "near", "pose": "mirrored, turned 270°", "similarity": 0.95}] * n)


def draw_forest(own):
    columns = ["name", "group", "ap", "auc", "ap_low", "ap_high", "auc_low", "auc_high"]
    rows = [(name, "this study", 0.6, 0.8, 0.5, 0.7, 0.75, 0.85) for name in own]
    rows += [("always benign", "controls", 0.2, 0.5)]
    rows += [(f"Somebody et al. {year}", "published", 0.6) for year in range(2016, 2020)]
    rows += [("neither metric", "published"), ("Eight dermatologists", "not comparable", None, 0.71)]
    return add_keys(pd.DataFrame([dict(zip(columns, row, strict=False)) for row in rows], columns=columns))


def draw_differences(names):
    tests = (("auc", -0.02, 0.08, 0.21), ("ap", -0.05, 0.15, np.nan), ("accuracy", np.nan, np.nan, 0.0002))
    rows = [(n, metric, 0.03, low, high, p, metric == "auc") for n in names for metric, low, high, p in tests]
    return pd.DataFrame(rows, columns=["name", "metric", "difference", "low", "high", "p", "primary"])


def draw_block_scores(blocks, names, value=0.8):
    rows = [(b, n, 50, 9, value if k else np.nan, 0.7, 0.9) for k, b in enumerate(blocks) for n in names]
    return add_keys(pd.DataFrame(rows, columns=["block", "name", "images", "malignant", "value", "low", "high"]))


def draw_heat(backbones, classifiers):
    rows = [(b, c, 0.5 + 0.03 * k, 0.4, 0.7) for k, (b, c) in enumerate(itertools.product(backbones, classifiers))]
    return pd.DataFrame(rows, columns=["backbone", "classifier", "value", "low", "high"])


def draw_regimes(metrics, regimes):
    sources = (("resnet50", False), ("vgg19", False), ("resnet50", True), ("VGG16, Lopez et al. 2017", True))
    rows = []
    for metric, regime, (source, balanced) in itertools.product(metrics, regimes, sources):
        model, *span = ("", np.nan, np.nan) if "et al" in source else (source, 0.6, 0.8)
        value = 1.03 if metric == "log_loss" else 0.7
        rows.append((regime, model, name_model(source), balanced, metric, value, *span))
    columns = ["regime", "model", "source", "balanced", "metric", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns).assign(mark="")


def draw_decision(names):
    grid = np.linspace(0.05, 0.5, 10)
    rows = [
        (n, t, 0.2 - 0.3 * t, 0.1 - 0.3 * t, 0.3 - 0.3 * t) for n in (*names, "treat all", "treat none") for t in grid
    ]
    return add_keys(pd.DataFrame(rows, columns=["name", "threshold", "net_benefit", "low", "high"]))


def draw_rates(layers: list[str]) -> pd.DataFrame:
    """Learning rates that fall from layer to layer and from step to step; in the first epoch the head alone."""
    time = np.arange(1, 61) / 10
    parts = [
        pd.DataFrame(
            {"time": time, "layers": name, "learning_rate": 1e-3 * 0.6**k * (1 - time / 7) * ((time > 1) | (k == 0))}
        )
        for k, name in reversed(list(enumerate(reversed(layers))))
    ]
    return pd.concat(parts, ignore_index=True)


GRID = np.linspace(0, 1, 21)
BAND = (GRID, GRID**0.9, GRID**0.3)
TARGETS, PROBS = draw_scores()
FEW, FEW_PROBS = draw_scores(n=4, names=NETWORKS[:1])
CONSTANT = {"always benign": np.zeros(120), LONG: np.full(120, 0.5)}
MATRIX = np.array([[292, 12], [47, 28]])
#: As 05 of the demo names them: three columns of these are wider than a figure.
NAMED_IN_FULL = [
    *("ResNet50, from scratch (one network)", "VGG19, from scratch (one network)"),
    "ResNet50 + VGG19, from scratch (mean of 2 models)",
    *(
        f"Metadata alone: {known}"
        for known in ("archive order", "block, size and bytes", "archive order, size and bytes")
    ),
]
MANY = [f"block {k}" for k in range(8)]
MAPS = np.random.default_rng(0).random((3, 7, 7))

FIGURES = {
    "class balance": lambda: dataset.plot_class_balance(draw_table()),
    "class balance, one part, one class": lambda: dataset.plot_class_balance(
        draw_table(subsets=["train"]).query("target == 0")
    ),
    "image sizes": lambda: dataset.plot_image_sizes(draw_table()),
    "image sizes, one size": lambda: dataset.plot_image_sizes(draw_table(sizes=[(256, 192)])),
    "image sizes, small": lambda: dataset.plot_image_sizes(draw_table(n=2, sizes=[(64, 48)])),
    "colour": lambda: dataset.plot_colour_statistics(
        draw_table(), columns={"red_mean": "mean of red (0 to 255)", "blue_std": "sd"}
    ),
    "colour, tiny": lambda: dataset.plot_colour_statistics(
        draw_table(n=2), columns=dict.fromkeys(["red_mean", "blue_std", "constant", "width"], "x")
    ),
    "blocks": lambda: dataset.plot_prevalence_by_block(
        draw_blocks(["0000000 to 0000999", "0001000 to 0009859", "0009860 to 0011402"]), kind="block of image numbers"
    ),
    "blocks, many": lambda: dataset.plot_prevalence_by_block(draw_blocks(MANY), kind="site"),
    "samples": lambda: images.plot_sample_grid(draw_images(8), name_ids(8), np.arange(8) % 2),
    "samples, one": lambda: images.plot_sample_grid(draw_images(1), name_ids(1), np.array([1])),
    "duplicates": lambda: images.plot_duplicate_pairs(draw_images(3), draw_images(3), draw_pairs(3)),
    "duplicates, one": lambda: images.plot_duplicate_pairs(draw_images(1), draw_images(1), draw_pairs(1)),
    "strips": lambda: images.plot_augmentation_strips(
        {
            "rotation": ([f"{a}°" for a in range(7)], draw_images(7)),
            "horizontal_flip": (["as it is", "flipped"], draw_images(2)),
            "hue": (["+0.000 turns"], draw_images(1)),
        }
    ),
    "augmented": lambda: images.plot_augmented_samples(
        draw_images(3),
        np.random.default_rng(0).random((3, 5, 24, 24, 3)),
        image_ids=name_ids(3),
        targets=np.array([0, 1, 0]),
    ),
    "learning curves": lambda: training.plot_learning_curves(draw_history(["scratch", "features", "finetune"], 3, 8)),
    "learning curves, one seed, one epoch": lambda: training.plot_learning_curves(draw_history(["scratch"], 1, 1)),
    "learning curves, no numbers": lambda: training.plot_learning_curves(
        draw_history(["features"], 1, 3).assign(val_loss=np.nan, train_loss=np.nan)
    ),
    "sample size": lambda: training.plot_sample_size(
        pd.DataFrame(
            {"images": [90, 448, 897], "repeats": [20, 20, 1]}
            | {
                f"{m}_{k}": [0.4, 0.5 + s, 0.6 + s]
                for m, s in (("ap", 0), ("auc", 0.2))
                for k in ("mean", "low", "high")
            }
        )
    ),
    "learning rates": lambda: training.plot_learning_rates(
        draw_rates(["stem", *(f"layer {k}" for k in range(16)), "head"])
    ),
    "learning rates, one course": lambda: training.plot_learning_rates(draw_rates(["conv1 to head.fc"])),
    "overfitting": lambda: training.plot_overfitting([0.9, 0.5, 0.2, 0.01], images=8),
    "margins": lambda: training.plot_margins(
        {
            "resnet50.regimes.finetune.lr": {"0.0001": [0.4, 0.5], "0.001": [0.52, 0.6]},
            "resnet50.mixup": {"0": [0.4, 0.6]},
        }
    ),
    "confusion": lambda: calibration.plot_confusion({"ResNet50": MATRIX}),
    "confusion, five": lambda: calibration.plot_confusion(dict.fromkeys((*NETWORKS, LONG), MATRIX)),
    "confusion, an empty row": lambda: calibration.plot_confusion({"nothing malignant": np.array([[5, 0], [0, 0]])}),
    "roc": lambda: roc.plot_roc(
        TARGETS, PROBS, bands={NETWORKS[0]: BAND}, summaries={NETWORKS[0]: "AUC 0.82 (0.77–0.87)"}
    ),
    "roc, with readers": lambda: roc.plot_roc(
        TARGETS,
        PROBS,
        readers={"Eight readers (Someone et al. 2018): sensitivity 0.82, specificity 0.59": (0.82, 0.59)},
    ),
    "roc, constant and long": lambda: roc.plot_roc(TARGETS, CONSTANT),
    "roc, four images": lambda: roc.plot_roc(FEW, FEW_PROBS),
    "precision recall": lambda: roc.plot_precision_recall(TARGETS, PROBS, bands={NETWORKS[0]: BAND}),
    "precision recall, constant and long": lambda: roc.plot_precision_recall(
        TARGETS, CONSTANT, summaries={LONG: "AP 0.2"}
    ),
    "precision recall, four images": lambda: roc.plot_precision_recall(FEW, FEW_PROBS),
    "scores": lambda: calibration.plot_score_distributions(TARGETS, draw_scores(names=NETWORKS)[1]),
    "scores, constant": lambda: calibration.plot_score_distributions(TARGETS, CONSTANT),
    "reliability": lambda: calibration.plot_reliability(
        TARGETS, {"before": PROBS[NETWORKS[0]], "recalibrated": PROBS[NETWORKS[1]]}, confidence=0.95
    ),
    "reliability, four panels": lambda: calibration.plot_reliability(
        TARGETS, draw_scores(names=NETWORKS)[1], confidence=0.95
    ),
    "reliability, six panels": lambda: calibration.plot_reliability(
        TARGETS,
        {
            f"{network}, {stage}": PROBS[NETWORKS[0]]
            for network in ("ResNet50, fine-tuned", "ResNet50, from scratch", "VGG19, from scratch")
            for stage in ("as trained", "recalibrated")
        },
        confidence=0.95,
    ),
    "reliability, constant": lambda: calibration.plot_reliability(TARGETS, CONSTANT, confidence=0.95),
    "reliability, one panel": lambda: calibration.plot_reliability(FEW, FEW_PROBS, confidence=0.95),
    "decision": lambda: calibration.plot_decision_curve(draw_decision(NETWORKS)),
    "decision, one": lambda: calibration.plot_decision_curve(draw_decision([LONG])),
    "predictions": lambda: cases.plot_prediction_grid(draw_images(120), name_ids(120), TARGETS, PROBS[NETWORKS[0]]),
    "predictions, nothing malignant called": lambda: cases.plot_prediction_grid(
        draw_images(120), name_ids(120), TARGETS, np.zeros(120)
    ),
    "gradcam": lambda: cases.plot_gradcam_grid(
        draw_images(3),
        {"ResNet50": MAPS, "ResNet50, weights randomised": MAPS},
        labels=["TP\nISIC_0000001\np = 0.91"] * 3,
        targets=np.array([1, 0, 1]),
    ),
    "gradcam, flat": lambda: cases.plot_gradcam_grid(
        draw_images(1), {"VGG19": np.zeros((1, 7, 7))}, labels=["x"], targets=np.array([1])
    ),
    "mean maps": lambda: cases.plot_mean_maps(dict.fromkeys(OUTCOMES, MAPS[0]), counts=dict.fromkeys(OUTCOMES, 95)),
    "mean maps, one": lambda: cases.plot_mean_maps({"TN": 0 * MAPS[0]}, counts={"TN": 304}),
    "forest": lambda: comparison.plot_forest(draw_forest(NETWORKS)),
    "forest, combinations": lambda: comparison.plot_forest(
        draw_forest([*NETWORKS, "ResNet50, fine-tuned + RBF SVM", SVM])
    ),
    "forest, long names": lambda: comparison.plot_forest(draw_forest([LONG])),
    "differences": lambda: comparison.plot_paired_differences(draw_differences(["ResNet50 − VGG19, fine-tuned", LONG])),
    "differences, small": lambda: comparison.plot_paired_differences(
        draw_differences(["ResNet50 − VGG19, from scratch"]).assign(difference=0.001, low=-0.018, high=0.02)
    ),
    "differences, one": lambda: comparison.plot_paired_differences(draw_differences(["a − b"]).iloc[:1]),
    "by block": lambda: comparison.plot_scores_by_block(draw_block_scores(MANY[:3], NETWORKS)),
    "by block, many": lambda: comparison.plot_scores_by_block(draw_block_scores(MANY, NETWORKS[:1])),
    "by block, long names": lambda: comparison.plot_scores_by_block(
        draw_block_scores(MANY[:3], NAMED_IN_FULL).assign(
            model=lambda rows: rows["name"].map(lambda name: "control" if "alone" in name else "resnet50"),
            regime=lambda rows: rows["name"],
        )
    ),
    "heat map": lambda: comparison.plot_classifier_heatmap(
        draw_heat(["resnet50", "vgg19"], ["svm_rbf", "knn", "logistic"]), metric="ap"
    ),
    "heat map, gaps": lambda: comparison.plot_classifier_heatmap(
        draw_heat(["resnet50", "vgg19", "mobilenetv2_100"], ["knn", LONG]).iloc[:-1], metric="ap"
    ),
    "heat map, none": lambda: comparison.plot_classifier_heatmap(draw_heat([], []), metric="ap"),
    "heat map, one cell": lambda: comparison.plot_classifier_heatmap(draw_heat(["vgg19"], ["knn"]), metric="ap"),
    "regimes": lambda: comparison.plot_regimes(
        draw_regimes(
            ["accuracy", "sensitivity", "specificity", "precision", "log_loss"], ["scratch", "features", "finetune"]
        )
    ),
    "regimes, marked": lambda: comparison.plot_regimes(
        draw_regimes(["accuracy", "log_loss"], ["scratch", "features", "finetune"]).assign(mark="secondary source"),
    ),
    "regimes, one": lambda: comparison.plot_regimes(draw_regimes(["auc"], ["scratch"])),
}
