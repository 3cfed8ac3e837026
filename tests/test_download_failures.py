"""Downloads that fail, from a server that is broken, silent or lies: one line, and nothing half-kept."""

import resource
from pathlib import Path

import pytest
from download_fixtures import BODY, NAME, OTHER, SHA256, Site, fetch, left_in, own_cache

from pix2pix import download
from pix2pix.archives import is_archive
from pix2pix.download import DownloadError
from pix2pix.errors import UserError

pytest_plugins = ["download_fixtures"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return own_cache(tmp_path, monkeypatch)


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
