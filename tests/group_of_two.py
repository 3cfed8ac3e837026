"""What two processes do in tests/test_processes.py; torchrun runs it in each of them."""

import sys
from pathlib import Path
from typing import Any

import torch
from training_fixtures import MODEL, finished, recipe, run

from pix2pix import processes, training, validation
from pix2pix.errors import UserError
from pix2pix.events import Interrupted
from pix2pix.params import Model
from pix2pix.processes import Group
from pix2pix.step import adam
from pix2pix.training_state import State

# Pairs are 4: batches of 4; of 3 and 1, which is one process's alone; and without a discriminator.
RECIPES: dict[str, dict[str, Any]] = {
    "whole": {"batch": 2, "epochs": 10},
    "uneven": {"batch": 3, "epochs": 10},
    "l1": {"batch": 4, "epochs": 20, "gan_loss": "none"},
}
# Within an epoch, and in the validation at the end of one.
STOP_AT, VALIDATES_AT = 7, 8


def in_float64(states: list[State]) -> Any:
    """For `on_state`: keeps the state and has it computed in float64."""

    def convert(state: State) -> None:
        for name in ("generator", "discriminator"):
            network = getattr(state, name).double()
            setattr(state, f"{name}_optimizer", adam(network, recipe()))
        states.append(state)

    return convert


def double_range(pixels: torch.Tensor, *encoding: object) -> torch.Tensor:
    return pixels.double() / 127.5 - 1


def without_dropout() -> Model:
    return MODEL.model_copy(update={"dropout_blocks": ()})


def weights(state: State) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value
        for name in ("generator", "discriminator")
        for key, value in getattr(state, name).state_dict().items()
    }


def trained(folder: Path, group: Group, name: str, **options: Any) -> dict[str, Any]:
    """Weights and curves after one of RECIPES."""
    states: list[State] = []
    seen = run(
        folder / name,
        recipe(**{"losses_every": 3, **RECIPES[name]}),
        on_state=in_float64(states),
        model=without_dropout(),
        group=group,
        **options,
    )
    done = finished(seen)
    return {"weights": weights(states[0]), "rows": done.loss_rows, "validations": done.validation_rows}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    # A batch of 3 has no equal shares and is refused at the start; as an epoch's last one it is right.
    with processes.joined("cpu", batch=2) as group:
        with_dropout: list[State] = []
        run(folder / "dropout", recipe(batch=2), on_state=with_dropout.append, group=group)
        results: dict[str, Any] = {
            "dropout": weights(with_dropout[0]),
            "random": torch.get_rng_state(),
        }
        for module in (training, validation):
            module.to_unit_range = double_range  # type: ignore[attr-defined]
        results |= {name: trained(folder, group, name) for name in RECIPES}
        try:
            trained(folder / "cut", group, "whole", stop_at=STOP_AT)
        except Interrupted as interrupted:
            results["stopped"] = interrupted.step
        # Only one of them is asked to, the one that does not validate.
        try:
            trained(folder / "validating", group, "whole", stop_at=VALIDATES_AT if group.rank else None)
        except Interrupted as interrupted:
            results["stopped validating"] = interrupted.step
        results["validated"] = trained(folder / "validating", group, "whole")
        results["largest"] = group.largest(5 - group.rank)
        results["told"] = group.told(f"by {group.rank}")
        results["share"] = group.largest_share(0.25 * group.rank)
        group.refuse_others({"pairs": "same", "torch": "2"})
        try:
            group.refuse_others({"code": 64 * str(group.rank), "torch": "2", "device": f"of {group.rank}"})
        except UserError as error:
            results["refused"] = str(error)
        torch.save(results, folder / f"{group.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
