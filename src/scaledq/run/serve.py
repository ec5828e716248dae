"""How a policy answers over HTTP: routes, limits, a token, health and metrics.

`scaledq serve RUN` listens on loopback unless told otherwise. What the network computes together
is decided in batching.py, what a body means in wire.py, what the API says of itself in schema.py.
"""

import asyncio
import contextlib
import hmac
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from functools import cache
from typing import Any
from urllib.parse import parse_qs

import numpy as np
from pydantic import TypeAdapter, ValidationError

from scaledq.core.config import config
from scaledq.core.errors import ConfigError, RunError, suggest
from scaledq.play.policy import NetPolicy, choose
from scaledq.run import schema
from scaledq.run.batching import Batcher, BusyError
from scaledq.run.card import Card
from scaledq.run.wire import JSON, RequestError, answer, observations

try:
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import JSONResponse
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from starlette.exceptions import HTTPException
    from starlette.routing import Match, Route
except ImportError as fault:
    raise RunError("serving is not installed: pip install 'scaledq[serve]'") from fault

TIMES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
OPEN = "/health"
"""The one path that needs no token."""
ACT = "/v1/tasks/{task}/actions"
BOOLEAN = TypeAdapter(bool)
Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@config
class ServeConfig:
    """Where to listen, and how much is too much."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes a free one."""
    max_batch: int = 64
    """Rows of one forward pass."""
    max_queue: int = 1024
    """Rows that may wait; beyond it requests get 503 and are asked to come again."""
    max_rows: int = 256
    """Of one request."""
    max_bytes: int = 16 << 20
    """Of one request's body."""
    max_connections: int = 1024
    """Open at once."""
    patience: float = 10.0
    """Seconds that a request's headers, and then its body, may take to arrive."""

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_queue", "max_rows", "max_bytes", "max_connections"):
            if getattr(self, name) < 1:
                raise ConfigError(f"serve: need {name} >= 1, got {getattr(self, name)}")
        if not 0 <= self.port < 65_536 or not self.patience > 0:
            raise ConfigError(
                f"serve: need a port below 65,536 and patience above 0, got {self.port} and "
                f"{self.patience}"
            )


class Meters:
    """What /metrics tells, in Prometheus' words."""

    def __init__(self, waiting: Callable[[], float]):
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "scaledq_requests",
            "Requests by path and status.",
            ["path", "status"],
            registry=registry,
        )
        self.decisions = Counter("scaledq_decisions", "Rows answered.", ["task"], registry=registry)
        self.seconds = Histogram(
            "scaledq_request_seconds", "From headers to answer.", buckets=TIMES, registry=registry
        )
        self.rows = Histogram(
            "scaledq_batch_rows", "Rows of a forward pass.", buckets=ROWS, registry=registry
        )
        Gauge("scaledq_waiting_rows", "Rows in the queue.", registry=registry).set_function(waiting)
        self.answered = cache(lambda path, status: self.requests.labels(path, str(status)))


def serve(policy: NetPolicy, card: Card, cfg: ServeConfig, *, token: str | None = None) -> None:
    """Answers until SIGINT or SIGTERM; what was begun is finished first.

    Raises:
      RunError: the address is taken or is none of this machine's.
    """
    try:
        listener = socket.create_server((cfg.host, cfg.port), backlog=cfg.max_connections)
    except (OSError, OverflowError) as error:
        raise RunError(f"cannot listen on {cfg.host}:{cfg.port}: {error}") from error
    with listener:
        host, port = listener.getsockname()[:2]
        if not host.startswith("127.") and not token:
            print(f"scaledq serve: anyone who reaches {host} may ask: no token", file=sys.stderr)
        print(f"serving {card.run} on http://{host}:{port}", file=sys.stderr, flush=True)
        settings = uvicorn.Config(
            app(policy, card, cfg, token=token),
            http=_impatient(cfg.patience),  # pyright: ignore[reportArgumentType]
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=cfg.max_connections,
            timeout_graceful_shutdown=10,
        )
        uvicorn.Server(settings).run(sockets=[listener])


def app(policy: NetPolicy, card: Card, cfg: ServeConfig, *, token: str | None = None) -> "Guard":
    """The ASGI application."""
    batcher = Batcher(policy, max_batch=cfg.max_batch, max_queue=cfg.max_queue)
    meters = Meters(lambda: batcher.waiting)
    batcher.told = meters.rows.observe

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.work())
        yield
        worker.cancel()

    api = FastAPI(title="scaledq", lifespan=lifespan, docs_url=None, redoc_url=None)
    api.add_exception_handler(HTTPException, _refuse)
    _add_routes(api, card, meters)
    acting = Acting(policy, card, cfg, batcher, meters)
    working = Route(ACT, acting, methods=["POST"])
    api.router.routes.append(working)
    api.openapi()["paths"][ACT] = {"post": schema.acting(card)}
    if token:
        schema.require_token(api.openapi(), but=OPEN)

    async def entrance(scope: Scope, receive: Receive, send: Send) -> None:
        """Past FastAPI's own machinery, if that is where it is going: half of a request's time."""
        match, found = working.matches(scope)
        if match is Match.FULL:
            scope.update(found, route=working)
            await acting(scope, receive, send)
        else:
            await api(scope, receive, send)

    return Guard(entrance, meters=meters, token=token)


class Acting:
    """The one route that works: rows of a task in, actions out; plain ASGI, for all its haste."""

    def __init__(
        self, policy: NetPolicy, card: Card, cfg: ServeConfig, batcher: Batcher, meters: Meters
    ):
        self.policy, self.card, self.cfg, self.batcher = policy, card, cfg, batcher
        self.heads = {task.name: head for head, task in enumerate(card.tasks)}
        self.decided = {name: meters.decisions.labels(name) for name in self.heads}
        self.rng = np.random.default_rng()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self._answer(scope, receive)
        except RequestError as error:
            await _error(error.status, str(error))(scope, receive, send)
            return
        except BusyError as error:
            await _error(503, str(error), retry=1)(scope, receive, send)
            return
        length = (b"content-length", str(len(body)).encode())
        headers = [(b"content-type", JSON.encode()), length]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        """Raises RequestError, or BusyError."""
        name = scope["path_params"]["task"]
        if name not in self.heads:
            raise RequestError(f"no task {name!r}; {suggest(name, self.heads)}", status=404)
        head = self.heads[name]
        task = self.card.tasks[head]
        values = _wants_values(scope["query_string"])
        headers = dict(scope["headers"])
        body = await self._body(headers.get(b"content-length", b"0"), receive)
        kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
        obs = observations(body, kind, task, stack=self.card.stack, max_rows=self.cfg.max_rows)
        found = await self.batcher.values(obs, head)
        uniform = self.rng.random(len(obs))
        actions = choose(found, uniform, selection=self.policy.selection)
        self.decided[name].inc(len(obs))
        return answer(actions, found[:, : task.actions] if values else None)

    async def _body(self, length: bytes, receive: Receive) -> bytes:
        limit = self.cfg.max_bytes
        too_large = RequestError(f"a body may have {limit:,} bytes", status=413)
        if not length.isdigit() or int(length) > limit:
            raise too_large
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(self.cfg.patience):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RequestError("nobody waits for the answer", status=400)
                    parts.append(message.get("body", b""))
                    more = message.get("more_body", False)
                    size += len(parts[-1])
                    if size > limit:
                        raise too_large
        except TimeoutError as error:
            raise RequestError(
                f"the body took longer than {self.cfg.patience:g} s", status=408
            ) from error
        return b"".join(parts)


def _wants_values(query: bytes) -> bool:
    """Raises RequestError."""
    if not query:
        return False
    given = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("values", ["false"])
    try:
        return BOOLEAN.validate_python(given[-1])
    except ValidationError as error:
        raise RequestError(f"values: true or false, got {given[-1]!r}", status=422) from error


class Guard:
    """Asks for the token, counts, and times; plain ASGI, for it is around every request."""

    def __init__(self, app: Any, *, meters: Meters, token: str | None):
        self.app, self.meters = app, meters
        self.expected = f"Bearer {token}".encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "unknown")
                self.meters.answered(path, message["status"]).inc()
                self.meters.seconds.observe(time.perf_counter() - began)
            await send(message)

        if self.expected and scope["path"] != OPEN and not self._knows(scope["headers"]):
            refusal = _error(401, "give the token: Authorization: Bearer ...")
            refusal.headers["www-authenticate"] = "Bearer"
            await refusal(scope, receive, noting)
            return
        await self.app(scope, receive, noting)

    def _knows(self, headers: list[tuple[bytes, bytes]]) -> bool:
        given = next((value for name, value in headers if name == b"authorization"), b"")
        return hmac.compare_digest(given, self.expected or b"")


def _add_routes(api: FastAPI, card: Card, meters: Meters) -> None:
    about = [
        {
            "task": task.name,
            "actions": task.actions,
            "obs": [card.stack, *task.frame_shape],
            "dtype": task.frame_dtype,
        }
        for task in card.tasks
    ]
    guarded: dict[int | str, dict[str, Any]] = {
        401: {"description": schema.REFUSALS[401], **schema.ERROR}
    }

    @api.get(OPEN)
    async def health() -> dict[str, str]:
        """Whether it answers."""
        return {"status": "ok", "run": card.run}

    @api.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **guarded})
    async def metrics() -> Response:
        """Counts, times and the queue, for Prometheus."""
        return Response(generate_latest(meters.registry), media_type="text/plain; version=0.0.4")

    @api.get("/v1/tasks", responses=guarded)
    async def tasks() -> list[dict[str, Any]]:
        """The tasks, their actions, and what an observation is."""
        return about


def _error(status: int, message: str, *, retry: int | None = None) -> JSONResponse:
    headers = {"retry-after": str(retry)} if retry else None
    return JSONResponse({"error": message}, status, headers=headers)


async def _refuse(_: Request, fault: Any) -> Response:
    refusal = _error(fault.status_code, str(fault.detail))
    refusal.headers.update(fault.headers or {})
    return refusal


def _impatient(seconds: float) -> Callable[..., asyncio.Protocol]:
    """Uvicorn's protocol, but a connection whose first request does not come is closed."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    def make(**given: Any) -> asyncio.Protocol:
        protocol: Any = AutoHTTPProtocol(**given)  # pyright: ignore[reportCallIssue]
        made = protocol.connection_made

        def close_if_silent() -> None:
            if protocol.cycle is None and not protocol.transport.is_closing():
                protocol.transport.write(
                    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n"
                    b"content-length: 0\r\n\r\n"
                )
                protocol.transport.close()

        def connection_made(transport: asyncio.Transport) -> None:
            made(transport)
            asyncio.get_running_loop().call_later(seconds, close_if_silent)

        protocol.connection_made = connection_made
        return protocol

    return make
