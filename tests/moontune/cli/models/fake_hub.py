"""A Hugging Face hub on the loopback interface: the three calls that a download makes, with ranges, and faults."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40
BLOCK = 1 << 20


class FakeHub:
    """Repositories by name, each a dictionary of files. stall_after: send so many bytes of a file, then wait."""

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        self.repositories = repositories
        self.ranges: list[str] = []
        self.stall_after: int | None = None
        self.claimed: dict[str, str] = {}
        self.released = threading.Event()
        self.url = ""

    def info(self, repository: str) -> dict[str, object]:
        files = self.repositories[repository]
        return {
            "id": repository,
            "sha": COMMIT,
            "siblings": [
                {"rfilename": name, "size": len(content), "blobId": "0" * 40, "lfs": self.lfs(name, content)}
                for name, content in files.items()
            ],
        }

    def lfs(self, name: str, content: bytes) -> dict[str, object]:
        sha256 = self.claimed.get(name, hashlib.sha256(content).hexdigest())
        return {"sha256": sha256, "oid": sha256, "size": len(content), "pointerSize": 134}


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            del format, args

        def do_HEAD(self) -> None:
            self._file(send=False)

        def do_GET(self) -> None:
            if self.path.startswith("/api/models/"):
                repository = "/".join(self.path.removeprefix("/api/models/").split("/")[:2]).partition("?")[0]
                return self._json(hub.info(repository)) if repository in hub.repositories else self._none()
            return self._file(send=True)

        def _json(self, value: object) -> None:
            content = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _none(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _file(self, *, send: bool) -> None:
            owner, name, _, _, file = self.path.removeprefix("/").partition("?")[0].split("/", 4)
            content = hub.repositories[f"{owner}/{name}"][file]
            wanted = self.headers.get("Range", "")
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and send else 0
            if send:
                hub.ranges.append(f"{file}:{start}")
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if send:
                self._send(content[start:])

        def _send(self, content: bytes) -> None:
            for offset in range(0, len(content), BLOCK):
                if hub.stall_after is not None and offset >= hub.stall_after:
                    hub.released.wait(60)
                    return
                self.wfile.write(content[offset : offset + BLOCK])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
