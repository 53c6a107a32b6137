"""A Hugging Face hub on the loopback, as far as Minari's client asks it: lists, revisions, trees, files by range."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ORGANISATION = "farama-minari"
FILE = re.compile(rf"/datasets/{ORGANISATION}/(?P<repository>[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
API = re.compile(rf"/api/datasets/{ORGANISATION}/(?P<repository>[^/]+)(?P<what>/revision/|/tree/)?(?P<revision>[^/]*)")


class Hub(ThreadingHTTPServer):
    """Serves a folder of repositories. `faults` are used up one by one: (path's end, what goes wrong).

    What goes wrong: an HTTP status; ("cut", n): after n bytes of the answer; "flip": one byte is another.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.root, self.faults, self.log = root, [], []
        self.checksums: dict[Path, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def counts(self) -> Counter[str]:
        """How often which kind of request came."""
        return Counter(kind for kind, _, _ in self.log)

    def ranges(self, name: str) -> list[str | None]:
        """The Range of every GET of a file."""
        return [wanted for kind, path, wanted in self.log if kind == "GET file" and path.endswith(name)]

    def take_fault(self, path: str) -> Any:
        for place, (end, fault) in enumerate(self.faults):
            if path.endswith(end):
                if fault[-1] != "always":
                    del self.faults[place]
                return fault
        return None

    def checksum(self, path: Path) -> str:
        if path not in self.checksums:
            self.checksums[path] = sha256(path.read_bytes()).hexdigest()
        return self.checksums[path]


class _Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        file, api = FILE.fullmatch(path), API.fullmatch(path)
        kind = "file" if file else "list" if path == "/api/datasets" else "info" if api else "root"
        self.server.log.append((f"{self.command} {kind}", path, self.headers.get("Range")))
        fault = self.server.take_fault(path) if body or kind != "file" else None
        if fault and isinstance(fault[0], int):
            self._send(fault[0], b"{}", {}, body)
        elif kind == "list":
            repositories = [{"id": f"{ORGANISATION}/{folder.name}"} for folder in sorted(self.server.root.iterdir())]
            self._send_json(repositories, body)
        elif api:
            self._info(api, body)
        elif file:
            self._file(file, fault, body)
        else:
            self._send(200, b"", {}, body)

    def _info(self, api: re.Match[str], body: bool) -> None:
        repository = self.server.root / api["repository"]
        if not repository.is_dir():
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
            return
        files = sorted(path for path in repository.rglob("*") if path.is_file())
        names = [str(path.relative_to(repository)) for path in files]
        if api["what"] == "/tree/":
            entries = [
                {
                    "type": "file",
                    "path": name,
                    "size": path.stat().st_size,
                    "oid": self.server.checksum(path)[:40],
                    **({"lfs": self._lfs(path)} if path.suffix == ".hdf5" else {}),
                }
                for name, path in zip(names, files, strict=True)
            ]
            self._send_json(entries, body)
        else:
            siblings = [{"rfilename": name} for name in names]
            identity = {"id": f"{ORGANISATION}/{repository.name}", "sha": COMMIT, "private": False}
            self._send_json({**identity, "siblings": siblings}, body)

    def _lfs(self, path: Path) -> dict[str, Any]:
        return {"oid": self.server.checksum(path), "size": path.stat().st_size, "pointerSize": 134}

    def _file(self, file: re.Match[str], fault: Any, body: bool) -> None:
        path = self.server.root / file["repository"] / file["path"]
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, body)
            return
        checksum, size = self.server.checksum(path), path.stat().st_size
        headers = {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if path.suffix == ".hdf5":
            headers |= {"ETag": f'"{checksum}"', "X-Linked-Etag": f'"{checksum}"', "X-Linked-Size": str(size)}
        else:
            headers |= {"ETag": f'"{checksum[:40]}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        first = int(wanted[1]) if wanted else 0
        last = int(wanted[2]) if wanted and wanted[2] else size - 1
        content = path.read_bytes()[first : last + 1] if body else b""
        if fault and fault[0] == "flip":
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
        if wanted:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        headers["Content-Length"] = str(last + 1 - first)
        cut = fault[1] if fault and fault[0] == "cut" else None
        self._send(206 if wanted else 200, content, headers, body, cut)

    def _send_json(self, value: Any, body: bool) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Not on the screen."""


@contextmanager
def serve(root: Path) -> Iterator[Hub]:
    """A hub with the repositories below `root`, as long as the block runs."""
    with Hub(root) as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
