"""The benchmarks run, and what they write is what they measured; no time is asserted."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # benchmarks/ is not part of the installed package

from benchmarks import cells, gpus, scaling, tables, tracking  # noqa: E402
from benchmarks.iterations import Iterations  # noqa: E402
from benchmarks.subjects import build_world, chosen  # noqa: E402
from benchmarks.timing import (  # noqa: E402
    Case,
    Contestant,
    Options,
    Report,
    Spread,
    Target,
    Timing,
    interleaved,
    run_all,
    table,
)
from benchmarks.vsd_numpy import depth_numpy, vsd_numpy  # noqa: E402
from benchmarks.work import count_work  # noqa: E402
from codepose import geometry  # noqa: E402
from codepose.estimation.detection import Detection  # noqa: E402
from codepose.networks.build import build_extended  # noqa: E402
from codepose.settings.files import override  # noqa: E402
from codepose.settings.training import OptimizerSettings, StageSettings  # noqa: E402
from codepose.synthesis.scenes import SceneSource  # noqa: E402
from codepose.synthesis.world import World  # noqa: E402
from codepose.training.stages import step1_stage  # noqa: E402

NAMES = ("render", "vsd", "step1", "step2", "inference", "floor", "scaling", "codebook")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("benchmarks") / "new" / "all.json"
    command = [sys.executable, "-m", "benchmarks.all", "--quick", "--device", "cpu", "--threads", "1", "--json", path]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"\n{name} (" in done.stdout for name in NAMES)
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def test_work_is_what_was_computed_and_moved() -> None:
    a, b, image = torch.rand(8, 16), torch.rand(16, 4), torch.rand(2, 3, 10, 10)
    product = count_work(lambda: torch.mm(a, b))
    assert (product.flops, product.bytes) == (2 * 8 * 16 * 4, 4 * (8 * 16 + 16 * 4 + 8 * 4))
    assert count_work(lambda: image.view(2, 300).T.detach()).bytes == 0
    of_a_view = count_work(lambda: a[:1].expand(100, 16).neg())  # no more is read than there is
    assert of_a_view.bytes == 4 * (8 * 16 + 100 * 16)
    weight = torch.rand(5, 3, 3, 3, requires_grad=True)
    forward = count_work(lambda: torch.nn.functional.conv2d(image, weight))
    both = count_work(lambda: torch.nn.functional.conv2d(image, weight).sum().backward())
    assert forward.flops == 2 * 2 * 5 * 64 * 27
    assert both.flops == 2 * forward.flops  # the image needs no gradient
    assert both.bytes > 2 * forward.bytes


@pytest.mark.slow
def test_the_environment_is_told(results: dict[str, Any]) -> None:
    environment = results["environment"]
    assert environment["quick"] is True
    assert environment["threads"] == 1
    assert environment["device"] == "cpu"
    assert {"date", "commit", "command", "cpu", "python"} <= environment.keys()
    assert {"codepose", "torch", "warp-lang"} <= environment["versions"].keys()


@pytest.mark.slow
def test_every_benchmark_has_numbers(results: dict[str, Any]) -> None:
    assert tuple(b["name"] for b in results["benchmarks"]) == NAMES
    for benchmark in results["benchmarks"]:
        assert benchmark["cases"]
        for case in benchmark["cases"]:
            for one in case["contestants"]:
                assert len(one["seconds"]) == 2
                assert all(math.isfinite(s) and s > 0 for s in one["seconds"])
            for value in case["facts"].values():
                assert isinstance(value, str) or math.isfinite(value)


@pytest.mark.slow
def test_ratios_follow_from_the_times(results: dict[str, Any]) -> None:
    for case in (c for b in results["benchmarks"] for c in b["cases"]):
        contestants = {one["name"]: one for one in case["contestants"]}
        assert len(case["ratios"]) == len(contestants) - 1
        for ratio in case["ratios"]:
            ours, peer = contestants[ratio["of"]], contestants[ratio["against"]]
            rounds = zip(ours["seconds"], peer["seconds"], strict=True)
            wanted = [(theirs / peer["items"]) / (mine / ours["items"]) for mine, theirs in rounds]
            assert ratio["times_as_fast"]["median"] == pytest.approx(np.median(wanted))
            if "target" in ratio:
                assert ratio["target"]["met"] == (np.median(wanted) >= ratio["target"]["at_least"])


@pytest.mark.slow
def test_peers_take_part_or_are_said_to_be_missing(results: dict[str, Any]) -> None:
    benchmarks = {b["name"]: b for b in results["benchmarks"]}
    for benchmark, module, contestant in (
        ("render", "moderngl", "moderngl"),
        ("render", "embreex", "Embree"),
        ("codebook", "faiss", "faiss"),
    ):
        one = benchmarks[benchmark]
        took_part = any(c["name"].startswith(contestant) for case in one["cases"] for c in case["contestants"])
        assert took_part or any(contestant.lower() in reason for reason in one["skipped"])
        if module != "moderngl":  # which also needs EGL
            assert took_part == (importlib.util.find_spec(module) is not None)
    inference = benchmarks["inference"]["cases"][0]
    assert [r["target"]["at_least"] for r in inference["ratios"] if "target" in r] == [1 / 1.15, 1.5]


@pytest.mark.slow
def test_contestants_are_compared_doing_the_same(results: dict[str, Any]) -> None:
    facts: dict[str, Any] = {}
    for benchmark in results["benchmarks"]:
        for case in benchmark["cases"]:
            facts |= {f"{case['name']}: {k}": v for k, v in case["facts"].items()}
    differences = [v for k, v in facts.items() if k.endswith(": largest difference")]
    assert differences
    assert all(float(v) < 1e-9 for v in differences)  # VSD, batched and one by one
    proposals = [v for k, v in facts.items() if k.endswith("difference of their proposals") and "float32" in k]
    assert proposals
    assert all(float(v.split()[0]) < 1e-2 for v in proposals)  # pixels


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_point_of_a_full_series_has_valid_settings(device: str) -> None:
    options = Options(device=device, threads=2)
    base = scaling.chosen("paper-128-t1" if device == "cuda" else "quick", options)
    for axis, values in scaling._axes(options).items():
        for value in values:
            batch = value if axis == "batch" else 4
            assert scaling._changed(base, axis, value, batch).step2.batch == batch


def test_contestants_take_turns() -> None:
    order: list[str] = []
    contestants = [Contestant(n, lambda n=n: order.append(n), before=lambda: order.append("|")) for n in "ab"]
    timings = interleaved(contestants, Options(device="cpu", quick=True, rounds=3))
    assert "".join(order) == "|a|b" + "|a|b" * 3
    assert [len(t.seconds) for t in timings] == [3, 3]


def test_a_ratio_by_hand() -> None:
    # 10 images in 1, 2 and 4 s against 5 images in 1, 4 and 1 s: a round's ratio is that of the times an image
    case = Case(
        "case",
        "images/s",
        [Timing("ours", 10.0, [1.0, 2.0, 4.0]), Timing("peer", 5.0, [1.0, 4.0, 1.0])],
        {"peer": Target(2.5, "half as much again")},
    )
    assert case.ratio(case.timings[1]) == Spread(2.0, 1.25, 3.0)  # of 2, 4 and 0.5
    assert case.timings[0].rate == Spread(5.0, 3.75, 7.5)
    series = Case("series", "images/s", case.timings, growth=True)
    assert series.ratio(case.timings[1]) == Spread(0.5, 0.375, 1.25)  # of 1/2, 1/4 and 2
    text = table(Report("name", [case], ["moderngl: no EGL"]))
    assert "| 2.00 " in text
    assert "≥ 2.50 (half as much again): missed" in text
    assert text.endswith("\n\n- skipped: moderngl: no EGL")
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


@pytest.mark.parametrize(("key", "cost"), [("step_abs_d15", "step"), ("tlin_norm_d15", "tlinear")])
def test_the_plain_vsd_agrees_with_bop_toolkit(key: str, cost: Any) -> None:
    with np.load(ROOT / "tests" / "data" / "vsd_bracket.npz") as file:
        golden = dict(file)
    relative = "norm" in key
    taus = golden["taus_rel" if relative else "taus_abs"].tolist()
    diameter = float(golden["diameter"]) if relative else 1.0
    test = golden["depth_test"].astype(np.float64) * golden["depth_scale"]
    values = [
        vsd_numpy(estimated, gt, one, golden["K"], taus=taus, cost=cost, diameter=diameter)
        for estimated, gt, one in zip(golden["depth_est"], golden["depth_gt"], test, strict=True)
    ]
    np.testing.assert_allclose(values, golden[key], rtol=0, atol=1e-6)


def test_the_plain_z_buffer_sees_what_the_ray_caster_sees(world: World) -> None:
    """The same silhouette to the pixel, and the same depth: neither knows of the other's way."""
    scenes = SceneSource(world, "test").scenes(torch.arange(3))
    mesh, K = world.objects[0].mesh, scenes.K.double().numpy()
    cast = world.renderer.depth_alone(scenes.objects, scenes.R_cam_obj, scenes.t_cam_obj, scenes.K, (128, 128)).numpy()
    for i, depth in enumerate(cast):
        R, t = scenes.R_cam_obj[i].double().numpy(), scenes.t_cam_obj[i].double().numpy()
        painted = depth_numpy(mesh.vertices, mesh.faces, R, t, K, 128)
        assert (depth > 0).sum() > 50
        assert ((painted > 0) != (depth > 0)).sum() <= 1
        both = (painted > 0) & (depth > 0)
        np.testing.assert_allclose(painted[both], depth[both], rtol=1e-5)


def test_a_case_stops_when_its_time_is_up() -> None:
    calls: list[int] = []
    one = [Contestant("slow", lambda: calls.append(1))]
    assert len(interleaved(one, Options(device="cpu", quick=True, rounds=5, seconds=1e-9))[0].seconds) == 2
    assert len(interleaved(one, Options(device="cpu", quick=True, rounds=5, seconds=600.0))[0].seconds) == 5


def test_an_interrupted_run_goes_on_with_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[str] = []

    def section(name: str) -> Any:
        def run(options: Options) -> Report:
            ran.append(name)
            case = Case("case", "images/s", [Timing("ours", 10.0, [1.0, 2.0]), Timing("peer", 5.0, [1.0, 2.0])])
            return Report(name, [dataclasses.replace(case, facts={"GFLOP": 2.0})])

        run.__name__ = name
        return run

    path, sections = tmp_path / "new" / "gpus.json", [section(name) for name in "abc"]
    quick = Options(device="cpu", quick=True, json=path)
    run_all(sections[:2], quick, resume=True)
    results = run_all(sections, quick, resume=True)
    assert ran == ["a", "b", "c"]
    assert results["benchmarks"] == json.loads(path.read_text())["benchmarks"]
    # medians of 10 / 1 and 10 / 2; of 5 / 1 and 5 / 2; twice as fast in both rounds
    expected = ["  ours: 1,333 ms, 7.50 images/s", "  peer: 1,333 ms, 3.75 images/s, the first is 2.00 times as fast"]
    expected = ["c: case", *expected, "  GFLOP: 2.00"]
    assert gpus.lines(results)[-4:] == expected
    run_all(sections, dataclasses.replace(quick, quick=False), resume=True)  # in full: nothing of that was measured
    assert ran[3:] == ["a", "b", "c"]


@pytest.mark.slow
def test_every_section_of_the_gpus_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    path = tmp_path / "gpus.json"
    monkeypatch.setattr(sys, "argv", ["gpus", "--quick", "--device", "cpu", "--threads", "1", "--json", str(path)])
    gpus.main()
    sections = {section["name"]: section["cases"] for section in json.loads(path.read_text())["benchmarks"]}
    assert list(sections) == [section.__name__ for section in gpus.SECTIONS]
    for case in sections["renderer"]:  # the CPU against itself
        assert case["facts"]["largest difference of a depth"] == "0 mm"
    for step in sections["training_paper"] + sections["training_quick"]:
        assert step["facts"]["share of peak on the stored batch"] > 0.0  # how large depends on what else runs
    assert "refined pose: " in capsys.readouterr().out


@pytest.mark.slow
def test_the_cells_table_runs_with_tiny_networks(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["cells", "--quick"])
    cells.main()
    assert "step2, 4096-D:" in capsys.readouterr().out


def test_the_time_on_many_gpus_follows_from_the_work() -> None:
    """Ten iterations of eight images; on 64 GPUs the batch becomes 64, and the all-reduce costs what it moves."""
    plan = StageSettings(batch=8, epochs=1.0, optimizer=OptimizerSettings(name="sgd"))
    light = cells.Load(flops=cells.FLOPS, kept=2.0**30, fixed=0.0, parameters=0, plan=plan, items=80)
    assert [light.seconds(n) for n in (1, 8, 64)] == [80.0, 10.0, 1.25]
    assert [light.memory(n) / 2**30 for n in (1, 8, 64)] == [8.0, 1.0, 1.0]
    heavy = dataclasses.replace(light, flops=0.0, kept=0.0, parameters=10**9)
    assert heavy.seconds(1) == 0.0
    assert heavy.seconds(8) == pytest.approx(10 * 2 * 7 / 8 * 4e9 / cells.WITHIN)
    assert heavy.memory(1) == 12e9  # weights, gradients, momentum
    assert heavy.memory(8) == 16e9  # and DDP's buckets
    assert dataclasses.replace(heavy, fixed=1e9).memory(1) == 13e9


def test_a_tracked_sequence_is_counted_by_hand() -> None:
    """Two parts over six images, of which the third did not come: one changes its number, one comes back late."""

    def one(part: int, track: int, shift: float = 0.0, lost: bool = False) -> Detection:
        t = np.array([300.0 * part + shift, 0.0, 800.0])
        return Detection("part", 0, 0.9, 0.9, np.zeros(4), np.eye(3), t, track=track, lost=lost)

    frames = [
        [one(0, 1), one(1, 2)],
        [one(0, 1, 3.0), one(1, 2)],
        [one(0, 1, lost=True), one(1, 2, lost=True)],
        [one(0, 1), one(1, 2, lost=True), one(3, 3)],
        [one(0, 1, 3.0), one(1, 2)],
        [one(0, 1), one(1, 4)],
    ]
    places = np.array([[0.0, 0.0, 800.0], [300.0, 0.0, 800.0]])
    own = [tracking.owners(found, places, np.zeros(3), 100.0) for found in frames]
    assert own == [[0, 1], [0, 1], [-1, -1], [0, -1, -1], [0, 1], [0, 1]]
    told = tracking.figures(frames, own, range(2, 3))
    assert told["found"] == {0: 1.0, 1: 0.8}
    assert (told["switches"], told["images to recover"], told["other tracks"]) == (1, {0: 0, 1: 1}, 1)
    assert told["trembling, mm"] == pytest.approx(3.0 * math.sqrt(0.4 * 0.6))
    assert told["trembling, degrees"] == 0.0


def test_the_tracked_sequence_shows_the_parts_where_they_are(world: World) -> None:
    truth = tracking.known_poses(3)
    images = tracking.pictures(world, truth, seed=0)
    assert [image.shape for image in images] == [(512, 512, 3)] * 3
    empty = tracking.pictures(world, tracking.Truth(truth.R, truth.t + np.array([0, 0, 1e6])), seed=0)
    for image, ground, places in zip(images, empty, truth.t, strict=True):
        changed = np.abs(image.astype(int) - ground).max(axis=2) > 25
        pixels = np.round(places[:, :2] / places[:, 2:] * tracking.FOCAL + tracking.SIZE / 2).astype(int)
        assert ((pixels > 40) & (pixels < 472)).all()
        assert [changed[y - 20 : y + 20, x - 20 : x + 20].mean() > 0.1 for x, y in pixels] == [True] * 3
        assert 0.01 < changed.mean() < 0.2
    assert np.abs(truth.t[0, 0] - truth.t[2, 0]).max() == 0
    assert truth.t[0, 1, 0] < 0 < truth.t[2, 1, 0]


@pytest.mark.parametrize("name", ["adabound", "muon"])
def test_iterations_leave_the_weights_where_they_are(name: str) -> None:
    """Each does the same work as the first."""
    options = Options(device="cpu", quick=True)
    settings = override(chosen("quick", options), {"step1.optimizer.name": name})
    network = build_extended(settings)
    before = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
    timed = Iterations(step1_stage(settings, build_world(settings, options), network), settings, options)
    timed.run()
    timed.close()
    after = torch.cat([p.detach().flatten() for p in network.parameters()])
    assert 0.0 < float((after - before).abs().max()) < 1e-6


def test_parts_lie_on_rendered_tables_or_hang_before_them(world: World) -> None:
    part = world.objects[0]
    hull = part.mesh.hull.astype(np.float64)
    for hanging in (False, True):
        shown = tables.table(world, np.random.default_rng(3), hanging=hanging)
        assert 3 <= len(shown.R) <= 6
        assert shown.image.shape == (640, 640, 3)
        downs = np.einsum("nij,kj->nki", shown.R, part.rests[0])  # on a table one of them is the same for all
        tilts = np.degrees(np.arccos(np.clip(np.einsum("ki,nli->knl", downs[0], downs).max(2), -1.0, 1.0)))
        best = int(tilts.max(1).argmin())
        lowest = ((hull @ shown.R.transpose(0, 2, 1) + shown.t[:, None]) @ downs[0, best]).max(1)
        assert (tilts[best].max() < 0.1) != hanging
        assert (np.ptp(lowest) < 0.1) != hanging
        small, large = geometry.projected_box(
            *(torch.from_numpy(x) for x in (hull, shown.R, shown.t)), geometry.from_opencv(torch.from_numpy(shown.K))
        ).aminmax()
        assert small > 4
        assert large < 636


def test_what_a_plane_is_worth_is_counted_part_by_part(world: World) -> None:
    part = world.objects[0]
    middle, size = part.offset.double().numpy(), part.mesh.diameter
    R, t = np.stack([np.eye(3)] * 3), np.array([[0.0, 0.0, 900.0], [300.0, 0.0, 900.0], [-400.0, 0.0, 900.0]])
    shown = tables.Table(np.zeros((640, 640, 3), np.uint8), np.eye(3), R, t)
    found = [
        Detection("a", 0, 0.9, 0.9, np.zeros(4), R[0], place - middle)
        for place in (t[0] + [0.3 * size, 0.0, 0.0], t[0] + [0.0, 0.0, 0.1 * size], t[1] + [0.0, 0.04 * size, 0.0])
    ]
    assert tables.errors(part, shown, found) == pytest.approx([0.1, 0.04, 1.0])
    told = tables.summary([[0.3, 0.04], [0.15]], [[0.19, 0.04], [0.03]])
    assert (told["photos"], told["parts"]) == (2, 3)
    assert told["within 0.05"]["without"] == pytest.approx(1 / 3)
    assert told["within 0.2"] == {
        "without": pytest.approx(2 / 3),
        "by plane": pytest.approx(1.0),
        "difference": pytest.approx(1 / 3),
        "interval": pytest.approx([0.0, 0.5]),
    }
