"""Figures: each function draws one, from plain arrays and tables, and returns it.

A figure is shown by being the last value of a notebook's cell, and written by `save`. Class order and colours are the
same everywhere; widths are those of one or two columns of a journal's page.
"""

from lesion_utils.plots.cases import plot_gradcam_grid, plot_prediction_grid, select_outcomes
from lesion_utils.plots.comparison import plot_forest, plot_paired_differences, plot_scores_by_block
from lesion_utils.plots.curves import plot_precision_recall, plot_roc
from lesion_utils.plots.dataset import (
    plot_class_balance,
    plot_colour_statistics,
    plot_image_sizes,
    plot_prevalence_by_block,
)
from lesion_utils.plots.decisions import (
    plot_confusion,
    plot_decision_curve,
    plot_reliability,
    plot_score_distributions,
)
from lesion_utils.plots.papers import plot_classifier_heatmap, plot_regimes
from lesion_utils.plots.style import SCREEN_SCALE, save, stamp
from lesion_utils.plots.tiles import (
    plot_augmentation_strips,
    plot_augmented_samples,
    plot_duplicate_pairs,
    plot_sample_grid,
)
from lesion_utils.plots.training import plot_learning_curves

__all__ = [
    "SCREEN_SCALE",
    "plot_augmentation_strips",
    "plot_augmented_samples",
    "plot_class_balance",
    "plot_classifier_heatmap",
    "plot_colour_statistics",
    "plot_confusion",
    "plot_decision_curve",
    "plot_duplicate_pairs",
    "plot_forest",
    "plot_gradcam_grid",
    "plot_image_sizes",
    "plot_learning_curves",
    "plot_paired_differences",
    "plot_precision_recall",
    "plot_prediction_grid",
    "plot_prevalence_by_block",
    "plot_regimes",
    "plot_reliability",
    "plot_roc",
    "plot_sample_grid",
    "plot_score_distributions",
    "plot_scores_by_block",
    "save",
    "select_outcomes",
    "stamp",
]
