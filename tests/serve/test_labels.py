"""Poses brought onto edges, and labels kept as a BOP dataset, with what they say about the network."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from starlette.testclient import TestClient

from codepose import geometry
from codepose.bop.dataset import BopDataset
from codepose.cli.main import main
from codepose.estimation.snapping import snap
from codepose.serve.app import create_app
from codepose.serve.labels import Label, Labels, Pose, _error, _interval
from codepose.serve.models import Model

CAMERA = [[600.0, 0.0, 319.5], [0.0, 600.0, 239.5], [0.0, 0.0, 1.0]]
K = "600,600,319.5,239.5"
R = Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix()
T = np.array([20.0, -10.0, 620.0])


def rendered(model: Model) -> np.ndarray:
    """The part's normals on grey, (480, 640, 3) uint8: edges where its edges are."""
    from codepose.rendering.renderer import Instances

    world = model.estimator.world
    middle = torch.from_numpy(T + R @ world.objects[0].offset.double().numpy()).float()[None]
    instances = Instances.single(torch.tensor([0]), torch.from_numpy(R).float()[None], middle)
    camera = geometry.from_opencv(torch.tensor(CAMERA))
    shown = world.renderer.render(instances, camera[None], (480, 640))
    normal = (shown.normal[0] * 0.35 + 0.5).numpy()
    inside = (shown.depth[0] > 0).numpy()[..., None]
    return (np.where(inside, normal, 0.2) * 255).astype(np.uint8)


def off(model: Model, R_found: np.ndarray, t_found: np.ndarray) -> float:
    """How far the part's outermost points are from where they should be, pixels of the photo: the largest."""
    hull = model.estimator.world.objects[0].mesh.hull
    seen, true = (points @ np.array(CAMERA).T for points in (hull @ R_found.T + t_found, hull @ R.T + T))
    return float(np.linalg.norm(seen[:, :2] / seen[:, 2:] - true[:, :2] / true[:, 2:], axis=1).max())


def test_a_nudged_pose_snaps_back(model: Model) -> None:
    photo = rendered(model)
    nudged = Rotation.from_euler("z", 3, degrees=True).as_matrix() @ R
    moved = T + np.array([6.0, -5.0, 12.0])
    found_R, found_t, contour = snap(model.estimator, photo, np.array(CAMERA), 0, nudged, moved)
    assert off(model, nudged, moved) > 11
    assert off(model, found_R, found_t) < 5
    assert 0.3 < contour <= 1.0
    assert found_R @ found_R.T == pytest.approx(np.eye(3), abs=1e-5)


def pose(R: np.ndarray = R, t: np.ndarray = T) -> dict:
    return {"R_cam_obj": R.tolist(), "t_cam_obj_mm": t.tolist()}


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_service_snaps_to_the_same_pose(client: TestClient, model: Model) -> None:
    photo, moved = rendered(model), T + np.array([6.0, -5.0, 12.0])
    answer = client.post("/v1/refine", data={"K": K, "pose": json.dumps(pose(t=moved))}, files={"image": png(photo)})
    found_R, found_t, contour = snap(model.estimator, photo, np.array(CAMERA), 0, R, moved)
    assert answer.status_code == 200
    told = answer.json()
    assert np.array(told["R_cam_obj"]) == pytest.approx(found_R, abs=1e-6)
    assert np.array(told["t_cam_obj_mm"]) == pytest.approx(found_t, abs=1e-3)
    assert told["contour"] == pytest.approx(contour, abs=1e-5)


@pytest.fixture
def service(model: Model, tmp_path: Path):
    with TestClient(create_app({"part": model}, labels=Labels(tmp_path / "labels", {"part": model}))) as client:
        yield client


def keep(service: TestClient, photo: bytes, labels: list[dict], rejected: int = 0) -> dict:
    data = {"K": K, "labels": json.dumps(labels), "rejected": rejected}
    answer = service.post("/v1/labels", data=data, files={"image": ("a photo.png", photo)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_labels_become_a_bop_dataset_and_figures(service: TestClient, model: Model, tmp_path: Path, make_photo) -> None:
    diameter = model.estimator.world.objects[0].mesh.diameter
    near, far = (T + np.array([0, 0, share * diameter]) for share in (0.099, 0.101))
    first, second = make_photo(640, 480), make_photo(640, 480, 1)
    told = keep(service, first, [{"index": 0, **pose(), "found": pose(t=near)}, {"index": 0, **pose()}], rejected=2)
    assert (told["photos"], told["parts"], told["found"], told["right"], told["rejected"]) == (1, 2, 1, 1, 2)
    told = keep(service, second, [{"index": 0, **pose(), "found": pose(t=far)}])
    assert (told["photos"], told["parts"], told["found"], told["right"], told["rejected"]) == (2, 3, 2, 1, 2)
    assert told["median_mm"] == pytest.approx(0.1 * diameter, abs=0.02)
    assert service.get("/v1/labels").json() == told
    assert told["kept_in"] == str(tmp_path / "labels" / "part")

    dataset = BopDataset.open(tmp_path / "labels" / "part")
    images = list(dataset.images("test"))
    assert [len(image.instances) for image in images] == [2, 1]
    assert pytest.approx(np.array(CAMERA)) == images[0].K
    assert images[0].instances[0].R_cam_obj == pytest.approx(R)
    assert images[0].instances[0].t_cam_obj == pytest.approx(T)
    assert (images[1].rgb() == np.asarray(Image.open(io.BytesIO(second)))).all()
    assert [(t.im_id, t.inst_count) for t in dataset.targets("test")] == [(0, 2), (1, 1)]
    assert np.ptp(dataset.models[1].vertices(), axis=0) == pytest.approx(model.estimator.world.objects[0].mesh.extents)

    told = keep(service, first, [])  # the same photo anew
    assert (told["photos"], told["parts"], told["rejected"]) == (2, 1, 0)
    assert [len(image.instances) for image in BopDataset.open(dataset.path).images("test")] == [0, 1]

    packed = zipfile.ZipFile(io.BytesIO(service.get("/v1/labels.zip").content))
    names = packed.namelist()
    assert {"part/models/models_info.json", "part/test/000001/rgb/000001.png"} <= set(names)
    assert not [name for name in names if "photos.json" in name]


def test_an_error_is_that_of_the_part_where_the_cad_file_has_it(model: Model) -> None:
    part = dataclasses.replace(model.estimator.world.objects[0], offset=torch.tensor([40.0, -20.0, 10.0]))
    turned = Rotation.from_euler("xyz", (4, 5, -6), degrees=True).as_matrix() @ R
    label = Label(index=0, **pose(), found=Pose(**pose(turned)))
    off = (part.mesh.vertices + part.offset.numpy()) @ (turned - R).T
    assert _error(SimpleNamespace(objects=[part]), label)["mm"] == pytest.approx(
        np.linalg.norm(off, axis=1).max(), 1e-3
    )


def test_labels_outlive_the_service_and_can_be_evaluated(
    service: TestClient, model: Model, random_run, tmp_path: Path, make_photo, capsys
) -> None:
    told = keep(service, make_photo(640, 480), [{"index": 0, **pose(), "found": None}])
    again = Labels(tmp_path / "labels", {"part": model})
    assert again.summary(model) == told
    assert main(["evaluate", str(random_run.path), "--bop", str(tmp_path / "labels" / "part")]) == 0
    assert "add_recall_10: " in capsys.readouterr().out


BAD = {
    "no rotation": ([{"index": 0, **pose(2 * R)}], "labels: 0.R_cam_obj: value error, it is no rotation matrix"),
    "behind": ([{"index": 0, **pose(t=-T)}], "labels: 0.t_cam_obj_mm: value error, it lies behind the camera"),
    "no such object": ([{"index": 3, **pose()}], "index: part has 1 object, numbered from 0"),
    "two numbers": ([{"index": 0, **pose(t=T[:2])}], "labels: 0.t_cam_obj_mm: list should have at least 3 items"),
    "no list": ({}, "labels: "),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_labels_are_told_in_one_line_and_keep_nothing(service: TestClient, make_photo, name: str) -> None:
    labels, text = BAD[name]
    data = {"K": K, "labels": json.dumps(labels)}
    answer = service.post("/v1/labels", data=data, files={"image": make_photo(640, 480)})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(text)
    assert service.get("/v1/labels").json()["photos"] == 0
    assert service.get("/v1/labels.zip").status_code == 404


def test_a_folder_that_cannot_be_used_is_named(model: Model, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("codepose.serve.models.load_models", lambda *a, **k: {"part": model})
    assert main(["serve", "hammer", "--port", "0", "--labels", str(tmp_path / "file")]) == 1
    assert "is a file: name a folder" in capsys.readouterr().err
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "photos.json").write_text("{")
    assert main(["serve", "hammer", "--port", "0", "--labels", str(tmp_path)]) == 1
    assert "photos.json is damaged" in capsys.readouterr().err


def test_the_interval_is_wilsons() -> None:
    assert _interval(8, 10) == pytest.approx([0.4902, 0.9433], abs=1e-4)
    assert _interval(0, 0) is None
    assert _interval(5, 5)[1] == 1.0
