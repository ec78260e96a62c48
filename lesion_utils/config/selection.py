"""The schema of `selection.yaml`, which a study may have beside its five files: what was tried, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import prod
from typing import Any, Self, get_args

from pydantic import Field, ValidationError, model_validator

from lesion_utils.config.schema import Classifier, Regime, StudyParams
from lesion_utils.config.section import Section
from lesion_utils.core.errors import ParamsError

#: Of one grid.
_MOST_COMBINATIONS = 1000


class Question(Section):
    """One question of `selection.yaml`."""

    question: str = Field(min_length=1, description="what is to be decided")
    network: str = Field(min_length=1, description="file of the network whose settings the candidates change")
    judge: Classifier | Regime = Field(description="a classifier on frozen features, or the regime that is trained")
    seeds: list[int] = Field(min_length=1, description="of the folds, or of the trainings")
    candidates: dict[str, dict[str, Any]] = Field(
        default={}, description="name to changed values, such as resnet50.image_size: 288"
    )
    grid: dict[str, list[Any]] = Field(
        default={},
        description="parameter to values, such as resnet50.regimes.finetune.lr: [1e-4, 1e-3]; every combination is a "
        "candidate as well, named after its values: `lr 0.001, mixup 0.4`",
    )
    folds: list[int] | None = Field(
        default=None,
        min_length=1,
        description="numbers of the folds in which candidates are trained, to save time; left out: all folds",
    )
    finalists: int | None = Field(
        default=None,
        ge=2,
        description="so many candidates, those of the highest AP in `folds`, are then trained in all folds; left out: "
        "no candidate is",
    )
    choice: str | None = Field(
        default=None, description="the candidate that the study takes; left out: that of the highest AP"
    )
    because: str | None = Field(default=None, min_length=1, description="why `choice` was taken, in a sentence")
    answered: str | None = Field(
        default=None,
        min_length=1,
        description="when, and under which settings, it was asked, as `on 2026-11-23, with ...`: its evidence is then "
        "kept unchanged, and it is not asked again; left out while it is open",
    )

    @model_validator(mode="before")
    @classmethod
    def _combine_grid(cls, values: Any) -> Any:
        """Combinations become candidates; what is no grid is left to its own check."""
        grid, named = (values.get(name, {}) for name in ("grid", "candidates"))
        if not grid or not all(isinstance(each, Mapping) for each in (grid, named)):
            return values
        if not all(isinstance(given, list) and given for given in grid.values()):
            raise ValueError("grid: give each parameter a list of values, such as [0.0, 0.4]")
        if (count := prod(map(len, grid.values()))) > _MOST_COMBINATIONS:
            raise ValueError(f"grid: {count:,} combinations; each is trained, so {_MOST_COMBINATIONS} are the most")
        return {**values, "candidates": {**named, **combine(grid)}}

    @model_validator(mode="after")
    def _choice_is_a_candidate(self) -> Self:
        if len(self.candidates) < 2:
            raise ValueError("candidates: name two or more, or give a grid of two or more")
        if self.choice is not None and self.choice not in self.candidates:
            raise ValueError("choice: name one of the candidates")
        if (self.choice is None) != (self.because is None):
            raise ValueError("because: give it together with choice")
        if self.answered and self.choice is None:
            raise ValueError("choice: an answered question names the candidate that was chosen")
        if self.folds and not self.trains:
            raise ValueError("folds: only a regime is trained in folds; leave it out")
        if self.finalists and not self.folds:
            raise ValueError("finalists: name the folds in which all candidates are trained first")
        if self.finalists and self.finalists >= len(self.candidates):
            raise ValueError("finalists: fewer than the candidates")
        return self

    @property
    def trains(self) -> bool:
        """Whether candidates are judged by training."""
        return self.judge in get_args(Regime)


def combine(grid: Mapping[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """Every combination of a grid's values, by its name.

    A parameter is named by its last word, or in full where two end alike.

    >>> list(combine({"resnet50.regimes.finetune.lr": [1e-4, 1e-3], "resnet50.mixup": [0.4]}))
    ['lr 0.0001, mixup 0.4', 'lr 0.001, mixup 0.4']
    """
    last = [key.rpartition(".")[2] for key in grid]
    words = [short if last.count(short) == 1 else key for key, short in zip(grid, last, strict=True)]
    return {
        ", ".join(f"{word} {value}" for word, value in zip(words, values, strict=True)): dict(
            zip(grid, values, strict=True)
        )
        for values in product(*grid.values())
    }


class Selection(Section):
    """selection.yaml: what was tried on the training images."""

    questions: list[Question] = Field(min_length=1)

    @property
    def open(self) -> dict[int, Question]:
        """The questions that are not answered yet, by their number from 0."""
        return {number: question for number, question in enumerate(self.questions) if not question.answered}


def change_params(params: StudyParams, changes: Mapping[str, Any], *, where: str) -> StudyParams:
    """The parameters with some values changed: `{"resnet50.regimes.finetune.lr": 1e-4}`.

    Raises:
        ParamsError: there is no such key, or the value is not allowed.
    """
    values = params.model_dump()
    for key, value in changes.items():
        *path, last = key.split(".")
        node: Any = values
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            raise ParamsError(f"there is no parameter {key!r}", where=where, do="spell it as in params/README.md")
        node[last] = value
    try:
        return StudyParams.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ParamsError(what, where=where, do="params/README.md lists the ranges") from None
