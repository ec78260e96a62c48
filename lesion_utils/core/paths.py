"""Where things are. Nothing is created or checked until it is asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lesion_utils.core.errors import ParamsError
from lesion_utils.core.names import NETWORKS

#: A study's YAML files that describe no network.
_NO_NETWORK = ("data", "augmentation", "comparison", "selection")


def project_root() -> Path:
    """The folder that holds `params/`, `notebooks/` and `reports/`."""
    return Path(__file__).resolve().parents[2]


def name_file(path: Path) -> str:
    """A path as the user knows it: from the project's folder where it lies in it."""
    path = path.resolve()
    return str(path.relative_to(project_root())) if path.is_relative_to(project_root()) else str(path)


def _from_environment(variable: str) -> Path | None:
    value = os.environ.get(variable, "").strip()
    return Path(value).expanduser().resolve() if value else None


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
    """The folder of all studies' reports: `REPORTS_DIR`, or `reports` in the project."""
    return _from_environment("REPORTS_DIR") or project_root() / "reports"


def docs_root() -> Path:
    """The published copies of reports, one folder per study; under version control."""
    return project_root() / "docs"


def list_studies() -> list[str]:
    """Names of the studies that exist, sorted."""
    return sorted(p.name for p in params_root().iterdir() if (p / "data.yaml").is_file())


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
        folder = params_root() / self.name
        if not (folder / "data.yaml").is_file():
            raise ParamsError(
                f"there is no study {self.name!r}",
                where=f"STUDY={self.name}",
                expected="one of " + ", ".join(list_studies()),
                do=f"choose one, or copy params/isic2016 to params/{self.name} and edit it",
            )
        return folder

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
