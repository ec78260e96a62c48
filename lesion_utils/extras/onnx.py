"""A trained network as one ONNX file, which has its preprocessing in it and was compared with the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lesion_utils.core.errors import CheckpointError, RunError
from lesion_utils.models.networks import data_config
from lesion_utils.models.predict import TrainedNetwork, place_network, read_settings

#: Keys of the file's metadata: what this project reads, and what any reader needs to make inputs.
OWN, PREPROCESSING = "lesion_utils", "preprocessing"

#: How far a logit may be from the checkpoint's.
TOLERANCE = 1e-4


class OnnxNetwork(nn.Module):
    """An ONNX file in the place of a timm network: its only feature is the logit, so its last layer does nothing."""

    def __init__(self, session: Any):
        super().__init__()
        self._session = session
        metadata = session.get_modelmeta().custom_metadata_map
        self.about, self.pretrained_cfg = (json.loads(metadata[key]) for key in (OWN, PREPROCESSING))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) float32, normalised, to logits (N, 1)."""
        (logits,) = self._session.run(None, {"images": x.numpy(force=True)})
        return torch.from_numpy(logits).to(x.device)

    def forward_features(self, x: Tensor) -> Tensor:
        return self(x)

    def forward_head(self, x: Tensor, *, pre_logits: bool) -> Tensor:
        return x

    def get_classifier(self) -> nn.Module:
        return nn.Identity()


def write_onnx(network: TrainedNetwork, path: Path, about: Mapping[str, Any], images: np.ndarray) -> dict[str, Any]:
    """Write a network for any number of images at once, and compare its logits with the checkpoint's.

    Args:
        network: on the processor; the file's network computes in float32, whatever the study did.
        path: of the file.
        about: what `export.describe_run` says.
        images: (N, S, S, 3) uint8, RGB, real ones of the study's stored size.

    Returns:
        `images`, how many were compared, and `largest_difference` of a logit.

    Raises:
        RunError: a logit is further from the checkpoint's than `TOLERANCE`.
    """
    size = network.settings.image_size
    about = {**about, "settings": {**about["settings"], "precision": "float32"}}
    network = replace(network, compute=replace(network.compute, device="cpu", precision="float32"))
    names: dict[str, Any] = {
        "input_names": ["images"],
        "output_names": ["logit"],
        "dynamic_shapes": ({0: torch.export.Dim("batch")},),
    }
    program: Any = torch.onnx.export(network.model, (torch.zeros(2, 3, size, size),), **names, verbose=False)
    square = {"square": about["aspect"], "square_size": about["stored_size"], "antialias": True}
    colours = {"colours": "RGB in 0 to 1, minus mean, divided by std", **data_config(network.model)._asdict()}
    preprocessing = {**square, "input_size": (3, size, size), **colours, "views": network.settings.tta}
    program.model.metadata_props.update({OWN: json.dumps(about), PREPROCESSING: json.dumps(preprocessing)})
    program.save(path, external_data=False)
    written, _ = load_onnx(path)
    difference = float(np.abs(written.predict(images) - network.predict(images)).max())
    if not difference <= TOLERANCE:
        raise RunError(
            f"the ONNX file's logits are up to {difference:.2g} from the checkpoint's on {len(images)} images",
            where=about["label"],
            expected=f"at most {TOLERANCE:g}",
            do="export without ONNX=1; this backbone does not convert exactly",
        )
    return {"images": len(images), "largest_difference": difference}


def load_onnx(path: Path) -> tuple[TrainedNetwork, dict[str, Any]]:
    """Load what `write_onnx` wrote, and what `export.describe_run` said of it.

    Raises:
        CheckpointError: the file is no ONNX file of this project, damaged, or of another version.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        model = OnnxNetwork(onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
    except Exception as error:  # onnxruntime has an error for each way of being damaged; the remedy is the same
        raise CheckpointError(
            "this is not an ONNX file of this project, or it is damaged", where=path, do="make export ONNX=1 writes one"
        ) from error
    settings = read_settings(model.about["settings"], where=path)
    return place_network(model, settings, model.about, device="cpu"), model.about  # where onnxruntime computes
