"""What comes from outside is data: it is never run, never markup, and nothing is fetched or opened unasked."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_report import copy_fake_project
from real_project import make_real_project
from small_project import ROOT, clean_environment, make

from lesion_utils.config.load import load_study
from lesion_utils.core.paths import Study
from lesion_utils.report import index
from lesion_utils.report.notebook_pages import write_notebook_page

#: What runs the text that it is given, and what runs code that it finds in a file.
RUN_TEXT = {"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}
RUN_FILES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
#: What may be taken of joblib, which also reads pickles: worker processes of our own.
WORKERS = [{"joblib", "cpu_count"}, {"joblib.externals.loky", "get_reusable_executor"}]


@pytest.mark.slow
@pytest.mark.fault("security", "pickles, eval, shells", "nowhere in the package; torch.load takes tensors only")
def test_nothing_that_is_read_is_run():
    for path in (ROOT / "lesion_utils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {str(getattr(node, "module", None)), *(alias.name for alias in node.names)}
                if names not in WORKERS:
                    assert not {name.partition(".")[0] for name in names} & RUN_FILES, where
            elif isinstance(node, ast.Call):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                name = ast.unparse(node.func)
                assert name not in RUN_TEXT, where
                assert name != "torch.load" or given.get("weights_only") == "True", where
                assert {given.get("shell"), given.get("allow_pickle")} <= {None, "False"}, where


class Elements(HTMLParser):
    """Names of the elements and attributes of a page."""

    def __init__(self, page: Path):
        super().__init__()
        self.found: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.found |= {tag, *(name for name, _ in attrs)}


MARKUP = ' </script></style><evil onevil="1"> {{ 7 * 7 }} <!--'
#: Strings that say where something is or when; a report in which they are wrong is not built.
PLACES = {"path", "sha256", "step", "name", "place", "status", "started", "ended", "metric", "run_id", "study", "state"}


def mark_strings(value, key=""):
    """The same content with markup in every string that is there to be read."""
    if isinstance(value, dict):
        return {k: mark_strings(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [mark_strings(v, key) for v in value]
    return value + MARKUP if isinstance(value, str) and key not in PLACES else value


@pytest.mark.slow
@pytest.mark.fault("security", "markup in any string of a report's files", "shown as text on every page")
def test_every_string_from_a_file_is_escaped_on_every_page(tmp_path, monkeypatch):
    copy_fake_project(tmp_path, monkeypatch)
    study, folder = Study("demo"), Study("demo").report_dir
    for pattern in ("metrics/*.json", "runs/*/run.json", "figures/*.json", "data/*.json"):
        for path in folder.glob(pattern):
            path.write_text(json.dumps(mark_strings(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    for path in folder.glob("metrics/*.csv"):
        path.write_text(path.read_text(encoding="utf-8").replace("\n", f",{MARKUP}\n"), encoding="utf-8")
    notebook = folder / "notebooks" / "01_eda.ipynb"
    notebook.write_text(notebook.read_text(encoding="utf-8").replace("epoch 1", f"epoch 1{MARKUP}".replace('"', "'")))
    params = load_study(study.params_dir)
    params = params.model_copy(update={"data": params.data.model_copy(update={"title": MARKUP, "remarks": [MARKUP]})})
    for page in (
        index.build_site(study, params),
        write_notebook_page(notebook, tmp_path / "notebook.html", study=MARKUP),
    ):
        text = page.read_text(encoding="utf-8")
        assert "&lt;evil" in text, f"{page.name} shows none of it: the test tests nothing"
        assert not {name for name in Elements(page).found if "evil" in name}, page.name
        assert "7 * 7" in text and "<evil" not in text, page.name


@pytest.mark.fault("security", "`make audit`, where osv.dev cannot be reached", "says that nothing was checked")
def test_an_audit_that_reaches_nobody_says_so(tmp_path):
    without = {"UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path), "UV_HTTP_RETRIES": "0"}
    command = ["make", f"VENV={sys.prefix}", "audit"]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment() | without, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "nothing was checked: the list of packages or https://api.osv.dev cannot be reached" in done.stderr


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize("setting", ["OFFLINE=1", "OFFLINE="])
@pytest.mark.fault("security", "a whole `make all` of the demo, with OFFLINE=1 and without", "no connection is tried")
def test_no_connection_is_even_tried(tmp_path, setting):
    project, log = make_real_project(tmp_path / "project", "demo"), tmp_path / "connections"
    watch = ["strace", "--follow-forks", "--seccomp-bpf", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o"]
    done = make(project, "all", prefix=["env", setting, *watch, str(log)])
    assert done.returncode == 0, done.stderr
    tried = [line for line in log.read_text().splitlines() if "AF_INET" in line]
    assert not tried, tried[:3]
    assert "AF_UNIX" in log.read_text(), "kernels are reached by sockets, which this would show"
