"""Where things are. Nothing is created or checked until it is asked for."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from lesion_utils.core.errors import ParamsError, shorten
from lesion_utils.core.names import NETWORKS

#: What a study may be called: it becomes part of files' names, of make's targets and of commands.
_STUDY_NAME = re.compile(r"\w[\w.-]*")

#: Folders of the project in which no report may be written.
_NO_REPORTS = (
    ".ci", ".git", ".github", "benchmarks", "containers", "data", "docs", "lesion_utils", "notebooks", "params",
    "requirements", "tests", "tools",
)  # fmt: skip

#: A study's YAML files that describe no network.
_NO_NETWORK = ("data", "augmentation", "comparison", "selection")


def project_root() -> Path:
    """The folder that holds `params/`, `notebooks/` and `reports/`."""
    return Path(__file__).resolve().parents[2]


def name_file(path: Path) -> str:
    """A path as the user knows it: from the project's folder where it lies in it."""
    # The folder is resolved and the file is not: a link is known by its own name.
    path = Path(os.path.realpath(path.parent)) / path.name
    return str(path.relative_to(project_root())) if path.is_relative_to(project_root()) else str(path)


def _from_environment(variable: str) -> Path | None:
    value = os.environ.get(variable, "").strip()
    return expand(value) if value else None


def expand(text: str) -> Path:
    """The absolute path of what somebody typed; unlike Path's own methods, it takes `~nobody` and a link to itself."""
    return Path(os.path.realpath(os.path.expanduser(text)))  # noqa: PTH111


def data_dir() -> Path:
    """The challenge's files: `DATA_DIR`, or `data/isic2016` in the project."""
    return _from_environment("DATA_DIR") or project_root() / "data" / "isic2016"


def find_own(path: str) -> Path:
    """A file or folder that a study's parameters name: absolute, or from the project's root."""
    return project_root() / Path(path).expanduser()


def weights_dir() -> Path | None:
    """The folder of pretrained weights that the user named with `WEIGHTS_DIR`, if any."""
    return _from_environment("WEIGHTS_DIR")


def cache_dir() -> Path:
    """Decoded images and frozen features: `LESION_CACHE`, or `data/cache` in the project."""
    return _from_environment("LESION_CACHE") or project_root() / "data" / "cache"


def params_root() -> Path:
    """The folder of all studies' parameters."""
    return project_root() / "params"


def reports_root() -> Path:
    """The folder of all studies' reports: `REPORTS_DIR`, or `reports` in the project.

    Raises:
        ParamsError: reports would lie among the project's own files, where `make clean` would remove those.
    """
    root, folder = project_root(), _from_environment("REPORTS_DIR")
    if folder is None:
        return root / "reports"
    if root.is_relative_to(folder) or any(folder.is_relative_to(root / name) for name in _NO_REPORTS):
        raise ParamsError(
            "reports cannot be written among the project's own files",
            where=f"REPORTS_DIR={folder}",
            expected="a folder for reports alone, outside the project or new in it",
            do="choose another folder, or unset REPORTS_DIR",
        )
    return folder


def docs_root() -> Path:
    """The published copies of reports, one folder per study; under version control."""
    return project_root() / "docs"


def is_study_name(name: str) -> bool:
    """Whether a study may be called so: one folder's name, which leads nowhere else."""
    return _STUDY_NAME.fullmatch(name) is not None


def list_studies() -> list[str]:
    """Names of the studies that exist, sorted: folders in `params/` that have a data.yaml, whatever that is."""
    root = params_root().resolve()
    folders = [path for path in root.iterdir() if is_study_name(path.name) and path.is_dir()]
    # A link out of params/ is no study: its files would be read from one place and named after another.
    inside = [path for path in folders if path.resolve().parent == root]
    return sorted(path.name for path in inside if os.path.lexists(path / "data.yaml"))


def find_study(name: str, variable: str = "STUDY") -> Study:
    """The study of a name that somebody typed.

    Every command that takes a study asks here first, so that no name leads out of `params/` and `reports/`.

    Args:
        name: a folder directly below `params/`.
        variable: of make, in which it was typed.

    Raises:
        ParamsError: there is no such study, or the name is no plain folder's name, such as "..".
    """
    studies = list_studies()
    if name in studies:
        return Study(name)
    shown = shorten(name)
    expected = "one of " + ", ".join(studies)
    if not is_study_name(name):
        what = "a study is one folder directly below params/, named with letters, digits, '.', '_' and '-'"
        do = f"choose one of these; if {variable} comes from a variable of the shell, check that it is set"
    elif (params_root() / shown).is_dir() and (params_root() / shown).resolve().parent != params_root().resolve():
        what, do = "this folder is a link out of params/", f"copy the folder itself to params/{name}"
    else:
        close = difflib.get_close_matches(name, studies, n=1)
        what = f"there is no study {shown!r}" + (f", did you mean {close[0]!r}?" if close else "")
        do = f"choose one, or make it: make study FROM=isic2016 NAME={shown}"
    raise ParamsError(what, where=f"{variable}={shown}", expected=expected, do=do)


def list_networks(folder: Path) -> list[str]:
    """The networks of the study in a folder, in the order in which they are trained: all YAML files but four."""
    found = sorted(path.stem for path in folder.glob("[!.]*.yaml") if path.stem not in _NO_NETWORK)
    return [*NETWORKS, *(name for name in found if name not in NETWORKS)]


@dataclass(frozen=True)
class Study:
    """The folders of one study.

    Attributes:
        name: its folder under `params/`.
        interactive: whether a notebook that someone runs by hand writes; it has a report folder of its own.
    """

    name: str
    interactive: bool = False

    @property
    def params_dir(self) -> Path:
        """The YAML files.

        Raises:
            ParamsError: there is no such study.
        """
        return params_root() / find_study(self.name).name

    @property
    def networks(self) -> list[str]:
        """The names of the files that describe its networks."""
        return list_networks(self.params_dir)

    @property
    def report_dir(self) -> Path:
        folder = reports_root() / self.name
        return folder / "interactive" if self.interactive else folder

    @property
    def data(self) -> Path:
        return reports_root() / self.name / "data"

    @property
    def keys(self) -> Path:
        return self.report_dir / "keys"

    @property
    def cache_note(self) -> Path:
        """Names the file of decoded images that this study uses."""
        return self.keys / "images.txt"

    @property
    def runs(self) -> Path:
        return self.report_dir / "runs"

    @property
    def notebooks(self) -> Path:
        return self.report_dir / "notebooks"

    @property
    def html(self) -> Path:
        return self.report_dir / "html"

    @property
    def figures(self) -> Path:
        return self.report_dir / "figures"

    @property
    def metrics(self) -> Path:
        return self.report_dir / "metrics"

    @property
    def predictions(self) -> Path:
        return self.report_dir / "predictions"
