"""A BOP dataset scores the same in every layout and spelling that people have it in, and damaged ones are named."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from codepose import geometry
from codepose.bop.benchmark import BopResults, evaluate_images
from codepose.bop.dataset import BopDataset
from codepose.bop.entries import BopError
from codepose.bop.scenes import BopImage
from codepose.estimation.detection import Detection
from codepose.parts.mesh import load_mesh
from codepose.rendering.renderer import Instances, Renderer

BRACKET = Path(__file__).parents[1] / "data" / "bracket.ply"
K = np.array([[90.0, 0, 31.5], [0, 92, 23.5], [0, 0, 1]])
HEIGHT, WIDTH = 48, 64
IMAGES = (3, 13)
"""Numbers with a gap before and between them, of which one ends as the other does."""
SHIFT = np.array([0.0, 0.0, 7.0])
"""Of every estimate, so that scores are neither 0 nor 1."""
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bracket behind a board that hides a third of it, in BOP's own words."""
    root = tmp_path_factory.mktemp("layouts") / "ds"
    scene = root / "test" / "000001"
    for folder in (root / "models", *(scene / kind for kind in ("rgb", "depth", "mask", "mask_visib"))):
        folder.mkdir(parents=True)
    mesh = load_mesh(BRACKET, center=False)
    shutil.copy(BRACKET, root / "models" / "obj_000001.ply")
    write(root / "models" / "models_info.json", {"1": {"diameter": mesh.diameter}})
    write(root / "camera.json", {"cx": 31.5, "cy": 23.5, "depth_scale": 0.1, "fx": 90.0, "fy": 92.0})
    R = Rotation.from_rotvec([[0.3, 0.5, 0.1], [-0.4, 0.2, 2.0]]).as_matrix()
    t = np.array([[-8.0, 3, 200], [12, -5, 240]]) - R @ mesh.center.astype(np.float64)
    one = torch.zeros(2).long()
    poses = (torch.from_numpy(R).float(), torch.from_numpy(t).float())
    cameras = geometry.from_opencv(torch.from_numpy(K)).float().expand(2, 3, 3)
    buffers = Renderer([mesh]).render(Instances.single(one, *poses), cameras, (HEIGHT, WIDTH))
    gt, infos = {}, {}
    for i, im_id in enumerate(IMAGES):
        depth, color = buffers.depth[i].numpy(), (buffers.color[i].numpy() * 255).astype(np.uint8)
        silhouette, measured = depth > 0, np.where(depth > 0, depth, 600.0)
        measured[:, : WIDTH // 2 - 4] = 100.0  # the board
        Image.fromarray((measured * 10).round().astype(np.uint16)).save(scene / "depth" / f"{im_id:06d}.png")
        Image.fromarray(color).save(scene / "rgb" / f"{im_id:06d}.png")
        for kind, mask in (("mask", silhouette), ("mask_visib", silhouette & (measured == depth))):
            Image.fromarray(mask.astype(np.uint8) * 255).save(scene / kind / f"{im_id:06d}_000000.png")
        pose = {"cam_R_m2c": R[i].flatten().tolist(), "cam_t_m2c": t[i].tolist(), "obj_id": 1}
        gt[str(im_id)], infos[str(im_id)] = [pose], [{"visib_fract": 1.0, "bbox_obj": [20, 10, 30, 30]}]
    entry = {"cam_K": K.flatten().tolist(), "depth_scale": 0.1}
    write(scene / "scene_camera.json", {str(im_id): entry for im_id in IMAGES})
    write(scene / "scene_gt.json", gt)
    write(scene / "scene_gt_info.json", infos)
    targets = [{"im_id": im_id, "inst_count": 1, "obj_id": 1, "scene_id": 1} for im_id in IMAGES]
    write(root / "test_targets_bop19.json", targets)
    return root


@pytest.fixture(scope="module")
def expected(plain: Path) -> list[Any]:
    results = judged(plain)
    summary = results.summary()
    assert 0.1 < summary["ar_vsd"] < 0.9
    assert summary["instances"] == 2
    return numbers(results)


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def judged(root: Path, camera: str | None = None, split: str = "test") -> BopResults:
    """Every label, shifted away from the camera, against the labels."""
    dataset = BopDataset.open(root, camera=camera)
    images = {image.rgb().tobytes(): image for image in dataset.images(split)}

    def shifted(pixels: Any, camera: Any, **_: Any) -> list[Detection]:
        labels = images[pixels.tobytes()].instances or ()
        box = np.array([1.0, 2.0, 30.0, 40.0])
        return [Detection("", 0, 0.9, 1.0, box, one.R_cam_obj, one.t_cam_obj + SHIFT) for one in labels]

    return evaluate_images(shifted, dataset, split, [1])


def numbers(results: BopResults) -> list[Any]:
    return [[*vars(row).values()] for row in results.rows] + [results.summary()[k] for k in ("ar", "ar_vsd", "ar_mspd")]


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "ds"))


def scene_of(root: Path) -> Path:
    return next((root / "test").iterdir())


def cameras_named(name: str, pictures: str) -> Change:
    """Scenes with cameras of their own, of which this is one."""

    def change(root: Path) -> None:
        scene = scene_of(root)
        for kind in ("scene_camera", "scene_gt", "scene_gt_info"):
            (scene / f"{kind}.json").rename(scene / f"{kind}_{name}.json")
        for kind in ("depth", "mask", "mask_visib"):
            (scene / kind).rename(scene / f"{kind}_{name}")
        (scene / "rgb").rename(scene / pictures)

    return change


def without_depth_scale(root: Path) -> None:
    path = scene_of(root) / "scene_camera.json"
    write(path, {key: {"cam_K": entry["cam_K"]} for key, entry in read(path).items()})


def null_depth_scale(root: Path) -> None:
    path = scene_of(root) / "scene_camera.json"
    write(path, {key: entry | {"depth_scale": None} for key, entry in read(path).items()})


def depth_scale_of_the_sensor(root: Path) -> None:
    """T-LESS: camera_primesense.json beside others."""
    without_depth_scale(root)
    sensor = read(root / "camera.json")
    (root / "camera.json").unlink()
    write(root / "camera_primesense.json", sensor)
    write(root / "camera_kinect.json", sensor | {"depth_scale": 1.0})
    (root / "test").rename(root / "test_primesense")


def depth_scale_of_the_named_camera(root: Path) -> None:
    without_depth_scale(root)
    cameras_named("cam1", "rgb_cam1")(root)
    write(root / "camera_cam1.json", read(root / "camera.json"))
    write(root / "camera.json", {"depth_scale": 7.0})


def padded_keys(root: Path) -> None:
    for path in scene_of(root).glob("*.json"):
        write(path, {f"{int(key):06d}": entry for key, entry in read(path).items()})
    info = root / "models" / "models_info.json"
    write(info, {"000001": read(info)["1"]})


def unpadded_folder(root: Path) -> None:
    scene_of(root).rename(root / "test" / "1")


def unpadded_files(root: Path) -> None:
    for folder in (p for p in scene_of(root).iterdir() if p.is_dir()):
        for path in folder.iterdir():
            path.rename(folder / ("_".join(str(int(part)) for part in path.stem.split("_")) + path.suffix.upper()))
    (root / "models" / "obj_000001.ply").rename(root / "models" / "obj_01.ply")


def nulls(root: Path) -> None:
    """What is not known said as null; symmetries too."""
    path = scene_of(root) / "scene_gt_info.json"
    write(path, {"3": [None], "13": [{"visib_fract": None, "bbox_obj": None, "bbox_visib": None}]})
    info = root / "models" / "models_info.json"
    write(info, {"1": read(info)["1"] | {"symmetries_discrete": None, "symmetries_continuous": None}})


def without_infos(root: Path) -> None:
    (scene_of(root) / "scene_gt_info.json").unlink()
    shutil.rmtree(scene_of(root) / "mask")


def bom_and_crlf(root: Path) -> None:
    for path in root.rglob("*.json"):
        text = json.dumps(read(path), indent=1).replace("\n", "\r\n")
        path.write_bytes(text.encode("utf-8-sig"))


def utf_16(root: Path) -> None:
    """As PowerShell writes."""
    for path in root.rglob("*.json"):
        path.write_bytes(path.read_text().encode("utf-16"))


def no_targets_file(root: Path) -> None:
    (root / "test_targets_bop19.json").unlink()


def detection_targets(root: Path) -> None:
    """BOP24's names images alone; a third image is in none of its rows."""
    (root / "test_targets_bop19.json").unlink()
    write(root / "test_targets_bop24.json", [{"im_id": im_id, "scene_id": 1} for im_id in IMAGES])
    scene = scene_of(root)
    for path in scene.glob("*.json"):
        write(path, read(path) | {"20": read(path)["13"]})
    shutil.copy(scene / "rgb" / "000013.png", scene / "rgb" / "000020.png")


def nested_matrices(root: Path) -> None:
    path = scene_of(root) / "scene_gt.json"
    rows = {key: np.reshape(entry["cam_R_m2c"], (3, 3)).tolist() for key, (entry,) in read(path).items()}
    write(path, {key: [entry | {"cam_R_m2c": rows[key]}] for key, (entry,) in read(path).items()})
    path = scene_of(root) / "scene_camera.json"
    write(path, {k: e | {"cam_K": np.reshape(e["cam_K"], (3, 3)).tolist()} for k, e in read(path).items()})


def tif_depth(root: Path) -> None:
    for path in (scene_of(root) / "depth").iterdir():
        with Image.open(path) as image:
            image.save(path.with_suffix(".tif"))
        path.unlink()


def other_models_folder(root: Path) -> None:
    (root / "models").rename(root / "models_reconst")


def other_objects_there(root: Path) -> None:
    """Labels of objects that the dataset brings no model of."""
    path = scene_of(root) / "scene_gt.json"
    write(path, {key: [*labels, labels[0] | {"obj_id": 99}] for key, labels in read(path).items()})
    path = scene_of(root) / "scene_gt_info.json"
    write(path, {key: infos * 2 for key, infos in read(path).items()})


def imagewise(root: Path) -> None:
    """Every image's files under one name, with masks in one JSON file; a file of another kind lies beside them."""
    scene, split = scene_of(root), root / "test"
    for kind in ("camera", "gt", "gt_info"):
        for im_id, entry in read(scene / f"scene_{kind}.json").items():
            write(split / f"000001_{int(im_id):06d}.{kind}.json", entry)
    for kind in ("rgb", "depth"):
        for path in (scene / kind).iterdir():
            path.rename(split / f"000001_{path.stem}.{kind}{path.suffix}")
    shutil.rmtree(scene)
    write(split / "000001_000003.mask.json", {"0": {"counts": [HEIGHT * WIDTH], "size": [HEIGHT, WIDTH]}})
    write(split / "key_to_shard.json", {})


def webdataset(root: Path) -> None:
    imagewise(root)
    pack(root / "test")


def pack(split: Path) -> None:
    """Packs each image into a tar file of its own, in a folder within it."""
    for number, im_id in enumerate(IMAGES):
        with tarfile.open(split / f"shard-{number:06d}.tar", "w") as tar:
            for path in sorted(split.glob(f"000001_{im_id:06d}.*")):
                tar.add(path, f"./{path.name}")
                path.unlink()


def grey_imagewise(root: Path) -> None:
    imagewise(root)
    for path in list((root / "test").glob("*.rgb.png")):
        path.rename(path.with_name(path.name.replace("rgb", "gray")))


READ: dict[str, Change] = {
    "80: webdataset": webdataset,
    "imagewise": imagewise,
    "imagewise, grey": grey_imagewise,
    "71: camera.json's depth_scale": without_depth_scale,
    "null depth_scale": null_depth_scale,
    "depth_scale of camera_primesense.json": depth_scale_of_the_sensor,
    "depth_scale of camera_cam1.json": depth_scale_of_the_named_camera,
    "76: IPD": cameras_named("cam1", "rgb_cam1"),
    "76: XYZ-IBD": cameras_named("xyz", "gray_xyz"),
    "76b: HOT3D": cameras_named("gray1", "gray1"),
    "79: padded keys": padded_keys,
    "83: null": nulls,
    "84: scene 1": unpadded_folder,
    "unpadded files": unpadded_files,
    "86: BOM and CRLF": bom_and_crlf,
    "UTF-16": utf_16,
    "no scene_gt_info, no masks": without_infos,
    "no targets": no_targets_file,
    "BOP24's targets": detection_targets,
    "matrices of three rows": nested_matrices,
    "depth in TIFF": tif_depth,
    "models_reconst": other_models_folder,
    "objects without models": other_objects_there,
}


@pytest.mark.parametrize("change", READ.values(), ids=READ.keys())
def test_every_spelling_scores_the_same(copy: Path, expected: list[Any], change: Change) -> None:
    change(copy)
    (split,) = BopDataset.open(copy).splits()
    results = judged(copy, split=split)
    assert numbers(results) == [pytest.approx(one) if isinstance(one, float) else one for one in expected]
    assert results.without_depth == 0


def test_masks_are_found_in_every_layout(copy: Path, plain: Path) -> None:
    unpadded_files(copy)
    cameras_named("cam1", "rgb_cam1")(copy)
    for new, old in zip(BopDataset.open(copy).images("test"), BopDataset.open(plain).images("test"), strict=True):
        for visible in (False, True):
            mask = old.mask(0, visible=visible)
            assert mask is not None
            assert mask.any()
            np.testing.assert_array_equal(new.mask(0, visible=visible), mask)


def test_one_of_several_cameras_is_named(copy: Path, expected: list[Any]) -> None:
    cameras_named("cam1", "rgb_cam1")(copy)
    scene = scene_of(copy)
    for path in list(scene.glob("*_cam1*")):
        other = path.with_name(path.name.replace("cam1", "cam2"))
        shutil.copytree(path, other) if path.is_dir() else shutil.copy(path, other)
    for kind in ("gt", "gt_info"):  # the part is not before this camera
        edited(f"test/000001/scene_{kind}_cam2.json", lambda entries: entries | {"3": []})(copy)
    with pytest.raises(BopError, match=r"have the cameras cam1, cam2: name one \(--camera\)"):
        judged(copy)
    with pytest.raises(BopError, match="has a camera 'rgb'; they have cam1, cam2"):
        judged(copy, "rgb")
    assert numbers(judged(copy, "cam1")) == expected
    dataset = BopDataset.open(copy, camera="cam2")
    assert dataset.split_camera("test") == "cam2"
    assert [len(image.instances or ()) for image in dataset.images("test")] == [0, 1]
    with pytest.raises(BopError, match=r"asks for 1 of object 1 in image 3, but .*scene_gt_cam2.json has 0"):
        judged(copy, "cam2")


@pytest.mark.parametrize("change", [lambda _: None, imagewise], ids=["scenewise", "imagewise"])
def test_a_camera_without_a_name_is_not_asked_for_by_one(copy: Path, change: Change) -> None:
    change(copy)
    with pytest.raises(BopError, match="has a camera 'cam1'; they have one without a name: leave out --camera"):
        judged(copy, "cam1")


# refused


def edited(file: str, change: Callable[[Any], Any]) -> Change:
    def edit(root: Path) -> None:
        write(root / file, change(read(root / file)))

    return edit


def text(file: str, content: str | bytes) -> Change:
    def edit(root: Path) -> None:
        (root / file).write_bytes(content.encode() if isinstance(content, str) else content)

    return edit


def label(**changes: Any) -> Change:
    return edited(GT, lambda gt: gt | {"3": [gt["3"][0] | changes]})


def camera(**changes: Any) -> Change:
    return edited(CAMERA, lambda cameras: cameras | {"3": cameras["3"] | changes})


def in_metres(root: Path) -> None:
    gt = read(root / GT)
    write(root / GT, {k: [e | {"cam_t_m2c": [x / 1000 for x in e["cam_t_m2c"]]} for e in v] for k, v in gt.items()})


def models_in_metres(root: Path, *, info: bool = False) -> None:
    import trimesh

    mesh: Any = trimesh.load(str(BRACKET), process=False)
    mesh.apply_scale(0.001).export(str(root / "models" / "obj_000001.ply"))
    if info:
        path = root / "models" / "models_info.json"
        write(path, {"1": {"diameter": read(path)["1"]["diameter"] / 1000}})


def no_depth_scale_at_all(root: Path) -> None:
    without_depth_scale(root)
    (root / "camera.json").unlink()


def two_folders_of_a_scene(root: Path) -> None:
    shutil.copytree(scene_of(root), root / "test" / "1")


def cut(file: str, count: int = 60) -> Change:
    def edit(root: Path) -> None:
        (root / file).write_bytes((root / file).read_bytes()[:-count])

    return edit


def then(*changes: Change) -> Change:
    def edit(root: Path) -> None:
        for change in changes:
            change(root)

    return edit


def webdataset_twice(root: Path) -> None:
    webdataset(root)
    shutil.copy(root / "test" / "shard-000000.tar", root / "test" / "shard-000002.tar")


def webdataset_without_colours(root: Path) -> None:
    imagewise(root)
    (root / "test" / "000001_000003.rgb.png").unlink()
    pack(root / "test")


def webdataset_with_broken_labels(root: Path) -> None:
    imagewise(root)
    (root / "test" / "000001_000003.gt.json").write_text("[")
    pack(root / "test")


def broken_imagewise(root: Path) -> None:
    imagewise(root)
    write(root / "test" / "000001_000003.gt.json", {"0": []})


def imagewise_without_cameras(root: Path) -> None:
    imagewise(root)
    (root / "test" / "000001_000003.camera.json").rename(root / "test" / "x_y.camera.json")
    (root / "test" / "000001_000013.camera.json").unlink()


GT, CAMERA, INFO = (f"test/000001/scene_{kind}.json" for kind in ("gt", "camera", "gt_info"))
MODELS, TARGETS = "models/models_info.json", "test_targets_bop19.json"
POINTS = "ply\nformat ascii 1.0\nelement vertex 2\n" + "".join(f"property float {axis}\n" for axis in "xyz")
POINTS += "end_header\n0 0 0\n0 0 128\n"
EYE = [1, 0, 0, 0, 1, 0, 0, 0, 1]
REFUSED: dict[str, tuple[Change, str]] = {
    "71: no depth_scale": (no_depth_scale_at_all, r"scene_camera.json, image 3: there is no 'depth_scale', nor in"),
    "webdataset, cut": (
        then(webdataset, cut("test/shard-000001.tar", 12_000)),
        r"shard-000001.tar is damaged, cut off",
    ),
    "webdataset, twice": (
        webdataset_twice,
        r"-000000.tar, 000001_000003.\w+\S* and .*000002.tar, .* of one image: remov",
    ),
    "webdataset, colours": (webdataset_without_colours, r"ds/test has no rgb/ or gray/ image 000003"),
    "webdataset, labels": (webdataset_with_broken_labels, r"shard-000000.tar, 000001_000003.gt.json is no valid JSON"),
    "imagewise, labels": (broken_imagewise, r"test/000001_000003.gt.json must hold a list, not \{"),
    "imagewise, picture": (
        then(imagewise, cut("test/000001_000003.rgb.png")),
        r"test/000001_000003.rgb.png cannot be r",
    ),
    "imagewise, no camera": (imagewise_without_cameras, r"ds/test has no image with a camera, such as 000001_000003.c"),
    "90: metres": (
        in_metres,
        r"scene_gt.json, image 3: the camera would be inside object 1.* multiply every cam_t_m2c",
    ),
    "model in metres": (models_in_metres, r"obj_000001.ply is .* mm, but its diameter .*: BOP's models are in mm"),
    "all in metres": (lambda root: models_in_metres(root, info=True), r"obj_000001.ply is 0.\d+ mm across: BOP's mod"),
    "two folders": (two_folders_of_a_scene, r"test/000001 and .*test/1 are both scene 1: rename one"),
    "NaN pose": (label(cam_t_m2c=[0, float("nan"), 5]), r"image 3, label 0: cam_t_m2c: it holds numbers that are not"),
    "huge number": (label(cam_t_m2c=[0, 10**400, 5]), r"image 3, label 0: cam_t_m2c: it must hold 3 numbers"),
    "infinite R": (label(cam_R_m2c=[1e308] * 9), r"cam_R_m2c: .* is no rotation"),
    "scaled R": (label(cam_R_m2c=[1.02 * x for x in EYE]), r"cam_R_m2c: .* is no rotation"),
    "mirrored R": (label(cam_R_m2c=[-1, *EYE[1:]]), r"cam_R_m2c: .* is no rotation"),
    "a number that is false": (label(cam_R_m2c=[1, False, *EYE[2:]]), r"cam_R_m2c: it must hold 3 x 3 numbers"),
    "a number in words": (label(cam_t_m2c=["0", "0", "700"]), r"cam_t_m2c: it must hold 3 numbers"),
    "null in a pose": (label(cam_t_m2c=[0, None, 700]), r"cam_t_m2c: it must hold 3 numbers"),
    "null pose": (label(cam_R_m2c=None), r"scene_gt.json, image 3, label 0: cam_R_m2c: it must hold 3 x 3 numbers"),
    "obj_id": (label(obj_id=1.5), r"label 0: obj_id: .*mend the file, or fetch it again"),
    "infinite obj_id": (label(obj_id=float("inf")), r"label 0: obj_id: "),
    "labels no list": (
        edited(GT, lambda gt: gt | {"3": gt["3"][0]}),
        r"image 3: it must hold a list of labels, not \{",
    ),
    "a label no mapping": (edited(GT, lambda gt: gt | {"3": [7]}), r"label 0: it must hold names and values, not 7; m"),
    "a null label": (edited(GT, lambda gt: gt | {"3": [None]}), r"label 0: it must hold names and values, not null; m"),
    "no label": (
        edited(GT, lambda gt: gt | {"3": []}),
        r"scene_gt_info.json does not belong to scene_gt.json: image 3",
    ),
    "no image in gt": (
        edited(GT, lambda gt: {"13": gt["13"]}),
        r"does not belong to scene_gt.json: image 3 has 1 entr",
    ),
    "info": (
        edited(INFO, lambda i: i | {"3": [{"visib_fract": "x"}]}),
        r"scene_gt_info.json, image 3, label 0: visib_f",
    ),
    "box": (edited(INFO, lambda i: i | {"3": [{"bbox_obj": [1, 2]}]}), r"bbox_obj: it must hold 4 numbers"),
    "zero K": (camera(cam_K=[0] * 9), r"scene_camera.json, image 3: cam_K: K must be"),
    "K of a projection": (camera(cam_K=[90, 0, 31, 0, 90, 23, 0, 0, 2]), r"image 3: cam_K: K must have no skew"),
    "K in mm": (camera(cam_K=[4, 0, 31, 0, 4, 23, 0, 0, 1]), r"image 3: cam_K: fx 4 on a photo .* not in mm"),
    "fisheye": (edited(CAMERA, lambda c: c | {"3": {"cam_model": {}}}), r"image 3: only pinhole cameras"),
    "negative depth_scale": (camera(depth_scale=-1), r"image 3: depth_scale: .* greater than or equal to 0.000000001"),
    "NaN depth_scale": (camera(depth_scale=float("nan")), r"image 3: depth_scale: "),
    "image not there": (edited(TARGETS, lambda t: [t[0] | {"im_id": 4}]), r"scene_camera.json has no image 4"),
    "target twice": (edited(TARGETS, lambda t: [*t, t[1]]), r"lists object 1 of scene 1, image 13, twice"),
    "too many wanted": (
        edited(TARGETS, lambda t: [t[0] | {"inst_count": 2}]),
        r"asks for 2 of object 1 in image 3, but",
    ),
    "negative count": (edited(TARGETS, lambda t: [t[0] | {"inst_count": -1}]), r"row 1: inst_count: .* greater than 0"),
    "names in targets": (
        edited(TARGETS, lambda t: ["x"]),
        r"test_targets_bop19.json, row 1: it must hold names",
    ),
    "cut JSON": (cut(GT), r"scene_gt.json is no valid JSON \("),
    "binary JSON": (text(CAMERA, b"\x89PNG\xff\xfe"), r"scene_camera.json is no text: fetch it again"),
    "empty JSON": (text(CAMERA, ""), r"scene_camera.json is no valid JSON \("),
    "deep JSON": (text(MODELS, "[" * 100_000), r"models_info.json is no valid JSON \(it is nested too deeply\)"),
    "a key twice": (text(GT, '{"3": [], "3": []}'), r"scene_gt.json is no valid JSON \(it holds '3' twice"),
    "a number twice": (edited(GT, lambda gt: gt | {"03": gt["3"]}), r"scene_gt.json holds number 3 twice"),
    "names for numbers": (edited(GT, lambda gt: {"²": gt["3"]}), r"its keys must be numbers, not '²'"),
    "no models_info": (lambda root: (root / MODELS).unlink(), r"there is no models_eval or models or models_cad with"),
    "no diameter": (edited(MODELS, lambda m: {"1": {}}), r"models_info.json, object 1: there is no 'diameter'"),
    "null model": (edited(MODELS, lambda m: {"1": None}), r"models_info.json, object 1: it must hold names and values"),
    "infinite visib_fract": (
        edited(INFO, lambda i: i | {"3": [{"visib_fract": float("inf")}]}),
        r"label 0: visib_fract",
    ),
    "visib_fract in words": (edited(INFO, lambda i: i | {"3": [{"visib_fract": "1"}]}), r"label 0: visib_fract"),
    "NaN diameter": (edited(MODELS, lambda m: {"1": {"diameter": float("nan")}}), r"object 1: diameter: "),
    "wrong symmetry": (
        edited(MODELS, lambda m: {"1": m["1"] | {"symmetries_discrete": [[1] * 16]}}),
        r"object 1: symmetries_discrete must hold rotations",
    ),
    "symmetries no list": (
        edited(MODELS, lambda m: {"1": m["1"] | {"symmetries_discrete": 5}}),
        r"object 1: symmetries_discrete: .*list",
    ),
    "an axis without direction": (
        edited(MODELS, lambda m: {"1": m["1"] | {"symmetries_continuous": [{"axis": [0] * 3, "offset": [0] * 3}]}}),
        r"object 1: symmetries_continuous must hold an axis and an offset",
    ),
    "symmetry's axis": (
        edited(MODELS, lambda m: {"1": m["1"] | {"symmetries_continuous": [{"axis": None, "offset": [0, 0, 0]}]}}),
        r"models_info.json, object 1: symmetries_continuous.0.axis: it must hold 3 numbers",
    ),
    "no PLY": (lambda root: (root / "models" / "obj_000001.ply").unlink(), r"obj_000001.ply is missing"),
    "a cut PLY": (text("models/obj_000001.ply", BRACKET.read_bytes()[:-4000]), r"models again|export the part again"),
    "NaN in the PLY": (
        text("models/obj_000001.ply", POINTS.replace("0 0 128", "0 0 nan")),
        r"obj_000001.ply holds vertices that are not finite",
    ),
    "a PLY of points": (
        text("models/obj_000001.ply", POINTS),
        r"obj_000001.ply: .* \(BOP's models are in mm\)",
    ),
    "cut depth": (cut("test/000001/depth/000003.png"), r"depth/000003.png cannot be read: "),
    "cut rgb": (cut("test/000001/rgb/000003.png"), r"rgb/000003.png cannot be read: "),
    "no rgb": (lambda root: shutil.rmtree(root / "test/000001/rgb"), r"000001 has no rgb/ or gray/ image 000003"),
    "no labels": (lambda root: (root / GT).unlink(), r"there is no .*scene_gt.json: the labels .* are not public"),
    "no split": (lambda root: (root / "test").rename(root / "val"), r"has no split 'test' with .*; it has val"),
}


@pytest.mark.parametrize(("change", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_read_is_said_in_one_line(plain: Path, copy: Path, change: Change, says: str) -> None:
    change(copy)
    with pytest.raises(BopError, match=says) as raised:
        evaluate_images(lambda *_, **__: [], BopDataset.open(copy), "test", [1])
    assert "\n" not in str(raised.value)


def test_damaged_masks_are_named(copy: Path) -> None:
    cut("test/000001/mask/000003_000000.png")(copy)
    image = next(BopDataset.open(copy).images("test"))
    with pytest.raises(BopError, match=re.escape("mask/000003_000000.png cannot be read")):
        image.mask(0)


def test_a_dataset_without_depth_needs_no_scale(copy: Path) -> None:
    no_depth_scale_at_all(copy)
    shutil.rmtree(scene_of(copy) / "depth")
    image: BopImage = next(BopDataset.open(copy).images("test"))
    assert image.depth() is None
    assert replace(image, depth_scale=2.0).depth() is None
    assert judged(copy).without_depth == 2


def test_the_same_image_in_two_formats_is_the_png(copy: Path) -> None:
    folder = scene_of(copy) / "rgb"
    with Image.open(folder / "000003.png") as image:
        pixels = np.array(image)
    Image.new("RGB", (WIDTH, HEIGHT), (200, 0, 0)).save(folder / "000003.jpg")
    np.testing.assert_array_equal(next(BopDataset.open(copy).images("test")).rgb(), pixels)
    (folder / "000003.png").unlink()
    assert next(BopDataset.open(copy).images("test")).rgb()[0, 0, 0] > 150
