"""`pix2pix gc`: what nobody needs any more, and how it goes.

Versions decide: those that stay are the champion, the champions that a rollback reaches, whatever has an
alias or waits for approval, the newest, and what a deployment's next run compares itself with. Their commits
are pinned, and DVC itself says (`dvc gc --dry`) what is needed by neither those commits, nor the tips of
retrain/…, nor the workspace, nor any commit of the user's own branches, tags and experiments.

The branches retrain/… are left as they are: a commit there is some kilobytes and an ancestor of the next, so
none could go without taking the names of later ones along, which the versions bear. What is let go of are
the pins of versions that are gone; once somebody has deleted a branch, git then clears its commits away. A
DVC remote is never touched.

What does not answer is no reason to remove anything: all is looked at before the first thing goes, and while
a run is in progress only what no run can use goes.
"""

import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from pix2pix.errors import UserError

from . import champions, commits, lineage, promotion, reproduce, tracking, workspace
from .commits import COMMIT_TAG
from .promotion import Standing
from .registry import HELD, WARM_START_TAG, model_id_of
from .workspace import Standstill, Workspace

log = logging.getLogger(__name__)

# A scheduled run that was killed goes on from its checkpoint the next time, which may be next week.
STALE_DAYS = 14
# How `dvc gc --dry` names a file, and a dvc.lock what it has seen.
_REMOVING = re.compile(r"^Removing (/.+)$", re.MULTILINE)
_MD5 = re.compile(r"\bmd5: ([0-9a-f]{32}(?:\.dir)?)")


@dataclass(frozen=True)
class Part:
    """One kind of what can go.

    Attributes:
        bytes: what the files take.
        skipped: why nothing of this kind goes now; empty where it does.
        which: of them, where each has a number: `versions 1, 2, 4 to 7`.
        stay: where each has a number, a line for every reason: `version 3  the champion`.
    """

    name: str
    count: int
    bytes: int
    skipped: str = ""
    which: str = ""
    stay: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Kind:
    part: Part
    remove: Callable[[], None]


def look(name: str, keep: int) -> list[Part]:
    """What can go. Removes nothing.

    Args:
        name: the model whose versions are thinned; those of all others stay.
        keep: how many of the newest versions, and of champions before the present one, stay.

    Raises:
        UserError: no git repository, no such model, or the store cannot be reached.
    """
    with workspace.standstill() as still:
        _, kinds = _survey(name, keep, still)
        return [kind.part for kind in kinds]


def clear(name: str, keep: int) -> list[Part]:
    """Remove what `look` shows; return what went.

    Raises:
        UserError: as `look`, and then nothing has gone; or a store would not remove something.
    """
    with workspace.standstill() as still:
        needed, kinds = _survey(name, keep, still)
        commits.pin(needed)
        for kind in kinds:
            if kind.part.count:
                kind.remove()
        return [kind.part for kind in kinds]


def _survey(name: str, keep: int, still: Standstill) -> tuple[set[str], list[_Kind]]:
    """The commits of the versions that stay, and what can go in the order in which it goes."""
    tracking.refuse_missing(name)
    with tracking.reachable() as mlflow:
        client = mlflow.MlflowClient()
        kept, dropped, why = _versions(client, name, keep)
        sizes = [_size(client, version) for version in dropped]
    known = {commit for version in kept if (commit := reproduce.commit_of(version.tags))}
    # Of a team's versions this clone has its own commits only.
    needed = {commit for commit in known if commits.exists(commit)}
    unheld = [f"{version.name} version {version.version}" for version in kept if _is_unheld(version.tags)]
    unneeded = commits.pinned() - needed
    stale = _stale_checkpoints()
    busy = f"a run is in progress ({still.living[0].name})" if still.living else ""
    lost = (
        f"no commit here has the results of {unheld[0]}; commit or fetch them, or delete it" if unheld else ""
    )
    versions = _kind("MLflow versions", sizes, lambda: _remove_versions(name, dropped, keep), busy)
    if not busy:
        which, stay = _numbered([int(version.version) for version in dropped]), tuple(_reasons(why))
        versions = replace(versions, part=replace(versions.part, which=which, stay=stay))
    kinds = [
        _kind("crashed runs' worktrees", [_bytes(path) for path in still.crashed], still.remove_crashed),
        _kind("stale checkpoints", [_bytes(path) for path in stale], lambda: _remove_checkpoints(stale)),
        versions,
        _kind("commits of no version", [0] * len(unneeded), lambda: commits.unpin(unneeded), busy),
        _cache(needed, busy or lost),
    ]
    return needed, kinds


def _is_unheld(tags: Mapping[str, str]) -> bool:
    """Whether a version's files may be in this clone's cache with nothing that names them."""
    digest = tags.get("onnx_sha256")
    if not digest or reproduce.with_results(tags):
        return False
    # The tree's own are kept, committed or not; another clone's are not here.
    report = lineage.home() / commits.EXPORT_REPORT
    is_in_tree = report.exists() and tracking.read_json(report).get("onnx_sha256") == digest
    return not is_in_tree and commits.exists(tags.get("git_commit", "HEAD"))


def _kind(name: str, sizes: Sequence[int], remove: Callable[[], None], skipped: str = "") -> _Kind:
    return _Kind(Part(name, 0, 0, skipped) if skipped else Part(name, len(sizes), sum(sizes)), remove)


def _numbered(numbers: Sequence[int]) -> str:
    """Rising numbers of versions, three or more that follow each other as `4 to 7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    said = ", ".join(
        f"{first} to {last}" if last > first + 1 else ", ".join(map(str, sorted({first, last})))
        for first, last in runs
    )
    return f"version{'s' if len(numbers) > 1 else ''} {said}" if numbers else ""


def _reasons(why: Mapping[str, str]) -> list[str]:
    """The versions that stay, together where the reason is the same."""
    together: dict[str, list[int]] = {}
    for version, reason in why.items():
        together.setdefault(reason, []).append(int(version))
    named = {_numbered(sorted(numbers)): reason for reason, numbers in together.items()}
    width = max(map(len, named), default=0)
    return [f"{numbers:{width}}  {reason}" for numbers, reason in named.items()]


def _bytes(path: Path) -> int:
    if not path.is_dir():
        # What somebody has removed meanwhile takes nothing.
        return path.lstat().st_size if path.exists() else 0
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())


# --- checkpoints -------------------------------------------------------------------------------------


def _stale_checkpoints() -> list[Path]:
    """Of trainings that nobody has gone on with for a long time."""
    oldest = time.time() - STALE_DAYS * 24 * 3600
    folders = (path for path in (lineage.home() / ".checkpoints").glob("*") if path.is_dir())
    return [
        path for path in sorted(folders) if _touched(path) < oldest and not workspace.is_held(path / "lock")
    ]


def _touched(folder: Path) -> float:
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))


def _remove_checkpoints(folders: Iterable[Path]) -> None:
    for folder in folders:
        # A training may have begun meanwhile.
        with suppress(Timeout), FileLock(folder / "lock").acquire(timeout=0):
            shutil.rmtree(folder, ignore_errors=True)


# --- versions ----------------------------------------------------------------------------------------


def staying(
    now: Standing,
    aliases: Mapping[str, str],
    tags: Mapping[str, Mapping[str, str]],
    tips: Container[str],
    keep: int,
) -> dict[str, str]:
    """The versions of a model that stay, each with its first reason.

    Args:
        now: its champions.
        aliases: the version that has each.
        tags: of every version there is.
        tips: the commits that the deployments' next runs begin with.
        keep: at least 1.
    """
    line = [version for version in now.line if version in tags]
    # What a rollback went away from is in that line no more, but a rollback may have been the mistake.
    replaced = {move.before for move in now.moves[-keep:]} & tags.keys()
    newest = sorted(tags, key=int, reverse=True)[:keep]
    moving = {now.intended.to, now.intended.before} if now.intended else set()
    reasons: list[tuple[str, Iterable[str | None]]] = [
        ("the champion", [now.champion]),
        ("the challenger", [now.challenger]),
        ("a move of the champion was interrupted", moving),
        *((f"has the alias {alias}", [version]) for alias, version in aliases.items()),
        ("waits for a yes", _tagged(tags, lambda known: known.get("decision_kind") == HELD)),
        ("within reach of a rollback", line[-keep - 1 :]),
        ("was champion until lately", replaced),
        (f"among the newest {keep}" if keep > 1 else "the newest", newest),
        (
            "what a deployment's next run compares itself with",
            _tagged(tags, lambda known: known.get(COMMIT_TAG) in tips),
        ),
        ("registered by something else", _tagged(tags, lambda known: "onnx_sha256" not in known)),
    ]
    stay: dict[str, str] = {}
    for reason, versions in reasons:
        for version in versions:
            if version is not None:
                stay.setdefault(version, reason)
    # What a training began with is needed to make its generator again.
    starts = {
        tags[version][WARM_START_TAG] for version in stay.keys() & tags if WARM_START_TAG in tags[version]
    }
    for version in _tagged(tags, lambda known: known.get("onnx_sha256") in starts):
        stay.setdefault(version, "the warm start of one that stays")
    return stay


def _tagged(
    tags: Mapping[str, Mapping[str, str]], is_meant: Callable[[Mapping[str, str]], bool]
) -> list[str]:
    return [version for version, known in tags.items() if is_meant(known)]


def _versions(client: Any, name: str, keep: int) -> tuple[list[Any], list[Any], dict[str, str]]:
    """Those that stay, of every model; those of this one that can go; and why its others do not."""
    now = promotion.standing(client, name)
    everything = _all_versions(client)
    own = {str(version.version): version for version in everything if version.name == name}
    aliases = {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
    stay = staying(
        now, aliases, {number: version.tags for number, version in own.items()}, commits.tips(), keep
    )
    # Here, too: a version that a rollback would return to, whatever the above comes to mean.
    if before := champions.predecessor(client, name, now):
        stay.setdefault(before, "within reach of a rollback")
    dropped = [own[number] for number in sorted(own, key=int) if number not in stay]
    gone = {id(version) for version in dropped}
    why = {number: reason for number, reason in stay.items() if number in own}
    return [version for version in everything if id(version) not in gone], dropped, why


def _all_versions(client: Any) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _size(client: Any, version: Any) -> int:
    """Bytes of a version's files in the store; 0 where they are gone."""
    from mlflow.exceptions import MlflowException

    def below(path: str | None) -> int:
        listed = client.list_logged_model_artifacts(model_id, path)
        return sum(below(entry.path) if entry.is_dir else entry.file_size or 0 for entry in listed)

    model_id = model_id_of(version)
    try:
        return below(None) if model_id else 0
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return 0


def _remove_versions(name: str, dropped: Iterable[Any], keep: int) -> None:
    """The versions with their files; their runs stay, whose curves later ones are set against."""
    with tracking.reachable() as mlflow:
        client = mlflow.MlflowClient()
        for version in dropped:
            # A team's registry goes on meanwhile: it may have become champion.
            kept, still, _ = _versions(client, name, keep)
            if version.version not in {other.version for other in still}:
                log.warning("%s version %s is needed by now and stays", name, version.version)
                continue
            client.delete_model_version(name, version.version)
            model_id = model_id_of(version)
            # A version may be a copy of another and share its files.
            in_use = {other.source for other in kept}
            if model_id and not {version.source, f"models:/{name}/{version.version}"} & in_use:
                _remove_files(client, name, version, model_id)


def _remove_files(client: Any, name: str, version: Any, model_id: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        location = client.get_logged_model(model_id).artifact_location
        get_artifact_repository(location).delete_artifacts()  # type: ignore[no-untyped-call]
        client.delete_logged_model(model_id)
    except (MlflowException, OSError) as error:
        if isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return
        raise UserError(
            f"{name} version {version.version}: is removed, but its files are not ({tracking.reason(error)})"
        ) from error


# --- DVC's cache -------------------------------------------------------------------------------------


def _cache(needed: Iterable[str], busy: str) -> _Kind:
    main = Workspace(lineage.home(), "", "")
    runs = (main.root / workspace.FOLDER).resolve()
    others = [path for path in commits.worktrees() if not path.resolve().is_relative_to(runs)]
    skipped = busy or _why_not(main.root, others)
    try:
        unused = [] if skipped else _unused(main, others, [*commits.of_the_user(), *commits.tips(), *needed])
    except UserError as error:
        # Such as an old commit whose dvc.yaml it cannot read, and so cannot keep anything for.
        unused, skipped = [], str(error)

    def remove() -> None:
        if why := _why_not(main.root, others):
            raise UserError(f"DVC's cache is left: {why}")
        for path in unused:
            path.unlink(missing_ok=True)

    return _kind("DVC cache", [_bytes(path) for path in unused], remove, skipped)


def _unused(main: Workspace, others: Sequence[Path], revisions: Sequence[str]) -> list[Path]:
    """The files of the cache that `dvc gc` would remove, but for the small reports.

    git has those, so DVC counts them as unused; but a run that lacks one is not restored but trained again.
    """
    tip, count = commits.chain(revisions)
    kept = ["--workspace", *(["--rev", tip, "--num", str(count)] if count else [])]
    projects = ["--projects", *map(str, others)] if others else []
    said = main.dvc("gc", "--dry", "--force", *kept, *projects)
    paths = [Path(path) for path in _REMOVING.findall(said.stdout + said.stderr)]
    locks = [root / "dvc.lock" for root in (main.root, *others)]
    texts = [lock.read_text(encoding="utf-8") for lock in locks if lock.exists()]
    named = set(_MD5.findall("".join([*texts, *commits.locks(tip)])))
    return [path for path in paths if path.parent.name + path.name not in named]


def _why_not(home: Path, others: Sequence[Path]) -> str:
    """Why DVC's cache must not be cleared now; empty where it may."""
    from dvc.config import Config

    own = home / ".dvc"
    place = Config(dvc_dir=str(own))["cache"].get("dir")
    if place and not Path(place).resolve().is_relative_to(own.resolve()):
        return f"cache.dir is {place}, which other projects may use; see `dvc gc --projects`"
    for root in (home, *others):
        for file in (root / ".dvc" / "tmp").rglob("rwlock"):
            if pids := _working(file):
                return f"dvc is at work in {root} (process {pids[0]})"
    return ""


def _working(rwlock: Path) -> list[int]:
    """The living processes that DVC has noted as using files of a workspace."""
    try:
        noted = json.loads(rwlock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    users = [
        *noted.get("write", {}).values(),
        *(user for users in noted.get("read", {}).values() for user in users),
    ]
    return [user["pid"] for user in users if _lives(user["pid"])]


def _lives(pid: int) -> bool:
    with suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
