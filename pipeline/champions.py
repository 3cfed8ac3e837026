"""What a person does about the champion: promote by hand, roll back, look at who was."""

import re
from dataclasses import dataclass
from typing import Any

from pix2pix.errors import UserError

from . import delivery, promotion, tracking

MAX_REASON = 500


def promote(name: str, version: str, because: str) -> promotion.Standing | None:
    """Make a version champion whatever the gate says; None where it is already.

    Raises:
        UserError: no such version, its file cannot be had, no reason, or the store cannot be reached.
    """
    because = reason_given(because)
    if not re.fullmatch("[0-9]{1,9}", version):
        raise UserError(f"{version!r}: is no version; give the number that `make ui` shows")
    version = str(int(version))
    tracking.refuse_missing(name)
    with tracking.reachable() as mlflow:
        client = mlflow.MlflowClient()
        now = promotion.settle(client, name)
        if promotion.find(client, name, version) is None:
            raise UserError(f"{name} has no version {version}; `make ui` shows those it has")
        if now.champion == version:
            return None
        # What cannot be pulled must not be what everybody pulls.
        delivery.pull(f"models:/{name}/{version}")
        return promotion.place(client, name, version, "by hand", because, now.champion)


def rollback(name: str, because: str = "") -> promotion.Standing:
    """Give the place back to the champion before; again, to the one before that.

    Versions that were deleted are passed over. The gate does not undo it: a version that was champion gets
    the place back only by a person.

    Raises:
        UserError: there is no champion, or none before it, its file cannot be had, or the store cannot be
            reached.
    """
    tracking.refuse_missing(name)
    with tracking.reachable() as mlflow:
        client = mlflow.MlflowClient()
        now = promotion.settle(client, name)
        if now.champion is None:
            raise UserError(f"{name} has no champion; `pix2pix promote VERSION --because …` names one")
        target = predecessor(client, name, now)
        if target is None:
            raise UserError(
                f"{name}: version {now.champion} is the champion and none before it is left to go back to; "
                "`pix2pix promote VERSION --because …` names any other"
            )
        delivery.pull(f"models:/{name}/{target}")
        reason = reason_given(because) if because.strip() else f"back from version {now.champion}"
        return promotion.place(client, name, target, "rollback", reason, now.champion)


def predecessor(client: Any, name: str, now: promotion.Standing) -> str | None:
    """The version that a rollback would go to; None where there is none."""
    passed = reversed([version for version in now.line[:-1] if version != now.champion])
    return next((version for version in passed if promotion.find(client, name, version) is not None), None)


def reason_given(because: str) -> str:
    """A person's --because as one line; raises UserError where it is empty or longer than MAX_REASON."""
    because = " ".join(because.split())
    if not because:
        raise UserError("--because: is empty; say why, it is kept with the version")
    if len(because) > MAX_REASON:
        raise UserError(f"--because: has {len(because)} characters; at most {MAX_REASON} are kept")
    return because


# --- what was ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reign:
    """A version's time as champion.

    Attributes:
        move: how it began; None for an alias that was moved in MLflow itself.
        until: when the next began; None for the present champion, or where nobody wrote it down.
        metrics: the version's own, as it was registered; empty where they are gone.
        features: the name of the extractor that measured them.
    """

    version: str
    move: promotion.Move | None
    until: str | None
    is_champion: bool
    metrics: dict[str, float]
    features: str


def history(name: str) -> list[Reign]:
    """Every champion that the model has had, the oldest first. Changes nothing.

    Raises:
        UserError: no such model, or the store cannot be reached.
    """
    tracking.refuse_missing(name)
    with tracking.reachable() as mlflow:
        client = mlflow.MlflowClient()
        now = promotion.standing(client, name)
        begun: list[tuple[str, promotion.Move | None]] = []
        for move in now.moves:
            if move.before is not None and (not begun or begun[-1][0] != move.before):
                begun.append((move.before, None))
            begun.append((move.to, move))
        if now.champion is not None and (not begun or begun[-1][0] != now.champion):
            begun.append((now.champion, None))
        measured = {version: _measured(client, name, version) for version, _ in begun}
        ends = [later.at if later else None for _, later in begun[1:]]
        reigns = []
        for index, (version, beginning) in enumerate(begun):
            is_last = index == len(begun) - 1
            reigns.append(
                Reign(
                    version,
                    beginning,
                    None if is_last else ends[index],
                    is_last and version == now.champion,
                    *measured[version],
                )
            )
        return reigns


def _measured(client: Any, name: str, version: str) -> tuple[dict[str, float], str]:
    known = promotion.find(client, name, version)
    measurement = promotion.read_measurement(known.tags.get("metrics", "")) if known is not None else {}
    features = measurement.get("features")
    model = measurement.get("model")
    return (
        dict(model) if isinstance(model, dict) else {},
        str(features.get("name", "")) if isinstance(features, dict) else "",
    )
