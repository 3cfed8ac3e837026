"""`make servers`, once the servers answer: makes what the deployments need, deploys, becomes the worker."""

import os
import sys
import urllib.request

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from pix2pix.errors import UserError

from . import crashes, deployments, notification, outcome, workspace
from .stage_tasks import GPU_LIMIT

WORK_POOL = "pix2pix"
# The first start makes two databases, on a busy machine one after the other.
PATIENCE_S = 180.0


def main() -> None:
    """Become the worker of the pool.

    Raises:
        SystemExit: a server does not answer in time, prefect.yaml cannot be deployed, or PIX2PIX_WEBHOOK is
            no address.
    """
    try:
        webhook = notification.webhook()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    api, mlflow = str(PREFECT_API_URL.value()), os.environ["MLFLOW_TRACKING_URI"]
    _wait_for(f"{api}/health")
    _wait_for(f"{mlflow}/health")
    with get_client(sync_client=True) as client:
        _prepare(client)
        told = notification.arrange(client, webhook)
        deployments.deploy(client)
    if workspace.crashed():
        crashes.report()
        outcome.close_dead_runs()
    print(f"\n  MLflow   {mlflow}\n  Prefect  {api.removesuffix('/api')}\n  {told}\n", flush=True)
    prefect = [sys.executable, "-m", "prefect"]
    os.execv(
        sys.executable,
        [*prefect, "worker", "start", "--pool", WORK_POOL, "--type", "process", "--name", "here"],
    )


def _prepare(client: SyncPrefectClient) -> None:
    """The work pool and the limit, where they are missing; what somebody has set there stays."""
    try:
        client.read_work_pool(WORK_POOL)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
    try:
        client.read_global_concurrency_limit_by_name(GPU_LIMIT)
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU_LIMIT, limit=1))


def _wait_for(address: str) -> None:
    patient = Retrying(
        retry=retry_if_exception_type(OSError),
        stop=stop_after_delay(PATIENCE_S),
        wait=wait_fixed(0.3),
        reraise=True,
    )
    try:
        patient(urllib.request.urlopen, address, timeout=5).close()
    except OSError as error:
        sys.exit(f"{address}: no answer in {PATIENCE_S:.0f} s ({error})")


if __name__ == "__main__":
    main()
