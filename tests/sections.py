"""Sections of a tiny study's parameters, with whatever a test wants to change."""

from __future__ import annotations

from tiny_study import DATA, NETWORK, regimes

from lesion_utils.config.data import Data
from lesion_utils.config.schema import Network, StudyParams
from lesion_utils.core.names import REGIMES


def data_params(**changes) -> Data:
    return Data(**(DATA | {"stored_size": 64, "validation_fraction": 0.2, "drop_leaks": True} | changes))


def network_params(backbone: str, **changes) -> Network:
    """Every regime, and weights that are not there."""
    small = {"weights": "any.pth", "image_size": 64, "regimes": regimes(*REGIMES, lr=0.1, layer_decay=0.8)}
    return Network(**(NETWORK | small | {"backbone": backbone} | changes))


def change_data(params: StudyParams, **changes) -> StudyParams:
    """A study with other parameters of its data."""
    return params.model_copy(update={"data": params.data.model_copy(update=changes)})
