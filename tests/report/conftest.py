"""A finished report, made up: what its pages, its copies and its comparison are made from."""

from __future__ import annotations

import pytest
from fake_report import copy_fake_project

from lesion_utils.config.load import load_study
from lesion_utils.config.schema import StudyParams
from lesion_utils.core.paths import Study


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    copy_fake_project(tmp_path, monkeypatch)
    return Study("demo")


@pytest.fixture
def params(study) -> StudyParams:
    return load_study(study.params_dir)
