"""The service: photos in, poses out, over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import anyio.to_thread
import numpy as np
from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from codepose import __version__
from codepose.cameras.camera import Camera, require_lens
from codepose.serve import pictures
from codepose.serve.cameras import Cameras
from codepose.serve.fields import PhotoFields
from codepose.serve.guard import Guard, Limits
from codepose.serve.labels import Labels
from codepose.serve.metrics import Metrics
from codepose.serve.models import Model, load_model
from codepose.serve.problems import Problem, as_problem, first_of
from codepose.serve.trainings import Trainings
from codepose.serve.worker import Worker
from codepose.settings.errors import ConfigError

PAGE = Path(__file__).parent / "page"
T = TypeVar("T")
Load = Callable[[str, Path], Model]


@dataclass(frozen=True, eq=False)
class Task:
    """What the worker does: a function of many items of one kind."""

    kind: object
    item: Any
    work: Callable[[Sequence[Any]], Iterable[Any]]


class Service:
    """What the requests share.

    Args:
        models: By name.
        limits: What is taken.
        cameras: Those that are stored.
        labels: Where labels are kept.
        trainings: What is trained; None = nothing is.
        load: Loads a run, by the name that it will have.
    """

    def __init__(
        self,
        models: dict[str, Model],
        limits: Limits,
        cameras: Cameras,
        labels: Labels,
        trainings: Trainings | None = None,
        load: Load = load_model,
    ) -> None:
        self.models = models
        self.limits = limits
        self.cameras = cameras
        self.labels = labels
        self.trainings = trainings
        self._load = load
        self._used: dict[Path, Model] = {}
        self.metrics = Metrics(lambda: self._worker.waiting)
        self._taken = 0
        self._decoding = CapacityLimiter(1)
        self._worker: Worker[Task, Any] = Worker(self._do, lambda task: task.kind, limits.batch)

    @classmethod
    def of(cls, request: Request) -> Self:
        """The one that a request is addressed to."""
        service: Self = request.app.state.service
        return service

    def _do(self, tasks: Sequence[Task]) -> Iterable[Any]:
        self.metrics.batch.observe(len(tasks))
        return tasks[0].work([task.item for task in tasks])

    def close(self) -> None:
        """Finishes what waits, and stops what is trained."""
        if self.trainings is not None:
            self.trainings.close()
        self._worker.close()
        self.labels.close()

    def model(self, name: str) -> Model:
        """A model by its name, or the only one.

        Raises:
            Problem: There is none of this name, or there are several and none is named.
        """
        if not self.models:
            raise Problem(404, "there is no model yet: train one, or start the service with a run")
        if not name and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name not in self.models:
            complaint = f"there is no model {name[:60]!r}" if name else "model is missing"
            raise Problem(404 if name else 422, f"{complaint}: there are {', '.join(self.models)}")
        return self.models[name]

    def add(self, name: str, run: Path) -> Model:
        """Loads a trained run, once, to answer with; its name is numbered where another model has it.

        Raises:
            Problem: It cannot be used.
        """
        if run not in self._used:
            names = (name, *(f"{name}-{number}" for number in range(2, len(self.models) + 2)))
            new = next(one for one in names if one not in self.models)
            try:
                model = self._load(new, run)
                self.labels.add(model)
            except ValueError as error:
                raise Problem(422, str(error)) from None
            self.models = {**self.models, new: model}  # whoever goes through the old ones is not disturbed
            self._used[run] = model
        return self._used[run]

    @contextmanager
    def place(self) -> Iterator[None]:
        """Takes one of the places for requests that cost something.

        Raises:
            Problem: All are taken.
        """
        if self._taken >= self.limits.places:
            raise Problem(
                429, f"{self._taken} requests wait already: try again in a moment", headers={"Retry-After": "1"}
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def photo(self, data: bytes) -> NDArray[np.uint8]:
        """Decodes a photo beside the event loop, one at a time.

        Raises:
            Problem: It cannot be read, or is too large.
        """
        return await anyio.to_thread.run_sync(pictures.read_photo, data, self.limits.pixels, limiter=self._decoding)

    async def seen(self, photo: PhotoFields) -> tuple[NDArray[np.uint8], Camera]:
        """Decodes a request's photo, and fits its camera to it.

        Raises:
            Problem: One of them cannot be used.
        """
        pixels = await self.photo(await photo.image.read())
        height, width = pixels.shape[:2]
        found = self.cameras.find(photo.camera, width, height)
        try:
            require_lens(found.K, width, height)
        except ConfigError as error:
            raise as_problem(error) from None
        return pixels, found

    async def run(self, request: Request, kind: object, item: T, work: Callable[[Sequence[T]], Iterable[Any]]) -> Any:
        """Has the worker do something, unless it takes too long or nobody waits for it any more.

        Args:
            request: Whoever waits.
            kind: Items of one kind are done together.
            item: What to do.
            work: Does it, for several items.

        Raises:
            Problem: It took too long, or the input is wrong.
        """
        future: Future[Any] = self._worker.submit(Task(kind, item, work))
        waiting, end = asyncio.wrap_future(future), time.monotonic() + self.limits.seconds
        try:
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=min(0.5, max(0.0, end - time.monotonic())))
                if waiting.done():
                    break
                if time.monotonic() >= end:
                    raise Problem(504, f"there was no answer within {self.limits.seconds:g} seconds")
                if await request.is_disconnected():
                    raise Problem(499, "the client has gone")
        finally:
            waiting.cancel()  # takes it out of the line, if it is not done
        try:
            return waiting.result()
        except ConfigError as error:
            raise as_problem(error) from None


def create_app(
    models: dict[str, Model],
    *,
    limits: Limits | None = None,
    cameras: Cameras | None = None,
    labels: Labels | None = None,
    trainings: Trainings | None = None,
    load: Load = load_model,
    token: str = "",
    hosts: frozenset[str] = frozenset(),
) -> FastAPI:
    """The application that a server such as uvicorn runs.

    Args:
        models: Loaded runs, by name.
        limits: None = the defaults.
        cameras: None = none are stored.
        labels: None = they are kept until the service stops.
        trainings: None = nothing is trained.
        load: Loads a run that was trained, by the name that it will have.
        token: That requests have to bring; empty = none.
        hosts: Names by which it may be called; none = any.
    """
    limits = limits or Limits()
    labels = labels or Labels(None, models)
    service = Service(models, limits, cameras or Cameras(), labels, trainings, load)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await anyio.to_thread.run_sync(service.close)

    app = FastAPI(
        title="codepose",
        version=__version__,
        summary="Finds trained parts in photos and says how they lie.",
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        middleware=[Middleware(Guard, limits=limits, metrics=service.metrics, token=token, hosts=hosts)],
    )
    app.state.service = service
    _add_answers(app)
    return app


def _add_answers(app: FastAPI) -> None:
    """What is answered: the interface's routes, its errors, and the page."""
    from codepose.serve import label_routes, routes, training_routes

    for part in (routes, label_routes, training_routes):
        app.include_router(part.router)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _problem)
    app.add_exception_handler(Exception, _failure)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    app.mount("/page", StaticFiles(directory=PAGE))


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": first_of(error.errors())}, 422)


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


async def _failure(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": "the service failed; its log says more"}, 500)
