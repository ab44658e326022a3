"""The HTTP side of the engine: OpenAI's image routes, health, metrics. Everything it says in anger has OpenAI's error shape."""

from __future__ import annotations

import asyncio
import base64
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from services.diffusion.contract import DeviceLost, ImageJob, JobStopped, NotFinite, Outcome, OutOfMemory
from services.diffusion.events import usage
from services.diffusion.folder import Abilities
from services.diffusion.jobs import JobQueue
from services.diffusion.settings import MAX_BODY_BYTES, MAX_EDIT_BODY_BYTES, Settings
from services.diffusion.stream import JobStream
from services.diffusion.validation import edit_from, generation_from
from services.wire.errors import (
    ApiError,
    BackendFailed,
    BackendOutOfMemory,
    BodyTooLarge,
    InternalError,
    InvalidApiKey,
    InvalidValue,
    MethodNotAllowed,
    NoAvailableWorker,
    RouteNotFound,
)
from services.wire.shapes import listing, model_object

UNFORESEEN = "The image engine failed on this request. Its log has the details."
T = TypeVar("T")


class ClientLeft(Exception):
    """Nobody is there to be answered."""


def make_app(settings: Settings, able: Abilities, queue: JobQueue, on_device_lost: Callable[[], None]) -> FastAPI:
    """The application around the queue of a loaded pipeline. `on_device_lost` is called once no job can work any more."""
    born = int(time.time())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        queue.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    _say_errors(app)
    authorised = [Depends(_token_check(settings))]

    @app.get("/health")
    async def health() -> JSONResponse:
        if queue.lost is not None:
            raise BackendFailed(f"The device is lost: {queue.lost}. Restart this engine.")
        return JSONResponse({"status": "ok"})

    @app.get("/v1/models", dependencies=authorised)
    async def models() -> JSONResponse:
        return JSONResponse(listing([model_object(settings.model_id, born, "rigserve")]))

    @app.get("/metrics", dependencies=authorised)
    async def prometheus() -> Response:
        return Response(queue.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.post("/v1/images/generations", dependencies=authorised)
    async def generations(request: Request) -> Response:
        return await painted(request, *generation_from(await _body(request, MAX_BODY_BYTES), settings, able))

    @app.post("/v1/images/edits", dependencies=authorised)
    async def edits(request: Request) -> Response:
        body = await _body(request, MAX_EDIT_BODY_BYTES)
        return await painted(request, *await asyncio.to_thread(edit_from, body, settings, able))

    async def painted(request: Request, job: ImageJob, stream: bool) -> Response:
        try:
            if stream:
                told = JobStream(queue, job, _final_words(job, on_device_lost))
                await _while_client_stays(request, told.begin())
                return told.response()
            return JSONResponse(_answer(await _while_client_stays(request, queue.run(job)), job))
        except DeviceLost:
            on_device_lost()
            raise
        except (JobStopped, OutOfMemory, NotFinite) as error:
            raise _wire_error(error, job) from None

    return app


# --- one request ------------------------------------------------------------------------------------------------------


async def _body(request: Request, most_bytes: int) -> bytes:
    """The whole body, or BodyTooLarge before more than the limit is held."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most_bytes:
            raise BodyTooLarge(f"The body has more than {most_bytes:,} bytes, the most that this request may have.")
    return bytes(body)


async def _while_client_stays(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled (and awaited to its end) when the client disconnects: then ClientLeft."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if task.cancelled():
        raise ClientLeft
    return task.result()


async def _disconnect(request: Request) -> None:
    # The body has been read to its end, so the next thing to receive can only be the disconnect.
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer(outcome: Outcome, job: ImageJob) -> dict[str, Any]:
    data: list[dict[str, Any]] = []
    for picture in outcome.pictures:
        entry: dict[str, Any] = {"b64_json": base64.b64encode(picture.data).decode("ascii"), "seed": picture.seed}
        data.append({**entry, "filtered": True} if picture.filtered else entry)
    said = {"size": f"{job.width_px}x{job.height_px}", "output_format": job.output.format, "background": "opaque"}
    return {"created": int(time.time()), "data": data, **said, "usage": usage(outcome)}


# --- who may ask ------------------------------------------------------------------------------------------------------


def _token_check(settings: Settings) -> Callable[[Request], Awaitable[None]]:
    # latin-1 is how the server decodes header bytes: whatever was sent compares as bytes and never raises.
    wanted = None if settings.token is None else f"Bearer {settings.token}".encode("latin-1")

    async def check(request: Request) -> None:
        given = request.headers.get("authorization", "").encode("latin-1")
        if wanted is not None and not hmac.compare_digest(given, wanted):
            raise InvalidApiKey("This engine answers to its gateway only: the bearer token is missing or wrong.")

    return check


# --- every ending that is not a 200 -----------------------------------------------------------------------------------


def _wire_error(error: JobStopped | OutOfMemory | NotFinite, job: ImageJob) -> ApiError:
    if isinstance(error, JobStopped):
        return NoAvailableWorker("This engine has been told to stop and gave up the job.", retry_after_s=5)
    if isinstance(error, OutOfMemory):
        return BackendOutOfMemory(
            f"{job.size()} ran out of memory {error}. The memory is free again and the engine goes on: "
            "ask for a smaller image or for fewer."
        )
    return BackendFailed(f"The model's output is not finite numbers ({error}), so there is no image to send.")


def _final_words(job: ImageJob, on_device_lost: Callable[[], None]) -> Callable[[Exception], ApiError]:
    """What a stream says when its job fails after the first event."""

    def words(error: Exception) -> ApiError:
        if isinstance(error, DeviceLost):
            on_device_lost()
            return _lost(error)
        if isinstance(error, (JobStopped, OutOfMemory, NotFinite)):
            return _wire_error(error, job)
        return error if isinstance(error, ApiError) else InternalError(UNFORESEEN)

    return words


def _lost(error: Exception) -> BackendFailed:
    return BackendFailed(f"The device is lost: {error}. This engine stops, so that a new one can take over.")


def _say_errors(app: FastAPI) -> None:
    async def api_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return JSONResponse(error.body(), status_code=error.status, headers=error.headers())

    async def device_lost(request: Request, error: Exception) -> JSONResponse:
        return await api_error(request, _lost(error))

    async def no_route(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            return await api_error(request, MethodNotAllowed(f"{request.method} is not a method of {request.url.path}."))
        if error.status_code == 404:
            return await api_error(request, RouteNotFound(f"There is no route {request.url.path}."))
        return await api_error(request, InvalidValue(str(error.detail)))

    async def client_left(_: Request, __: Exception) -> Response:
        return Response(status_code=499)  # nginx's number for it; nobody reads it, the server's log line may

    async def unforeseen(request: Request, _: Exception) -> JSONResponse:
        # The server logs the traceback; the answer tells nothing of our insides.
        return await api_error(request, InternalError(UNFORESEEN))

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(DeviceLost, device_lost)
    app.add_exception_handler(HTTPException, no_route)
    app.add_exception_handler(ClientLeft, client_left)
    app.add_exception_handler(Exception, unforeseen)
