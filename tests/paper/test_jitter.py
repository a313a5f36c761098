"""The row of jittered boxes: what it learns from, and that only the paper's experiment knows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from codepose.cli.main import main
from codepose.geometry import box_center, box_size, padded_square
from codepose.networks.build import build_extended
from codepose.networks.roi import roi_pool
from codepose.paper import jitter
from codepose.paper.jitter import jitter_stage, jittered_boxes
from codepose.settings.crop import ROI_PAD
from codepose.settings.schema import Settings
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World

CHANGES = {
    "losses.lambda_pose": 1.7,
    "losses.bootstrap_ratio": 5,
    "losses.look_alikes": 1,
    "data.scene_images": 12,
    "data.curriculum": 0.25,
    "data.occlusion.companions": 2,
    "step2.phases": [{"epochs": 1.0, "train": ["rpn"]}],
}


@pytest.fixture(name="settings")
def _settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(**CHANGES)


class Watched(nn.Module):
    """Keeps what a network is given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.given = network, []

    def forward(self, crops: Tensor) -> Any:
        self.given.append(crops)
        return self.network(crops)


def slow_mse(reconstructions: Tensor, targets: Tensor, ratio: int) -> Tensor:
    errors = (reconstructions - targets).square().flatten(1)
    return errors.sort(1, descending=True).values[:, : errors.shape[1] // ratio].mean()


def test_it_learns_from_true_boxes_moved_and_resized(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as Step 1's windows are, and never from the boxes as they are; companions count, too."""
    counts: list[float] = []
    monkeypatch.setattr(jitter, "mean_over", lambda value, count: (counts.append(float(count)), value)[1])
    torch.manual_seed(0)
    network = Watched(build_extended(settings))
    stage = jitter_stage(settings, World(settings), network.network)
    batch = stage.batch(torch.arange(4), 1.0)
    torch.manual_seed(7)
    total, terms = stage.loss(network, batch)
    poses = batch.poses(settings.data.occlusion.min_visible)
    assert counts == [len(poses.image)]
    assert len(poses.image) > 4
    torch.manual_seed(7)
    moved = jittered_boxes(poses.boxes, 0.15, (0.8, 1.2))
    crops, still = (
        roi_pool(batch.images, padded_square(boxes, ROI_PAD), poses.image, 32, stride=1)
        for boxes in (moved, poses.boxes)
    )
    (given,) = network.given
    assert given.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(given, crops)
    assert ((given - still).abs().amax((1, 2, 3)) > 0.1).all()
    error = slow_mse(network.network(crops)[1], poses.targets, 5)
    assert set(terms) == {"mse"}
    torch.testing.assert_close(terms["mse"], error, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(total, 1.7 * error, rtol=1e-4, atol=1e-6)


def test_its_stage_is_step_2s(settings: Settings) -> None:
    """As many images and iterations as Step 2, without its phases, look-alikes and curriculum."""
    network, world = build_extended(settings), World(settings)
    stage = jitter_stage(settings, world, network)
    assert (stage.name, stage.items, stage.curriculum, stage.group) == ("jitter", 12, 0.0, 1)
    assert stage.settings == settings.step2.model_copy(update={"phases": ()})
    assert stage.pretrained == ("encoder",)
    assert stage.groups.keys() == {"encoder"}
    assert stage.network is network
    some = torch.arange(2, 4)
    assert torch.equal(stage.batch(some, 1.0).images, SceneSource(world, "train").scenes(some).images)


def test_commands_do_not_offer_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--methods", "jitter"]) == 2
    assert "jitter" in capsys.readouterr().err


def test_jittered_boxes_stay_within_what_was_asked_for_and_reach_it() -> None:
    """Boxes of 20 x 40 pixels, moved by up to a quarter of 40 pixels each way, at 0.5 to 2 times their size."""
    torch.manual_seed(0)
    boxes = torch.tensor([10.0, 20.0, 30.0, 60.0]).expand(2, 4000, 4)
    found = jittered_boxes(boxes, 0.25, (0.5, 2.0))
    shift = box_center(found) - box_center(boxes)
    scale = box_size(found) / box_size(boxes)
    torch.testing.assert_close(scale[..., 0], scale[..., 1])  # one factor for both sides
    for values, low, high in ((shift[..., 0], -10.0, 10.0), (shift[..., 1], -10.0, 10.0), (scale[..., 0], 0.5, 2.0)):
        slack = 0.002 * (high - low)
        assert low - 1e-4 <= float(values.min()) < low + slack
        assert high - slack < float(values.max()) <= high + 1e-4
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.02 * (high - low))
    assert abs(float(torch.corrcoef(torch.stack((shift[..., 0].flatten(), shift[..., 1].flatten())))[0, 1])) < 0.05
    assert torch.equal(jittered_boxes(boxes, 0.0, (1.0, 1.0)), boxes)


def test_each_box_is_moved_by_its_own_size() -> None:
    torch.manual_seed(0)
    small, large = torch.tensor([0.0, 0.0, 4.0, 2.0]), torch.tensor([0.0, 0.0, 100.0, 300.0])
    boxes = torch.stack((small, large)).expand(500, 2, 4)
    moved = box_center(jittered_boxes(boxes, 0.5, (1.0, 1.0))) - box_center(boxes)
    assert moved.abs().amax((0, 2)).tolist() == pytest.approx([2.0, 150.0], rel=0.01)
