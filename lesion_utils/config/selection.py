"""The schema of `selection.yaml`, which a study may have beside its five files: what was tried, and what was chosen."""

from __future__ import annotations

from typing import Any, Self, get_args

from pydantic import Field, model_validator

from lesion_utils.config.schema import Classifier, Regime
from lesion_utils.config.section import Section


class Question(Section):
    """One question of `selection.yaml`."""

    question: str = Field(min_length=1, description="what is to be decided")
    network: str = Field(min_length=1, description="file of the network whose settings the candidates change")
    judge: Classifier | Regime = Field(description="a classifier on frozen features, or the regime that is trained")
    seeds: list[int] = Field(min_length=1, description="of the folds, or of the trainings")
    candidates: dict[str, dict[str, Any]] = Field(
        min_length=2, description="name to changed values, such as resnet50.image_size: 288"
    )
    choice: str = Field(description="the candidate that the study takes")
    because: str = Field(min_length=1, description="why, in a sentence")
    answered: str | None = Field(
        default=None,
        min_length=1,
        description="when, and under which settings, it was asked, as `on 2026-11-23, with ...`: its evidence is then "
        "kept as it stands and it is not asked again; left out while it is open",
    )

    @model_validator(mode="after")
    def _choice_is_a_candidate(self) -> Self:
        if self.choice not in self.candidates:
            raise ValueError("choice: name one of the candidates")
        return self

    @property
    def trains(self) -> bool:
        """Whether candidates are judged by training."""
        return self.judge in get_args(Regime)


class Selection(Section):
    """selection.yaml: what was tried on the training images."""

    questions: list[Question] = Field(min_length=1)

    @property
    def open(self) -> dict[int, Question]:
        """The questions that are not answered yet, by their number from 0."""
        return {number: question for number, question in enumerate(self.questions) if not question.answered}
