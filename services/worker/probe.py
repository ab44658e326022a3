"""HTTP to the engine next door: health, the warm-up request, the version. Blocking; the driver runs it in a thread."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

MAX_ANSWER_BYTES = 64 * 1024 * 1024


class NoAnswer(Exception):
    """The engine did not answer in time, or not in HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> Any:
        """The body as JSON, None when it is something else."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class EngineHttp:
    """One engine's port and token."""

    host: str
    port: int
    token: str

    def ask(self, method: str, path: str, body: Any = None, *, timeout_s: float) -> Answer:
        """One request on a connection of its own. Raises NoAnswer."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.read(MAX_ANSWER_BYTES))
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"{method} {path}: {error or type(error).__name__}") from error
        finally:
            connection.close()
