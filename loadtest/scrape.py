"""Looks at the server and the cards beside the load: before, every second, after. In the command's process, not in a load generator."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from types import TracebackType
from typing import Any

from loadtest.exposition import ServerCounts, counts_of, samples
from loadtest.spec import is_loopback
from loadtest.target import TargetError, read_url

EVERY_S = 1.0
SCRAPE_TIMEOUT_S = 5.0
SETTLE_S = 0.5  # a gateway counts a request when it has ended; its last ones need a moment
_NVIDIA = ("nvidia-smi", "--query-gpu=uuid,name,power.draw", "--format=csv,noheader,nounits")


class Scraper:
    """`with Scraper(url, key_file) as seen:` ... then `seen.before`, `seen.after`, `seen.power` [(unix_s, {card: watts})], `seen.cards`."""

    def __init__(self, url: str, key_file: str | None) -> None:
        self._url, self._key_file = url, key_file
        self.before = self.after = ServerCounts()
        self.power: list[tuple[float, dict[str, float]]] = []
        self.power_source: str | None = None
        self.cards: dict[str, dict[str, Any]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._local = is_loopback(url) and shutil.which("nvidia-smi") is not None

    def __enter__(self) -> Scraper:
        self.before = self._counts()
        self.cards = self._cards()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(2 * SCRAPE_TIMEOUT_S)
        if kind is None:
            time.sleep(SETTLE_S)
            self.after = self._counts()

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_S):
            counts = self._counts()
            watts = counts.watts_by_card
            self.power_source = "server" if watts else self.power_source
            if watts is None and self._local:
                watts = nvidia_watts(_nvidia())
                self.power_source = "nvidia-smi" if watts else self.power_source
            if watts:
                self.power.append((time.time(), watts))

    def _counts(self) -> ServerCounts:
        try:
            status, body, _ = read_url(f"{self._url}/metrics", self._key_file, SCRAPE_TIMEOUT_S)
        except TargetError:
            return ServerCounts()
        return counts_of(samples(body.decode("utf8", "replace"))) if status == 200 else ServerCounts()

    def _cards(self) -> dict[str, dict[str, Any]]:
        """Names of cards, where the server is a rigserve gateway that tells them to this key."""
        try:
            status, body, _ = read_url(f"{self._url}/v1/cards", self._key_file, SCRAPE_TIMEOUT_S)
            said = json.loads(body) if status == 200 else {}
            rows = said.get("data") or said.get("cards") or []
        except (TargetError, ValueError, AttributeError):
            return {}
        named = [row for row in rows if isinstance(row, dict) and "id" in row]
        return {row["id"]: {"name": row.get("name"), "simulated": row.get("simulated")} for row in named}


def _nvidia() -> str:
    try:
        return subprocess.run(_NVIDIA, capture_output=True, text=True, timeout=SCRAPE_TIMEOUT_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def nvidia_watts(text: str) -> dict[str, float] | None:
    """Card -> watts of nvidia-smi's table; a card that tells none is left out."""
    found = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3:
            try:
                found[parts[0]] = float(parts[2])
            except ValueError:
                continue
    return found or None
