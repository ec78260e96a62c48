"""A study as a copy of another: what is set is set, everything else stays, and nothing is half made."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from small_project import ROOT, make

from lesion_utils import cli
from lesion_utils.config.load import load_study
from lesion_utils.core import paths
from lesion_utils.core.errors import ParamsError
from lesion_utils.core.paths import Study, list_studies, params_root
from lesion_utils.extras.new_study import copy_study, set_value

SHIPPED = {
    path: path.read_text(encoding="utf-8")
    for name in list_studies()
    for path in params_root().joinpath(name).glob("*.yaml")
    if path.stem != "selection"
}


def read(text: str) -> dict:
    return YAML(typ="safe", pure=True).load(text)


def list_leaves(values: dict, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = [(value, (*before, key)) for key, value in values.items()]
    return [leaf for value, key in inner for leaf in (list_leaves(value, key) if isinstance(value, dict) else [key])]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The folder of the parameters in a copy of the project."""
    shutil.copytree(ROOT / "params", tmp_path / "params")
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    return tmp_path / "params"


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_an_edit_changes_one_value_and_no_other_letter(data):
    text = data.draw(st.sampled_from(list(SHIPPED.values())))
    key = data.draw(st.sampled_from(list_leaves(read(text))))
    single = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    single |= st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "))
    value = data.draw(single | st.lists(single, max_size=3))
    written = json.dumps(value, ensure_ascii=False)
    edited = set_value(text, ".".join(key), written, of="")
    expected = group = read(text)
    for part in key[:-1]:
        group = group[part]
    group[key[-1]] = value
    assert read(edited) == expected
    old, new = text.splitlines(), edited.splitlines()
    (line,) = [n for n, row in enumerate(new) if n >= len(old) or row != old[n]][:1] or [None]
    if line is None:
        return  # the value that it had
    rest = new[line + 1 :]
    assert old[:line] == new[:line] and (not rest or old[-len(rest) :] == rest), "one line is another"
    name = re.match(r" *[\w-]+:", old[line])[0]
    after = re.search(r" +#[^\"]*$", old[line])
    assert new[line] == f"{name} {written}{after[0] if after else ''}"


VALID = {
    "resnet50.regimes.scratch.epochs": st.integers(3, 50),
    "vgg19.optim.weight_decay": st.floats(0, 1),
    "resnet50.drop_rate": st.sampled_from(["0.5", "1e-2"]),
    "comparison.prevalences": st.lists(st.floats(0.01, 0.9), min_size=1, max_size=4, unique=True),
    "data.title": st.text("aé: #'\"$`\\{[*&!|>%@-0", min_size=3).filter(lambda text: text.strip(" 0-") == text),
}


@pytest.mark.slow
@pytest.mark.parametrize("source", list_studies())
def test_a_copy_loads_with_its_new_values_and_keeps_all_other_bytes(project, source):
    @settings(max_examples=8, deadline=None)
    @given(key=st.sampled_from([*VALID]), data=st.data())
    def copy(key, data):
        value = data.draw(VALID[key])
        typed = f"'{value!r}'" if isinstance(value, list) else str(value).replace("\\", "\\\\").replace('"', '\\"')
        if key == "data.title":  # as text for certain, whatever it begins with
            typed = json.dumps(value, ensure_ascii=False).replace("\\", "\\\\").replace('"', '\\"')
            typed = f'"{typed}"'
        shutil.rmtree(project / "mine", ignore_errors=True)
        copy_study(source, "mine", f"{key}={typed}")
        loaded = load_study(project / "mine").model_dump(mode="json")
        for part in key.split("."):
            loaded = loaded[part]
        assert loaded == (float(value) if key == "resnet50.drop_rate" else value)
        for path in (project / source).glob("*.yaml"):
            old, new = path.read_bytes(), (project / "mine" / path.name).read_bytes()
            if path.stem != key.partition(".")[0]:
                assert new == old

    copy()


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("../x", "", r"NAME=\.\./x: this is no name of a study"),
        (".x", "", "NAME=.x: this is no name"),
        ("demo", "", "params/demo: this folder exists, and nothing is overwritten"),
        ("schema", "", "params/schema: this folder exists"),
        ("x", "resnet50.sede=3", r"params/x/resnet50.yaml:\d+: sede: unknown parameter, did you mean 'seeds'"),
        ("x", "data.folds=ten", r"params/x/data.yaml:\d+: folds: 'ten' is not a whole number .*\n.*\n.*correct SET"),
        ("x", "data.folds=5", "validation_fraction: 5 folds hold out every image once; set it to null"),
        ("x", "data.folds=1 data.folds", "SET: data.folds: this sets nothing\n.*key=value"),
        ("x", "data.seed=[1", r"SET: data.seed: \[1 cannot be read"),
        ("x", "resnet50.seeds=[1, 2]", r"SET: resnet50.seeds: \[1, cannot be read\n.*\n.*quotes"),
        ("x", "'data.columns={a: *b}'", "SET: data.columns: .* cannot be read"),
        ("x", 'data.title="', "cannot be split"),
        ("x", "nothing.seed=1", "SET: nothing.seed: no such parameter\n.*one of data, augmentation, resnet50"),
        ("x", "selection.questions=1", "SET: selection.questions: no such parameter"),
        ("x", "resnet50.regimes.scratch=1", "a group of parameters\n.*resnet50.regimes.scratch.epochs"),
        ("x", "resnet50.regimes.features.lr=1", "features is not in the file\n.*one of scratch"),
        ("x", "data.title.x=1", "x is not in the file"),
        ("x", "data.title=$'\n'", "this sets nothing"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(project, name, changes, said):
    before = sorted(path.name for path in project.iterdir())
    with pytest.raises(ParamsError, match=said):
        copy_study("demo", name, changes)
    assert sorted(path.name for path in project.iterdir()) == before


def test_an_optional_parameter_is_added_and_lists_and_texts_are_taken_as_they_are_typed(project):
    changes = "data.source=folder data.images='my images' data.labels=a.csv resnet50.seeds='[1, 2]'"
    shown = copy_study("demo", "mine", changes + " vgg19.regimes.scratch.lr=2e-4")
    assert shown.endswith(
        "resnet50.seeds: [1, 2]\n  vgg19.regimes.scratch.lr: 2e-4\n  data.remarks: []\nnext: make all STUDY=mine"
    )
    params = load_study(Study("mine").params_dir)
    assert (params.data.images, params.data.remarks, params.resnet50.seeds) == ("my images", [], [1, 2])
    assert "    lr: 2e-4\n" in (project / "mine" / "vgg19.yaml").read_text()


def test_make_passes_what_is_typed_and_nothing_of_the_machine(monkeypatch, capsys, tmp_path):
    done = make(ROOT, "study", f"NAME=$(touch {tmp_path}/a)`touch {tmp_path}/b`;\"'", "SET=a=$b #")
    assert done.returncode == 2 and "this is no name of a study" in done.stderr
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("NAME", "my-machine")  # as on WSL
    done = make(ROOT, "study")
    assert "the new study's name is missing" in done.stderr
    assert cli.main(["study", "--from=dmeo", "--name=x"]) == 1
    assert "FROM=dmeo: there is no study 'dmeo', did you mean 'demo'?" in capsys.readouterr().err
