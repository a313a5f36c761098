"""BOP datasets end to end: rendered by a command, evaluated with the truth, with mistakes, and with a network."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation

from codepose import geometry
from codepose.bop.benchmark import evaluate_images
from codepose.bop.dataset import BopDataset
from codepose.bop.entries import BopError
from codepose.bop.evaluation import evaluate_bop
from codepose.bop.results import read_results
from codepose.cli.bop_commands import Render, render
from codepose.cli.main import main
from codepose.estimation.detection import Detection
from codepose.estimation.estimator import PoseEstimator
from codepose.evaluation.pose_errors import add_s
from codepose.networks.build import build_joint
from codepose.parts.mesh import load_mesh, save_mesh
from codepose.predict import bop_file
from codepose.predict.sources import Photo
from codepose.rendering.renderer import Instances, Renderer
from codepose.runtime.run import Run
from codepose.settings.errors import ConfigError
from codepose.settings.files import override
from codepose.settings.schema import Settings
from codepose.storage.checksums import read_json

BRACKET = Path(__file__).parents[1] / "data" / "bracket.ply"
SCORES = ("ar_vsd", "ar_mssd", "ar_mspd", "ar", "add_recall_10", "found_fraction")
Change = Callable[[Detection], Detection]


class Oracle:
    """Answers with an image's labels, found by its pixels, after a change."""

    def __init__(self, dataset: BopDataset, split: str, change: Change = lambda d: d, extra: int = 0) -> None:
        self.device = torch.device("cpu")
        self.images = {image.rgb().tobytes(): image for image in dataset.images(split)}
        self.change, self.extra = change, extra
        self.cameras: list[NDArray[Any]] = []
        self.depths: list[NDArray[Any] | None] = []

    def __call__(
        self,
        image: NDArray[np.uint8],
        camera: Any,
        *,
        min_score: float | None = None,
        depth: Any = None,
        tiles: int = 1,
    ) -> list[Detection]:
        self.cameras.append(np.asarray(camera))
        self.depths.append(depth)
        labels = self.images[image.tobytes()].instances or ()
        found = [
            Detection(
                label="",
                object_index=0,
                score=0.9 - 0.1 * i,
                similarity=1.0,
                box=np.array([1.0, 2.0, 30.0, 40.0]) if label.box is None else label.box,
                R_cam_obj=label.R_cam_obj,
                t_cam_obj=label.t_cam_obj,
            )
            for i, label in enumerate(labels)
        ]
        wrong = [shifted(d, 1000.0, score=0.95) for d in found[: self.extra]]
        return [self.change(d) for d in reversed(found)] + wrong


def shifted(d: Detection, by: float, **changes: Any) -> Detection:
    return Detection(**{**d.__dict__, "t_cam_obj": d.t_cam_obj + np.array([0.0, 0.0, by]), **changes})


def turned(d: Detection, degrees: float) -> Detection:
    turn = Rotation.from_euler("x", degrees, degrees=True).as_matrix()
    return Detection(**{**d.__dict__, "R_cam_obj": d.R_cam_obj @ turn})


@pytest.fixture(scope="module")
def settings(make_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """One bracket whose CAD file's origin is not its middle; a detector that finds something everywhere."""
    path = tmp_path_factory.mktemp("cad") / "part.ply"
    save_mesh(load_mesh(BRACKET).moved([30.0, -20.0, 10.0]), path)
    return make_settings(**{"objects": [{"mesh": str(path)}], "detection.score": 0.0, "detection.per_object": 2})


@pytest.fixture(scope="module")
def run(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run.create(tmp_path_factory.mktemp("runs") / "part", settings)
    torch.manual_seed(0)
    run.save_weights("step2", build_joint(settings))
    return run


@pytest.fixture(scope="module")
def rendered(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """codepose render RUN --bop ... --images 4 --split test"""
    path = tmp_path_factory.mktemp("bop") / "my_parts"
    assert render(Render(bop=path, meshes=(run.path,), images=4, split="test", device="cpu")).status == 0
    return path


def measured(dataset: BopDataset, oracle: Oracle, split: str = "test", obj_id: int = 1) -> dict[str, Any]:
    return evaluate_images(oracle, dataset, split, [obj_id]).summary()


# rendering


def test_render_parses_as_documented(tmp_path: Path) -> None:
    line = "part.ply --bop data/part --images 5 --split val --preset quick --data.camera.focal 600"
    options = tyro.cli(Render, args=line.split())
    assert (options.meshes, options.bop) == ((Path("part.ply"),), Path("data/part"))
    assert (options.images, options.split) == (5, "val")
    assert options.settings.data.camera.focal == 600


def test_render_takes_cad_files_and_symmetries(settings: Settings, tmp_path: Path) -> None:
    infos = tmp_path / "known.json"
    axis = {"axis": [0, 0, 1], "offset": [0, 0, 0]}
    infos.write_text(json.dumps({"1": {"diameter": 1, "symmetries_continuous": [axis]}, "2": {}}))
    meshes = (BRACKET, Path("hammer"))
    out = tmp_path / "set"
    render(Render(bop=out, meshes=meshes, images=2, symmetries=infos, device="cpu", settings=settings))
    dataset = BopDataset.open(out)
    assert [model.symmetric for model in dataset.models.values()] == [True, False]
    assert dataset.models[1].diameter == pytest.approx(load_mesh(BRACKET).diameter, rel=1e-5)
    assert len(list(dataset.images("train"))) == 2
    one = settings.objects[0].model_copy(update={"symmetries": str(infos)})
    declared = settings.model_copy(update={"objects": (one,)})
    render(Render(bop=tmp_path / "declared", meshes=(BRACKET,), images=1, device="cpu", settings=declared))
    assert BopDataset.open(tmp_path / "declared").models[1].symmetric
    render(Render(bop=tmp_path / "found", meshes=(BRACKET,), images=1, device="cpu", settings=settings))
    assert not BopDataset.open(tmp_path / "found").models[1].symmetric
    for text, problem in (("{", "is no JSON"), ('{"1": {}}', "no entry"), ('{"symmetries_discrete": [[1]]}', "16")):
        infos.write_text(text)
        with pytest.raises(ConfigError, match=problem):
            render(Render(bop=out, meshes=meshes, split="val", symmetries=infos, device="cpu", settings=settings))


def test_render_takes_the_symmetries_of_the_numbers_in_the_meshes_names(settings: Settings, tmp_path: Path) -> None:
    infos, mesh = tmp_path / "known.json", tmp_path / "obj_000005.ply"
    mesh.write_bytes(BRACKET.read_bytes())
    axis = {"axis": [0, 0, 1], "offset": [0, 0, 0]}
    infos.write_text(json.dumps({"1": {"symmetries_continuous": [axis]}, "5": {}}))
    render(Render(bop=tmp_path / "set", meshes=(mesh,), images=1, symmetries=infos, device="cpu", settings=settings))
    models = BopDataset.open(tmp_path / "set").models
    assert {number: model.symmetric for number, model in models.items()} == {5: False}


# evaluation with known answers


def test_the_truth_scores_one(rendered: Path) -> None:
    dataset = BopDataset.open(rendered)
    oracle = Oracle(dataset, "test")
    summary = measured(dataset, oracle)
    assert [summary[name] for name in SCORES] == [1.0] * 6
    assert summary["box_recall_50"] == 1.0
    assert summary["box_iou_mean"] > 0.9  # the file has whole pixels
    assert summary["instances"] == summary["images"] == 4
    assert summary["rotation_median_deg"] == pytest.approx(0.0, abs=1e-4)
    assert summary["translation_median_mm"] == pytest.approx(0.0, abs=1e-9)
    assert summary["objects"]["1"]["ar"] == 1.0
    for camera, image in zip(oracle.cameras, dataset.images("test"), strict=True):
        np.testing.assert_array_equal(camera, image.K)


def test_far_off_and_nothing_score_zero(rendered: Path) -> None:
    dataset = BopDataset.open(rendered)
    for change in (lambda d: shifted(d, 2000.0), lambda d: shifted(d, -5000.0)):  # too far, and behind the camera
        summary = measured(dataset, Oracle(dataset, "test", change))
        assert [summary[name] for name in SCORES] == [0.0] * 5 + [1.0]
    silent = evaluate_images(lambda *_, **__: [], dataset, "test", [1])
    assert [silent.summary()[name] for name in SCORES] == [0.0] * 6
    assert silent.summary()["rotation_median_deg"] is None
    assert silent.summary()["box_iou_mean"] == silent.summary()["box_recall_50"] == 0.0
    assert len(silent.rows) == 4
    assert silent.csv().splitlines()[1].endswith("," * 10)
    assert silent.poses == silent.boxes == []


def test_errors_of_a_known_shift(rendered: Path) -> None:
    """Along the optical axis by a few per cent of the distance: MSSD and ADD are the shift itself."""
    dataset = BopDataset.open(rendered)
    results = evaluate_images(Oracle(dataset, "test", lambda d: shifted(d, 7.0)), dataset, "test", [1])
    for row in results.rows:
        assert (row.mssd_mm, row.add_mm, row.translation_mm) == pytest.approx((7.0, 7.0, 7.0))
        assert row.rotation_deg == pytest.approx(0.0, abs=1e-4)
        assert 0.0 < row.mspd_px < 5.0
        assert 0.0 <= row.vsd_50 <= row.vsd_20 <= row.vsd_10 <= 1.0
        assert row.vsd_20 < 0.5, "the shift is below tau but at the silhouette's edge"
    diameter = dataset.models[1].diameter
    share = np.mean([7.0 / diameter < 0.05 * k for k in range(1, 11)])
    assert results.summary()["ar_mssd"] == pytest.approx(share)
    assert results.summary()["ar_mspd"] == pytest.approx(
        np.mean([[row.mspd_px * 640 / 128 < 5 * k for k in range(1, 11)] for row in results.rows])
    )


# several instances of a symmetric object in one image


@pytest.fixture(scope="module")
def tray(tmp_path_factory: pytest.TempPathFactory, rendered: Path) -> Path:
    """Two brackets as object 7, said to look the same after half a turn about x, before a camera of their own."""
    root = tmp_path_factory.mktemp("tray") / "tray"
    scene = root / "test_tray" / "000003"
    for folder in (root / "models_eval", scene / "rgb", scene / "depth"):
        folder.mkdir(parents=True)
    mesh = load_mesh(BRACKET)
    save_mesh(mesh, root / "models_eval" / "obj_000007.ply")
    half_turn = np.diag([1.0, -1.0, -1.0, 1.0]).flatten().tolist()
    info = {"7": {"diameter": mesh.diameter, "symmetries_discrete": [half_turn]}}
    (root / "models_eval" / "models_info.json").write_text(json.dumps(info))
    K, size = np.array([[300.0, 0, 150], [0, 310, 90], [0, 0, 1]]), (200, 320)
    R = Rotation.from_rotvec([[0.3, 0.5, 0.1], [-0.4, 0.2, 2.0]]).as_matrix()
    t = np.array([[-70.0, 0, 420], [80.0, 10, 450]])
    both = Instances(
        torch.zeros(2).long(),
        torch.zeros(2).long(),
        torch.from_numpy(R).float(),
        torch.from_numpy(t).float(),
        torch.ones(2),
        torch.tensor([-1, -1]),
    )
    buffers = Renderer([mesh]).render(both, geometry.from_opencv(torch.from_numpy(K)).float()[None], size)
    depth = (buffers.depth[0].numpy() / 0.2).round().astype(np.uint16)
    Image.fromarray(depth).save(scene / "depth" / "000000.png")
    Image.fromarray((buffers.color[0].numpy() * 255).astype(np.uint8)).save(scene / "rgb" / "000000.png")
    camera = {"cam_K": K.flatten().tolist(), "depth_scale": 0.2}
    labels = [{"cam_R_m2c": R[i].flatten().tolist(), "cam_t_m2c": t[i].tolist(), "obj_id": 7} for i in range(2)]
    (scene / "scene_camera.json").write_text(json.dumps({"0": camera}))
    (scene / "scene_gt.json").write_text(json.dumps({"0": labels}))
    (scene / "scene_gt_info.json").write_text(json.dumps({"0": [{"visib_fract": 0.8}, {"visib_fract": 0.9}]}))
    return root


def test_each_instance_is_found_once_whatever_the_order(tray: Path) -> None:
    dataset = BopDataset.open(tray)
    results = evaluate_images(Oracle(dataset, "test_tray"), dataset, "test_tray", [7])
    assert [results.summary()[name] for name in SCORES] == [1.0] * 6
    assert [(row.gt_index, row.score) for row in results.rows] == [(1, pytest.approx(0.8)), (0, pytest.approx(0.9))]
    assert [pose.score for pose in results.poses] == pytest.approx([0.9, 0.8])


def test_symmetric_poses_are_right_but_not_for_vsd(tray: Path) -> None:
    """The bracket is not symmetric in truth, which VSD sees and the errors that trust models_info.json do not."""
    dataset = BopDataset.open(tray)
    results = evaluate_images(Oracle(dataset, "test_tray", lambda d: turned(d, 180)), dataset, "test_tray", [7])
    summary = results.summary()
    assert (summary["ar_mssd"], summary["ar_mspd"]) == (1.0, 1.0)
    assert summary["rotation_median_deg"] == pytest.approx(0.0, abs=1e-4)
    assert summary["ar_vsd"] < 0.9
    vertices, turn = torch.from_numpy(dataset.models[7].vertices()), torch.diag(torch.tensor([1.0, -1.0, -1.0]))[None]
    nearest = float(add_s(vertices, turn, torch.zeros(1, 3), torch.eye(3)[None], torch.zeros(1, 3)))
    assert [row.add_mm for row in results.rows] == pytest.approx([nearest, nearest])


def test_no_more_estimates_count_than_there_are_instances(tray: Path) -> None:
    """A wrong estimate with the highest score takes the place of the third-best, which was right."""
    dataset = BopDataset.open(tray)
    summary = measured(dataset, Oracle(dataset, "test_tray", extra=1), "test_tray", 7)
    assert [summary[name] for name in SCORES[:5]] == pytest.approx([0.5] * 5)
    results = evaluate_images(Oracle(dataset, "test_tray", extra=1), dataset, "test_tray", [7])
    assert len(results.poses) == 2
    assert len(results.boxes) == 3, "the detection task takes all of them"


def test_the_targets_count_of_the_most_visible_instances_is_wanted(tray: Path, tmp_path: Path) -> None:
    (tray / "test_targets_bop19.json").write_text(
        json.dumps([{"im_id": 0, "inst_count": 1, "obj_id": 7, "scene_id": 3}])
    )
    try:
        dataset = BopDataset.open(tray)
        results = evaluate_images(Oracle(dataset, "test_tray"), dataset, "test_tray", [7])
    finally:
        (tray / "test_targets_bop19.json").unlink()
    assert [(row.gt_index, row.visible_fraction) for row in results.rows] == [(1, 0.9)]
    assert results.summary()["ar"] == 0.0, "the best-scored estimate is of the other instance"


def test_without_depth_the_whole_silhouette_counts(rendered: Path, tray: Path) -> None:
    depth = tray / "test_tray" / "000003" / "depth"
    depth.rename(depth.with_name("hidden"))
    try:
        dataset = BopDataset.open(tray)
        summary = measured(dataset, Oracle(dataset, "test_tray"), "test_tray", 7)
    finally:
        depth.with_name("hidden").rename(depth)
    assert summary["images_without_depth"] == 1
    assert summary["ar"] == 1.0


def test_what_cannot_be_evaluated_is_said(rendered: Path, tray: Path, run: Run) -> None:
    dataset = BopDataset.open(rendered)
    oracle = Oracle(dataset, "test")
    with pytest.raises(BopError, match="has the objects 1; name each of yours once"):
        evaluate_images(oracle, dataset, "test", [2])
    with pytest.raises(BopError, match="name each of yours once"):
        evaluate_images(oracle, dataset, "test", [1, 1])
    with pytest.raises(BopError, match="no split 'val'"):
        evaluate_images(oracle, dataset, "val", [1])
    with pytest.raises(BopError, match=r"1 objects \(part\) but 2 obj_ids"):
        evaluate_bop(run, rendered, obj_ids=[1, 2])
    (rendered / "test_targets_bop19.json").rename(rendered / "kept")
    gt = rendered / "test" / "000001" / "scene_gt.json"
    try:
        text = gt.read_text()
        gt.write_text(text.replace('"obj_id": 1', '"obj_id": 9'))
        with pytest.raises(BopError, match="no target of the objects 1"):
            evaluate_images(oracle, BopDataset.open(rendered), "test", [1])
    finally:
        gt.write_text(text)
        (rendered / "kept").rename(rendered / "test_targets_bop19.json")


# the whole way


def test_a_run_on_a_bop_dataset(run: Run, rendered: Path) -> None:
    summary = evaluate_bop(run, rendered, "test", device="cpu", images=3)
    folder = run.path / "evaluation" / "myparts-test"
    files = {"results.json", "per_image.csv", "codepose-joint_myparts-test.csv", "codepose-joint_myparts-test.json"}
    assert {p.name for p in folder.iterdir()} == files
    assert read_json(folder / "results.json") == summary
    assert (summary["images"], summary["split"], summary["method"]) == (3, "test", "joint")
    assert all(0.0 <= summary[name] <= 1.0 for name in SCORES)
    assert summary["seconds_median"] > 0
    assert {"codepose", "torch", "torchvision", "processor"} <= summary.keys()
    assert list(summary["run"]["sha256"]) == ["config.yaml", "step2/weights.safetensors"]
    with open(folder / "per_image.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["im_id"] for row in rows] == ["0", "1", "2"]
    found = np.mean([row["score"] != "" for row in rows])
    assert found == pytest.approx(summary["found_fraction"])
    overlaps = [float(row["box_iou"] or 0) for row in rows]
    assert np.mean(overlaps) == pytest.approx(summary["box_iou_mean"], abs=1e-5)
    poses = read_results(folder / "codepose-joint_myparts-test.csv")
    assert 0 < len(poses) <= 3
    boxes = json.loads((folder / "codepose-joint_myparts-test.json").read_text())
    assert len(poses) <= len(boxes) <= 6
    assert {box["category_id"] for box in boxes} == {1}


def test_the_written_poses_are_the_estimators(run: Run, rendered: Path) -> None:
    """Image, the image's K, and the CAD file's own frame: what a user would call gives what the file says."""
    evaluate_bop(run, rendered, device="cpu", images=1)
    (pose,) = read_results(run.path / "evaluation" / "myparts-test" / "codepose-joint_myparts-test.csv")
    image = next(BopDataset.open(rendered).images("test"))
    best = PoseEstimator.load(run, device="cpu")(image.rgb(), image.K)[0]
    np.testing.assert_allclose(pose.t_cam_obj, best.t_cam_obj, rtol=1e-6)
    np.testing.assert_allclose(pose.R_cam_obj, best.R_cam_obj, atol=1e-6)


def test_the_datasets_depth_reaches_the_estimator_if_asked_for(
    run: Run, rendered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = BopDataset.open(rendered)
    oracle = Oracle(dataset, "test", lambda d: shifted(d, 20.0))
    monkeypatch.setattr(PoseEstimator, "load", lambda *_, **__: oracle)
    assert evaluate_bop(run, rendered, device="cpu")["depth"] is False
    assert oracle.depths == [None] * 4
    assert evaluate_bop(run, rendered, device="cpu", depth=True)["depth"] is True
    for depth, image in zip(oracle.depths[4:], dataset.images("test"), strict=True):
        np.testing.assert_array_equal(depth, image.depth())


def test_one_of_several_cameras_is_measured_and_named(
    run: Run, rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """IPD's layout, by the command: the results say which camera, and stand beside another one's."""
    copy = tmp_path / "ipd"
    shutil.copytree(rendered, copy)
    for path in list((copy / "test" / "000001").iterdir()):
        path.rename(path.with_name(f"{path.stem}_cam1{path.suffix}"))
        if path.stem == "scene_camera":
            shutil.copy(path.with_name("scene_camera_cam1.json"), path.with_name("scene_camera_cam2.json"))
    oracle = Oracle(BopDataset.open(copy, camera="cam1"), "test")
    monkeypatch.setattr(PoseEstimator, "load", lambda *_, **__: oracle)
    assert main(["evaluate", str(run.path), "--bop", str(copy), "--device", "cpu"]) == 1
    assert "cam1, cam2: name one (--camera)" in capsys.readouterr().err
    assert main(["evaluate", str(run.path), "--bop", str(copy), "--camera", "cam1", "--device", "cpu"]) == 0
    folder = run.path / "evaluation" / "ipd-test-cam1"
    said = capsys.readouterr().out
    assert "ar: 1.000" in said
    assert str(folder) in said
    assert main(["evaluate", str(run.path), "--bop", str(copy), "--camera", "cam1", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_json(folder / "results.json")
    summary = read_json(folder / "results.json")
    assert (summary["ar"], summary["camera"]) == (1.0, "cam1")
    assert (folder / "codepose-joint_ipd-test.csv").is_file()


@pytest.mark.parametrize(
    ("photo", "place"),
    [
        ("lmo/test/000002/rgb/000003.png", (2, 3)),
        ("itodd/val/000001/gray/000004.tif", (1, 4)),
        ("ipd/test/3/rgb_cam1/000005.png", (3, 5)),
        ("hot3d/test/001288/gray1/000006.jpg", (1288, 6)),
        ("ipd/test/3/aolp_cam1/000005.png", None),
        ("photos/rgb/000005.png", None),
    ],
)
def test_a_photos_place_in_a_dataset(photo: str, place: tuple[int, int] | None) -> None:
    assert bop_file._place(Photo(Path(photo))) == place


def test_objects_are_mapped_by_their_place(
    run: Run, tray: Path, rendered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = Oracle(BopDataset.open(tray), "test_tray")
    monkeypatch.setattr(PoseEstimator, "load", lambda *_, **__: oracle)
    summary = evaluate_bop(run, tray, "test_tray", obj_ids=[7], device="cpu")
    assert summary["ar"] == 1.0
    (folder,) = (run.path / "evaluation").glob("tray-*")
    assert (folder / "codepose-joint_tray-test-tray.csv").is_file()
    with pytest.raises(BopError, match="has the objects 7"):
        evaluate_bop(run, tray, "test_tray", device="cpu")


def test_depth_of_another_size_than_the_image_is_named(
    run: Run, tray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "tray"
    shutil.copytree(tray, copy)
    for path in copy.glob("test_tray/*/depth/*"):
        Image.fromarray(np.full((10, 20), 700, np.uint16)).save(path)
    oracle = Oracle(BopDataset.open(copy), "test_tray")
    monkeypatch.setattr(PoseEstimator, "load", lambda *_, **__: oracle)
    with pytest.raises(BopError, match="its depth is 20 x 10"):
        evaluate_bop(run, copy, "test_tray", obj_ids=[7], depth=True, device="cpu")


def test_settings_of_a_run_folder_win(run: Run, settings: Settings, tmp_path: Path) -> None:
    other = override(settings, {"data.camera.image_size": 64})
    render(Render(bop=tmp_path / "a", meshes=(run.path,), images=1, device="cpu", settings=other))
    (image,) = BopDataset.open(tmp_path / "a").images("train")
    assert image.rgb().shape == (128, 128, 3)
