"""Usage on its way to the database: summed in memory, written every few seconds in the background, never waited for by a request.

While the database does not take it, sums stay in memory (they grow with keys × models × cards, not with requests) and in the spool file.
A gateway that is killed loses what was not written yet: at most FLUSH_S of usage, or nothing of what the spool holds.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable

from services.gateway.logs import log_event
from services.gateway.outcome import Ending, Outcome
from services.keys.database import DatabaseError
from services.keys.spool import Spool
from services.keys.usage import Batch, Sums, UsageId
from services.keys.usage_store import UsageStore

FLUSH_S = 2.0
MOST_ROWS = 10_000
MOST_PAUSE_S = 15.0

InThread = Callable[[Callable[[], object]], Awaitable[object]]


class UsageWriter:
    """`in_thread` runs a function where it may block. Without a store the sums of the last days only stay in memory."""

    def __init__(self, store: UsageStore | None, spool: Spool | None, in_thread: InThread) -> None:
        self._store, self._spool, self._in_thread = store, spool, in_thread
        self._pending = _new_batch()  # grows
        self._untried: list[Batch] = []  # left by an earlier gateway, or gathered while the database was away
        self._trying: Batch | None = None  # may be in the database already, so it keeps its id and its rows
        self._spooled = False
        self._lock = asyncio.Lock()
        self._day = (-1, "")
        self.failures = 0
        self.failing = False
        self.lost_requests = 0

    @property
    def waiting_rows(self) -> int:
        """Rows that are not in the database yet."""
        return sum(len(batch.rows) for batch in self._batches())

    def _batches(self) -> list[Batch]:
        return [batch for batch in (self._trying, *self._untried, self._pending) if batch is not None and batch.rows]

    def load_spool(self) -> None:
        """What an earlier gateway could not write."""
        found = self._spool.load() if self._spool is not None else []
        if found is None:
            log_event("usage_spool_unreadable", {"file": str(self._spool.path) if self._spool else None}, logging.ERROR)
        self._untried = found or []
        self._spooled = bool(self._untried)

    def finished(self, outcome: Outcome) -> None:
        """One request that reached an engine, however it ended."""
        backend, model = outcome.backend, outcome.model_id
        if backend is None or model is None:
            return
        day, caller, tokens, images = self.today(), outcome.caller, outcome.tokens, outcome.images
        ident = UsageId(day, (caller.id or "") if caller else "", model, backend.card.id if backend.card else "")
        seconds = outcome.ended_s - outcome.seated_s if outcome.ended_s is not None and outcome.seated_s is not None else 0.0
        unmetered = int(tokens is None and images is None and outcome.ending is not Ending.REFUSED)
        prompt, output = (tokens.prompt_tokens, tokens.output_tokens) if tokens else (0, 0)
        sums = Sums(1, unmetered, prompt, output, images.images if images else 0, seconds, outcome.joules)
        found = self._pending.rows.get(ident)
        if found is not None:
            found.add(sums)
        else:
            self._add(self._pending, ident, sums)

    def _add(self, batch: Batch, ident: UsageId, sums: Sums) -> None:
        before = batch.lost_requests
        batch.add(ident, sums)
        self.lost_requests += batch.lost_requests - before

    def today(self) -> str:
        number = int(time.time() // 86400)
        if number != self._day[0]:
            self._day = (number, time.strftime("%Y-%m-%d", time.gmtime(number * 86400)))
        return self._day[1]

    async def run(self) -> None:
        """Until cancelled. Pauses longer while the database fails."""
        pause_s = FLUSH_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = FLUSH_S if await self.flush() else min(MOST_PAUSE_S, 2 * pause_s)

    async def flush(self) -> bool:
        """Writes all there is. False: the database did not take it; then it is in the spool, if that can be written."""
        if self._store is None:
            self._forget()
            return True
        async with self._lock:
            while self._next():
                try:
                    await self._in_thread(self._write)
                except DatabaseError as error:
                    await self._keep(error)
                    return False
                self._trying = None
            if self._spooled and self._spool is not None and await self._in_thread(self._spool.clear):
                self._spooled = False
            if self.failing:
                log_event("usage_written_again", {"database": self._store.database.shown})
            self.failing = False
            return True

    def _write(self) -> None:
        assert self._store is not None
        assert self._trying is not None
        self._store.write([self._trying])

    def _next(self) -> bool:
        """Whether there is a batch to try."""
        if self._trying is None and self._untried:
            self._trying = self._untried.pop(0)
        elif self._trying is None and self._pending.rows:
            self._trying, self._pending = self._pending, _new_batch()
        return self._trying is not None

    async def _keep(self, error: DatabaseError) -> None:
        """What was never tried becomes one batch, so that a long outage costs no more than a short one; then all goes to the spool."""
        self.failures += 1
        gathered = _new_batch()
        for batch in (*self._untried, self._pending):
            for ident, sums in batch.rows.items():
                self._add(gathered, ident, sums)
        self._untried, self._pending = [gathered], _new_batch()
        if not self.failing:
            log_event("usage_not_written", {"error": str(error), "spool": str(self._spool.path) if self._spool else None}, logging.ERROR)
        self.failing = True
        if self._spool is not None:
            batches = [batch for batch in (self._trying, gathered) if batch is not None]
            spool = self._spool
            self._spooled = bool(await self._in_thread(lambda: spool.save(batches))) or self._spooled

    def _forget(self) -> None:
        """Without a database: today's sums only."""
        today = self.today()
        self._pending.rows = {ident: sums for ident, sums in self._pending.rows.items() if ident.day == today}

    def rows(self) -> list[tuple[UsageId, Sums]]:
        """What is in memory only: all there is, where there is no database."""
        return [item for batch in self._batches() for item in batch.rows.items()]


def _new_batch() -> Batch:
    return Batch(uuid.uuid4().hex, MOST_ROWS)
