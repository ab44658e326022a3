"""A job whose steps are told while it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from fastapi.responses import StreamingResponse

from services.diffusion.contract import ImageJob, Step
from services.diffusion.events import HEARTBEAT, Events, failed
from services.diffusion.jobs import JobQueue
from services.wire.errors import ApiError

HEARTBEAT_S = 10.0  # a step of a large image on an old card takes longer than clients and proxies wait in silence

log = logging.getLogger("rigserve.diffusion")


class JobStream:
    """Until the first step the job may still be refused with a status of its own: `begin`, then `response`.

    `words`: what an error that comes later is called. A client that leaves stops the job at its next step.
    """

    def __init__(self, queue: JobQueue, job: ImageJob, words: Callable[[Exception], ApiError]) -> None:
        self._events = Events(job)
        self._words = words
        self._steps: asyncio.Queue[Step | None] = asyncio.Queue()  # None: the job has ended, one way or another
        self._work = asyncio.create_task(queue.run(job, self._steps.put_nowait))
        self._work.add_done_callback(lambda _: self._steps.put_nowait(None))
        self._first: Step | None = None

    async def begin(self) -> None:
        """Returns after the first step. Raises what the job raised before it; cancelled, it ends the job."""
        try:
            self._first = await self._steps.get()
        except asyncio.CancelledError:
            self._work.cancel()
            await asyncio.wait({self._work})
            raise
        if self._first is None:
            self._work.result()

    def response(self) -> StreamingResponse:
        """The events, to the end."""
        return StreamingResponse(self._told(), media_type="text/event-stream", headers={"cache-control": "no-cache"})

    async def _told(self) -> AsyncIterator[bytes]:
        step = self._first
        try:
            while step is not None:
                yield self._events.step(step)
                while True:
                    try:
                        step = await asyncio.wait_for(self._steps.get(), HEARTBEAT_S)
                        break
                    except TimeoutError:
                        yield HEARTBEAT
            yield self._end()
        finally:
            self._work.cancel()  # no more than a wish when it has ended

    def _end(self) -> bytes:
        error = self._work.exception()
        if error is None:
            return self._events.completed(self._work.result())
        assert isinstance(error, Exception)
        said = self._words(error)
        if said.code == "internal_error":
            log.error("unforeseen in a stream", exc_info=error)
        return failed(said)
