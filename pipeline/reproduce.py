"""`pix2pix reproduce`: a version's file once more, from its commit, and the proof that it is the same."""

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

from ruamel.yaml import YAML

from pix2pix.errors import UserError
from pix2pix.files import atomic_file, sha256_file
from pix2pix.params import PARAMS_FILE, read_yaml

from . import commits, delivery, lineage, promotion, tracking, workspace
from .commits import COMMIT_TAG
from .registry import WARM_START_TAG, version_of
from .repro import StageFailed
from .stage_process import TRAIN, StageProcesses
from .workspace import Workspace

ONNX, WEIGHTS = Path("models/generator.onnx"), Path("models/generator.safetensors")
EXPORT = "export"
_MACHINE = {"cpu": "CPU", "cpu_count": "cores", "python": "Python", "torch": "torch"}

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """A version as the registry describes it.

    Attributes:
        commit: what it was made from, in full.
        tags: the version's own.
        machine: where it was trained: of `lineage.machine`, what is known.
    """

    name: str
    version: str
    commit: str
    tags: Mapping[str, str]
    machine: Mapping[str, str]

    @property
    def onnx_sha256(self) -> str:
        """The registered digest."""
        return self.tags["onnx_sha256"]

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


@dataclass(frozen=True)
class Reproduced:
    """What was proven.

    Attributes:
        how: in words, such as `restored from the cache`.
        files: what was handed over.
    """

    wanted: Wanted
    how: str
    files: Sequence[Path]


def reproduce(name: str, version: str, to: Path | None, rerun: bool, tell: Tell) -> Reproduced:
    """Get or make a version's ONNX file in a worktree of its commit, and compare its digest.

    It is taken from the DVC cache or pulled from the remote; what neither has is trained again. Registry and
    tree are left as they are; a training that was interrupted goes on from its checkpoint.

    Args:
        to: a folder, which gets both files of the generator.
        rerun: train again also what could be restored.
        tell: gets the lines of what goes on, those of the stages among them.

    Raises:
        UserError: no such version, no commit that it could be made from, or what came out is another file.
        StageFailed: a stage failed by a bug or was ended; its lines were told.
    """
    if to is not None and to.exists() and not to.is_dir():
        raise UserError(f"{to}: is a file; --to takes a folder")
    wanted = _ask(name, version)
    _refuse_another(wanted)
    with (
        _terminated_in_order(),
        workspace.detached(f"reproduce-{wanted.version}-{os.getpid()}", wanted.commit) as made,
    ):
        files = [ONNX] if to is None else [ONNX, WEIGHTS]
        where = None if rerun or not _has_results(wanted) else _restore(made, files, tell)
        how = f"restored from {where}"
        if where and not _is_same(made, wanted, files):
            tell(f"what {where} holds is not the registered file; it is made again")
            where = None
        if where is None:
            how = _make(made, wanted, tell)
        return Reproduced(wanted, how, [] if to is None else _hand_over(made, files, to))


def commit_of(tags: Mapping[str, str]) -> str | None:
    """The commit that a version can be made from, as its tags say; None where none is known.

    A scheduled run names its own. For any other it is the one that has its results, or else the one that was
    checked out, unless the tree had changes.
    """
    if commit := with_results(tags):
        return commit
    return tags.get("git_commit") if tags.get("git_dirty") == "false" else None


def with_results(tags: Mapping[str, str]) -> str | None:
    """The commit whose dvc.lock and reports are a version's; None where none is known."""
    digest = tags.get("onnx_sha256")
    return tags.get(COMMIT_TAG) or (commits.with_results(digest) if digest else None)


def _ask(name: str, version: str) -> Wanted:
    tracking.refuse_missing(name)
    number = str(int(version)) if version.isascii() and version.isdecimal() and len(version) < 10 else ""
    if not number:
        raise UserError(f"{version!r}: is no version; give the number that `make ui` shows")
    with tracking.reachable() as mlflow:
        client = mlflow.MlflowClient()
        found = promotion.find(client, name, number)
        if found is None:
            raise UserError(f"{name} has no version {number}; `make ui` shows those it has")
        machine = {**found.tags, **_tags_of_run(client, found.run_id)}
    if not found.tags.get("onnx_sha256"):
        raise UserError(f"{name} version {number}: has no tag onnx_sha256 to compare with")
    commit = commit_of(found.tags)
    if commit is None:
        raise UserError(
            f"{name} version {number}: was registered from a tree with changes, and no commit here has its "
            "reports/export.json; only what is committed can be made again"
        )
    if not commits.exists(commit):
        raise UserError(
            f"{name} version {number}: its commit {commit[:12]} is not in this clone; "
            "fetch it from the one that trained it"
        )
    known = {key: machine[key] for key in _MACHINE if key in machine}
    return Wanted(name, number, commit, found.tags, known)


def _tags_of_run(client: Any, run_id: str | None) -> Mapping[str, str]:
    """The tags of the training; none where its run was deleted for good."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return {}
    try:
        tags: Mapping[str, str] = client.get_run(run_id).data.tags
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    return tags


def _has_results(wanted: Wanted) -> bool:
    """Whether what the commit's dvc.lock names is the version's own, not an earlier one's."""
    return wanted.commit == with_results(wanted.tags)


def _refuse_another(wanted: Wanted) -> None:
    """Raises UserError where a run's commit describes another file: no training could help."""
    # A commit that was only checked out may have the results of an earlier one.
    if wanted.commit != wanted.tags.get(COMMIT_TAG):
        return
    found = commits.exported_by(wanted.commit)
    if found and found != wanted.onnx_sha256:
        raise UserError(
            f"{wanted}: its commit {wanted.commit[:12]} describes another generator "
            f"({commits.EXPORT_REPORT} names {found[:12]}, the registry {wanted.onnx_sha256[:12]})"
        )


# --- restored ----------------------------------------------------------------------------------------


def _restore(made: Workspace, files: Sequence[Path], tell: Tell) -> str | None:
    """Where these outputs came from; None where neither the cache nor the remote has them all."""
    targets = [file.as_posix() for file in files]

    def done(command: str) -> str:
        ended = made.dvc(command, "--force", *targets, check=False)
        if ended.returncode == 0 and all((made.root / file).exists() for file in files):
            return ""
        lines = [line.removeprefix("ERROR: ") for line in ended.stderr.splitlines() if "ERROR: " in line]
        return lines[0] if lines else "incomplete"

    if not done("checkout"):
        return "the cache"
    if not workspace.has_remote(made):
        return None
    tell(f"pulling {', '.join(targets)} from the DVC remote")
    objection = done("pull")
    if objection:
        tell(f"the DVC remote does not give it: {objection}")
    return None if objection else "the DVC remote"


def _is_same(made: Workspace, wanted: Wanted, files: Sequence[Path]) -> bool:
    registered = {ONNX: wanted.onnx_sha256, WEIGHTS: wanted.tags.get("weights_sha256")}
    return all(registered[file] in (None, sha256_file(made.root / file)) for file in files)


# --- made again --------------------------------------------------------------------------------------


def _make(made: Workspace, wanted: Wanted, tell: Tell) -> str:
    """Train and export; the data may be restored. What is proven is put into the cache.

    Raises:
        UserError: the data is another, or the file that came out is; or nothing was trained.
        StageFailed: as `reproduce`.
    """
    if imported := wanted.tags.get(tracking.IMPORTED_TAG):
        raise UserError(
            f"{wanted}: has imported weights (SHA-256 {imported[:12]}), which no training makes; "
            "`pix2pix import` takes them in again"
        )
    begun, has_results = monotonic(), _has_results(wanted)
    _set_apart(made)
    graph = made.graph(EXPORT)
    before = _before(graph, TRAIN)
    stages, ran = StageProcesses(made.root), list[str]()

    def make(stage: str) -> None:
        if stage in ran:
            return
        if has_results and stage in before and _restore(made, _outputs(made, stage), tell):
            return
        for needed in sorted(graph[stage]):
            make(needed)
        if stage == TRAIN:
            _refuse_other_data(made, wanted)
            deliver_start(wanted)
        _run(stages, stage, force=stage not in before, tell=tell)
        ran.append(stage)

    make(EXPORT)
    if not _is_same(made, wanted, [ONNX]):
        raise UserError(
            f"{wanted}: trained again from commit {wanted.commit[:12]}, {ONNX} has SHA-256 "
            f"{sha256_file(made.root / ONNX)[:12]}, registered is {wanted.onnx_sha256[:12]}; "
            f"{_differences(wanted.machine)}"
        )
    made.dvc("commit", "--force", *ran)
    minutes, seconds = divmod(round(monotonic() - begun), 60)
    return f"trained again in {minutes} min {seconds} s" if minutes else f"trained again in {seconds} s"


def _set_apart(made: Workspace) -> None:
    """Let nothing of this be tracked, and find a source that git does not have where it was found.

    The commit's own code reads these parameters, and its keys may be others than ours.
    """
    yaml, file = YAML(), made.root / PARAMS_FILE
    values = yaml.load(file.read_text(encoding="utf-8"))
    values["run"]["tracking"] = False
    source = Path(os.path.expanduser(values["dataset"]["source"]))  # noqa: PTH111
    if not source.is_absolute() and not (made.root / source).exists():
        values["dataset"]["source"] = str(lineage.home() / source)
    with file.open("w", encoding="utf-8") as written:
        yaml.dump(values, written)


def _before(graph: Mapping[str, set[str]], stage: str) -> set[str]:
    """All that a stage needs, by way of others too."""
    return set[str]().union(*({needed} | _before(graph, needed) for needed in graph[stage]))


def _outputs(made: Workspace, stage: str) -> list[Path]:
    """What DVC's cache keeps of a stage."""
    outs = read_yaml(made.root / "dvc.yaml")["stages"][stage].get("outs", [])
    return [Path(out) for out in outs if isinstance(out, str)]


def _refuse_other_data(made: Workspace, wanted: Wanted) -> None:
    report, registered = made.root / "reports" / "data.json", wanted.tags.get("data_sha256")
    here = tracking.read_json(report)["splits"]["train"]["sha256"]
    if registered and here != registered:
        raise UserError(
            f"{wanted}: was trained on other pairs (SHA-256 {registered[:12]}) than dataset.source "
            f"gives now ({here[:12]}), and neither the cache nor a DVC remote has them"
        )


def deliver_start(wanted: Wanted) -> None:
    """Get the generator that the training began with into the cache, where the stage looks for it."""
    digest = wanted.tags.get(WARM_START_TAG)
    if not digest:
        return
    with tracking.reachable() as mlflow:
        version = version_of(mlflow.MlflowClient(), wanted.name, digest)
    if version is None:
        raise UserError(
            f"{wanted}: its training began with the weights of {digest[:12]}…, "
            f"which {wanted.name} has no version of any more"
        )
    delivery.pull(f"models:/{wanted.name}/{version}")


def _run(stages: StageProcesses, stage: str, force: bool, tell: Tell) -> None:
    def say(line: str) -> None:
        # How it ended is said once, by us.
        if not line.startswith(("ERROR: ", "error: ")):
            tell(line)

    # A file that would come out otherwise must not be what the next `dvc repro` restores.
    ended = stages.run(stage, say, force=force, commit=False, timeout_s=threading.TIMEOUT_MAX)
    if ended.status in (2, 3):
        mistake = UserError(f"{stage}: {ended.line.removeprefix(f'{stage}: ')}")
        mistake.exit_status = ended.status
        raise mistake
    if ended.status:
        tell(ended.line)
        raise StageFailed(ended.status)


def _differences(there: Mapping[str, str]) -> str:
    """What is known to decide bits and is not here as it was there."""
    here = lineage.machine()
    found = [
        f"{label} {there[key]} there, {here[key]} here"
        for key, label in _MACHINE.items()
        if key in there and there[key] != here[key]
    ]
    if found:
        return "; ".join(found)
    missing = [label for key, label in _MACHINE.items() if key not in there]
    if missing:
        return f"bits are the same on one kind of CPU only, and of there is not known: {', '.join(missing)}"
    return f"{', '.join(_MACHINE.values())} are the same; a GPU or another package may not be"


@contextmanager
def _terminated_in_order() -> Iterator[None]:
    """Let a SIGTERM end the stage and remove the worktree first, as Ctrl-C does."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _hand_over(made: Workspace, files: Sequence[Path], to: Path) -> list[Path]:
    handed = [to / file.name for file in files]
    for file, target in zip(files, handed, strict=True):
        with atomic_file(target) as partial:
            shutil.copyfile(made.root / file, partial)
    return handed
