"""A new study as a copy of another: values are set in its YAML files, whose comments, order and layout stay."""

from __future__ import annotations

import json
import os
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from lesion_utils.config.load import FILES, load_study
from lesion_utils.core.errors import ParamsError, shorten
from lesion_utils.core.files import write_atomic
from lesion_utils.core.paths import find_study, is_study_name, list_networks, params_root

_QUOTE = "correct it; what has spaces needs quotes around it"

#: A word that YAML reads as it is typed: a number (1e-4 stays 1e-4), true, null, or a name.
_WORD = re.compile(r"[\w.+-]*\w[\w.+-]*", re.ASCII)


def copy_study(source: str, name: str, changes: str) -> str:
    """Copy the YAML files of a study to `params/<name>` and set values in them; all is written, or nothing.

    Args:
        source: the study that is copied.
        name: of the new one.
        changes: what is set, as a shell would split it: `resnet50.seeds=[1,2] data.title="Two seeds"`.

    Returns:
        what was made, and the next command.

    Raises:
        ParamsError: a name, key or value is wrong, or `params/<name>` exists.
        DataError: the files cannot be written.
    """
    folder, new = find_study(source, "FROM").params_dir, params_root() / name
    if not is_study_name(name):
        expected = "letters, digits, '.', '_' and '-', and neither '.' nor '-' first"
        raise ParamsError(
            "this is no name of a study", where=f"NAME={shorten(name)}", expected=expected, do="rename it"
        )
    if os.path.lexists(new):
        do = "choose another name, or edit the files that are there"
        raise ParamsError("this folder exists, and nothing is overwritten", where=f"params/{shorten(name)}", do=do)
    files = {path.stem: path.read_bytes().decode() for path in sorted(folder.glob("[!.]*.yaml"))}
    load_study(folder)  # what is wrong before anything is set is not SET's
    settings = _split(changes)
    if "data.source" in dict(settings) and "data.remarks" not in dict(settings):
        settings.append(("data.remarks", "[]"))  # they describe the images of the study that is copied
    for key, value in settings:
        file, _, inner = key.partition(".")
        known = [*FILES, *(network for network in list_networks(folder) if network not in FILES)]
        if file not in known or not inner:
            expected = f"<file>.<parameter>=<value>, where <file> is one of {', '.join(known)}"
            raise _refuse(key, "no such parameter", expected, "see params/README.md")
        files[file] = set_value(files[file], inner, value, of=key)
    # A hidden folder is no study, and on the same disk it can be renamed at once.
    with tempfile.TemporaryDirectory(dir=params_root(), prefix=".new-study-") as hidden:
        draft = Path(hidden) / name
        for stem, text in files.items():
            write_atomic(draft / f"{stem}.yaml", text)
        try:
            load_study(draft)
        except ParamsError as error:
            problems = str(error).replace(f"params/{Path(hidden).name}/", "params/")
            raise ParamsError(f"{problems}\n  do next   correct SET; nothing was written") from None
        draft.rename(new)
    lines = [f"params/{name}, a copy of params/{source}", *(f"  {key}: {value}" for key, value in settings)]
    return "\n".join([*lines, f"next: make all STUDY={name}"])


def _split(changes: str) -> list[tuple[str, str]]:
    """Keys and their values as YAML."""
    try:
        words = [word.partition("=") for word in shlex.split(changes)]
    except ValueError as error:
        raise _refuse(shorten(changes), f"cannot be split ({error})", "each quote closed", "close it") from None
    return [(key, _write_value(key, text if equals else None)) for key, equals, text in words]


def _refuse(key: str, what: str, expected: str, do: str) -> ParamsError:
    return ParamsError(what, where=f"SET: {shorten(key)}", expected=expected, do=f"{do}; nothing was written")


def _write_value(key: str, text: str | None) -> str:
    """A value on one line of YAML: numbers and names as they are typed, lists as lists, all else in quotes."""
    if not text or not text.isprintable():
        expected = "key=value, without spaces around =, on one line"
        raise _refuse(key, "this sets nothing", expected, _QUOTE)
    if _WORD.fullmatch(text):
        return text
    value: Any = text
    if text[0] in "[{\"'":
        try:
            value = YAML(typ="safe", pure=True).load(text)
            return json.dumps(value, ensure_ascii=False)
        except (YAMLError, ValueError, TypeError, RecursionError):
            raise _refuse(key, f"{shorten(text)} cannot be read", "a value of YAML", _QUOTE) from None
    return json.dumps(value, ensure_ascii=False)


def set_value(text: str, key: str, value: str, *, of: str) -> str:
    """Replace one value in the text of a YAML file; a parameter that it lacks is added at its end.

    Args:
        text: of the file.
        key: the parameter, with dots between the groups that it is in.
        value: what is written, on one line.
        of: the key as the user knows it.

    Returns:
        the text with the value in it, and nothing else changed.

    Raises:
        ParamsError: the key is that of a group, or of a group that the file does not have.
    """
    node: Node = YAML(typ="safe", pure=True).compose(text)
    *groups, last = key.split(".")
    for part in [*groups, last]:
        children = {name.value: (name, child) for name, child in node.value} if isinstance(node, MappingNode) else {}
        if part not in children and not groups:
            # Optional parameters need not be in the file; a misspelt one is found when the study is read.
            return f"{text.rstrip()}\n\n{json.dumps(part)[1:-1]}: {value}\n"
        if part not in children:
            expected = f"one of {', '.join(children)}" if children else "a value, which is in no group"
            raise _refuse(
                of, f"{shorten(part)} is not in the file", expected, "correct it, or add it to a copy by hand"
            )
        name, node = children[part]
    if isinstance(node, MappingNode) and not node.flow_style:
        names = ", ".join(f"{of}.{name.value}" for name, _ in node.value)
        raise _refuse(of, "this is a group of parameters", f"one of {names}", "set them one by one")
    start, end = node.start_mark.index, _find_end(node)
    if isinstance(node, SequenceNode) and not node.flow_style:  # one item a line: the list moves beside its key
        colon = text.index(":", name.end_mark.index) + 1
        return f"{text[:colon]} {value}{text[colon:start].rstrip()}{text[end:]}"
    return f"{text[:start]}{' ' * (start == end)}{value}{text[end:]}"


def _find_end(node: Node) -> int:
    """Where a value ends; a block's own mark is that of what follows its comments."""
    if isinstance(node, SequenceNode | MappingNode) and not node.flow_style:
        last = node.value[-1]
        return _find_end(last[1] if isinstance(node, MappingNode) else last)
    return node.end_mark.index
