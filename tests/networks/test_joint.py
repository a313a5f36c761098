"""The points on which the joint network stands or falls: its boxes, its RoIs, its gradients (15-20)."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from codepose.geometry import padded_square
from codepose.networks.boxes import best_proposals
from codepose.networks.build import build_joint
from codepose.networks.detector import Proposals
from codepose.networks.joint import JointNetwork
from codepose.networks.roi import roi_pool
from codepose.settings.crop import ROI_PAD
from codepose.settings.schema import Settings
from codepose.synthesis.batches import SceneBatch
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World
from codepose.training.stages import targets_of


@pytest.fixture(scope="module")
def scenes(world: World) -> SceneBatch:
    return SceneSource(world, "train").scenes(torch.arange(4))


def network(settings: Settings) -> JointNetwork:
    torch.manual_seed(0)
    made = build_joint(settings)
    made.min_iou = 0.0
    return made.train()


def test_box_fed_back_is_a_detection_and_never_the_ground_truth(
    tiny_settings: Settings, scenes: SceneBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, seen = network(tiny_settings), {}
    best, refine = net.heads.rpn.best, net.heads.refine

    def spy_best(*args):
        seen["proposals"] = best(*args)
        seen["copies"] = seen["proposals"].boxes.clone()
        return seen["proposals"]

    def spy_refine(features, boxes, labels, size):
        seen["chosen"] = boxes
        return refine(features, boxes, labels, size)

    monkeypatch.setattr(net.heads.rpn, "best", spy_best)
    monkeypatch.setattr(net.heads, "refine", spy_refine)
    out = net(scenes.images, targets_of(scenes), scenes.poses(0.4))
    assert torch.equal(seen["proposals"].boxes, seen["copies"]), "sampling changed the proposals in place"
    assert seen["proposals"].valid.any(1).all()
    for i, (valid, boxes) in enumerate(zip(seen["proposals"].valid, seen["copies"], strict=True)):
        truth, before = scenes.boxes[i : i + 1], boxes[valid]
        overlaps = box_iou(before, truth)[:, 0]
        assert float(overlaps.max()) < 1.0, "the ground truth is among the proposals"
        assert torch.equal(seen["chosen"][i][0], before[overlaps.argmax()])
        assert float((out.boxes[i].detach() - truth[0]).abs().max()) > 1e-3, "the ground truth was fed back"


def test_the_box_heads_sample_does_hold_the_ground_truth(
    tiny_settings: Settings, scenes: SceneBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap that (15) is about: taken from there, 'largest IoU' would always be the ground truth."""
    net, seen = network(tiny_settings), []
    forward = net.heads.roi_heads.forward

    def spy(features, boxes, *rest):
        seen.append(boxes)
        return forward(features, boxes, *rest)

    monkeypatch.setattr(net.heads.roi_heads, "forward", spy)
    far = torch.tensor([0.0, 0.0, 9.0, 9.0]).expand(len(scenes.boxes), 3, 4)
    proposals = Proposals(far, torch.ones(far.shape[:2], dtype=torch.bool))
    net.heads.head_losses(net.encoder(scenes.images), proposals, (128, 128), targets_of(scenes))
    for boxes, truth in zip(seen[0], scenes.boxes, strict=True):
        assert (boxes == truth).all(1).any()


def test_moving_the_ground_truth_cannot_move_the_box_fed_back(tiny_settings: Settings, scenes: SceneBatch) -> None:
    """With a single proposal to choose from, the box fed back does not depend on the ground truth at all."""
    net = network(tiny_settings)
    only = torch.tensor([20.0, 30.0, 60.0, 70.0]).expand(2, 1, 4)
    features = net.encoder(scenes.images[:2])
    results = []
    for truth in (scenes.boxes[:2, None], scenes.boxes[:2, None] + 3.0):
        chosen, found = best_proposals(only, torch.ones(2, 1, dtype=torch.bool), truth)
        assert found.all()
        results.append(net.heads.refine(features, chosen, torch.ones(2, 1, dtype=torch.long), (128, 128)))
    assert torch.equal(results[0], results[1])


def test_an_image_without_proposals_is_left_out(
    tiny_settings: Settings, scenes: SceneBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first image has none; its own are taken from it."""
    net = network(tiny_settings)
    best = net.heads.rpn.best

    def without(*args):
        found = best(*args)
        valid = found.valid.clone()
        valid[0] = False
        return found._replace(valid=valid)

    monkeypatch.setattr(net.heads.rpn, "best", without)
    out = net(scenes.images, targets_of(scenes), scenes.poses(0.4))
    assert out.used.tolist() == [False, True, True, True]
    sum(out.losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_roi_of_a_whole_crop_is_step_1s_feature_map_and_latent(tiny_settings: Settings) -> None:
    """Through RoIAlign, Step 1's FC weights see exactly what they were trained on (8)."""
    net = network(tiny_settings).eval()
    crop = torch.rand(2, 3, 32, 32)
    features = net.encoder(crop)
    squares = torch.tensor([[0.0, 0.0, 32.0, 32.0]]).expand(2, 4)
    for learns in (True, False):
        with torch.set_grad_enabled(learns):
            pooled = roi_pool(features, squares, torch.arange(2), net.side, 16)
        torch.testing.assert_close(pooled, features, rtol=1e-5, atol=1e-5)
    direct = net.autoencoder.encode(crop)
    boxes = squares.clone()
    boxes[:, :2] += 16.0 - 16.0 / ROI_PAD
    boxes[:, 2:] -= 16.0 - 16.0 / ROI_PAD
    torch.testing.assert_close(padded_square(boxes, ROI_PAD), squares)
    through = net.latents(features, boxes, torch.arange(2))
    torch.testing.assert_close(through, direct, rtol=1e-4, atol=1e-4)


def test_roi_in_a_scene_differs_from_the_crop_by_border_effects_only(make_settings) -> None:
    """The same pixels in a larger, neutral image: what differs comes from the zero padding at the crop's border.

    At the paper's crop of 128 px without norms, with random weights, the latents agree to a cosine above 0.95;
    the RoI one stride aside does not.
    """
    settings = make_settings(
        **{"network.crop": 128, "network.norm": "none", "data.camera.image_size": 256, "data.camera.focal": 150.0}
    )
    net = network(settings).eval()
    torch.manual_seed(1)
    yy, xx = torch.meshgrid(torch.linspace(-1, 1, 128), torch.linspace(-1, 1, 128), indexing="ij")
    window = (1.0 - (xx**2 + yy**2)).clamp(0, 1)  # an object in the middle, neutral at the border
    mean = net.autoencoder.encoder.mean
    crop = mean + (torch.rand(1, 3, 128, 128) - mean) * window
    scene = mean.expand(1, 3, 256, 256).clone()
    scene[:, :, 64:192, 64:192] = crop
    features = net.encoder(scene)
    square = torch.tensor([[64.0, 64.0, 192.0, 192.0]])
    with torch.no_grad():
        direct = net.autoencoder.encode(crop)
        inside = net.autoencoder.head.encode(roi_pool(features, square, torch.zeros(1).long(), net.side, 16))
        aside = net.autoencoder.head.encode(roi_pool(features, square + 16.0, torch.zeros(1).long(), net.side, 16))
    cosine = torch.nn.functional.cosine_similarity
    assert float(cosine(direct, inside)) > 0.95
    assert float(cosine(direct, aside)) < 0.8


def test_gradient_of_the_reconstruction_reaches_what_it_should(tiny_settings: Settings, scenes: SceneBatch) -> None:
    net = network(tiny_settings)
    net(scenes.images, targets_of(scenes), scenes.poses(0.4)).losses["mse"].backward()

    def moved(module: torch.nn.Module) -> bool:
        return any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in module.parameters())

    assert moved(net.autoencoder.encoder)
    assert moved(net.autoencoder.head)
    assert moved(net.autoencoder.decoder)
    assert not moved(net.heads.roi_heads)
    assert not moved(net.heads.rpn)


def test_poor_detections_are_left_out_of_the_reconstruction_loss(tiny_settings: Settings, scenes: SceneBatch) -> None:
    net = network(tiny_settings)
    net.min_iou = 1.1
    out = net(scenes.images, targets_of(scenes), scenes.poses(0.4))
    assert not out.used.any()
    assert float(out.losses["mse"].detach()) == 0.0
    assert set(out.losses) == {"rpn_objectness", "rpn_box", "head_class", "head_box", "mse"}


def test_detections_are_boxes_inside_the_image_with_scores(tiny_settings: Settings, scenes: SceneBatch) -> None:
    net = network(tiny_settings).eval()
    net.heads.score = 0.0
    with torch.no_grad():
        features, found = net.detect(scenes.images)
    assert features.shape == (4, 64, 8, 8)
    for one in found:
        assert len(one["boxes"]) > 0
        assert float(one["boxes"].min()) >= 0.0
        assert float(one["boxes"].max()) <= 128.0
        assert (one["scores"].diff() <= 0).all()
        assert (one["labels"] == 1).all()


def test_boxes_stay_float32_under_bf16(tiny_settings: Settings, scenes: SceneBatch) -> None:
    """bf16 coordinates are a pixel off at 256: boxes and anchors must never be rounded to it."""
    net = network(tiny_settings)
    found: list[torch.Tensor] = []
    net.heads.rpn.register_forward_hook(lambda *call: found.extend(call[-1]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(scenes.images, targets_of(scenes), scenes.poses(0.4))
    assert out.boxes.dtype == torch.float32
    rounded = out.boxes.detach().bfloat16().float()
    assert (rounded != out.boxes.detach()).float().mean() > 0.5
    assert [values.dtype for values in found] == [torch.float32] * 3


def test_clean_views_are_encoded_beside_the_scenes_when_asked(tiny_settings: Settings, scenes: SceneBatch) -> None:
    net = network(tiny_settings)
    net.view_canvas = 0
    assert net(scenes.images, targets_of(scenes), scenes.poses(0.4)).view_latents is None
    net.view_canvas = 64
    out = net(scenes.images, targets_of(scenes), scenes.poses(0.4))
    assert out.view_latents is not None
    assert out.view_latents.shape == out.latents.shape
    # the crop itself, up to what its border sees: black on a canvas, nothing on its own
    direct = net.autoencoder.encode(scenes.targets)
    net.view_canvas = 32
    same = net.view_latents(scenes.targets, 32)
    torch.testing.assert_close(same, direct, rtol=1e-4, atol=1e-4)
    grad = torch.autograd.grad(out.view_latents.sum(), net.autoencoder.head.to_latent.weight)[0]
    assert float(grad.abs().max()) > 0
