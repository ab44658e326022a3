"""The database beside the requests: reads the keys for the door as they change, writes usage, and never makes a request wait."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from services.gateway.door import Door, Mode
from services.gateway.logs import log_event
from services.gateway.outcome import Ending, Outcome
from services.gateway.settings import Settings
from services.gateway.usage_writer import MOST_ROWS, UsageWriter
from services.keys.database import Database, DatabaseError, default_path
from services.keys.key import Key, Unit
from services.keys.spool import Spool
from services.keys.store import KeyStore
from services.keys.usage_store import UsageStore
from services.wire.errors import KeysUnavailable

LOOK_S = 0.5  # a change made elsewhere holds within a second
FULL_LOOKS = 60  # a database that was put in the place of another may have the same version
LAST_WRITE_S = 3.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look found: every key, and what those with a limit per day have used of it."""

    version: int
    keys: list[Key]
    used_today: dict[str, dict[Unit, int]]


class Ledger:
    """Raises DatabaseURLError (a ValueError) when the settings name no database."""

    def __init__(self, settings: Settings) -> None:
        self.door = Door(settings.loopback or settings.open)
        self.database = Database(settings.database) if settings.database else None
        self.keys = KeyStore(self.database) if self.database else None
        self.usage_store = UsageStore(self.database) if self.database else None
        self._reading, self._writing = (ThreadPoolExecutor(1, name) for name in ("keys", "usage"))
        self.usage = UsageWriter(self.usage_store, Spool(_spool_path(self.database), MOST_ROWS) if self.database else None, self._to_write)
        self.read_failures = 0
        self.failing = False
        self._version: int | None = None
        self._looks = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._first_look()

    def _first_look(self) -> None:
        """Before the first request. Keys that can't be read close the door; the looks go on until they can."""
        try:
            self._apply(self._read())
        except DatabaseError as error:
            self._unread(error)
        self.usage.load_spool()

    def start(self) -> None:
        """Looks and writes in the background, until `stop`."""
        if self.keys is not None:
            self._tasks.append(asyncio.create_task(self._look()))
        self._tasks.append(asyncio.create_task(self.usage.run()))

    async def stop(self) -> None:
        """Writes what is left: into the database, else into the spool."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WRITE_S):
                await self.usage.flush()
        self._reading.shutdown(wait=False, cancel_futures=True)
        self._writing.shutdown(wait=False, cancel_futures=True)

    def take(self, outcome: Outcome, images: int = 0) -> None:
        """Counts a request against its key's limits, until `finished` or `undo`. Raises RateLimited or QuotaExceeded."""
        if outcome.caller is not None and outcome.caller.key is not None:
            self.door.take(outcome.caller, images)
            outcome.taken, outcome.images_taken = True, images

    def taken(self, outcome: Outcome) -> bool:
        """As `take`; False: it may not go on."""
        if outcome.caller is not None and outcome.caller.key is not None:
            outcome.taken = outcome.caller.meter.take(time.time()) is None
            return outcome.taken
        return True

    def undo(self, outcome: Outcome) -> None:
        """The request begins anew, under another outcome."""
        if outcome.taken and outcome.caller is not None:
            outcome.caller.meter.undo(time.time(), outcome.images_taken)
            outcome.taken = False

    def release(self, outcome: Outcome) -> None:
        """A request that counted against its key's limits has ended: what it used stays, the rest is given back."""
        caller = outcome.caller
        if caller is not None and outcome.taken:
            tokens, made = outcome.tokens, outcome.images.images if outcome.images and outcome.ending is Ending.SERVED else 0
            used = tokens.prompt_tokens + tokens.output_tokens if tokens else 0
            caller.meter.finished(time.time(), used, max(0, outcome.images_taken - made))
            outcome.taken = False

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        """Enters ended requests into the usage."""
        for outcome in outcomes:
            self.usage.finished(outcome)

    async def act(self, change: Callable[[KeyStore], T]) -> T:
        """An administrator's act, in force when this returns. Raises KeysUnavailable, or what `change` raises."""
        store = self.keys
        if store is None:
            raise KeysUnavailable("This gateway was started without a database, so it has no keys.")
        try:
            done = await self._to_read(lambda: change(store))
            self._apply(await self._to_read(self._read))
        except DatabaseError as error:
            raise KeysUnavailable(f"That was not done: {error}", retry_after_s=5.0) from None
        return done

    # --- in threads ---

    async def _to_read(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reading, work)

    async def _to_write(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writing, work)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self._apply(await self._to_read(self._read))
            except DatabaseError as error:
                self._unread(error)
            else:
                if self.failing:
                    log_event("keys_read_again", {"active": self.door.active_keys})
                self.failing = False

    def _read(self) -> Seen | None:
        """The keys, when they have changed. Raises DatabaseError."""
        if self.keys is None or self.database is None or self.usage_store is None:
            return Seen(0, [], {})
        if self.door.mode is Mode.CLOSED:
            self.database.prepare()
        version = self.keys.version()
        self._looks += 1
        if version == self._version and self._looks % FULL_LOOKS:
            return None
        version, keys = self.keys.load()
        return Seen(version, keys, self._used_today(self.usage_store, keys))

    def _apply(self, seen: Seen | None) -> None:
        """In the event loop, between two requests. Raises DatabaseError when all keys are gone: the last known ones stay."""
        if seen is None:
            return
        if not self.door.replace(seen.keys, seen.used_today):
            where = self.database.shown if self.database else ""
            raise DatabaseError(f"The database {where} has lost its keys; the last known ones stay in force.")
        self._version = seen.version

    def _used_today(self, store: UsageStore, keys: list[Key]) -> dict[str, dict[Unit, int]]:
        """Only where a limit asks for it."""
        if not any(limit.window == "day" for key in keys for limit in key.limits.windows):
            return {}
        return {
            key_id: {"requests": sums.requests, "tokens": sums.prompt_tokens + sums.output_tokens, "images": sums.images}
            for key_id, sums in store.of_day(self.usage.today()).items()
        }

    def _unread(self, error: DatabaseError) -> None:
        self.read_failures += 1
        if not self.failing:
            said = {"error": str(error), "in_force": self.door.active_keys, "mode": self.door.mode.value}
            log_event("keys_not_read", said, logging.ERROR)
        self.failing = True


def _spool_path(database: Database) -> Path:
    """Beside the SQLite file; for Postgres in this user's state folder."""
    path = database.file or default_path()
    return path.with_name(path.name + ".usage-spool.json")
