"""Reading a study's YAML files, with errors that point at the line.

YAML 1.2 by ruamel.yaml, so that `lr: 1e-4` is a number and `seed: 010` is ten, and pydantic for types,
ranges and unknown keys. Every problem of every file is reported at once.
"""

from __future__ import annotations

import difflib
import re
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from lesion_utils.config.backbones import explain_unknown
from lesion_utils.config.data import Data
from lesion_utils.config.schema import Augmentation, Comparison, Network, StudyParams
from lesion_utils.config.words import Location, describe_range, find_schema, list_keys
from lesion_utils.core.errors import ParamsError, shorten
from lesion_utils.core.paths import Study, list_networks, name_file, project_root

Model = TypeVar("Model", bound=BaseModel)

#: A study's values lie four brackets deep at most.
_DEEPEST = 20

#: Bytes. The longest file of the project's own studies has 9 kB, and reading this many takes some seconds.
_LARGEST = 64_000

#: Problems of one file that are shown, and letters of a value or line that they show.
_MOST_SHOWN, _WIDEST = 20, 160

#: How the file of a further network may be called; it becomes part of other files' names.
_NETWORK_NAME = re.compile(r"(?!study$|.*_external$)[a-z][a-z0-9_-]*", re.IGNORECASE)

#: The files that every study has and what validates each, in the order in which they are read.
FILES: dict[str, type[BaseModel]] = {
    "data": Data,
    "augmentation": Augmentation,
    "resnet50": Network,
    "vgg19": Network,
    "comparison": Comparison,
}


def load_study(folder: Path) -> StudyParams:
    """Read and validate the YAML files of a study, `params/<study>`.

    Raises:
        ParamsError: with one paragraph per problem, each starting `file:line: key:`.
    """
    documents: dict[str, CommentedMap] = {}
    problems: list[str] = []
    files = FILES | dict.fromkeys(list_networks(folder), Network)
    for name, model in files.items():
        path = folder / f"{name}.yaml"
        try:
            if name not in FILES:
                _check_name(path, set(files) - set(FILES))
            documents[name], values = _load(path, model)
            if isinstance(values, Network) and (unknown := explain_unknown(values.backbone)):
                raise ParamsError(_paragraph(path, documents[name], ("backbone",), unknown))
        except ParamsError as error:
            problems.append(str(error))
    if not problems:
        try:
            return StudyParams.model_validate({name: _to_plain(doc) for name, doc in documents.items()})
        except ValidationError as error:  # rules that span files
            for e in error.errors():
                key, _, sentence = e["msg"].removeprefix("Value error, ").partition(": ")
                name, _, inner = key.partition(".")
                path, location = folder / f"{name}.yaml", tuple(inner.split("."))
                problems.append(_paragraph(path, documents[name], location, sentence))
    raise ParamsError("\n".join(problems))


def _check_name(path: Path, networks: Collection[str]) -> None:
    """Files of a report begin with the name of a further network, so none may begin another's."""
    if not _NETWORK_NAME.fullmatch(path.stem):
        raise ParamsError(
            "every file beside data, augmentation, comparison and selection describes a network, and is called so",
            where=name_file(path),
            expected="a name of letters, digits, - and _, a letter first; study and any_external are taken",
            do="rename it",
        )
    if longer := [name for name in networks if name.startswith(f"{path.stem}_")]:
        do = f"rename it, such as {longer[0].replace('_', '-')}.yaml"
        raise ParamsError(f"its name begins with another network's, {path.stem}", where=f"{longer[0]}.yaml", do=do)


def load_file(path: Path, model: type[Model]) -> Model:
    """Read and validate one YAML file.

    Raises:
        ParamsError: as `load_study`.
    """
    return _load(path, model)[1]


def _load(path: Path, model: type[Model]) -> tuple[CommentedMap, Model]:
    """A file as it is written, and what it says."""
    document = _read_yaml(path)
    try:
        return document, model.model_validate(_to_plain(document))
    except ValidationError as error:
        raise ParamsError("\n".join(_explain_all(error, path, document, model))) from None


def resolve(source: str | Path | Mapping[str, Any]) -> tuple[str, StudyParams]:
    """The study's name and parameters, from a folder or from the mapping that a run injects.

    Args:
        source: a folder such as "../params/demo" (relative to the present folder or to the project), or a
            mapping with the keys `study` and the five files' names.
    """
    if isinstance(source, Mapping):
        body = dict(source)
        name = body.pop("study")
        params = StudyParams.model_validate(body)
        if params.hides_places:  # what a run injects is published; where files are, the study's YAML files say
            params = params.find_places(load_study(Study(name).params_dir))
        return name, params
    folder = Path(source)
    if not folder.is_dir():
        folder = project_root() / "notebooks" / source
    return folder.resolve().name, load_study(folder.resolve())


def to_mapping(name: str, params: StudyParams) -> dict[str, Any]:
    """What a run injects into a notebook: every value used but places of this machine; `resolve` takes it back."""
    return {"study": name, **params.hide_places().model_dump(mode="json")}


def _read_yaml(path: Path) -> CommentedMap:
    where = name_file(path)
    try:
        _refuse_odd_files(path, where)
        text = path.read_text(encoding="utf-8")
        _refuse_indirections(text, where)
        document = YAML(typ="rt").load(text)
    except FileNotFoundError:
        raise ParamsError(
            "this file of the study is missing", where=where, do=f"copy params/demo/{path.name} there and edit it"
        ) from None
    except OSError as error:
        raise ParamsError(f"cannot be read ({error.strerror})", where=where, expected="a file of text") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"not UTF-8 text ({error.reason})", where=where, do="save the file as UTF-8") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        what = shorten((getattr(error, "problem", None) or str(error)).splitlines()[0], _WIDEST)
        raise ParamsError(f"not valid YAML: {what}", where=f"{where}{line}", do="correct the line") from None
    except ValueError as error:  # a number of thousands of digits
        raise ParamsError(f"a value cannot be read: {str(error).partition(';')[0]}", where=where) from None
    if not isinstance(document, CommentedMap):
        raise ParamsError("expected `key: value` lines", where=f"{where}:1", do=f"start from params/demo/{path.name}")
    _refuse_odd_keys(document, where)
    return document


def _refuse_odd_files(path: Path, where: str) -> None:
    """A pipe would be waited for without end, and a huge file read for minutes."""
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise ParamsError("this is no regular file", where=where, expected="a file of text", do="replace it by one")
    if facts.st_size > _LARGEST:
        what = f"this file has {facts.st_size:,} bytes; parameters take {_LARGEST:,} at most"
        raise ParamsError(what, where=where, do=f"start again from params/demo/{path.name}")


def _refuse_indirections(text: str, where: str) -> None:
    """Plain values only: tags build objects, and a few lines of aliases can stand for billions of values."""
    depth = 0
    for event in YAML(typ="rt").parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        what = f"the tag {shorten(event.tag)}" if getattr(event, "tag", None) else None
        what = f"the alias *{shorten(event.anchor)}" if isinstance(event, AliasEvent) else what
        what = f"more than {_DEEPEST} brackets in one another" if depth > _DEEPEST else what
        if what:
            line = f"{where}:{event.start_mark.line + 1}"
            raise ParamsError(
                f"{what} cannot be used here", where=line, expected="plain values", do="write the value out"
            )


def _refuse_odd_keys(node: Any, where: str) -> None:
    if isinstance(node, CommentedMap):
        for key in node:
            if not isinstance(key, str):
                line = f"{where}:{node.lc.key(key)[0] + 1}"
                raise ParamsError(f"{shorten(repr(key))} is no parameter's name", where=line, expected="`key: value`")
            _refuse_odd_keys(node[key], where)


def _to_plain(node: Any) -> Any:
    """ruamel's annotated containers and numbers as plain dict, list, int and float."""
    if isinstance(node, CommentedMap):
        return {key: _to_plain(value) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [_to_plain(value) for value in node]
    for plain in (bool, int, float, str):
        if isinstance(node, plain):
            return plain(node)
    return node


def _explain_all(error: ValidationError, path: Path, document: CommentedMap, model: type[BaseModel]) -> list[str]:
    """A paragraph per problem of one file; a misspelt key is one problem, not an unknown and a missing one."""
    schema = model.model_json_schema()
    misspelt: set[Location] = set()
    problems = []
    errors = sorted(error.errors(), key=lambda e: e["type"] == "missing")
    for e in errors[:_MOST_SHOWN]:
        location = tuple(part for part in e["loc"] if not str(part).startswith(("[key]", "literal[")))
        if e["type"] == "extra_forbidden" or "[key]" in e["loc"]:
            allowed = list_keys(schema, location[:-1])
            close = difflib.get_close_matches(str(location[-1]), allowed, n=1, cutoff=0.5)
            misspelt |= {(*location[:-1], key) for key in close}
            sentence = f"unknown parameter{_suggest(close)}"
            problems.append(_paragraph(path, document, location, sentence, allowed=allowed))
        elif location not in misspelt:
            problems.append(_paragraph(path, document, *_explain(e, location, schema)))
    problems = list(dict.fromkeys(problems))  # a value that is in none of two lists is wrong once
    more = len(errors) - _MOST_SHOWN
    return [*problems, *([f"{name_file(path)}: {more} more problems"] if more > 0 else [])]


def _explain(error: Mapping[str, Any], location: Location, schema: Mapping[str, Any]) -> tuple[Location, str]:
    """Of a value that is missing, of the wrong type, out of range or against a rule: where, and what to say."""
    if error["type"] == "value_error":
        sentence = error["msg"].removeprefix("Value error, ")
        key, _, rest = sentence.partition(": ")
        return ((*location, key), rest) if key in list_keys(schema, location) else (location, sentence)
    node = find_schema(schema, location)
    if error["type"] == "missing":
        return location, f"this parameter is missing; it is {describe_range(node)}"
    options = [option for kind in node.get("anyOf", [node]) for option in kind.get("enum", [])]
    close = difflib.get_close_matches(str(error["input"]), options, n=1)
    return location, f"{shorten(repr(error['input']))} is not {describe_range(node)}{_suggest(close)}"


def _suggest(close: list[str]) -> str:
    return f", did you mean '{close[0]}'?" if close else ""


def _paragraph(
    path: Path, document: CommentedMap, location: Location, sentence: str, *, allowed: list[str] | None = None
) -> str:
    line = _find_line(document, location)
    text = path.read_text(encoding="utf-8").splitlines()
    key = shorten(".".join(map(str, location)))
    parts = [f"{name_file(path)}:{line}: {key}: {sentence}"]
    if line <= len(text):
        parts.append(f"    {line} | {shorten(text[line - 1].rstrip(), _WIDEST)}")
    if allowed:
        anchor = location[-2] if len(location) > 1 else path.stem
        parts.append(f"  allowed here: {', '.join(allowed)}        (params/README.md#{anchor})")
    return "\n".join(parts)


def _find_line(document: CommentedMap, location: Location) -> int:
    """Line, from 1, of the deepest part of `location` that the file has."""
    node: Any = document
    line = 0
    for part in location:
        if isinstance(node, CommentedMap) and part in node:
            line = node.lc.key(part)[0]
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            line = node.lc.item(part)[0]
        else:
            break
        node = node[part]
    return line + 1
