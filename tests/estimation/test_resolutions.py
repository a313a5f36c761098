"""The same scene in photos of every size gives the same pose."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from codepose import geometry
from codepose.estimation.codebook import Codebook
from codepose.estimation.detection import Detection
from codepose.estimation.estimator import PoseEstimator
from codepose.refinement.render_and_compare import ContourRefiner
from codepose.rendering.renderer import Instances
from codepose.rendering.shading import Lights, render_shaded
from codepose.settings.inference import RefinementSettings
from codepose.settings.schema import Settings
from codepose.synthesis.world import World

T_CAM_OBJ = (180.0, 120.0, 900.0)


class ContentPipeline:
    """Detects the white rectangle of an image, to a small fraction of a pixel; every latent is the same.

    The larger it is, the surer: as a network, it knows parts of some size only.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.device = torch.device("cpu")
        self.canvas = settings.data.camera.image_size
        self.codes_from_features = False

    def prepare(self, images: Tensor) -> Tensor:
        return images

    def select(self, prepared: Tensor, index: int) -> Tensor:
        return prepared[index : index + 1]

    def pixels(self, prepared: Tensor) -> Tensor:
        return prepared

    def detect(self, prepared: Tensor, iou: float | None = None) -> list[dict[str, Tensor]]:
        found = []
        for image in prepared.double():
            sides = []
            if image.max() == 0:
                found.append({"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)})
                continue
            for profile in (image[0].amax(0), image[0].amax(1)):  # along x, along y
                weights, places = profile / profile.max(), torch.arange(len(profile)) + 0.5
                middle, length = float((weights * places).sum() / weights.sum()), float(weights.sum())
                sides.append((middle - length / 2, middle + length / 2))
            (x1, x2), (y1, y2) = sides
            box = torch.tensor([[x1, y1, x2, y2]])
            score = min(1.0, (x2 - x1) / 32)
            found.append({"boxes": box, "labels": torch.ones(1).long(), "scores": torch.tensor([score])})
        return found

    def latents(self, prepared: Tensor, boxes: Tensor, images: Tensor) -> Tensor:
        return torch.ones(len(boxes), 4)

    def decode(self, latents: Tensor) -> Tensor:
        return torch.zeros(len(latents), 3, 8, 8)

    def modules(self) -> list[nn.Module]:
        return []

    def networks(self) -> list[nn.Module]:
        return []


@pytest.fixture(scope="module")
def R_view() -> Tensor:
    return geometry.view_rotation(
        torch.nn.functional.normalize(torch.tensor([0.3, -0.5, 1.0]), dim=0), torch.tensor(0.7)
    )


@pytest.fixture(scope="module")
def estimator(world: World, R_view: Tensor, book_of: Callable[[World, Tensor], Codebook]) -> PoseEstimator:
    """A codebook of one view, the scene's own."""
    return PoseEstimator(ContentPipeline(world.settings), [book_of(world, R_view[None])])


def covered(low: float, high: float, count: int) -> np.ndarray:
    """How much of each of ``count`` pixels [i, i + 1) lies in [low, high]."""
    edges = np.arange(count + 1).clip(low, high)
    return np.diff(edges)


@pytest.mark.parametrize(
    ("width", "height"),
    [
        (128, 96),  # the network's own scale
        (640, 480),
        (854, 480),
        (1280, 720),
        (1920, 1080),
        (1000, 667),  # no side is a multiple of the other scale
        (480, 640),
        (720, 1280),
        (1080, 1920),
        (100, 75),
    ],
)
def test_the_pose_does_not_depend_on_the_photos_size(
    estimator: PoseEstimator, world: World, R_view: Tensor, width: int, height: int
) -> None:
    """The object's true box is painted with exact pixel coverage; t is found within 0.3 %, R within 0.1 degrees.

    The tolerance is that of a box measured on 8-bit pixels at the network's 128 x 128: a few hundredths of a pixel.
    """
    focal = 0.8 * max(width, height)
    K = geometry.camera_matrix(focal, 0.52 * width, 0.47 * height)
    found, box, expected_t, R = seen(estimator, world, R_view, K, width, height, T_CAM_OBJ)
    scale = max(width, height) / world.settings.data.camera.image_size
    np.testing.assert_allclose(found.box, box, atol=0.05 * max(1.0, scale))
    assert np.linalg.norm(found.t_cam_obj - expected_t) < 0.003 * np.linalg.norm(T_CAM_OBJ)
    angle = geometry.geodesic_angle(torch.from_numpy(found.R_cam_obj).float(), R)
    assert float(angle.rad2deg()) < 0.1


@pytest.mark.parametrize(("width", "height"), [(2000, 1500), (1500, 2000), (1999, 700)])
@pytest.mark.parametrize("t", [(900.0, 300.0, 4500.0), (-700.0, -250.0, 4500.0), (20.0, 10.0, 4500.0)])
def test_tiles_find_small_parts_at_the_tiles_scale(
    estimator: PoseEstimator,
    world: World,
    R_view: Tensor,
    width: int,
    height: int,
    t: tuple[float, float, float],
) -> None:
    """Parts cut off by a tile's edge are left out; of what the whole photo and the tiles find, one remains."""
    K = geometry.camera_matrix(0.8 * max(width, height), 0.52 * width, 0.47 * height)
    found, box, expected_t, R = seen(estimator, world, R_view, K, width, height, t, tiles=4)
    tile = max(width, height) / 4 / world.settings.data.camera.image_size
    np.testing.assert_allclose(found.box, box, atol=0.05 * tile)
    assert np.linalg.norm(found.t_cam_obj - expected_t) < 0.003 * np.linalg.norm(t)
    assert float(geometry.geodesic_angle(torch.from_numpy(found.R_cam_obj).float(), R).rad2deg()) < 0.1


def seen(
    estimator: PoseEstimator,
    world: World,
    R_view: Tensor,
    K: Tensor,
    width: int,
    height: int,
    where: tuple[float, float, float],
    tiles: int = 1,
) -> tuple[Detection, list[float], np.ndarray, Tensor]:
    """Paints the object's true box with exact pixel coverage; returns what is found, and the true box, t and R."""
    t = torch.tensor([where])
    R = geometry.offaxis_rotation(t) @ R_view
    x1, y1, x2, y2 = world.boxes(torch.zeros(1).long(), R, t, K)[0].double().tolist()
    assert 0 < x1 < x2 < width
    assert 0 < y1 < y2 < height
    white = covered(y1, y2, height)[:, None] * covered(x1, x2, width)
    image = np.repeat((white * 255).round().astype(np.uint8)[..., None], 3, axis=2)
    (found,) = estimator(image, geometry.to_opencv(K).numpy(), tiles=tiles)
    expected_t = (t[0] - R[0] @ world.objects[0].offset).numpy()
    return found, [x1, y1, x2, y2], expected_t, R[0]


class ToldPipeline(ContentPipeline):
    """Detects what it is told, and reconstructs the true view."""

    def __init__(self, world: World, box: Tensor, R_view: Tensor) -> None:
        super().__init__(world.settings)
        self.box = box
        self.clean = world.clean_views(torch.zeros(1).long(), R_view[None])

    def detect(self, prepared: Tensor, iou: float | None = None) -> list[dict[str, Tensor]]:
        return [{"boxes": self.box[None], "labels": torch.ones(1).long(), "scores": torch.ones(1)}]

    def decode(self, latents: Tensor) -> Tensor:
        return self.clean


def refined_error(
    estimator: PoseEstimator, world: World, R_view: Tensor, width: int, height: int
) -> tuple[float, float]:
    """How far off the refined t is, across the ray and along it, over the distance; the box is 5 % too large."""
    t = torch.tensor([T_CAM_OBJ])
    R = geometry.offaxis_rotation(t) @ R_view
    K = geometry.camera_matrix(0.8 * max(width, height), 0.52 * width, 0.47 * height)
    first = torch.zeros(1).long()
    instance = Instances.single(first, R, t)
    rgba, _ = render_shaded(
        world.renderer, instance, K[None], max(width, height), Lights.fixed(1, world.device), torch.ones(1, 3), 2
    )
    image = (rgba[0, :3, :height, :width].permute(1, 2, 0) * 255).round().byte().numpy()
    size = world.settings.data.camera.image_size
    box = world.boxes(first, R, t, K)[0] * (size / max(width, height))
    middle, half = geometry.box_center(box), geometry.box_size(box) * 1.05 / 2
    pipeline = ToldPipeline(world, torch.cat((middle - half, middle + half)), R_view)
    refiner = ContourRefiner(world, RefinementSettings(rounds=0))
    (found,) = PoseEstimator(pipeline, estimator.codebooks, refiner, world=world)(image, geometry.to_opencv(K).numpy())
    off = torch.from_numpy(found.t_cam_obj).float() - (t[0] - R[0] @ world.objects[0].offset)
    along = float(off @ t[0] / t[0].norm())
    return float((off - along * t[0] / t[0].norm()).norm() / t[0].norm()), abs(along) / float(t[0].norm())


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (1000, 667), (667, 1000), (301, 299)])
def test_refinement_sees_the_photos_own_pixels(
    estimator: PoseEstimator, world: World, R_view: Tensor, width: int, height: int
) -> None:
    """Where a photo shows more than the network sees, refined poses are sharper, whatever its shape."""
    across, along = refined_error(estimator, world, R_view, width, height)
    assert across < 0.0025  # a pixel of the fine window
    assert along < 0.0125
    _, of_network = refined_error(estimator, world, R_view, 128, 96)
    assert of_network > 1.5 * along
