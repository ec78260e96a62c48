"""The names of networks that timm has, read from its source: importing timm would load torch, which takes seconds."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from lesion_utils.core.paths import project_root

#: A function that timm's decorator turns into a network's name; old names stand in a table, in quotes.
_REGISTERED = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)


def explain_unknown(backbone: str) -> str | None:
    """Why a YAML file cannot name this backbone; None if timm has it, or may have it.

    Args:
        backbone: `architecture` or `architecture.tag`; one that names a repository (`hf-hub:...`) is not looked up.
    """
    architecture = backbone.partition(".")[0]
    if ":" in backbone or _is_registered(architecture):
        return None
    close = difflib.get_close_matches(architecture, list_architectures(), n=1)
    return "timm has no network of this name" + (f", did you mean '{close[0]}'?" if close else "")


@cache
def _is_registered(architecture: str) -> bool:
    """Whether a module of timm's defines the network, or lists its name as an old one."""
    name, has_timm = re.escape(architecture), False
    registered = re.compile(rf"^@register_model\s*\ndef {name}\(", re.MULTILINE)
    renamed = re.compile(rf"""register_model_deprecations\((?s:.)*['"]{name}['"]""")
    for text in _read_sources(architecture):
        has_timm = True
        if registered.search(text) or ("register_model_deprecations(" in text and renamed.search(text)):
            return True
    return not has_timm  # without timm, `make doctor` says so


@cache
def list_architectures() -> list[str]:
    """Every network of timm and of `lesion_utils/models/custom.py`, sorted."""
    return sorted({name for text in _read_sources() for name in _REGISTERED.findall(text)})


def _read_sources(first: str = "") -> Iterator[str]:
    """The modules that register networks; those that `first` begins with the name of come first."""
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        return
    files = [*(Path(spec.origin).parent / "models").glob("*.py"), project_root() / "lesion_utils/models/custom.py"]
    for path in sorted(files, key=lambda path: (not first.startswith(path.stem[:3]), path.stem)):
        yield path.read_text(encoding="utf-8")
