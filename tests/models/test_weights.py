"""Where weights are found, what is recorded of them, and how soon a missing file is called missing."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import timm
import torch
from loopback import Site, serve
from pytest import fixture, mark, raises
from safetensors.torch import save
from tiny_study import make_params as make_tiny_params

from lesion_utils.config import sources
from lesion_utils.config.schema import Network
from lesion_utils.config.sources import fingerprint_weights
from lesion_utils.core.errors import WeightsError
from lesion_utils.models import weights
from lesion_utils.models.licences import KNOWN, find_licence
from lesion_utils.models.networks import build_network
from lesion_utils.models.weights import find_weights

TAG = "resnet50.tv_in1k"
REVISION = "0123456789abcdef0123456789abcdef01234567"


def make_params(name: str = "pretrained", *, backbone: str = TAG) -> Network:
    """Only the two keys that matter here."""
    return Network.model_construct(backbone=backbone, weights=name)


@fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    """A machine without weights and without a network."""
    for variable in ("WEIGHTS_DIR", "HF_HUB_CACHE", "OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
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


def test_no_weights_are_no_source_and_missing_ones_have_a_fingerprint_of_their_own():
    assert find_weights(make_params("none")) is None
    assert fingerprint_weights(make_params("none")) == {"name": "none", "state": "none"}
    assert fingerprint_weights(make_params()) == {"name": TAG, "state": "not local"}


@mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_a_tag_is_found_in_weights_dir(tmp_path, monkeypatch, suffix):
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    (tmp_path / f"{TAG}{suffix}").write_bytes(b"weights")
    source = find_weights(make_params())
    assert source.to_dict() == {
        "name": TAG, "file": f"{TAG}{suffix}", "origin": "WEIGHTS_DIR", "revision": None,
        "sha256": hashlib.sha256(b"weights").hexdigest(), "bytes": 7, "pinned": None, "licence": "bsd-3-clause",
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(source.to_dict())


def test_weights_dir_comes_before_the_hubs_cache(tmp_path, monkeypatch):
    monkeypatch.setitem(sources.PINNED, TAG, sources.Pin("elsewhere", hashlib.sha256(b"cached").hexdigest()))
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
    before = fingerprint_weights(make_params()), find_weights(make_params()).sha256
    assert before[0] == fingerprint_weights(make_params())
    path.write_bytes(b"two!")
    after = fingerprint_weights(make_params()), find_weights(make_params()).sha256
    assert before[0] != after[0] and before[1] != after[1]


def test_a_backbone_without_a_tag_is_refused():
    with raises(WeightsError, match="no tag"):
        find_weights(make_params(backbone="resnet50"))


@mark.parametrize(
    "backbone, size, at", [(TAG, "102 MB", sources.PINNED[TAG].revision), ("vgg19.tv_in1k", "575 MB", "main")]
)
def test_missing_weights_say_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch, backbone, size, at):
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    with raises(WeightsError) as caught:
        find_weights(make_params(backbone=backbone))
    message = str(caught.value)
    for part in (f"/timm/{backbone}/resolve/{at}/model.safetensors", size, f"{backbone}.safetensors", str(tmp_path)):
        assert part in message


def test_no_network_is_an_error_at_once():
    start = time.monotonic()
    with raises(WeightsError, match=r"127\.0\.0\.1:9 does not give them"):
        find_weights(make_params())
    assert time.monotonic() - start < 2  # nobody waits HUB_PATIENCE where nobody listens


CONTENT = bytes(range(256)) * 1024
SHA = hashlib.sha256(CONTENT).hexdigest()
FILE = "timm/{}/resolve/{}/model.safetensors"


@fixture
def hub(monkeypatch):
    """The hub as its client sees it: the branch and the commit have the file, told by SHA-256 and commit."""
    files = {FILE.format(tag, at): CONTENT for tag in (TAG, "vgg19.tv_in1k") for at in ("main", REVISION)}
    site = Site(files, version=f'"{SHA}"', headers={"X-Repo-Commit": REVISION})
    with serve(site):
        monkeypatch.setenv("HF_ENDPOINT", site.address)
        monkeypatch.setitem(sources.PINNED, TAG, sources.Pin(REVISION, SHA))
        yield site


@mark.parametrize(("tag", "who"), [(TAG, "by the project"), ("vgg19.tv_in1k", "at first use")])
def test_weights_are_fetched_once_and_pinned(hub, tag, who):
    found = find_weights(make_params(backbone=tag)).to_dict()
    assert (found["origin"], found["revision"], found["sha256"], found["pinned"]) == ("hub", REVISION, SHA, who)
    assert found["licence"] == "bsd-3-clause"
    asked = len(hub.asked)
    assert find_weights(make_params(backbone=tag)).to_dict() == found and len(hub.asked) == asked
    assert sources.read_pin(tag) == sources.Pin(REVISION, SHA)


def test_a_broken_line_is_taken_up_where_it_broke(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # 10 MB, more than this file has
    hub.drop_after = [100_000]
    assert find_weights(make_params()).sha256 == SHA
    assert [part for _, part in hub.asked if part] == ["bytes=100000-"]


@mark.parametrize("status", [401, 404])
def test_a_hub_that_refuses_is_quoted(hub, status):
    hub.status = {"model.safetensors": [status] * 9}
    hub.files.clear()
    with raises(WeightsError, match=f"does not give them.*{status}"):
        find_weights(make_params())


@mark.parametrize("tag", [TAG, "vgg19.tv_in1k"])
@mark.fault("weights", "other bytes from the hub", "refused and removed")
def test_other_bytes_than_those_pinned_are_refused_and_removed(hub, tag):
    """Damaged on the way (the hub says another SHA-256), or changed on the hub since the project pinned them."""
    for name in hub.files:
        hub.files[name] = CONTENT[::-1]
    with raises(WeightsError, match=r"(?s)not the one that this tag means.*expected  SHA-256 " + SHA):
        find_weights(make_params(backbone=tag))
    assert sources.find_local_weights(make_params(backbone=tag)) is None


@mark.fault("weights", "a weights file that changes in the cache", "refused")
def test_a_pinned_file_that_changes_in_the_cache_is_refused(hub):
    path = find_weights(make_params(backbone="vgg19.tv_in1k")).path
    path.resolve().write_bytes(b"other")
    with raises(WeightsError, match="not the one that this tag means"):
        find_weights(make_params(backbone="vgg19.tv_in1k"))


@mark.slow  # it waits for three seconds
def test_a_slow_hub_is_waited_for_and_one_too_slow_is_an_error_that_says_so(hub, monkeypatch):
    hub.delay = 1.0
    assert find_weights(make_params()).sha256 == SHA
    monkeypatch.setattr(weights, "HUB_PATIENCE", 0.2)
    with raises(WeightsError, match="although it was given"):
        find_weights(make_params(backbone="vgg19.tv_in1k"))


@mark.parametrize("variable", ["OFFLINE", "HF_HUB_OFFLINE"])
@mark.fault("security", "OFFLINE=1, weights not here", "nobody is asked")
def test_offline_by_choice_asks_nobody(hub, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with raises(WeightsError, match=f"and {variable} is set"):
        find_weights(make_params())
    assert hub.asked == []
    monkeypatch.setenv(variable, "0")
    assert find_weights(make_params()).origin == "hub"


def test_a_network_of_timm_starts_from_the_hubs_file(hub, monkeypatch):
    tag = "resnet10t.c3_in1k"
    random = timm.create_model("resnet10t").state_dict()
    content = save(random)
    hub.files |= {FILE.format(tag, at): content for at in ("main", REVISION)}
    hub.version = f'"{hashlib.sha256(content).hexdigest()}"'
    settings = make_tiny_params(backbone=tag, weights="pretrained").resnet50
    model = build_network(settings, pretrained=True, seed=0)
    assert all(torch.equal(v, random[name]) for name, v in model.state_dict().items() if not name.startswith("fc."))


@mark.parametrize(
    ("name", "origin", "sha256", "licence"),
    [
        (TAG, "hub", "", "bsd-3-clause"),
        ("mine.pth", "file", "", None),
        ("mine.pth", "file", next(iter(KNOWN)), "Uber Non-Commercial License"),
        ("convnext_tiny.dinov3_lvd1689m", "WEIGHTS_DIR", "", "dinov3-license"),
    ],
)
def test_licences_are_known_by_tag_or_by_content(name, origin, sha256, licence):
    found = find_licence(name, origin, sha256)
    assert (found and found.name) == licence


def test_neither_torch_nor_the_hubs_client_is_imported():
    heavy = {"torch", "timm", "huggingface_hub", "numpy"}
    code = f"import sys, lesion_utils.models.weights; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
