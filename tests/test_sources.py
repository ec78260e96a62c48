"""The fingerprint of a source changes with what it stands for, quickly, without heavy libraries."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from challenge import write_challenge
from test_splits import data_params

from lesion_utils import fingerprint, sources
from lesion_utils.schema import Synthetic

DRAWN = {
    "source": "synthetic",
    "synthetic": Synthetic(train_images=40, test_images=20, prevalence=0.3, overlap=0.5, image_width=64),
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    return tmp_path


def test_the_challenges_files_count_by_name_size_and_date(root):
    seen = [sources.fingerprint_source(data_params())]
    write_challenge(root)
    image = root / sources.FOLDERS["train"] / "ISIC_0000000.jpg"
    for change in (
        lambda: None,
        lambda: os.utime(image, ns=(1, 1)),
        lambda: image.write_bytes(b"other"),
        lambda: image.rename(image.with_name("ISIC_0000077.jpg")),
        lambda: (root / sources.LABEL_FILES["test"]).write_text("other"),
        lambda: (root / sources.MANIFEST).write_text("native sizes"),
    ):
        change()
        seen.append(sources.fingerprint_source(data_params()))
    assert len(set(seen)) == len(seen)
    (root / "notes.txt").touch()
    assert sources.fingerprint_source(data_params(seed=7, stored_size=99)) == seen[-1]


def test_a_drawing_is_named_after_settings_seed_and_code(monkeypatch):
    first = data_params(**DRAWN)
    assert sources.source_dir(first).name == sources.fingerprint_source(first) == sources.drawing_key(first)
    assert sources.drawing_key(data_params(**DRAWN, stored_size=99)) == sources.drawing_key(first)
    larger = first.synthetic.model_copy(update={"image_width": 65})
    others = [data_params(**DRAWN, seed=2), data_params(source="synthetic", synthetic=larger)]
    modules = fingerprint.fingerprint_modules(["synthetic"])
    keys = {sources.drawing_key(params) for params in (first, *others)}
    monkeypatch.setattr(sources, "fingerprint_modules", lambda _: _change(modules, "synthetic.py"))
    assert len(keys | {sources.drawing_key(first)}) == 4
    monkeypatch.setattr(sources, "fingerprint_modules", lambda _: _change(modules, "schema.py"))
    assert sources.drawing_key(first) in keys, "a change of the schema does not draw everything anew"


def _change(modules: dict[str, str], file: str) -> dict[str, str]:
    """The fingerprints with that of one module changed, under the name that it has there."""
    assert f"lesion_utils/{file}" in modules
    return modules | {f"lesion_utils/{file}": "changed"}


def test_no_heavy_library_is_needed():
    code = "import sys, lesion_utils.sources; print({'torch', 'pandas', 'numpy', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_folder_follows_the_source(root):
    assert sources.source_dir(data_params()) == root
    assert sources.source_dir(data_params(**DRAWN)).parent.name == "synthetic"
