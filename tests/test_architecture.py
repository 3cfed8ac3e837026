"""Who may know whom, and that dvc.yaml says so: both read from the imports themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
ROOMS = ("pix2pix", "pipeline", "stages")
DVC = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
STAGES = DVC["stages"]

# Observers: no output depends on them (test_tracking_changes_no_output in end_to_end shows it), and a
# comment there must not cost a training.
OBSERVERS = {f"pipeline/{name}.py" for name in ("lineage", "live_run", "rebuilt_run", "tracking")}
# Docstrings, and how a stage's process begins; no output depends on them.
PACKAGES = {f"{room}/__init__.py" for room in ROOMS}
# Imported by functions that no stage calls, but a user who brings or takes weights.
BESIDE_THE_STAGES = {"pix2pix/reference.py"}
# What the commands that work on weights load, and only when they are typed.
WEIGHT_COMMANDS = {"pix2pix/description.py", "pix2pix/imports.py", "pix2pix/sampling.py"}
# Loads torch when it is called, for a champion that must be measured again; importing it does not.
MEASURES_AGAIN = {"pix2pix/remeasurement.py"}
# Imported only when dataset.source names them, and `${dataset.source}` is a dependency.
SOURCES = {"pix2pix/synthetic.py", "pix2pix/datasets.py"}


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).glob("*.py"))


def imports(module: Path) -> set[str]:
    """Project files a module imports, also inside functions, and the top names of everything else."""
    room = module.parent.name
    found: set[str] = set()
    tree = ast.parse(module.read_text())
    # What only a type checker reads is not loaded.
    tree.body = [node for node in tree.body if not is_for_types(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [room if node.level else "", node.module or ""]))
            found |= {f"{base}.{alias.name}" for alias in node.names} | {base}
    files = set()
    for name in found:
        parts = name.split(".")
        if parts[0] not in ROOMS:
            files.add(parts[0])
        elif len(parts) > 1 and (ROOT / parts[0] / f"{parts[1]}.py").exists():
            files.add(f"{parts[0]}/{parts[1]}.py")
    return files


def is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def reached(start: str, through: set[str] = frozenset()) -> set[str]:  # type: ignore[assignment]
    """Every project file that importing `start` may load, not looking behind `through`."""
    seen, open_ = set(), [start]
    while open_:
        file = open_.pop()
        if file in seen or file in through:
            continue
        seen.add(file)
        open_ += [name for name in imports(ROOT / file) if name.endswith(".py")]
    return seen


@pytest.mark.parametrize("module", modules("pix2pix"), ids=lambda path: path.stem)
def test_the_model_knows_nothing_of_the_pipeline(module: Path) -> None:
    forbidden = {"dvc", "prefect", "mlflow", "typer"}
    known = imports(module)
    assert not known & forbidden
    assert not {name for name in known if name.startswith(("pipeline/", "stages/"))}


@pytest.mark.parametrize("module", modules("pipeline"), ids=lambda path: path.stem)
def test_the_pipeline_never_imports_torch(module: Path) -> None:
    for file in reached(f"pipeline/{module.name}", through=WEIGHT_COMMANDS | MEASURES_AGAIN):
        assert "torch" not in imports(ROOT / file), f"{module.name} reaches torch through {file}"
        assert not file.startswith("stages/")


def test_the_command_line_loads_torch_only_for_commands_on_weights() -> None:
    users = {path.name for room in ROOMS for path in modules(room) if imports(path) & WEIGHT_COMMANDS}
    assert users == {"cli.py"}
    measuring = {path.name for room in ROOMS for path in modules(room) if imports(path) & MEASURES_AGAIN}
    assert measuring == {"cli.py", "flows.py", "repro.py", "register.py"}
    code = (
        "import sys, pipeline.cli, pix2pix.remeasurement;"
        "sys.exit('torch' in sys.modules or 'mlflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("module", modules("stages"), ids=lambda path: path.stem)
def test_stages_know_only_these_of_the_pipeline(module: Path) -> None:
    names = ("lineage", "tracking", "live_run", "registry", "promotion", "delivery", "gate", "model_card")
    allowed = {f"pipeline/{name}.py" for name in names}
    assert {name for name in imports(module) if name.startswith("pipeline/")} <= allowed


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_deps_cover_every_module_it_imports(stage: str) -> None:
    # What a source imports is listed, for the dependency that names the source watches that file alone.
    needed = reached(f"stages/{stage}.py", through=OBSERVERS | BESIDE_THE_STAGES) - PACKAGES - SOURCES
    declared = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    assert needed == declared


def test_the_sources_that_fetch_loads_lazily_are_covered_by_its_source_dependency() -> None:
    assert "${dataset.source}" in STAGES["fetch"]["deps"]
    tree = ast.parse((ROOT / "stages" / "fetch.py").read_text())
    top_level = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert not top_level & {"synthetic", "datasets"}
    users = {module.name for room in ROOMS for module in modules(room) if imports(module) & SOURCES}
    # And by the flow, which asks what is new before any stage.
    assert users == {"fetch.py", "source.py"}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_begins_with_exec_and_bears_its_files_name(stage: str) -> None:
    assert STAGES[stage]["cmd"] == f"exec python -m stages.{stage}"
    assert (ROOT / "stages" / f"{stage}.py").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_stages_list_whole_sections_and_never_the_section_run(stage: str) -> None:
    sections = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    listed = set(STAGES[stage]["params"])
    assert listed <= set(sections) - {"run"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_the_sections_that_its_code_reads(stage: str) -> None:
    """`params.SECTION` in every module that it can reach; `run` changes no output."""
    reached = (ROOT / path for path in STAGES[stage]["deps"] if path.endswith(".py"))
    files = [ast.parse(path.read_text()) for path in reached]
    read = {
        node.attr
        for file in files
        for node in ast.walk(file)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "params"
    }
    sections = set(YAML(typ="safe").load((ROOT / "params.yaml").read_text()))
    assert (read & sections) - {"run"} <= set(STAGES[stage]["params"])


def options(entry: str | dict) -> tuple[str, dict]:
    return next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})


@pytest.mark.parametrize("stage", STAGES)
def test_reports_of_numbers_are_committed_and_all_else_is_cached(stage: str) -> None:
    kinds = ("outs", "metrics", "plots")
    written = [options(entry) for kind in kinds for entry in STAGES[stage].get(kind, [])]
    for path, given in written:
        is_for_git = path.startswith("reports/") and path.endswith((".json", ".csv"))
        assert (given.get("cache") is False) == is_for_git, path


@pytest.mark.parametrize("stage", STAGES)
def test_no_output_switches_the_run_cache_off(stage: str) -> None:
    """DVC saves nothing of a stage that has an output without cache which is no metric and no plot."""
    assert all(given.get("cache") is not False for _, given in map(options, STAGES[stage]["outs"]))
