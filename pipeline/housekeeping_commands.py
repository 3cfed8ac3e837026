"""The commands that keep house: reproduce a version, and clear away what nobody needs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pix2pix import params as params_file

from .champion_commands import quiet_libraries

if TYPE_CHECKING:
    from .housekeeping import Part

console = Console(highlight=False, soft_wrap=True)
errors = Console(highlight=False, soft_wrap=True, stderr=True)


def add_to(app: typer.Typer) -> None:
    """Give the commands to the `pix2pix` command."""
    for command in (reproduce, gc):
        app.command()(command)


def reproduce(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The number of a version.")],
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A folder, which gets generator.onnx and generator.safetensors.",
            show_default="none; only the proof",
        ),
    ] = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="Train again, whatever the cache holds.")] = False,
) -> None:
    """Make a version again from its commit and compare.

    It is restored from DVC's cache or remote, or trained again, in a worktree of its own. The same bits
    come out on the same kind of CPU with the same number of threads.
    """
    from . import reproduce as module

    quiet_libraries()
    name = params_file.load().registry.model_name
    done = module.reproduce(
        name, version, to, rerun, lambda line: errors.print(line, markup=False, highlight=False)
    )
    wanted = done.wanted
    console.print(
        f"{wanted}: {done.how} (commit {wanted.commit[:12]}); "
        f"{module.ONNX} has the registered digest {wanted.onnx_sha256[:12]}",
        markup=False,
    )
    if done.files:
        console.print(f"written: {', '.join(map(str, done.files))}", markup=False)


def gc(
    keep: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Versions to keep beside those with an alias: the newest, and the champions that as many "
            "rollbacks reach.",
        ),
    ] = 5,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Whose versions; those of all others stay.",
            show_default="registry.model_name in params.yaml",
        ),
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Remove it.")] = False,
) -> None:
    """Show what nobody needs any more; with --yes remove it.

    The champion, the challenger and the champions before stay, with all that git's own branches and tags
    need of DVC's cache.
    """
    from . import housekeeping

    quiet_libraries()
    name = model or params_file.load().registry.model_name
    parts = housekeeping.clear(name, keep) if yes else housekeeping.look(name, keep)
    console.print(_table(parts, "freed" if yes else "can go"), markup=False)
    if not yes and any(part.count for part in parts):
        console.print("`pix2pix gc --yes` with the same options removes it", markup=False)


def _table(parts: "list[Part]", verb: str) -> str:
    lines = [f"{verb:24}{'count':>7}{'MB':>10}"]
    for part in parts:
        if part.skipped:
            lines.append(f"{part.name:24}{'':>7}{'':>10}  left: {part.skipped}")
        else:
            which = f"  {part.which}" if part.which else ""
            lines.append(f"{part.name:24}{part.count:>7}{part.bytes / 1e6:>10.1f}{which}")
    lines.append(f"{'total':24}{'':>7}{sum(part.bytes for part in parts) / 1e6:>10.1f}")
    stay = [line for part in parts for line in part.stay]
    lines += [f"{'' if index else 'stay':6}{line}" for index, line in enumerate(stay)]
    return "\n".join(lines)
