"""What changes a fingerprint of code, and what must not."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
import tokenize
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from small_project import STEPS, write_notebook

from lesion_utils.core.errors import RunError
from lesion_utils.provenance import fingerprint
from lesion_utils.provenance.fingerprint import (
    fingerprint_modules,
    fingerprint_notebook,
    fingerprint_tree,
    list_imports,
    list_notebook_modules,
    parse,
)

CODE = '''
"""A module."""
import numpy as np

class Lesion:
    """A class."""

    def area(self, *, scale=1.0):
        """A function."""
        return np.pi * self.radius**2 * scale  # circle

async def nothing():
    """Only a docstring."""
'''


def fingerprint_code(source: str) -> str:
    return fingerprint_tree(parse(source))


WORDS = [
    ('"""A module."""', '"""Another."""'), ('"""A class."""', ""), ('"""A function."""', "# a comment"),
    ('"""Only a docstring."""', '"""Other words."""'), ("  # circle", ""),
    ("np.pi * self.radius**2 * scale", "(\n            np.pi * self.radius ** 2 * scale)"),
]  # fmt: skip
CHANGES = [("1.0", "1.5"), ("radius**2", "radius**3"), ("*, scale", "scale"), ("numpy as np", "numpy"), ("async ", "")]


@pytest.mark.parametrize(("old", "new"), WORDS + CHANGES)
def test_what_the_code_does_changes_it_and_words_and_layout_do_not(old, new):
    changed = CODE.replace(old, new)
    assert changed != CODE
    assert (fingerprint_code(changed) == fingerprint_code(CODE)) == ((old, new) in WORDS)


@pytest.mark.slow
def test_a_comment_on_every_line_of_the_package_changes_nothing():
    """A second opinion, by tokens: strip each module of its comments and compare."""
    for path in Path(fingerprint.__file__).parents[1].rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        tokens = [t for t in tokenize.tokenize(BytesIO(source.encode()).readline) if t.type != tokenize.COMMENT]
        assert fingerprint_code(tokenize.untokenize(tokens).decode()) == fingerprint_code(source), path.name


def test_it_is_the_same_on_every_python():
    """Recorded once: Python 3.11, 3.12 and 3.13 give this."""
    assert fingerprint_code(CODE) == "71617c073be43e2d"


def test_imports_of_this_package_are_found_wherever_they_stand():
    source = "import os, lesion_utils.training.train\nfrom lesion_utils.evaluation import metrics\n"
    source += "def f():\n    from lesion_utils.figures.style import GREY"
    assert list_imports(source) >= {"training.train", "evaluation.metrics", "figures.style"}
    assert not any(name.startswith(("os", "lesion_utils")) for name in list_imports(source))


def test_the_closure_is_what_python_imports():
    """Against the interpreter: every module that `import lesion_utils.report.index` loads is covered."""
    code = "import json, sys, lesion_utils.report.index; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    files = fingerprint_modules(["report.index"])
    loaded = [name for name in json.loads(done.stdout) if name.partition(".")[0] == "lesion_utils"]
    assert len(loaded) > 5
    for name in loaded:
        path = name.replace(".", "/")
        assert f"{path}.py" in files or f"{path}/__init__.py" in files, name


def test_templates_and_tables_count_for_the_modules_that_name_them():
    assert "lesion_utils/report/templates/report.html.j2" in fingerprint_modules(["report.index"])
    assert "lesion_utils/data/label_changes.csv" in fingerprint_modules(["data.prepare"])
    assert not any("templates" in name for name in fingerprint_modules(["training.train"]))


def test_what_runs_steps_and_what_writes_pages_reruns_no_notebook():
    rooms = tuple(f"lesion_utils/{room}/" for room in ("report", "pipeline", "extras"))
    step_of_data = ("data/download.py", "data/prepare.py", "data/make_box.py", "data/split.py")
    for step in (step for step in STEPS.values() if step.is_notebook):
        reached = fingerprint_modules(list_notebook_modules(step.notebook))
        assert "lesion_utils/notebooks/study.py" in reached
        found = [name for name in reached if name.startswith(rooms) or name.endswith(step_of_data)]
        assert not found, f"an edit there runs {step.name} again"


def test_a_notebook_counts_by_its_words_and_its_code(tmp_path):
    (tmp_path / "notebooks").mkdir()
    path = write_notebook(tmp_path, "01_eda", "x = 1", heading="Work")
    before = fingerprint_notebook(path)
    assert fingerprint_notebook(write_notebook(tmp_path, "01_eda", "x = 1", heading="Other words")) != before
    assert fingerprint_notebook(write_notebook(tmp_path, "01_eda", "x = 2", heading="Work")) != before
    content = path.read_text().replace("../params/demo", "../params/mine").replace("x = 2", "x = 1")
    path.write_text(content)
    assert fingerprint_notebook(path) == before, "the parameters cell is replaced by every run"


@pytest.mark.parametrize("content", ["", "{}", "[1"])
def test_a_damaged_notebook_is_named(tmp_path, content):
    path = tmp_path / "01_eda.ipynb"
    path.write_text(content)
    with pytest.raises(RunError, match=r"notebooks/01_eda\.ipynb"):
        fingerprint_notebook(path)


@pytest.fixture
def slow_garbage() -> Iterator[None]:
    """Whenever garbage is collected, other threads get a turn, as in a Dask worker, which measures that."""

    def wait(phase: str, info: object) -> None:
        time.sleep(1e-4)

    gc.callbacks.append(wait)
    yield
    gc.callbacks.remove(wait)


def test_threads_take_fingerprints_at_once(slow_garbage):
    source = CODE * 300
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(fingerprint_code, [source] * 8))
    assert found == {fingerprint_code(source)}
