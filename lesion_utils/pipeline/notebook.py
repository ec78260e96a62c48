"""Executing a step's notebook: with the study's parameters, in a kernel that knows nothing of the user's settings.

It runs to `<step>.partial.ipynb`, which is renamed when it succeeds, and stays to be read where it does not.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from lesion_utils.config.load import to_mapping
from lesion_utils.config.schema import StudyParams
from lesion_utils.core import paths
from lesion_utils.core.files import dump_json, write_atomic
from lesion_utils.core.names import NETWORKS
from lesion_utils.core.paths import Study
from lesion_utils.provenance.record import read_title, scrub_paths
from lesion_utils.provenance.steps import Step

KERNEL = "lesion-utils"
#: Ctrl-C is for the run, which ends its kernel. An interrupt of the kernel itself is ignored, in cells as between them:
#: between two, ipykernel would forget what it was asked, and the run would wait for the answer for ever.
IGNORE_INTERRUPTS = "get_ipython().kernel.pre_handler_hook = lambda: None"
#: How it starts: the file that the environment came with names the place where that was installed, even once moved.
THIS_PYTHON = {
    "argv": [
        *(sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"),
        f"--IPKernelApp.exec_lines={IGNORE_INTERRUPTS}",
    ],
    "display_name": KERNEL,
    "language": "python",
}

#: Tags of cells that hold for some studies only: for the images of ISIC 2016, or for one architecture.
CONDITIONS = {"isic2016", *NETWORKS}

#: glibc hands large blocks back to the system and asks for them again in the next step, page by page. Kept, VGG19
#: trains 1.6 times faster on a processor (16.0 against 10.1 images/s at 64 px, batch 24, 2 cores). Elsewhere no effect.
KEEP_MEMORY = {name: str(8 << 30) for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")}
KEEP_MEMORY |= {"MALLOC_TOP_PAD_": str(256 << 20)}

#: Captum and pooch load tqdm's bars for notebooks, which ask for ipywidgets. There are none: a page runs no scripts.
NO_WIDGETS = "ignore:IProgress not found"


def run_notebook(study: Study, step: Step, params: StudyParams, run_id: str) -> Path:
    """Execute a step's notebook with the study's parameters, and return the executed one.

    Raises:
        PapermillExecutionError: a cell failed.
        DeadKernelError: the kernel died.
    """
    import papermill
    from traitlets.config import Config

    mapping = to_mapping(study.name, params)
    write_atomic(study.runs / step.name / "params.json", dump_json(mapping))
    partial = study.notebooks / f"{step.name}.partial.ipynb"
    partial.parent.mkdir(parents=True, exist_ok=True)
    source = adapt_notebook(step, params, partial)
    for package in ("papermill", "asyncio"):  # after Ctrl-C, of a task that sees the kernel go and that nobody awaits
        logging.getLogger(package).setLevel(logging.CRITICAL)
    with kernel_environment(run_id) as sockets:
        papermill.execute_notebook(
            *(str(path).replace("{", "{{").replace("}", "}}") for path in (source, partial)),  # or it fills in
            parameters={"params": mapping, **({"network": step.network} if step.network else {})},
            kernel_name=KERNEL,
            progress_bar=False,
            cwd=step.notebook.parent,
            # Sockets in a folder of our own: two kernels that start at once can be given the same TCP port.
            # Immediate: a kernel that is busy training would not hear a polite request after Ctrl-C.
            config=Config(
                {
                    "ConnectionFileMixin": {"transport": "ipc", "ip": f"{sockets}/kernel"},
                    "NotebookClient": {"shutdown_kernel": "immediate"},
                }
            ),
        )
    write_atomic(partial, scrub_paths(partial.read_text(encoding="utf-8"), params.data.places))
    return partial.replace(study.notebooks / f"{step.name}.ipynb")


def adapt_notebook(step: Step, params: StudyParams, path: Path) -> Path:
    """Write the notebook that is run: with the study's title, and without cells that do not hold for it.

    A further network runs the first network's notebook, with its own name in place of the first's.
    """
    import nbformat

    node = nbformat.read(step.notebook, as_version=4)
    networks = [params.network(step.network)] if step.network else params.networks.values()
    holds = {network.model for network in networks} | ({"isic2016"} if params.data.is_challenge else set())
    node.cells = [cell for cell in node.cells if set(cell.metadata.get("tags", [])) & CONDITIONS <= holds]
    first = node.cells[0]
    first.source = f"# {read_title(step, params)}\n" + first.source.partition("\n")[2]
    if step.network and step.name != step.notebook.stem:
        for cell in node.cells:
            if cell.cell_type == "markdown":
                cell.source = cell.source.replace(step.notebook.stem, step.name).replace(NETWORKS[0], step.network)
    write_atomic(path, nbformat.writes(node))
    return path


@contextmanager
def kernel_environment(run_id: str) -> Iterator[str]:
    """The environment that a run's kernel inherits: absolute folders, nothing of the user's own Jupyter settings.

    Yields:
        a folder that is gone afterwards, for the kernel's sockets and for what says how it starts.
    """
    # In /tmp because a socket's path may have about a hundred characters, and macOS's own folder takes half of them.
    with tempfile.TemporaryDirectory(prefix="lesion-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        folders = {"DATA_DIR": paths.data_dir(), "WEIGHTS_DIR": paths.weights_dir()}
        folders |= {"LESION_CACHE": paths.cache_dir(), "REPORTS_DIR": paths.reports_root()}
        write_atomic(Path(folder, "kernels", KERNEL, "kernel.json"), dump_json(THIS_PYTHON))
        changed = {name: str(path) for name, path in folders.items() if path} | {
            "LESION_RUN_ID": run_id,
            # This project's package, even where several checkouts share one environment.
            "PYTHONPATH": os.pathsep.join(filter(None, [str(paths.project_root()), os.environ.get("PYTHONPATH")])),
            "JUPYTER_PATH": folder,
            "JUPYTER_RUNTIME_DIR": folder,
            "IPYTHONDIR": f"{folder}/ipython",
            "PYTHONHASHSEED": "0",
            "PYTHONWARNINGS": ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), NO_WIDGETS])),
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS is deterministic only with this, set before it loads
            **KEEP_MEMORY,
        }
        before = {name: os.environ.get(name) for name in changed}
        os.environ.update(changed)
        try:
            yield folder
        finally:
            _end_kernels()
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def _end_kernels() -> None:
    """End a kernel that was only starting when its run was stopped: nbclient ends those alone that have answered."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if "ipykernel_launcher" in child.cmdline():
                child.kill()
                child.wait()
