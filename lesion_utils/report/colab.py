"""The badge that opens notebook 01 in Colab, in the README and in the notebook, with the cell that sets it up there.

Both need the address of the public repository, which stands once, in `CITATION.cff` (`repository-code`). Where it is
not set there is neither: `make reference` writes what that file says.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from lesion_utils.core.errors import ParamsError
from lesion_utils.core.files import write_if_changed
from lesion_utils.core.paths import project_root

NOTEBOOK = "notebooks/01_eda.ipynb"
BLOCK = re.compile(r"(<!-- colab:begin -->\n).*?(<!-- colab:end -->)", re.DOTALL)

#: Cells that this module writes, by their ids, behind the notebook's title.
BADGE, SETUP = "colab-badge", "colab-setup"

#: Packages of notebook 01 and of the step `data` that Colab does not come with.
MISSING = ("pooch", "ruamel.yaml")

_SETUP = """# On Colab: the project, the packages that Colab lacks, and the images. Anywhere else this does nothing.
import os
import sys

from IPython import get_ipython

if "google.colab" in sys.modules:
    get_ipython().system("git clone --depth 1 {address} /content/lesion-utils")
    get_ipython().system("pip install -q {missing}")
    os.chdir("/content/lesion-utils/notebooks")
    sys.path.insert(0, "/content/lesion-utils")
    get_ipython().system("cd .. && python -m lesion_utils run data demo")"""


def read_address(citation: Path) -> str | None:
    """The repository's address; None where `CITATION.cff` does not say it.

    Raises:
        ParamsError: Colab opens notebooks of GitHub only.
    """
    address: str | None = YAML(typ="safe").load(citation).get("repository-code")
    if address and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        expected, do = "https://github.com/<owner>/<name>", "correct that line, or take it out"
        raise ParamsError(f"repository-code is {address}", where=citation, expected=expected, do=do)
    return address


def write_badge(root: Path | None = None) -> None:
    """Bring the README and the notebook to what `CITATION.cff` says."""
    root = root or project_root()
    address = read_address(root / "CITATION.cff")
    readme, notebook = root / "README.md", root / NOTEBOOK
    badge = f"{_render_badge(address)}\n" if address else ""
    write_if_changed(readme, BLOCK.sub(lambda found: found[1] + badge + found[2], readme.read_text(encoding="utf-8")))
    content = json.loads(notebook.read_text(encoding="utf-8"))
    title, *rest = [cell for cell in content["cells"] if cell["id"] not in (BADGE, SETUP)]
    content["cells"] = [title, *(_make_cells(address) if address else ()), *rest]
    write_if_changed(notebook, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _render_badge(address: str) -> str:
    opened = address.replace("https://github.com", "https://colab.research.google.com/github")
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"[![Open notebook 01 in Colab]({image})]({opened}/blob/HEAD/{NOTEBOOK})"


def _make_cells(address: str) -> list[dict[str, Any]]:
    setup = _SETUP.format(address=address, missing=" ".join(MISSING))
    code = {"execution_count": None, "outputs": [], "source": setup.splitlines(keepends=True)}
    return [
        {"cell_type": "markdown", "id": BADGE, "metadata": {}, "source": [_render_badge(address)]},
        {"cell_type": "code", "id": SETUP, "metadata": {}, **code},
    ]
