"""Errors that know symmetries: a part turned onto itself lies right, in our own benchmark as in BOP's files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation
from torch import Tensor

from codepose import geometry
from codepose.api import Evaluation, evaluate
from codepose.bop.dataset import BopDataset
from codepose.bop.writer import write_dataset
from codepose.evaluation.equivalent_poses import PoseErrors, pose_errors
from codepose.evaluation.pose_errors import mssd, symmetry_transforms
from codepose.networks.build import build_joint
from codepose.parts.mesh import mesh_from_trimesh, save_mesh
from codepose.parts.symmetry_group import Symmetries
from codepose.runtime.run import Run
from codepose.settings.schema import Settings
from codepose.synthesis.objects import ObjectModel
from codepose.synthesis.world import World

AWAY = (40.0, -25.0, 10.0)
BOX, CYLINDER, PRISM, BALL, HAMMER = range(5)
SOLIDS = {
    "box": trimesh.creation.box(extents=(30.0, 60.0, 90.0)),
    "cylinder": trimesh.creation.cylinder(radius=20.0, height=70.0, sections=48),
    "prism": trimesh.creation.cylinder(radius=40.0, height=30.0, sections=3),  # turns about no box middle
    "ball": trimesh.creation.icosphere(subdivisions=2, radius=40.0),
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]) -> Settings:
    """Solids in CAD files whose origins lie far from them, and the hammer."""
    folder = tmp_path_factory.mktemp("cad")
    for name, solid in SOLIDS.items():
        save_mesh(mesh_from_trimesh(solid.copy().apply_translation(AWAY), name), folder / f"{name}.ply")
    objects = [{"mesh": str(folder / f"{name}.ply"), "view_cone_deg": 180.0} for name in SOLIDS]
    return make_settings(**{"objects": [*objects, {"mesh": "hammer"}], "codebook.in_plane": 12})


@pytest.fixture(scope="module")
def world(parts: Settings) -> World:
    return World(parts)


def poses(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    R = torch.from_numpy(Rotation.random(count, random_state=seed).as_matrix())
    t = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)).double() * 20
    return R, t + torch.tensor([0.0, 0.0, 700.0])


def measured(world: World, which: int, R: Tensor, t: Tensor, R_gt: Tensor, t_gt: Tensor) -> PoseErrors:
    objects = torch.full((len(R),), which)
    return pose_errors(world.objects, objects, R, t, R_gt, t_gt, world.K)


def after(model: ObjectModel, R: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Every pose after every symmetry, continuous ones by odd angles: (N * S, 3, 3) and (N * S, 3)."""
    every = symmetry_transforms(model.symmetries.to_bop(), step=0.37)
    turned = R[:, None] @ every[:, :3, :3]
    moved = t[:, None] + (R[:, None] @ every[:, :3, 3:])[..., 0]
    return turned.flatten(0, 1), moved.flatten(0, 1)


@pytest.mark.parametrize(("which", "size"), [(BOX, 4), (CYLINDER, 18), (PRISM, 6), (BALL, 27)])
def test_a_pose_turned_by_a_symmetry_has_no_error(world: World, which: int, size: int) -> None:
    model = world.objects[which]
    R_gt, t_gt = poses(3)
    R, t = after(model, R_gt, t_gt)
    assert len(R) == 3 * size
    truth = (R_gt.repeat_interleave(size, 0), t_gt.repeat_interleave(size, 0))
    errors = measured(world, which, R, t, *truth)
    assert float(errors.rotation_deg.max()) < 1e-4
    assert float(errors.translation_mm.max()) < 1e-4
    assert float(errors.mssd_mm.max()) < 1e-4
    assert float(errors.mspd_px.max()) < 1e-4
    plain = mssd(torch.from_numpy(model.mesh.hull), R, t, *truth)
    turned = geometry.geodesic_angle(R, truth[0]) > 0.1
    assert int(turned.sum()) >= 3 * (size - 3)
    assert float(plain[turned].min()) > 0.1 * model.mesh.diameter


@pytest.mark.parametrize("which", [BOX, CYLINDER, PRISM, BALL, HAMMER])
def test_a_shift_is_its_own_length_under_every_symmetry(world: World, which: int) -> None:
    model = world.objects[which]
    R_gt, t_gt = poses(2)
    R, t = after(model, R_gt, t_gt)
    shift = torch.tensor([3.0, -4.0, 12.0]).double()
    count = len(R) // 2
    errors = measured(world, which, R, t + shift, R_gt.repeat_interleave(count, 0), t_gt.repeat_interleave(count, 0))
    torch.testing.assert_close(errors.translation_mm, torch.full_like(errors.translation_mm, 13.0), atol=1e-4, rtol=0)
    assert float(errors.mssd_mm.max()) < 13.0 + 1e-4
    torch.testing.assert_close(errors.mssd_share, errors.mssd_mm / model.mesh.diameter)


def test_without_symmetries_the_errors_are_the_plain_ones(world: World) -> None:
    R, t = poses(6)
    R_gt, t_gt = poses(6, seed=1)
    errors = measured(world, HAMMER, R.float(), t.float(), R_gt.float(), t_gt.float())
    plain = geometry.geodesic_angle(R.float(), R_gt.float()).rad2deg()
    assert torch.equal(errors.rotation_deg, plain.double())
    assert torch.equal(errors.translation_mm, (t.float() - t_gt.float()).norm(dim=1).double())
    hull = torch.from_numpy(world.objects[HAMMER].mesh.hull)
    torch.testing.assert_close(errors.mssd_mm, mssd(hull, R, t, R_gt, t_gt), atol=1e-3, rtol=0)


def test_objects_of_a_batch_are_measured_each_by_its_own_symmetries(world: World) -> None:
    R_gt, t_gt = poses(1)
    half = torch.from_numpy(Rotation.from_euler("z", 180, degrees=True).as_matrix())
    objects = torch.tensor([HAMMER, BOX, HAMMER, CYLINDER])
    truth = (R_gt.expand(4, 3, 3), t_gt.expand(4, 3))
    errors = pose_errors(world.objects, objects, truth[0] @ half, truth[1], *truth, world.K)
    np.testing.assert_allclose(errors.rotation_deg, [180.0, 0.0, 180.0, 0.0], atol=1e-4)


# the benchmark


@pytest.fixture(scope="module")
def evaluation(parts: Settings, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """An untrained network on a round part, and its oracle."""
    settings = parts.model_copy(update={"objects": parts.objects[CYLINDER : CYLINDER + 1]})
    settings = settings.model_copy(update={"detection": settings.detection.model_copy(update={"score": 0.0})})
    run = Run.create(tmp_path_factory.mktemp("run") / "run", settings)
    torch.manual_seed(0)
    run.save_weights("step2", build_joint(settings))
    return evaluate(run, images=6, device="cpu")


def test_the_oracle_is_within_a_grid_step_of_a_pose_that_looks_the_same(evaluation: Evaluation) -> None:
    results = evaluation.results
    oracle = results.methods["oracle"]
    assert max(oracle.rotation_deg) < 30.0, "36 degrees between views, 30 in the plane"
    assert max(oracle.mssd_share) < 0.3
    joint = results.methods["joint + GT box"]
    assert min(j - o for j, o in zip(joint.rotation_deg, oracle.rotation_deg, strict=True)) > -1.0
    assert max(joint.rotation_deg) <= 90.0 + 1e-6, "no two axes without direction are further apart"


def test_results_and_table_have_the_new_numbers(evaluation: Evaluation) -> None:
    summary: dict[str, Any] = json.loads(evaluation.json_path.read_text())
    lines = list(csv.DictReader(evaluation.csv_path.read_text().splitlines()))
    for name, row in summary["methods"].items():
        own = [line for line in lines if line["method"] == name]
        assert len(own) == 6
        for percent in (10, 20):
            within = [line["mssd_share"] != "" and float(line["mssd_share"]) < percent / 100 for line in own]
            assert row[f"mssd_recall_{percent}"] == pytest.approx(sum(within) / 6)
        found = [line for line in own if line["mssd_mm"]]
        diameter = math.hypot(40.0, 70.0)
        for line in found:
            assert float(line["mssd_mm"]) / diameter == pytest.approx(float(line["mssd_share"]), rel=2e-3)
            assert float(line["mspd_px"]) > 0.0
    assert summary["methods"]["oracle"]["mssd_recall_20"] > summary["methods"]["joint"]["mssd_recall_20"]


def test_results_and_report_say_which_symmetries_were_assumed(evaluation: Evaluation) -> None:
    group = Symmetries.from_bop(evaluation.summary["symmetries"]["cylinder"])
    np.testing.assert_allclose(group.continuous[0].offset[:2], AWAY[:2], atol=1e-3)
    page = (evaluation.json_path.parents[1] / "report.html").read_text()
    assert "looks the same after any turn about z; 180 degrees about" in page


# BOP's files


def test_a_dataset_is_written_with_its_objects_symmetries(world: World, tmp_path: Path) -> None:
    write_dataset(world, tmp_path, images=1)
    dataset = BopDataset.open(tmp_path)
    assert [len(m.symmetries) for m in dataset.models.values()] == [4, 2 * 315, 6, 3 * 315, 1]
    infos: dict[str, Any] = json.loads((tmp_path / "models" / "models_info.json").read_text())
    for number, model in enumerate(world.objects, start=1):
        back = Symmetries.from_bop(infos[str(number)])
        np.testing.assert_allclose(back.discrete, model.cad_symmetries.discrete, atol=1e-6)
        assert len(back.continuous) == len(model.symmetries.continuous)
    for number, model in list(dataset.models.items())[:3]:  # the symmetries are of the vertices as written
        vertices = np.column_stack([model.vertices(), np.ones(len(model.vertices()))])
        for transform in model.symmetries[:: max(1, len(model.symmetries) // 6)].numpy():
            moved = vertices @ transform.T
            gaps = np.linalg.norm(moved[:, None] - vertices[None], axis=2).min(axis=1)
            assert gaps.max() < (0.02 * model.diameter if number == 2 else 1e-2)
