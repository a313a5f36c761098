"""The BOP writer against the reader and against the format's own words; the reader on other layouts; result files."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation
from scipy.spatial.distance import pdist

from codepose import geometry
from codepose.bop import writer as bop_writer
from codepose.bop.dataset import BopDataset, BopTarget
from codepose.bop.entries import BopError, from_bop_box, to_bop_box
from codepose.bop.models import numbered
from codepose.bop.results import (
    BoxResult,
    PoseResult,
    json_lines,
    read_results,
    results_name,
    write_boxes,
    write_results,
)
from codepose.bop.writer import write_dataset
from codepose.parts.mesh import load_mesh
from codepose.rendering.renderer import Instances, Renderer
from codepose.settings.schema import Settings
from codepose.synthesis.batches import SceneBatch
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World

BRACKET = Path(__file__).parents[1] / "data" / "bracket.ply"
COUNT, SIZE = 10, 128
HALF_TURN = {"symmetries_discrete": [[-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]]}


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bracket in a CAD file whose origin lies far from its middle."""
    path = tmp_path_factory.mktemp("cad") / "shifted.ply"
    from codepose.parts.mesh import save_mesh

    save_mesh(load_mesh(BRACKET).moved([40.0, -25.0, 10.0]), path)
    return path


@pytest.fixture(scope="module")
def parts(make_settings: Callable[..., Settings], shifted: Path) -> World:
    """Two objects, up to three instances of them in a scene; boxes may leave the image by a third."""
    return World(
        make_settings(
            **{
                "objects": [{"mesh": str(shifted)}, {"mesh": "hammer"}],
                "data.camera.truncation": 0.35,
                "data.occlusion.companions": 2,
                "data.seed": 3,
            }
        )
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, parts: World) -> Path:
    path = tmp_path_factory.mktemp("bop") / "parts"
    folder = write_dataset(parts, path, split="test", images=COUNT, symmetries=[{}, HALF_TURN], batch=4)
    assert folder == path / "test"
    return path


@pytest.fixture(scope="module")
def scenes(parts: World) -> SceneBatch:
    return SceneSource(parts, "test").scenes(torch.arange(COUNT), depth=True)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def labels(written: Path, file: str = "scene_gt") -> list[tuple[int, int, Any]]:
    """Image, place in the image's list and entry of every instance."""
    content = read(written / "test" / "000001" / f"{file}.json")
    return [(int(key), n, entry) for key, entries in content.items() for n, entry in enumerate(entries)]


def mask(written: Path, im_id: int, n: int, kind: str = "mask") -> NDArray[np.bool_]:
    whole: NDArray[np.bool_] = pixels(written / "test" / "000001" / kind / f"{im_id:06d}_{n:06d}.png") > 0
    return whole


def pixels(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        return np.array(image)


# the files, by the format's own words


def test_the_folders_hold_what_bop_asks_for(written: Path) -> None:
    scene = written / "test" / "000001"
    for kind in ("rgb", "depth"):
        assert sorted(p.name for p in (scene / kind).iterdir()) == [f"{i:06d}.png" for i in range(COUNT)]
    for kind in ("mask", "mask_visib"):
        wanted = [f"{im_id:06d}_{n:06d}.png" for im_id, n, _ in labels(written)]
        assert sorted(p.name for p in (scene / kind).iterdir()) == wanted
    names = {p.name for p in scene.iterdir() if p.is_file()}
    assert names == {"scene_camera.json", "scene_gt.json", "scene_gt_info.json"}
    assert {p.name for p in (written / "models").iterdir()} == {"models_info.json", "obj_000001.ply", "obj_000002.ply"}
    rgb, depth, silhouette = (pixels(next((scene / kind).iterdir())) for kind in ("rgb", "depth", "mask"))
    assert (rgb.dtype, rgb.shape) == (np.uint8, (SIZE, SIZE, 3))
    assert (depth.dtype, depth.shape) == (np.uint16, (SIZE, SIZE))
    assert (silhouette.dtype, silhouette.shape) == (np.uint8, (SIZE, SIZE))
    assert set(np.unique(silhouette).tolist()) == {0, 255}


def test_json_keys_and_types(written: Path) -> None:
    scene = written / "test" / "000001"
    camera, gt, infos = (read(scene / f"scene_{name}.json") for name in ("camera", "gt", "gt_info"))
    assert list(camera) == list(gt) == list(infos) == [str(i) for i in range(COUNT)]
    for key in camera:
        assert set(camera[key]) == {"cam_K", "depth_scale"}
        assert [type(v) for v in camera[key]["cam_K"]] == [float] * 9
    assert [(im_id, n) for im_id, n, _ in labels(written)] == [(i, n) for i, n, _ in labels(written, "scene_gt_info")]
    for _, _, label in labels(written):
        assert set(label) == {"cam_R_m2c", "cam_t_m2c", "obj_id"}
        assert len(label["cam_R_m2c"]) == 9
        assert len(label["cam_t_m2c"]) == 3
        assert label["obj_id"] in (1, 2)
    counts = ("px_count_all", "px_count_valid", "px_count_visib")
    for _, _, info in labels(written, "scene_gt_info"):
        assert set(info) == {"bbox_obj", "bbox_visib", "visib_fract", *counts}
        assert [type(v) for name in ("bbox_obj", "bbox_visib") for v in info[name]] == [int] * 8
        assert [type(info[name]) for name in counts] == [int] * 3
        assert type(info["visib_fract"]) is float
    assert {label["obj_id"] for _, _, label in labels(written)} == {1, 2}


def test_the_camera_has_its_pixel_centres_at_integers(written: Path, parts: World) -> None:
    expected = [75.0, 0, 63.5, 0, 75.0, 63.5, 0, 0, 1]
    for camera in read(written / "test" / "000001" / "scene_camera.json").values():
        assert camera == {"cam_K": expected, "depth_scale": 0.1}
    assert read(written / "camera.json") == {
        "cx": 63.5,
        "cy": 63.5,
        "depth_scale": 0.1,
        "fx": 75.0,
        "fy": 75.0,
        "height": SIZE,
        "width": SIZE,
    }


def test_models_info_is_of_the_written_vertices(written: Path) -> None:
    infos = read(written / "models" / "models_info.json")
    assert list(infos) == ["1", "2"]
    dataset = BopDataset.open(written)
    for key, info in infos.items():
        vertices = dataset.models[int(key)].vertices()
        assert info["diameter"] == pytest.approx(pdist(np.unique(vertices, axis=0)).max(), rel=1e-5)
        for axis, low, size in zip("xyz", vertices.min(0), np.ptp(vertices, axis=0), strict=True):
            assert info[f"min_{axis}"] == pytest.approx(low, abs=1e-4)
            assert info[f"size_{axis}"] == pytest.approx(size, abs=1e-4)
    assert "symmetries_discrete" not in infos["1"]
    assert infos["2"]["symmetries_discrete"] == HALF_TURN["symmetries_discrete"]


def test_the_ply_is_in_the_cad_files_frame_with_normals_and_colours(written: Path, shifted: Path) -> None:
    original, copy = load_mesh(shifted, center=False), load_mesh(written / "models" / "obj_000001.ply", center=False)
    np.testing.assert_allclose(copy.center, original.center, atol=1e-3)
    assert abs(float(copy.center[0]) - 40.0) < 1e-3
    assert copy.diameter == pytest.approx(original.diameter, rel=1e-6)
    header = (written / "models" / "obj_000001.ply").read_bytes().split(b"end_header")[0].decode().split("\n")
    properties = [line.split()[-1] for line in header if line.startswith("property")]
    assert properties[:9] == ["x", "y", "z", "nx", "ny", "nz", "red", "green", "blue"]
    assert properties[-1] in ("vertex_indices", "vertex_index")


def test_pictures_are_the_scenes(written: Path, scenes: SceneBatch) -> None:
    assert scenes.depth is not None
    for i in range(COUNT):
        rgb = pixels(written / "test" / "000001" / "rgb" / f"{i:06d}.png") / 255.0
        assert np.abs(rgb - scenes.images[i].permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
        depth = pixels(written / "test" / "000001" / "depth" / f"{i:06d}.png") * 0.1
        assert np.abs(depth - scenes.depth[i].numpy()).max() <= 0.1


def test_what_is_too_far_for_sixteen_bits_is_not_measured() -> None:
    stored = bop_writer._stored_depth(torch.tensor([[0.0, 0.04, 0.06, 6553.5, 6553.6, 9000.0]]), 0.1)
    assert stored.tolist() == [[0, 0, 1, 65535, 0, 0]]


def test_the_depths_step_is_large_enough_for_the_background(make_settings: Callable[..., Settings]) -> None:
    """A hammer in small boxes through a long lens stands far away, and the background behind it."""
    near, far = make_settings(), make_settings(**{"data.camera.focal": 600.0})
    assert bop_writer.depth_scale(World(near)) == 0.1
    world = World(far)
    scale = bop_writer.depth_scale(world)
    assert 6553.5 < world.far <= 65535 * scale
    scenes = SceneSource(world, "train").scenes(torch.arange(2), depth=True)
    assert scenes.depth is not None
    stored = bop_writer._stored_depth(scenes.depth, scale)
    np.testing.assert_allclose(stored * scale, scenes.depth.numpy(), atol=scale / 2 + 1e-3)


def test_the_target_and_every_companion_are_labelled(written: Path, parts: World, scenes: SceneBatch) -> None:
    assert scenes.other_objects is not None
    assert scenes.other_boxes is not None
    gt = read(written / "test" / "000001" / "scene_gt.json")
    for i in range(COUNT):
        there = scenes.other_objects[i] >= 0
        expected = [int(scenes.objects[i]), *scenes.other_objects[i][there].tolist()]
        assert [label["obj_id"] - 1 for label in gt[str(i)]] == expected
    assert {len(entries) for entries in gt.values()} >= {1, 2}, "the test needs both kinds"
    visible = np.zeros((COUNT, SIZE, SIZE), dtype=int)
    for im_id, n, _ in labels(written):
        visible[im_id] += mask(written, im_id, n, "mask_visib")
    assert visible.max() == 1, "a pixel belongs to one object"


def test_boxes_and_counts_are_the_masks(written: Path) -> None:
    truncated = 0
    for im_id, n, info in labels(written, "scene_gt_info"):
        whole, visible = (mask(written, im_id, n, kind) for kind in ("mask", "mask_visib"))
        assert not (visible & ~whole).any()
        assert info["px_count_visib"] == visible.sum()
        assert info["px_count_valid"] == whole.sum()
        assert info["visib_fract"] == pytest.approx(visible.sum() / info["px_count_all"])
        if not visible.any():
            assert info["bbox_visib"] == info["bbox_obj"] == [-1, -1, -1, -1]
            continue
        rows, columns = np.nonzero(visible)
        extent = [columns.min(), rows.min(), np.ptp(columns), np.ptp(rows)]  # bop_toolkit: largest minus smallest
        assert info["bbox_visib"] == extent
        rows, columns = np.nonzero(whole)
        x, y, w, h = info["bbox_obj"]
        inside = x >= 0 and y >= 0 and x + w < SIZE and y + h < SIZE
        truncated += not inside
        if inside:
            assert info["bbox_obj"] == [columns.min(), rows.min(), np.ptp(columns), np.ptp(rows)]
            assert info["px_count_all"] == whole.sum()
        else:
            assert info["px_count_all"] > whole.sum()
            assert (x <= columns.min(), y <= rows.min(), x + w >= columns.max(), y + h >= rows.max()) == (True,) * 4
    assert 0 < truncated < COUNT, "the test needs both kinds"


def test_amodal_boxes_are_the_projected_ones_within_a_pixel(written: Path, parts: World, scenes: SceneBatch) -> None:
    assert scenes.other_boxes is not None
    assert scenes.other_objects is not None
    boxes = parts.boxes(scenes.objects, scenes.R_cam_obj, scenes.t_cam_obj)
    for im_id, n, info in labels(written, "scene_gt_info"):
        box = from_bop_box(info["bbox_obj"])
        assert box is not None
        if n == 0:
            assert np.abs(box - boxes[im_id].numpy()).max() <= 1.0
        else:
            there = (scenes.other_objects[im_id] >= 0).nonzero().squeeze(1)
            expected = scenes.other_boxes[im_id, there[n - 1]].numpy()
            assert np.abs(box.clip(0, SIZE) - expected).max() <= 1.0


def test_visibility_is_the_scenes(written: Path, scenes: SceneBatch) -> None:
    """The scenes count four rays a pixel, and of a truncated object only what is inside."""
    infos = [info for _, n, info in labels(written, "scene_gt_info") if n == 0]
    fractions = [info["px_count_visib"] / info["px_count_valid"] for info in infos]
    np.testing.assert_allclose(fractions, scenes.visible_fraction.numpy(), atol=0.03)
    assert min(fractions) < 0.95


def test_the_written_model_at_the_written_pose_hits_the_mask(written: Path) -> None:
    """By BOP's own formula, s p_i = K (R p_m + t), with pixel centres at integers."""
    cameras, dataset = read(written / "test" / "000001" / "scene_camera.json"), BopDataset.open(written)
    for im_id, n, label in labels(written):
        points = dataset.models[label["obj_id"]].vertices()
        R, t = np.reshape(label["cam_R_m2c"], (3, 3)), np.array(label["cam_t_m2c"])
        image = (points @ R.T + t) @ np.reshape(cameras[str(im_id)]["cam_K"], (3, 3)).T
        column, row = (image[:, :2] / image[:, 2:]).round().astype(int).T
        inside = (column >= 0) & (column < SIZE) & (row >= 0) & (row < SIZE)
        whole = mask(written, im_id, n)
        # a tip thinner than a pixel may be missed by its ray
        for side, share in ((3, 0.99), (5, 1.0)):
            near = binary_dilation(whole, np.ones((side, side), bool))
            assert near[row[inside], column[inside]].mean() >= share
        if inside.all():
            rows, columns = np.nonzero(whole)
            extent = [column.min(), row.min(), column.max(), row.max()]
            assert np.abs(np.subtract(extent, [columns.min(), rows.min(), columns.max(), rows.max()])).max() <= 1


def test_a_render_of_the_written_files_is_the_mask_and_the_depth(written: Path) -> None:
    dataset = BopDataset.open(written)
    renderer = Renderer([model.mesh() for model in dataset.models.values()])
    for image in dataset.images("test"):
        measured = image.depth()
        assert measured is not None
        for label in image.instances or ():
            R, t, K = (torch.from_numpy(x).float()[None] for x in (label.R_cam_obj, label.t_cam_obj, image.K))
            alone = Instances.single(torch.tensor([label.obj_id - 1]), R, t)
            depth = renderer.render(alone, geometry.from_opencv(K), (SIZE, SIZE)).depth[0].numpy()
            whole, visible = image.mask(label.index), image.mask(label.index, visible=True)
            assert whole is not None
            assert visible is not None
            assert ((depth > 0) != whole).sum() <= 2, "a ray along an edge may fall to either side"
            both = visible & (depth > 0)
            assert np.median(np.abs(depth - measured)[both]) < 0.06
            assert (np.abs(depth - measured)[both] < 0.2).mean() > 0.98


def test_targets_of_the_test_split(written: Path) -> None:
    visible = {(im_id, n): info["visib_fract"] for im_id, n, info in labels(written, "scene_gt_info")}
    expected: dict[tuple[int, int], int] = {}
    for im_id, n, label in labels(written):
        if visible[im_id, n] >= 0.1:
            expected[im_id, label["obj_id"]] = expected.get((im_id, label["obj_id"]), 0) + 1
    assert read(written / "test_targets_bop19.json") == [
        {"im_id": im_id, "inst_count": count, "obj_id": obj_id, "scene_id": 1}
        for (im_id, obj_id), count in sorted(expected.items())
    ]


def test_clean_training_images_have_no_companions(
    make_settings: Callable[..., Settings], shifted: Path, tmp_path: Path
) -> None:
    changes = {"objects": [{"mesh": str(shifted)}], "data.occlusion.companions": 2, "data.clean": 0.5}
    crowd = World(make_settings(**changes))
    scenes = SceneSource(crowd, "train").scenes(torch.arange(8))
    assert scenes.other_objects is not None
    write_dataset(crowd, tmp_path / "crowd", split="train", images=8)
    counts = [len(image.instances or ()) for image in BopDataset.open(tmp_path / "crowd").images("train")]
    assert counts == (1 + (scenes.other_objects >= 0).sum(1)).tolist()
    assert {1, 2} <= set(counts), "of the same object, in training"


def test_long_splits_are_cut_into_scenes(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bop_writer, "SCENE_IMAGES", 2)
    shares: list[float] = []
    write_dataset(world, tmp_path / "parts", split="val", images=3, batch=2, progress=shares.append)
    dataset = BopDataset.open(tmp_path / "parts")
    assert dataset.scene_ids("val") == [1, 2]
    assert [(image.scene_id, image.im_id) for image in dataset.images("val")] == [(1, 0), (1, 1), (2, 0)]
    assert shares == pytest.approx([2 / 3, 1.0])
    last = SceneSource(world, "val").scenes(torch.tensor([2]))
    rgb = dataset.scene("val", 2).image(0).rgb() / 255.0
    assert np.abs(rgb - last.images[0].permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    assert not (tmp_path / "parts" / "test_targets_bop19.json").exists()


def test_a_dataset_grows_by_splits_but_is_never_changed(written: Path, parts: World, world: World) -> None:
    with pytest.raises(BopError, match="already exists"):
        write_dataset(parts, written, split="test", images=1)
    with pytest.raises(BopError, match="other objects"):
        write_dataset(world, written, split="train", images=1)
    write_dataset(parts, written, split="train", images=1, symmetries=[{}, HALF_TURN])
    assert BopDataset.open(written).splits() == ["test", "train"]


def test_wrong_numbers_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(BopError, match="at least 1"):
        write_dataset(world, tmp_path, images=0)
    with pytest.raises(BopError, match="one entry an object"):
        write_dataset(world, tmp_path, images=1, symmetries=[{}, {}])


# the reader


def test_the_reader_returns_what_the_writer_was_given(written: Path, parts: World, scenes: SceneBatch) -> None:
    dataset = BopDataset.open(written)
    assert list(dataset.models) == [1, 2]
    assert [model.symmetric for model in dataset.models.values()] == [False, True]
    images = list(dataset.images("test"))
    assert [image.im_id for image in images] == list(range(COUNT))
    for i, image in enumerate(images):
        assert image.instances
        label, index = image.instances[0], int(scenes.objects[i])
        assert label.obj_id == index + 1
        np.testing.assert_allclose(label.R_cam_obj, scenes.R_cam_obj[i].numpy(), atol=1e-7)
        middle = label.R_cam_obj @ parts.objects[index].offset.numpy() + label.t_cam_obj
        np.testing.assert_allclose(middle, scenes.t_cam_obj[i].numpy(), atol=1e-3)
        np.testing.assert_allclose(geometry.from_opencv(torch.from_numpy(image.K)), scenes.K)
        assert image.rgb().shape == (SIZE, SIZE, 3)
        assert label.box is not None
        assert label.visible_box is not None
        for inner, outer in ((label.visible_box[:2], label.box[:2]), (-label.visible_box[2:], -label.box[2:])):
            assert (inner >= outer).all()
    targets = dataset.targets("test")
    assert all(BopTarget(1, i, int(scenes.objects[i]) + 1, 1) in targets for i in range(COUNT))
    with pytest.raises(dataclasses.FrozenInstanceError):
        images[0].im_id = 7  # type: ignore[misc]


def make_layout(root: Path, split: str, *, models: str = "models", rgb: str = "rgb/000005.png") -> Path:
    """A dataset of one scene and one image, made by hand."""
    (root / models).mkdir(parents=True)
    (root / models / "models_info.json").write_text(json.dumps({"10": {"diameter": 50.0}, "2": {"diameter": 60.0}}))
    scene = root / split / "000048"
    for name in ("depth", Path(rgb).parent):
        (scene / name).mkdir(parents=True)
    pose = {"cam_R_m2c": np.eye(3).flatten().tolist(), "cam_t_m2c": [1.0, 2.0, 500.0], "obj_id": 10}
    camera = {"cam_K": [500.0, 0, 4, 0, 510, 3, 0, 0, 1], "depth_scale": 0.5, "view_level": 1}
    (scene / "scene_camera.json").write_text(json.dumps({"5": camera}))
    (scene / "scene_gt.json").write_text(json.dumps({"5": [pose, pose | {"obj_id": 2}, pose]}))
    ramp = np.arange(48, dtype=np.uint8).reshape(6, 8)
    picture = ramp if "gray" in rgb else np.stack([ramp, ramp + 50, ramp + 100], 2)
    Image.fromarray(picture).save(scene / rgb)
    Image.fromarray(ramp.astype(np.uint16) * 1000).save(scene / "depth" / f"000005.{'tif' if 'tif' in rgb else 'png'}")
    return scene


@pytest.mark.parametrize(
    ("split", "models", "rgb"),
    [
        ("test", "models_eval", "rgb/000005.png"),  # YCB-V, LM-O
        ("test_primesense", "models_cad", "rgb/000005.png"),  # T-LESS
        ("train_pbr", "models", "rgb/000005.jpg"),
        ("val", "models_eval", "gray/000005.tif"),  # ITODD
    ],
)
def test_the_layouts_of_the_core_datasets(tmp_path: Path, split: str, models: str, rgb: str) -> None:
    make_layout(tmp_path, split, models=models, rgb=rgb)
    dataset = BopDataset.open(tmp_path)
    assert list(dataset.models) == [2, 10]
    assert dataset.models[10].path == tmp_path / models / "obj_000010.ply"
    assert dataset.splits() == [split]
    (image,) = dataset.images(split)
    assert (image.scene_id, image.im_id) == (48, 5)
    np.testing.assert_array_equal(image.K, [[500, 0, 4], [0, 510, 3], [0, 0, 1]])
    depth = image.depth()
    assert depth is not None
    np.testing.assert_array_equal(depth, np.arange(48).reshape(6, 8) * 500.0)
    assert image.rgb().shape == (6, 8, 3)
    if not rgb.endswith("jpg"):
        np.testing.assert_array_equal(image.rgb()[..., 0], np.arange(48).reshape(6, 8))
    assert image.mask(0) is None
    assert image.instances is not None
    assert [i.obj_id for i in image.instances] == [10, 2, 10]
    assert [(i.visible_fraction, i.box) for i in image.instances] == [(1.0, None)] * 3
    assert dataset.targets(split) == [BopTarget(48, 5, 2, 1), BopTarget(48, 5, 10, 2)]


def test_a_grey_image_of_twelve_bits_is_as_bright_as_predict_sees_it(tmp_path: Path) -> None:
    scene = make_layout(tmp_path, "val", rgb="gray/000005.tif")
    ramp = np.linspace(0, 4000, 48).reshape(6, 8).astype(np.uint16)
    Image.fromarray(ramp).save(scene / "gray" / "000005.tif")
    (image,) = BopDataset.open(tmp_path).images("val")
    np.testing.assert_allclose(image.rgb()[..., 2], ramp / 4095 * 255, atol=0.51)
    (scene / "gray" / "000005.tif").write_bytes(b"II*")
    with pytest.raises(BopError, match="cannot be read"):
        image.rgb()


def test_the_evaluation_models_come_first(tmp_path: Path) -> None:
    make_layout(tmp_path, "test")
    (tmp_path / "models_eval").write_text("models")  # a link that a copy has turned into a file
    assert BopDataset.open(tmp_path).models[2].path.parent.name == "models"
    make_layout(tmp_path / "x", "test", models="models_eval")
    make_layout(tmp_path / "x", "val", models="models")
    assert BopDataset.open(tmp_path / "x").models[2].path.parent.name == "models_eval"
    assert BopDataset.open(tmp_path / "x", models="models").models[2].path.parent.name == "models"


def test_the_targets_file_is_for_the_test_split_alone(tmp_path: Path) -> None:
    make_layout(tmp_path, "test")
    rows = [{"im_id": 5, "inst_count": 2, "obj_id": 10, "scene_id": s} for s in (48, 49)]
    (tmp_path / "test_targets_bop19.json").write_text(json.dumps(rows))
    assert BopDataset.open(tmp_path).targets("test") == [BopTarget(48, 5, 10, 2)]
    make_layout(tmp_path / "x", "val")
    (tmp_path / "x" / "test_targets_bop19.json").write_text(json.dumps(rows))
    assert len(BopDataset.open(tmp_path / "x").targets("val")) == 2


def test_instances_that_hardly_show_are_no_targets(tmp_path: Path) -> None:
    scene = make_layout(tmp_path, "val")
    info = [{"visib_fract": v, "bbox_obj": [-1] * 4, "bbox_visib": [1, 2, 3, 4]} for v in (0.05, 0.0, 0.1)]
    (scene / "scene_gt_info.json").write_text(json.dumps({"5": info}))
    dataset = BopDataset.open(tmp_path)
    assert dataset.targets("val") == [BopTarget(48, 5, 10, 1)]
    (image,) = dataset.images("val")
    assert image.instances is not None
    assert image.instances[0].box is None
    np.testing.assert_array_equal(image.instances[0].visible_box, [1, 2, 5, 7])


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    scene = make_layout(tmp_path, "test")
    (scene / "scene_gt.json").unlink()
    (scene / "depth" / "000005.png").unlink()
    (scene / "rgb" / "000005.png").write_bytes(b"no picture")
    (image,) = BopDataset.open(tmp_path).images("test")
    assert image.instances is None
    assert image.depth() is None
    (scene / "rgb" / "000005.png").unlink()
    with pytest.raises(BopError, match="rgb/ or gray/ image 000005"):
        image.rgb()


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(BopError, match="no BOP dataset"):
        BopDataset.open(tmp_path)
    scene = make_layout(tmp_path, "test_kinect")
    dataset = BopDataset.open(tmp_path)
    with pytest.raises(BopError, match=r"no split 'test' .* it has test_kinect"):
        dataset.scene_ids("test")
    with pytest.raises(BopError, match="scene_camera"):
        dataset.scene("test_kinect", 3)
    with pytest.raises(BopError, match="has no image 6"):
        dataset.scene("test_kinect", 48).image(6)
    (scene / "scene_gt_info.json").write_text('{"5": [{}]}')
    with pytest.raises(BopError, match="does not belong"):
        dataset.scene("test_kinect", 48).image(5)
    (scene / "scene_camera.json").write_text('{"5": {"cam_model": {}}}')
    with pytest.raises(BopError, match="pinhole"):
        dataset.scene("test_kinect", 48).image(5)
    (scene / "scene_camera.json").write_text("{")
    with pytest.raises(BopError, match="is no valid JSON"):
        dataset.scene("test_kinect", 48)
    (tmp_path / "models" / "models_info.json").write_text('{"1": {"size_x": 3}}')
    with pytest.raises(BopError, match="object 1: there is no 'diameter'"):
        BopDataset.open(tmp_path)


# result files


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    results = [
        PoseResult(
            48, i // 2, 1 + i % 3, float(rng.random()), rng.random((3, 3)), rng.normal(0, 500, 3), 0.1 * (i // 2)
        )
        for i in range(6)
    ]
    path = tmp_path / results_name("codepose-joint", "parts", "test")
    write_results(path, results)
    lines = path.read_text().splitlines()
    assert lines[0] == "scene_id,im_id,obj_id,score,R,t,time"
    fields = lines[1].split(",")
    assert len(fields) == 7
    assert [len(text.split(" ")) for text in fields[4:6]] == [9, 3]
    again = read_results(path)
    for a, b in zip(results, again, strict=True):
        np.testing.assert_array_equal(a.R_cam_obj, b.R_cam_obj)
        np.testing.assert_array_equal(a.t_cam_obj, b.t_cam_obj)
        assert (a.scene_id, a.im_id, a.obj_id, a.score, a.time) == (b.scene_id, b.im_id, b.obj_id, b.score, b.time)
    path.write_text("\n".join(lines[1:]))
    assert len(read_results(path)) == 6, "other tools leave out the header"


def test_float32_poses_are_written_in_full(tmp_path: Path) -> None:
    R = torch.rand(3, 3).numpy()
    write_results(tmp_path / "a.csv", [PoseResult(1, 2, 3, 0.5, R, R[0])])  # type: ignore[arg-type]
    (one,) = read_results(tmp_path / "a.csv")
    np.testing.assert_array_equal(one.R_cam_obj, R.astype(np.float64))
    assert one.time == -1.0


@pytest.mark.parametrize("line", ["1,2,3,0.5,1 2 3,1 2 3,-1", "1,2,3,0.5", "a,2,3,0.5,1 0 0 0 1 0 0 0 1,1 2 3,-1"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "results.csv"
    path.write_text(f"scene_id,im_id,obj_id,score,R,t,time\n{line}\n")
    with pytest.raises(BopError, match="line 2"):
        read_results(path)


def test_an_image_has_one_time(tmp_path: Path) -> None:
    one = PoseResult(1, 1, 1, 0.5, np.eye(3), np.ones(3), 0.25)
    with pytest.raises(BopError, match="same time"):
        write_results(tmp_path / "a.csv", [one, dataclasses.replace(one, time=0.5)])


def test_names_of_results_files() -> None:
    assert results_name("codepose-joint", "lmo", "test") == "codepose-joint_lmo-test.csv"
    assert results_name("aae", "tless", "test_primesense") == "aae_tless-test-primesense.csv"
    for names in (("a_b", "lmo", "test"), ("a", "my_parts", "test"), ("a", "my-parts", "test"), ("a", "", "test")):
        with pytest.raises(BopError, match="BOP splits at"):
            results_name(*names)


def test_boxes_are_a_coco_list(tmp_path: Path) -> None:
    box = np.array([10.0, 20.0, 40.0, 80.5])
    write_boxes(tmp_path / "boxes.json", [BoxResult(1, 2, 3, 1, box, 0.5)])
    assert read(tmp_path / "boxes.json") == [
        {"scene_id": 1, "image_id": 2, "category_id": 3, "score": 1.0, "bbox": [10.0, 20.0, 29.0, 59.5], "time": 0.5}
    ]
    write_boxes(tmp_path / "none.json", [])
    assert read(tmp_path / "none.json") == []


def test_json_has_a_line_an_entry() -> None:
    for content in ({"1": [1, 2], "2": {"a": None}}, [1, {"b": [2.5]}, "c"]):
        text = json_lines(content)  # type: ignore[arg-type]
        assert json.loads(text) == content
        assert text.count("\n") == len(content) + 2


def test_boxes_there_and_back() -> None:
    np.testing.assert_array_equal(from_bop_box([3, 4, 0, 9]), [3, 4, 4, 14])  # one column, ten rows
    assert to_bop_box([3, 4, 4, 14]) == [3, 4, 0, 9]
    assert from_bop_box([-1, -1, -1, -1]) is None
    assert from_bop_box(None) is None
    assert from_bop_box([-1, -1, 5, 5]) is not None, "a box may begin left of the image"
    assert math.isclose(sum(to_bop_box([0.25, 0.5, 2.0, 3.0])), 0.25 + 0.5 + 0.75 + 1.5)


def test_objects_are_numbered_by_their_names() -> None:
    assert numbered(["obj_000005", "obj_12"]) == [5, 12]
    assert numbered(["can", "bracket"]) == [1, 2]
    assert numbered(["obj_000005", "can"]) == [1, 2]  # which is the can?
    assert numbered(["obj_000002", "obj_000002"]) == [1, 2]


def test_written_objects_keep_the_numbers_of_their_names(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """A dataset of a run on two objects of another one is numbered as that one is."""
    parts = [{"mesh": "hammer", "label": "obj_000007"}, {"mesh": str(BRACKET), "label": "obj_000003"}]
    write_dataset(World(make_settings(objects=parts)), tmp_path / "two", split="val", images=4)
    dataset = BopDataset.open(tmp_path / "two")
    assert list(dataset.models) == [3, 7]
    assert dataset.models[7].diameter > dataset.models[3].diameter  # the hammer's
    seen = {instance.obj_id for image in dataset.images("val") for instance in image.instances or ()}
    assert seen <= {3, 7}


def test_results_of_numpy_numbers_can_be_read_again(tmp_path: Path) -> None:
    row = PoseResult(np.int64(1), 2, 3, np.float32(0.5), np.eye(3), np.zeros(3), np.float64(0.1))  # type: ignore[arg-type]
    write_results(tmp_path / "a.csv", [row])
    (again,) = read_results(tmp_path / "a.csv")
    assert (again.scene_id, again.im_id, again.obj_id, again.score, again.time) == (1, 2, 3, 0.5, 0.1)


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("models/models_info.json", "[]", "must hold names and values, not"),
        ("models/models_info.json", '{"x": {"diameter": 1}}', "keys must be numbers, not 'x'"),
        ("models/models_info.json", '{"1": {}}', "there is no 'diameter'"),
        ("test_targets_bop19.json", '[{"scene_id": 1, "im_id": 0, "obj_id": 1}]', "there is no 'inst_count'"),
        ("test_targets_bop19.json", "{}", "must hold a list"),
        ("test/000001/scene_gt.json", '{"0": [{}]}', "image 0, label 0: there is no 'obj_id'"),
        ("test/000001/scene_camera.json", '{"0": {"cam_K": [1, 2]}}', "image 0: cam_K: it must hold 3 x 3 numbers"),
    ],
)
def test_damaged_datasets_are_named(written: Path, tmp_path: Path, file: str, text: str, says: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(written, copy)
    (copy / "test" / "000001" / "scene_gt_info.json").unlink()
    (copy / file).write_text(text)

    def read_all() -> None:
        dataset = BopDataset.open(copy)
        dataset.targets("test")
        list(dataset.images("test"))

    with pytest.raises(BopError, match=re.escape(says)):
        read_all()
