"""Who is told of a failed run: automations.yaml on Prefect's server, with the address in PIX2PIX_WEBHOOK."""

import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import Automation, AutomationCore

from pix2pix.errors import UserError
from pix2pix.params import read_yaml

AUTOMATIONS_FILE = Path("automations.yaml")
VARIABLE = "PIX2PIX_WEBHOOK"
BLOCK = "pix2pix-webhook"


def webhook() -> str:
    """The address that the variable names; empty where it is not set.

    Raises:
        UserError: it is no http or https address.
    """
    address = os.environ.get(VARIABLE, "").strip()
    parts = urlsplit(address)
    if address and not (parts.scheme in ("http", "https") and parts.hostname):
        raise UserError(f"{VARIABLE}: must be an address that begins with https:// or http://")
    return address


def arrange(client: SyncPrefectClient, address: str) -> str:
    """Make the server's automations those of automations.yaml; without an address, switch them off.

    What is as it should be is left alone, so it may be called again and again.

    Returns:
        A line that says what is told to whom.
    """
    block_id = _block(address) if address else None
    for entry in read_yaml(AUTOMATIONS_FILE)["automations"]:
        there = client.read_automations_by_name(entry["name"])
        if block_id:
            actions = [{**action, "block_document_id": block_id} for action in entry["actions"]]
            _settle(
                client, there, AutomationCore.model_validate({**entry, "enabled": True, "actions": actions})
            )
        else:
            for automation in there:
                client.pause_automation(automation.id)
    if block_id:
        # Not the whole of it: in such an address the path is the secret.
        return f"failed and crashed runs are told to {urlsplit(address).hostname}"
    return f"nobody is told of failed runs; {VARIABLE}=https://… names the webhook of a chat"


def _block(address: str) -> Any:
    """The id of the block that keeps the address, encrypted, in Prefect's database."""
    block = Webhook(url=address, headers={"Content-Type": "application/json"})  # type: ignore[arg-type]
    return block.save(BLOCK, overwrite=True)


def _settle(client: SyncPrefectClient, there: list[Automation], wanted: AutomationCore) -> None:
    if not there:
        client.create_automation(wanted)
        return
    if AutomationCore.model_validate(there[0].model_dump()) != wanted:
        client.update_automation(there[0].id, wanted)


def main() -> None:
    """`python -m pipeline.notification`: for servers that `make servers` did not start."""
    try:
        with get_client(sync_client=True) as client:
            print(arrange(client, webhook()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
