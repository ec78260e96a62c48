"""The schema of a study: how images are changed, networks trained and compared; every key's meaning, unit and range.

Nothing here has a default: a default is chosen once, in the YAML file, with its reason beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import ConfigDict, Field, model_validator

from lesion_utils.config.data import UNRECORDED, Data
from lesion_utils.config.section import Fraction, Pixels, Probability, Section, Seed
from lesion_utils.core.errors import ParamsError
from lesion_utils.core.names import find_architecture, name_combination, tell_models_apart

Regime = Literal["scratch", "features", "finetune"]
Classifier = Literal["logistic", "knn", "svm_linear", "svm_rbf", "svm_cubic", "random_forest", "gradient_boosting"]

#: The two regimes that start from pretrained weights.
PRETRAINED_REGIMES = ("features", "finetune")


class Augmentation(Section):
    """augmentation.yaml: random changes of the training images, drawn anew each epoch."""

    rotation: float = Field(ge=0, le=180, description="largest rotation either way, degrees")
    horizontal_flip: Probability = Field(description="probability of a left-right flip")
    vertical_flip: Probability = Field(description="probability of an up-down flip")
    scale: list[Annotated[float, Field(ge=0.25, le=4)]] = Field(
        min_length=2, max_length=2, description="smallest and largest magnification; 1 is the image as it is"
    )
    translation: float = Field(ge=0, le=0.5, description="largest shift either way, share of the side")
    shear: float = Field(ge=0, le=45, description="largest shear either way, degrees")
    brightness: float = Field(ge=0, le=0.9, description="largest relative change of brightness")
    contrast: float = Field(ge=0, le=0.9, description="largest relative change of contrast")
    saturation: float = Field(ge=0, le=0.9, description="largest relative change of saturation")
    hue: float = Field(ge=0, le=0.5, description="largest shift of hue, share of the colour circle")
    fill: Literal["reflect", "border", "zeros"] = Field(description="what lies beyond the image's edge")

    @model_validator(mode="after")
    def _scale_is_ordered(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError("scale: the first number is the smallest magnification, the second the largest")
        return self


class Optim(Section):
    """The optimiser, shared by every regime of a network."""

    name: Literal["sgd", "adamw"] = Field(description="stochastic gradient descent with momentum, or AdamW")
    momentum: float = Field(ge=0, lt=1, description="momentum of SGD, or AdamW's first beta")
    weight_decay: float = Field(ge=0, le=1, description="decay of weights; norms and biases are never decayed")
    clip_norm: float = Field(ge=0, le=100, description="largest norm of the gradient; 0 leaves it alone")
    warmup_epochs: float = Field(
        ge=0, le=20, description="epochs over which the learning rate rises linearly; half of a single epoch at most"
    )
    final_lr: Probability = Field(description="learning rate at the end of the cosine, share of the peak")


class RegimeParams(Section):
    """How one of Lopez's three regimes is trained."""

    epochs: int = Field(ge=1, le=1000, description="passes over the training images")
    lr: float = Field(gt=0, le=10, description="peak learning rate of the last layer")
    image_size: Pixels | None = Field(
        description="side of the network's input in this regime, px; null: the network's own"
    )
    head: Literal["new", "fitted"] = Field(
        description="how the last layer starts: with random weights, or fitted to convergence (logistic regression) on "
        "the frozen network's features"
    )
    frozen_layers: int = Field(
        ge=0, le=1000, description="layers, counted from the input as timm counts them, that keep the weights they have"
    )
    layer_decay: float = Field(gt=0, le=1, description="factor on the learning rate per layer group towards the input")
    batchnorm: Literal["train", "frozen"] = Field(description="update BatchNorm's running statistics, or keep them")
    seeds: list[Seed] | None = Field(
        default=None, min_length=1, description="one run per seed; left out: the network's own `seeds`"
    )


class Imbalance(Section):
    """What is done about benign images outnumbering malignant ones."""

    method: Literal["none", "class_weights", "balanced_sampling", "focal"] = Field(description="how, if at all")
    focal_gamma: float = Field(ge=0, le=10, description="focusing exponent of the focal loss")


class Averaging(Section):
    """Averaging of weights over training."""

    method: Literal["none", "ema", "swa"] = Field(description="exponential moving average, or the tail's plain mean")
    decay: float = Field(ge=0, lt=1, description="decay of the moving average, per step")
    swa_start: Probability = Field(description="share of the epochs after which the plain mean begins")


class ClassifierFeatures(Section):
    """What classical classifiers see of the frozen network."""

    stages: int = Field(
        ge=1,
        le=12,
        description="1: what the last layer sees; more: the means over the image of so many last stages' channels",
    )
    image_sizes: list[Pixels] = Field(
        min_length=1, description="sides of the input at which they are computed, px; the features stand side by side"
    )


class Network(Section):
    """resnet50.yaml and vgg19.yaml: one backbone, its regimes and how it is trained."""

    backbone: str = Field(min_length=1, description="timm's name of the network, with the tag of its weights")
    head: Literal["original", "average"] = Field(
        description="of VGG, what follows the convolutions: `original`, the layers fc6, fc7 and the last one (VGG19: "
        "140 million weights), or `average`, the mean over the image and the last layer (20 million); of other "
        "networks: `original`"
    )
    weights: str = Field(
        min_length=1, description="`pretrained` (by the backbone's tag), `none`, or a file (looked up in WEIGHTS_DIR)"
    )
    without_weights: Literal["stop", "skip"] = Field(
        description="when the weights cannot be had: stop, or leave the regimes that need them out and say so"
    )
    image_size: Pixels = Field(description="side of the network's input, px")
    drop_rate: float = Field(ge=0, lt=1, description="dropout before the last layer")
    regimes: dict[Regime, RegimeParams] = Field(min_length=1, description="which regimes are trained, and how")
    seeds: list[Seed] = Field(min_length=1, description="one run of every regime per seed")
    batch_size: int = Field(ge=2, le=1024, description="images per step through the network")
    accumulation: int = Field(ge=1, le=64, description="steps whose gradients are summed before the weights change")
    optim: Optim
    label_smoothing: float = Field(ge=0, lt=0.5, description="share of each label given to the other class")
    mixup: float = Field(ge=0, le=2, description="alpha of mixup's beta distribution; 0 turns it off")
    imbalance: Imbalance
    averaging: Averaging
    keep: Literal["best", "last"] = Field(
        description="the epoch whose weights are kept: that of the highest validation AP, or the last"
    )
    early_stopping: int = Field(
        ge=0, le=1000, description="epochs without a better validation AP before a stop; 0: never"
    )
    tta: Literal["none", "flips", "flips_and_middle"] = Field(
        description="test-time augmentation: none, the eight flips and quarter turns, or these of the whole image "
        "and of its middle, four fifths of the side"
    )
    classifiers: list[Classifier] = Field(description="classical classifiers on the frozen features")
    classifier_features: ClassifierFeatures
    determinism: Literal["exact", "device", "fast"] = Field(
        description="the promise of reproducibility, see the README"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        description="arithmetic of the forward pass; auto takes bfloat16 where the processor has it"
    )
    compile: bool = Field(description="compile the training step with torch.compile; needs a C++ compiler")

    def hide_places(self) -> Network:
        """The same without the folder of its weights' file."""
        file = Path(self.weights)
        return self.model_copy(update={"weights": f"{UNRECORDED}/{file.name}"} if file.name != self.weights else {})

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        for seeds in (self.seeds, *(regime.seeds or [] for regime in self.regimes.values())):
            if len(set(seeds)) != len(seeds):
                raise ValueError("seeds: each seed once")
        if self.weights == "none" and any(r in self.regimes for r in PRETRAINED_REGIMES):
            raise ValueError("regimes: features and finetune start from pretrained weights, but weights is none")
        if self.keep == "last" and self.early_stopping:
            raise ValueError("early_stopping: with keep: last every run goes to its last epoch; set it to 0")
        scratch = self.regimes.get("scratch")
        if scratch and scratch.frozen_layers:
            raise ValueError("regimes: from scratch, frozen_layers would keep random weights; set it to 0")
        if scratch and scratch.head == "fitted":
            raise ValueError("regimes: from scratch, a head would be fitted to random features; set head to new")
        for name, regime in self.regimes.items():
            if self.optim.warmup_epochs >= regime.epochs > 1:  # of a single epoch, warm-up takes half at most
                length = f"warmup_epochs ({self.optim.warmup_epochs:g}) must be smaller than the {regime.epochs} epochs"
                raise ValueError(f"optim: {length} of regime {name}; try warmup_epochs: 0")
        return self

    @property
    def model(self) -> str:
        """The architecture as timm names it, such as "resnet50": the `model` of this network's predictions."""
        return find_architecture(self.backbone)

    def in_regime(self, regime: Regime) -> Network:
        """The same network with that regime's own settings in place of the common ones."""
        own = self.regimes.get(regime)
        changes = {} if own is None else {"image_size": own.image_size, "seeds": own.seeds}
        return self.model_copy(update={name: value for name, value in changes.items() if value})


class Primary(Section):
    """The one comparison that is tested; every other is descriptive."""

    networks: list[str] = Field(
        min_length=2, max_length=2, description="files of the two networks that are compared, first minus second"
    )
    metric: Literal["auc", "ap"] = Field(description="what is compared")
    regime: Regime = Field(description="the regime in which the two networks are compared")
    alpha: Fraction = Field(description="two-sided significance level")


class Comparison(Section):
    """comparison.yaml: the statistics of 05_comparison."""

    primary: Primary
    bootstrap_draws: int = Field(
        ge=100, le=1_000_000, description="stratified bootstrap resamples behind each interval"
    )
    seed: Seed = Field(description="seed of the resampling")
    confidence: Fraction = Field(description="coverage of every interval")
    sensitivity_target: Fraction = Field(description="sensitivity at which the validation threshold is chosen")
    prevalences: list[Fraction] = Field(
        description="shares of malignant lesions for which predictive values are stated beside the test images' own"
    )
    power: Fraction = Field(description="power at which the smallest detectable AUC difference is stated")
    balanced_subset: int = Field(
        ge=2, le=100_000, description="images per class in Lopez's balanced subset; the smaller class bounds it"
    )
    balanced_repeats: int = Field(ge=1, le=100_000, description="balanced subsets drawn, for the spread")
    combinations: list[list[str]] = Field(
        description="lists of members whose probabilities are averaged, each `file/regime` or "
        "`file/features:classifier`, file being a network's, and itself the mean over its seeds; [] for none"
    )

    @model_validator(mode="after")
    def _combinations_can_be_had(self) -> Self:
        stages = [*get_args(Regime), *(f"features:{name}" for name in get_args(Classifier))]
        for members in self.combinations:
            if unknown := [member for member in members if member.partition("/")[2] not in stages]:
                raise ValueError(f"combinations: {unknown[0]!r} is not a member such as resnet50/finetune")
            if len(members) < 2 or len(set(members)) < len(members):
                raise ValueError(f"combinations: [{', '.join(members)}] wants two members or more, each once")
        if len({frozenset(members) for members in self.combinations}) < len(self.combinations):
            raise ValueError("combinations: each once")
        return self


class NamedComparison(Comparison):
    """A comparison that knows the networks' names: `StudyParams.comparison` speaks of files, the results of models."""

    models: dict[str, str] = Field(description="file of each network -> the `model` of its rows: `tell_models_apart`")

    @property
    def pair(self) -> tuple[str, str]:
        """The two models, in the order of their difference."""
        first, second = (self.models[name] for name in self.primary.networks)
        return first, second

    @property
    def averages(self) -> dict[str, list[tuple[str, str]]]:
        """Name of each combination -> its members as (model, regime)."""
        named = [[(self.models[file], regime) for file, regime in (m.split("/") for m in c)] for c in self.combinations]
        return {name_combination(members): members for members in named}


class StudyParams(Section):
    """A whole study: the files of `params/<study>/`. Every file that is not named here describes a further network."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Network]

    data: Data
    augmentation: Augmentation
    resnet50: Network
    vgg19: Network
    comparison: Comparison

    def hide_places(self) -> StudyParams:
        """The same without folders of this machine, for everything that is kept and sent on."""
        hidden: dict[str, Section] = {"data": self.data.hide_places()}
        hidden |= {name: network.hide_places() for name, network in self.networks.items()}
        return self.model_copy(update=hidden)

    def find_places(self, written: StudyParams) -> StudyParams:
        """What `hide_places` took out, put back from the study as it is written."""
        found: dict[str, Section] = {"data": written.data if self.data.hides_places else self.data}
        for name, network in self.networks.items():
            if network.weights.startswith(f"{UNRECORDED}/"):
                found[name] = network.model_copy(update={"weights": written.network(name).weights})
        return self.model_copy(update=found)

    @property
    def hides_places(self) -> bool:
        """Whether these are parameters from a record, which name no folder of this machine."""
        return self.data.hides_places or any(n.weights.startswith(f"{UNRECORDED}/") for n in self.networks.values())

    @property
    def networks(self) -> dict[str, Network]:
        """Each network by the name of its file, in the order in which they are trained."""
        return {"resnet50": self.resnet50, "vgg19": self.vgg19, **dict(sorted(self.__pydantic_extra__.items()))}

    def network(self, name: str) -> Network:
        """The network of one file.

        Raises:
            ParamsError: the study has none of that name.
        """
        if name not in self.networks:
            raise ParamsError(f"the study has no network {name!r}", expected="one of " + ", ".join(self.networks))
        return self.networks[name]

    @property
    def models(self) -> dict[str, str]:
        """The `model` of each network's rows, by its file; two of one architecture with their tags."""
        return tell_models_apart({name: network.backbone for name, network in self.networks.items()})

    @property
    def named_comparison(self) -> NamedComparison:
        """The comparison with the networks' names."""
        return NamedComparison(**self.comparison.model_dump(), models=self.models)

    @model_validator(mode="after")
    def _input_is_not_larger_than_what_is_stored(self) -> Self:
        for name, network in self.networks.items():
            sizes = {"image_size": network.image_size}
            sizes |= {f"regimes.{regime}.image_size": own.image_size or 0 for regime, own in network.regimes.items()}
            if network.classifiers:
                sizes["classifier_features.image_sizes"] = max(network.classifier_features.image_sizes)
            for key, size in sizes.items():
                if size > self.data.stored_size:
                    raise ValueError(f"{name}.{key}: cannot exceed data.stored_size ({self.data.stored_size} px)")
        return self

    @model_validator(mode="after")
    def _compared_networks_are_there(self) -> Self:
        named = {"primary.networks": self.comparison.primary.networks}
        named["combinations"] = [m.partition("/")[0] for members in self.comparison.combinations for m in members]
        for key, names in named.items():
            if unknown := [name for name in names if name not in self.networks]:
                there = ", ".join(self.networks)
                raise ValueError(f"comparison.{key}: {unknown[0]!r} is no network of this study; there are {there}")
        return self
