"""Whatever goes wrong is answered in one envelope, in the words of the interface."""

import logging
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from linnet.errors import InvalidInput
from linnet.serve.bodies import refusal_of
from linnet.serve.clips import is_full
from linnet.serve.jobs import KeyReused, QueueFull
from linnet.serve.schemas import Refused
from linnet.serve.wire import on_the_wire, wire_name

log = logging.getLogger("linnet.serve")


def add_error_handlers(app: FastAPI) -> None:
    def answer(error: Refused) -> JSONResponse:
        return JSONResponse(error.body(), error.status, headers=error.headers)

    async def refused(request: Request, error: Any) -> JSONResponse:
        return answer(error)

    async def invalid(request: Request, error: Any) -> JSONResponse:
        if isinstance(error.value, Path):  # a file of the server's, which no client named
            log.error("%s", error)
            return await broken(request, error)
        return answer(Refused(400, "invalid_value", on_the_wire(error), param=wire_name(error.field)))

    async def full(request: Request, error: Any) -> JSONResponse:
        return answer(Refused(429, "queue_full", str(error), headers={"Retry-After": "10"}))

    async def reused(request: Request, error: Any) -> JSONResponse:
        return answer(Refused(409, "idempotency_key_reused", str(error), param="Idempotency-Key"))

    async def malformed(request: Request, error: Any) -> JSONResponse:
        return answer(refusal_of(error.errors()))

    async def http(request: Request, error: Any) -> Response:
        if error.status_code == 404:
            return answer(Refused(404, "not_found", "there is nothing at this address"))
        if error.status_code == 405:
            methods = ", ".join(sorted(allowed(request)))
            if request.method == "OPTIONS":
                return Response(status_code=204, headers={"Allow": methods})
            problem = f"{request.method} is not for this address; it takes {methods}"
            return answer(Refused(405, "method_not_allowed", problem, headers={"Allow": methods}))
        headers = dict(error.headers or {})
        return answer(Refused(error.status_code, "invalid_request", str(error.detail), headers=headers))

    async def gone(request: Request, error: Any) -> Response:
        return Response(status_code=400)  # which nobody hears

    async def failing(request: Request, error: Any) -> JSONResponse:
        """A full disk is not the server's mistake: it has no stack trace in the log."""
        if not is_full(error):
            log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return await broken(request, error)

    async def broken(request: Request, error: Any) -> JSONResponse:
        if is_full(error):
            return answer(Refused(507, "disk_full", "the server's disk is full; delete some videos"))
        return answer(Refused(500, "internal_error", "the server made a mistake; it is in its log"))

    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
        Refused: refused,
        InvalidInput: invalid,
        QueueFull: full,
        KeyReused: reused,
        RequestValidationError: malformed,
        HTTPException: http,
        ClientDisconnect: gone,
        OSError: failing,
        sqlite3.Error: failing,
        Exception: broken,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def allowed(request: Request) -> set[str]:
    """Methods of all routes that share the path; each route by itself knows but its own."""
    here = [route for route in request.app.routes if route.path_regex.match(request.scope["path"])]
    methods = {method for route in here for method in route.methods or ()}
    return methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
