"""The files of a finished training run, and whether they are still the ones that training wrote.

`DONE` is written last. It is sealed and holds the SHA-256 of every other file of the run, because results are rebuilt
from these files: a run is reused only if all of them are there and unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lesion_utils.core.files import digest_file, dump_json, write_atomic
from lesion_utils.core.seal import load_sealed, read_sealed, seal_record

DONE = "DONE"
#: What else a finished run consists of: the selected weights, the learning curves and the scores.
KEPT = ("best.pt", "history.jsonl", "predictions.csv")


def write_done(folder: Path, record: Mapping[str, Any]) -> None:
    """Mark a run as finished, with the hashes of its files as they are now.

    Args:
        folder: of the run, with every file of `KEPT` in it.
        record: what else `DONE` says of the run.
    """
    files = {name: digest_file(folder / name) for name in KEPT}
    write_atomic(folder / DONE, dump_json(seal_record({**record, "files": files})))


def check_run(folder: Path) -> tuple[bool, str]:
    """Whether a run can be reused, and if it finished once but cannot, the sentence that says why."""
    if not (folder / DONE).exists():
        return False, ""
    damage = list_damage(folder)
    what = "; ".join(f"{name}: {why}" for name, why in damage.items())
    return not damage, what and f"{folder.name} is trained again, since its files changed after training ({what})"


def read_done(folder: Path) -> dict[str, Any] | None:
    """What `DONE` says of a run, without hashes; None if it is missing, changed or of an earlier version."""
    record = load_sealed(folder / DONE) or {}
    return {key: value for key, value in record.items() if key not in ("files", "seal")} or None


def list_damage(folder: Path) -> dict[str, str]:
    """Check the files of a finished run; reads all of them (about 1.5 GB/s).

    Returns:
        File name to what is wrong with it; empty if the run can be reused.
    """
    record, problem = read_sealed(folder / DONE)
    if record is None or problem:
        return {DONE: problem}
    files, damage = record.get("files", {}), {}
    for name in KEPT:
        try:
            if digest_file(folder / name) != files.get(name):
                damage[name] = "its content is not the one that training wrote"
        except FileNotFoundError:
            damage[name] = "it is missing"
        except OSError as error:
            damage[name] = f"it cannot be read ({error.strerror})"
    return damage
