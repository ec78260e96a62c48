"""An exported network on the hub, where the licence of the weights that it began with lets it go there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi

from lesion_utils.core.errors import RunError, WeightsError
from lesion_utils.extras.card import describe_start
from lesion_utils.extras.runs import TrainedRun
from lesion_utils.models.weights import hub_endpoint, offline_variable


def check_pushable(runs: Sequence[TrainedRun]) -> None:
    """Refuse before anything is written.

    Raises:
        RunError: the network may not be used, or these are several networks.
        WeightsError: the licence of the weights that training started from is unknown, or forbids it.
    """
    if variable := offline_variable():
        raise RunError(f"nothing is sent to the hub: {variable} is set", where="PUSH", do=f"unset {variable}")
    if len(runs) != 1:
        named = " or ".join(f"MODEL={run.network}" for run in runs)
        raise RunError("one repository takes one network", where="PUSH", do=f"say which: {named}")
    start = describe_start(runs[0])
    if start and not (start["licence"] and start["licence"].may_be_published):
        licence = start["licence"]
        raise WeightsError(
            f"the licence of these weights {f'forbids it: {licence.name}' if licence else 'is not known'}",
            where=f"PUSH, {start['name']}",
            expected="a network from weights that may be passed on for any use, or from random ones",
            do=f"name another run: MODEL={runs[0].network}/scratch, or train from another tag",
        )


def push_folder(folder: Path, repository: str) -> None:
    """Send an exported folder to the hub, as one commit; the repository is made where there is none.

    Args:
        repository: `user/name`. The token is the hub's client's: HF_TOKEN, or that of `hf auth login`.

    Raises:
        RunError: the hub does not take it; the folder stays as it is.
    """
    try:
        hub = HfApi(endpoint=hub_endpoint())
        hub.create_repo(repository, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Upload {folder.name}")
    except Exception as error:  # the hub's client raises a dozen kinds; the remedy is the same
        raise RunError(
            f"{hub_endpoint()} does not take it ({type(error).__name__}: {' '.join(str(error).split())[:300]})",
            where=f"PUSH={repository}",
            expected="a repository user/name that your token may write to",
            do="hf auth login, or set HF_TOKEN, and try again; the folder is exported",
        ) from error
