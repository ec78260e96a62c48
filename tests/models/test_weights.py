"""Where weights are found, what is recorded of them, and how soon a missing file is called missing."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pytest import fixture, mark, raises

from lesion_utils.config.schema import Network
from lesion_utils.core.errors import WeightsError
from lesion_utils.models import weights
from lesion_utils.models.weights import find_weights
from lesion_utils.provenance.outside import fingerprint_weights

TAG = "resnet50.tv_in1k"
REVISION = "0123456789abcdef0123456789abcdef01234567"


def make_params(name: str = "pretrained", *, backbone: str = TAG) -> Network:
    """Only the two keys that matter here."""
    return Network.model_construct(backbone=backbone, weights=name)


@fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    """A machine without weights and without a network."""
    for variable in ("WEIGHTS_DIR", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    return tmp_path


def put_into_hub_cache(home: Path, content: bytes) -> Path:
    repository = home / "hub" / f"models--timm--{TAG}"
    path = repository / "snapshots" / REVISION / "model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    return path


def test_no_weights_are_no_source():
    assert find_weights(make_params("none")) is None
    assert fingerprint_weights(make_params("none")) == {"name": "none", "state": "none"}


@mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_a_tag_is_found_in_weights_dir(tmp_path, monkeypatch, suffix):
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    (tmp_path / f"{TAG}{suffix}").write_bytes(b"weights")
    source = find_weights(make_params())
    assert source.to_dict() == {
        "name": TAG, "file": f"{TAG}{suffix}", "origin": "WEIGHTS_DIR", "revision": None,
        "sha256": hashlib.sha256(b"weights").hexdigest(), "bytes": 7,
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(source.to_dict())


def test_weights_dir_comes_before_the_hubs_cache(tmp_path, monkeypatch):
    cached = put_into_hub_cache(tmp_path / "hf", b"cached")
    source = find_weights(make_params())
    assert (source.path, source.origin, source.revision) == (cached, "hub", REVISION)
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    (tmp_path / f"{TAG}.safetensors").write_bytes(b"own")
    assert find_weights(make_params()).origin == "WEIGHTS_DIR"


def test_a_file_is_found_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    (tmp_path / "mine.pth").write_bytes(b"mine")
    assert find_weights(make_params("mine.pth")).path == tmp_path / "mine.pth"
    assert find_weights(make_params(str(tmp_path / "mine.pth"))).to_dict()["file"] == "mine.pth"
    with raises(WeightsError, match=r"mine\.pth"):  # what is there is listed
        find_weights(make_params("yours.pth"))


def test_changed_bytes_change_hash_and_fingerprint_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    path = tmp_path / f"{TAG}.safetensors"
    path.write_bytes(b"one")
    before, hash_before = fingerprint_weights(make_params()), find_weights(make_params()).sha256
    assert before == fingerprint_weights(make_params())
    path.write_bytes(b"two!")
    assert fingerprint_weights(make_params()) != before
    assert find_weights(make_params()).sha256 != hash_before


def test_missing_weights_have_a_fingerprint_of_their_own():
    assert fingerprint_weights(make_params()) == {"name": TAG, "state": "not local"}


def test_a_backbone_without_a_tag_is_refused():
    with raises(WeightsError, match="no tag"):
        find_weights(make_params(backbone="resnet50"))


@mark.parametrize("backbone, size", [(TAG, "102 MB"), ("vgg19.tv_in1k", "575 MB")])
def test_missing_weights_say_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch, backbone, size):
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    with raises(WeightsError) as caught:
        find_weights(make_params(backbone=backbone))
    message = str(caught.value)
    for part in (f"/timm/{backbone}/resolve/main/model.safetensors", size, f"{backbone}.safetensors", str(tmp_path)):
        assert part in message


def hang(*args, **kwargs):
    time.sleep(3)
    raise OSError("timed out")


def refuse(*args, **kwargs):
    raise OSError("Name or service not known")


@mark.parametrize("network", [hang, refuse])
def test_no_network_is_an_error_within_a_second(monkeypatch, network):
    monkeypatch.setattr(weights.socket, "create_connection", network)
    start = time.monotonic()
    with raises(WeightsError, match="cannot be reached"):
        find_weights(make_params())
    assert time.monotonic() - start < 2  # HUB_PATIENCE is 0.8; the rest is for slow machines


def test_offline_by_choice_asks_nobody(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(weights.socket, "create_connection", lambda *a, **k: 1 / 0)
    with raises(WeightsError, match="HF_HUB_OFFLINE"):
        find_weights(make_params())


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download of one file needs."""

    content = b"the weights"

    def do_HEAD(self):
        found = self.path == f"/timm/{TAG}/resolve/main/model.safetensors" or REVISION in self.path
        self.send_response(200 if found else 404)
        if not found:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Content-Length", str(len(self.content) if found else 0))
        self.end_headers()
        return found

    def do_GET(self):
        if self.do_HEAD():
            self.wfile.write(self.content)

    def log_message(self, *args):
        pass


FIND = """
import json, sys
from lesion_utils.core.errors import WeightsError
from lesion_utils.config.schema import Network
from lesion_utils.models.weights import find_weights
try:
    print(json.dumps(find_weights(Network.model_construct(backbone=sys.argv[1], weights="pretrained")).to_dict()))
except WeightsError as error:
    print(error)
"""


@mark.slow
def test_weights_are_downloaded_from_the_hub_once():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "NO_PROXY": "127.0.0.1"}

    def find(tag: str) -> str:
        return subprocess.run([sys.executable, "-c", FIND, tag], env=environment, capture_output=True, text=True).stdout

    try:
        first = json.loads(find(TAG))
        assert "404" in find("resnet50.nobody_in1k")
    finally:
        server.shutdown()
        server.server_close()
    assert (first["origin"], first["revision"]) == ("hub", REVISION)
    assert first["sha256"] == hashlib.sha256(Hub.content).hexdigest()
    assert json.loads(find(TAG)) == first  # the hub is gone


def test_neither_torch_nor_the_hubs_client_is_imported():
    heavy = {"torch", "timm", "huggingface_hub", "numpy"}
    code = f"import sys, lesion_utils.models.weights; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
