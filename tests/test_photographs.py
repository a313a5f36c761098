"""The bench on photographs: every number by hand, and the whole of it on a rendered folder with a random network."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # benchmarks/ is not part of the installed package

from benchmarks import photographs  # noqa: E402
from benchmarks.photograph_chain import Looker  # noqa: E402
from benchmarks.photograph_links import Links, Truth, links  # noqa: E402
from benchmarks.photograph_parts import HEADLINE, PARTS, Part  # noqa: E402
from benchmarks.photograph_tables import (  # noqa: E402
    Recalls,
    Row,
    differences,
    mean_of_parts,
    read_rows,
    summary,
    to_csv,
)
from codepose import geometry  # noqa: E402
from codepose.bop.dataset import BopDataset  # noqa: E402
from codepose.bop.entries import BopError  # noqa: E402
from codepose.bop.models import BopModel  # noqa: E402
from codepose.bop.writer import write_dataset  # noqa: E402
from codepose.estimation.estimator import PoseEstimator  # noqa: E402
from codepose.estimation.photo import Photo  # noqa: E402
from codepose.evaluation.average_recalls import TargetErrors  # noqa: E402
from codepose.evaluation.pose_errors import symmetry_transforms  # noqa: E402
from codepose.networks.windows import Window  # noqa: E402
from codepose.runtime.run import Run  # noqa: E402
from codepose.settings.files import override  # noqa: E402
from codepose.synthesis.world import World  # noqa: E402

K = torch.tensor([[500.0, 0.0, 320.0], [0.0, 500.0, 240.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
SIZE = (480, 640)
CUBE = torch.tensor([[x, y, z] for x in (-10.0, 10.0) for y in (-10.0, 10.0) for z in (-10.0, 10.0)]).double()
OFFSET = torch.tensor([0.0, 0.0, 50.0]).double()
HALF_TURN = {"symmetries_discrete": [np.diag([-1.0, -1.0, 1.0, 1.0])]}


def turned(degrees: float, axis: str = "z") -> Tensor:
    return torch.from_numpy(Rotation.from_euler(axis, degrees, degrees=True).as_matrix())


def truth(*at: tuple[float, float, float], symmetries: dict | None = None) -> Truth:
    """Upright cubes of 20 mm whose middle lies 50 mm above their file's origin."""
    model = BopModel(1, Path("cube.ply"), 20.0 * math.sqrt(3.0), symmetry_transforms(symmetries or {}))
    R = torch.eye(3, dtype=torch.float64).expand(len(at), 3, 3)
    return Truth(R, torch.tensor(at, dtype=torch.float64), CUBE, OFFSET, model)


def test_errors_are_about_the_middle_and_under_the_symmetries() -> None:
    one = truth((0.0, 0.0, 400.0)).select(0)
    assert one.mssd(turned(0), torch.tensor([3.0, 0.0, 404.0])) == pytest.approx(5.0 / (20.0 * math.sqrt(3.0)))
    assert one.mssd(turned(180, "x"), one.t) == pytest.approx(
        one.mssd(turned(180), one.t)
    )  # a cube's middle stays where it is
    # a cube's corner goes round a circle of radius 10 sqrt 2: half a turn moves it by twice that
    assert one.mssd(turned(180), one.t) == pytest.approx(20.0 * math.sqrt(2.0) / (20.0 * math.sqrt(3.0)))
    assert truth((0.0, 0.0, 400.0), symmetries=HALF_TURN).select(0).mssd(turned(180), one.t) == pytest.approx(0.0)


def test_a_view_is_compared_as_it_is_seen_along_its_ray() -> None:
    one = truth((200.0, 0.0, 400.0)).select(0)
    seen = geometry.offaxis_rotation(one.t).mT  # of an upright part
    views = torch.stack([seen @ turned(40), seen @ turned(-12)])
    assert one.nearest_deg(views) == pytest.approx(12.0)
    flipped = truth((200.0, 0.0, 400.0), symmetries=HALF_TURN).select(0)
    assert flipped.nearest_deg((seen @ turned(170))[None]) == pytest.approx(10.0)


@dataclass
class Seen:
    """An estimator's look at a box that turns every pose by some degrees."""

    box: Tensor
    t: Tensor
    off: float
    views: Tensor
    starts: Tensor

    @property
    def R(self) -> Tensor:
        return turned(self.off)

    def begun_at(self, R: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return R @ turned(8), t

    def preferred(self, R: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return R[-1], t[-1]


def test_the_chain_of_hand_made_looks() -> None:
    """Two cubes beside each other; the detector's box is a little off the first one, and the second has none."""
    both = truth((0.0, 0.0, 400.0), (100.0, 0.0, 400.0))
    true = both.boxes(K)
    boxes = torch.stack([true[0] + torch.tensor([6.0, 0.0, 6.0, 0.0]), torch.tensor([0.0, 0.0, 30.0, 30.0])])
    looked = []

    def look(box: Tensor) -> Seen:
        looked.append(box)
        row = int((box[0] > 380).item())
        own = bool((box == boxes[0]).all())
        seen = geometry.offaxis_rotation(both.t[row]).mT
        views, starts = (torch.stack([seen @ turned(90), seen @ turned(a)]) for a in (14, 25 if own else 19))
        return Seen(box, both.t[row], 30.0 if own else 10.0, views, starts)

    first, second = links(both, boxes, look, K, SIZE)
    assert len(looked) == 3  # no look at a box that overlaps too little
    width = float(true[0, 2] - true[0, 0])
    assert first.box_iou == pytest.approx((width - 6.0) / (width + 6.0))
    assert first.view_deg == pytest.approx(14.0)
    assert (first.start_true_deg, first.start_own_deg) == (pytest.approx(19.0), pytest.approx(25.0))

    def chord(degrees: float) -> float:
        return 2.0 * math.sin(math.radians(degrees / 2.0)) * math.sqrt(2.0 / 3.0) / 2.0

    assert (first.true_mssd, first.own_mssd) == (pytest.approx(chord(10)), pytest.approx(chord(30)))
    assert first.kept_mssd == pytest.approx(chord(8))
    assert first.preferred_mssd == pytest.approx(chord(10))  # the last of truth and found: the found one
    assert second.box_iou == 0.0
    assert math.isnan(second.start_own_deg)
    assert math.isnan(second.own_mssd)
    assert second.true_mssd == pytest.approx(chord(10))


def test_a_step_that_was_not_reached_does_not_hold() -> None:
    right = Links(0.6, 0.6, 15.0, 20.0, 20.0, 0.19, 0.19, 0.09, 0.19)
    assert set(right.holds().values()) == {1.0}
    wrong = Links(0.5, 0.5, 15.1, 20.1, 20.1, 0.2, 0.2, 0.2, 0.2)
    assert set(wrong.holds().values()) == {0.0}
    chain = [f.name for f in fields(Links)]
    for place, name in enumerate(chain[:7]):  # each number decides its own step
        assert [int(v) for v in replace(right, **{name: math.nan}).holds().values()] == [n != place for n in range(10)]
    assert [int(v) for v in replace(right, kept_mssd=0.1).holds().values()] == [1, 1, 1, 1, 1, 1, 1, 1, 0, 1]
    assert [int(v) for v in replace(right, preferred_mssd=0.2).holds().values()] == [1, 1, 1, 1, 1, 1, 1, 1, 1, 0]
    assert set(Links().holds().values()) == {0.0}


def test_recalls_of_instances_average_to_those_of_bop() -> None:
    """Two estimates of three instances: the better-scored one takes what is nearest to it."""
    mssd = np.array([[0.12, 0.4, 0.9], [0.07, 0.31, 0.9]])
    vsd = np.stack([mssd] * 10, -1)
    errors = TargetErrors(vsd, mssd, 100.0 * mssd, mssd)
    first, second, third = Recalls.of(errors)
    # thresholds from 0.05 to 0.5: under 0.1 the second estimate matches the first instance, which only then is free
    assert first.mssd == pytest.approx(0.9)
    assert second.mssd == pytest.approx(0.4)  # from 0.35 on
    assert third == Recalls(0.0, 0.0, 0.0, 0.0, 0.0)
    assert first.mspd == pytest.approx(0.9)
    assert (first.mspd_20, second.mspd_20) == (1.0, 0.0)
    assert (first.add_10, second.add_10) == (1.0, 0.0)
    assert Recalls.of(TargetErrors(np.zeros((0, 1, 10)), *[np.zeros((0, 1))] * 3)) == [third]


def row(part: str, image: int, value: float, seed: int = 0, **changes: float) -> Row:
    return Row(part, seed, 1, image, 0, 1.0, Recalls(value, value, value, value, value), Links(**changes))


def test_parts_count_alike_and_seeds_are_averaged_first() -> None:
    rows = [row("a", 0, 1.0), row("a", 1, 0.0), row("a", 0, 0.5, seed=1), row("a", 1, 0.0, seed=1), row("b", 0, 1.0)]
    found = summary(rows)
    assert list(found) == ["a", "b", "all"]
    assert found["a"]["AR"].mean == pytest.approx(0.375)
    assert found["all"]["AR"].mean == pytest.approx((0.375 + 1.0) / 2.0)
    assert (found["b"]["AR"].low, found["b"]["AR"].high) == (1.0, 1.0)
    assert (found["a"]["AR"].low, found["a"]["AR"].high) == (0.0, 0.75)  # either instance twice


def test_the_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(size=400)
    found = mean_of_parts([values])
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20.0, rel=0.05)


def test_differences_are_taken_instance_by_instance() -> None:
    """A better by 0.1 on every instance that both have: no doubt about it, however the instances differ."""
    others = [row("a", i, 0.1 * i) for i in range(9)] + [row("c", 0, 0.0)]
    rows = [row("a", i, 0.1 * i + 0.1) for i in range(1, 12)] + [row("b", 0, 1.0)]
    found = differences(rows, others)
    assert list(found) == ["a", "all"]
    assert found["all"]["AR"] == (pytest.approx(0.1), pytest.approx(0.1), pytest.approx(0.1))
    assert differences(rows, [row("c", 0, 0.0)]) == {}


def test_the_table_of_instances_is_read_as_it_was_written() -> None:
    rows = [row("a", 3, 0.25, seed=2, box_iou=0.75), row("b", 4, 0.5)]
    assert [repr(one) for one in read_rows(to_csv(one.to_flat() for one in rows))] == [repr(one) for one in rows]
    assert to_csv([{"x": float("nan"), "y": 2}]) == "x,y\n,2\n"


def test_every_part_has_a_name_and_the_headline_comes_first() -> None:
    assert tuple(PARTS)[:6] == HEADLINE
    assert len(PARTS) >= 10
    # what the green triangle looks the same after are rigid motions that bring its corners onto one another
    angles = (math.pi, math.pi / 3, -math.pi / 3)
    corners = np.array([[38.3 * math.cos(a), 38.3 * math.sin(a), z] for z in (0, 12) for a in angles])
    for motion in PARTS["triangle"].looks_same_after:
        matrix = np.array(motion).reshape(4, 4)
        moved = corners @ matrix[:3, :3].T + matrix[:3, 3]
        assert np.linalg.norm(moved[:, None] - corners, axis=2).min(1).max() < 0.1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tiny_settings) -> Path:
    """Two photos of hammers, where those of the keys would lie."""
    part = tiny_settings.objects[0].model_copy(update={"label": "obj_000007"})
    world = World(tiny_settings.model_copy(update={"objects": (part,)}))
    folder = tmp_path_factory.mktemp("photos")
    write_dataset(world, folder / "sygrid", split="test", images=2)
    return folder


def test_symmetries_that_a_folder_leaves_out_are_added(data: Path) -> None:
    half = (-1.0, 0, 0, 0, 0, -1.0, 0, 0, 0, 0, 1.0, 5.0, 0, 0, 0, 1.0)
    part = Part("sygrid", 7, (300, 400), (half,))
    assert len(replace(part, looks_same_after=()).dataset(data).models[7].symmetries) == 1
    added = part.dataset(data).models[7].symmetries
    assert added[1].tolist() == [[-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 1, 5], [0, 0, 0, 1]]
    with pytest.raises(BopError, match="no object 9"):
        replace(part, obj_id=9).dataset(data)


def test_what_is_typed_is_what_the_mesh_doctor_says(data: Path) -> None:
    words = photographs.training_words(PARTS["key"], data, 3, 20.0, "--step1.batch 4")
    framing = PARTS["key"].framing(data)
    assert words == [
        str(data / "sygrid" / "models" / "obj_000007.ply"),
        *framing.options(),
        *("--seed", "3", "--data.seed", "3", "--step1.time-limit", "720", "--step2.time-limit", "480"),
        *("--step1.batch", "4"),
    ]
    diameter = Part("sygrid", 7, (300, 400)).dataset(data).models[7].diameter
    assert framing.share[1] == pytest.approx(75.0 / 128.0 * diameter / 300.0, rel=0.02)


def test_the_whole_on_a_rendered_folder(
    data: Path, random_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "key-0").symlink_to(random_run.path)
    words = [str(data), "--parts", "key", "--runs", str(tmp_path / "runs"), "--device", "cpu"]
    first = tmp_path / "out"
    assert photographs.main([*words, "--out", str(first)]) == 0
    rows = read_rows((first / "instances.csv").read_text())
    gt = json.loads((data / "sygrid" / "test" / "000001" / "scene_gt.json").read_text())
    assert len(rows) == sum(map(len, gt.values()))
    assert all(one.links.box_iou + 1e-3 >= one.links.ranked_iou >= 0.0 and one.links.view_deg <= 180.0 for one in rows)
    # begun at the truth, a pose of a rendered part is found again, whatever the network is worth
    assert np.median([one.links.kept_mssd for one in rows]) < 0.2
    results = json.loads((first / "results.json").read_text())
    assert results["parts"]["all"]["AR"]["mean"] == results["runs"]["key-0"]["AR"]
    assert results["runs"]["key-0"]["ms a photo"] > 0.0
    assert Image.open(first / "sheet.png").size[0] > 2 * 480
    # the same again measures nothing anew, and differs from itself by nothing
    monkeypatch.setattr(photographs, "measure", lambda *a: pytest.fail("measured anew"))
    assert photographs.main([*words, "--out", str(first), "--compare", str(first)]) == 0
    assert json.loads((first / "results.json").read_text())["differences"]["parts"]["all"]["AR"]["high"] == 0.0
    assert "| +0.000 | +0.000 to +0.000 |" in capsys.readouterr().out
    monkeypatch.setattr(photographs, "_code", lambda: "other code")
    with pytest.raises(pytest.fail.Exception, match="measured anew"):
        photographs.main([*words, "--out", str(first)])


@pytest.mark.slow
def test_a_part_is_learned_as_the_mesh_doctor_says_and_measured(data: Path, tmp_path: Path) -> None:
    words = [str(data), "--out", str(tmp_path), "--parts", "key", "--seeds", "0,1", "--quick", "--device", "cpu"]
    assert photographs.main(words) == 0
    camera = Run.open(tmp_path / "runs" / "key-1").settings.data.camera
    assert camera.image_size == PARTS["key"].framing(data).image_size
    assert {row.seed for row in read_rows((tmp_path / "instances.csv").read_text())} == {0, 1}


def test_a_box_is_looked_at_as_the_estimator_looks_at_its_own(data: Path, random_run: Run) -> None:
    """One box a photo: among several, a network's last bits differ, and a search may end elsewhere."""
    image = next(BopDataset.open(data / "sygrid").images("test"))
    run = Run(random_run.path, override(random_run.settings, {"detection.per_object": 1}))
    estimator = PoseEstimator.load(run, device="cpu", refine=True)
    pixels, looker = image.rgb(), Looker(estimator, 1)
    (found,) = estimator(pixels, image.K)
    (box,) = looker.boxes(pixels, image.K)
    assert np.abs(box.numpy() - found.box).max() < 1e-3
    seen = looker(pixels, image.K, torch.from_numpy(found.box))
    assert np.abs(seen.R.numpy() - found.R_cam_obj).max() < 1e-3
    middle = found.t_cam_obj + found.R_cam_obj @ estimator.codebooks[0].offset.numpy()
    assert np.abs(seen.t.numpy() - middle).max() < 0.1
    assert len(seen.views) == estimator.settings.refinement.candidates


def test_all_boxes_are_looked_at(data: Path, random_run: Run) -> None:
    image = next(BopDataset.open(data / "sygrid").images("test"))
    estimator = PoseEstimator.load(random_run, device="cpu", refine=True)
    boxes = Looker(estimator, 1).boxes(image.rgb(), image.K)
    assert len(boxes) == estimator.settings.detection.per_object
    for detection in estimator(image.rgb(), image.K):
        assert np.abs(boxes.numpy() - detection.box).max(axis=1).min() < 1e-3


def test_a_box_is_looked_at_in_the_smallest_window_that_holds_it(random_run: Run) -> None:
    """Tiles of 64 of a photo 256 px wide; the network sees 128 px: a tile's pixels twice."""
    looker = Looker(PoseEstimator.load(random_run, device="cpu", refine=True), 4)
    photo = Photo(torch.zeros(1, 3, 128, 256), torch.tensor([[300.0, 0, 128.0], [0, 300.0, 64.0], [0, 0, 1.0]]))
    assert looker._window(photo, torch.tensor([10.0, 20.0, 40.0, 40.0])) == Window(0, 0, 64, 64)
    assert looker._window(photo, torch.tensor([10.0, 20.0, 110.0, 40.0])) == Window(0, 0, 256, 128), "in no tile"


def test_wrong_options_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["--parts", "kee"], "there is no part 'kee'; there are key, camera"),
        (["--seeds", "x"], "--seeds takes numbers with commas"),
        ([str(tmp_path)], "is no BOP dataset"),
        (["--compare", str(tmp_path)], "instances.csv"),
    ):
        assert photographs.main([*words, "--out", str(tmp_path / "out")]) == 1
        assert said in capsys.readouterr().err
