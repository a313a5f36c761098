"""What can be asked."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Form, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from codepose import __version__
from codepose.estimation.answers import MIN_JUDGED, Wishes
from codepose.networks.windows import MOST as MOST_TILES
from codepose.serve import pictures
from codepose.serve.app import Service
from codepose.serve.examples import DETECTION, MODEL, POSES
from codepose.serve.fields import DistanceOf, ModelName, PhotoOf
from codepose.serve.models import Question

router = APIRouter()
_MODELS: dict[str, Any] = {"content": {"application/json": {"example": {"models": [MODEL]}}}}


class Detected(BaseModel):
    """One part in the photo."""

    label: str
    score: float
    confidence: float | None = Field(description="probability that the pose is right; null = not calibrated")
    similarity: float
    agreement: float
    contour: float | None
    judged: float | None
    box_xyxy: list[float] = Field(description="pixels of the photo without its lens distortion")
    R_cam_obj: list[list[float]] = Field(description="3 x 3, the CAD file's frame to OpenCV's camera frame")
    t_cam_obj_mm: list[float]
    model_config = {"json_schema_extra": {"examples": [DETECTION]}}


class Poses(BaseModel):
    """What ``codepose predict`` writes about a photo."""

    file: str
    width: int
    height: int
    K: list[list[float]]
    distortion: list[float] | None = None
    detections: list[Detected] = Field(description="best first")
    time_ms: float
    model_config = {"json_schema_extra": {"examples": [POSES]}}


class Error(BaseModel):
    """What is wrong, in one line."""

    detail: str


class Answer(Response):
    """JSON as it was made: its numbers are not looked at again."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


ERRORS: dict[int | str, dict[str, Any]] = {
    413: {"model": Error, "description": "too many bytes or pixels"},
    422: {"model": Error, "description": "something is missing or wrong"},
    429: {"model": Error, "description": "too many requests wait"},
    504: {"model": Error, "description": "it took too long"},
}


@router.post("/v1/poses", response_model=Poses, responses=ERRORS, summary="Find the parts in a photo")
async def poses(
    request: Request,
    photo: PhotoOf,
    distance: DistanceOf,
    model: ModelName = "",
    min_score: Annotated[
        float | None, Form(ge=0, le=1, description="leave out detections below; none = 0.05 where poses are judged")
    ] = None,
    min_judged: Annotated[
        float, Form(allow_inf_nan=False, description="leave out poses the judge holds for less, log-odds")
    ] = MIN_JUDGED,
    min_confidence: Annotated[float, Form(ge=0, le=1, description="leave out poses less likely right")] = 0.0,
    max_detections: Annotated[int | None, Form(ge=1, le=1000, description="of each object, best first")] = None,
    tiles: Annotated[
        int, Form(ge=1, le=MOST_TILES, description="look at tiles of 1/tiles of the longer side, too")
    ] = 1,
    reconstructions: Annotated[bool, Form(description="add what the network believes to see, as PNG")] = False,
) -> Answer:
    """Answers with exactly what ``codepose predict`` writes; boxes and poses are those of the photo without its lens
    distortion, upright."""
    service = Service.of(request)
    asked = service.model(model)
    wishes = Wishes(min_score, min_judged, min_confidence, tiles, max_detections, distance.range())
    with service.place():
        pixels, found = await service.seen(photo)
        question = Question(PurePath(photo.image.filename or "image").name, pixels, found, wishes, reconstructions)
        values = await service.run(request, (asked.name, "poses", min_score, tiles), question, asked.answer)
    service.metrics.detections.labels(asked.name).inc(len(values["detections"]))
    return Answer(values)


@router.post("/v1/photo", response_class=Response, responses=ERRORS, summary="A photo as the network sees it")
async def straightened(request: Request, photo: PhotoOf) -> Response:
    """Upright, without its lens distortion, as JPEG: what the poses are to be drawn on."""
    service = Service.of(request)
    with service.place():
        if photo.camera.K or photo.camera.camera:
            pixels, found = await service.seen(photo)
            pixels = await anyio.to_thread.run_sync(found.undistort, pixels)
        else:
            pixels = await service.photo(await photo.image.read())
        return Response(pictures.to_jpeg(pixels), media_type="image/jpeg")


@router.get(
    "/v1/models",
    summary="The models that are loaded",
    responses={200: _MODELS},
)
async def models(request: Request) -> dict[str, Any]:
    """Their names, objects (sizes in mm, where to get their meshes), and whether poses are refined and calibrated."""
    service = Service.of(request)
    return {
        "version": __version__,
        "models": [model.about for model in service.models.values()],
        "max_bytes": service.limits.body,
        "max_pixels": service.limits.pixels,
        "trains": service.trainings is not None,
        "min_judged": MIN_JUDGED,
    }


@router.get("/v1/models/{model}/objects/{index}.ply", summary="An object's mesh, in mm", response_class=Response)
def mesh(request: Request, model: str, index: int) -> Response:
    """PLY, in the CAD file's own frame, with normals and colours."""
    data = Service.of(request).model(model).ply(index)
    return Response(data, media_type="model/ply", headers={"cache-control": "max-age=300"})


@router.get("/v1/cameras", summary="The cameras that are stored")
async def cameras(request: Request) -> dict[str, Any]:
    """By name; ``camera`` of ``/v1/poses`` takes it."""
    found = Service.of(request).cameras.stored
    return {
        "cameras": [
            {"name": name, "K": c.K.tolist(), "width": c.width, "height": c.height, "distortion": list(c.distortion)}
            for name, c in found.items()
        ]
    }


@router.get("/healthz", summary="Whether it answers")
async def healthz(request: Request) -> dict[str, Any]:
    """Answers as long as requests are taken."""
    return {"status": "ok", "models": list(Service.of(request).models)}


@router.get("/metrics", summary="Numbers for Prometheus", response_class=Response)
async def metrics(request: Request) -> Response:
    """In Prometheus's text format."""
    return Response(Service.of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
