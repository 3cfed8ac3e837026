"""prefect.yaml's deployments, put on Prefect's server; what was switched on or off there stays so."""

import subprocess
import sys
from collections.abc import Sequence
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import DeploymentSchedule


def deploy(client: SyncPrefectClient, options: Sequence[str] = ()) -> None:
    """`prefect deploy --all`, which by itself sets every schedule back to prefect.yaml's `active`.

    Args:
        options: further ones of that command.

    Raises:
        SystemExit: prefect.yaml cannot be deployed.
    """
    before = _schedules(client)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"prefect.yaml cannot be deployed:\n{done.stdout}{done.stderr}")
    for key, schedule in _schedules(client).items():
        if key in before and before[key].active != schedule.active:
            client.update_deployment_schedule(key[0], schedule.id, active=before[key].active)


def _schedules(client: SyncPrefectClient) -> dict[tuple[UUID, str], DeploymentSchedule]:
    """By deployment and slug; a schedule without one gets a new id each time and is known by its times."""
    return {
        (deployment.id, schedule.slug or schedule.schedule.model_dump_json()): schedule
        for deployment in client.read_deployments()
        for schedule in deployment.schedules
    }


def main() -> None:
    """`python -m pipeline.deployments [OPTION…]`: for servers that `make servers` did not start."""
    with get_client(sync_client=True) as client:
        deploy(client, sys.argv[1:])
        for deployment in client.read_deployments():
            switched = ["on" if schedule.active else "off" for schedule in deployment.schedules]
            print(f"{deployment.name}: {'schedule ' + ', '.join(switched) if switched else 'no schedule'}")


if __name__ == "__main__":
    main()
