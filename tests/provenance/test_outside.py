"""The fingerprint of a source changes with what it stands for, quickly, without heavy libraries."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from challenge import write_challenge
from sections import data_params

from lesion_utils.config.schema import Synthetic
from lesion_utils.provenance import fingerprint, outside

DRAWN = {
    "source": "synthetic",
    "synthetic": Synthetic(train_images=40, test_images=20, prevalence=0.3, overlap=0.5, image_width=64),
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    return tmp_path


def test_the_challenges_files_count_by_name_size_and_date(root):
    seen = [outside.fingerprint_source(data_params())]
    write_challenge(root)
    image = root / outside.FOLDERS["train"] / "ISIC_0000000.jpg"
    for change in (
        lambda: None,
        lambda: os.utime(image, ns=(1, 1)),
        lambda: image.write_bytes(b"other"),
        lambda: image.rename(image.with_name("ISIC_0000077.jpg")),
        lambda: (root / outside.LABEL_FILES["test"]).write_text("other"),
        lambda: (root / outside.MANIFEST).write_text("native sizes"),
    ):
        change()
        seen.append(outside.fingerprint_source(data_params()))
    assert len(set(seen)) == len(seen)
    (root / "notes.txt").touch()
    assert outside.fingerprint_source(data_params(seed=7, stored_size=99)) == seen[-1]


def test_a_drawing_is_named_after_settings_seed_and_code(monkeypatch):
    first = data_params(**DRAWN)
    assert outside.source_dir(first).name == outside.fingerprint_source(first) == outside.drawing_key(first)
    assert outside.drawing_key(data_params(**DRAWN, stored_size=99)) == outside.drawing_key(first)
    larger = first.synthetic.model_copy(update={"image_width": 65})
    others = [data_params(**DRAWN, seed=2), data_params(source="synthetic", synthetic=larger)]
    modules = fingerprint.fingerprint_modules(["data.synthetic"])
    keys = {outside.drawing_key(params) for params in (first, *others)}
    monkeypatch.setattr(outside, "fingerprint_modules", lambda _: _change(modules, "data/synthetic.py"))
    assert len(keys | {outside.drawing_key(first)}) == 4
    monkeypatch.setattr(outside, "fingerprint_modules", lambda _: _change(modules, "config/schema.py"))
    assert outside.drawing_key(first) in keys, "a change of the schema does not draw everything anew"


def _change(modules: dict[str, str], file: str) -> dict[str, str]:
    """The fingerprints with that of one module changed, under the name that it has there."""
    assert f"lesion_utils/{file}" in modules
    return modules | {f"lesion_utils/{file}": "changed"}


def test_no_heavy_library_is_needed():
    code = "import sys, lesion_utils.provenance.outside; print({'torch', 'pandas', 'numpy', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_folder_follows_the_source(root):
    assert outside.source_dir(data_params()) == root
    assert outside.source_dir(data_params(**DRAWN)).parent.name == "synthetic"
