"""The exported graph: as an ONNX file the same boxes and poses as PyTorch."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from codepose import geometry
from codepose.cameras.photos import read_image
from codepose.cli.main import main
from codepose.estimation.confidence import Confidence
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.export import OUTPUTS, PoseGraph, largest_difference
from codepose.estimation.methods import confidence_mark, confidence_path
from codepose.networks.build import build_detector, build_joint, build_original
from codepose.networks.windows import letterbox
from codepose.runtime.run import Run
from codepose.settings.errors import ConfigError
from codepose.settings.files import override
from codepose.settings.schema import Settings

ROOT = Path(__file__).parents[2]
BRACKET = ROOT / "tests" / "data" / "bracket.ply"
K = geometry.to_opencv(geometry.camera_matrix(75.0, 64.0, 64.0))


def parts(settings: Settings) -> Settings:
    """Two objects, so that codebooks have to be told apart."""
    one = settings.objects[0]
    return settings.model_copy(
        update={"objects": (one, one.model_copy(update={"label": "other", "mesh": str(BRACKET)}))}
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_settings) -> Run:
    """Two parts, random weights, calibrated; both are found in the first of ``images``, nothing in the second."""
    settings = parts(make_settings(**{"detection.per_object": 4}))
    torch.manual_seed(3)
    network = build_joint(settings).eval()
    with torch.no_grad():
        network.heads.roi_heads.box_predictor.cls_score.weight.mul_(10.0)
        network.heads.score = 0.0
        first, second = (network.detect(one)[1][0] for one in images(2).split(1))
    both = min(float(first["scores"][first["labels"] == label].max()) for label in (1, 2))
    threshold = (both + float(second["scores"].max())) / 2
    assert both - threshold > 0.02
    run = Run.create(tmp_path_factory.mktemp("export") / "run", override(settings, {"detection.score": threshold}))
    run.save_weights("step2", network)
    loaded = PoseEstimator.load(run, device="cpu")
    mark = confidence_mark(loaded.pipeline, loaded.codebooks, refined=False)
    told = torch.rand(32, 4, generator=torch.Generator().manual_seed(0))
    path = confidence_path(run, "joint", refined=False)
    path.parent.mkdir()
    Confidence.fit(told, told[:, 0] > 0.5, mark).save(path)
    return run


@pytest.fixture(scope="module")
def estimator(run: Run) -> PoseEstimator:
    return PoseEstimator.load(run, device="cpu")


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, words = tmp_path_factory.mktemp("onnx") / "new" / "parts.onnx", io.StringIO()
    with contextlib.redirect_stderr(words):
        assert main(["export", str(run.path), str(path)]) == 0
    assert words.getvalue() == "", "no library's words either"
    return path


def images(count: int) -> torch.Tensor:
    """Of 256 shades, as a camera's."""
    return (torch.rand(count, 3, 128, 128, generator=torch.Generator().manual_seed(1)) * 255).round() / 255


def test_the_file_says_what_the_estimator_says(estimator: PoseEstimator, exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported)
    labels = set()
    for image in images(3).split(1):
        wanted = estimator((image[0] * 255).round().byte().permute(1, 2, 0).numpy(), K)
        answer = session.run(None, {"image": image.numpy(), "camera": K.numpy()})
        found = dict(zip(OUTPUTS, answer, strict=True))
        labels |= set(found["labels"].tolist())
        assert [one.object_index + 1 for one in wanted] == found["labels"].tolist()
        for name in ("score", "similarity", "confidence"):
            values = found["scores" if name == "score" else name]
            assert values == pytest.approx([getattr(one, name) for one in wanted], abs=1e-4)
        for i, one in enumerate(wanted):
            np.testing.assert_allclose(found["boxes"][i], one.box, atol=1e-2)
            np.testing.assert_allclose(found["R_cam_obj"][i], one.R_cam_obj, atol=1e-3)
            np.testing.assert_allclose(found["t_cam_obj"][i], one.t_cam_obj, rtol=1e-3, atol=0.5)
            np.testing.assert_allclose(found["reconstructions"][i], one.reconstruction, atol=1e-3)
    assert labels == {1, 2}


def test_nothing_found_is_no_error(exported: Path) -> None:
    image = images(2)[1:].numpy()
    answer = onnxruntime.InferenceSession(exported).run(None, {"image": image, "camera": K.numpy()})
    shapes = {name: value.shape for name, value in zip(OUTPUTS, answer, strict=True)}
    assert shapes["labels"] == (0,)
    assert shapes["R_cam_obj"] == (0, 3, 3)
    assert shapes["reconstructions"] == (0, 3, 32, 32)


def test_the_comparison_sees_a_difference(estimator: PoseEstimator, exported: Path) -> None:
    graph = PoseGraph(estimator).eval()
    count, largest = largest_difference(graph, exported, images(2), K)
    assert count >= 2
    assert largest < 0.01
    heads = graph.network.heads
    with torch.no_grad():
        heads.roi_heads.box_predictor.bbox_pred.bias.add_(1.0)
        assert largest_difference(graph, exported, images(1), K)[1] > 1.0
        heads.roi_heads.box_predictor.bbox_pred.bias.sub_(1.0)
    heads.score, kept = 0.999, heads.score
    assert largest_difference(graph, exported, images(1), K)[1] == torch.inf
    heads.score = kept


@pytest.mark.parametrize("size", [(128, 128), (300, 200), (90, 160)])
def test_the_example_finds_what_the_estimator_finds(
    estimator: PoseEstimator, exported: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    names: dict = {"__name__": "example"}
    exec(compile((ROOT / "examples" / "onnx_pose.py").read_text(), "example", "exec"), names)
    grey = np.random.default_rng(2).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    photo = Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC)
    photo.save(tmp_path / "photo.png")
    focal, middle = (90.0, 92.0), (size[0] / 2, size[1] / 2)
    intrinsics = ",".join(map(str, (*focal, *middle)))
    found = names["find"](str(exported), str(tmp_path / "photo.png"), intrinsics, min_score=0.0)
    assert names["find"](str(exported), str(tmp_path / "photo.png"), intrinsics, min_score=2.0) == []
    wanted = estimator(np.asarray(photo), np.array([[focal[0], 0, middle[0]], [0, focal[1], middle[1]], [0, 0, 1]]))
    assert wanted
    # Pillow resizes to whole grey values, torch to fractions of them
    image, _, scales = names["letterbox"](photo, np.eye(3), 128)
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float() / 255
    torch.testing.assert_close(torch.from_numpy(image), letterbox(pixels, 128)[0], atol=0.005, rtol=0)
    assert tuple(scales) == letterbox(pixels, 128)[1]
    best = wanted[0]
    same = [one for one in found if one["label"] == best.label and np.abs(one["box"] - best.box).max() < 2.0]
    assert same
    assert same[0]["score"] == pytest.approx(best.score, abs=0.02)
    np.testing.assert_allclose(same[0]["t_cam_obj"], best.t_cam_obj, rtol=0.05, atol=5.0)


def test_the_example_turns_photos_upright_and_refuses_what_it_would_spoil(tmp_path: Path) -> None:
    names: dict = {"__name__": "example"}
    exec(compile((ROOT / "examples" / "onnx_pose.py").read_text(), "example", "exec"), names)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 16, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(names["upright"](str(tmp_path / "turned.png")), read_image(tmp_path / "turned.png"))
    assert names["upright"](str(tmp_path / "turned.png")).size == (8, 16)
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(SystemExit, match="more than eight bits"):
        names["upright"](str(tmp_path / "deep.png"))


def test_metadata_say_what_a_caller_must_know(exported: Path) -> None:
    about = onnxruntime.InferenceSession(exported).get_modelmeta().custom_metadata_map
    assert json.loads(about["names"]) == ["hammer", "other"]
    assert about["image_size"] == "128"


def test_what_cannot_be_exported_is_said(run: Run, tmp_path: Path, capsys, monkeypatch) -> None:
    settings = override(run.settings, {"network.weights": "none"})
    two = Run.create(tmp_path / "two", settings)
    two.save_weights("detector", build_detector(settings))
    two.save_weights("original", build_original(settings))
    with pytest.raises(ConfigError, match="only the joint network"):
        PoseGraph(PoseEstimator.load(two, "original", device="cpu"))
    for name, advice in (("part.png", "part.onnx"), ("folder.onnx", "is a folder")):
        (tmp_path / "folder.onnx").mkdir(exist_ok=True)
        assert main(["export", str(run.path), str(tmp_path / name)]) == 1
        assert advice in capsys.readouterr().err
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    assert main(["export", str(run.path), str(tmp_path / "part.onnx")]) == 1
    assert "type pip install onnxscript" in capsys.readouterr().err
    assert not (tmp_path / "part.onnx").exists()
