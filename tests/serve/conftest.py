"""A service over a network with random weights: it detects something in every photo."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="pip install '.[serve]'")

import uvicorn
from starlette.testclient import TestClient

from codepose.estimation.estimator import PoseEstimator
from codepose.runtime.run import Run
from codepose.serve.app import create_app
from codepose.serve.models import Model


def png(width: int = 128, height: int = 96, seed: int = 0, kind: str = "PNG") -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def make_photo():
    return png


@pytest.fixture(scope="module")
def model(random_run: Run) -> Model:
    return Model("part", PoseEstimator.load(random_run, device="cpu"))


@pytest.fixture(scope="module")
def client(model: Model) -> Iterator[TestClient]:
    with TestClient(create_app({"part": model}), raise_server_exceptions=False) as client:
        yield client


@contextmanager
def served(app) -> Iterator[tuple[uvicorn.Server, str]]:
    """A real server at a free port."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=60))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def running():
    return served
