"""The learned judge: crop cameras by rendering, ranking and moving with a network that is known."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from codepose import geometry
from codepose.networks.pose_judge import SIDE, PoseJudge, Verdict
from codepose.refinement.judge import Crops, JudgeRefiner, crop
from codepose.refinement.judge_weights import SHIPPED, load_network
from codepose.refinement.poses import Poses, Seen
from codepose.rendering.renderer import Instances
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
