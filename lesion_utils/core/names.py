"""How networks, regimes and classifiers are written, in figures, tables and sentences alike."""

from __future__ import annotations

MODEL_NAMES = {"resnet50": "ResNet50", "vgg19": "VGG19"}
REGIME_NAMES = {"scratch": "from scratch", "features": "frozen features", "finetune": "fine-tuned"}
CLASSIFIER_NAMES = {
    "logistic": "logistic regression", "knn": "k nearest neighbours", "svm_linear": "linear SVM",
    "svm_rbf": "RBF SVM", "svm_cubic": "cubic SVM", "random_forest": "random forest",
    "gradient_boosting": "gradient boosting",
}  # fmt: skip

#: The `model` of rows that average several networks or classifiers; their `regime` is the name that the study gives.
COMBINATION = "combination"


def name_series(model: str, regime: str) -> str:
    """How a (model, regime) of `predictions.csv` is written everywhere.

    >>> name_series("resnet50", "finetune"), name_series("vgg19", "features:svm_rbf")
    ('ResNet50, fine-tuned', 'VGG19 features, RBF SVM')
    """
    if model == COMBINATION:
        return regime
    network = MODEL_NAMES.get(model, model)
    stage, _, classifier = regime.partition(":")
    if classifier:
        return f"{network} features, {CLASSIFIER_NAMES.get(classifier, classifier)}"
    return f"{network}, {REGIME_NAMES.get(stage, stage)}"
