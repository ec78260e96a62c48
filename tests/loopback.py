"""A real HTTP server on loopback that can misbehave like the worst of lines, and counts what it was asked."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What the server serves, and how badly.

    Attributes:
        files: name to content.
        status: names that are answered with a status alone; a list is used up, one status per request.
        drop_after: bytes of a body after which the connection is cut, per request; used up from the front.
        trickle: bytes/s at which bodies are sent; 0 sends them at once.
        ranges: whether parts of files are served.
        version: the ETag; None sends none.
        versions: name to its own ETag.
        shift: bytes by which a part begins too late.
        headers: sent with every answer.
        delay: before every answer, seconds.
    """

    files: dict[str, bytes]
    status: dict[str, list[int]] = field(default_factory=dict)
    drop_after: list[int] = field(default_factory=list)
    trickle: int = 0
    ranges: bool = True
    version: str | None = '"one"'
    versions: dict[str, str] = field(default_factory=dict)
    shift: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    sent: int = 0
    address: str = ""


@contextmanager
def serve(site: Site):
    """Run the server while the block lasts; yields the site with its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.removeprefix("/")
            name = path if path in site.files else path.rpartition("/")[2]
            time.sleep(site.delay)
            site.asked.append((name, self.headers.get("Range")))
            if site.status.get(name):
                return self.refuse(site.status[name].pop(0))
            if name not in site.files:
                return self.refuse(404)
            body, start, version = site.files[name], 0, site.versions.get(name, site.version)
            wanted = self.headers.get("Range")
            if wanted and site.ranges and self.headers.get("If-Range") in (None, version):
                start = int(wanted.removeprefix("bytes=").removesuffix("-")) + site.shift
                if start >= len(body):
                    return self.refuse(416)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            for header, value in (site.headers | ({"ETag": version} if version else {})).items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            return self.send_body(body[start:]) if self.command == "GET" else None

        def send_body(self, body):
            cut = site.drop_after.pop(0) if site.drop_after else None
            body = body if cut is None else body[:cut]
            step = max(1, site.trickle // 20) if site.trickle else max(1, len(body))
            for at in range(0, len(body), step):
                try:
                    self.wfile.write(body[at : at + step])
                    self.wfile.flush()
                except OSError:
                    break
                site.sent += len(body[at : at + step])
                if site.trickle:
                    time.sleep(0.05)
            if cut is not None:
                self.close_connection = True

        def refuse(self, status):
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with listen(Handler) as site.address:
        yield site


@contextmanager
def serve_hub(token: str):
    """A hub as far as sending it a folder needs one; yields its address, and by repository the files of each commit.

    Large files come apart from the commit, by Git LFS, and are kept under their hash until it names them.
    """
    repositories: dict[str, list[dict[str, bytes]]] = {}
    stored: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_PUT(self):
            stored[self.path.rpartition("/")[2]] = self.read()
            self.answer({})

        def do_POST(self):
            body = self.read()
            if self.headers.get("Authorization") != f"Bearer {token}":
                return self.answer({"error": "Invalid username or password."}, status=401)
            if self.path == "/api/repos/create":
                name = "/".join((json.loads(body)["organization"], json.loads(body)["name"]))
                known = name in repositories
                repositories.setdefault(name, [])
                return self.answer({"url": f"{address}{name}", "name": name}, status=409 if known else 200)
            if self.path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            repository = re.match(r"/(?:api/models/)?([^/]+/[^/.]+)", self.path)[1]
            if "/preupload/" in self.path:
                files = [(f["path"], "lfs" if f["size"] > 5000 else "regular") for f in json.loads(body)["files"]]
                modes = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in files]
                return self.answer({"files": modes})
            if self.path.endswith("/info/lfs/objects/batch"):
                objects = json.loads(body)["objects"]
                actions = [{**o, "actions": {"upload": {"href": f"{address}lfs/{o['oid']}"}}} for o in objects]
                return self.answer({"transfer": "basic", "objects": actions})
            content = {}
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    content[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    content[value["path"]] = stored[value["oid"]]
            repositories[repository].append(content)
            return self.answer({"commitUrl": f"{address}{repository}/commit/1", "commitOid": "1", "success": True})

        def read(self):
            return self.rfile.read(int(self.headers["Content-Length"]))

        def answer(self, content, status=200):
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with listen(Handler) as address:
        yield address, repositories


@contextmanager
def listen(handler):
    """Answer requests by a handler while the block lasts; yields the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
