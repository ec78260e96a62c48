"""What long work reports while it runs: one kind of event, for the terminal, the notebook and the logs alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict


class Event(TypedDict, total=False):
    """How far a piece of work is. Code that passes an event on adds what it knows: the run, the stage, the candidate.

    An event says either that a part of a stage is done (`stage`, `done`, `total`), or that an epoch is (`epoch` and the
    keys after it), or it is a `remark`.
    """

    regime: str  # of the run
    seed: int  # likewise
    fold: int  # likewise, if the study has several folds
    candidate: str  # of a selection
    question: str  # likewise
    stage: str  # such as "frozen features"
    done: int
    total: int  # 0: unknown
    epoch: int  # from 1
    epochs: int
    loss: float  # mean over the epoch's training images
    lr: float  # the largest of the layers', after the epoch
    val_loss: float
    val_ap: float
    val_auc: float
    seconds: float  # of the epoch's training
    seconds_validation: float
    images_per_s: float
    seconds_left: float
    remark: str  # a sentence for the user


#: Takes events as they come.
OnEvent = Callable[[Event], None]
