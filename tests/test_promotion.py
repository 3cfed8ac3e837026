"""Moves of the champion: all or nothing, whichever write fails, and logged."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from registry_fixtures import MODEL_NAME, Project, Server

from pipeline import promotion, registry, tracking
from pipeline.promotion import INTENDED, Move, Standing
from pix2pix.errors import UserError

pytest_plugins = ["registry_fixtures"]

WRITES = (
    "set_registered_model_tag",
    "delete_registered_model_tag",
    "set_model_version_tag",
    "delete_model_version_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
)


@pytest.fixture
def client(store: Path) -> MlflowClient:
    return MlflowClient(tracking.store_uri(), tracking.store_uri())


def model(client: MlflowClient, versions: int = 2, name: str = MODEL_NAME) -> str:
    """A model of so many versions without files; the first is champion, the second challenger."""
    client.create_registered_model(name)
    for number in range(1, versions + 1):
        client.create_model_version(name, source=f"file:///nowhere/{number}")
    promotion.place(client, name, "1", "first", "the first", None)
    client.set_registered_model_alias(name, "challenger", "2")
    return name


def tags(client: MlflowClient, name: str, version: str) -> dict[str, str]:
    found: dict[str, str] = client.get_model_version(name, version).tags
    return found


class Lost(MlflowException):
    """What MLflow raises when a request gets no answer."""

    def __init__(self) -> None:
        super().__init__("API request to http://mlflow failed with exception Max retries exceeded")


@contextmanager
def losing(write: int, arrives: bool) -> Iterator[list[str]]:
    """The registry is lost at this write, whether or not it still arrives, and stays lost."""
    written: list[str] = []
    # A write looks its model up before it is sent, by one of the calls that are wrapped.
    inside: list[str] = []

    def wrapped(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: MlflowClient, *arguments: Any, **named: Any) -> Any:
            if inside:
                return original(self, *arguments, **named)
            is_lost = len(written) > write
            if name in WRITES and not is_lost:
                written.append(name)
                is_lost = len(written) > write
                if is_lost and not arrives:
                    raise Lost
            elif is_lost:
                raise Lost
            inside.append(name)
            try:
                answer = original(self, *arguments, **named)
            finally:
                inside.pop()
            if is_lost:
                raise Lost
            return answer

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in (*WRITES, "get_registered_model", "get_model_version"):
            patch.setattr(MlflowClient, name, wrapped(name, getattr(MlflowClient, name)))
        yield written


def is_recorded(client: MlflowClient, name: str, move: Move) -> bool:
    """Whether both versions say the same of the move."""
    bearers = [version for version in (move.before, move.to) if version]
    return all(tags(client, name, version).get(move.key) == move.text for version in bearers)


# --- one move ----------------------------------------------------------------------------------------


def test_a_move_is_on_both_versions_and_in_the_log(client: MlflowClient) -> None:
    name = model(client)
    now = promotion.place(client, name, "2", "promoted", "it is better", "1")
    assert (now.champion, now.challenger, now.intended) == ("2", None, None)
    move = now.moves[-1]
    assert (move.number, move.how, move.before, move.to, move.because) == (
        2,
        "promoted",
        "1",
        "2",
        "it is better",
    )
    assert len(move.at) == 20 and move.at.endswith("Z")
    assert "@" in move.by
    assert is_recorded(client, name, move)
    model_tags = client.get_registered_model(name).tags
    assert set(model_tags) == {"champion_0001", "champion_0002"}
    assert Move.read(model_tags["champion_0002"]) == move


@pytest.mark.parametrize("arrives", [False, True], ids=["request lost", "answer lost"])
def test_whichever_write_fails_one_champion_serves_and_again_mends_it(
    client: MlflowClient, arrives: bool
) -> None:
    for write in count():
        name = model(client, name=f"model {write}")
        before = promotion.standing(client, name)
        with losing(write, arrives) as written:
            try:
                promotion.place(client, name, "2", "promoted", "it is better", "1")
                break
            except Lost:
                pass
        after = promotion.standing(client, name)
        has_moved = "set_registered_model_alias" in (written if arrives else written[:-1])
        if has_moved:
            assert (after.champion, [move.to for move in after.moves]) == ("2", ["1", "2"])
            assert is_recorded(client, name, after.moves[-1])
            now = promotion.settle(client, name)
        else:
            assert (after.champion, after.challenger, after.moves) == ("1", "2", before.moves)
            now = promotion.place(client, name, "2", "promoted", "again", "1")
        assert (now.champion, now.challenger, now.intended) == ("2", None, None)
        assert [move.number for move in now.moves] == [1, 2]
        assert is_recorded(client, name, now.moves[-1])
        assert INTENDED not in client.get_registered_model(name).tags
    # The intention, two records, the alias, the challenger's alias, the log's entry, the intention again.
    assert write == 7


def test_what_was_not_carried_out_is_taken_back_when_another_takes_the_place(client: MlflowClient) -> None:
    name = model(client, versions=3)
    with losing(3, arrives=False), pytest.raises(Lost):
        promotion.place(client, name, "2", "promoted", "it is better", "1")
    assert "champion_0002" in tags(client, name, "2")
    now = promotion.place(client, name, "3", "promoted", "it is best", "1")
    assert [(move.before, move.to) for move in now.moves] == [(None, "1"), ("1", "3")]
    assert "champion_0002" not in tags(client, name, "2")
    assert is_recorded(client, name, now.moves[-1])


def test_a_champion_that_changed_meanwhile_is_not_replaced(client: MlflowClient) -> None:
    name = model(client, versions=3)
    line = "the champion changed from version 1 to version 2 meanwhile; run it again"
    client.set_registered_model_alias(name, "champion", "2")
    with pytest.raises(UserError, match=line):
        promotion.place(client, name, "3", "promoted", "it beats version 1", "1")
    assert promotion.standing(client, name).champion == "2"
    assert tags(client, name, "3") == {}


def test_of_two_processes_that_name_a_champion_one_gives_way(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = model(client, versions=3)
    original = MlflowClient.set_model_version_tag
    others: list[Standing] = []

    def between(self: MlflowClient, *arguments: Any) -> None:
        original(self, *arguments)
        if not others:
            monkeypatch.setattr(MlflowClient, "set_model_version_tag", original)
            others.append(promotion.place(client, name, "3", "by hand", "mine", "1"))

    monkeypatch.setattr(MlflowClient, "set_model_version_tag", between)
    with pytest.raises(UserError, match="run it again"):
        promotion.place(client, name, "2", "promoted", "it is better", "1")
    now = promotion.settle(client, name)
    assert (now.champion, [move.to for move in now.moves]) == ("3", ["1", "3"])
    assert is_recorded(client, name, now.moves[-1])


# --- what is asked -----------------------------------------------------------------------------------


def test_no_champion_is_the_registrys_answer_and_no_model_another(client: MlflowClient) -> None:
    client.create_registered_model(MODEL_NAME)
    assert promotion.standing(client, MODEL_NAME) == Standing(None, None, (), None)
    with pytest.raises(UserError, match="no model other in sqlite:///"):
        promotion.standing(client, "other")


def test_a_registry_that_does_not_answer_is_no_empty_one(client: MlflowClient) -> None:
    name = model(client)
    with losing(0, arrives=False), pytest.raises(Lost):
        client.set_registered_model_tag(name, "a", "b")
        promotion.standing(client, name)
    with losing(-1, arrives=False), pytest.raises(Lost):
        promotion.standing(client, name)
    with losing(-1, arrives=False), pytest.raises(Lost):
        promotion.find(client, name, "1")


def test_a_tag_that_somebody_changed_is_one_line(client: MlflowClient) -> None:
    name = model(client)
    client.set_registered_model_tag(name, "champion_0002", "me")
    with pytest.raises(UserError, match=r"^a tag champion_… of the model is not as it was written \('me'\)"):
        promotion.standing(client, name)


def moves(*steps: tuple[str, str | None, str]) -> tuple[Move, ...]:
    return tuple(
        Move(number, "2026-01-01T00:00:00Z", "a@b", how, before, to, "x")  # type: ignore[arg-type]
        for number, (how, before, to) in enumerate(steps, 1)
    )


@pytest.mark.parametrize(
    ("steps", "champion", "line"),
    [
        ([], None, []),
        ([], "4", ["4"]),
        ([("first", None, "1"), ("promoted", "1", "2")], "2", ["1", "2"]),
        ([("first", None, "1"), ("promoted", "1", "2"), ("rollback", "2", "1")], "1", ["1"]),
        (
            [
                ("first", None, "1"),
                ("promoted", "1", "2"),
                ("promoted", "2", "3"),
                ("rollback", "3", "2"),
                ("promoted", "2", "4"),
            ],
            "4",
            ["1", "2", "4"],
        ),
        ([("first", None, "1"), ("promoted", "1", "2"), ("by hand", "2", "1")], "1", ["1", "2", "1"]),
        # Moved in MLflow itself, back and to another.
        ([("first", None, "1"), ("promoted", "1", "2")], "1", ["1"]),
        ([("first", None, "1"), ("promoted", "1", "2")], "7", ["1", "2", "7"]),
        ([("promoted", "1", "2")], "2", ["1", "2"]),
        ([("first", None, "1"), ("promoted", "1", "2")], None, ["1", "2"]),
    ],
)
def test_the_line_that_a_rollback_goes_back_through(
    steps: list[Any], champion: str | None, line: list[str]
) -> None:
    assert Standing(champion, None, moves(*steps), None).line == line


# --- through the registry ----------------------------------------------------------------------------


def server_champion(server: Server) -> Standing:
    """What the server's own database says, with no server between."""
    uri = f"sqlite:///{server.database}"
    return promotion.standing(MlflowClient(uri, uri), MODEL_NAME)


@pytest.mark.parametrize(
    "call", ["get_registered_model", "set_registered_model_tag", "set_registered_model_alias"]
)
def test_a_server_killed_before_a_call_leaves_the_champion_and_again_promotes(
    project: Project,
    server: Server,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    params = project.params()
    project.make("a", 0.2)
    registry.register(params, "# card")
    project.make("b", 0.1)
    original = getattr(MlflowClient, call)

    def killing(self: MlflowClient, *arguments: Any, **named: Any) -> Any:
        server.kill()
        return original(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, killing)
        with pytest.raises(tracking.Unreachable, match=f"MLflow at {server.uri} does not answer"):
            registry.register(params, "# card")
    after = server_champion(server)
    assert (after.champion, [move.to for move in after.moves]) == ("1", ["1"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{server.database}")
    assert registry.register(params, "# card").alias == "champion"
    now = server_champion(server)
    assert (now.champion, [move.to for move in now.moves], now.intended) == ("2", ["1", "2"], None)
