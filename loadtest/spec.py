"""Everything that one run is told, as one value: written to result.json, and handed to every load generator as it is."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from loadtest.arrivals import Arrival

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class Spec:
    """`rate_rps` None: a closed loop of `users`, each sending its next request after its last answer (and `think_s`;
    the first after a part of `stagger_s`). A rate, or a
    trace: an open loop, in which requests are sent when they are due; more than `max_in_flight` at once are skipped, and counted."""

    url: str = DEFAULT_URL
    chat_model: str | None = None
    image_model: str | None = None
    profile: str = "ci"
    weights: dict[str, int] = dataclasses.field(default_factory=lambda: {"chat_stream": 1})
    duration_s: float = 60.0
    warmup_s: float = 5.0
    drain_s: float = 30.0
    timeout_s: float = 300.0
    users: int = 4
    shape: str = "constant"
    think_s: float = 0.0
    stagger_s: float = 0.0
    rate_rps: float | None = None
    arrivals: str = "poisson"
    cv: float = 1.0
    trace: tuple[Arrival, ...] = ()
    max_in_flight: int = 512
    seed: int = 0
    prompt_words: str = "lognormal:64:0.5"
    output_tokens: str = "fixed:64"
    prefix_share: float = 0.0
    prefix_groups: int = 4
    ignore_eos: bool = False
    prompts: tuple[str, ...] = ()
    image_sizes: tuple[str, ...] = ()
    image_steps: tuple[int, ...] = ()
    image_counts: tuple[int, ...] = (1,)
    wont_fit_models: tuple[str, ...] = ()
    api_key_file: str | None = None

    @property
    def open_loop(self) -> bool:
        return self.rate_rps is not None or bool(self.trace)

    @property
    def mode(self) -> str:
        return "open" if self.open_loop else "closed"

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def spec_from_json(text: str) -> Spec:
    """The Spec that `to_json` wrote."""
    given: dict[str, Any] = json.loads(text)
    given["trace"] = tuple(Arrival(**row) for row in given.get("trace", ()))
    lists = {field.name for field in dataclasses.fields(Spec) if str(field.type).startswith("tuple")} - {"trace"}
    fields: dict[str, Any] = {name: tuple(value) if name in lists else value for name, value in given.items()}
    return Spec(**fields)


def base_url(text: str) -> str:
    """Scheme, host, port and path, without the trailing /v1 that OpenAI clients want. Raises ValueError with a sentence."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(f"{text!r} is not a URL of a server; write one such as {DEFAULT_URL}")
    if parts.username or parts.password:
        raise ValueError("a key does not belong in the URL; put it in a file and name that with --api-key-file")
    path = parts.path.rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{path}"


def is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in LOOPBACK
