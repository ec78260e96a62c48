"""`make clean` removes what was generated and nothing else, whatever it is told."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from small_project import ROOT, copy_build, make, run

from lesion_utils import cli
from lesion_utils.core import paths
from lesion_utils.core.errors import ParamsError
from lesion_utils.core.paths import Study, find_study
from lesion_utils.core.running import list_running, mark_running

#: Names that lead out of params/ and reports/, or nowhere.
ODD_STUDIES = ("", ".", "..", "...", "../..", "../params", "demo/..", "demo/", "/", "~", "*", "-rf", "a b", "nowhere")


@pytest.fixture
def clone(tmp_path):
    """What `make clean` needs of the project, and a maker of files beside it."""
    shutil.copytree(ROOT / "lesion_utils", tmp_path / "lesion_utils", ignore=shutil.ignore_patterns("__pycache__"))
    copy_build(tmp_path)
    for study in ("demo", "other"):
        (tmp_path / "params" / study).mkdir(parents=True)
        (tmp_path / "params" / study / "data.yaml").touch()

    def add(*names: str, tracked: bool = False) -> list[Path]:
        paths = [tmp_path / name for name in names]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("both\n")
        if tracked:
            for command in (["init", "-q"], ["add", "--force", *names]):
                subprocess.run(["git", *command], cwd=tmp_path, check=True)
        return paths

    return add


@pytest.mark.parametrize("git", [True, False])
def test_clean_removes_only_what_was_generated(tmp_path, clone, git):
    kept = clone("data/isic2016/photo.jpg", "data/cache/a.npy", "params/demo/data.yaml", "reports/other/index.html")
    generated = clone("reports/demo/keys/data.json", "reports/demo/figures/a.png")
    (tracked,) = clone("reports/demo/index.html", tracked=git)
    assert make(tmp_path, "clean").returncode == 0
    assert all(path.is_file() for path in kept)
    assert not any(path.exists() for path in generated)
    assert tracked.is_file() == git


@pytest.mark.fault("together", "`make clean` in another user's clone, of which git tells nothing", "removes nothing")
def test_clean_removes_nothing_where_git_does_not_tell(tmp_path, clone, monkeypatch):
    clone("reports/demo/keys/data.json")
    (tracked,) = clone("reports/demo/index.html", tracked=True)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    refused = make(tmp_path, "clean")
    assert tracked.is_file() and refused.returncode == 2
    assert "git does not say which files are under version control" in refused.stderr


def test_clean_leaves_decoded_images_that_another_study_uses(tmp_path, clone):
    clone(*(f"reports/{study}/keys/images.txt" for study in ("demo", "other")))
    both, *_ = clone(*(f"data/cache/images/{name}" for name in ("both.u8", "both.json", "third.u8")))
    assert run(tmp_path, "clean", "demo").stdout == "removed reports/demo\n"
    assert both.is_file()
    run(tmp_path, "clean", "other")
    assert [path.name for path in both.parent.iterdir()] == ["third.u8"]


def test_clean_leaves_a_report_that_came_with_the_project(tmp_path, clone):
    """Without git and without keys, nothing says that the report was made here."""
    (page,) = clone("reports/demo/index.html")
    assert make(tmp_path, "clean").stdout == ""
    assert page.is_file()


def list_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize("git", [True, False])
@pytest.mark.fault("together", "`make clean STUDY=..`, `.`, no name, a path", "refused by name; nothing is removed")
def test_a_name_that_leads_elsewhere_removes_nothing(tmp_path, clone, git):
    clone("notes.txt", "keys/data.json", "keys/images.txt", "reports/keys/images.txt", "reports/demo/keys/data.json")
    clone("data/own/photo.jpg", "data/cache/images/both.u8", "reports/other/index.html")
    if git:
        clone("reports/demo/index.html", tracked=True)
    before = list_files(tmp_path)
    for study in ODD_STUDIES:
        for refused in (make(tmp_path, "clean", f"STUDY={study}"), run(tmp_path, "clean", "--", study)):
            assert refused.returncode != 0 and refused.stdout == "", study
            assert "STUDY" in refused.stderr and "demo" in refused.stderr, refused.stderr
            assert "Traceback" not in refused.stderr
    assert list_files(tmp_path) == before


def test_every_verb_asks_for_a_study_that_exists(capsys):
    verbs = "run export track keys why plan doctor verify clean select publish paper predict"
    for verb in verbs.split():
        words = {"run": ["01_eda"], "track": ["--to", "x"]}.get(verb, [])
        for study in ("..", "nowhere"):
            assert cli.main([verb, *words, study]) == 1, verb
            assert capsys.readouterr().err.startswith(f"STUDY={study}: "), verb


@pytest.mark.fault("together", "a study that is a link out of params/", "refused by name")
def test_a_link_out_of_params_is_no_study(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    for folder in ("params/real", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "data.yaml").touch()
    (tmp_path / "params" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert paths.list_studies() == ["real"]
    with pytest.raises(ParamsError, match="STUDY=link: this folder is a link out of params/"):
        find_study("link")


@pytest.mark.parametrize("linked", ["reports", "reports/demo"])
@pytest.mark.fault("together", "`make clean` where the report is a link to another folder", "leaves that folder alone")
def test_a_report_behind_a_link_stays(tmp_path, tmp_path_factory, clone, linked):
    outside = tmp_path_factory.mktemp("outside")
    mark = outside / ("demo" if linked == "reports" else ".") / "keys" / "data.json"
    mark.parent.mkdir(parents=True)
    mark.touch()
    clone("reports/.keep")
    (tmp_path / "reports").rename(tmp_path / "moved")
    (tmp_path / linked).parent.mkdir(exist_ok=True)
    (tmp_path / linked).symlink_to(outside, target_is_directory=True)
    assert run(tmp_path, "clean", "demo").stdout == ""
    assert mark.is_file()


def test_a_repository_in_the_report_stays(tmp_path, clone):
    kept = clone("reports/demo/keys/data.json", "reports/demo/mine/.git/HEAD", "reports/demo/mine/a.txt")
    refused = run(tmp_path, "clean", "demo")
    assert refused.returncode == 1 and "reports/demo/mine/.git: a git repository lies in the report" in refused.stderr
    assert all(path.is_file() for path in kept)


@pytest.mark.parametrize("note", ["../../photo", "*", "../images/both", "."])
def test_a_note_that_leads_elsewhere_removes_nothing(tmp_path, clone, note):
    kept = clone("data/photo.u8", "photo.u8", "data/cache/images/both.u8")
    clone("reports/demo/keys/images.txt")[0].write_text(note)
    run(tmp_path, "clean", "demo")
    assert all(path.is_file() for path in kept)


@pytest.mark.fault("together", "`make clean` during a run of the study", "says so, and removes nothing")
def test_a_run_holds_its_study(tmp_path, clone, monkeypatch):
    kept = clone("reports/demo/keys/data.json", "reports/other/keys/data.json")
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    with mark_running(Study("demo"), "01_eda"):
        assert list_running(Study("demo")) == ["01_eda"]
        refused = make(tmp_path, "clean")
        assert refused.returncode != 0 and "a run holds the study demo: 01_eda; nothing was removed" in refused.stderr
        assert all(path.is_file() for path in kept)
        assert run(tmp_path, "clean", "other").stdout == "removed reports/other\n"
    assert list_running(Study("demo")) == []
    assert run(tmp_path, "clean", "demo").stdout == "removed reports/demo\n"


@pytest.mark.parametrize("folder", ["params", "params/demo", ".", "..", "data", "tests/x", "docs"])
@pytest.mark.fault("parameters", "REPORTS_DIR among the project's own files", "refused before anything is written")
def test_reports_are_kept_apart(folder, monkeypatch, capsys):
    monkeypatch.setenv("REPORTS_DIR", str(ROOT / folder))
    for verb in ("why", "clean", "keys"):
        assert cli.main([verb, "demo"]) == 1
        assert "reports cannot be written among the project's own files" in capsys.readouterr().err


def test_reports_may_lie_anywhere_else(tmp_path, monkeypatch):
    for folder in (tmp_path, ROOT / "reports", ROOT / "reports" / "x", ROOT / "out"):
        monkeypatch.setenv("REPORTS_DIR", str(folder))
        assert paths.reports_root() == folder
