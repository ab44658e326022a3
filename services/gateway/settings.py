"""What can be set, each with its default. Seconds are of the monotonic clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from services.gateway.breaker import BreakerLimits
from services.sizing.economics import Tariff

WINDOWS_S = {"10s": 10, "1m": 60, "5m": 300, "1h": 3600}


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long each phase of a request may take.

    `head_s`: until the head of a request is whole, from the connection or its first byte on. `first_byte_s` is the least: it grows to five
    times the predicted prefill of a long prompt. `inter_token_s`: between two reads of a stream. `write_s`: until a client takes what is
    ready for it. `image_s`: the least for an image job, which may take three times its predicted time. `total_s`: everything after the
    queue. `ttft_s`: the first token is wanted within so long, so a request for text that would wait longer for a seat is refused at once
    (tickets.queue_limit_s; `queue_s` holds too, and batch requests have that alone). `connect_s`: a network loses a packet now and then,
    and it is sent again after 1 s; a container that is gone never answers, and another may be tried.
    """

    connect_s: float = 1.3
    head_s: float = 10.0
    body_s: float = 60.0
    queue_s: float = 30.0
    image_queue_s: float = 300.0
    ttft_s: float = math.inf
    tokenize_s: float = 10.0
    first_byte_s: float = 30.0
    inter_token_s: float = 30.0
    write_s: float = 60.0
    image_s: float = 120.0
    total_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes. `backend_slots`: requests at a time on each `--backend`; None: learned. `queue`: requests that may wait for each text model;
    `image_queue`: the same for each image model. `connections`: clients at once, fewer where file descriptors are few."""

    body_bytes: int = 10 * 1024 * 1024
    answer_bytes: int = 256 * 1024 * 1024
    queue: int = 64
    image_queue: int = 16
    backend_slots: int | None = None
    picture_bytes: int = 256 * 1024 * 1024
    picture_s: float = 3600.0
    connections: int = 4096


@dataclass(frozen=True, slots=True)
class Settings:
    """One gateway. `backends` are (model, url) pairs in the order they were given. `database`: of keys and usage; None: there are neither.
    `open`: while there are no keys, others than this machine may ask too. `published_on`: where
    the container's port is reached from outside, in the place of `host`. `open_status`: cards, throughput and metrics need no key.
    `trusted_proxies`: addresses or networks whose X-Forwarded-For and X-Forwarded-Proto are believed; of anybody else they are a claim."""

    host: str = "127.0.0.1"
    port: int = 8000
    plan: Path | None = None
    endpoints: Path | None = None
    backends: tuple[tuple[str, str], ...] = ()
    models_dir: Path | None = None
    drain_grace_s: float = 10.0
    poll_s: float = 1.0
    deadlines: Deadlines = field(default_factory=Deadlines)
    limits: Limits = field(default_factory=Limits)
    plain_path: bool = False
    breaker: BreakerLimits = field(default_factory=BreakerLimits)
    database: str | None = None
    open: bool = False
    published_on: str | None = None
    open_status: bool = False
    trusted_proxies: tuple[str, ...] = ()

    tariff: Tariff | None = None  # of electricity; None: no costs are told
    load_results: tuple[Path, ...] = ()  # sweeps of the load kit (knees.py)
    keep_alive_s: float | None = None  # a model on demand is unloaded after so long without a request; None: when its room is needed

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return (self.published_on or self.host) in ("127.0.0.1", "localhost", "::1")
