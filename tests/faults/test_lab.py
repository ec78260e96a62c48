"""JupyterLab as `make lab` starts it: closed to others, and in nobody's way while `make` runs the same notebook."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client import BlockingKernelClient
from real_project import copy_finished_real_project
from small_project import ROOT, clean_environment, make, read_results

STEP = "02_augmentation_preview"
PRODUCT = Path("reports/demo/notebooks", f"{STEP}.ipynb")


@pytest.mark.fault("security", "JupyterLab", "asks for its token, and listens on this machine only")
def test_the_makefile_takes_no_care_of_jupyterlabs_away():
    recipe = re.search(r"^lab:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert not re.search(r"token|password|allow_origin|--ip|disable_check_xsrf|allow.root", recipe), recipe


@dataclass(frozen=True)
class Lab:
    """A JupyterLab that runs."""

    project: Path
    runtime: Path
    port: int
    token: str

    def ask(self, path: str, body: dict[str, Any] | None = None, *, method: str = "", token: str | None = None) -> Any:
        """What its server answers, in JSON; a refusal is a `urllib.error.HTTPError`."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/{path}")
        request.method = method or ("POST" if body else "GET")
        request.add_header("Authorization", f"token {self.token if token is None else token}")
        request.data = json.dumps(body).encode() if body else None
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or "null")

    def open_notebook(self, step: str) -> BlockingKernelClient:
        """Open a notebook as a click on it does; returns a client of its kernel."""
        wanted = {"path": f"notebooks/{step}.ipynb", "name": "", "type": "notebook", "kernel": {"name": "lesion-utils"}}
        session = self.ask("sessions", wanted)
        client = BlockingKernelClient(connection_file=str(self.runtime / f"kernel-{session['kernel']['id']}.json"))
        client.load_connection_file()
        client.start_channels()
        client.wait_for_ready(timeout=120)
        return client


def is_listening(port: int) -> bool:
    """Whether somebody answers on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    project, folder = copy_finished_real_project(tmp_path_factory), tmp_path_factory.mktemp("jupyter")
    settings = {"open_browser": False, "allow_root": os.geteuid() == 0}
    (folder / "jupyter_server_config.json").write_text(json.dumps({"ServerApp": settings}))
    environment = clean_environment() | {"PYTHONPATH": str(project)}
    environment |= {f"JUPYTER_{name}_DIR": str(folder) for name in ("CONFIG", "DATA", "RUNTIME")}
    log = folder / "log.txt"
    process = subprocess.Popen(
        ["make", f"VENV={sys.prefix}", "lab"],
        cwd=project,
        env=environment,
        stdout=log.open("wb"),
        stderr=log.open("ab"),
    )
    try:
        deadline = time.monotonic() + 120
        while not (found := list(folder.glob("jpserver-*.json"))) or not found[0].read_text():
            assert time.monotonic() < deadline and process.poll() is None, log.read_text()
            time.sleep(0.1)
        server = json.loads(found[0].read_text())
        while not is_listening(server["port"]):  # which it does a moment later
            assert time.monotonic() < deadline and process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield Lab(project, folder, server["port"], server["token"])
        os.kill(server["pid"], signal.SIGTERM)
        process.wait(timeout=120)
    finally:
        process.kill()


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
@pytest.mark.fault("security", "JupyterLab", "asks for its token, and listens on this machine only")
def test_jupyterlab_asks_for_its_token_and_listens_to_this_machine(lab):
    assert re.fullmatch("[0-9a-f]{48}", lab.token)
    there = {entry["name"] for entry in lab.ask("contents")["content"]}
    assert {"notebooks", "params", "reports"} <= there, "the whole project can be seen, and its YAML files edited"
    assert lab.ask("contents/params/demo/vgg19.yaml")["writable"]
    for token in ("", "0" * 48):
        for path in ("contents", f"contents/notebooks/{STEP}.ipynb", "kernels", "sessions"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                lab.ask(path, token=token)
            assert refused.value.code == 403, path
    sockets = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()]
    own = [address for _, address, _, state, *_ in sockets if state == "0A" and address.endswith(f":{lab.port:04X}")]
    assert own and {address.partition(":")[0] for address in own} <= {"0100007F", "0" * 24 + "01000000"}, own


@pytest.mark.long
@pytest.mark.fault(
    "together", "JupyterLab open on a notebook that runs", "each writes its own; what it saves runs nothing"
)
def test_a_notebook_is_run_by_hand_and_by_make_at_once(lab):
    project, expected = lab.project, read_results(lab.project)
    (project / PRODUCT).unlink()
    client = lab.open_notebook(STEP)
    command = ["make", f"VENV={sys.prefix}", "all"]
    running = subprocess.Popen(command, cwd=project, env=clean_environment(), stdout=subprocess.PIPE, text=True)
    opened = lab.ask(f"contents/notebooks/{STEP}.ipynb")
    for cell in nbformat.from_dict(opened["content"]).cells:
        if cell.cell_type == "code":
            reply = client.execute_interactive(cell.source, timeout=300, output_hook=lambda message: None)
            assert reply["content"]["status"] == "ok", reply
    for number, cell in enumerate(opened["content"]["cells"]):  # as the editor leaves them
        cell["metadata"] |= {"execution": {"iopub.status.busy": f"2026-01-01T00:00:{number:02d}Z"}, "trusted": True}
        if cell["cell_type"] == "code":
            cell |= {"execution_count": number, "outputs": [nbformat.v4.new_output("stream", text="by hand\n")]}
    opened["content"]["metadata"]["language_info"] = {"name": "python", "version": "3.99"}
    saved = {"type": "notebook", "format": "json", "content": opened["content"]}
    lab.ask(f"contents/notebooks/{STEP}.ipynb", saved, method="PUT")
    lab.ask(f"contents/notebooks/{STEP}.ipynb/checkpoints", method="POST")
    out, _ = running.communicate(timeout=3600)
    assert running.returncode == 0 and re.search(rf"^{STEP} +ok", out, re.MULTILINE), out
    assert "by hand" in (project / "notebooks" / f"{STEP}.ipynb").read_text()
    assert list((project / "reports/demo/interactive/figures").glob(f"{STEP}_*.png"))
    assert read_results(project) == expected
    again = make(project, "all")
    assert (again.returncode, again.stdout) == (0, "")
    assert make(project, "verify").returncode == 0
