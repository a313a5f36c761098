"""A service over a network with random weights: it detects something in every photo."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="pip install '.[serve]'")

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
    return Model("part", PoseEstimator.load(random_run, device="cpu", refine=True))


@pytest.fixture(scope="module")
def client(model: Model) -> Iterator[TestClient]:
    with TestClient(create_app({"part": model}), raise_server_exceptions=False) as client:
        yield client
