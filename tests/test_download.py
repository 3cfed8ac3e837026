"""Downloads against a real server on this machine, which breaks off and changes its mind."""

import functools
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from download_fixtures import BODY, KEPT, NAME, OTHER, SHA256, Site, fetch, left_in, own_cache

from pix2pix import download
from pix2pix.download import DownloadError, download_folder
from pix2pix.errors import UserError

pytest_plugins = ["download_fixtures"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return own_cache(tmp_path, monkeypatch)


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
