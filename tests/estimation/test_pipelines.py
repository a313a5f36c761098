"""What the pipelines give their networks: the baselines' crops, and the joint network's boxes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from codepose.estimation import pipelines
from codepose.estimation.pipelines import JointPipeline, TwoStagePipeline
from codepose.networks.build import build_joint
from codepose.settings.schema import Settings

CPU = torch.device("cpu")


class Watched(nn.Module):
    """An autoencoder that keeps the crops it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.crops: list[Tensor] = []

    def encode(self, images: Tensor) -> Tensor:
        self.crops.append(images)
        return images.mean((2, 3))

    def decode(self, latents: Tensor) -> Tensor:
        return latents[:, :, None, None].expand(-1, 3, 4, 4)


@pytest.mark.parametrize("pad", [1.0, 1.3, 2.0])
def test_a_baselines_crop_is_the_padded_square_around_the_box(
    tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch, pad: float
) -> None:
    """Each pixel of these images says where it is: so does each pixel of a crop of 32 px."""
    monkeypatch.setattr(pipelines, "ROI_PAD", pad)
    network = Watched()
    pipeline = TwoStagePipeline(None, network, tiny_settings, CPU)
    y, x = torch.meshgrid(torch.arange(128) + 0.5, torch.arange(128) + 0.5, indexing="ij")
    images = torch.stack((torch.stack((x, y, torch.zeros(128, 128))), torch.stack((x, y, torch.ones(128, 128)))))
    boxes = torch.tensor([[40.0, 50.0, 80.0, 70.0], [54.0, 30.0, 74.0, 62.0]])
    codes = pipeline.latents(pipeline.prepare(images), boxes, torch.tensor([1, 0]))
    steps = (torch.arange(32) + 0.5) / 32 - 0.5
    for crop, center, side, image in zip(network.crops[0], ((60, 60), (64, 46)), (40, 32), (1, 0), strict=True):
        torch.testing.assert_close(crop[0], (center[0] + steps * side * pad).expand(32, 32), atol=1e-3, rtol=0)
        torch.testing.assert_close(crop[1], (center[1] + steps * side * pad)[:, None].expand(32, 32), atol=1e-3, rtol=0)
        assert (crop[2] == image).all()
    torch.testing.assert_close(codes[:, :2], boxes.unflatten(1, (2, 2)).mean(1), atol=1e-3, rtol=0)


def test_the_joint_pipelines_codes_are_the_networks_of_the_boxes_as_they_are(tiny_settings: Settings) -> None:
    torch.manual_seed(0)
    network = build_joint(tiny_settings)
    pipeline = JointPipeline(network, tiny_settings, CPU)
    images, boxes = torch.rand(2, 3, 128, 128), torch.tensor([[40.0, 50.0, 80.0, 70.0], [54.0, 30.0, 74.0, 62.0]])
    codes = pipeline.latents(pipeline.prepare(images), boxes, torch.tensor([1, 0]))
    expected = network.latents(network.encoder(images), boxes, torch.tensor([1, 0]))
    torch.testing.assert_close(codes, expected, rtol=1e-4, atol=1e-4)
    larger = network.latents(
        network.encoder(images), boxes + torch.tensor([-9.0, -9.0, 9.0, 9.0]), torch.tensor([1, 0])
    )
    assert (codes - larger).norm() > 0.05 * codes.norm()
