"""Whatever network stands in `resnet50.yaml`: every table, figure and sentence of 05_comparison says its own name."""

from __future__ import annotations

import pandas as pd
import pytest
from drawn_predictions import CLASSICAL, COMPARISON, SKILL, draw_metadata, draw_predictions
from tiny_study import make_params

from lesion_utils.config.schema import StudyParams
from lesion_utils.evaluation import literature, predictions, ranking, sentences, shortcuts, tables
from lesion_utils.evaluation.added_value import measure_added_value
from lesion_utils.figures.calibration import plot_decision_curve
from lesion_utils.figures.comparison import (
    plot_classifier_heatmap,
    plot_forest,
    plot_paired_differences,
    plot_regimes,
    plot_scores_by_block,
)
from lesion_utils.figures.roc import plot_roc
from lesion_utils.notebooks import checklist, comparison, finetune, headline


def make_study(first: str, second: str) -> StudyParams:
    raw = make_params().model_dump(mode="json")
    raw["resnet50"]["backbone"], raw["vgg19"]["backbone"] = first, second
    members = [["resnet50/finetune", "vgg19/finetune"], ["resnet50/finetune", "resnet50/features:logistic"]]
    own = COMPARISON.model_dump(exclude={"models"}) | {"combinations": members}
    return StudyParams.model_validate(raw | {"comparison": own})


def read_scores(folder, params: StudyParams) -> pd.DataFrame:
    """The files of 03 and 04, each with the name that its own backbone gives it, as 05 reads them."""
    everything = draw_predictions(skill=SKILL | CLASSICAL)
    for slot in params.models:
        own = everything[everything["model"] == slot].assign(model=getattr(params, slot).model)
        predictions.write_predictions(own, folder / f"{slot}.csv")
    return predictions.read_predictions(sorted(folder.glob("*.csv")), models=params.models)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "written"), [("convnext_atto.d2_in1k", "ConvNeXt-Atto"), ("vgg19.untrained", "VGG19 (untrained)")]
)
def test_another_backbone_is_called_by_its_name_in_every_table_figure_and_sentence(tmp_path, first, written):
    study = make_study(first, "vgg19.tv_in1k")
    settings = study.named_comparison
    trained = read_scores(tmp_path, study)
    alone = trained[trained["model"] == study.models["resnet50"]]
    scores = predictions.add_ensembles(trained, settings.averages)
    results, published = tables.tabulate_results(scores, settings), literature.read_published()
    order, comparisons = ranking.rank_on_validation(scores), ranking.compare_networks(scores, settings)
    picked = ranking.pick_classifiers(order)
    run = predictions.select_run(scores, model=study.models["vgg19"], regime="scratch")
    controls = tables.tabulate_controls(run.assign(control="size"), settings)
    board = literature.tabulate_leaderboard(results, published, controls, classifiers=picked)
    classifiers = literature.tabulate_classifiers(results, metric="ap")
    regimes = literature.tabulate_regimes(scores, results, published, settings)
    seen = shortcuts.examine(scores, draw_metadata(scores, model=study.models["vgg19"]), settings)
    blocks, models = seen.blocks, comparison.collect_models(scores)
    seeds = tables.summarise_seeds(results)
    calibrated = tables.tabulate_calibration(scores, settings)
    added = measure_added_value(scores, draw_metadata(scores, model=study.models["vgg19"]), settings)
    found = headline.Findings(results, seeds, order, comparisons, seen, settings, calibrated, added)
    said = headline.summarise(found)
    exclusions = tables.tabulate_exclusions(scores, {"one": ["ISIC_0000000"]})
    networks = checklist._describe_networks(study, said | {"regimes": ["scratch"]})
    figures = {
        "roc": plot_roc(models.targets, models.probs),
        "differences": plot_paired_differences(comparisons[comparisons["of_record"]]),
        "regimes": plot_regimes(regimes[regimes["model"] != ""]),
        "heat map": plot_classifier_heatmap(classifiers, metric="ap"),
        "forest": plot_forest(board[board["group"] == "this study"]),
        "by block": plot_scores_by_block(blocks[blocks["metric"] == "auc"]),
        "decision": plot_decision_curve(comparison.trace_benefit(models, settings)),
    }
    texts = {name: figure.alt for name, figure in figures.items()}
    frames = {
        "results": results, "seeds": seeds, "order": order, "paired": comparisons, "regimes": regimes,
        "calibration": tables.tabulate_calibration(scores, settings), "exclusions": exclusions, "blocks": blocks,
        "differences to controls": seen.differences,
        "board": board[board["group"] == "this study"],
    }  # fmt: skip
    texts |= {name: frame.to_csv() for name, frame in frames.items()}
    texts |= {
        "summary": str(said), "networks": str(networks), "detail": finetune.select_detail(alone).name,
        "validation": sentences.state_validation(order, pd.Series(["train", "val"]), study),
        "left out": str(sentences.describe_left_out(scores, settings)),
    }  # fmt: skip
    wrong = {name for name, text in texts.items() if "resnet" in text.lower().replace("@resnet50", "")}
    silent = {name for name, text in texts.items() if written not in text}
    assert not wrong
    assert silent <= ({"detail"} if "(" in written else set()), "03 knows its own backbone only"
    assert len(settings.averages) == 2 and f"{written} + VGG19" in str(settings.averages)


def test_an_average_is_named_after_what_it_averages():
    names = list(make_study("convnext_atto.d2_in1k", "vgg19.tv_in1k").named_comparison.averages)
    assert names == ["ConvNeXt-Atto + VGG19, fine-tuned", "ConvNeXt-Atto, fine-tuned + logistic regression"]
