"""The FastAPI application: routes, and every error in OpenAI's shape."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from services.gateway.access import Guard, methods_of
from services.gateway.body import ClientGone
from services.gateway.border import Border, allowed_hosts
from services.gateway.core import Gateway
from services.gateway.json_response import error_response
from services.gateway.metrics import OPERATIONS
from services.gateway.outcome import Ending, Outcome
from services.gateway.routes_admin import admin_routes
from services.gateway.routes_dashboard import dashboard_routes
from services.gateway.routes_openai import openai_routes
from services.gateway.routes_ops import ops_routes
from services.gateway.routes_roles import roles_routes
from services.gateway.routes_usage import usage_routes
from services.wire.errors import ApiError, InternalError, InvalidValue, MethodNotAllowed, RouteNotFound

MEASURED = set(OPERATIONS)


def make_app(gateway: Gateway) -> ASGIApp:
    """The application, inside its border."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        gateway.fleet.start()
        gateway.ledger.start()
        gateway.roles.start()
        yield
        await gateway.roles.stop()
        await gateway.fleet.stop()
        gateway.recorder.settle()
        await gateway.ledger.stop()

    app = FastAPI(title="rigserve", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, lifespan=lifespan,
                  dependencies=[Depends(Guard(gateway))])
    app.include_router(openai_routes(gateway))
    app.include_router(ops_routes(gateway))
    app.include_router(usage_routes(gateway))
    app.include_router(admin_routes(gateway))
    app.include_router(roles_routes(gateway))
    app.include_router(dashboard_routes(gateway))
    _answer_errors(app, gateway)
    return Border(app, allowed_hosts(gateway.settings.host), gateway.recorder.settle)


def _answer_errors(app: FastAPI, gateway: Gateway) -> None:
    async def api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        if request.url.path in MEASURED:
            refused(request, error, gateway)
        return error_response(error)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            answer = error_response(MethodNotAllowed(f"{request.method[:16]} is not a method of this route."))
            answer.headers["allow"] = ", ".join(methods_of(request.scope["route"].path))
            return answer
        if error.status_code == 404:
            return error_response(RouteNotFound("There is no such route; the OpenAI routes are under /v1."))
        return await api_error(request, InvalidValue("The request can't be read."))

    async def invalid(request: Request, error: Exception) -> Response:
        return await api_error(request, InvalidValue("The request can't be read."))

    async def client_gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nginx's number for it; there is nobody to read it

    async def unforeseen(request: Request, error: Exception) -> Response:
        # Starlette raises it again after this answer, and the border logs it.
        return error_response(InternalError("The gateway failed on this request; its log has the details."))

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(Exception, unforeseen)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(ClientGone, client_gone)


def refused(request: Request, error: ApiError, gateway: Gateway) -> None:
    """Records a request that was refused before it had a response of its own."""
    now = time.monotonic()
    state = request.state
    outcome = Outcome(state.request_id, state.engine_request_id, request.url.path, now, getattr(state, "model_id", None))
    outcome.caller = getattr(state, "caller", None)
    outcome.status, outcome.ended_s = error.status, now
    gateway.ended_by(outcome, error, Ending.REFUSED)
    gateway.record(outcome)
