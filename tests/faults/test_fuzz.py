"""Names, files and variables that nobody meant: a sentence answers each, at once, and never a traceback."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from lesion_utils import cli
from lesion_utils.config import load
from lesion_utils.config.load import load_file
from lesion_utils.config.selection import Selection, change_params
from lesion_utils.core import paths, settings
from lesion_utils.core.errors import LesionError

LETTERS = "abcXYZ019._-/ \\'\"$%#*?~:;|&<>()[]{}!=,@^`\t\néß漢\u200b\u202e\ud800\x07"
#: What a line of YAML may be changed to.
VALUES = [
    "", "null", "~", "yes", "-1", "0", "1e999", ".nan", "[]", "{}", "[1, [2, [3]]]", "{a: {b: c}}", "'x", '"\\q"', "*a",
    "&a b", "!!python/object:os.system x", "|", ">", "- - -", "x: y: z", "9" * 5000, "'" + "x" * 9999 + "'",
    "a" * 9999, "../../..", "/etc/passwd", "$HOME", "2026-01-01", "0x1F", "1_000", "\x00", "\ufeff", "é" * 9, "resnet5",
    "hf-hub:a/b",
]  # fmt: skip


@pytest.fixture
def answer(monkeypatch, capsys, tmp_path) -> Callable[..., str]:
    """Run a verb: it succeeds or says in sentences what is wrong, within five seconds of computing."""
    monkeypatch.setenv("REPORTS_DIR", str(tmp_path / "reports"))
    monkeypatch.setattr("lesion_utils.pipeline.graph.tell_why", lambda study, params: "")  # what comes after the checks

    def ask(*arguments: str) -> str:
        started = time.process_time()
        status = cli.main(arguments)
        shown = capsys.readouterr()
        assert status in (0, 1) and (status == 0) == (shown.err == ""), arguments
        assert "Traceback" not in shown.err and len(shown.err) < 20_000, arguments
        assert time.process_time() - started < 5, arguments
        return shown.err

    return ask


def draw_names(draw: random.Random) -> Iterator[str]:
    known = ["demo", "isic2016", ".", "..", "...", "-", "--help", "demo/", "demo/..", "~", "/", "x" * 300, "x" * 9000]
    for number in range(200):
        name = draw.choice(known) if number % 3 == 0 else ""
        yield name + "".join(draw.choices(LETTERS, k=draw.choice([0, 1, 2, 8])))


@pytest.mark.fault("parameters", "200 names that no study has", "refused by name, at once")
def test_any_name_is_answered(answer):
    for name in draw_names(random.Random(0)):
        refused = answer("why", "--", name)
        assert refused.startswith("STUDY=") or name in paths.list_studies(), repr(name)


def mutate(text: str, draw: random.Random) -> bytes:
    """A file with one to three slips: lines changed, doubled, moved, cut; letters put in; bytes that are no text."""
    lines = text.splitlines()
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(lines))
        key, colon, value = lines[at].partition(":")
        changed = draw.choice(
            [
                [f"{key}: {draw.choice(VALUES)}"],
                [f"{key}{draw.choice(LETTERS)}{colon}{value}"],
                [lines[at], lines[at]],
                [],
                [" " * draw.randint(1, 5) + lines[at]],
                [draw.choice(VALUES)],
                ["".join(draw.sample(lines[at], len(lines[at])))],
            ]
        )
        lines[at : at + 1] = changed
        lines = lines or [""]
    raw = "\n".join(lines).encode("utf-8", "surrogatepass")
    if draw.random() < 0.1:
        raw = raw[: draw.randrange(len(raw) + 1)] + draw.randbytes(draw.randint(1, 30))
    return raw


@pytest.mark.fault("parameters", "300 damaged YAML files, selection.yaml too", "refused by file and line, at once")
def test_any_yaml_is_answered(answer, tmp_path, monkeypatch):
    source, folder = paths.params_root() / "demo", tmp_path / "params" / "demo"
    questions = (paths.params_root() / "isic2016_640px" / "selection.yaml").read_text(encoding="utf-8")
    good = {path.name: path.read_text(encoding="utf-8") for path in sorted(source.glob("*.yaml"))}
    shutil.copytree(source, folder)
    monkeypatch.setattr(paths, "params_root", lambda: tmp_path / "params")
    remembered = cache(load._load)  # what was not touched is read once
    monkeypatch.setattr(
        load, "_load", lambda path, model: (remembered if path.name != name else remembered.__wrapped__)(path, model)
    )
    draw = random.Random(1)
    for _ in range(250):
        name = draw.choice(list(good))
        (folder / name).write_bytes(mutate(good[name], draw))
        refused = answer("why")
        assert not refused or name in refused or "augmentation" in refused, refused
        (folder / name).write_text(good[name], encoding="utf-8")
    params = cli._read_params(paths.Study("demo"))
    for _ in range(50):
        (folder / "selection.yaml").write_bytes(mutate(questions, draw))
        started = time.process_time()
        try:
            selection = load_file(folder / "selection.yaml", Selection)
            for question in selection.questions:
                for changes in question.candidates.values():
                    change_params(params, changes, where="selection.yaml")
        except LesionError as error:
            assert len(str(error)) < 20_000
        assert time.process_time() - started < 5


def make_odd(kind: str, path: Path) -> None:
    """Put something that is no plain file of parameters in a file's place."""
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in ("itself", "nothing", "device"):
        path.symlink_to({"itself": path, "nothing": path / "x", "device": "/dev/zero"}[kind])
    elif kind == "huge":
        path.write_text("note: " + "x" * 3_000_000)
    elif kind == "many":
        path.write_text("".join(f"key{number}: 1\n" for number in range(1000)))
    elif kind == "unreadable":
        path.write_bytes(bytes(range(256)))


@pytest.mark.parametrize("kind", ["pipe", "folder", "itself", "nothing", "device", "huge", "many", "unreadable"])
@pytest.mark.parametrize("name", ["data.yaml", "vgg19.yaml"])
@pytest.mark.fault("parameters", "a pipe, a folder, a link to itself, 3 MB for a YAML file", "refused by its name")
def test_what_is_no_plain_file_is_answered(answer, tmp_path, monkeypatch, kind, name):
    shutil.copytree(paths.params_root() / "demo", tmp_path / "params" / "demo")
    monkeypatch.setattr(paths, "params_root", lambda: tmp_path / "params")
    make_odd(kind, tmp_path / "params" / "demo" / name)
    assert name in answer("why") and len(answer("why")) < 10_000


@pytest.mark.fault("parameters", "100 odd values of the machine's variables", "taken or refused by name, at once")
def test_any_value_of_a_variable_is_answered(answer, monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "settle_device", lambda: None)
    draw = random.Random(2)
    known = ["", " ", "4,2", "auto", "cuda:1", "tcp://127.0.0.1:1", "1e9", "0x10", "-1", "٣", "~", "~nobody"]
    known += ["/dev/null", str(tmp_path), "/proc/1/root", "x" * 5000, "\udcff", "a\nb"]
    names = ("THREADS", "OMP_NUM_THREADS", "DEVICE", "JOBS", "CLUSTER", "WEIGHTS_DIR", "DATA_DIR", "REPORTS_DIR")
    for _ in range(100):
        text = "".join(draw.choices(LETTERS.replace("\ud800", ""), k=draw.randint(1, 9)))
        name, value = draw.choice([*names, "LESION_CACHE"]), draw.choice([*known, text])
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            refused = answer("why")
            assert refused == "" or refused.startswith(f"{name}="), (name, value)
