"""The service as its clients meet it: answers, refusals, limits."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from starlette.testclient import TestClient

from codepose.cameras.camera import Camera
from codepose.cli.main import main
from codepose.estimation.answers import MIN_JUDGED, Wishes
from codepose.estimation.detection import Detection
from codepose.runtime.run import Run
from codepose.serve.app import create_app
from codepose.serve.cameras import Cameras
from codepose.serve.guard import Limits
from codepose.serve.models import Model, Question

K = "75,75,63.5,47.5"


def ask(client: TestClient, photo: bytes, name: str = "a.png", **fields: object) -> httpx.Response:
    data = {"K": K, "min_score": 0, "min_judged": -99} | fields
    return client.post(
        "/v1/poses", data={k: v for k, v in data.items() if v is not None}, files={"image": (name, photo)}
    )


def test_the_answer_is_what_predict_writes(client: TestClient, random_run: Run, make_photo, tmp_path: Path) -> None:
    photo = tmp_path / "a.png"
    photo.write_bytes(make_photo())
    lens = "-0.1,0.01,0,0"
    calibration = {"K": [[75, 0, 63.5], [0, 75, 47.5], [0, 0, 1]], "distortion": [-0.1, 0.01, 0, 0]}
    (tmp_path / "K.json").write_text(json.dumps(calibration))
    for camera, fields in ((K, {}), (str(tmp_path / "K.json"), {"distortion": lens}), ("fov=60", {"K": "fov=60"})):
        words = [
            str(random_run.path),
            str(photo),
            "--K",
            camera,
            "--min-score",
            "0",
            "--max-detections",
            "2",
            "--no-refine",
        ]
        assert main(["predict", *words, "--out", str(tmp_path / "out")]) == 0
        written = json.loads((tmp_path / "out" / "a.json").read_text())
        answer = ask(client, photo.read_bytes(), name="a.png", max_detections=2, **fields)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        told = answer.json()
        assert (told.pop("file"), Path(written.pop("file")).name) == ("a.png", "a.png")
        assert told.pop("time_ms") > 0
        assert written.pop("time_ms") > 0
        assert told == written
        assert len(told["detections"]) == 2


def test_what_lies_elsewhere_is_left_out(client: TestClient, model: Model, make_photo) -> None:
    """As predict does: more than a quarter beyond either end."""
    found = ask(client, make_photo()).json()["detections"]
    center = model.estimator.world.objects[0].offset.numpy()
    away = [float(np.linalg.norm(one["R_cam_obj"] @ center + one["t_cam_obj_mm"])) for one in found]
    between = (min(away) + max(away)) / 2
    assert max(away) > between + 0.01 > min(away) + 0.02
    for nearest, farthest, far in ((between * 1.25, 1e6, True), (1.0, between / 1.25, False)):
        told = ask(client, make_photo(), nearest=nearest, farthest=farthest).json()["detections"]
        assert told == [one for one, mm in zip(found, away, strict=True) if (mm > between) == far]


def test_photos_of_a_batch_have_their_own_distances() -> None:
    one = Detection("part", 0, 0.9, 0.9, np.array([0, 0, 9, 9]), np.eye(3), np.array([0, 0, 500.0]))

    class Estimator:
        judges = True
        codebooks = (SimpleNamespace(offset=torch.tensor([0.0, 0.0, 100.0])),)

        def many(self, images: list[object], *_: object, **__: object) -> Iterator[list[Detection]]:
            yield from [[one] for _ in images]

    image, camera = np.zeros((4, 6, 3), np.uint8), Camera(np.diag([5.0, 5.0, 1.0]), 6, 4)
    wishes = [Wishes(distance=distance) for distance in ((400.0, 479.0), None, (400.0, 481.0))]
    told = Model("part", Estimator()).answer([Question("a.png", image, camera, wish) for wish in wishes])
    assert [len(answer["detections"]) for answer in told] == [0, 1, 1]  # a quarter beyond them is 599 and 601 mm


def test_a_reconstruction_comes_when_asked_for(client: TestClient, make_photo) -> None:
    found = ask(client, make_photo(), reconstructions=True).json()["detections"][0]
    head, data = found["reconstruction"].split(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (32, 32)


def test_a_jpeg_turned_by_exif_is_answered_upright(client: TestClient, make_photo) -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x112] = 6
    Image.open(io.BytesIO(make_photo())).save(buffer, "JPEG", exif=exif)
    told = ask(client, buffer.getvalue(), K="75,75,47.5,63.5").json()
    assert (told["width"], told["height"]) == (96, 128)
    photo = client.post("/v1/photo", files={"image": buffer.getvalue()})
    assert Image.open(io.BytesIO(photo.content)).size == (96, 128)


def test_the_photo_comes_without_its_lens_distortion(client: TestClient, make_photo) -> None:
    fields = {"K": K, "distortion": "0.5,0,0,0"}
    straight = client.post("/v1/photo", data=fields, files={"image": make_photo()})
    pixels = np.asarray(Image.open(io.BytesIO(straight.content)))
    plain = np.asarray(Image.open(io.BytesIO(client.post("/v1/photo", files={"image": make_photo()}).content)))
    assert pixels.shape == plain.shape
    assert np.abs(pixels.astype(int) - plain)[48, 64].max() < 12  # the middle stays
    assert np.abs(pixels.astype(int) - plain)[0, 0].max() > 20  # corners look beyond the photo


BAD = {
    "no image": ({"image": None}, 422, "image is missing"),
    "no camera": ({"K": None}, 422, "the camera is missing"),
    "two cameras": ({"camera": "left"}, 422, "K and camera exclude each other"),
    "unknown camera": ({"K": None, "camera": "../etc"}, 422, "none is called '../etc'"),
    "a path": ({"K": "/etc/passwd"}, 422, "is not 4 numbers"),
    "a file that is there": ({"K": "pyproject.toml"}, 422, "is not 4 numbers"),
    "three numbers": ({"K": "1,2,3"}, 422, "K '1,2,3' is not 4 numbers"),
    "damaged JSON": ({"K": "{"}, 422, "K is no JSON"),
    "deep JSON": ({"K": "[" * 9000}, 422, "K is no JSON"),
    "JSON of something": ({"K": '{"a": 1}'}, 422, "it must hold fx, fy, cx, cy"),
    "a focal length in mm": ({"K": "4,4,64,48"}, 422, "is a field of view of"),
    "not finite": ({"K": "nan,75,63,47"}, 422, "is not 4 numbers"),
    "too wide": ({"K": "fov=170"}, 422, "a field of view lies between"),
    "five distortion coefficients too few": ({"distortion": "0.1"}, 422, "OpenCV's lens models have"),
    "another model": ({"model": "nut"}, 404, "there is no model 'nut': there are part"),
    "a judge's word that is none": ({"min_judged": "nan"}, 422, "min_judged: input should be a finite number"),
    "a share of 2": ({"min_score": 2}, 422, "min_score: input should be less than or equal to 1"),
    "the nearest alone": ({"nearest": 400}, 422, "farthest is missing: nearest and farthest go together, in mm"),
    "the farthest alone": ({"farthest": 700}, 422, "nearest is missing: nearest and farthest go together, in mm"),
    "the farthest first": (
        {"nearest": 700, "farthest": 400},
        422,
        "distance is the nearest and the farthest in mm, such as 400 700, not 700 400",
    ),
    "no distance at all": ({"nearest": 0, "farthest": 700}, 422, "nearest: input should be greater than 0"),
    "behind the camera": ({"nearest": 4, "farthest": -700}, 422, "farthest: input should be greater than 0"),
    "an endless distance": ({"nearest": 400, "farthest": "inf"}, 422, "farthest: input should be a finite number"),
    "a distance in words": ({"nearest": "near", "farthest": 700}, 422, "nearest: input should be a valid number"),
    "17 tiles": ({"tiles": 17}, 422, "tiles: input should be less than or equal to 16"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_input_is_told_in_one_line(client: TestClient, make_photo, name: str) -> None:
    fields, status, text = BAD[name]
    answer = ask(client, make_photo(), **fields) if "image" not in fields else client.post("/v1/poses", data={"K": K})
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])
    assert text in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"", "image: the file is empty"), (b"hello", "it is no photo"), (b"%PDF-1.7", "it is a PDF file")],
)
def test_what_is_no_photo_is_named(client: TestClient, data: bytes, text: str) -> None:
    answer = ask(client, data)
    assert answer.status_code == 422
    assert text in answer.json()["detail"]


def test_a_damaged_photo_is_named(client: TestClient, make_photo) -> None:
    answer = ask(client, make_photo()[:300])
    assert answer.status_code == 422
    assert "it is damaged" in answer.json()["detail"]


def test_a_calibration_that_does_not_fit_the_photo_is_refused(client: TestClient, make_photo) -> None:
    calibration = json.dumps({"K": [[75, 0, 63.5], [0, 75, 47.5], [0, 0, 1]], "width": 128, "height": 90})
    answer = ask(client, make_photo(), K=calibration)
    assert answer.status_code == 422
    assert "the calibration is for 128 x 90 pixels, the photo has 128 x 96" in answer.json()["detail"]


def test_bytes_and_pixels_are_limited_before_anything_is_decoded(model: Model, make_photo, monkeypatch) -> None:
    app = create_app({"part": model}, limits=Limits(body=200_000, pixels=128 * 96))
    with TestClient(app) as client:
        assert ask(client, make_photo()).status_code == 200
        monkeypatch.setattr("codepose.cameras.photos.read_image", lambda path: pytest.fail("it was decoded"))
        answer = ask(client, make_photo(129, 96))
        assert answer.status_code == 413
        assert "it has 129 x 96 pixels" in answer.json()["detail"]
        answer = ask(client, bytes(200_001))
        assert answer.status_code == 413
        assert answer.json()["detail"] == "the request is larger than 0.2 MB: send a smaller file"


def test_bytes_are_counted_where_no_length_is_given(model: Model) -> None:
    def stream():
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(300):
            yield bytes(1000)

    with TestClient(create_app({"part": model}, limits=Limits(body=200_000))) as client:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        answer = client.post("/v1/poses", content=stream(), headers=headers)
    assert answer.status_code == 413


class Slow(Model):
    """Answers when it is allowed to."""

    def __init__(self) -> None:
        self.name, self.open, self.sizes = "slow", threading.Event(), []
        self.begun = threading.Event()

    def answer(self, questions):
        self.sizes.append(len(questions))
        self.begun.set()
        assert self.open.wait(60)
        return [{"detections": [], "file": q.file} for q in questions]


async def at_once(number: int) -> None:
    """Between two requests there is no wait."""


def together(app, photo: bytes, count: int, then, between=at_once) -> list[httpx.Response]:
    """So many requests at the same time; ``then`` is called when they are under way, ``between`` after each."""

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            asked = []
            for i in range(count):
                post = client.post("/v1/poses", data={"K": K}, files={"image": (f"{i}.png", photo)})
                asked.append(asyncio.create_task(post))
                await between(i)
            await then(asked)
            return await asyncio.gather(*asked)

    return asyncio.run(run())


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def test_more_requests_than_places_are_told_to_come_again(make_photo) -> None:
    slow = Slow()
    app = create_app({"slow": slow}, limits=Limits(places=3, batch=8))

    async def then(asked) -> None:
        await until(lambda: sum(task.done() for task in asked) == 2)
        slow.open.set()

    answers = together(app, make_photo(), 5, then)
    assert sorted(a.status_code for a in answers) == [200, 200, 200, 429, 429]
    refused = next(a for a in answers if a.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["detail"] == "3 requests wait already: try again in a moment"


def test_photos_that_wait_are_looked_at_together(make_photo) -> None:
    slow = Slow()
    app = create_app({"slow": slow}, limits=Limits(places=9, batch=3))
    service = app.state.service

    async def between(number: int) -> None:
        if number == 0:  # the first one is alone, however late the worker wakes
            await until(slow.begun.is_set)

    async def then(asked) -> None:
        await until(lambda: service._worker.waiting == 5)
        slow.open.set()

    answers = together(app, make_photo(), 6, then, between)
    assert [a.json()["file"] for a in answers] == [f"{i}.png" for i in range(6)]
    assert slow.sizes == [1, 3, 2]


def test_photos_of_a_batch_get_their_own_answers(model: Model, make_photo) -> None:
    camera = Camera(np.array([[75, 0, 63.5], [0, 75, 47.5], [0, 0, 1]]), 128, 96)
    questions = [
        Question(
            f"{seed}.png",
            np.asarray(Image.open(io.BytesIO(make_photo(seed=seed)))),
            camera,
            Wishes(min_score=0, min_judged=-99.0),
        )
        for seed in (0, 1)
    ]
    alone = [next(model.answer([question])) for question in questions]
    together = list(model.answer(questions))
    for a, b in zip(together, alone, strict=True):
        assert (a["file"], len(a["detections"])) == (b["file"], len(b["detections"]))
        boxes = [sorted(d["box_xyxy"] for d in one["detections"]) for one in (a, b)]
        assert np.array(boxes[0]) == pytest.approx(np.array(boxes[1]), abs=0.1)
    assert together[0]["detections"] != together[1]["detections"]


def test_what_takes_too_long_is_given_up_and_leaves_its_place(make_photo) -> None:
    slow = Slow()
    app = create_app({"slow": slow}, limits=Limits(places=2, batch=1, seconds=0.3))
    answers = together(app, make_photo(), 2, lambda asked: asyncio.sleep(0))
    slow.open.set()
    app.state.service.close()
    assert {a.status_code for a in answers} == {504}
    assert answers[0].json()["detail"] == "there was no answer within 0.3 seconds"
    assert slow.sizes == [1]  # the second one was never begun
    assert app.state.service._taken == 0


def test_a_token_guards_everything_but_health_and_the_page(model: Model, make_photo) -> None:
    with TestClient(create_app({"part": model}, token="secret")) as client:
        for path in ("/v1/models", "/metrics", "/openapi.json", "/v1/cameras"):
            assert client.get(path).status_code == 401
        assert ask(client, make_photo()).status_code == 401
        assert client.get("/v1/models", headers={"authorization": "Bearer other"}).status_code == 401
        assert client.get("/v1/models", headers={"authorization": "Bearer secret"}).status_code == 200
        for path in ("/healthz", "/", "/page/style.css"):
            assert client.get(path).status_code == 200


def test_other_sites_reach_it_neither_by_their_name_nor_from_their_pages(model: Model, make_photo) -> None:
    app = create_app({"part": model}, hosts=frozenset({"localhost"}))
    with TestClient(app, base_url="http://evil.example:8000") as client:
        assert client.get("/v1/models").status_code == 421
    with TestClient(app, base_url="http://localhost:8000") as client:
        assert client.get("/v1/models").status_code == 200
        for origin, status in (("http://evil.example", 403), ("null", 403), ("http://localhost:8000", 200)):
            answer = client.post("/v1/photo", files={"image": make_photo()}, headers={"origin": origin})
            assert answer.status_code == status


def test_stored_cameras_are_asked_for_by_name(model: Model, make_photo, tmp_path: Path) -> None:
    calibration = {"fx": 150, "fy": 150, "cx": 127.5, "cy": 95.5, "width": 256, "height": 192}
    (tmp_path / "left.json").write_text(json.dumps(calibration))
    (tmp_path / "notes.md").write_text("no camera")
    with TestClient(create_app({"part": model}, cameras=Cameras(tmp_path))) as client:
        told = client.get("/v1/cameras").json()["cameras"]
        assert [(c["name"], c["width"]) for c in told] == [("left", 256)]
        by_name = ask(client, make_photo(), K=None, camera="left").json()
        assert by_name["K"] == [[75, 0, 63.5], [0, 75, 47.5], [0, 0, 1]]  # of half the size
        assert by_name["detections"] == ask(client, make_photo()).json()["detections"]
        answer = ask(client, make_photo(), K=None, camera="left", distortion="0,0,0,0")
        assert answer.status_code == 422


def test_models_are_described_and_their_meshes_are_in_the_cad_frame(client: TestClient, model: Model) -> None:
    told = client.get("/v1/models").json()
    about = told["models"][0]
    assert told["min_judged"] == MIN_JUDGED  # what the page begins with
    assert (about["name"], about["refined"], about["calibrated"]) == ("part", False, False)
    part = model.estimator.world.objects[0]
    assert about["objects"][0]["size_mm"] == pytest.approx(part.mesh.extents.tolist(), abs=1e-3)
    ply = client.get(f"/{about['objects'][0]['mesh']}")
    shape = trimesh.load(io.BytesIO(ply.content), file_type="ply")
    assert shape.bounds.mean(0) == pytest.approx(about["objects"][0]["center_mm"], abs=1e-3)
    assert len(shape.faces) == len(part.mesh.faces)
    assert client.get("/v1/models/part/objects/1.ply").status_code == 404
    assert client.get("/v1/models/nut/objects/0.ply").status_code == 404


def test_health_metrics_and_the_description(client: TestClient, make_photo) -> None:
    assert client.get("/healthz").json() == {"status": "ok", "models": ["part"]}
    before = client.get("/metrics").text
    assert ask(client, make_photo()).status_code == 200
    assert ask(client, b"").status_code == 422

    def count(text: str, name: str) -> float:
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    after = client.get("/metrics").text
    for name, more in (
        ('codepose_requests_total{path="/v1/poses",status="200"}', 1),
        ('codepose_requests_total{path="/v1/poses",status="422"}', 1),
        ('codepose_detections_total{model="part"}', 3),
        ("codepose_batch_size_count", 1),
    ):
        assert count(after, name) - count(before, name) == more, name
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/v1/poses"]["post"]
    assert set(operation["responses"]) == {"200", "413", "422", "429", "504"}
    schema = document["components"]["schemas"]
    body = schema[operation["requestBody"]["content"]["multipart/form-data"]["schema"]["$ref"].split("/")[-1]]
    assert [body["properties"][name]["examples"] for name in ("nearest", "farthest")] == [[400], [700]]
    assert schema["Poses"]["examples"][0]["detections"][0]["label"] == "bracket"
    assert operation["responses"]["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/Error")


def test_an_error_of_our_own_says_nothing_of_the_inside(model: Model, make_photo, monkeypatch) -> None:
    monkeypatch.setattr(Model, "answer", lambda self, questions: 1 / 0)
    with TestClient(create_app({"part": model}), raise_server_exceptions=False) as client:
        answer = ask(client, make_photo())
    assert answer.status_code == 500
    assert answer.json() == {"detail": "the service failed; its log says more"}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "name a run folder"),
        (("nowhere",), "nowhere is no run folder"),
        (("hammer", "--port", "70000"), "--port is a number"),
        (("hammer", "--queue", "0"), "--queue must be larger than 0"),
        (("hammer", "--cameras", "nowhere"), "--cameras nowhere: there is no such folder"),
        (("hammer", "--host", "192.0.2.1"), "--host 192.0.2.1 --port 8000"),
    ],
)
def test_a_wrong_start_ends_in_one_line(words: tuple[str, ...], text: str, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["serve", *words]) == 1
    said = capsys.readouterr().err
    assert said.startswith("codepose serve: ")
    assert text in said
    assert said.count("\n") == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_documented_curl_command_is_answered(model: Model, make_photo, tmp_path: Path, running) -> None:
    page = Path(__file__).parents[2] / "docs" / "service.md"
    line = next(line for line in page.read_text().splitlines() if line.startswith("curl "))
    (tmp_path / "photo.png").write_bytes(make_photo(640, 480))
    with running(create_app({"part": model})) as (_, address):
        words = shlex.split(line.replace("http://127.0.0.1:8000", address))
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, check=True)
    told = json.loads(done.stdout)
    assert (told["file"], told["K"][0]) == ("photo.png", [615.2, 0, 322.1])


def test_a_stopped_service_answers_what_it_has_taken(make_photo, running) -> None:
    slow = Slow()
    with running(create_app({"slow": slow})) as (server, address), ThreadPoolExecutor() as pool:
        asked = pool.submit(
            httpx.post, f"{address}/v1/poses", data={"K": K}, files={"image": ("a", make_photo())}, timeout=60
        )
        assert slow.begun.wait(60)
        server.should_exit = True
        slow.open.set()
        assert asked.result().json() == {"detections": [], "file": "a"}
