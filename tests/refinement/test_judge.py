"""The learned judge: crop cameras by rendering, ranking and moving with a network that is known."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from codepose import geometry
from codepose.networks.pose_judge import SIDE, PoseJudge, Verdict, render_channels
from codepose.parts.symmetry_group import Symmetries
from codepose.refinement.judge import Crops, JudgeRefiner, crop
from codepose.refinement.judge_weights import SHIPPED, load_network, shipped_judge
from codepose.refinement.poses import Photos, Poses, Seen
from codepose.rendering.renderer import Instances
from codepose.settings.files import load_preset
from codepose.synthesis.world import World

ZERO = torch.zeros(1, dtype=torch.long)


def _photo(world: World, R: Tensor, t: Tensor, K: Tensor, size: int) -> Tensor:
    """The part's normals as a picture, (1, 3, size, size)."""
    seen = world.renderer.render(Instances.single(ZERO, R, t), K[None], (size, size))
    return (0.5 + 0.5 * seen.normal * (seen.depth > 0)[..., None]).permute(0, 3, 1, 2)


@pytest.mark.parametrize("place", [(0.0, 0.0), (0.45, -0.3)])
def test_a_crop_camera_sees_the_part_as_its_own_render_has_it(world: World, place: tuple[float, float]):
    size, K = 1920, geometry.camera_matrix(1500.0, 960.0, 930.0, fy=1560.0)
    z = 8.0 * float(world.diameters[0])
    t = torch.tensor([[place[0] * z, place[1] * z, z]])
    R = geometry.offaxis_rotation(t) @ geometry.view_rotation(torch.tensor([[0.6, 0.48, 0.64]]), torch.tensor([0.7]))
    photo = _photo(world, R, t, K, size)
    box = world.boxes(ZERO, R, t, K)
    seen = crop(photo, ZERO, box, ZERO, K, torch.tensor([size, size]))
    judge = JudgeRefiner(world, nn.Identity())
    own_t = (seen.turn.mT @ t[..., None]).squeeze(-1)
    assert float(own_t[0, :2].norm() / own_t[0, 2]) < 0.03, "the crop camera looks at the box"
    render = judge._renders(seen, ZERO, seen.turn.mT @ R, own_t)[0]
    mask = render[4] > 0
    turned = torch.einsum("ij,jhw->ihw", seen.turn[0], render[:3])  # normals in the photo's camera
    assert 0.02 < mask.float().mean() < 0.6
    in_photo = (seen.photos[0] - 0.5).abs().sum(0) > 0.15
    overlap = (mask & in_photo).sum() / (mask | in_photo).sum()
    assert overlap > 0.9
    error = (turned - (seen.photos[0] * 2.0 - 1.0)).abs().mean(0)[mask & in_photo]
    assert error.median() < 0.05
    columns = mask.any(0).nonzero().squeeze(1)
    rows = mask.any(1).nonzero().squeeze(1)
    side = max(columns.max() - columns.min(), rows.max() - rows.min()).item() + 1
    assert side == pytest.approx(SIDE / 1.4, rel=0.12), "the box's longer side over the crop's is PAD"


@pytest.mark.parametrize(("side", "samples"), [(80.0, 1), (250.0, 3), (500.0, 4)])
def test_a_crop_reads_the_photo_along_its_cameras_rays(side: float, samples: int):
    """Pixel by pixel: the mean of some bilinear samples; beyond what is shown, the photo goes on as it ends."""
    size, shown = (500, 400), (430, 380)
    images = torch.rand(2, 3, size[1], size[0], generator=torch.Generator().manual_seed(0))
    K = geometry.camera_matrix(400.0, 260.0, 190.0, fy=420.0)
    boxes = torch.tensor([[90.0, 70.0, 90.0 + 0.6 * side, 70.0 + side], [300.0, 250.0, 300.0 + side, 250.0 + side / 2]])
    order, objects = torch.tensor([1, 0]), torch.tensor([4, 2])
    found = crop(images, order, boxes, objects, K, torch.tensor(shown))
    assert found.objects.tolist() == [4, 2]
    exact, random = K.double().numpy(), np.random.default_rng(0)
    for row in range(2):
        x0, y0, x1, y1 = boxes[row].double().tolist()
        ray = np.linalg.solve(exact, [(x0 + x1) / 2, (y0 + y1) / 2, 1.0])
        turn = geometry.offaxis_rotation(torch.from_numpy(ray)).numpy()
        across = max((x1 - x0) / 400.0, (y1 - y0) / 420.0) * 1.4 / np.linalg.norm(ray)
        np.testing.assert_allclose(found.turn[row], turn, atol=1e-6)
        assert float(found.focal[row]) == pytest.approx(1.0 / across, rel=1e-5)
        picture = images[order[row]].double().numpy()
        for i, j in random.integers(0, SIDE, (12, 2)):
            values = []
            for a, b in np.ndindex(samples, samples):
                u, v = ((k * samples + c + 0.5) / (SIDE * samples) - 0.5 for k, c in ((j, a), (i, b)))
                x, y, z = exact @ turn @ [u * across, v * across, 1.0]
                place = np.clip([x / z - 0.5, y / z - 0.5], 0.0, [shown[0] - 1, shown[1] - 1])
                (c, r), (fx, fy) = place.astype(int), place % 1.0
                c2, r2 = min(c + 1, size[0] - 1), min(r + 1, size[1] - 1)
                upper = picture[:, r, c] * (1 - fx) + picture[:, r, c2] * fx
                values.append(upper * (1 - fy) + (picture[:, r2, c] * (1 - fx) + picture[:, r2, c2] * fx) * fy)
            np.testing.assert_allclose(found.photos[row, :, i, j], np.mean(values, axis=0), atol=2e-3)


def test_crops_are_taken_from_the_finest_photos(world: World):
    random = torch.Generator().manual_seed(0)
    fine = torch.rand(1, 3, 512, 512, generator=random)
    K, box = geometry.camera_matrix(400.0, 128.0, 128.0), torch.tensor([[60.0, 70.0, 200.0, 150.0]])
    nothing, size = torch.zeros(1, 3, 32, 32), torch.tensor([256, 192])
    seen = Seen(torch.zeros(1, 3, 256, 256), ZERO, box, ZERO, K, nothing, size, Photos(fine, torch.tensor([2.0, 2.0])))
    expected = crop(fine, ZERO, 2 * box, ZERO, geometry.camera_matrix(800.0, 256.0, 256.0), 2 * size)
    torch.testing.assert_close(JudgeRefiner(world, nn.Identity()).crops(seen).photos, expected.photos)


class Known(nn.Module):
    """Knows the true pose by the mean of the render's depth channel: scores and moves towards a given distance."""

    def __init__(self) -> None:
        super().__init__()
        self.compared = 0

    def forward(self, photos: Tensor, renders: Tensor) -> Verdict:
        self.compared += len(renders)
        mask = renders[:, 4]
        area = mask.mean((1, 2))
        goal = photos[:, 0].mean((1, 2))  # the photo says how large the part should look
        off = (area / goal).log() / 2.0
        logits = (2.0 - 40.0 * off.abs())[:, None].expand(-1, 4)
        return Verdict(logits, off.new_zeros(len(off), 2), off, off.new_zeros(len(off), 3))


def _looked_at(world: World, R: Tensor, t: Tensor) -> tuple[Seen, Poses]:
    """A black photo of the part's box, and its pose."""
    K = geometry.camera_matrix(400.0, 128.0, 128.0)
    size = torch.tensor([256, 256])
    seen = Seen(torch.zeros(1, 3, 256, 256), ZERO, world.boxes(ZERO, R, t, K), ZERO, K, torch.zeros(1, 3, 32, 32), size)
    return seen, Poses.start(geometry.offaxis_rotation(t).mT @ R[None], t[None], torch.zeros(1, 1))


class Painted(JudgeRefiner):
    """Sees crops as bright as the truth's render is large, which ``Known`` reads."""

    brightness = 0.0

    def crops(self, seen: Seen) -> Crops:
        found = super().crops(seen)
        found.photos[:] = self.brightness
        return found


def _painted(world: World, network: nn.Module, rounds: tuple[int, ...], seen: Seen, truth: Poses) -> Painted:
    judge = Painted(world, network, rounds)
    crops = judge.crops(seen)
    own_t = (crops.turn.mT @ truth.t[0, :, :, None]).squeeze(-1)
    judge.brightness = float(judge._renders(crops, ZERO, crops.turn.mT @ truth.R[0], own_t)[0, 4].mean())
    return judge


def test_poses_are_ranked_moved_and_the_best_compared_come_back(world: World):
    z = 6.0 * float(world.diameters[0])
    R = geometry.view_rotation(torch.tensor([[0.6, 0.48, 0.64]]), torch.tensor([0.7]))
    t = torch.tensor([[0.1 * z, 0.0, z]])
    seen, truth = _looked_at(world, R, t)
    network = Known()
    judge = _painted(world, network, (3, 2, 1), seen, truth)
    starts = t[:, None] * torch.tensor([0.7, 1.3, 1.15, 0.6])[None, :, None]
    similarity = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    found = judge(seen, Poses.start(truth.R_view.expand(1, 4, 3, 3), starts, similarity))
    assert network.compared == 4 + 3 + 2 + 1
    assert found.t.shape == (1, 1, 3)
    torch.testing.assert_close(found.t[0, 0], t[0], rtol=0.02, atol=0.02 * z)
    torch.testing.assert_close(found.R[0, 0], R[0], atol=1e-4, rtol=0)
    assert found.score[0, 0].item() > 1.0
    assert torch.equal(found.judged, found.score)
    which = (similarity[0] == found.similarity[0, 0]).nonzero().item()
    torch.testing.assert_close(found.boxed[0, 0], starts[0, which])  # a pose keeps what it began at


def test_a_pose_that_a_move_would_spoil_is_kept(world: World):
    class Spoiling(Known):
        def forward(self, photos: Tensor, renders: Tensor) -> Verdict:
            said = super().forward(photos, renders)
            return said._replace(log_depth=said.log_depth + 0.3)

    z = 6.0 * float(world.diameters[0])
    R = geometry.view_rotation(torch.tensor([[0.6, 0.48, 0.64]]), torch.tensor([0.7]))
    seen, truth = _looked_at(world, R, torch.tensor([[0.0, 0.0, z]]))
    found = _painted(world, Spoiling(), (1, 1), seen, truth)(seen, truth)
    assert found.t[0, 0, 2].item() == pytest.approx(z, rel=1e-4)


class Looking(nn.Module):
    """Says of each pose, and where it should go, what follows from its own photo and render alone."""

    def forward(self, photos: Tensor, renders: Tensor) -> Verdict:
        means = torch.cat((photos.mean((2, 3)), renders.mean((2, 3))), 1)  # (M, 11)
        logits = torch.stack([(means * torch.arange(k, k + 11)).sum(1).sin() for k in range(4)], 1)
        return Verdict(3.0 * logits, 0.02 * means[:, :2].sin(), 0.05 * means[:, 2].cos(), 0.2 * means[:, 3:6])


def test_detections_are_judged_each_by_itself(world: World):
    """Two in two photos, together and alone; each of the three poses has a score of its own."""
    random = torch.Generator().manual_seed(0)
    z = 6.0 * float(world.diameters[0])
    t = torch.tensor([[0.1 * z, 0.0, z], [-0.1 * z, 0.05 * z, 0.8 * z]])[:, None] * torch.ones(1, 3, 1)
    turns = Rotation.random(6, rng=np.random.default_rng(0)).as_matrix()
    R = torch.from_numpy(turns).float().view(2, 3, 3, 3)
    K, two = geometry.camera_matrix(400.0, 128.0, 128.0), torch.zeros(2, dtype=torch.long)
    boxes = world.boxes(two, geometry.offaxis_rotation(t[:, 0]) @ R[:, 0], t[:, 0], K)
    images = torch.rand(2, 3, 256, 256, generator=random) * torch.tensor([0.5, 1.0])[:, None, None, None]
    shown, size = torch.zeros(2, 3, 32, 32), torch.tensor([256, 256])
    seen = Seen(images, torch.tensor([0, 1]), boxes, two, K, shown, size)
    poses, judge = Poses.start(R, t, torch.zeros(2, 3)), JudgeRefiner(world, Looking(), (2, 1))
    together, scores = judge(seen, poses), judge.scores(seen, poses)
    assert scores.flatten().unique().numel() == 6
    for row in range(2):
        chosen = torch.tensor([row])
        alone = judge(seen.select(chosen), poses.select(chosen))
        torch.testing.assert_close(together.t[row], alone.t[0], rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(together.R_view[row], alone.R_view[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(together.score[row], alone.score[0], rtol=0, atol=1e-3)
        torch.testing.assert_close(scores[row], judge.scores(seen.select(chosen), poses.select(chosen))[0])


def test_a_move_is_that_of_the_crop_camera(world: World):
    """A tenth of the crop's side to the right and a twentieth up; off the axis the view stays as it is turned."""
    t = torch.tensor([[[150.0, -80.0, 900.0]]])
    R_view = torch.from_numpy(Rotation.random(1, rng=np.random.default_rng(0)).as_matrix()).float()[None]
    poses, focal = Poses.start(R_view, t, torch.zeros(1, 1)), torch.tensor([3.0])
    crops = Crops(torch.zeros(1, 3, 8, 8), geometry.offaxis_rotation(torch.tensor([[0.2, 0.1, 1.0]])), focal, ZERO)
    turn = torch.tensor([[0.0, 0.0, 0.3]])
    verdict = Verdict(torch.zeros(1, 4), torch.tensor([[0.1, -0.05]]), torch.tensor([0.2]), turn)
    moved = JudgeRefiner(world, nn.Identity())._apply(crops, poses, verdict)
    before, after = (crops.turn[0].mT @ x[0, 0] for x in (t, moved.t))
    torch.testing.assert_close(3.0 * (after[:2] / after[2] - before[:2] / before[2]), torch.tensor([0.1, -0.05]))
    assert float(after[2] / before[2]) == pytest.approx(math.exp(0.2), rel=1e-5)
    spin = torch.from_numpy(Rotation.from_rotvec(turn[0].numpy()).as_matrix()).float()
    expected = crops.turn[0] @ spin @ crops.turn[0].mT @ poses.R[0, 0]
    torch.testing.assert_close(moved.R[0, 0], expected, atol=1e-5, rtol=0)


def test_a_render_says_depth_in_the_parts_own_diameters(world: World):
    t = torch.tensor([[0.0, 0.0, 900.0]])
    crops = Crops(torch.zeros(1, 3, 8, 8), torch.eye(3)[None], torch.tensor([1.5]), ZERO)
    R = geometry.view_rotation(torch.tensor([[0.6, 0.48, 0.64]]), torch.tensor([0.7]))
    K = geometry.camera_matrix(1.5 * SIDE, SIDE / 2, SIDE / 2)
    seen = world.renderer.render(Instances.single(ZERO, R, t), K[None], (SIDE, SIDE))
    expected = render_channels(seen.depth, seen.normal, seen.color, t[:, 2], world.diameters[:1])
    torch.testing.assert_close(JudgeRefiner(world, nn.Identity())._renders(crops, ZERO, R, t), expected)


def test_poses_turned_alike_are_one():
    """Of 0, 7, 9, 20 and 183 degrees: eight are the least between two, and half a turn looks the same."""
    half = Symmetries(np.diag([-1.0, -1.0, 1.0, 1.0])[None], ())
    parts = [SimpleNamespace(symmetries=Symmetries.none()), SimpleNamespace(symmetries=half)]
    world: Any = SimpleNamespace(objects=parts, device=torch.device("cpu"))
    judge = JudgeRefiner(world, nn.Dropout())  # type: ignore[arg-type]
    degrees = np.array([7.0, 183.0, 0.0, 20.0, 9.0])
    R = torch.from_numpy(Rotation.from_rotvec(np.outer(degrees, [0, 0, 1]), degrees=True).as_matrix()).float()[None]
    start = Poses.start(R, torch.ones(1, 5, 3), torch.tensor([[4.0, 3.0, 5.0, 1.0, 2.0]]))
    for index, expected in ((0, [5.0, 3.0, 2.0, 1.0]), (1, [5.0, 2.0, 1.0, 5.0])):
        seen: Any = SimpleNamespace(objects=torch.tensor([index]))
        assert judge._apart(seen, start, 4).score[0].tolist() == expected


def test_a_pose_beside_the_box_is_another_parts(world: World):
    z = 6.0 * float(world.diameters[0])
    R = geometry.view_rotation(torch.tensor([[0.6, 0.48, 0.64]]), torch.tensor([0.7]))
    seen, truth = _looked_at(world, R, torch.tensor([[0.0, 0.0, z]]))
    judge = _painted(world, Known(), (1,), seen, truth)
    width = float(geometry.box_size(seen.boxes)[0, 0]) / 400.0 * z  # mm across the box
    places = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.0, 0.0], [0.6, 0.0, 0.0], [0.8, 0.0, 0.0]]) * width
    poses = Poses.start(truth.R_view.expand(1, 4, 3, 3), truth.t + places, torch.zeros(1, 4))
    lost = (judge._compared(judge.crops(seen), poses).score - judge.scores(seen, poses))[0]
    beside = torch.tensor([0.0, 0.2, 0.6, 0.8])
    expected = 12.0 * (0.5 - (1.0 - beside) / (1.0 + beside)).clamp_min(0.0)
    torch.testing.assert_close(lost, expected, atol=0.35, rtol=0)


def test_an_estimator_on_another_device_leaves_the_network_of_the_first_where_it_is():
    first = load_network(torch.device("cpu"))
    second = load_network(torch.device("meta"))
    assert load_network(torch.device("cpu")) is first
    assert {p.device.type for p in first.parameters()} == {"cpu"}
    assert {p.device.type for p in second.parameters()} == {"meta"}
    assert not any(p.requires_grad for p in first.parameters())


@pytest.mark.parametrize(("precision", "atol"), [("float32", 0.0), ("bf16", 0.15)])
def test_the_settings_say_in_which_precision_the_judge_multiplies(precision: Literal["float32", "bf16"], atol: float):
    """In bf16 other log-odds, and not by the steps of 1/32 that bf16 has between 4 and 8."""
    random = torch.Generator().manual_seed(0)
    seen = torch.rand(2, 3, SIDE, SIDE, generator=random), torch.randn(2, 8, SIDE, SIDE, generator=random)
    cpu = torch.device("cpu")
    settings = load_preset("smoke").model_copy(update={"precision": precision})
    with torch.no_grad():
        exact, logits = load_network(cpu)(*seen).logits, shipped_judge(settings, cpu)(*seen).logits
    torch.testing.assert_close(logits, exact, atol=atol, rtol=0)
    assert torch.equal(logits, exact) == (precision == "float32")
    assert not torch.equal(logits, logits.bfloat16().float())


def test_the_shipped_network_says_what_its_weights_say_without_batch_norms():
    plain = PoseJudge()
    plain.load_state_dict({name: value.float() for name, value in load_file(SHIPPED).items()})
    random = torch.Generator().manual_seed(0)
    seen = torch.rand(2, 3, SIDE, SIDE, generator=random), torch.randn(2, 8, SIDE, SIDE, generator=random)
    folded = load_network(torch.device("cpu"))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    with torch.no_grad():
        for one, other in zip(folded(*seen), plain.eval()(*seen), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
