"""``codepose serve``: loads the runs and answers until it is stopped."""

from __future__ import annotations

import contextlib
import os
import socket
from functools import partial
from typing import TYPE_CHECKING

from codepose.runtime.outcome import Outcome
from codepose.serve.options import Serve
from codepose.settings.errors import ConfigError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from codepose.serve.guard import Limits
    from codepose.serve.trainings import Trainings

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_CONNECTIONS = 256


def serve(options: Serve) -> Outcome:
    """Loads networks and takes a port.

    Returns:
        The address and the models' names. What comes then answers requests until SIGINT or SIGTERM; those that wait
        then are answered still.

    Raises:
        ConfigError: The extra is not installed, no run is named, or a number is wrong.
        RunError: A run cannot be used.
        OSError: The port is taken.
    """
    _require_extra()
    from codepose.serve.app import create_app
    from codepose.serve.cameras import Cameras
    from codepose.serve.labels import Labels
    from codepose.serve.models import load_model, load_models
    from codepose.serve.trainings import Trainings

    if not options.runs and options.train_in is None:
        raise ConfigError("name a run folder, or hammer: codepose serve runs/part; or --train-in FOLDER")
    limits = _limits(options)
    cameras = Cameras(options.cameras)
    listener = _listen(options.host, options.port)
    models = load_models(options.runs, device=options.device, method=options.method, refine=options.refine)
    token = options.token or os.environ.get("CODEPOSE_TOKEN", "")
    labels = Labels(options.labels, models)
    local = options.host in LOCAL
    trainings = None if options.train_in is None else Trainings(options.train_in, device=options.device)
    app = create_app(
        models,
        limits=limits,
        cameras=cameras,
        labels=labels,
        trainings=trainings,
        load=partial(load_model, device=options.device, refine=options.refine),
        token=token,
        hosts=LOCAL if local else frozenset(),
    )
    if not local and not token:
        print("anyone who can reach this machine may ask: set CODEPOSE_TOKEN, or put it behind a proxy", flush=True)
    address = _address(options.host, listener)
    print(f"serving {', '.join(models) or 'no network yet'} at {address} (stop: Ctrl-C)", flush=True)
    answer = partial(_answer, app, listener, grace=int(limits.seconds) + 5, trainings=trainings)
    return Outcome({"address": address, "models": list(models)}, then=answer)


def _require_extra() -> None:
    """Refuses to begin without the packages of the extra ``serve``."""
    try:
        import uvicorn  # noqa: F401

        import codepose.serve.app
        import codepose.serve.trainings  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"the service needs {error.name}: type pip install 'codepose[serve]' (in a checkout '.[serve]')"
        ) from None


def _answer(app: FastAPI, listener: socket.socket, *, grace: int, trainings: Trainings | None) -> None:
    """Answers requests until SIGINT, which ends it well, or SIGTERM; those that wait then have so many seconds."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=grace,
        server_header=False,
    )
    try:
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        if trainings is not None:  # a second Ctrl-C leaves out what uvicorn does in the end
            trainings.close()


def _address(host: str, listener: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"


def _listen(host: str, port: int) -> socket.socket:
    """Takes the port before the networks are loaded, which takes seconds."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port is a number from 0 (any free one) to 65535, not {port}")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: {error.strerror or error}: choose another") from None


def _limits(options: Serve) -> Limits:
    from codepose.serve.guard import Limits

    for name in ("queue", "batch", "timeout", "max_mb", "max_megapixels"):
        if not 0 < getattr(options, name) <= 1e6:
            raise ConfigError(f"--{name.replace('_', '-')} must be larger than 0 and at most a million")
    return Limits(
        places=options.queue,
        batch=options.batch,
        seconds=options.timeout,
        body=int(options.max_mb * 1e6),
        pixels=int(options.max_megapixels * 1e6),
    )
