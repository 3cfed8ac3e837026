"""Downloads against a real server on this machine, which breaks off, changes its mind and lies."""

import functools
import hashlib
import http.server
import logging
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest

from pix2pix import download
from pix2pix.archives import is_archive
from pix2pix.download import DownloadError, download_folder, fetch_file
from pix2pix.errors import UserError

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


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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


# --- getting it --------------------------------------------------------------------------------------


def test_whole_file_is_kept_and_used_again_without_asking(site: Site, cache: Path) -> None:
    told: list[tuple[int, int | None]] = []
    got = fetch({site.url: len(BODY)}, sha256=SHA256, on_progress=lambda *step: told.append(step))
    assert got == cache / NAME and got.read_bytes() == BODY
    assert told[0] == (0, len(BODY)) and told[-1] == (len(BODY), len(BODY)) and told == sorted(told)
    assert left_in(cache) == KEPT
    assert fetch({site.url: len(BODY)}, sha256=SHA256) == got
    assert len(site.asked) == 1


def test_cache_is_the_users_own_unless_the_variable_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert download_folder() == tmp_path / "cache" / "archives"
    monkeypatch.delenv("PIX2PIX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert download_folder().name == "archives" and "pix2pix" in download_folder().parts


def test_file_of_a_mirror_folder_is_used_in_place(tmp_path: Path, cache: Path) -> None:
    mine = tmp_path / NAME
    mine.write_bytes(BODY)
    assert fetch({str(mine): None, "http://127.0.0.1:9/never-asked": None}, sha256=SHA256) == mine
    assert not cache.exists()


def test_busy_server_is_asked_again(site: Site) -> None:
    site.script = ["500", "503", "429"]
    assert fetch({site.url: None}, attempts=4).read_bytes() == BODY
    assert len(site.asked) == 4


def test_next_address_is_tried_when_one_fails(
    site: Site, nowhere: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert fetch({"/no/such/folder/set.tar.gz": None, nowhere: None, site.url: None}).read_bytes() == BODY
    assert (
        f"/no/such/folder/set.tar.gz cannot be read (No such file or directory); trying {nowhere}"
        in caplog.text
    )
    assert f"{nowhere} cannot be read (Connection refused); trying {site.url}" in caplog.text


def test_bytes_arrive_as_stored_even_from_a_server_that_calls_gzip_an_encoding(site: Site) -> None:
    site.validators |= {"Content-Encoding": "gzip"}
    assert fetch({site.url: len(BODY)}, sha256=SHA256).read_bytes() == BODY
    assert site.asked[0]["Accept-Encoding"] == "identity"


def test_two_processes_that_want_the_same_file_download_it_once(site: Site, tmp_path: Path) -> None:
    site.script = ["dawdle"]
    script = f"from pix2pix.download import *; print(fetch_file({{{site.url!r}: None}}, {NAME!r}))"
    both = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in "ab"]
    outputs = {process.communicate(timeout=20)[0].strip() for process in both}
    assert outputs == {str(tmp_path / "cache/archives" / NAME)}
    assert Path(outputs.pop()).read_bytes() == BODY
    assert len(site.asked) == 1


# --- resuming ----------------------------------------------------------------------------------------


def test_broken_download_goes_on_where_it_was(site: Site) -> None:
    site.script = ["break"]
    assert fetch({site.url: None}, sha256=SHA256).read_bytes() == BODY
    assert site.asked[1]["Range"] == f"bytes={len(BODY) // 2}-"
    assert site.asked[1]["If-Range"] == '"one"'


def test_broken_download_goes_on_in_a_later_run(site: Site, cache: Path) -> None:
    site.script = ["break"]
    with pytest.raises(DownloadError, match=r"broke off|cannot be read"):
        fetch({site.url: None}, attempts=1)
    assert left_in(cache) == {f"{NAME}.part", f"{NAME}.part.json"}
    told: list[int] = []
    got = fetch({site.url: None}, attempts=1, on_progress=lambda done, total: told.append(done))
    assert got.read_bytes() == BODY and left_in(cache) == KEPT
    assert told[0] == len(BODY) // 2
    assert site.asked[1]["Range"] == f"bytes={len(BODY) // 2}-"


def test_time_of_the_last_change_serves_where_there_is_no_strong_etag(site: Site) -> None:
    changed = "Wed, 21 Oct 2015 07:28:00 GMT"
    site.validators = {"ETag": 'W/"weak"', "Last-Modified": changed}
    site.script = ["break"]
    assert fetch({site.url: None}, sha256=SHA256).read_bytes() == BODY
    assert site.asked[1]["If-Range"] == changed


@pytest.mark.parametrize("trait", ["no ranges", "no validator"])
def test_server_that_cannot_resume_starts_again(site: Site, trait: str) -> None:
    site.script = ["break"]
    if trait == "no ranges":
        site.has_ranges = False
    else:
        site.validators = {}
    assert fetch({site.url: None}, sha256=SHA256).read_bytes() == BODY
    assert ("Range" in site.asked[1]) == (trait == "no ranges")


def test_file_that_changed_between_the_halves_is_not_glued_together(site: Site) -> None:
    site.script = ["break"]
    with pytest.raises(DownloadError):
        fetch({site.url: None}, attempts=1)
    site.change()
    assert fetch({site.url: None}, attempts=1).read_bytes() == OTHER


def test_half_of_one_mirror_is_not_glued_to_half_of_another(site: Site) -> None:
    site.script = ["break"]
    with pytest.raises(DownloadError):
        fetch({site.url: None}, attempts=1)
    site.body = OTHER  # The same ETag by chance, as another server may have.
    assert fetch({site.url.replace(NAME, f"other/{NAME}"): None}).read_bytes() == OTHER
    assert "Range" not in site.asked[1]


@pytest.mark.parametrize("answer", ["misplace", "416"])
def test_server_that_answers_with_another_range_is_asked_for_the_whole(site: Site, answer: str) -> None:
    site.script = ["break", answer]
    assert fetch({site.url: None}, attempts=3, sha256=SHA256).read_bytes() == BODY
    assert [bool(headers["Range"]) for headers in site.asked] == [False, True, False]


def test_download_killed_after_its_last_byte_is_not_repeated(site: Site, cache: Path) -> None:
    partial = download._Partial(cache, NAME)
    cache.mkdir(parents=True)
    partial.begin(download._Origin(site.url, '"one"', len(BODY)))
    partial.path.write_bytes(BODY)
    assert fetch({site.url: None}, sha256=SHA256).read_bytes() == BODY
    assert site.asked == []


# --- asking again ------------------------------------------------------------------------------------

CHANGED = "Wed, 21 Oct 2015 07:28:00 GMT"
refresh = functools.partial(fetch, refresh=True)


@pytest.mark.parametrize(
    ("validators", "asked"),
    [
        ({"ETag": '"one"', "Last-Modified": CHANGED}, ("If-None-Match", '"one"')),
        ({"Last-Modified": CHANGED}, ("If-Modified-Since", CHANGED)),
        # Files that differ in bytes may share a weak one.
        ({"ETag": 'W/"weak"', "Last-Modified": CHANGED}, ("If-Modified-Since", CHANGED)),
    ],
)
def test_what_the_server_still_has_is_not_downloaded_again(
    site: Site, validators: dict[str, str], asked: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    site.validators = validators
    first = fetch({site.url: None})
    with caplog.at_level(logging.INFO):
        assert refresh({site.url: len(BODY)}) == first
    assert first.read_bytes() == BODY
    assert asked in site.asked[1].items() and len(site.asked) == 2
    assert {"If-None-Match", "If-Modified-Since"} & set(site.asked[1]) == {asked[0]}
    assert f"asking whether {site.url} has changed" in caplog.text
    assert f"{first} is still what the server has" in caplog.text


@pytest.mark.parametrize("validators", [{"ETag": '"one"'}, {"Last-Modified": CHANGED}, {}])
def test_what_changed_takes_the_place_of_what_was_kept_though_it_is_as_long(
    site: Site, cache: Path, validators: dict[str, str]
) -> None:
    site.validators = validators
    fetch({site.url: None})
    site.body = OTHER
    site.validators = {
        name: value.replace("one", "two").replace("07", "08") for name, value in validators.items()
    }
    assert fetch({site.url: None}).read_bytes() == BODY, "without `refresh` nobody asks"
    assert refresh({site.url: len(OTHER)}).read_bytes() == OTHER
    assert left_in(cache) == KEPT
    # And is what is asked about from then on.
    assert refresh({site.url: None}).read_bytes() == OTHER
    assert [bool(set(headers) & {"If-None-Match", "If-Modified-Since"}) for headers in site.asked] == [
        False,
        bool(validators),
        bool(validators),
    ]


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        (["404"], 2),
        (["410"], 2),
        (["500", "503"], 3),
        (["break", "500"], 3),
        (["break", "404"], 2),
        (["no length break", "no length break"], 2),
    ],
)
def test_where_nobody_can_tell_what_was_kept_stays_and_the_line_says_so(
    site: Site, cache: Path, answers: list[str], status: int
) -> None:
    fetch({site.url: None})
    site.change()
    site.script = answers
    with pytest.raises(UserError) as caught:
        refresh({site.url: len(OTHER)})
    assert caught.value.exit_status == status
    assert str(caught.value).endswith("or leave `refresh` out to use the one downloaded before")
    assert site.script == [] or answers[0] == "no length break"
    assert fetch({site.url: None}).read_bytes() == BODY
    # When the server is well again, the next look finds what it has.
    site.script = []
    assert refresh({site.url: None}).read_bytes() == OTHER
    assert left_in(cache) == KEPT


def test_server_that_is_not_there_is_a_failure_of_the_network_though_something_was_kept(
    site: Site, nowhere: str
) -> None:
    fetch({site.url: None})
    with pytest.raises(DownloadError, match=r"Connection refused.*leave `refresh` out"):
        refresh({nowhere: None})


@pytest.mark.parametrize("trouble", [["500"], ["break"], ["break", "break"], ["500", "break"]])
def test_new_version_is_had_through_trouble(site: Site, cache: Path, trouble: list[str]) -> None:
    fetch({site.url: None})
    site.change()
    site.script = trouble
    assert refresh({site.url: None}, attempts=3).read_bytes() == OTHER
    assert left_in(cache) == KEPT


def test_mirror_that_lacks_the_file_is_passed_over(site: Site) -> None:
    fetch({site.url: None})
    site.script = ["404"]
    assert refresh({f"{site.url}?mirror": None, site.url: None}).read_bytes() == BODY
    assert [headers["If-None-Match"] for headers in site.asked] == [None, None, '"one"']


def test_what_was_kept_from_elsewhere_or_put_there_by_hand_is_no_answer(site: Site, cache: Path) -> None:
    fetch({f"{site.url}?elsewhere": None})
    assert refresh({site.url: None}).read_bytes() == BODY
    (cache / NAME).write_bytes(OTHER)
    assert refresh({site.url: None}).read_bytes() == BODY
    assert not any(headers["If-None-Match"] for headers in site.asked)
    # Of a folder, what lies there is what there is.
    assert refresh({str(cache / NAME): None}) == cache / NAME


def test_whole_download_of_an_earlier_day_is_not_taken_for_what_the_server_has_now(
    site: Site, cache: Path
) -> None:
    partial = download._Partial(cache, NAME)
    cache.mkdir(parents=True)
    partial.begin(download._Origin(site.url, '"zero"', len(OTHER)))
    partial.path.write_bytes(OTHER)
    assert refresh({site.url: None}).read_bytes() == BODY


def test_answer_that_nothing_has_changed_to_somebody_who_has_nothing_is_no_answer(site: Site) -> None:
    site.script = ["304"]
    with pytest.raises(UserError, match="answered 304 Not Modified"):
        refresh({site.url: None})


# --- failing -----------------------------------------------------------------------------------------


def test_missing_everywhere_is_the_users_to_mend(site: Site) -> None:
    site.script = ["404", "404"]
    with pytest.raises(UserError) as caught:
        fetch({site.url: None, f"{site.url}?2": None})
    assert caught.value.exit_status == 2
    line = str(caught.value)
    assert (
        line.count("answered 404 Not Found") == 2
        and "set PIX2PIX_MIRROR to a folder that holds set.tar.gz" in line
    )
    assert len(site.asked) == 2


def test_unreachable_network_has_an_exit_status_of_its_own(site: Site, nowhere: str, cache: Path) -> None:
    site.script = ["404"]
    with pytest.raises(DownloadError) as caught:
        fetch({nowhere: None, site.url: None})
    assert caught.value.exit_status == 3
    assert f"{nowhere} cannot be read (Connection refused)" in str(caught.value)
    assert "\n" not in str(caught.value) and left_in(cache) == set()


def test_server_that_stays_broken_has_it_too(site: Site) -> None:
    site.script = ["500", "502"]
    with pytest.raises(DownloadError, match="answered 502 Bad Gateway"):
        fetch({site.url: None})


def test_silent_server_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUTS_S", (1, 0.2))
    site.script = ["dawdle", "dawdle"]
    with pytest.raises(DownloadError, match="gave no answer in time"):
        fetch({site.url: None})


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/x", "http:///x", "http://127.0.0.1:99999/x"])
def test_address_that_is_none_is_the_users_to_mend(address: str) -> None:
    with pytest.raises(UserError, match="cannot be asked") as caught:
        fetch({address: None})
    assert caught.value.exit_status == 2


def test_server_that_sends_no_end_is_left_at_the_limit(site: Site, cache: Path) -> None:
    site.script = ["no length, no end"]
    told: list[int] = []
    with pytest.raises(UserError, match=r"sends more than the 3,000,000 bytes it should have") as caught:
        fetch({site.url: None}, max_bytes=3_000_000, on_progress=lambda done, total: told.append(done))
    assert caught.value.exit_status == 2 and left_in(cache) == set()
    assert told[-1] <= 3_000_000 and len(site.asked) == 1


def test_server_that_sends_more_than_the_file_has_is_left_there(site: Site, cache: Path) -> None:
    site.script = ["no length, no end"]
    with pytest.raises(UserError, match=r"sends more than the 1,048,576 bytes it should have"):
        fetch({site.url: len(BODY)})
    assert left_in(cache) == set()


def test_server_that_claims_to_have_too_much_is_not_listened_to(site: Site, cache: Path) -> None:
    site.claimed_bytes = 10**15
    with pytest.raises(UserError, match=r"has 1,000,000,000,000,000 bytes, more than the 68,719,476,736 all"):
        fetch({site.url: None})
    assert left_in(cache) == set()


@pytest.mark.parametrize("claimed", ["-1", "many", "1e6"])
def test_length_that_is_no_number_is_none(site: Site, claimed: str) -> None:
    site.claimed_bytes = claimed
    assert fetch({site.url: None}, sha256=SHA256).read_bytes() == BODY


def test_server_that_claims_less_than_it_sends_gives_no_more_than_that(site: Site, cache: Path) -> None:
    site.claimed_bytes = 1000
    with pytest.raises(UserError, match=f"not the pinned {SHA256}"):
        fetch({site.url: None}, sha256=SHA256)
    assert left_in(cache) == set()


def test_server_that_claims_more_than_it_sends_broke_off(site: Site, cache: Path) -> None:
    site.claimed_bytes = 2 * len(BODY)
    with pytest.raises(DownloadError, match=r"broke off after 1,048,576 of 2,097,152 bytes|cannot be read"):
        fetch({site.url: None}, attempts=1)
    assert NAME not in left_in(cache)


def test_server_that_drips_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUTS_S", (1, 0.2))
    site.script = ["drip"]
    with pytest.raises(DownloadError, match=r"sends no more than \d+ bytes a second") as caught:
        fetch({site.url: None}, attempts=1)
    assert caught.value.exit_status == 3


@pytest.mark.parametrize(
    "scheme", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "gopher://127.0.0.1/"]
)
def test_redirect_to_another_scheme_is_not_followed(site: Site, cache: Path, scheme: str) -> None:
    site.script = [f"to {scheme}"]
    with pytest.raises(
        UserError, match=r"cannot be asked \(it leads to .*, which is not on the web\)"
    ) as caught:
        fetch({site.url: None})
    assert caught.value.exit_status == 2 and left_in(cache) == set()


def test_redirect_without_end_is_not_followed_to_it(site: Site, cache: Path) -> None:
    site.script = [f"to {site.url}"] * 100
    with pytest.raises(UserError, match=r"cannot be asked \(more than 10 redirects\)"):
        fetch({site.url: None})
    assert left_in(cache) == set() and len(site.asked) == 11


def test_what_comes_with_a_redirect_is_not_read(site: Site) -> None:
    site.script = [f"to {site.url}, no end"]
    assert fetch({site.url: None}, attempts=1).read_bytes() == BODY
    assert len(site.asked) == 2


@pytest.mark.parametrize("target", ["http://[", "http://\udcff", "https://"])
def test_redirect_to_no_address_is_one_line(site: Site, cache: Path, target: str) -> None:
    site.script = [f"to {target}".encode(errors="surrogateescape").decode("latin1")]
    with pytest.raises(UserError, match=r"cannot be asked \(") as caught:
        fetch({site.url: None})
    assert caught.value.exit_status == 2 and left_in(cache) == set()


def test_relative_redirect_is_followed(site: Site) -> None:
    site.script = ["to ../elsewhere/ä.tar.gz".encode().decode("latin1")]
    assert fetch({site.url: None}, attempts=1).read_bytes() == BODY


def test_page_in_the_place_of_an_archive_is_not_kept(site: Site, cache: Path) -> None:
    site.body = b"<!DOCTYPE html><html>Sign in to the network of this hotel</html>"
    with pytest.raises(UserError, match=r"is 64 bytes of something else"):
        fetch({site.url: None}, looks_right=is_archive)
    assert left_in(cache) == set()


def test_what_a_server_says_is_shown_and_not_obeyed(site: Site) -> None:
    site.script = ["to http://127.0.0.1:1/\x1b[2J"]
    with pytest.raises(UserError) as caught:
        fetch({site.url: None}, attempts=1)
    assert str(caught.value).isprintable()


def test_wrong_digest_leaves_nothing_behind(site: Site, cache: Path) -> None:
    with pytest.raises(UserError, match=f"has sha256 {SHA256}, not the pinned {'0' * 64}") as caught:
        fetch({site.url: None}, sha256="0" * 64)
    assert caught.value.exit_status == 2 and left_in(cache) == set()


def test_wrong_size_is_noticed_before_the_download(site: Site, cache: Path) -> None:
    told: list[int] = []
    with pytest.raises(UserError, match=r"has 1,048,576 bytes instead of 5") as caught:
        fetch({site.url: 5}, on_progress=lambda done, total: told.append(done))
    assert caught.value.exit_status == 2 and told == [] and left_in(cache) == set()


def test_wrong_size_is_noticed_where_the_server_does_not_tell_it(site: Site, cache: Path) -> None:
    site.script = ["no length"]
    with pytest.raises(UserError, match="sends more than the 5 bytes it should have"):
        fetch({site.url: 5})
    assert left_in(cache) == set()


def test_wrong_content_is_not_kept(site: Site, cache: Path) -> None:
    with pytest.raises(UserError, match="is 1,048,576 bytes of something else"):
        fetch({site.url: None}, looks_right=lambda path: False)
    assert left_in(cache) == set()


def test_kept_file_that_is_not_the_pinned_one_is_downloaded_anew(site: Site, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(OTHER)
    assert fetch({site.url: None}, sha256=SHA256).read_bytes() == BODY


def test_kept_file_of_another_size_than_the_official_one_is_downloaded_anew(site: Site, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(b"packed otherwise")
    assert fetch({site.url: None}).read_bytes() == b"packed otherwise"
    assert fetch({site.url: len(BODY)}).read_bytes() == BODY


def test_disk_that_takes_no_more_is_one_line(site: Site, cache: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(BODY) // 2, limits[1]))
    try:
        with pytest.raises(UserError, match=r"free some space or set PIX2PIX_CACHE") as caught:
            fetch({site.url: None})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(cache) in str(caught.value) and caught.value.exit_status == 2
    assert len(site.asked) == 1


def test_download_folder_that_cannot_be_made_is_one_line(site: Site, cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="set PIX2PIX_CACHE to another folder"):
        fetch({site.url: None})
