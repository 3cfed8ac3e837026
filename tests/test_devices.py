"""Which device computes."""

import pytest
import torch

from pix2pix import devices
from pix2pix.errors import UserError


def test_a_device_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"train\.device = 'cuda': no such device here; use auto or cpu"):
        devices.choose("cuda")


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_takes_the_fastest_there_is(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    device, words = devices.choose("auto")
    assert device.type == expected
    assert words


def test_cpu_is_taken_when_asked_for_and_the_reason_is_said() -> None:
    assert devices.choose("cpu") == (torch.device("cpu"), "cpu (train.device asks for it)")


def test_threads_are_set_and_auto_means_all_cores() -> None:
    before = torch.get_num_threads()
    try:
        assert devices.set_threads(1) == 1 == torch.get_num_threads()
        assert devices.set_threads("auto") == devices.available_cores() == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
