"""What the page's second tab asks: poses brought onto the edges, and labels kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Form, Request
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from starlette.background import BackgroundTask
from starlette.responses import FileResponse

from codepose.bop.entries import BopError
from codepose.estimation.snapping import snap
from codepose.serve.app import Service
from codepose.serve.fields import ModelName, PhotoOf
from codepose.serve.labels import Label, Pose
from codepose.serve.models import Model
from codepose.serve.problems import Problem, first_of
from codepose.serve.routes import ERRORS

router = APIRouter()
_LABELS = TypeAdapter(list[Label])
_POSE = TypeAdapter(Pose)
_LONGEST = 1_000_000


@dataclass(frozen=True, eq=False)
class _Nudged:
    model: Model
    image: NDArray[np.uint8]
    K: NDArray[np.float64]
    index: int
    pose: Pose


def _snapped(many: Sequence[_Nudged]) -> list[dict[str, Any]]:
    found = [snap(one.model.estimator, one.image, one.K, one.index, *one.pose.arrays()) for one in many]
    return [{"R_cam_obj": R.tolist(), "t_cam_obj_mm": t.tolist(), "contour": round(c, 6)} for R, t, c in found]


@router.post("/v1/refine", responses=ERRORS, summary="Bring a pose onto the photo's edges")
async def refine(
    request: Request,
    photo: PhotoOf,
    pose: Annotated[str, Form(description='JSON: {"R_cam_obj": 3 x 3, "t_cam_obj_mm": [x, y, z]}')],
    index: Annotated[int, Form(ge=0, description="which of the model's objects")] = 0,
    model: ModelName = "",
) -> dict[str, Any]:
    """Searches around the pose; answers with the pose whose edges lie best on the photo's."""
    service = Service.of(request)
    asked = service.model(model)
    wanted = _parsed(_POSE, pose, "pose")
    _require_object(asked, index)
    with service.place():
        pixels, found = await service.seen(photo)
        nudged = _Nudged(asked, found.undistort(pixels), found.K, index, wanted)
        answer: dict[str, Any] = await service.run(request, (asked.name, "refine"), nudged, _snapped)
    return answer


@router.post("/v1/labels", responses=ERRORS, summary="Keep a photo and the poses in it")
async def save(
    request: Request,
    photo: PhotoOf,
    labels: Annotated[str, Form(description="JSON: a list of poses with index and, where the network found it, found")],
    rejected: Annotated[int, Form(ge=0, le=10_000, description="detections that were none")] = 0,
    model: ModelName = "",
) -> dict[str, Any]:
    """Replaces what was kept of the same photo; answers with how good the network is on the photos so far."""
    service = Service.of(request)
    asked = service.model(model)
    wanted: list[Label] = _parsed(_LABELS, labels, "labels")
    for label in wanted:
        _require_object(asked, label.index)
    with service.place():
        pixels, found = await service.seen(photo)
        await photo.image.seek(0)
        digest = hashlib.sha256(await photo.image.read()).hexdigest()
        name = PurePath(photo.image.filename or "image").name

        def keep() -> dict[str, Any]:
            try:
                return service.labels.save(asked, digest, name, found.undistort(pixels), found.K, wanted, rejected)
            except (OSError, BopError) as error:
                raise Problem(507, f"nothing was kept: {error}") from None

        return await anyio.to_thread.run_sync(keep)


@router.get("/v1/labels", summary="How good the network is on the labelled photos")
async def summary(request: Request, model: str = "") -> dict[str, Any]:
    """Counts of photos, parts, found and right ones; right: no point off by more than 10 % of the diameter."""
    service = Service.of(request)
    return service.labels.summary(service.model(model))


@router.get("/v1/labels.zip", summary="The labelled photos as a BOP dataset", response_class=FileResponse)
async def archive(request: Request, model: str = "") -> FileResponse:
    """Models, photos without lens distortion, cameras and poses."""
    service = Service.of(request)
    asked = service.model(model)
    packed = await anyio.to_thread.run_sync(service.labels.archive, asked)
    if packed is None:
        raise Problem(404, "nothing is labelled yet")
    name = f"{asked.name}-labels.zip"
    return FileResponse(packed, media_type="application/zip", filename=name, background=BackgroundTask(packed.unlink))


def _parsed(kind: TypeAdapter[Any], text: str, name: str) -> Any:
    if len(text) > _LONGEST:
        raise Problem(422, f"{name} is too long")
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        raise Problem(
            422, f"{name}: {first_of([one | {'loc': ('', *one['loc'])} for one in error.errors()])}"
        ) from None


def _require_object(model: Model, index: int) -> None:
    count = len(model.estimator.world.objects)
    if index >= count:
        raise Problem(422, f"index: {model.name} has {count} object{'' if count == 1 else 's'}, numbered from 0")
