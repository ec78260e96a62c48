"""The schema for people, `params/README.md`, and for editors, `params/schema/*.json`: what each key means and may be.

`make reference` writes both after a change of `lesion_utils/config/`; a test holds them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from lesion_utils.config.load import FILES
from lesion_utils.config.schema import Network
from lesion_utils.config.selection import Selection
from lesion_utils.config.words import describe_range, find_schema
from lesion_utils.core.files import dump_json, write_if_changed
from lesion_utils.core.paths import params_root

INTRODUCTION = """# Parameters of a study

A study is a folder here, with five files. Copy one, edit it, and run `make all STUDY=<folder>`: only what depends on a
change runs again, and a change of a comment runs nothing. A sixth file, such as `convnext_tiny.yaml`, a copy of
`vgg19.yaml` with another `backbone`, is a further network: it is trained on a page of its own, by the notebook of the
first, and compared with the others. In the files, every key carries its reason; here, its range.
Unknown keys, wrong types and values out of range stop a run before it starts, with the file and the line. An editor
with a YAML language server says so while you type: each file's first line names its schema in `schema/`.

This page is written by `make reference` from `lesion_utils/config/`.
"""

_MODELS: dict[str, type[BaseModel]] = {**FILES, "selection": Selection}


def render_readme() -> str:
    """The page as Markdown: a table per file and per nested section."""
    parts = [INTRODUCTION]
    seen: set[str] = set()
    for model in FILES.values():
        if model.__name__ not in seen:
            names = [n for n, m in FILES.items() if m is model]
            heading = " and ".join(f"{n}.yaml" for n in names)
            anchors = "".join(f'<a id="{n}"></a>' for n in names)
            parts += [f"## {anchors}{heading}\n", *_render_section(model.model_json_schema(), ())]
        seen.add(model.__name__)
    return "\n".join(parts)


def name_schema(file: str) -> str:
    """The file in `params/schema/` that describes a YAML file, named without its ending; all networks share one."""
    return f"{_MODELS.get(file, Network).__name__.lower()}.json"


def render_schemas() -> dict[str, str]:
    """The files of `params/schema/` and their content, as pydantic gives it."""
    return {name_schema(file): dump_json(model.model_json_schema()) for file, model in _MODELS.items()}


def write_reference() -> None:
    """Write `params/README.md` and `params/schema/`."""
    write_if_changed(params_root() / "README.md", render_readme())
    for name, text in render_schemas().items():
        write_if_changed(params_root() / "schema" / name, text)


def _render_section(schema: Mapping[str, Any], location: tuple[str, ...]) -> Iterator[str]:
    properties = find_schema(schema, location)["properties"]
    yield "| key | allowed | meaning |\n|---|---|---|"
    sections = []
    for key in properties:
        node = find_schema(schema, (*location, key))
        if "properties" in node or _has_names(node):
            sections.append(key)
            allowed = f"a section, [below](#{key})"
        else:
            allowed = describe_range(node)
        meaning = properties[key].get("description") or node["description"].rstrip(".")
        yield f"| `{key}` | {allowed} | {meaning} |"
    yield ""
    for key in sections:
        node = find_schema(schema, (*location, key))
        inner = (*location, key, "*") if _has_names(node) else (*location, key)
        yield f'### <a id="{key}"></a>{".".join((*location, key))}\n'
        if _has_names(node):
            named = ", ".join(f"`{name}`" for name in node.get("propertyNames", {}).get("enum", []))
            yield f"One or more of {named}, each with\n" if named else "Any number of names of your own, each with\n"
        yield from _render_section(schema, inner)


def _has_names(node: Mapping[str, Any]) -> bool:
    """Whether a mapping's keys are names, of networks' regimes or of one's own, each of which is a section."""
    value = node.get("additionalProperties")
    return isinstance(value, Mapping) and ("$ref" in value or "properties" in value)
