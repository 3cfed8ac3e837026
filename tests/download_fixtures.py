"""A server on this machine, which breaks off, changes its mind and lies.

Test modules name it in `pytest_plugins`. PYTEST_DONT_REWRITE: no test in here.
"""

import functools
import hashlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest

from pix2pix.download import fetch_file

BODY = bytes(range(256)) * 4096  # 1 MiB
OTHER = BODY[::-1]
SHA256 = hashlib.sha256(BODY).hexdigest()
NAME = "set.tar.gz"

# Two quick tries, unless a test is about the tries themselves.
fetch = functools.partial(fetch_file, name=NAME, attempts=2, first_wait_s=0.01)


class Site(http.server.ThreadingHTTPServer):
    """Serves `body` under any path; `script` says what goes wrong with the next requests, one word each."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = BODY
        self.validators = {"ETag": '"one"'}
        self.has_ranges = True
        self.claimed_bytes: int | str = 0
        self.script: list[str] = []
        self.asked: list[Message] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{NAME}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the game."""

    def change(self) -> None:
        self.body, self.validators = OTHER, {"ETag": '"two"'}


class Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        site = self.server
        site.asked.append(self.headers)
        word = site.script.pop(0) if site.script else "serve"
        if word.isdigit():
            self.send_error(int(word))
            return
        if self._is_known():
            self.send_response(304)
            self.end_headers()
            return
        if word.startswith("to "):
            self._lead_to(word.removeprefix("to "))
            return
        start = self._start()
        self.send_response(206 if start else 200)
        for key, value in site.validators.items():
            self.send_header(key, value)
        if start:
            claimed = start + 1 if word == "misplace" else start
            self.send_header("Content-Range", f"bytes {claimed}-{len(site.body) - 1}/{len(site.body)}")
        if not word.startswith("no length"):
            claimed = site.claimed_bytes or len(site.body) - start
            self.send_header("Content-Length", str(claimed))
        self.end_headers()
        rest = site.body[start:]
        if word.endswith("no end"):
            while True:
                self.wfile.write(rest)
        if word == "drip":
            for byte in rest:
                self.wfile.write(bytes([byte]))
                time.sleep(0.02)
        if word.endswith("break"):
            rest = rest[: len(rest) // 2]
        elif word == "dawdle":
            time.sleep(0.7)
        self.wfile.write(rest)

    def _is_known(self) -> bool:
        """Whether the client has it already, as servers judge: by the ETag where it gives one."""
        etag, changed = self.headers.get("If-None-Match"), self.headers.get("If-Modified-Since")
        return (etag or changed) in self.server.validators.values()

    def _lead_to(self, place: str) -> None:
        self.send_response(302)
        self.send_header("Location", place.removesuffix(", no end"))
        self.end_headers()
        while place.endswith(", no end"):
            self.wfile.write(BODY)

    def _start(self) -> int:
        """The first byte that is asked for, if the file is still the one the client means."""
        wanted = self.headers.get("Range", "")
        same = self.headers.get("If-Range") in self.server.validators.values()
        if not (wanted and same and self.server.has_ranges):
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of archives in a cache of this test's own; no proxy stands before the server."""
    monkeypatch.setenv("PIX2PIX_CACHE", str(tmp_path / "cache"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "cache" / "archives"


@pytest.fixture
def nowhere() -> str:
    """An address at which nobody listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{reserved.getsockname()[1]}/{NAME}"


def left_in(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()} - {f"{NAME}.lock"}


KEPT = {NAME, f"{NAME}.json"}
