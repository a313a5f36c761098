"""The page in headless Chromium, as a user meets it."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from codepose.bop.dataset import BopDataset
from codepose.estimation.detection import Detection
from codepose.ros.messages import detection_array
from codepose.runtime.run import Run
from codepose.serve.app import create_app
from codepose.serve.cameras import Cameras
from codepose.serve.labels import Labels
from codepose.serve.models import Model
from codepose.serve.trainings import Trainings

playwright = pytest.importorskip("playwright.sync_api", reason="pip install '.[dev]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]
WAIT = 120_000.0
"""Milliseconds: the machine may be busy."""
STAND_IN = (sys.executable, str(Path(__file__).parent / "stand_in.py"))
STORED = {"fx": 600, "fy": 600, "cx": 319.5, "cy": 239.5, "width": 640, "height": 480}


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as started:
        words = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        if os.geteuid() == 0:
            words.append("--no-sandbox")
        browser = started.chromium.launch(executable_path=CHROMIUM, args=words)
        yield browser
        browser.close()


@pytest.fixture
def folder(tmp_path: Path, make_photo) -> Path:
    (tmp_path / "cameras").mkdir()
    (tmp_path / "cameras" / "left.json").write_text(json.dumps(STORED))
    for number in range(2):
        (tmp_path / f"photo{number}.png").write_bytes(make_photo(640, 480, number))
    (tmp_path / "bad.png").write_text("no photo")
    return tmp_path


@pytest.fixture
def address(model: Model, folder: Path, running) -> Iterator[str]:
    models = {"part": model}
    app = create_app(
        models,
        cameras=Cameras(folder / "cameras"),
        labels=Labels(folder / "labels", models),
        trainings=Trainings(folder / "trained", command=STAND_IN),
    )
    with running(app) as (_, address):
        yield address


@pytest.fixture
def page(browser: playwright.Browser, address: str) -> Iterator[playwright.Page]:
    """Opened; it fails on errors in the console, and on requests to anywhere else."""
    context = browser.new_context(viewport={"width": 1280, "height": 860}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(WAIT)
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith((address, "blob:", "data:")) else troubles.append(r.url))
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    for field, value in (("min-score", 0), ("min-judged", -99)):  # the network is random: nobody is sure of anything
        page.evaluate(f"document.getElementById('{field}').value = {value}")
    yield page
    assert troubles == []
    context.close()


def drawn(page: playwright.Page, stage: str) -> int:
    """How many pixels of the overlay are not transparent."""
    return page.evaluate(
        """id => { const c = document.querySelector(`#${id} > canvas`);
        const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; }""",
        stage,
    )


def look(page: playwright.Page, photo: Path) -> None:
    page.set_input_files("#find-file", photo)
    page.wait_for_selector("#found li button[aria-pressed=true]")
    page.wait_for_selector("#find-stage[aria-busy=false]")


def copied(page: playwright.Page, button: str) -> str:
    page.click(button)
    page.wait_for_selector(f"{button}:text('Copied')")
    return page.evaluate("navigator.clipboard.readText()")


def test_a_photo_is_looked_at_drawn_on_and_copied(page: playwright.Page, folder: Path, model: Model) -> None:
    look(page, folder / "photo0.png")
    assert page.locator("#found li").count() == 3
    told = json.loads(copied(page, "#copy-json"))
    assert told["K"] == [[600, 0, 319.5], [0, 600, 239.5], [0, 0, 1]]  # the stored camera is chosen at first
    assert set(told) == {"file", "width", "height", "K", "detections", "time_ms"}
    assert len(told["detections"]) == 3
    assert "reconstruction" not in told["detections"][0]
    stands = page.evaluate("codepose.find.viewer.camera.position.toArray()")
    assert stands == pytest.approx([0, 0, 0], abs=1e-6)  # where the photo's camera is
    page.focus("#viewer")
    page.keyboard.press("ArrowLeft")
    assert np.linalg.norm(page.evaluate("codepose.find.viewer.camera.position.toArray()")) > 1
    page.click("#viewer-reset")
    assert page.evaluate("codepose.find.viewer.camera.position.toArray()") == pytest.approx(stands, abs=1e-6)
    page.click("#found li:nth-child(2) button")
    page.wait_for_selector("#found li:nth-child(2) button[aria-pressed=true]")
    one = told["detections"][1]
    rows = [[*row, t] for row, t in zip(one["R_cam_obj"], one["t_cam_obj_mm"], strict=True)]
    assert json.loads(copied(page, "#copy-matrix")) == [*rows, [0, 0, 0, 1]]

    message = yaml.safe_load(copied(page, "#copy-ros"))
    found = [
        Detection(
            d["label"], 0, d["score"], d["similarity"], np.array(d["box_xyxy"]),
            np.array(d["R_cam_obj"]), np.array(d["t_cam_obj_mm"]),
        )
        for d in told["detections"]
    ]  # fmt: skip
    ours = detection_array(lambda name: SimpleNamespace, SimpleNamespace(), found, model.estimator.world.objects)
    assert len(message["detections"]) == 3
    for theirs, wanted in zip(message["detections"], ours.detections, strict=True):
        assert theirs["results"][0]["hypothesis"] == pytest.approx(vars(wanted.results[0].hypothesis))
        for a, b in (
            (theirs["results"][0]["pose"]["pose"], wanted.results[0].pose.pose),
            (theirs["bbox"]["center"], wanted.bbox.center),
        ):
            assert a["position"] == pytest.approx(vars(b.position), abs=1e-6)
            assert a["orientation"] == pytest.approx(vars(b.orientation), abs=1e-6)
        assert theirs["bbox"]["size"] == pytest.approx(vars(wanted.bbox.size), abs=1e-6)

    everything = drawn(page, "find-stage")
    for layer in ("outline", "axes", "box", "label", "reconstruction"):
        page.uncheck(f"#find-layers input[name={layer}]")
        fewer = drawn(page, "find-stage")
        assert fewer < everything, layer
        everything = fewer
    assert everything == 0
    page.check("#find-layers input[name=outline]")
    assert drawn(page, "find-stage") > 100
    page.uncheck("#find-layers input[name=all]")
    assert drawn(page, "find-stage") == 0
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert not page.is_checked("#find-layers input[name=all]")


def test_the_outline_lies_where_the_pose_says(page: playwright.Page, folder: Path, model: Model) -> None:
    """The drawn pixels' box is that of the projected mesh."""
    look(page, folder / "photo0.png")
    for layer in ("axes", "box", "label", "reconstruction"):
        page.uncheck(f"#find-layers input[name={layer}]")
    seen = page.evaluate(
        """async () => {
        const { stage, answer } = codepose.find, item = { ...stage.items[0] };
        Object.assign(item, { R: [[0.6, 0, 0.8], [0, -1, 0], [0.8, 0, -0.6]], t: [30, -20, 700] });
        stage.set(answer.K, [item]);
        const c = stage.canvas, d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        let box = [1e9, 1e9, 0, 0];
        for (let y = 0; y < c.height; y++) for (let x = 0; x < c.width; x++) if (d[4 * (y * c.width + x) + 3] > 128)
          box = [Math.min(box[0], x), Math.min(box[1], y), Math.max(box[2], x + 1), Math.max(box[3], y + 1)];
        const ratio = c.width / stage.element.clientWidth;
        const back = (v, k) => (v / ratio - (k % 2 ? stage.top : stage.left)) / stage.scale;
        return box.map(back); }"""
    )
    part = model.estimator.world.objects[0]
    points = (part.mesh.vertices + part.offset.numpy()) @ np.array([[0.6, 0, 0.8], [0, -1, 0], [0.8, 0, -0.6]]).T
    points = points + np.array([30, -20, 700])
    pixels = points[:, :2] / points[:, 2:] * 600 + (320, 240)
    assert seen == pytest.approx([*pixels.min(0), *pixels.max(0)], abs=4)


def test_a_calibration_is_typed_remembered_and_sent(page: playwright.Page, folder: Path) -> None:
    page.select_option("select[name=which]", "new")
    for name, value in {
        "fx": 500,
        "fy": 501,
        "cx": 320,
        "cy": 240,
        "distortion": "0.1, 0, 0, 0",
        "name": "mine",
    }.items():
        page.fill(f"input[name={name}]", str(value))
    page.click("[data-save]")
    assert page.input_value("select[name=which]") == "own:mine"
    look(page, folder / "photo0.png")
    told = json.loads(copied(page, "#copy-json"))
    assert told["K"] == [[500, 0, 320], [0, 501, 240], [0, 0, 1]]
    assert told["distortion"] == [0.1, 0, 0, 0]
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.input_value("select[name=which]") == "own:mine"
    assert page.input_value("input[name=fy]") == "501"
    page.click("[data-forget]")
    assert page.input_value("select[name=which]") == "guess"
    assert page.locator("select[name=which] option[value='own:mine']").count() == 0


def test_what_the_service_refuses_is_shown_and_goes_away(page: playwright.Page, folder: Path) -> None:
    page.set_input_files("#find-file", folder / "bad.png")
    page.wait_for_selector("#notice:visible")
    assert "image: it is no photo of a format that is read" in page.inner_text("#notice")
    look(page, folder / "photo0.png")
    assert page.is_hidden("#notice")


def test_photos_are_checked_by_keyboard_and_kept(page: playwright.Page, folder: Path, model: Model) -> None:
    page.focus("#tab-find")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#panel-check:visible")
    page.set_input_files("#check-files", [folder / "photo1.png", folder / "photo0.png"])
    page.wait_for_selector("#check-state:text('3 to decide')")
    assert page.inner_text("#check-where") == "1 of 2: photo0.png"  # by name
    assert page.evaluate("document.activeElement.id") == "check-stage"
    before = page.evaluate("codepose.check.pose.t")
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowDown", "e", "PageUp"):
        page.keyboard.press(key)
    moved = page.evaluate("({ R: codepose.check.pose.R, t: codepose.check.pose.t, found: codepose.check.pose.found })")
    part = model.estimator.world.objects[0]
    middles = [
        np.array(R) @ part.offset.numpy() + t
        for R, t in ((moved["found"]["R_cam_obj"], before), (moved["R"], moved["t"]))
    ]
    pixels = [600 * m[:2] / m[2] for m in middles]
    assert pixels[1] - pixels[0] == pytest.approx([2, 10], abs=1e-6)
    assert middles[1][2] / middles[0][2] == pytest.approx(1.002)
    turned = np.array(moved["R"]) @ np.array(moved["found"]["R_cam_obj"]).T
    assert np.degrees(np.arctan2(turned[1, 0], turned[0, 0])) == pytest.approx(0.5, abs=1e-4)
    page.keyboard.press("u")
    page.keyboard.press("f")
    page.wait_for_selector("#spoken:text('Snapped')", state="attached")
    page.keyboard.press("Enter")
    page.keyboard.press("Delete")
    page.keyboard.press("Delete")
    page.wait_for_selector("#sofar:text('of 1 parts right')")
    assert page.inner_text("#check-state").startswith("Saved.")
    assert "2 false alarms, in 1 photo." in page.inner_text("#sofar-more")
    page.keyboard.press(".")
    page.wait_for_selector("#check-where:text('photo1.png')")
    page.wait_for_selector("#check-state:text('3 to decide')")
    page.keyboard.press("n")
    page.keyboard.press("Enter")
    for _ in range(3):
        page.keyboard.press("Delete")
    page.wait_for_selector("#sofar-more:text('in 2 photos')")
    assert "1 missed, 5 false alarms" in page.inner_text("#sofar-more")
    images = list(BopDataset.open(folder / "labels" / "part").images("test"))
    assert [len(image.instances) for image in images] == [1, 1]
    assert images[1].instances[0].t_cam_obj[2] > 0
    with page.expect_download() as download:
        page.click("#download")
    packed = zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes()))
    assert "part/test/000001/scene_gt.json" in packed.namelist()


def fill_distance(page: playwright.Page, nearest: object, farthest: object) -> None:
    page.fill("#distance [name=nearest]", str(nearest))
    page.fill("#distance [name=farthest]", str(farthest))
    page.press("#distance [name=farthest]", "Tab")


def wait_for_state(page: playwright.Page, text: str) -> None:
    page.wait_for_selector(f"#train-state:text('{text}')")


def wait_for_picture(page: playwright.Page, which: str, width: int = 4) -> None:
    """Until a picture of this width is shown; the page forbids what Playwright's own waiting would do in it."""
    end = time.monotonic() + WAIT / 1000
    while page.evaluate(f"document.getElementById('train-{which}').naturalWidth") != width:
        assert time.monotonic() < end
        page.wait_for_timeout(50)


def see_what_it_makes_of_images(page: playwright.Page, run: Path) -> None:
    """A picture follows the validations, and Step 2's takes the place of Step 1's."""
    wait_for_picture(page, "validation")
    picture = page.locator("#train-validation")
    assert picture.get_attribute("alt") == (
        "What the network makes of validation images after 500 iterations. "
        "Step 1: error of the reconstruction: training 2e-3, validation 0.01"
    )
    assert page.inner_text("#train-validation-caption").startswith("Step 1 on images")
    chart, figure = (page.locator(f"#train-{name}").bounding_box() for name in ("charts figure", "validation-figure"))
    assert chart is not None
    assert figure is not None
    assert figure["y"] == chart["y"]  # beside the curve
    assert figure["x"] > chart["x"] + chart["width"]

    Image.new("RGB", (5, 3)).save(run / "step1" / "validation.png")
    with (run / "step1" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 1600, "val_mse": 0.004}\n')
    wait_for_picture(page, "validation", 5)
    assert "after 1,600 iterations" in picture.get_attribute("alt")
    assert "validation 4e-3" in picture.get_attribute("alt")
    (run / "step2").mkdir()
    Image.new("RGB", (6, 3)).save(run / "step2" / "validation.png")
    (run / "step2" / "metrics.jsonl").write_text('{"step": 20, "val_mse_gt_boxes": 0.02, "val_mean_iou": 0.61}\n')
    wait_for_picture(page, "validation", 6)
    assert page.inner_text("#train-validation-caption").startswith("Step 2 on scenes")
    assert picture.get_attribute("alt").endswith(
        "after 20 iterations. "
        "Step 2: error of the reconstruction: validation 0.02. Step 2: overlap of found and true boxes: validation 0.61"
    )


def test_a_network_is_trained_and_used(page: playwright.Page, folder: Path, random_run: Run) -> None:
    page.focus("#tab-find")
    page.keyboard.press("ArrowLeft")  # the last tab
    page.wait_for_selector("#panel-train:visible")
    page.set_input_files("#train-file", {"name": "slow nut cm.ply", "mimeType": "", "buffer": b"ply\n"})
    page.wait_for_selector("#notice:text('9000 mm across')")
    wait_for_state(page, "Cannot be trained as it is")
    assert page.is_disabled("#train-start")
    for unit, state in (("cm", "Not trained yet"), ("mm", "Cannot be trained"), ("cm", "Not trained yet")):
        page.select_option("#train-unit", unit)
        wait_for_state(page, state)
        page.wait_for_selector("#panel-train[aria-busy=false]")
        assert page.is_disabled("#train-start") == (unit == "mm")
    assert page.is_hidden("#notice")
    assert page.inner_text("#train-title") == "slow-nut-cm"
    assert "60 × 60 × 50" in page.inner_text("#train-numbers")
    assert page.inner_text("#train-findings") == "no colours"
    wait_for_picture(page, "sheet")

    page.click("#train-preview-button")
    assert page.evaluate("document.activeElement.name") == "nearest"  # a network is trained for a distance
    fill_distance(page, 300, 700)
    page.click("#train-preview-button")
    wait_for_picture(page, "preview")
    assert page.inner_text("#train-share") == "The part takes 8\u00a0% to 31\u00a0% of the photo’s longer side."
    words = json.loads((folder / "trained" / "parts" / "slow-nut-cm" / "preview.json").read_text())
    assert "--data.camera.focal" in words

    page.fill("#train-minutes", "0")
    page.click("#train-start")
    assert page.evaluate("document.activeElement.id") == "train-minutes"  # where it is told what is wrong
    page.fill("#train-minutes", "10")
    page.focus("#train-start")
    page.keyboard.press("Enter")
    wait_for_state(page, "Training.")
    page.wait_for_selector("#panel-train[aria-busy=false]")
    assert page.is_disabled("#train-unit")
    page.wait_for_selector("#train-phase:text('Step 1: extended AAE: 42 %, 1:23 left of it')")
    page.wait_for_selector("#train-charts svg[role=img]")
    label = page.get_attribute("#train-charts svg", "aria-label")
    assert label == "Step 1: error of the reconstruction: training 2e-3, validation 0.01"
    box = page.locator("#train-charts polyline").bounding_box()
    frame = page.locator("#train-charts svg").bounding_box()
    assert box is not None
    assert frame is not None
    assert box["width"] > 0.8 * frame["width"]
    assert box["height"] > 0.7 * frame["height"]
    see_what_it_makes_of_images(page, folder / "trained" / "runs" / "slow-nut-cm")
    page.reload()  # it goes on without the page
    page.wait_for_selector("#panel-train:visible")
    wait_for_state(page, "Training.")
    wait_for_picture(page, "validation", 6)
    page.click("#train-stop")
    wait_for_state(page, "Stopped.")
    page.click("#train-start:text('Go on')")
    wait_for_state(page, "Trained: nothing was detected")

    run = folder / "trained" / "runs" / "slow-nut-cm"
    shutil.rmtree(run)
    shutil.copytree(random_run.path, run)
    page.click("#train-use")
    page.wait_for_selector("#train-note:text('answers with slow-nut-cm now')")
    assert page.input_value("#model") == "slow-nut-cm"
    page.click("#tab-find")
    page.evaluate("document.getElementById('min-score').value = 0; document.getElementById('min-judged').value = -99")
    look(page, folder / "photo0.png")
    assert page.locator("#found li").count() == 3


def test_a_distance_is_asked_for_shared_and_remembered(page: playwright.Page, folder: Path) -> None:
    look(page, folder / "photo0.png")
    ends = page.get_by_role("group", name="How far the part is from the camera")
    nearest, farthest = (ends.get_by_label(f"{which} distance, mm") for which in ("Nearest", "Farthest"))
    nearest.fill("900000")
    farthest.fill("1000000")
    farthest.press("Tab")
    page.wait_for_selector("#found-note:text('Nothing was found in this photo, 900000 to 1000000 mm away.')")
    assert page.locator("#found li").count() == 0
    page.click("#tab-check")
    page.set_input_files("#check-files", folder / "photo0.png")
    page.wait_for_selector("#check-state:text('The network found nothing here.')")
    page.click("#tab-find")
    fill_distance(page, "", "")
    page.wait_for_selector("#found li")
    page.click("#tab-check")  # what was looked at with another distance is looked at anew
    page.wait_for_selector("#check-state:text('3 to decide')")

    nearest.fill("400")
    nearest.press("Tab")
    page.set_input_files("#check-files", folder / "photo1.png")
    page.wait_for_selector("#notice:text('Give the nearest and the farthest distance, or neither.')")
    assert farthest.evaluate("end => end.validity.valueMissing")
    farthest.fill("300")
    assert farthest.evaluate("end => end.validationMessage") == "This is nearer than the nearest."
    fill_distance(page, 400, 700.5)
    page.reload()
    page.wait_for_selector("html[data-ready]")
    for tab in ("find", "check", "train"):
        page.click(f"#tab-{tab}")
        assert (nearest.input_value(), farthest.input_value()) == ("400", "700.5")
        assert nearest.is_visible()


def test_what_the_service_may_not_train_is_said(browser: playwright.Browser, model: Model, running) -> None:
    with running(create_app({"part": model})) as (_, address):
        page = browser.new_page()
        page.set_default_timeout(WAIT)
        page.goto(f"{address}#train")
        page.wait_for_selector("#train-off:visible")
        assert "codepose serve --train-in FOLDER" in page.inner_text("#train-off")
        assert page.is_hidden("#train-work")
        page.close()


def test_without_a_network_the_page_begins_with_training(browser: playwright.Browser, folder: Path, running) -> None:
    with running(create_app({}, trainings=Trainings(folder / "new", command=STAND_IN))) as (_, address):
        page = browser.new_page()
        page.set_default_timeout(WAIT)
        page.goto(address)
        page.wait_for_selector("#panel-train:visible")
        for tab, field in (("find", "#find-file"), ("check", "#check-files")):
            page.click(f"#tab-{tab}")
            page.set_input_files(field, folder / "photo0.png")
            page.wait_for_selector("#notice:text('There is no network yet')")
            page.evaluate("codepose.fail('')")
        page.close()


@pytest.mark.parametrize("tab", ["find", "check", "train"])
def test_a_telephone_shows_all_of_it_and_everything_has_a_name(page: playwright.Page, folder: Path, tab: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.click(f"#tab-{tab}")
    if tab == "find":
        look(page, folder / "photo0.png")
    elif tab == "check":
        page.set_input_files("#check-files", folder / "photo0.png")
        page.wait_for_selector("#check-state:text('to decide')")
    else:
        page.set_input_files("#train-file", {"name": "slow.ply", "mimeType": "", "buffer": b"ply\n"})
        wait_for_state(page, "Not trained yet")
        fill_distance(page, 400, 700)
        page.click("#train-preview-button")
        page.wait_for_selector("#train-preview:visible")
        page.click("#train-start")
        page.wait_for_selector("#train-charts svg")
        wait_for_picture(page, "validation")
        assert page.evaluate("document.getElementById('train-validation').clientWidth") > 280
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [role=tab], [tabindex]")]
        .filter(e => e.checkVisibility() && e.type !== "file")
        .filter(e => !(e.getAttribute("aria-label") || e.labels?.[0]?.textContent.trim() || e.textContent.trim()))
        .map(e => e.outerHTML)"""
    )
    assert unnamed == []


def test_a_token_is_asked_for_once(browser: playwright.Browser, model: Model, running) -> None:
    with running(create_app({"part": model}, token="secret")) as (_, address):
        page = browser.new_page()
        page.set_default_timeout(WAIT)
        page.goto(address)
        page.fill("#token", "secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("html[data-ready]")
        page.reload()
        page.wait_for_selector("html[data-ready]")
        page.close()


def test_the_page_says_as_predict_does_how_sure_one_may_be(page: playwright.Page) -> None:
    one = Detection("part", 0, 0.876, 0.9, np.array([0, 0, 9, 9]), np.eye(3), np.array([0, 0, 500.0]))
    for values in ({}, {"judged": 4.26}, {"judged": 4.26, "confidence": 0.934}, {"confidence": 0.002}):
        found = dataclasses.replace(one, **values)
        told = page.evaluate("async d => (await import('/page/find.js')).sureness(d).text", found.to_json())
        assert told == found.sureness
