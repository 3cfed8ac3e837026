"""Which device computes."""

import sys
from pathlib import Path

import pytest
import torch

from pix2pix import devices
from pix2pix.errors import UserError
from pix2pix.params import Size


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


@pytest.mark.parametrize(
    ("most", "sides", "expected"),
    [
        (16, (64, 64), 16),
        (16, (256, 256), 16),
        (16, (512, 512), 4),
        (16, (128, 1024), 8),
        (8, (256, 320), 6),
        (8, (2048, 1024), 1),
        (1, (64, 64), 1),
    ],
)
def test_of_larger_images_fewer_go_through_a_network_together(
    most: int, sides: tuple[int, int], expected: int
) -> None:
    assert devices.images_at_once(most, *sides) == expected


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/", {"": "5000"}, 5000 - 1000 + 200),
        ("1:memory:/x\n0::/job/step", {"": "max", "job": "3000", "job/step": "max"}, 3000 - 1000 + 200),
        ("0::/job/step", {"job": "9000", "job/step": "2000"}, 2000 - 1000 + 200),
        ("0::/job", {"": "max", "job": "max"}, sys.maxsize),
        ("1:memory:/x", {}, sys.maxsize),
    ],
    ids=["container", "around", "own", "none", "version 1"],
)
def test_a_limit_of_a_container_or_job_is_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, limits: dict[str, str], expected: int
) -> None:
    (tmp_path / "own").write_text(f"{own}\n")
    for name, limit in limits.items():
        group = tmp_path / "groups" / name
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text("1000\n")
        (group / "memory.stat").write_text("anon 700\ninactive_file 200\n")
    monkeypatch.setattr(devices, "OWN_CONTROL_GROUP", tmp_path / "own")
    monkeypatch.setattr(devices, "CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(devices, "_system_free_bytes", lambda: sys.maxsize)
    monkeypatch.setattr(devices, "_limit_free_bytes", lambda: sys.maxsize)
    assert devices.free_bytes(torch.device("cpu")) == expected


def test_threads_are_set_and_auto_means_all_cores() -> None:
    before = torch.get_num_threads()
    try:
        assert devices.set_threads(1) == 1 == torch.get_num_threads()
        assert devices.set_threads("auto") == devices.available_cores() == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("wanted", "device", "has_bf16", "image_px", "expected"),
    [
        ("auto", "cuda", True, 64, "bf16"),
        ("auto", "cuda", False, 256, "fp32"),
        ("auto", "cpu", True, 256, "bf16"),
        ("auto", "cpu", True, (128, 512), "bf16"),
        ("auto", "cpu", True, (256, 224), "fp32"),
        ("auto", "cpu", False, 512, "fp32"),
        ("auto", "mps", False, 256, "fp32"),
        ("fp32", "cuda", True, 256, "fp32"),
        ("fp32", "cpu", True, 256, "fp32"),
        ("bf16", "cuda", True, 64, "bf16"),
        ("bf16", "cpu", False, 64, "bf16"),
    ],
)
def test_auto_computes_in_bf16_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, wanted: str, device: str, has_bf16: bool, image_px: Size, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": has_bf16})
    assert devices.choose_precision(wanted, torch.device(device), image_px) == expected


def test_a_torch_that_does_not_tell_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert devices.choose_precision("auto", torch.device("cpu"), 256) == "fp32"


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_bf16_where_there_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(UserError, match=rf"train\.precision = 'bf16': this {device} has no bfloat16"):
        devices.choose_precision("bf16", torch.device(device), 256)


@pytest.mark.parametrize("deterministic", [True, False])
def test_determinism_is_set_and_on_a_gpu_its_price_is_said(
    monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", not deterministic)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", deterministic)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    words = devices.prefer_determinism(deterministic, torch.device("cuda"))
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (
        deterministic,
        not deterministic,
    )
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert words.startswith("deterministic: " if deterministic else "not deterministic: ")
    assert devices.prefer_determinism(deterministic, torch.device("cpu")) == "deterministic"
