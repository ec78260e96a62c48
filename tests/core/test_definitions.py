"""What changes a fingerprint of code, and what must not: edits of a copy of this package, and of a small one."""

from __future__ import annotations

import gc
import os
import re
import shutil
import textwrap
import time
import tokenize
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from small_project import ROOT, STEPS

from lesion_utils.core import definitions
from lesion_utils.core.definitions import fingerprint_definitions, parse
from lesion_utils.models import inference
from lesion_utils.provenance.fingerprint import read_code
from lesion_utils.training import task

Edit = Callable[["Package"], object]
Prints = dict[str, dict[str, str]]
FUTURE = "from __future__ import annotations\n"


class Package:
    """A copy of the package, to be edited."""

    def __init__(self, folder: Path):
        self.folder = folder
        shutil.copytree(ROOT / "lesion_utils", folder, ignore=shutil.ignore_patterns("__pycache__"))
        self._writes = 0

    def find(self, name: str) -> Path:
        """The module that defines a name, or the file of that name."""
        pattern = re.compile(rf"^(?:async )?(?:def|class) {name}\b|^{name}\b(?:: [^=]+)? = ", re.MULTILINE)
        found = [path for path in self.folder.rglob("*.py") if pattern.search(path.read_text())]
        found = found or list(self.folder.rglob(name))
        assert len(found) == 1, f"{name} is in {found}"
        return found[0]

    def cut(self, name: str) -> tuple[Path, str, str, str]:
        """The file of a definition, and its text before, of and after it."""
        path = self.find(name)
        text = path.read_text()
        start = re.search(rf"^(?:@[^\n]*\n)*(?:(?:def|class) {name}\b|{name}\b(?:: [^=]+)? = )", text, re.MULTILINE)
        assert start
        end = re.compile(r"^(?=[@\w#])", re.MULTILINE).search(text, start.end())
        return (
            path,
            text[: start.start()],
            text[start.start() :][: end and end.start() - start.start()],
            (text[end.start() :] if end else ""),
        )

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        self._writes += 1  # a later time for each, however fast they follow
        os.utime(path, (2e9 + self._writes, 2e9 + self._writes))

    def fingerprint(self) -> Prints:
        """Of a run, of the features of a frozen network, and of each step."""
        found = {"run": fingerprint_definitions(task._ENTRIES, without=task._CHANGE_NO_NUMBER)}
        found["features"] = inference._fingerprint_models()
        for name, step in STEPS.items():
            notebook = {"source": read_code(step.notebook), "entries": ()} if step.is_notebook else {}
            found[name] = fingerprint_definitions(**(notebook or {"entries": [step.entry]}))
        return found


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    copy = Package(tmp_path / "lesion_utils")
    monkeypatch.setattr(definitions, "_FOLDER", copy.folder)
    return copy


def list_changed(before: Prints, after: Prints) -> dict[str, set[str]]:
    """For each fingerprint, the names whose hashes differ."""
    return {
        key: {name for name in before[key].keys() | after[key].keys() if before[key].get(name) != after[key].get(name)}
        for key in before
    }


# --- edits --------------------------------------------------------------------------------------------------------


def inside(name: str, old: str, new: str) -> Edit:
    """Edit a definition."""

    def edit(package: Package) -> None:
        path, before, source, after = package.cut(name)
        assert old in source, f"{old!r} is not in {name}"
        package.write(path, before + source.replace(old, new, 1) + after)

    return edit


def beside(name: str, old: str, new: str) -> Edit:
    """Edit the file that a definition is in, or the file of that name."""

    def edit(package: Package) -> None:
        path = package.find(name)
        assert old in path.read_text(), f"{old!r} is not in {path.name}"
        package.write(path, path.read_text().replace(old, new, 1))

    return edit


def after(name: str, source: str) -> Edit:
    """Add to the end of the file that a definition is in."""
    return lambda package: package.write(package.find(name), package.find(name).read_text() + source)


def move(name: str, module: str) -> Edit:
    """Move a definition to a new module, which imports what it needs; the old one imports it."""

    def edit(package: Package) -> None:
        path, before, source, rest = package.cut(name)
        home = path.relative_to(package.folder.parent).with_suffix("").as_posix().replace("/", ".")
        head = "".join(re.findall(r"^(?:import|from) (?:[^\n(]*\n|[^(\n]*\([^)]*\)\n)", before, re.MULTILINE))
        known = re.findall(r"^(?:def|class) (\w+)|^(\w+)(?:: [^=\n]+)? = ", before + rest, re.MULTILINE)
        needed = [n for pair in known for n in pair if n and re.search(rf"\b{n}\b", source)]
        head += f"from {home} import {', '.join(needed)}\n" if needed else ""
        package.write(package.folder / f"{module}.py", f"{head}\n\n{source}")
        new = f"from lesion_utils.{module.replace('/', '.')} import {name}\n"
        package.write(path, (before + rest).replace(FUTURE, FUTURE + new, 1))

    return edit


def rename(old: str, new: str) -> Edit:
    """Move a module, with every import of it."""

    def edit(package: Package) -> None:
        package.write(package.folder / f"{new}.py", (package.folder / f"{old}.py").read_text())
        (package.folder / f"{old}.py").unlink()
        (home, name), (there, other) = (path.split("/") for path in (old, new))
        for path in package.folder.rglob("*.py"):
            text = path.read_text()
            fixed = re.sub(rf"lesion_utils\.{home}\.{name}\b", f"lesion_utils.{there}.{other}", text)
            only = rf"from lesion_utils\.{home} import {name}\b"
            fixed = re.sub(only, f"from lesion_utils.{there} import {other} as {name}", fixed)
            if fixed != text:
                package.write(path, fixed)

    return edit


def respell(name: str, pattern: str, new: str) -> Edit:
    """Edit the file that a definition is in wherever a pattern matches."""

    def edit(package: Package) -> None:
        text = package.find(name).read_text()
        assert re.search(pattern, text, re.MULTILINE), pattern
        package.write(package.find(name), re.sub(pattern, new, text, flags=re.MULTILINE))

    return edit


# --- must run again -----------------------------------------------------------------------------------------------

RUN = {"run", "03_resnet50_finetune", "04_vgg19_finetune"}
NETWORKS = RUN | {"features"}
NOTEBOOKS = {name for name, step in STEPS.items() if step.is_notebook}
TRAINING = RUN - {"run"}
#: The name that shows the change; the edit; where it must show; where else it may.
MUST: list[tuple[str, Edit, set[str], set[str]]] = [
    ("train_epoch", inside("train_epoch", "schedule.step()", "schedule.get_lr()"), RUN, set()),
    ("sample_losses", inside("sample_losses", "F.softplus(-logits)", "F.softplus(logits)"), RUN, set()),
    ("soften", inside("soften", "label_smoothing: float", "label_smoothing: float = 0.1"), RUN, set()),
    ("mix", inside("mix", "targets: Tensor, *, alpha", "targets: Tensor, alpha"), RUN, set()),
    ("learning_rate_factor", inside("learning_rate_factor", "*, epochs: int", "*, epoch: int"), RUN, set()),
    ("_PADDING", inside("_PADDING", '"reflection"', '"zeros"'), RUN, NOTEBOOKS),
    ("RGB_TO_YIQ", inside("RGB_TO_YIQ", "0.299", "0.3"), RUN, NOTEBOOKS),  # known by YIQ_TO_RGB, itself a constant
    ("Scorer", inside("Scorer", "    @torch.no_grad()\n    def run_batches", "    def run_batches"), NETWORKS, set()),
    ("step_in_memory_order", inside("step_in_memory_order", "(0, 3, 1, 2)", "(0, 3, 2, 1)"), RUN, set()),  # nested
    ("make_schedule", inside("make_schedule", "(step + 1)", "(step + 2)"), RUN, set()),  # in a lambda
    ("split_steps", inside("split_steps", "range(0, count, accumulation)", "range(0, count)"), RUN, set()),
    ("TrainingTask", inside("TrainingTask", "in_regime(self.regime)", "in_regime(0)"), RUN, set()),  # a property
    ("Batch", inside("Batch", "keys: np.ndarray", "keys: list"), RUN, set()),  # the annotation of a field
    ("DataConfig", inside("DataConfig", "interpolation: str", "interpolation: str = 'x'"), NETWORKS, NOTEBOOKS),
    ("score_validation", respell("train_epoch", "import expit", "import ndtr as expit"), RUN, set()),
    ("rank_epoch", inside("rank_epoch", "-record", "record"), RUN, set()),
    ("plan_epoch", respell("plan_epoch", "(draw_order), (split_steps)$", r"\2\nfrom timm import \1"), RUN, set()),
    ("average_precision", inside("average_precision", "return ", "return 0 * "), RUN, NOTEBOOKS),  # selects the epoch
    ("VIEWS", inside("VIEWS", '"flips": 8', '"flips": 4'), NETWORKS, set()),
    ("WindowConv2d", inside("WindowConv2d", "return ", "return 0 * "), NETWORKS, NOTEBOOKS),  # set as a `__class__`
    ("SmallCNN", inside("SmallCNN", "width: int = 16", "width: int = 32"), NETWORKS, NOTEBOOKS),  # registered with timm
    ("default_cfgs", inside("default_cfgs", "1000", "1001"), NETWORKS, NOTEBOOKS),  # looked up there by timm
    ("LOGISTIC", inside("LOGISTIC", "1e-5, ", ""), RUN, set()),  # may start the last layer
    ("CANDIDATES", inside("CANDIDATES", "[1, 5, 11, 21, 41, 81]", "[1, 5]"), TRAINING, set()),  # of the kNN
    ("KNOWN", inside("KNOWN", "{", "{'x': None, "), TRAINING, NOTEBOOKS),
    ("Network", inside("Network", "batch_size: ", "batch_sizes: "), TRAINING, set(STEPS)),
    ("_explain_stops", inside("_explain_stops", "to continue.", "again."), TRAINING, set()),
    ("GREY", beside("save", "#6b6b6b", "#6b6b6c"), TRAINING, NOTEBOOKS),
    ("report.html.j2", beside("report.html.j2", "<", " <"), {"index"}, set()),
    ("style.css", beside("style.css", "{", " {"), {"index"}, set()),
    ("build_site", inside("build_site", "def ", "async def "), {"index"}, set()),
    ("label_changes.csv", beside("label_changes.csv", "\n", "\n\n"), {"data"}, NOTEBOOKS | {"index"}),
    ("prepare_study", inside("prepare_study", "def ", "async def "), {"data"}, set()),
]  # fmt: skip


@pytest.mark.slow
def test_an_edit_that_matters_shows_by_name_where_it_concerns_something(package):
    before = package.fingerprint()
    for _, edit, _, _ in MUST:
        edit(package)
    changed = list_changed(before, package.fingerprint())
    for name, _, must, may in MUST:
        shown = {key for key, names in changed.items() if name in names}
        assert must <= shown <= must | may, f"{name}: {shown}"
    expected = {name for name, *_ in MUST} | {"draw_order"}  # which is now one of timm's
    assert changed["run"] <= expected and changed["features"] <= expected


# --- must not -----------------------------------------------------------------------------------------------------

UNUSED = "\n\ndef unused():\n    return 0\n"
CHECKED = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lesion_utils.figures.style import save\n"
MUST_NOT: list[Edit] = [
    inside("train_epoch", '"""', '"""Other words. '),
    inside("train_epoch", "\n    for ", "\n    # a comment\n    for "),
    inside("rank_epoch", "record: Mapping[str, Any]", "record: dict"),
    inside("rank_epoch", 'record["val_ap"], -record', "(\n        record['val_ap']), -record"),
    inside("make_optimizer", "optimizer: torch.optim.Optimizer = ", "optimizer = "),
    inside("check_scores", "labels, scores = ", "\n\n    labels, scores = "),
    beside("make_schedule", "import math\n", "import json\nimport math\n"),
    beside("make_schedule", "import torch\n", f"import torch\n{CHECKED}"),
    beside("Licence", FUTURE, f"{FUTURE}from functools import *\n"),
    inside("class_weights", "malignant = ", "import math\n    malignant = "),
    respell("sample_losses", r"(as F$|\bF\.)", lambda m: m[0].replace("F", "functional")),
    respell("train_epoch", r"\bnp\b", "numpy"),  # import numpy as numpy
    respell("RUN_FILES", r"(?<!self\.)(?<!def )\btrain_epoch\b", "train_one"),
    beside("RUN_FILES", "score_validation, train_one", "score_validation, train_epoch as train_one"),
    after("average_precision", UNUSED),
    after("find_licence", "\n\nUNUSED = 3\n"),
    after("describe_layers", "\n\nclass Unused:\n    pass\n"),
    lambda package: package.write(package.folder / "training" / "other.py", UNUSED),
    lambda package: package.write(package.folder / "rooms" / "__init__.py", '"""New."""\n'),
    move("rank_epoch", "training/ranks"),
    move("soften", "models/labels"),
    move("RGB_TO_YIQ", "core/colours"),
    move("FeatureInputs", "models/feature_inputs"),
    move("Optim", "config/optim"),
    move("LesionError", "core/base_error"),
    rename("training/loop", "training/epoch"),
    rename("models/preprocess", "core/resizing"),
    rename("figures/style", "notebooks/look"),
    inside("run_step", "up to date", "as before"),
    inside("main", "141", "142"),
    inside("compare_reports", "return ", "return 0, "),
    inside("make_box", "def ", "async def "),
]


@pytest.mark.slow
def test_edits_that_do_not_matter_change_nothing(package):
    before = package.fingerprint()
    for edit in MUST_NOT:
        edit(package)
    changed = {key: names for key, names in list_changed(before, package.fingerprint()).items() if names}
    assert not changed


#: Edits that concern notebooks and leave the trained networks alone.
NO_NUMBER: list[Edit] = [
    inside("KNOWN", "{", "{'x': None, "),
    inside("CANDIDATES", "[1, 5, 11, 21, 41, 81]", "[1, 5]"),
    inside("open_atomic", "os.fsync(file.fileno())", "pass"),
    inside("save_checkpoint", "cause = ", "reason = "),
    inside("_explain_stops", "to continue.", "again."),
    inside("TrainingError", '"""', 'added = 1\n    """'),
    inside("find_weights", "return ", "return 0, "),
    inside("name_processor", "return ", "return 0, "),
    inside("identify", "return ", "return 0, "),
    inside("read_predictions", "return ", "return 0, "),
    inside("Network", "batch_size: ", "batch_sizes: "),
    inside("Console", "def ", "async def "),
]


@pytest.mark.slow
def test_edits_of_messages_files_and_records_train_nothing_again(package):
    before = package.fingerprint()
    for edit in NO_NUMBER:
        edit(package)
    changed = list_changed(before, package.fingerprint())
    assert not changed["run"] and not changed["features"]
    assert len(changed["03_resnet50_finetune"]) >= 7


def test_names_that_change_no_number_are_on_the_way():
    """A renamed definition is not left out by mistake, and a name is not left here when its definition goes."""
    reached = fingerprint_definitions(task._ENTRIES)
    assert reached.keys() >= task._CHANGE_NO_NUMBER


# --- a small package ----------------------------------------------------------------------------------------------

SMALL = {
    "__init__": '"""Small."""\n',
    "work/__init__": "",
    "work/entry": """
        import numpy as np
        from lesion_utils.work import tools
        from lesion_utils.work.tools import LIMIT, helper as help_me

        def main(x: int = 1) -> int:
            "Words."
            return help_me(x) + LIMIT + np.pi + tools.other()
    """,
    "work/tools": """
        BASE = 2
        LIMIT = BASE + 1

        def helper(x):
            return [tools for tools in x]

        def other():
            return 0

        def unused():
            return 1
    """,
}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Write the small package with these modules instead of its own, and return what `main` reaches."""
    monkeypatch.setattr(definitions, "_FOLDER", tmp_path)
    times = iter(range(10**9, 2 * 10**9))

    def fingerprint(**modules: str) -> dict[str, str]:
        for name, source in {**SMALL, **{f"work/{name}": source for name, source in modules.items()}}.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(source))
            os.utime(path, (modified := next(times), modified))
        return fingerprint_definitions(["work.entry:main"])

    return fingerprint


def test_it_reaches_what_a_definition_names(small):
    assert set(small()) == {"main", "helper", "other", "LIMIT", "BASE"}


USES = "from lesion_utils.work import tools\n"
TAKES = "from lesion_utils.work.tools import unused\n"
MAIN = "def main():\n    return 0\n"
DYNAMIC = {
    "a module as a value": f"{USES}def main(name):\n    return getattr(tools, name)()",
    "a star": "from lesion_utils.work.tools import *\ndef main():\n    return other() + unused()",
    "a module by its name": "import importlib\nmain = importlib.import_module('lesion_utils.work.tools')",
    "a definition by its name": "from pkgutil import resolve_name as r\nmain = r('lesion_utils.work.tools:unused')",
    "globals": f"{TAKES}def main():\n    return globals()[0]\ndef two():\n    return unused()",
    "a call at the top": f"{USES}tools.unused()\n{MAIN}",
    "an entry in a table": f"{USES}T = {{}}\nT['x'] = tools.unused\n{MAIN}",
    "a condition at the top": f"{USES}if 3 > 2:\n    main = tools.unused",
    "a decorator": f"{USES}T = []\n@T.append\ndef two():\n    tools.unused()\n{MAIN}",
    "a decorator that registers": f"from timm import register_model\n{USES}x = tools.unused\n@register_model\n{MAIN}",
    "an import alone": f"import lesion_utils.work.more\n{MAIN}",
    "an import alone, inside": "def main():\n    import lesion_utils.work.more",
    "a chain": "import lesion_utils.work.tools\ndef main():\n    return lesion_utils.work.tools.unused()",
    "what another passes on": "from lesion_utils.work.more import passed\ndef main():\n    return passed()",
    "an attribute of another": "from lesion_utils.work import more\ndef main():\n    return more.passed()",
    "a default": f"{TAKES}def main(x=unused):\n    return 0",
    "a base": f"{TAKES}class main(unused):\n    pass",
    "an annotated field": f"{TAKES}class main:\n    x: unused",
    "a name that is local elsewhere": f"{TAKES}def main(x):\n    return [unused for unused in x], unused",
}
MORE = "from lesion_utils.work.tools import unused as passed\nfrom lesion_utils.work import tools\ntools.unused()\n"


@pytest.mark.parametrize("entry", DYNAMIC.values(), ids=DYNAMIC)
def test_what_may_be_used_counts(small, entry):
    before = small(entry=entry, more=MORE)
    tools = SMALL["work/tools"].replace("return 1", "return 2")
    assert small(entry=entry, more=MORE, tools=tools) != before


LOCAL = {
    "an argument": "def main(unused):\n    return unused",
    "a variable": "def main():\n    unused = 0\n    return unused",
    "a variable around": "def main():\n    unused = 0\n    def inner():\n        return unused\n    return inner",
    "a comprehension": "def main(x):\n    return [unused for unused in x]",
    "an attribute": "def main(x):\n    return x.unused()",
    "an annotation": "def main(x: unused) -> unused:\n    y: unused = 0\n    return y",
    "a string": "def main(x):\n    return 'unused'",
}


@pytest.mark.parametrize("entry", LOCAL.values(), ids=LOCAL)
def test_a_local_name_leads_nowhere(small, entry):
    assert set(small(entry=f"from lesion_utils.work.tools import unused\n{entry}\n")) == {"main"}


def test_a_definition_of_the_same_name_that_is_used_instead_shows(small):
    both = "from lesion_utils.work import tools, more\nfrom lesion_utils.work.{} import helper\n"
    both += "def main():\n    return helper(), tools.helper, more.helper\n"
    more = "def helper():\n    return 5\n"
    assert small(entry=both.format("tools"), more=more) != small(entry=both.format("more"), more=more)


def test_it_is_the_same_on_every_python(small):
    """Recorded once: Python 3.11, 3.12 and 3.13 give this."""
    assert small()["main"] == "74eaeb4147f1ade5"


def test_answers_are_kept_for_the_next_process(small, tmp_path, monkeypatch):
    before = small()
    kept = tmp_path / "core" / "__pycache__" / "definitions.json"
    text = kept.read_text()
    with monkeypatch.context() as patch:
        patch.delattr(definitions, "_open_package")
        assert small() == before, "the same modules, written again"
        with pytest.raises(NameError):
            small(tools=SMALL["work/tools"] + "x = 1\n")
    small()
    for damaged in ("", "{}", "[]", text[:-9], text.replace(before["main"][:4], "0000"), text.replace("main", "mean")):
        kept.write_text(damaged)
        assert small() == before, damaged


def test_a_package_that_may_not_be_written_has_fingerprints(small, tmp_path):
    (tmp_path / "core").write_text("where a folder should be")
    assert set(small()) == {"main", "helper", "other", "LIMIT", "BASE"}


def test_an_entry_that_does_not_exist_is_an_error(small):
    small()
    with pytest.raises(ValueError, match=r"work\.entry:other"):
        fingerprint_definitions(["work.entry:other"])


# --- all of this package ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_comment_on_every_line_of_the_package_changes_nothing(package):
    """A second opinion, by tokens: strip each module of its comments and compare."""
    before = package.fingerprint()
    for path in package.folder.rglob("*.py"):
        tokens = tokenize.tokenize(BytesIO(path.read_bytes()).readline)
        package.write(path, tokenize.untokenize(t for t in tokens if t.type != tokenize.COMMENT).decode())
    assert package.fingerprint() == before


def test_templates_and_tables_count_where_a_definition_names_them():
    assert {"report.html.j2", "style.css"} <= fingerprint_definitions(["report.index:build_site"]).keys()
    assert {"label_changes.csv", "isic2016_256px.zip"} <= fingerprint_definitions(["data.prepare:prepare_study"]).keys()


def test_no_subclass_is_looked_up():
    """Fingerprints do not find those."""
    sources = (path.read_text() for path in (ROOT / "lesion_utils").rglob("*.py"))
    assert not [s for s in sources if "__subclasses__(" in s or "__init_subclass__(" in s]


@pytest.fixture
def slow_garbage() -> Iterator[None]:
    """Whenever garbage is collected, other threads get a turn, as in a Dask worker, which measures that."""

    def wait(phase: str, info: object) -> None:
        time.sleep(1e-4)

    gc.callbacks.append(wait)
    yield
    gc.callbacks.remove(wait)


def test_threads_take_fingerprints_at_once(slow_garbage):
    source = textwrap.dedent(SMALL["work/tools"]) * 300
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(parse, [source] * 8))) == 8
        found = list(pool.map(lambda _: fingerprint_definitions(["config.load:load_study"]), range(4)))
    assert all(each == found[0] for each in found)
