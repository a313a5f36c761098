"""A step of the joint network against a slow twin, box by box: what is fed back, and what is learned from it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, clip_boxes_to_image, roi_align

from codepose.networks import joint
from codepose.networks.boxes import Targets
from codepose.networks.build import build_joint
from codepose.networks.detector import Proposals
from codepose.networks.joint import JointNetwork
from codepose.settings.crop import ROI_PAD
from codepose.settings.schema import Settings
from codepose.synthesis.batches import ScenePoses

HEIGHT, WIDTH, CROP = 96, 160, 32
IMAGES = torch.tensor([0, 0, 1])
BOXES = torch.tensor([[70.0, 20.0, 156.0, 90.0], [10.0, 30.0, 60.0, 74.0], [4.0, 6.0, 88.0, 60.0]])
OBJECTS = torch.tensor([0, 1, 1])


@pytest.fixture(scope="module")
def net(make_settings: Callable[..., Settings]) -> JointNetwork:
    """Two objects, each of whose boxes is decoded by regressions of its own, that leave the image."""
    changes = {"losses.bootstrap_ratio": 3, "network.roi_sampling": 2}
    objects = [{"mesh": "hammer"}, {"mesh": "hammer", "label": "other"}]
    torch.manual_seed(0)
    made = build_joint(make_settings(objects=objects, **changes)).train()
    made.min_iou = 0.0
    with torch.no_grad():
        made.heads.roi_heads.box_predictor.bbox_pred.weight.mul_(30.0)
        made.heads.roi_heads.box_predictor.bbox_pred.bias.copy_(torch.linspace(-0.6, 0.6, 12))
    return made


def step(net: JointNetwork, monkeypatch: pytest.MonkeyPatch) -> tuple[joint.JointOutput, Proposals, Tensor, ScenePoses]:
    """The output, the proposals, the images, and what is to be learned."""
    torch.manual_seed(1)
    images = torch.rand(2, 3, HEIGHT, WIDTH)
    labels = torch.tensor([[1, 2], [2, 0]])
    targets = Targets(torch.stack((BOXES[:2], torch.stack((BOXES[2], torch.zeros(4))))), labels)
    slots = torch.tensor([0, 1, 0])
    poses = ScenePoses(IMAGES, slots, 2, OBJECTS, BOXES, torch.eye(3).expand(3, 3, 3), torch.rand(3, 3, CROP, CROP))
    seen: list[Proposals] = []
    best = net.heads.rpn.best
    with monkeypatch.context() as patched:
        patched.setattr(net.heads.rpn, "best", lambda *args: (seen.append(best(*args)), seen[0])[1])
        return net(images, targets, poses), seen[0], images, poses


def slow_box(net: JointNetwork, features: Tensor, proposals: Tensor, truth: Tensor, label: int) -> Tensor:
    """The best proposal of an image, through the box head; before it is clipped."""
    best = proposals[box_iou(proposals, truth[None])[:, 0].argmax()][None]
    heads = net.heads.roi_heads
    pooled = roi_align(features[None], [best], 7, 1 / 16, sampling_ratio=2, aligned=True)
    _, regression = heads.box_predictor(heads.box_head(pooled))
    return BoxCoder((10.0, 10.0, 5.0, 5.0)).decode_single(regression[:, 4 * label : 4 * label + 4], best)[0]


def slow_latents(net: JointNetwork, features: Tensor, boxes: Tensor) -> Tensor:
    """Codes of one box of each image."""
    center, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) * ROI_PAD
    squares = torch.cat((center - side / 2, center + side / 2), 1)
    bins = [
        roi_align(one[None], [square[None]], CROP // 16, 1 / 16, sampling_ratio=1, aligned=True)
        for one, square in zip(features, squares, strict=True)
    ]
    return net.autoencoder.head.encode(torch.cat(bins))


def test_the_boxes_fed_back_are_detections_of_their_own_class_inside_the_image(
    net: JointNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, proposals, images, _ = step(net, monkeypatch)
    features = net.encoder(images)
    right, bottom = proposals.boxes[proposals.valid].amax(0).tolist()[2:]
    assert bottom == HEIGHT, "proposals reach the image's edge and go no further"
    assert WIDTH - 1 < right <= WIDTH
    clipped = 0
    for i, (image, truth, number) in enumerate(zip(IMAGES, BOXES, OBJECTS, strict=True)):
        mine = proposals.boxes[image][proposals.valid[image]]
        background, own = (slow_box(net, features[image], mine, truth, label) for label in (0, int(number) + 1))
        inside = clip_boxes_to_image(own, (HEIGHT, WIDTH))
        clipped += not torch.equal(inside, own)
        torch.testing.assert_close(out.boxes[i], inside, rtol=1e-4, atol=1e-3)
        assert (inside - clip_boxes_to_image(background, (HEIGHT, WIDTH))).abs().max() > 1.0
        torch.testing.assert_close(out.iou[i], box_iou(inside[None], truth[None])[0, 0], rtol=1e-4, atol=1e-4)
    assert clipped > 0


def test_codes_and_reconstructions_are_those_of_the_boxes_fed_back_and_not_of_the_truth(
    net: JointNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _, images, poses = step(net, monkeypatch)
    features = net.encoder(images)[IMAGES]
    torch.testing.assert_close(out.latents, slow_latents(net, features, out.boxes.detach()), rtol=1e-4, atol=1e-4)
    from_truth = slow_latents(net, features, BOXES)
    assert (out.latents - from_truth).norm(dim=1).min() > 0.1 * from_truth.norm(dim=1).mean()
    torch.testing.assert_close(out.reconstructions, net.autoencoder.decode(out.latents))
    assert out.used.all()
    errors = (out.reconstructions - poses.targets).square().flatten(1)
    largest = errors.sort(1, descending=True).values[:, : errors.shape[1] // 3].mean(1)
    torch.testing.assert_close(out.losses["mse"], largest.mean())


def test_only_boxes_that_overlap_enough_are_learned_from(net: JointNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """An overlap of exactly ``min_iou`` is enough, and the mean is over those."""
    out, *_ = step(net, monkeypatch)
    order = out.iou.argsort(descending=True)
    for count in (1, 2):
        monkeypatch.setattr(net, "min_iou", float(out.iou[order[count - 1]].detach()))
        again, _, _, poses = step(net, monkeypatch)
        assert again.used.nonzero()[:, 0].tolist() == sorted(order[:count].tolist())
        errors = (again.reconstructions - poses.targets).square().flatten(1)
        largest = errors.sort(1, descending=True).values[:, : errors.shape[1] // 3].mean(1)
        torch.testing.assert_close(again.losses["mse"], largest[again.used].mean())


@pytest.mark.parametrize("canvas", [CROP, 64, 65])
def test_a_clean_views_code_is_that_of_the_middle_of_a_black_canvas(net: JointNetwork, canvas: int) -> None:
    views = torch.rand(2, 3, CROP, CROP)
    black = torch.zeros(2, 3, canvas, canvas)
    first = (canvas - CROP) // 2
    black[:, :, first : first + CROP, first : first + CROP] = views
    square = torch.tensor([[first, first, first + CROP, first + CROP]]).float()
    pooled = roi_align(net.encoder(black), [square, square], CROP // 16, 1 / 16, sampling_ratio=1, aligned=True)
    torch.testing.assert_close(
        net.view_latents(views, canvas), net.autoencoder.head.encode(pooled), rtol=1e-4, atol=1e-4
    )


def test_a_clean_views_square_is_not_rounded_to_bf16(net: JointNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """259 is no bf16 number."""
    seen: list[Tensor] = []
    monkeypatch.setattr(joint, "roi_pool", lambda f, squares, *rest: (seen.append(squares), f[:, :, :2, :2])[1])
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        net.view_latents(torch.rand(1, 3, CROP, CROP), 550)
    assert seen[0].tolist() == [[259.0, 259.0, 291.0, 291.0]]
