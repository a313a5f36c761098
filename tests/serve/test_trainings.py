"""Trainings over HTTP: what is started, what is refused, and that nothing from outside becomes a path."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from codepose.cli.main import main
from codepose.runtime.run import Run
from codepose.serve import processes
from codepose.serve import trainings as module
from codepose.serve.app import create_app
from codepose.serve.guard import Limits
from codepose.serve.models import Model, load_model
from codepose.serve.trainings import Trainings

BRACKET = Path(__file__).parents[1] / "data" / "bracket.ply"
STAND_IN = Path(__file__).parent / "stand_in.py"
SEEN = {"K": "600,600,319.5,239.5", "nearest": 400, "farthest": 700}


@pytest.fixture
def trainings(tmp_path: Path) -> Iterator[Trainings]:
    made = Trainings(tmp_path / "trained", device="cpu", command=(sys.executable, str(STAND_IN)))
    yield made
    made.close()


@pytest.fixture
def client(trainings: Trainings) -> Iterator[TestClient]:
    with TestClient(create_app({}, trainings=trainings), raise_server_exceptions=False) as client:
        yield client


def send(client: TestClient, name: str = "bracket.ply", data: bytes = b"ply\n", **fields: Any) -> Any:
    return client.post("/v1/trainings", data=fields, files={"file": (name, data)})


def until(client: TestClient, name: str, state: str) -> dict[str, Any]:
    end = time.monotonic() + 60
    while True:
        told: dict[str, Any] = client.get(f"/v1/trainings/{name}").json()
        if told["state"] == state:
            return told
        assert time.monotonic() < end, told
        time.sleep(0.02)


def test_a_file_is_looked_at_previewed_trained_and_listed(client: TestClient, trainings: Trainings) -> None:
    told = send(client, "My part (2).PLY", unit="mm", body="a bolt").json()
    name = told["name"]
    assert (name, told["file"], told["state"]) == ("My-part-2", "My part (2).PLY", "ready")
    assert told["report"]["diameter_mm"] == 100
    assert told["pictures"] == ["sheet"]
    assert client.get(f"/v1/trainings/{name}/sheet.png").content[:4] == b"\x89PNG"
    assert client.get(f"/v1/trainings/{name}/preview.png").status_code == 404

    drawn = client.post(f"/v1/trainings/{name}/preview", data=SEEN).json()
    assert drawn["framing"]["share"] == pytest.approx([0.6 * 600 / 640 * 100 / 700, 600 / 640 * 100 / 400])
    assert drawn["pictures"] == ["sheet", "preview"]
    words = json.loads((trainings.folder / "parts" / name / "preview.json").read_text())
    camera = words[words.index("--data.camera.image-size") :]
    assert camera[2] == "--data.camera.focal"

    assert client.post(f"/v1/trainings/{name}/start", data=SEEN | {"minutes": 10}).status_code == 200
    told = until(client, name, "done")
    words = json.loads((trainings.run(name) / "words.json").read_text())
    assert words[: words.index("--preset")] == [
        "train", "--out", str(trainings.run(name)), "--device", "cpu", f"{name}.ply",
    ]  # fmt: skip
    assert words[-4:] == ["--step1.time-limit", "360.0", "--step2.time-limit", "240.0"]
    assert words[words.index("--data.camera.image-size") :][: len(camera)] == camera
    assert (told["message"], told["minutes"]) == ("nothing was detected", 10)
    assert told["progress"] == {"phase": "Step 1: extended AAE", "share": 0.42, "left": "1:23"}
    learned = client.get(f"/v1/trainings/{name}/curves").json()
    assert learned["picture"] == {"stage": "step1", "step": 500}
    (chart,) = learned["charts"]
    assert chart["stage"] == "step1"
    assert [line["name"] for line in chart["lines"]] == ["training", "validation"]
    steps, values = chart["lines"][0]["steps"], chart["lines"][0]["values"]
    assert 100 <= len(steps) <= 200
    assert (steps[-1], values[-1]) == (500, 0.002)
    assert values == [round(1 / step, 6) for step in steps]
    assert [one["name"] for one in client.get("/v1/trainings").json()["trainings"]] == [name]
    assert client.post(f"/v1/trainings/{name}/start", data=SEEN).json()["detail"].startswith(f"{name} is trained: use")
    assert client.post(f"/v1/trainings/{name}/part").status_code == 409
    assert told["begun"]


def test_one_is_trained_at_a_time_and_stops_and_goes_on(client: TestClient, trainings: Trainings) -> None:
    assert client.post(f"/v1/trainings/{send(client, 'slow.ply').json()['name']}/start", data=SEEN).status_code == 200
    send(client, "other.ply")
    refused = client.post("/v1/trainings/other/start", data=SEEN)
    assert refused.status_code == 409
    assert refused.json()["detail"] == "slow is being trained: stop it, or wait until it is done"
    end = time.monotonic() + 60
    while client.get("/v1/trainings/slow").json()["progress"] is None:
        assert time.monotonic() < end
    child = trainings._child
    assert child is not None
    assert os.getpriority(os.PRIO_PROCESS, child.process.pid) >= min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
    assert os.getsid(child.process.pid) != os.getsid(0)  # the terminal's Ctrl-C is for the service, which stops it
    assert client.post("/v1/trainings/other/stop").status_code == 409
    assert client.post("/v1/trainings/slow/use").json()["detail"] == "slow is not trained yet"
    assert client.post("/v1/trainings/slow/stop").json()["state"] in ("stopping", "stopped")
    assert until(client, "slow", "stopped")["message"] == ""
    assert client.post("/v1/trainings/slow/start").status_code == 200  # with nothing said anew
    until(client, "slow", "done")
    words = json.loads((trainings.run("slow") / "words.json").read_text())
    assert words == ["train", "--out", str(trainings.run("slow")), "--device", "cpu", "--resume"]


def test_what_failed_says_why_without_our_paths(client: TestClient, trainings: Trainings) -> None:
    send(client, "failing.ply")
    client.post("/v1/trainings/failing/start", data=SEEN)
    told = until(client, "failing", "failed")
    assert (told["message"], told["begun"]) == ("runs/failing/config.yaml: the disk is full", False)
    answer = send(client, "broken.ply")
    assert answer.status_code == 422
    assert answer.json()["detail"] == "given/broken.ply: it is damaged, or no PLY file; type faces"
    assert trainings.names() == ["failing"]  # nothing is kept of it


def test_a_file_that_asks_for_too_much_memory_is_refused(client: TestClient, monkeypatch) -> None:
    assert send(client, "huge.ply").status_code == 200
    monkeypatch.setattr(processes, "_most_memory", lambda: 2**30)
    answer = send(client, "huge.ply")
    assert answer.status_code == 422
    assert "asked for more than 1.0 GB of memory" in answer.json()["detail"]
    assert "Traceback" not in answer.text


def test_another_unit_mends_a_wrong_one(client: TestClient) -> None:
    answer = send(client, "cm.ply")
    assert answer.status_code == 422
    assert "taken as mm the part is 9000 mm across" in answer.json()["detail"]
    told = client.get("/v1/trainings/cm").json()
    assert (told["state"], told["report"]["usable"]) == ("refused", False)
    for path in ("preview", "start"):
        assert client.post(f"/v1/trainings/cm/{path}", data=SEEN).status_code == 409
    assert client.post("/v1/trainings/cm/part", data={"unit": "cm"}).json()["state"] == "ready"


BAD = {
    "no file": ({}, None, 422, "file is missing"),
    "no suffix": ({}, "passwd", 422, "file: a file without a suffix is not read"),
    "a picture": ({}, "a.png", 422, "file: .png is not read"),
    "a unit": ({"unit": "yard"}, "a.ply", 422, "unit: input should be"),
    "a library elsewhere": ({}, "a.gltf", 422, "it names another file, '/etc/passwd'"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_files_are_told_in_one_line_and_not_kept(name: str, client: TestClient, trainings: Trainings) -> None:
    fields, file, status, text = BAD[name]
    data = json.dumps({"asset": {"version": "2.0"}, "images": [{"uri": "/etc/passwd"}]}).encode()
    files = {} if file is None else {"file": (file, data)}
    answer = client.post("/v1/trainings", data=fields, files=files)
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])
    assert text in answer.json()["detail"]
    assert list((trainings.folder / "parts").iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"K": None}, "the camera is missing"),
        ({"nearest": None}, "nearest is missing: nearest and farthest go together, in mm"),
        ({"nearest": None, "farthest": None}, "nearest and farthest are missing: the part's distance in mm"),
        ({"nearest": -1}, "nearest: input should be greater than 0"),
        ({"nearest": 800}, "distance is the nearest and the farthest in mm, such as 400 700, not 800 700"),
        ({"nearest": 50}, "would reach the camera"),
        ({"minutes": "inf"}, "minutes: input should be"),
        ({"K": "/etc/passwd"}, "is not 4 numbers"),
    ],
)
def test_wrong_wishes_start_nothing(fields: dict[str, Any], text: str, client: TestClient, trainings) -> None:
    send(client)
    data = {key: value for key, value in (SEEN | fields).items() if value is not None}
    answer = client.post("/v1/trainings/bracket/start", data=data)
    assert answer.status_code == 422
    assert text in answer.json()["detail"]
    assert trainings.running is None


def test_the_picture_is_that_of_the_last_validation(client: TestClient, trainings: Trainings) -> None:
    send(client, "slow.ply")
    at = "/v1/trainings/slow/validation.png"
    assert client.get("/v1/trainings/slow/curves").json() == {"charts": [], "picture": None}
    assert client.get(at).json() == {"detail": "there is no picture 'validation' of slow"}
    client.post("/v1/trainings/slow/start", data=SEEN)
    while not client.get("/v1/trainings/slow").json()["progress"]:
        time.sleep(0.02)
    stages = {name: trainings.run("slow") / name for name in ("step1", "step2")}
    for folder in stages.values():
        folder.mkdir(exist_ok=True)
        (folder / "validation.png").write_bytes(folder.name.encode())

    def told() -> tuple[Any, bytes]:
        return client.get("/v1/trainings/slow/curves").json()["picture"], client.get(at).content

    assert told() == ({"stage": "step1", "step": 500}, b"step1")  # Step 2's is being written: its log knows of none
    (stages["step2"] / "metrics.jsonl").write_text('{"step": 1, "mse": 0.1}\n')
    assert told()[0] == {"stage": "step1", "step": 500}
    (stages["step2"] / "metrics.jsonl").write_text(
        '{"step": 3, "val_mse": 0.1}\n{"step": 7, "val_mse": 0.1}\n{"step": 9, "mse": 0.1}\n'
    )
    assert told() == ({"stage": "step2", "step": 7}, b"step2")
    assert client.get(at).headers["content-type"] == "image/png"
    (stages["step2"] / "validation.png").unlink()
    assert told() == ({"stage": "step1", "step": 500}, b"step1")
    for wrong in ("Validation", "step1", "step1%2fvalidation", "..%2fslow%2fvalidation", "validation.png", "weights"):
        assert client.get(f"/v1/trainings/slow/{wrong}.png").status_code == 404, wrong


def test_no_name_leads_out_of_the_folder(client: TestClient, trainings: Trainings, tmp_path: Path) -> None:
    (tmp_path / "part.json").write_text("{}")
    (trainings.folder / "parts" / ".hidden").mkdir()
    (trainings.folder / "parts" / ".hidden" / "part.json").write_text("{}")
    told = send(client, "../../evil.ply").json()
    assert (told["name"], told["file"]) == ("evil", "evil.ply")
    assert send(client, "..\\..\\evil.ply").json()["name"] == "evil-2"
    for name in ("..%2f..", "..", ".hidden", "nothing", "a" * 300):
        for path in ("", "/sheet.png", "/validation.png", "/curves"):
            assert client.get(f"/v1/trainings/{name}{path}").status_code in (404, 405), (name, path)
        for path in ("/start", "/stop", "/use", "/part", "/preview"):
            assert client.post(f"/v1/trainings/{name}{path}", data=SEEN).status_code in (404, 405), (name, path)
    assert client.get("/v1/trainings/evil/part.png").status_code == 404
    assert {path.name for path in (trainings.folder / "parts").iterdir()} == {"evil", "evil-2", ".hidden"}


def test_files_that_are_not_trained_are_forgotten_in_the_end(client: TestClient, trainings: Trainings) -> None:
    send(client, "trained.ply")
    client.post("/v1/trainings/trained/start", data=SEEN)
    until(client, "trained", "done")
    for number in range(6):
        send(client, f"p{number}.ply")
    assert trainings.names() == ["p5", "p4", "p3", "p2", "trained"]


def test_without_a_folder_it_says_what_to_type(model: Model) -> None:
    with TestClient(create_app({"part": model})) as client:
        assert client.get("/v1/models").json()["trains"] is False
        for answer in (client.get("/v1/trainings"), send(client), client.post("/v1/trainings/a/start")):
            assert answer.status_code == 403
            assert answer.json()["detail"].endswith("start it with codepose serve --train-in FOLDER")


def test_bytes_are_limited_and_the_token_counts(trainings: Trainings) -> None:
    app = create_app({}, trainings=trainings, limits=Limits(body=20_000), token="secret")
    with TestClient(app) as client:
        assert send(client).status_code == 401
        client.headers["authorization"] = "Bearer secret"
        assert send(client, data=bytes(20_001)).status_code == 413
        assert send(client, data=bytes(10_000)).status_code == 200


def test_a_service_without_a_network_says_so_and_answers_with_one_that_is_trained(
    client: TestClient, trainings: Trainings, random_run: Run, make_photo
) -> None:
    assert client.get("/v1/models").json()["models"] == []
    ask = {"data": {"K": "75,75,63.5,47.5", "min_score": 0, "min_judged": -99}, "files": {"image": make_photo()}}
    answer = client.post("/v1/poses", **ask)
    assert answer.status_code == 404
    assert answer.json()["detail"] == "there is no model yet: train one, or start the service with a run"
    send(client, "nut.ply")
    shutil.copytree(random_run.path, trainings.run("nut"))
    assert client.get("/v1/trainings/nut").json()["state"] == "done"
    about = client.post("/v1/trainings/nut/use").json()
    assert about["name"] == "nut"
    assert client.post("/v1/trainings/nut/use").json() == about  # it is not loaded twice
    assert [one["name"] for one in client.get("/v1/models").json()["models"]] == ["nut"]
    assert len(client.post("/v1/poses", **ask).json()["detections"]) == 3
    assert client.get("/v1/labels", params={"model": "nut"}).json()["photos"] == 0


def test_a_model_of_the_same_name_keeps_it(model: Model, trainings: Trainings, random_run: Run) -> None:
    service = create_app({"nut": model}, trainings=trainings).state.service
    assert service.add("nut", random_run.path).name == "nut-2"
    assert list(service.models) == ["nut", "nut-2"]
    assert service.models["nut"] is model
    service.close()


def test_a_stopped_service_stops_its_training_and_starts_none(trainings: Trainings, monkeypatch) -> None:
    with TestClient(create_app({}, trainings=trainings)) as client:
        send(client, "slow.ply")
        client.post("/v1/trainings/slow/start", data=SEEN)
        send(client, "other.ply")
    assert trainings.running is None
    with pytest.raises(module.Problem, match="the service stops"):
        trainings.start("other", [], 1)


def test_a_training_that_does_not_listen_is_ended(trainings: Trainings, monkeypatch) -> None:
    monkeypatch.setattr(module, "_STOP_S", 0.3)
    name = trainings.add("deaf.ply", b"ply\n", "mm", "")
    trainings.start(name, [], 1)
    while not trainings.about(name)["progress"]:
        time.sleep(0.02)
    trainings.close()
    assert trainings.running is None
    assert trainings.about(name)["state"] == "stopped"


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["serve", "--train-in", str(tmp_path / "file"), "--port", "0"]) == 1
    assert capsys.readouterr().err == f"codepose serve: --train-in {tmp_path / 'file'} is a file: name a folder\n"


@pytest.mark.slow
def test_the_command_line_does_what_is_asked_of_it(tmp_path: Path) -> None:
    """The stand-in's part is played by codepose itself, with the preset for tests."""
    trainings = Trainings(tmp_path, device="cpu", preset="smoke")
    with TestClient(create_app({}, trainings=trainings)) as client:
        told = send(client, "bracket.ply", BRACKET.read_bytes()).json()
        assert told["report"]["size_mm"] == pytest.approx([100, 40, 70], abs=0.1)
        assert client.get("/v1/trainings/bracket/sheet.png").status_code == 200
        assert client.post("/v1/trainings/bracket/start", data=SEEN | {"minutes": 1}).status_code == 200
        end = time.monotonic() + 600
        while client.get("/v1/trainings/bracket").json()["state"] == "training" and time.monotonic() < end:
            time.sleep(0.5)
        assert until(client, "bracket", "done")["message"] != "failed"
        learned = client.get("/v1/trainings/bracket/curves").json()
        assert len(learned["charts"]) == 3
        assert learned["picture"]["stage"] == "step2"
        assert client.get("/v1/trainings/bracket/validation.png").content[:4] == b"\x89PNG"
    model = load_model("bracket", trainings.run("bracket"), device="cpu")
    assert model.about["objects"][0]["label"] == "bracket"
    assert model.about["objects"][0]["size_mm"] == pytest.approx([100, 40, 70], abs=0.1)
