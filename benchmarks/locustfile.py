"""Clients of ``codepose serve``, for Locust (which is no dependency of codepose: ``pip install locust``).

codepose serve hammer --port 8765
PHOTO=photo.png K=615.2,615.4,322.1,241.8 locust -f benchmarks/locustfile.py --headless --host http://127.0.0.1:8765 \
    --users 4 --run-time 60s --csv load
"""

from __future__ import annotations

import os
from pathlib import Path

from locust import FastHttpUser, constant, task

PHOTO = Path(os.environ["PHOTO"])
FIELDS = {"K": os.environ["K"], "model": os.environ.get("MODEL", "")}


class Client(FastHttpUser):
    """Asks again as soon as it has its answer."""

    wait_time = constant(0)
    content = PHOTO.read_bytes()

    @task
    def poses(self) -> None:
        """One photo."""
        self.client.post("/v1/poses", data=FIELDS, files={"image": (PHOTO.name, self.content)})
