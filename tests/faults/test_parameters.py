"""Parameter files that a hand slipped on: whatever was typed, it is taken for what it says or refused by its line."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesion_utils.config.load import FILES, load_file
from lesion_utils.core.errors import ParamsError
from lesion_utils.core.paths import list_studies, params_root

COMMITTED = [params_root() / study / f"{name}.yaml" for study in list_studies() for name in FILES]

#: What a hand, an editor or a bad copy puts into a line.
SLIPS = st.sampled_from(
    [*"\t\r\x00\ufeff\u2028é#'\"[]{}|>?%@~", "  ", ": ", "- ", "&a ", "*a", "!!int ", "!mine ", "<<: ", "---\n",
     "...\n", "null", "yes", "-1", "1e999", ".nan", ".inf", "0x10", "1_000", "9" * 400]
)  # fmt: skip


@st.composite
def slip(draw) -> tuple[Path, str]:
    """A committed file with one to three slips: something put in, cut out, doubled or moved."""
    path = draw(st.sampled_from(COMMITTED))
    text = path.read_text(encoding="utf-8")
    values = [match.end() for match in re.finditer(r"^\s*[\w-]+: *", text, re.MULTILINE)]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(values)) if draw(st.booleans()) else draw(st.integers(0, len(text)))
        end = at + draw(st.sampled_from([0, 0, 1, 2, 5, 40]))
        new = draw(SLIPS | st.text(max_size=4) | st.integers().map(str) | st.floats().map(str))
        text = text[:at] + draw(st.sampled_from([new, "", text[at:end] * 2])) + text[end:]
    return path, text


def check(folder: Path, path: Path, raw: bytes) -> None:
    """The file is refused with its name, or every number in it is finite."""
    slipped = folder / path.name
    slipped.write_bytes(raw)
    try:
        params = load_file(slipped, FILES[path.stem])
    except ParamsError as error:
        assert path.name in str(error)
        return
    values = json.loads(params.model_dump_json())
    assert all(math.isfinite(value) for value in list_numbers(values))


def list_numbers(value: object) -> list[float]:
    if isinstance(value, dict | list):
        return [n for inner in (value.values() if isinstance(value, dict) else value) for n in list_numbers(inner)]
    return [value] if isinstance(value, int | float) else []


#: A minute's worth of slips, and a second's.
COUNTS = [60, pytest.param(1500, marks=pytest.mark.long)]


@pytest.mark.fault("parameters", "slips of the hand in committed files", "taken for what they say, or refused")
@pytest.mark.parametrize("count", COUNTS)
def test_a_slip_is_taken_for_what_it_says_or_refused(tmp_path, count):
    @settings(max_examples=count)
    @given(slipped=slip())
    def check_one(slipped):
        path, text = slipped
        check(tmp_path, path, text.encode("utf-8", "surrogatepass"))

    check_one()


@pytest.mark.fault("parameters", "files in another encoding, or none", "refused by name")
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1", "cp1252"])
def test_another_encoding_is_refused(tmp_path, encoding):
    text = (params_root() / "demo" / "data.yaml").read_text(encoding="utf-8") + "# é"
    (tmp_path / "data.yaml").write_bytes(text.encode(encoding, "replace"))
    with pytest.raises(ParamsError, match=r"data\.yaml: not UTF-8|data\.yaml: not valid YAML"):
        load_file(tmp_path / "data.yaml", FILES["data"])


@pytest.mark.fault("parameters", "any YAML at all", "refused by name")
@given(raw=st.binary(max_size=60) | st.text(alphabet="ab:-[]{}&*!|>#'\"\n 0.", max_size=60).map(str.encode))
def test_any_text_is_refused(tmp_path_factory, raw):
    check(tmp_path_factory.getbasetemp(), COMMITTED[0], raw)


@pytest.mark.fault("parameters", "huge numbers", "every number has a smallest and a largest value")
def test_every_number_has_bounds():
    for name, model in FILES.items():
        for where, schema in list_number_schemas(model.model_json_schema()):
            bounds = schema.keys() & {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}
            assert len(bounds) == 2, f"{name}: {where} has {bounds or 'no bounds'}"


def list_number_schemas(schema: object, where: str = "") -> list[tuple[str, dict]]:
    if isinstance(schema, list):
        return [found for inner in schema for found in list_number_schemas(inner, where)]
    if not isinstance(schema, dict):
        return []
    mine = [(where, schema)] if schema.get("type") in ("integer", "number") and "const" not in schema else []
    return mine + [found for key, inner in schema.items() for found in list_number_schemas(inner, f"{where}.{key}")]
