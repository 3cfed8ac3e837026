"""What of the image and of compose.yaml can be known without Docker: names, paths, secrets, ports."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import prefect.settings
import pytest
from docker.utils.build import exclude_paths
from ruamel.yaml import YAML
from team_fixtures import ENV_FILE, ROOT, UnsetVariable, composed, environment

DOCKERFILE = (ROOT / "Dockerfile").read_text()
LOCKED = {line.partition("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines()}
SECRETS = (
    ".env",
    ".dvc/config.local",
    ".git/config",
    ".git/FETCH_HEAD",
    ".git/hooks/post-commit",
    ".git/logs/HEAD",
)
RESULTS = (
    ".venv/bin/python",
    ".dvc/cache/files/md5/00/11",
    ".dvc/tmp/lock",
    "mlflow.db",
    "mlartifacts/a",
    "data/raw/a.png",
    "models/generator.onnx",
    ".checkpoints/a",
    "pix2pix/__pycache__/params.cpython-311.pyc",
)


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `docker build .` copies into /project, out of a clone in which somebody has worked."""
    clone, image = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("image")
    git(clone, "init", "-q")
    for name in filter(None, git(ROOT, "ls-files", "-co", "--exclude-standard", "-z").split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, clone / name)
    git(clone, "add", "-A")
    git(clone, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", "all")
    for name in SECRETS + RESULTS:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        with (clone / name).open("a") as file:
            file.write("\n# secret or result\n")
    # Docker's own reading of .dockerignore.
    for name in exclude_paths(str(clone), (ROOT / ".dockerignore").read_text().splitlines()):
        source, target = clone / name, image / name
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return image


@pytest.mark.parametrize("name", SECRETS + RESULTS)
def test_no_secret_and_no_result_gets_into_the_image(context: Path, name: str) -> None:
    assert not (context / name).exists()


def test_the_image_is_the_commit_and_works_with_git_and_dvc(context: Path) -> None:
    assert git(context, "status", "--porcelain") == ""
    assert (context / "params.yaml").is_file()
    git(context, "worktree", "add", "-q", "--detach", str(context.parent / "worktree"))
    assert (context.parent / "worktree" / "dvc.yaml").is_file()
    done = subprocess.run(
        ["dvc", "status", "--quiet"], cwd=context, env=environment({"environment": {}}),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    # 1 says that a stage would run, since nothing has run here; 255 would be no repository.
    assert done.returncode == 1, done.stderr


def test_the_files_that_the_image_and_the_servers_name_are_there() -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \./$", DOCKERFILE, re.MULTILINE)
    assert copied, "the dependencies are installed before the code is copied"
    named = {name for line in copied for name in line.split()}
    named |= set(re.findall(r"/project/([\w/.]+)", DOCKERFILE))
    for service in composed().values():
        named |= {volume.split(":")[0] for volume in service.get("volumes", []) if volume.startswith("./")}
        for command in (service.get("command", []), service.get("environment", {}).values()):
            named |= {part[1:] for part in command if part.startswith("/team/")}
            named |= {part.removeprefix("/project/") for part in command if part.startswith("/project/")}
    assert {"team/healthy.py", "team/buckets.py", "team/dvc", "./team/databases.sql"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_what_the_image_installs_is_in_the_lock_and_in_the_project() -> None:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.findall(r"--extra (\w+)", DOCKERFILE)
    assert extras == ["team"]
    assert set(extras) <= set(project["optional-dependencies"])
    (line,) = re.findall(r"--constraint requirements\.lock ([a-z][\w -]+)$", DOCKERFILE, re.MULTILINE)
    servers = line.split()
    assert {"mlflow", "prefect", "psycopg2-binary", "boto3"} == set(servers)
    # The servers are of the version that the clients are tested with.
    known = project["dependencies"] + project["optional-dependencies"]["team"]
    declared = {re.split(r"[^\w-]", dependency)[0] for dependency in known}
    assert set(servers) <= declared & LOCKED


def test_the_image_runs_the_worker_as_nobody_in_particular() -> None:
    stages = DOCKERFILE.split("\nFROM ")
    final = stages[-1].splitlines()
    assert final[0] == "base AS worker"
    assert [line for line in final if line.startswith("USER")] == ["USER 1000"]
    (command,) = [json.loads(line.removeprefix("CMD ")) for line in final if line.startswith("CMD ")]
    assert command[:3] == ["prefect", "worker", "start"]
    assert not any(line.startswith("ENTRYPOINT") for line in final)
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    ours = re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE, re.MULTILINE)
    assert set(bases) - set(ours) == {"${BASE_IMAGE}"}


# --- compose.yaml ------------------------------------------------------------------------------------


def test_prefect_has_a_place_of_its_own_for_its_pages() -> None:
    """By default it writes them beside its code, as this user cannot, and then serves none."""
    assert prefect.settings.PREFECT_UI_STATIC_DIRECTORY.value() is None
    (servers,) = re.findall(r"^FROM base AS servers\n(.*?)^FROM", DOCKERFILE, re.DOTALL | re.MULTILINE)
    (home,) = re.findall(r"\bHOME=(\S+)", DOCKERFILE)
    assert f"ENV PREFECT_UI_STATIC_DIRECTORY={home}/" in servers
    assert servers.rstrip().endswith("USER 1000")


@pytest.mark.parametrize("name", ENV_FILE)
def test_nothing_starts_without_its_secret(name: str) -> None:
    with pytest.raises(UnsetVariable, match=f"{name}: set it in .env"):
        composed({**ENV_FILE, name: ""})


def test_no_secret_is_in_a_file() -> None:
    example = dict(
        line.split("=", 1) for line in (ROOT / ".env.example").read_text().splitlines() if line[:1].isupper()
    )
    # All that compose.yaml requires is asked for, and left to the reader.
    assert {name for name, value in example.items() if not value} == set(ENV_FILE)
    text = (ROOT / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+):\?", text)) == set(ENV_FILE)
    for line in text.splitlines():
        if re.search(r"(PASSWORD|SECRET|ACCESS_KEY)\w*:", line):
            assert "${" in line, line
    ignored = subprocess.run(["git", "check-ignore", "-q", ".env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0
    assert set(example) - set(ENV_FILE) <= set(re.findall(r"\$\{(\w+)", text)) | {"COMPOSE_PROFILES"}


def test_every_service_has_a_pinned_image_an_init_and_a_check_and_is_published_on_loopback_only() -> None:
    services = composed()
    for name, service in services.items():
        image = service["image"]
        assert service["init"] is True, name
        assert "build" in service or not image.endswith((":latest", image.split(":")[0])), name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        # A worker's check is the image's own; a service that ends has none.
        if name not in ("worker", "worker-cpu", "buckets"):
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert service["restart"] == "unless-stopped", name
        for other, condition in service.get("depends_on", {}).items():
            ends = "restart" not in services[other]
            wanted = "service_completed_successfully" if ends else "service_healthy"
            assert condition["condition"] == wanted, (name, other)
    volumes = set(YAML(typ="safe").load((ROOT / "compose.yaml").read_text())["volumes"])
    used = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert {name for name in used if not name.startswith(".")} == volumes


def test_a_worker_reserves_a_gpu_or_is_asked_for_without() -> None:
    services = composed()
    gpu, cpu = services["worker"], services["worker-cpu"]
    (device,) = gpu.pop("deploy")["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert (gpu.pop("profiles"), cpu.pop("profiles")) == (["gpu"], ["cpu"])
    assert gpu == cpu
    # Every host that a worker is sent to is a service, at the port where that listens.
    hosts = re.findall(r"http://(\w+):(\d+)", json.dumps(gpu["environment"]))
    for host, port in hosts:
        assert any(published.endswith(f":{port}") for published in services[host]["ports"]), host
    assert {host for host, _ in hosts} == {"mlflow", "prefect", "s3"}
    assert gpu["environment"]["DVC_SYSTEM_CONFIG_DIR"] == "/project/team/dvc"
