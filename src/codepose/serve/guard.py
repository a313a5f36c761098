"""What stands before every request: who may ask, how many bytes, how long they may take to come."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codepose.serve.metrics import Metrics
from codepose.serve.problems import Problem

_OPEN = ("/healthz", "/", "/page/")
"""What needs no token: the page asks for it."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Limits:
    """What the service takes.

    Attributes:
        places: Requests that are decoded, wait or are answered at a time; more are refused with 429.
        batch: Photos that are looked at together.
        seconds: For a request to come, and for its answer.
        body: Bytes of a request.
        pixels: Of a photo.
    """

    places: int = 16
    batch: int = 8
    seconds: float = 60.0
    body: int = 32_000_000
    pixels: int = 50_000_000


class Guard:
    """ASGI middleware around the whole application.

    Args:
        app: The application.
        limits: ``body`` and ``seconds`` count.
        metrics: Where requests are counted.
        token: That requests have to bring; empty = none.
        hosts: By which the service may be called: another name is another site's, which points it here; none = any.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, metrics: Metrics, token: str = "", hosts: frozenset[str] = frozenset()
    ) -> None:
        self.app = app
        self.limits = limits
        self.metrics = metrics
        self.token = token
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or passes it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = (("x-content-type-options", "nosniff"), ("content-security-policy", _POLICY))
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in extra)]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                answer = JSONResponse({"detail": refusal.detail}, refusal.status_code, refusal.headers)
                await answer(scope, receive, counted)
            else:
                await self.app(scope, self._limited(receive), counted)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)

    def _refusal(self, scope: Scope) -> Problem | None:
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if self.hosts and (urlsplit(f"//{host}").hostname or "") not in self.hosts:
            return Problem(421, f"this service is not called {host[:80]!r}: start it with --host")
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in ("GET", "HEAD") and urlsplit(origin).netloc != host:
            return Problem(403, "requests from other sites' pages are refused")
        if self.token and path != "/" and not path.startswith(_OPEN[2]) and path != _OPEN[0]:
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not secrets.compare_digest(given.encode(), self.token.encode()):
                return Problem(
                    401, "send the service's token: Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"}
                )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.limits.body:
            return self._too_large()
        return None

    def _too_large(self) -> Problem:
        return Problem(413, f"the request is larger than {self.limits.body / 1e6:g} MB: send a smaller file")

    def _limited(self, receive: Receive) -> Receive:
        """The request's body while it is small and comes in time; what follows it may take as long as it wants."""
        end, size, done = time.monotonic() + self.limits.seconds, 0, False

        async def limited() -> Message:
            nonlocal size, done
            if done:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, end - time.monotonic()))
            except TimeoutError:
                raise Problem(408, f"the request did not come within {self.limits.seconds:g} seconds") from None
            size += len(message.get("body", b""))
            done = not message.get("more_body", False)
            if size > self.limits.body:
                raise self._too_large()
            return message

        return limited
