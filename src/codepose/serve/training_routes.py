"""What the page's third tab asks: CAD files looked over, and networks trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, File, Form, Request, UploadFile
from starlette.responses import Response

from codepose.networks.framing import Framing, framing
from codepose.serve import curves
from codepose.serve.app import Service
from codepose.serve.examples import CURVES, TRAINING
from codepose.serve.fields import CameraOf, DistanceOf
from codepose.serve.problems import Problem, as_problem
from codepose.serve.routes import ERRORS, Error
from codepose.serve.trainings import Trainings
from codepose.settings.data import Unit
from codepose.settings.errors import ConfigError
from codepose.settings.files import load_preset

router = APIRouter(prefix="/v1/trainings")
_LONGEST_MINUTES = 100_000.0
_ERRORS: dict[int | str, dict[str, Any]] = {
    **{status: ERRORS[status] for status in (413, 422, 429, 504)},
    403: {"model": Error, "description": "this service trains nothing"},
    404: {"model": Error, "description": "there is no such training"},
    409: {"model": Error, "description": "it cannot be done now: another training runs, or this one is done"},
}


def _with_example(example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {**_ERRORS, 200: {"content": {"application/json": {"example": example}}}}


_TOLD = _with_example(TRAINING)
UnitOf = Annotated[Unit, Form(description="of the file's coordinates; STEP and 3MF files say it themselves")]
Body = Annotated[str, Form(max_length=200, description="only the body that the file calls so; empty = all")]


def _trainings(service: Service) -> Trainings:
    if service.trainings is None:
        raise Problem(403, "this service trains nothing: start it with codepose serve --train-in FOLDER")
    return service.trainings


@router.get("", responses=_with_example({"trainings": [TRAINING]}), summary="All trainings, the last begun first")
async def listed(request: Request) -> dict[str, Any]:
    """Also CAD files that were looked at and are not trained; of those the last few are kept."""
    trainings = _trainings(Service.of(request))
    return {"trainings": [trainings.about(name) for name in trainings.names()]}


@router.post("", responses=_TOLD, summary="Look a CAD file over")
async def add(
    request: Request,
    file: Annotated[UploadFile, File(description="STEP, PLY, OBJ, STL, GLB or 3MF; files that it names are not read")],
    unit: UnitOf = "mm",
    body: Body = "",
) -> dict[str, Any]:
    """Says how large the part is, what is wrong with it and after which turns it looks the same. It is not trained."""
    service = Service.of(request)
    trainings = _trainings(service)
    with service.place():
        name = PurePath(file.filename or "").name
        data = await file.read()
        new = await anyio.to_thread.run_sync(trainings.add, name, data, unit, body, limiter=trainings.looking)
    return trainings.about(new)


@router.get("/{name}", responses=_TOLD, summary="How a training stands")
async def one(request: Request, name: str) -> dict[str, Any]:
    """state: ready, refused, training, stopping, stopped, failed or done."""
    return _trainings(Service.of(request)).about(name)


@router.post("/{name}/part", responses=_TOLD, summary="Look the CAD file over in another unit")
async def look(request: Request, name: str, unit: UnitOf = "mm", body: Body = "") -> dict[str, Any]:
    """As when it was sent."""
    service = Service.of(request)
    trainings = _trainings(service)
    with service.place():
        await anyio.to_thread.run_sync(trainings.look, name, unit, body, limiter=trainings.looking)
    return trainings.about(name)


@router.post("/{name}/preview", responses=_TOLD, summary="Draw training images")
async def preview(request: Request, name: str, camera: CameraOf, distance: DistanceOf) -> dict[str, Any]:
    """As they will be for this camera at these distances; ``framing`` says how large the part is in its photos."""
    service = Service.of(request)
    trainings = _trainings(service)
    framed = _framed(service, trainings, name, camera, distance)
    with service.place():
        await anyio.to_thread.run_sync(trainings.draw, name, framed.options(), limiter=trainings.looking)
    return trainings.about(name) | {"framing": {"share": framed.share, "tiles": framed.tiles}}


@router.get("/{name}/{picture}.png", response_class=Response, summary="sheet.png, preview.png, validation.png")
def picture(request: Request, name: str, picture: str) -> Response:
    """The part from six sides, training images, or what the network makes of a few validation images now."""
    return Response(_trainings(Service.of(request)).picture(name, picture), media_type="image/png")


@router.get("/{name}/curves", responses=_with_example(CURVES), summary="What was learned so far")
def learned(request: Request, name: str) -> dict[str, Any]:
    """Curves out of the run's metrics.jsonl, and of which stage and iteration validation.png is, null where none is."""
    trainings = _trainings(Service.of(request))
    trainings.about(name)
    run = trainings.run(name)
    picture = curves.newest_picture(run)
    told = None if picture is None else {"stage": picture.stage, "step": picture.step}
    return {"charts": curves.charts(run), "picture": told}


@router.post("/{name}/start", responses=_TOLD, summary="Train, or go on training")
async def start(
    request: Request,
    name: str,
    camera: CameraOf,
    distance: DistanceOf,
    minutes: Annotated[float, Form(gt=0, le=_LONGEST_MINUTES, description="for learning")] = 20.0,
) -> dict[str, Any]:
    """One at a time. What was stopped goes on as it was begun, whatever is sent. Calibration follows learning."""
    service = Service.of(request)
    trainings = _trainings(service)
    trainings.about(name)
    options = []
    if not trainings.begun(name):
        options = _framed(service, trainings, name, camera, distance).options()
    await anyio.to_thread.run_sync(trainings.start, name, options, minutes)
    return trainings.about(name)


@router.post("/{name}/stop", responses=_TOLD, summary="Stop a training")
async def stop(request: Request, name: str) -> dict[str, Any]:
    """It saves its state, and start goes on with it."""
    trainings = _trainings(Service.of(request))
    trainings.stop(name)
    return trainings.about(name)


@router.post("/{name}/use", responses=_ERRORS, summary="Answer with a trained network")
async def use(request: Request, name: str) -> dict[str, Any]:
    """Loads it; from then on it is one of ``/v1/models``, until the service stops."""
    service = Service.of(request)
    trainings = _trainings(service)
    trainings.about(name)
    if not trainings.done(name):
        raise Problem(409, f"{name} is not trained yet")
    with service.place():

        def load(names: Sequence[str]) -> list[dict[str, Any]]:
            return [service.add(one, trainings.run(one)).about for one in names]

        about: dict[str, Any] = await service.run(request, "use", name, load)
    return about


def _framed(service: Service, trainings: Trainings, name: str, camera: CameraOf, distance: DistanceOf) -> Framing:
    """The settings for a camera and its distances."""
    trainings.mesh(name)
    reach = distance.range()
    if reach is None:
        raise Problem(422, "nearest and farthest are missing: the part's distance in mm")
    found, report = service.cameras.unfitted(camera), trainings.about(name)["report"]
    try:
        return framing(found, report["diameter_mm"], reach, load_preset(trainings.preset))
    except ConfigError as error:
        raise as_problem(error) from None
