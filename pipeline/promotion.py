"""Who is champion, who was and why: the alias moves all or nothing, and the log keeps what aliases forget.

A move is written in this order: the intention (a tag on the model), the same record on both versions, the
alias, the log's entry, and the intention is taken away. Until the alias has moved the old champion serves;
once it has, everything that is said of the move is already there. What a failure leaves is completed or taken
back by `settle`, with which every next command begins.
"""

import getpass
import json
import os
import re
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pix2pix.errors import UserError

from . import tracking

CHAMPION, CHALLENGER = "champion", "challenger"
INTENDED = "champion_intended"
# Four digits, so that the pages that sort tags by name show them in order.
_ENTRY = re.compile(r"champion_[0-9]{4,}")

How = Literal["first", "promoted", "approved", "by hand", "rollback"]


@dataclass(frozen=True)
class Move:
    """A change of champion.

    Attributes:
        number: counts the moves of a model from 1.
        at: UTC, as 2026-11-23T03:04:05Z.
        by: user@host, or what a person wrote into Prefect's page.
        how: first and promoted are the gate's; approved is a person's yes to that; by hand and rollback are
            a person's alone.
        before: the version that was champion; None where there was none.
        to: the version that became champion.
    """

    number: int
    at: str
    by: str
    how: How
    before: str | None
    to: str
    because: str

    @property
    def key(self) -> str:
        """The tag that holds this move, on the model and on both versions."""
        return f"champion_{self.number:04d}"

    @property
    def text(self) -> str:
        """The value of that tag."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def read(cls, text: str) -> "Move":
        """The move that a tag holds.

        Raises:
            UserError: the tag was changed by something else.
        """
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError):
            raise UserError(
                f"a tag champion_… of the model is not as it was written ({text[:60]!r}); "
                "mend or remove it in MLflow"
            ) from None


class NoModel(UserError):
    """The registry says that it has no such model."""


@dataclass(frozen=True)
class Standing:
    """A registered model's aliases and log as one answer of the registry.

    Attributes:
        moves: what was carried out, the oldest first.
        intended: a move that a failure stopped before it was complete, also where the alias has moved.
    """

    champion: str | None
    challenger: str | None
    moves: tuple[Move, ...]
    intended: Move | None

    @property
    def line(self) -> list[str]:
        """The champions that a rollback goes back through; the present one is the last.

        A promotion adds one, a rollback takes away those above where it went. An alias that was moved
        in MLflow itself counts as a rollback where it went back to one of these, else as a promotion.
        """
        line: list[str] = []
        for move in self.moves:
            _stand(line, move.before)
            if move.how == "rollback":
                _stand(line, move.to)
            else:
                line.append(move.to)
        _stand(line, self.champion)
        return line

    def was_champion(self, version: str) -> bool:
        """Whether the log knows the version as champion, present or past."""
        return any(version in (move.to, move.before) for move in self.moves)


def _stand(line: list[str], version: str | None) -> None:
    """Make `version` the last in the line."""
    if version is None or line[-1:] == [version]:
        return
    if version in line:
        while line[-1] != version:
            line.pop()
    else:
        line.append(version)


def standing(client: Any, name: str) -> Standing:
    """Ask the registry. That there is no champion is its answer, never the lack of one.

    Raises:
        NoModel: there is no such model.
        MlflowException: the registry does not answer; `tracking.reachable` turns it into a line.
    """
    from mlflow.exceptions import MlflowException

    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise NoModel(
            f"no model {name} in {tracking.store_name()}; `make repro` registers one, or name another"
        ) from None
    # A database gives the version as a number, a server as text.
    aliases = {alias: str(version) for alias, version in model.aliases.items()}
    tags: dict[str, str] = model.tags
    moves = [Move.read(value) for key, value in tags.items() if _ENTRY.fullmatch(key)]
    intended = Move.read(tags[INTENDED]) if INTENDED in tags else None
    champion = aliases.get(CHAMPION)
    if intended and intended.to == champion and intended not in moves:
        # Only the bookkeeping is missing: the alias decides what was carried out.
        moves.append(intended)
    in_order = tuple(sorted(moves, key=lambda move: move.number))
    return Standing(champion, aliases.get(CHALLENGER), in_order, intended)


def settle(client: Any, name: str) -> Standing:
    """Complete a move whose alias has moved, take back one whose alias has not, and return what stands."""
    now = standing(client, name)
    if now.intended is None:
        return now
    if now.intended.to == now.champion:
        _complete(client, name, now)
    else:
        _take_back(client, name, now, now.intended)
        client.delete_registered_model_tag(name, INTENDED)
    return standing(client, name)


def _take_back(client: Any, name: str, now: Standing, move: Move) -> None:
    """Leave on both versions what the log says under the number of a move that was not carried out."""
    carried_out = next((other for other in now.moves if other.key == move.key), None)
    for version in (move.to, move.before):
        known = find(client, name, version) if version is not None else None
        if known is None or known.tags.get(move.key) != move.text:
            continue
        if carried_out is not None and version in (carried_out.to, carried_out.before):
            client.set_model_version_tag(name, version, move.key, carried_out.text)
        else:
            client.delete_model_version_tag(name, version, move.key)


def _complete(client: Any, name: str, now: Standing) -> None:
    assert now.intended is not None
    if now.challenger == now.champion:
        client.delete_registered_model_alias(name, CHALLENGER)
    client.set_registered_model_tag(name, now.intended.key, now.intended.text)
    client.delete_registered_model_tag(name, INTENDED)


def place(
    client: Any, name: str, version: str, how: How, because: str, before: str | None, by: str = ""
) -> Standing:
    """Make a version champion, or leave everything as it was.

    Args:
        before: who was champion when this was decided.
        by: who decided; empty for whoever runs this.

    Raises:
        UserError: another process has made another version champion meanwhile.
    """
    was = settle(client, name)
    number = max((move.number for move in was.moves), default=0) + 1
    move = Move(number, _now(), by or who(), how, before, version, because)
    _refuse_change(name, was, before)
    client.set_registered_model_tag(name, INTENDED, move.text)
    for bearer in (version, before):
        if bearer is not None:
            client.set_model_version_tag(name, bearer, move.key, move.text)
    now = standing(client, name)
    if now.champion != before or now.intended != move:
        _take_back(client, name, now, move)
        _refuse_change(name, now, before)
        raise UserError(f"{name}: another process is naming a champion; run it again")
    client.set_registered_model_alias(name, CHAMPION, version)
    return settle(client, name)


def _refuse_change(name: str, now: Standing, before: str | None) -> None:
    if now.champion != before:
        raise UserError(
            f"{name}: the champion changed from {_named(before)} to {_named(now.champion)} meanwhile; "
            "run it again"
        )


def _named(version: str | None) -> str:
    return "none" if version is None else f"version {version}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def who() -> str:
    """Who runs this: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container may run as a number that has no name.
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def find(client: Any, name: str, version: str) -> Any | None:
    """A version of the model; None where the registry says that there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def read_measurement(tag: str) -> dict[str, Any]:
    """The measurement that a version's tag holds; an empty one where it holds none."""
    try:
        found = json.loads(tag)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
