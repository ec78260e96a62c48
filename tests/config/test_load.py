"""Parameter files: what is read, what is refused, and how well the refusal explains itself."""

from __future__ import annotations

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML
from sections import data_params

from lesion_utils.config.backbones import list_architectures
from lesion_utils.config.load import load_file, load_study, resolve, to_mapping
from lesion_utils.config.reference import name_schema, render_readme, render_schemas
from lesion_utils.config.schema import Augmentation
from lesion_utils.config.selection import Selection
from lesion_utils.core.errors import ParamsError
from lesion_utils.core.paths import Study, list_networks, list_studies, params_root


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A copy of the demo study that a test may spoil."""
    return Path(shutil.copytree(params_root() / "demo", tmp_path / "spoilt"))


def edit(folder: Path, file: str, old: str, new: str) -> int:
    """Replace `old` once; returns the line, from 1, on which it stood."""
    path = folder / file
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return text[: text.index(old)].count("\n") + 1


def refuse(folder: Path) -> str:
    with pytest.raises(ParamsError) as caught:
        load_study(folder)
    return str(caught.value)


@pytest.mark.parametrize("name", list_studies())
def test_every_study_of_the_project_is_valid(name):
    params = load_study(Study(name).params_dir)
    assert params.comparison.primary.regime in params.resnet50.regimes
    assert params.comparison.primary.regime in params.vgg19.regimes


@pytest.mark.parametrize("name", list_studies())
def test_every_key_carries_a_comment(name):
    """A key has a comment on its line, or a comment block above its group of keys."""
    for path in Study(name).params_dir.glob("*.yaml"):
        commented = False
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                commented = False
            elif line.lstrip().startswith("#"):
                commented = True
            elif not line.startswith(" "):
                inner_comments = line.rstrip().endswith(":")  # a section explains each of its keys
                assert commented or "#" in line or inner_comments, f"{path.name}:{number}: no comment"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("seed: !!python/object/apply:os.system ['false']", r"data.yaml:\d+: the tag .*os.system"),
        ("seed: !mine 2016", r"data.yaml:\d+: the tag !mine"),
        ("seed: &a 2016\nshear: *a", r"data.yaml:\d+: the alias \*a"),
        ("seed: " + "9" * 5000, r"a value cannot be read: Exceeds the limit"),
        ("seed: " + "[" * 3000 + "]" * 3000, r"data.yaml:\d+: more than 20 brackets"),
        ("seed: 2016\n? [1, 2]\n: 3", r"data.yaml:\d+: \(1, 2\) is no parameter's name"),
        ("seed: 2016\n~: 3", r"data.yaml:\d+: None is no parameter's name"),
        ("seed: 2016\x00", r"data.yaml: not valid YAML"),
        ("seed: 2016\n---\nseed: 1", r"data.yaml:\d+: not valid YAML"),
    ],
)
@pytest.mark.fault("parameters", "tags that build objects, aliases, deep nesting, odd keys", "refused by line")
def test_what_yaml_can_and_a_study_never_needs_is_refused(study, line, words):
    edit(study, "data.yaml", "seed: 2016", line)
    with pytest.raises(ParamsError, match=words):
        load_study(study)


@pytest.mark.fault("parameters", "aliases that multiply", "refused at once")
def test_a_few_lines_that_stand_for_billions_of_values_are_refused_at_once(study):
    names = "abcdefghij"
    lines = ["a: &a [0, 0]"] + [f"{n}: &{n} [{', '.join([f'*{m}'] * 9)}]" for m, n in pairwise(names)]
    (study / "data.yaml").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ParamsError, match=r"data.yaml:2: the alias \*a"):
        load_study(study)


def test_a_folder_in_a_files_place_is_named(study):
    (study / "data.yaml").unlink()
    (study / "data.yaml").mkdir()
    with pytest.raises(ParamsError, match=r"data\.yaml: this is no regular file"):
        load_study(study)


def test_numbers_are_read_as_yaml_1_2_reads_them(study):
    edit(study, "resnet50.yaml", "lr: 1e-3", "lr: 1e-4")
    edit(study, "resnet50.yaml", "seeds: [1]", "seeds: [010]")
    network = load_study(study).resnet50
    assert network.regimes["scratch"].lr == 0.0001
    assert network.seeds == [10]


PAIR = "[resnet50/scratch, vgg19/scratch]"


@pytest.mark.parametrize(
    ("file", "old", "new", "key", "sentence"),
    [
        ("resnet50", "lr: 1e-3", "lr: -1", "regimes.scratch.lr", "-1 is not a number above 0, up to 10"),
        ("resnet50", "lr: 1e-3", "lr: '1e-3'", "regimes.scratch.lr", "'1e-3' is not a number above 0, up to 10"),
        ("resnet50", "lr: 1e-3", "lr: .nan", "regimes.scratch.lr", "nan is not a number above 0, up to 10"),
        ("resnet50", "name: adamw", "nmae: adamw", "optim.nmae", "unknown parameter, did you mean 'name'?"),
        ("resnet50", "name: adamw", "name: adam", "optim.name", "'adam' is not one of sgd, adamw, did you mean 'adamw"),
        ("resnet50", "seeds: [1]", "seeds: [1, 1]", "seeds", "each seed once"),
        ("resnet50", "seeds: [1]", "seeds: [1.5]", "seeds.0", "1.5 is not a whole number from 0"),
        ("resnet50", "seeds: [1]", "seeds: []", "seeds", "[] is not a list [a, b, ...] of at least one item"),
        ("resnet50", "  scratch:", "  scrach:", "regimes.scrach", "unknown parameter, did you mean 'scratch'?"),
        ("resnet50", "  scratch:", "  finetune:", "", "but weights is none"),
        ("resnet50", "image_size: 40", "image_size: 900", "image_size", "cannot exceed data.stored_size (72 px)"),
        ("resnet50", "mixup: 0.0", "mixup: yes", "mixup", "'yes' is not a number from 0, up to 2"),
        ("resnet50", "warmup_epochs: 1", "warmup_epochs: 20", "",
         "optim: warmup_epochs (20) must be smaller than the 5 epochs of regime scratch; try warmup_epochs: 0"),
        ("resnet50", "drop_rate: 0.0", "drop_rate: 0.0\ndrop_rate: 0.5", "", "not valid YAML: found duplicate key"),
        ("resnet50", "seeds: [1]", "seeds: [1", "", "not valid YAML"),
        ("augmentation", "rotation: 180", "", "", "rotation: this parameter is missing; it is a number from 0,"),
        ("comparison", "[resnet50, vgg19]", "[resnet50, vit]", "primary.networks", "'vit' is no network of this study"),
        ("comparison", PAIR, "[resnet50/scratch]", "", "combinations: [resnet50/scratch] wants two members or more"),
        ("comparison", PAIR, "[vgg19/scratch, vgg19/scratch]", "", "wants two members or more, each once"),
        ("comparison", PAIR, "[resnet50/scratch, vgg16/scratch]", "",
         "combinations: 'vgg16' is no network of this study; there are resnet50, vgg19"),
        ("comparison", PAIR, "[resnet50/scratch, resnet50/features:svm]", "",
         "combinations: 'resnet50/features:svm' is not a member"),
        ("comparison", PAIR, "[resnet50/scratch, resnet50/finetune:svm_rbf]", "",
         "combinations: 'resnet50/finetune:svm_rbf' is not a member"),
        ("comparison", PAIR, f"{PAIR}\n  - [vgg19/scratch, resnet50/scratch]", "", "combinations: each once"),
    ],
)  # fmt: skip
@pytest.mark.fault("parameters", "misspelt keys, wrong types, NaN, duplicated keys", "named with their lines")
def test_a_wrong_value_is_one_problem_with_its_line(study, file, old, new, key, sentence):
    line = edit(study, f"{file}.yaml", old, new)
    message = refuse(study)
    assert f"{file}.yaml:{line}: {key}: {sentence}" in message if key else sentence in message
    assert message.count(".yaml:") == 1, message


OWN = {"source": "folder", "images": "a", "labels": "b"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "folder"}, "images: with source: folder it says where they are"),
        ({"images": "a"}, "images: read with source: folder only"),
        (OWN | {"split": "starting_project"}, "split: the starting project's knows no images of your own"),
        ({"folds": 5}, "validation_fraction: 5 folds hold out every image once; set it to null"),
        ({"validation_fraction": None}, "validation_fraction: with folds: 1 it says how many images are held out"),
        ({"split": "starting_project", "validation_fraction": 0.3}, "validation_fraction: the starting .* out 0.2"),
        ({"external": {"PH2": {"images": "a", "labels": "b", "publish": True}}}, "publish: .* without the licence"),
        ({"external": {"../PH2": {"images": "a", "labels": "b"}}}, "external: '../PH2' is no name of letters"),
    ],
)
def test_what_data_yaml_says_of_images_and_split_must_fit(changes, words):
    with pytest.raises(ValidationError, match=words):
        data_params(**changes)


def test_a_word_of_neither_list_is_wrong_once(tmp_path):
    question = "{question: q, network: n, judge: svm_rfb, seeds: [1], grid: {a.b: [1, 2]}, choice: b 1, because: x}"
    (tmp_path / "selection.yaml").write_text(f"questions: [{question}]")
    with pytest.raises(ParamsError, match=r"judge: 'svm_rfb' is not one of .* or one of .*mean 'svm_rbf'\?") as caught:
        load_file(tmp_path / "selection.yaml", Selection)
    assert str(caught.value).count("svm_rfb' is") == 1


def test_all_problems_of_all_files_come_at_once(study):
    edit(study, "data.yaml", "seed: 2016", "seed: -1")
    edit(study, "vgg19.yaml", "batch_size: ", "batch: ")
    (study / "comparison.yaml").unlink()
    message = refuse(study)
    assert "data.yaml" in message
    assert "did you mean 'batch_size'" in message and "allowed here: backbone, " in message
    assert "comparison.yaml: this file of the study is missing" in message


def test_a_study_may_have_no_combination(study):
    edit(study, "comparison.yaml", f"combinations:\n  - {PAIR}", "combinations: []")
    assert load_study(study).comparison.combinations == []


def test_an_unknown_study_lists_those_that_exist():
    with pytest.raises(ParamsError, match="one of demo, isic2016, isic2016_160px, isic2016_256px, isic2016_640px"):
        _ = Study("demmo").params_dir


@pytest.mark.slow
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=4))
@pytest.mark.fault("parameters", "any value for a number", "taken or refused with a reason")
def test_any_value_is_taken_or_refused_with_a_reason(tmp_path_factory, value):
    """No value, however odd, ends in anything but a number in range or a ParamsError."""
    document = YAML(typ="safe").load(params_root() / "demo" / "augmentation.yaml")
    spoilt = tmp_path_factory.getbasetemp() / "augmentation.yaml"
    YAML(typ="rt").dump({**document, "rotation": value}, spoilt)
    try:
        assert 0 <= load_file(spoilt, Augmentation).rotation <= 180
    except ParamsError as error:
        assert "rotation" in str(error)


def test_the_injected_mapping_is_the_same_study():
    name, params = resolve("../params/demo")
    assert name == "demo"
    assert resolve(to_mapping(name, params)) == (name, params)


def test_the_reference_and_the_editors_schemas_are_the_schema():
    page = (params_root() / "README.md").read_text(encoding="utf-8")
    assert page == render_readme(), "run: make reference"
    committed = {path.name: path.read_text(encoding="utf-8") for path in (params_root() / "schema").iterdir()}
    assert committed == render_schemas(), "run: make reference"


@pytest.mark.parametrize("path", sorted(params_root().glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_an_editor_finds_the_schema_and_no_fault(path):
    """The file's first line names its schema, relative to the file, and another validator accepts what is in it."""
    jsonschema = pytest.importorskip("jsonschema")
    first = path.read_text(encoding="utf-8").splitlines()[0]
    schema = path.parent / first.removeprefix("# yaml-language-server: $schema=")
    assert schema.resolve() == params_root() / "schema" / name_schema(path.stem)
    validator = jsonschema.Draft202012Validator(json.loads(schema.read_text(encoding="utf-8")))
    document = YAML(typ="safe").load(path)
    assert [error.message for error in validator.iter_errors(document)] == []
    assert list(validator.iter_errors({**document, "no_such_key": 1})), "an unknown key is a fault"


def test_every_further_file_is_a_further_network(study):
    shutil.copy(study / "vgg19.yaml", study / "convnext_tiny.yaml")
    edit(study, "convnext_tiny.yaml", "backbone: vgg19.tv_in1k", "backbone: convnext_tiny.in12k_ft_in1k")
    shutil.copy(study / "vgg19.yaml", study / ".vgg19.yaml")  # an editor's
    edit(study, "comparison.yaml", "networks: [resnet50, vgg19]", "networks: [convnext_tiny, vgg19]")
    edit(study, "comparison.yaml", "[resnet50/scratch, vgg19/scratch]", "[resnet50/scratch, convnext_tiny/scratch]")
    params = load_study(study)
    assert list(params.networks) == list_networks(study) == ["resnet50", "vgg19", "convnext_tiny"]
    assert params.models["convnext_tiny"] == "convnext_tiny"
    assert params.named_comparison.pair == ("convnext_tiny", "vgg19")
    assert list(params.named_comparison.averages) == ["ResNet50 + ConvNeXt-Tiny, from scratch"]
    assert resolve(to_mapping("mine", params)) == ("mine", params)
    line = edit(study, "convnext_tiny.yaml", "drop_rate: 0.0", "drop_rate: 1.5")
    assert f"convnext_tiny.yaml:{line}: drop_rate: 1.5 is not" in refuse(study)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("study", "study and any_external are taken"),
        ("vgg19_external", "study and any_external are taken"),
        ("my network", "letters, digits, - and _"),
        ("1st", "a letter first"),
        ("vit_small", "its name begins with another network's, vit"),
    ],
)
def test_a_name_that_no_network_can_have_is_refused(study, name, sentence):
    shutil.copy(study / "vgg19.yaml", study / "vit.yaml")
    shutil.copy(study / "vgg19.yaml", study / f"{name}.yaml")
    message = refuse(study)
    assert f"{name}.yaml: " in message and sentence in message


def test_a_record_names_no_folder_and_a_run_finds_it_again(study, monkeypatch):
    """What is injected into a notebook is published; its kernel takes the places from the study's own files."""
    own = "source: folder\nimages: /media/jane/photographs\nlabels: /media/jane/labels.csv"
    edit(study, "data.yaml", "source: embedded", own)
    with (study / "data.yaml").open("a") as file:
        file.write("external:\n  S: {images: ~/S, labels: S.csv}\n")
    params = load_study(study)
    mine = params.resnet50.model_copy(update={"weights": "/media/jane/mine.pth"})
    params = params.model_copy(update={"resnet50": mine})
    mapping = to_mapping("spoilt", params)
    assert not re.search("jane|~|S.csv", json.dumps(mapping))
    assert params.hide_places().hides_places and not params.hides_places
    monkeypatch.setattr("lesion_utils.config.load.load_study", lambda folder: params)
    monkeypatch.setattr("lesion_utils.core.paths.params_root", lambda: study.parent)
    assert resolve(mapping) == ("spoilt", params)


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        ("resnet5.tv_in1k", "backbone: timm has no network of this name, did you mean 'resnet5"),
        ("no_such_network", "backbone: timm has no network of this name"),
        ("vgg19_bn.tv_in1k", None),
        ("small_cnn", None),
        ("vit_tiny_patch16_224_in21k", None),  # an old name, which timm still takes
    ],
)
@pytest.mark.fault("parameters", "a backbone that timm does not know", "refused by its line, before anything runs")
def test_the_backbone_is_known_before_anything_runs(study, backbone, said):
    path = study / "vgg19.yaml"
    path.write_text(re.sub(r"(?m)^backbone: .*$", f"backbone: {backbone}", path.read_text()))
    if said is None:
        load_study(study)
        return
    with pytest.raises(ParamsError, match=rf"vgg19\.yaml:\d+: {said}"):
        load_study(study)


@pytest.mark.slow
def test_timms_source_names_the_networks_that_timm_has():
    import timm

    import lesion_utils.models.custom  # noqa: F401

    assert list_architectures() == sorted(timm.list_models())
