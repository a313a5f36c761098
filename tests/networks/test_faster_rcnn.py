"""Faster R-CNN, written once, is torchvision's: the same proposals, losses, gradients and detections."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import box_iou, roi_align

from codepose.networks import faster_rcnn
from codepose.networks.boxes import Targets
from codepose.networks.detector import Detector, Proposals
from codepose.networks.faster_rcnn import FasterRCNN
from codepose.networks.vgg import Encoder

SIZE = 128
ANCHORS, RATIOS = (16.0, 32.0, 64.0), (0.5, 1.0, 2.0)


def random_heads(channels: int = 6, classes: int = 3, **changes: Any) -> FasterRCNN:
    numbers = {"box_head": 16, "proposals": 200, "roi_samples": 128, "roi_sampling": 2, "score": 0.05, "nms": 0.5}
    shapes = {"anchor_sizes": ANCHORS, "aspect_ratios": RATIOS, "per_object": 10}
    made = FasterRCNN(channels, classes, **numbers | shapes | changes)
    with torch.no_grad():  # boxes that leave the image, and scores that differ
        made.rpn.head.bbox_pred.weight.mul_(20.0)
        made.roi_heads.box_predictor.bbox_pred.weight.mul_(40.0)
        made.roi_heads.box_predictor.cls_score.weight.mul_(20.0)
    return made


class Aligned(nn.Module):
    """torchvision's pooling in the form that ``RoIHeads`` asks for."""

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        scale = x["0"].shape[-1] / image_shapes[0][1]
        return roi_align(x["0"], boxes, 7, scale, sampling_ratio=2, aligned=True)


class Twin(nn.Module):
    """torchvision's parts, image by image, with the paper's numbers and the weights of ours."""

    def __init__(self, made: FasterRCNN, channels: int = 6, classes: int = 3, width: int = 16) -> None:
        super().__init__()
        count = made.proposals
        self.rpn = RegionProposalNetwork(
            AnchorGenerator((ANCHORS,), (RATIOS,)),
            RPNHead(channels, len(ANCHORS) * len(RATIOS)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 2 * count, "testing": count},
            post_nms_top_n={"training": count, "testing": max(1, count // 2)},
            nms_thresh=0.7,
        )
        self.roi_heads = RoIHeads(
            Aligned(),
            TwoMLPHead(channels * 49, width),
            FastRCNNPredictor(width, classes),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=made.roi_samples,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=made.score,
            nms_thresh=made.nms,
            detections_per_img=100_000,
        )
        self.load_state_dict(made.state_dict())

    def forward(self, features: Tensor, size: tuple[int, int]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        sizes = [size] * len(features)
        proposals, _ = self.rpn(ImageList(torch.zeros(len(features), 3, *size), sizes), {"0": features})
        return proposals, self.roi_heads({"0": features}, proposals, sizes)[0]


def scene() -> tuple[Tensor, Targets]:
    """Three images, with two objects, one and none; whatever box stands where there is none does not count."""
    torch.manual_seed(1)
    corner = torch.rand(3, 2, 2) * 68
    boxes = torch.cat((corner, corner + 20 + 40 * torch.rand(3, 2, 2)), -1)
    return torch.randn(3, 6, 8, 8, requires_grad=True), Targets(boxes, torch.tensor([[1, 2], [0, 2], [0, 0]]))


@pytest.fixture(params=range(4))
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[FasterRCNN, Twin]:
    """Ours and theirs, in training, that take all there is instead of a sample."""
    torch.manual_seed(request.param)
    made = random_heads(proposals=150, roi_samples=400).train()
    theirs = Twin(made).train()
    monkeypatch.setattr(faster_rcnn, "RPN_SAMPLES", 2000)
    monkeypatch.setattr(faster_rcnn, "HEAD_SHARE", 0.5)
    theirs.rpn.fg_bg_sampler = BalancedPositiveNegativeSampler(2000, 0.5)
    theirs.roi_heads.fg_bg_sampler = BalancedPositiveNegativeSampler(400, 0.5)
    return made, theirs


def test_losses_and_gradients_are_torchvisions(pair: tuple[FasterRCNN, Twin]) -> None:
    (made, twin), (features, targets) = pair, scene()
    losses, proposals = made.losses(features, (SIZE, SIZE), targets)
    images = ImageList(torch.zeros(3, 3, SIZE, SIZE), [(SIZE, SIZE)] * 3)
    boxes, theirs = twin.rpn(images, {"0": features}, targets.split())
    for own, valid, other in zip(proposals.boxes, proposals.valid, boxes, strict=True):
        assert len(other) == int(valid.sum())
        torch.testing.assert_close(own[valid], other, atol=1e-4, rtol=1e-5)
    lists = [own[valid] for own, valid in zip(*proposals, strict=True)]
    theirs |= twin.roi_heads({"0": features}, lists, [(SIZE, SIZE)] * 3, targets.split())[1]
    names = {
        "rpn_objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "head_class": "loss_classifier",
        "head_box": "loss_box_reg",
    }
    assert set(losses) == set(names)
    for name, other in names.items():
        torch.testing.assert_close(losses[name], theirs[other], atol=1e-5, rtol=1e-5)
        assert losses[name] > 0
    gradients = [
        torch.autograd.grad(sum(terms.values()), [features, *network.parameters()])
        for network, terms in ((made, losses), (twin, theirs))
    ]
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_proposals_and_detections_are_torchvisions(seed: int) -> None:
    """Also where regressions throw boxes out of the image, with any threshold, and where images are not square."""
    torch.manual_seed(seed)
    count = (200, 1, 7)[seed % 3]
    made = random_heads(proposals=count, score=0.3 * (seed % 2), nms=0.3 + 0.1 * (seed % 3), per_object=100_000)
    twin, features, size = Twin(made).eval(), torch.randn(3, 6, 8, 12), (128, 192)
    with torch.no_grad():
        proposals, detections = twin(features, size)
        ours = made.propose(features, size)
        for own, valid, theirs in zip(*ours, proposals, strict=True):
            torch.testing.assert_close(own[valid], theirs, atol=1e-3, rtol=1e-5)
        found = made.detect(features, size)
    assert count == 1 or sum(len(one["labels"]) for one in found) > 3
    for own, theirs in zip(found, detections, strict=True):
        torch.testing.assert_close(own["scores"], theirs["scores"])
        torch.testing.assert_close(own["boxes"], theirs["boxes"], atol=1e-3, rtol=1e-5)
        assert own["labels"].tolist() == theirs["labels"].tolist()


def test_initial_weights_are_torchvisions() -> None:
    """Drawn in the same order, too: a seed means what it meant."""
    torch.manual_seed(0)
    made = FasterRCNN(
        6, 3, anchor_sizes=ANCHORS, aspect_ratios=RATIOS, box_head=16, proposals=9, roi_samples=8, roi_sampling=1,
        score=0.0, nms=0.5, per_object=1,
    )  # fmt: skip
    torch.manual_seed(0)
    rpn = RPNHead(6, 9)
    box_head, predictor = TwoMLPHead(6 * 49, 16), FastRCNNPredictor(16, 3)
    parts = {"rpn.head": rpn, "roi_heads.box_head": box_head, "roi_heads.box_predictor": predictor}
    wanted = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    own = made.state_dict()
    assert own.keys() == wanted.keys()
    assert all(torch.equal(own[key], wanted[key]) for key in wanted)


def test_the_box_head_is_trained_on_as_many_boxes_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty-two of 128 are positive where there are so many, and none is drawn twice."""
    made, seen = random_heads(), []
    features, targets = scene()
    near = targets.boxes[:, :1] + torch.rand(3, 60, 4)  # far more than may be taken
    corner = torch.rand(3, 150, 2) * 68
    many = torch.cat((near, torch.cat((corner, corner + 4 + 56 * torch.rand(3, 150, 2)), -1)), 1)
    proposals = Proposals(many, torch.ones(many.shape[:2], dtype=torch.bool))
    real = made.roi_heads.forward
    monkeypatch.setattr(
        made.roi_heads, "forward", lambda f, boxes, *rest: (seen.append(boxes), real(f, boxes, *rest))[1]
    )
    made.head_losses(features, proposals, (SIZE, SIZE), targets)
    assert seen[0].shape == (3, 128, 4)
    for own in seen[0]:
        assert len(own.unique(dim=0)) == 128
    truth = targets.boxes[0]
    assert int((box_iou(seen[0][0], truth).amax(1) >= 0.5).sum()) == 32


def test_the_rpn_is_trained_on_as_many_anchors_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each image's 576 anchors on 256, of which half are positive where there are so many."""
    made, (features, targets) = random_heads(), scene()
    anchored = made.rpn(features.detach(), (SIZE, SIZE))
    anchored = anchored._replace(objectness=torch.zeros(3, 576, requires_grad=True))
    kind = torch.zeros(3, 576, dtype=torch.long)
    kind[:, :400] = 1
    monkeypatch.setattr(faster_rcnn, "match", lambda *_, **__: (torch.zeros_like(kind), kind))
    made.rpn.losses(anchored, targets)["rpn_objectness"].backward()
    assert anchored.objectness.grad is not None
    pulled = anchored.objectness.grad.sign()
    assert (pulled != 0).sum(1).tolist() == [256] * 3
    assert (pulled[:, :400] < 0).sum(1).tolist() == [128] * 3


def test_images_need_not_be_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proposals and detections reach all four sides, and go no further."""
    torch.manual_seed(0)
    heads = random_heads(8, proposals=1000, per_object=1000, score=0.0, anchor_sizes=(16.0, 32.0))
    detector = Detector(Encoder(8 / 512), heads).eval()
    images = torch.rand(2, 3, 64, 160)
    with torch.no_grad():
        proposals = heads.propose(detector.encoder(images), (64, 160))
        inside = proposals.boxes[proposals.valid]
        assert inside.amin(0).tolist()[:2] == [0.0, 0.0]
        assert inside.amax(0).tolist()[2:] == [160.0, 64.0]
        found = detector.detect(images)
    boxes = torch.cat([one["boxes"] for one in found])
    assert boxes.amin(0).tolist()[:2] == [0.0, 0.0]
    assert boxes.amax(0).tolist()[2:] == [160.0, 64.0]
    sizes: list[tuple[int, int]] = []
    real = heads.losses
    monkeypatch.setattr(heads, "losses", lambda f, size, t: (sizes.append(size), real(f, size, t))[1])
    detector.train()(images, Targets(torch.rand(2, 1, 4), torch.ones(2, 1, dtype=torch.long)))
    assert sizes == [(64, 160)]


def test_each_object_has_its_own_limit() -> None:
    """Twenty sure detections of one object leave the others theirs."""
    heads = random_heads(classes=4, per_object=3, score=0.01)
    place = torch.arange(26.0)
    labels = torch.tensor([2] * 20 + [1, 3, 1, 1, 1, 3])
    scores = torch.zeros(26, 4)
    scores[place.long(), labels] = 1.0 - place / 100
    corner = 10 * place[:, None].expand(-1, 2)
    decoded = torch.cat((corner, corner + 5), 1)[:, None].expand(-1, 4, 4)
    found = heads._best(decoded, scores, heads.nms)
    assert (found["boxes"][:, 0] / 10).tolist() == [0, 1, 2, 20, 21, 22, 23, 25]
    assert found["labels"].tolist() == [2, 2, 2, 1, 3, 1, 1, 3]
    assert (found["scores"].diff() < 0).all()


def test_a_detector_finds_no_more_of_each_object_than_asked_for() -> None:
    torch.manual_seed(0)
    few, many = (random_heads(per_object=k, nms=0.9, score=0.0).eval() for k in (2, 1000))
    many.load_state_dict(few.state_dict())
    features = torch.randn(2, 6, 8, 8)
    with torch.no_grad():
        found = zip(few.detect(features, (SIZE, SIZE)), many.detect(features, (SIZE, SIZE)), strict=True)
    for short, long in found:
        for label in (1, 2):
            best = long["boxes"][long["labels"] == label]
            assert len(best) > 2
            torch.testing.assert_close(short["boxes"][short["labels"] == label], best[:2])


def test_detections_overlap_by_no_more_than_was_asked_for() -> None:
    torch.manual_seed(0)
    strict, loose = (random_heads(per_object=1000, nms=iou, score=0.0).eval() for iou in (0.3, 0.9))
    loose.load_state_dict(strict.state_dict())
    features, size = torch.randn(1, 6, 8, 8), (SIZE, SIZE)
    with torch.no_grad():
        (few,), (many,), (own,) = (
            strict.detect(features, size),
            strict.detect(features, size, 0.9),
            loose.detect(features, size),
        )
    assert len(few["boxes"]) < len(many["boxes"])
    torch.testing.assert_close(many, own)


def test_an_image_in_which_nothing_is_likely_has_no_detections() -> None:
    """Beside one in which something is, and alone."""
    torch.manual_seed(0)
    heads, features = random_heads(score=0.0).eval(), torch.randn(2, 6, 8, 8)
    with torch.no_grad():
        best = [float(found["scores"].max()) for found in heads.detect(features, (SIZE, SIZE))]
        less = best.index(min(best))
        heads.score = sum(best) / 2
        both, alone = (heads.detect(some, (SIZE, SIZE)) for some in (features, features[less : less + 1]))
    assert len(both[1 - less]["labels"]) > 0
    for none in (both[less], alone[0]):
        assert (none["boxes"].shape, none["labels"].shape, none["scores"].shape) == ((0, 4), (0,), (0,))
        assert none["labels"].dtype == torch.long
