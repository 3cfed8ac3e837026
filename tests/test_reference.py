"""The reference's weights: its networks, written out again here, compared with ours by what they give."""

import copy
import itertools
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED
from torch import Tensor, nn

from pix2pix.discriminator import Discriminator
from pix2pix.errors import UserError
from pix2pix.generator import Generator
from pix2pix.reference import generator_state, load_discriminator, load_generator, read_state, write_state

FIXTURES = SHARED / "fixtures"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"{FIXTURES} is not here")


# --- the reference's networks ------------------------------------------------------------------------


class Level(nn.Module):
    """A level of the U-Net around the one below it; the places in `model` are those of latest_net_G.pth."""

    def __init__(
        self, inputs: int, inner: int, outputs: int, below: nn.Module | None, norm: str, outermost: bool
    ) -> None:
        super().__init__()
        self.outermost = outermost
        biased = norm == "instance"
        make_norm = nn.InstanceNorm2d if biased else nn.BatchNorm2d
        down = nn.Conv2d(inputs, inner, 4, 2, 1, bias=biased)
        up = nn.ConvTranspose2d(inner * (2 if below else 1), outputs, 4, 2, 1, bias=biased or outermost)
        if outermost:
            modules = [down, below, nn.ReLU(), up, nn.Tanh()]
        elif below is None:
            modules = [nn.LeakyReLU(0.2), down, nn.ReLU(), up, make_norm(outputs)]
        else:
            encoder = [nn.LeakyReLU(0.2), down, make_norm(inner)]
            modules = [*encoder, below, nn.ReLU(), up, make_norm(outputs)]
        self.model = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


class Unet(nn.Module):
    """The reference's generator, without dropout."""

    def __init__(self, levels: int, width: int, inputs: int = 3, outputs: int = 3, norm: str = "batch"):
        super().__init__()
        widths = [width * min(2**level, 8) for level in range(levels)]
        below = None
        for outer, inner in reversed(list(itertools.pairwise(widths))):
            below = Level(outer, inner, outer, below, norm, outermost=False)
        self.model = Level(inputs, width, outputs, below, norm, outermost=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Patches(nn.Module):
    """The reference's discriminator; 0 layers is its pixel discriminator."""

    def __init__(self, layers: int, width: int, inputs: int = 6, norm: str = "batch") -> None:
        super().__init__()
        biased = norm == "instance"
        make_norm = nn.InstanceNorm2d if biased else nn.BatchNorm2d
        kernel = (4, 2, 1) if layers else (1, 1, 0)
        modules = [nn.Conv2d(inputs, width, *kernel), nn.LeakyReLU(0.2)]
        before = width
        for layer in range(1, max(layers, 1) + 1):
            after = width * min(2**layer, 8)
            stride = 2 if layer < layers else 1
            conv = nn.Conv2d(before, after, kernel[0], stride, kernel[2], bias=biased)
            modules += [conv, make_norm(after), nn.LeakyReLU(0.2)]
            before = after
        modules.append(nn.Conv2d(before, 1, kernel[0], 1, kernel[2], bias=biased or layers > 0))
        setattr(self, "model" if layers else "net", nn.Sequential(*modules))

    def forward(self, x: Tensor) -> Tensor:
        return next(self.children())(x)


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with random weights and statistics, none of them neutral."""
    random = torch.Generator().manual_seed(seed)
    for module in network.modules():
        for name, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if name == "num_batches_tracked":
                value.fill_(3)
            elif name == "running_var" or (name == "weight" and value.dim() == 1):
                value.data.uniform_(0.5, 1.5, generator=random)
            else:
                value.data.normal_(0, 0.2 if value.dim() == 1 else 0.1, generator=random)
    return network.eval()


def alone(network: nn.Module, images: Tensor) -> Tensor:
    """Each image by itself with its own statistics, as the reference tests by default."""
    trained = copy.deepcopy(network).train()
    with torch.inference_mode():
        return torch.cat([trained(image[None]) for image in images])


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_the_networks_written_here_have_the_references_counts_of_parameters() -> None:
    with torch.device("meta"):
        counts = [
            sum(weight.numel() for weight in network.parameters())
            for network in (Unet(8, 64), Unet(7, 64), Unet(8, 64, norm="instance"), Patches(3, 64))
        ]
    assert counts == [54_413_955, 41_828_995, 54_409_603, 2_768_705]


# --- what the reference's own code has given ---------------------------------------------------------


def fixture(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """State dict and the other arrays of a fixture."""
    with np.load(FIXTURES / f"{name}.npz") as arrays:
        tensors = {key: torch.from_numpy(arrays[key]) for key in arrays}
    state = {key.removeprefix("state/"): value for key, value in tensors.items() if key.startswith("state/")}
    return state, tensors


@needs_fixtures
@pytest.mark.parametrize(
    ("statistics", "expected"),
    [("running", "output_eval"), ("instance", "output_batch1_train_stats_no_dropout")],
)
def test_the_references_generator_gives_its_own_outputs(statistics: str, expected: str) -> None:
    state, arrays = fixture("unet_128_ngf8")
    generator, shape = load_generator(state, statistics)
    assert not generator.training
    assert (shape["levels"], shape["channels"], shape["norm"]) == (7, 8, statistics)
    with torch.inference_mode():
        close(generator(arrays["input"]), arrays[expected])
    other = {"output_eval", "output_batch1_train_stats_no_dropout"} - {expected}
    assert (arrays[expected] - arrays[other.pop()]).abs().max() > 1e-2, "the two kinds must be told apart"


@needs_fixtures
def test_the_references_discriminator_gives_its_own_outputs() -> None:
    state, arrays = fixture("patchgan_70_ndf8")
    discriminator = load_discriminator(state)
    assert not discriminator.training
    assert discriminator.receptive_field_px == 70
    with torch.inference_mode():
        close(discriminator(arrays["input"]), arrays["output_eval"])


@needs_fixtures
def test_the_references_weights_come_back_as_they_were() -> None:
    state, _ = fixture("unet_128_ngf8")
    back = generator_state(load_generator(state, "running")[0])
    assert set(back) == set(state)
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(back[name], value), name


# --- any depth, width and channels -------------------------------------------------------------------


UNETS = [(5, 2, 3, 3), (5, 3, 1, 2), (6, 2, 4, 1), (8, 1, 3, 3)]


@pytest.mark.parametrize(("levels", "width", "inputs", "outputs"), UNETS)
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_any_unet_of_the_reference_is_read(
    levels: int, width: int, inputs: int, outputs: int, norm: str
) -> None:
    theirs = shaken(Unet(levels, width, inputs, outputs, norm))
    generator, shape = load_generator(theirs.state_dict())
    assert (shape["levels"], shape["channels"]) == (levels, width)
    assert (shape["in_channels"], shape["out_channels"]) == (inputs, outputs)
    x = noise(2, inputs, 2**levels, 2 ** (levels + 1))
    with torch.inference_mode():
        close(generator(x), alone(theirs, x))


@pytest.mark.parametrize(("levels", "width", "inputs", "outputs"), UNETS)
def test_any_unet_with_batch_norm_is_read_with_its_running_statistics(
    levels: int, width: int, inputs: int, outputs: int
) -> None:
    theirs = shaken(Unet(levels, width, inputs, outputs))
    generator, _ = load_generator(theirs.state_dict(), "running")
    x = noise(2, inputs, 2**levels, 2**levels)
    with torch.inference_mode():
        close(generator(x), theirs(x))
        assert (generator(x) - alone(theirs, x)).abs().max() > 1e-2


@pytest.mark.parametrize(("levels", "width", "inputs", "outputs"), UNETS)
@pytest.mark.parametrize("norm", ["instance", "batch", "running"])
def test_any_unet_of_ours_is_read_by_the_reference(
    levels: int, width: int, inputs: int, outputs: int, norm: str
) -> None:
    ours = Generator(levels=levels, channels=width, in_channels=inputs, out_channels=outputs, norm=norm)
    shaken(ours)
    theirs = Unet(levels, width, inputs, outputs).eval()
    theirs.load_state_dict(generator_state(ours))
    x = noise(2, inputs, 2**levels, 2**levels)
    with torch.inference_mode():
        close(theirs(x) if norm == "running" else alone(theirs, x), ours(x))


def test_the_variant_with_instance_norm_goes_both_ways() -> None:
    theirs = shaken(Unet(5, 2, norm="instance"))
    ours, shape = load_generator(theirs.state_dict())
    assert shape["down_bias"]
    again = Unet(5, 2, norm="instance").eval()
    again.load_state_dict(generator_state(ours))
    x = noise(2, 3, 32, 32)
    with torch.inference_mode():
        close(again(x), theirs(x))


def test_weights_without_the_variants_biases_have_none_of_ours() -> None:
    generator, shape = load_generator(shaken(Unet(5, 2)).state_dict())
    assert not shape["down_bias"]
    assert [name for name in generator.state_dict() if name.endswith("conv.bias")] == ["up.4.conv.bias"]


@pytest.mark.parametrize(("levels", "blocks"), [(8, (2, 3, 4)), (7, (2, 3)), (5, ())])
def test_dropout_sits_where_the_reference_has_it(levels: int, blocks: tuple[int, ...]) -> None:
    generator, shape = load_generator(Unet(levels, 1).state_dict())
    assert shape["dropout_blocks"] == blocks
    assert tuple(n for n, up in enumerate(generator.up, 1) if up.dropout) == blocks


@pytest.mark.parametrize("layers", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(("width", "inputs"), [(2, 6), (3, 4)])
def test_any_discriminator_of_the_reference_is_read(layers: int, width: int, inputs: int) -> None:
    theirs = shaken(Patches(layers, width, inputs))
    side = 32 * max(1, 2 ** (layers - 2))
    x = noise(2, inputs, side, side)
    with torch.inference_mode():
        close(load_discriminator(theirs.state_dict())(x), theirs(x))
        close(load_discriminator(theirs.state_dict(), "instance")(x), alone(theirs, x))


@pytest.mark.parametrize("layers", [0, 3])
def test_a_discriminator_with_instance_norm_needs_no_statistics(layers: int) -> None:
    theirs = shaken(Patches(layers, 2, norm="instance"))
    assert not any("running" in name for name in theirs.state_dict())
    x = noise(2, 6, 64, 64)
    with torch.inference_mode():
        close(load_discriminator(theirs.state_dict())(x), theirs(x))


def test_the_prefix_of_several_gpus_is_taken_off() -> None:
    unet, patches = shaken(Unet(5, 2)), shaken(Patches(3, 2))
    x, pair = noise(1, 3, 32, 32), noise(1, 6, 64, 64)
    with torch.inference_mode():
        close(load_generator(nn.DataParallel(unet).state_dict(), "running")[0](x), unet(x))
        close(load_discriminator(nn.DataParallel(patches).state_dict())(pair), patches(pair))


def test_the_given_state_is_neither_changed_nor_shared() -> None:
    state = shaken(Unet(5, 2)).state_dict()
    before = copy.deepcopy(state)
    generator, _ = load_generator(state, "running")
    with torch.no_grad():
        for weight in generator.parameters():
            weight.zero_()
    assert all(torch.equal(state[name], before[name]) for name in before)


def test_half_precision_weights_are_read_as_float32() -> None:
    theirs = shaken(Unet(5, 2))
    generator, _ = load_generator(copy.deepcopy(theirs).half().state_dict(), "running")
    assert {value.dtype for value in generator.state_dict().values()} == {torch.float32}
    x = noise(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(generator(x), theirs(x), rtol=0, atol=1e-2)


# --- what the reference does not have ----------------------------------------------------------------


@pytest.mark.parametrize("variant", [{"architecture": "encoder-decoder"}, {"upsample": "resize"}])
def test_a_network_that_the_reference_does_not_have_is_refused(variant: dict[str, str]) -> None:
    with pytest.raises(UserError, match="only the U-Net with transposed convolutions"):
        generator_state(Generator(levels=5, channels=2, **variant))


def test_a_scale_that_the_references_instance_norm_does_not_have_is_refused() -> None:
    generator, _ = load_generator(shaken(Unet(5, 2, norm="instance")).state_dict())
    with torch.no_grad():
        generator.up[1].norm.weight[0] = 1.5
    with pytest.raises(UserError, match=r"^up\.1\.norm: the reference's instance norm has no scale"):
        generator_state(generator)


# --- what does not fit -------------------------------------------------------------------------------


def refusal(state: Mapping[str, Tensor], statistics: str = "instance", load: object = load_generator) -> str:
    assert callable(load)
    with pytest.raises(UserError) as refused:
        load(state, statistics)
    assert "\n" not in str(refused.value)
    return str(refused.value)


SMALL = {"unet": shaken(Unet(5, 2)).state_dict(), "patches": shaken(Patches(2, 2)).state_dict()}
LOADERS = {"unet": load_generator, "patches": load_discriminator}
NAMES = [
    (network, name)
    for network, state in SMALL.items()
    for name in state
    if not name.endswith("num_batches_tracked")
]


@pytest.mark.parametrize(("network", "name"), NAMES)
def test_every_missing_name_is_named(network: str, name: str) -> None:
    state = {key: value for key, value in SMALL[network].items() if key != name}
    line = refusal(state, "running", LOADERS[network])
    if (network, name) == ("patches", "model.8.weight"):
        assert line.startswith("model.5.weight: has shape"), "one layer less, whose last has one channel"
    else:
        assert line.startswith(f"{name}: missing")


@pytest.mark.parametrize(("network", "name"), NAMES)
def test_every_wrong_shape_is_named_with_the_right_one(network: str, name: str) -> None:
    wanted = SMALL[network][name]
    wrong = wanted.new_ones(wanted.shape[0] + 1, *wanted.shape[1:])
    line = refusal({**SMALL[network], name: wrong}, "running", LOADERS[network])
    if name in ("model.model.0.weight", "model.0.weight"):
        assert "has shape" in line and "expected" in line, "it decides the widths of all that follows"
    else:
        assert line == f"{name}: has shape {list(wrong.shape)}, expected {list(wanted.shape)}"


@pytest.mark.parametrize("network", SMALL)
def test_a_name_too_many_is_named(network: str) -> None:
    state = {**SMALL[network], "model.extra.weight": torch.zeros(2, 3)}
    assert refusal(state, "running", LOADERS[network]) == (
        "model.extra.weight: has shape [2, 3], expected none: unknown to this network"
    )


def test_a_resnet_of_the_reference_is_no_unet() -> None:
    state = {"model.1.weight": torch.zeros(64, 3, 7, 7), "model.1.bias": torch.zeros(64)}
    assert refusal(state) == (
        "model.model.0.weight: missing; the file begins with model.1.weight [64, 3, 7, 7], "
        "so it is no such network of the reference"
    )


def test_a_discriminator_is_no_generator_nor_the_other_way_round() -> None:
    assert refusal(SMALL["patches"]).startswith("model.model.0.weight: missing; the file begins with model.0")
    line = refusal(SMALL["unet"], "running", load_discriminator)
    assert line.startswith("model.0.weight: missing; the file begins with model.model.0.weight [2, 3, 4, 4]")


def test_a_unet_of_one_level_is_none() -> None:
    ends = {name: value for name, value in SMALL["unet"].items() if ".1.model" not in name}
    assert refusal(ends) == "model.model.1.model.1.weight: missing; this is no U-Net of the reference"


def test_an_empty_state_is_one_line() -> None:
    assert "the file is empty" in refusal({})


def test_running_statistics_that_are_not_there_are_not_invented() -> None:
    state = shaken(Unet(5, 2, norm="instance")).state_dict()
    line = refusal(state, "running")
    assert line.endswith("running_mean: missing; this file has no running statistics, use instance")
    load_generator(state, "instance")


def test_a_bias_in_front_of_running_statistics_is_refused_and_without_effect_otherwise() -> None:
    name = "model.model.1.model.1.bias"
    state = {**SMALL["unet"], name: torch.ones(4)}
    assert refusal(state, "running") == (
        f"{name}: in front of running statistics is not supported, use instance"
    )
    x = noise(1, 3, 32, 32)
    with torch.inference_mode():
        close(load_generator(state)[0](x), load_generator(SMALL["unet"])[0](x))


@pytest.mark.parametrize("network", SMALL)
def test_unknown_statistics_are_refused(network: str) -> None:
    line = refusal(SMALL[network], "batch", LOADERS[network])
    assert line == "statistics = 'batch': must be instance or running"


# --- files -------------------------------------------------------------------------------------------


def unreadable(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        read_state(path)
    line = str(refused.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_new_or_old_torch_is_read_as_it_was_written(tmp_path: Path, zipped: bool) -> None:
    path, state = tmp_path / "latest_net_G.pth", SMALL["unet"]
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    read = read_state(path)
    assert list(read) == list(state)
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_what_is_written_is_what_the_references_loader_reads(tmp_path: Path) -> None:
    path, ours = tmp_path / "new" / "latest_net_G.pth", shaken(Generator(levels=5, channels=2))
    write_state(path, generator_state(ours))
    theirs = Unet(5, 2)
    theirs.load_state_dict(torch.load(path, weights_only=True))
    x = noise(2, 3, 32, 32)
    with torch.inference_mode():
        close(alone(theirs, x), ours(x))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_missing_file_and_a_folder_are_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        assert unreadable(path) == "not found; give a latest_net_G.pth"


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("form", ["pickle", "zip", "legacy"])
def test_code_in_a_file_is_not_executed(tmp_path: Path, form: str) -> None:
    path, place = tmp_path / "latest_net_G.pth", tmp_path / "executed"
    bomb = {"weight": Bomb(place)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, path, _use_new_zipfile_serialization=form == "zip")
    assert unreadable(path).startswith("is not a plain file of weights (")
    assert not place.exists()
    if form == "pickle":
        pickle.loads(path.read_bytes())
        assert place.exists(), "the file must be one that would have"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_cut_off_file_is_one_line(tmp_path: Path, zipped: bool, kept: float) -> None:
    path = tmp_path / "latest_net_G.pth"
    torch.save(SMALL["unet"], path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert unreadable(path).startswith("is not a plain file of weights (")


@pytest.mark.parametrize("content", [b"garbage" * 99, b"<html>404</html>", b"\x80\x02", b"PK\x03\x04"])
def test_garbage_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "latest_net_G.pth"
    path.write_bytes(content)
    assert unreadable(path).startswith("is not a plain file of weights (")


@pytest.mark.parametrize(
    "content",
    [{}, [torch.zeros(2)], torch.zeros(2), {"state_dict": {"weight": torch.zeros(2)}}, {"epoch": 3}],
    ids=repr,
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "latest_net_G.pth"
    torch.save(content, path)
    assert unreadable(path) == "is not a state dict: names to tensors"


def test_the_discriminator_built_has_the_shape_that_was_read() -> None:
    ours = load_discriminator(shaken(Patches(4, 2)).state_dict())
    assert isinstance(ours, Discriminator)
    assert (ours.receptive_field_px, ours.convs[0].out_channels) == (142, 2)
    assert load_discriminator(shaken(Patches(0, 5)).state_dict()).receptive_field_px == 1
