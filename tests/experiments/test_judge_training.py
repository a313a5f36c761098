"""What the judge is trained on: true poses, symmetries, errors as the photo shows them."""

from __future__ import annotations

import math

import pytest
import torch
import trimesh
from kornia.geometry.conversions import axis_angle_to_rotation_matrix
from torch import Tensor

from codepose.networks.pose_judge import SIDE, PoseJudge, Verdict, crop_cameras
from codepose.parts.mesh import mesh_from_trimesh
from codepose.parts.shapes import distractors
from codepose.rendering.renderer import Instances
from experiments.judge.hypotheses import Hypotheses, loss, nearest_truth, propose
from experiments.judge.lookalikes import look_alikes
from experiments.judge.parts import Parts, random_rotations
from experiments.judge.scenes import Photographer, Scenes

CPU = torch.device("cpu")
NOTHING = (torch.eye(3)[None], torch.zeros(1, 3))


@pytest.fixture(scope="module")
def prism() -> Parts:
    """A three-sided prism, which looks the same after a third of a turn about an axis beside its box's middle."""
    solid = trimesh.creation.cylinder(30.0, 20.0, sections=3)
    mesh = mesh_from_trimesh(solid, "prism")
    axis = -torch.from_numpy(solid.bounds.mean(0)).float()
    turns = axis_angle_to_rotation_matrix(torch.tensor([[0.0, 0, 0], [0, 0, math.tau / 3], [0, 0, -math.tau / 3]]))
    return Parts.of([mesh.moved(-mesh.center)], [(turns, axis - turns @ axis)], CPU)


@pytest.fixture(scope="module")
def camera() -> Photographer:
    torch.manual_seed(0)
    meshes = distractors()
    return Photographer(Parts.of(meshes, [NOTHING] * len(meshes), CPU), torch.rand(3, 3, 64, 64))


@pytest.fixture(scope="module")
def scenes(camera: Photographer) -> Scenes:
    torch.manual_seed(1)
    return camera.shoot(16)


def _truth(count: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.zeros(count, dtype=torch.long), random_rotations(count, CPU), torch.tensor([[3.0, 4, 500]] * count)


def test_a_pose_turned_by_a_symmetry_is_the_truth(prism: Parts):
    part, R, t = _truth(5)
    seen_R, seen_t = R @ prism.turns[0, 1], t + R @ prism.shifts[0, 1]
    target_R, target_t, largest, mean = nearest_truth(prism, part, seen_R, seen_t, R, t)
    torch.testing.assert_close(target_R, seen_R)
    torch.testing.assert_close(target_t, seen_t)
    assert max(largest.max(), mean.max()) < 1e-5
    turned = nearest_truth(prism, part, R @ prism.turns[0, 1], t, R, t)
    assert turned[2].min() > 0.05, "the axis lies beside the middle"


def test_errors_are_as_large_as_the_photo_shows_them(prism: Parts):
    part, R, t = _truth(1)
    side = nearest_truth(prism, part, R, t + torch.tensor([[5.0, 0.0, 0.0]]), R, t)
    assert side[2].item() == pytest.approx(5.0 / prism.diameters[0].item(), rel=0.1)
    nearer = nearest_truth(prism, part, R, t * 0.9, R, t)
    farthest = (prism.points[0] @ R[0].T)[:, :2].norm(dim=1).max() / prism.diameters[0]
    assert nearer[2].item() == pytest.approx(farthest.item() / 9.0, rel=0.15)  # it looks a ninth larger


def test_crops_show_the_part_where_the_pose_says(camera: Photographer, scenes: Scenes):
    assert scenes.photos.shape == (16, 3, SIDE, SIDE)
    assert 0.0 <= scenes.photos.min() < scenes.photos.max() <= 1.0
    assert ((scenes.visible >= 0) & (scenes.visible <= 1)).all()
    assert scenes.visible.median() > 0.8
    box = camera.parts.boxes(scenes.part, scenes.R, scenes.t) * scenes.focal[:, None]  # in sides of the crop
    assert box.abs().max() < 0.62, "the whole part is in the crop, roughly"
    sides = (box[:, 2:] - box[:, :2]).amax(1)
    assert ((sides > 1 / 1.9) & (sides < 1 / 1.05)).all()


def test_the_true_pose_of_a_bare_part_differs_from_the_background_where_it_is(camera: Photographer):
    torch.manual_seed(3)
    found = camera.shoot(40)
    tried = propose(camera.parts, found, 1)
    inside = tried.renders[:, 4] > 0
    edges = (found.photos[:, :, 1:, 1:] - found.photos[:, :, :-1, :-1]).abs().mean(1)
    close = tried.largest < 0.05
    outline = inside[:, 1:, 1:] != inside[:, :-1, :-1]
    on = (edges * outline).sum((1, 2)) / outline.sum((1, 2))
    assert (on[close] / edges.mean((1, 2))[close]).median() > 1.3, "near the truth outlines lie on the photo's edges"


def _moves(tried: Hypotheses, scenes: Scenes, share: float) -> Verdict:
    """What a network would say that knows everything (1), or nothing (0)."""
    relative = tried.target_R @ tried.R.mT
    angle = ((relative.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1).acos()
    axis = torch.stack([relative[:, i, j] - relative[:, j, i] for i, j in ((2, 1), (0, 2), (1, 0))], 1)
    vector = axis / (2.0 * angle.sin()).clamp_min(1e-6)[:, None] * angle[:, None]
    shift = (tried.target_t[:, :2] / tried.target_t[:, 2:] - tried.t[:, :2] / tried.t[:, 2:]) * scenes.focal[
        tried.crop
    ][:, None]
    thresholds = torch.tensor([0.05, 0.1, 0.2, 0.35])
    logits = (tried.largest[:, None] < thresholds).float() * 40.0 - 20.0
    depth = (tried.target_t[:, 2] / tried.t[:, 2]).log()
    return Verdict(logits * share, shift * share, depth * share, vector * share)


def test_the_loss_is_nothing_where_all_is_known_and_motions_lead_to_the_target(camera: Photographer, scenes: Scenes):
    torch.manual_seed(4)
    tried = propose(camera.parts, scenes, 3)
    known, unknown = (loss(camera.parts, scenes, tried, _moves(tried, scenes, share)) for share in (1.0, 0.0))
    assert known["loss"] < 0.02
    assert known["after"] < 0.02 * known["before"]
    assert unknown["loss"] > 0.7
    assert unknown["after"] == pytest.approx(unknown["before"].item(), rel=1e-3)
    assert unknown["score"].item() == pytest.approx(math.log(2.0))


def test_an_untrained_network_learns_one_batch(camera: Photographer, scenes: Scenes):
    torch.manual_seed(5)
    tried = propose(camera.parts, scenes, 1)
    network = PoseJudge()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(5):
        terms = loss(camera.parts, scenes, tried, network(scenes.photos[tried.crop], tried.renders))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(terms["loss"].item())
    assert losses[-1] < 0.92 * losses[0]


def test_look_alikes_are_wrong_and_look_right(camera: Photographer, scenes: Scenes):
    """Their masks overlap the true one more than those of poses anyhow, in a box that is as large and in its place."""
    torch.manual_seed(3)
    parts = camera.parts
    crop, R, t = look_alikes(parts, scenes, 40, 4)
    assert crop.tolist() == [i for i in range(16) for _ in range(4)]
    torch.testing.assert_close(R @ R.mT, torch.eye(3).expand_as(R), atol=1e-4, rtol=0)
    assert (torch.linalg.det(R) > 0).all(), "a mirrored part is no pose"
    boxes, true = parts.boxes(scenes.part[crop], R, t), parts.boxes(scenes.part, scenes.R, scenes.t)[crop]
    sides = (true[:, 2:] - true[:, :2]).prod(1).sqrt()
    off = ((boxes[:, :2] + boxes[:, 2:]) - (true[:, :2] + true[:, 2:])).norm(dim=1) / 2 / sides
    larger = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt() / sides
    assert off.median() < 0.03
    assert off.max() < 0.12
    assert (larger.log().abs() < 0.15).all()
    random = random_rotations(len(crop), CPU)
    alike, anyhow = (_overlap(parts, scenes, crop, turned, t) for turned in (R, random))
    assert alike.mean() > anyhow.mean() + 0.15
    wrong = nearest_truth(parts, scenes.part[crop], R, t, scenes.R[crop], scenes.t[crop])[2] > 0.2
    assert wrong.float().mean() > 0.4


def _overlap(parts: Parts, scenes: Scenes, crop: Tensor, R: Tensor, t: Tensor) -> Tensor:
    """IoU of the masks of poses and of the true ones."""

    def mask(R: Tensor, t: Tensor) -> Tensor:
        single = Instances.single(scenes.part[crop], R, t)
        return parts.renderer.depth(single, crop_cameras(scenes.focal[crop], 64), (64, 64)) > 0

    own, true = mask(R, t), mask(scenes.R[crop], scenes.t[crop])
    return (own & true).sum((1, 2)) / (own | true).sum((1, 2))


def test_look_alikes_come_first_and_poses_near_the_truth_last(camera: Photographer, scenes: Scenes):
    torch.manual_seed(4)
    tried = propose(camera.parts, scenes, 3, alike=4)
    assert tried.crop.tolist() == [i for n in (4, 3, 2) for i in range(16) for _ in range(n)]
    near = tried.largest[-32:]
    assert near.median() < 0.15
    assert tried.largest[:64].median() > 2 * near.median()
