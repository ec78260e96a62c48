"""Workers on other machines, by Dask: a running scheduler's, or those that Slurm, PBS or LSF start.

A worker gets tasks once it has been examined: it must see the same folders and have the same code, packages and kind of
processor. Those that do get a resource that every task asks for, so that one task at a time runs on each.
"""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import Client, KilledWorker, Status, Worker
from distributed.comm.core import CommClosedError

from lesion_utils.config.schema import Network
from lesion_utils.core import paths
from lesion_utils.core.console import Console
from lesion_utils.core.definitions import fingerprint_definitions
from lesion_utils.core.errors import RunError
from lesion_utils.core.files import digest_bytes, write_atomic
from lesion_utils.core.settings import find_device, read_setting
from lesion_utils.extras.jobs import Job, Workers, run_job
from lesion_utils.models.compute import choose_compute
from lesion_utils.provenance.steps import read_versions

#: Systems that start workers, and dask-jobqueue's name for each.
QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster"}

#: Seconds in which a scheduler, or a worker that has examined itself, has to answer.
PATIENCE = 30


@contextmanager
def open_cluster(address: str, jobs: Sequence[Job], *, count: int, console: Console) -> Iterator[Workers]:
    """Workers of a running scheduler (`tcp://host:port`), or `count` workers that a queue of `QUEUES` starts.

    Raises:
        RunError: no scheduler answers, it goes away, or every worker is refused.
    """
    again = "give the same command again: tasks that are done are kept, the others go on from their last epoch"
    cluster = _start_workers(address, count) if address in QUEUES else None
    try:
        client = Client(cluster or address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        what = f"no Dask scheduler answers: {error}"
        do = "start one with: dask scheduler, and workers with: dask worker"
        raise RunError(what, where=f"CLUSTER={address}", expected="tcp://host:port of a scheduler", do=do) from None
    try:
        with client, _put_tokens() as token:
            scheduler: Any = client.scheduler
            console.report(f"Dask scheduler {scheduler.address}   dashboard {client.dashboard_link or 'none'}")
            gate = Gate(client, token, jobs, console=console)
            executor = client.get_executor(pure=False, resources={gate.resource: 1})
            yield Workers(
                lambda job: executor.submit(run_job, job, gate.settings), gate.admit, gate.count_workers, KilledWorker
            )
    except (CancelledError, OSError) as error:
        if client.status == "running" and not isinstance(error, (CancelledError, CommClosedError)):
            raise  # the disk's
        raise RunError("the Dask scheduler has gone", where=f"CLUSTER={address}", do=f"start it, and {again}") from None
    finally:
        if cluster:
            cluster.close()


def _start_workers(queue: str, count: int) -> Any:
    """Workers as the user's own Dask configuration describes them (`jobqueue.<queue>`)."""
    import dask_jobqueue

    cluster = getattr(dask_jobqueue, QUEUES[queue])()
    cluster.scale(jobs=count)
    return cluster


class Gate:
    """Examines workers as they come.

    Attributes:
        settings: environment variables that workers take from here.
        resource: its name, shared by all that send jobs under the same conditions.
    """

    def __init__(self, client: Client, token: str, jobs: Sequence[Job], *, console: Console):
        folders: dict[str, Path | None] = {
            "REPORTS_DIR": paths.reports_root(),
            "LESION_CACHE": paths.cache_dir(),
            "DATA_DIR": paths.data_dir(),
        }
        folders["WEIGHTS_DIR"] = paths.weights_dir()
        self.settings = {name: str(folder) for name, folder in folders.items() if folder}
        given = {"THREADS": read_setting("THREADS"), "DEVICE": find_device()}
        self.settings |= {name: value for name, value in given.items() if value}
        networks = {job.network: job.params.network(job.network) for job in jobs}
        self._asks = (self.settings, token, list(networks.values()))
        self._expected = examine(*self._asks)
        self.resource = f"lesion-{digest_bytes(repr(self._expected).encode())[:12]}"
        self._client, self._console = client, console
        self._examined: dict[str, Any] = {}  # by address: a future, then what is wrong, or ""

    def admit(self) -> None:
        """Let workers in that fit; say of each other one what is wrong.

        Raises:
            RunError: there are workers, and none fits.
        """
        if self._client.status != "running":
            raise CancelledError
        here = self._client.scheduler_info()["workers"]
        for address in here.keys() - self._examined.keys():
            place = {"workers": [address], "pure": False, "allow_other_workers": False}
            self._examined[address] = self._client.submit(examine, *self._asks, **place)
        for address in here:
            found = self._examined[address]
            if isinstance(found, str) or not found.done():
                continue
            try:
                wrong = self._examined[address] = self._compare(found)
            except TimeoutError:
                continue  # it died with its answer, which Dask now waits to ask it for again
            if wrong:
                self._console.report(f"refused: worker at {address}: {wrong}")
            else:
                self._client.run(_take_tasks, self.resource, workers=[address], on_error="return")
        if here and all(isinstance(wrong := self._examined[address], str) and wrong for address in here):
            raise RunError(
                f"none of the {len(here)} workers can take tasks; {address}: {wrong}",
                where="CLUSTER",
                expected="workers with this code, these packages, and these folders at the same paths",
                do="fix what is reported above, and start the workers again",
            )

    def count_workers(self) -> int:
        """Workers that were let in and are there."""
        here = self._client.scheduler_info()["workers"]
        return sum(self._examined.get(address) == "" for address in here)

    def _compare(self, found: Any) -> str:
        if found.status != "finished":
            return f"cannot be examined: {found.exception()!r}" if found.status == "error" else "went away"
        theirs = found.result(timeout=PATIENCE)
        differ = [key for key in self._expected | theirs if self._expected.get(key) != theirs.get(key)]
        return "; ".join(f"{key}: {theirs.get(key)} (here: {self._expected.get(key)})" for key in differ)


async def _take_tasks(resource: str, dask_worker: Worker) -> None:
    await dask_worker.set_resources(**{resource: 1})
    # Tasks that wait for a worker are looked at again when one takes up its work, and not when one gets a resource.
    dask_worker.status = Status.paused
    dask_worker.status = Status.running


@contextmanager
def _put_tokens() -> Iterator[str]:
    """Put a file into each folder that workers write to; who shares the folder sees it."""
    name = f".seen-{secrets.token_hex(8)}"
    files = [folder / name for folder in (paths.reports_root(), paths.cache_dir())]
    try:
        for file in files:
            write_atomic(file, name)
        yield name
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def examine(settings: Mapping[str, str], token: str, networks: Sequence[Network]) -> dict[str, str]:
    """On a worker, and on the machine that sends tasks: what has to be the same on both, in words."""
    os.environ.update(settings)
    facts = {"Python": platform.python_version(), **read_versions()}
    facts["code of lesion_utils"] = digest_bytes(repr(fingerprint_definitions(["extras.ahead"])).encode())[:12]
    for name in ("REPORTS_DIR", "LESION_CACHE"):
        facts[f"{name} {settings[name]}"] = _try_folder(Path(settings[name]), token)
    if weights := paths.weights_dir():
        files = sorted((path.name, path.stat().st_size) for path in weights.glob("*") if path.is_file())
        facts[f"WEIGHTS_DIR {weights}"] = f"{len(files)} files, {digest_bytes(repr(files).encode())[:12]}"
    for compute in map(choose_compute, networks):
        if compute.level != "fast":
            facts["computes on"] = f"{compute.processor}, {compute.precision}, torch {compute.torch}"
    return facts


def _try_folder(folder: Path, token: str) -> str:
    if not (folder / token).is_file():
        return "not the folder that is shared"
    mine = folder / f"{token}.{secrets.token_hex(4)}"
    try:
        mine.touch()
        mine.unlink()
    except OSError as error:
        return f"cannot be written: {error.strerror}"
    return "read and written"
