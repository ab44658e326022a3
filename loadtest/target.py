"""What the server is, before any load: does it answer, what does it serve. Standard library only."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_S = 10.0


class TargetError(Exception):
    """The server can't be loaded; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """`models`: their ids, None where the server lists none. `server`: its Server header."""

    chat_model: str | None
    image_model: str | None
    models: tuple[str, ...] | None
    server: str | None = None
    simulated: bool | None = None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could carry the key to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def read_url(url: str, key_file: str | None, timeout_s: float = TIMEOUT_S, body: bytes | None = None) -> tuple[int, bytes, Any]:
    """(status, body, headers) of a GET, or of a POST of JSON. Raises TargetError where there is no answer."""
    headers = {"Accept-Encoding": "identity"} | ({"Content-Type": "application/json"} if body is not None else {})
    if key_file:
        headers["Authorization"] = f"Bearer {read_key(key_file)}"
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310
    try:
        with _OPENER.open(request, timeout=timeout_s) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers
    except (OSError, http.client.HTTPException, ssl.SSLError) as error:
        reason = getattr(error, "reason", error)
        raise TargetError(f"No server answers at {url}: {reason}. Start it (make serve), or give its address with --url.") from None


def read_key(key_file: str) -> str:
    try:
        key = Path(key_file).read_text(encoding="utf8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"The key file {key_file} can't be read: {error}") from None
    if not key or not key.isprintable() or not key.isascii():
        raise TargetError(f"The key file {key_file} holds no key: one line of plain characters is expected.")
    return key


def lacks(url: str, path: str, key_file: str | None) -> bool:
    """Whether a server has no such route: an empty request gets 404, 405 or 501, where a route that is there finds fault with it."""
    try:
        return read_url(url + path, key_file, body=b"{}")[0] in (404, 405, 501)
    except TargetError:
        return False  # what is wrong there will show in the load


def look_at(url: str, key_file: str | None, chat_model: str | None = None, image_model: str | None = None) -> Target:
    """What to ask there: the wished models, else the first of each kind that the server lists.

    1. No answer, or one that is no list of models, where no model is named: TargetError.
    2. No list (404, 405) but a model named: that one, unchecked.
    3. A list without the named model: TargetError with what there is.
    4. Else the named ones, or the first of each kind; a server that tells no kinds is taken as chat only. A named chat model alone
       means that no image is asked for, and the other way round.
    """
    status, body, headers = read_url(f"{url}/v1/models", key_file)
    if status in (401, 403):
        raise TargetError(f"{url} answers {status}: it wants an API key. Put one in a file and name it with --api-key-file.")
    try:
        rows = [row for row in json.loads(body)["data"] if isinstance(row, dict) and isinstance(row.get("id"), str)]
    except (ValueError, KeyError, TypeError):
        rows = None
    if rows is None or status != 200:
        if chat_model or image_model:  # 2
            return Target(chat_model, image_model, None, headers.get("server"))
        raise TargetError(f"{url}/v1/models answers {status} and no list of models. Name one with --model, or check the address.")  # 1
    names = [row["id"] for row in rows]
    aliases = {alias for row in rows for alias in row.get("aliases") or () if isinstance(alias, str)}
    for wish in (chat_model, image_model):
        if wish and wish not in names and wish not in aliases:  # 3
            raise TargetError(f"{url} serves no model {wish!r}. It serves: {', '.join(names) or 'none'}.")
    pictures = {row["id"] for row in rows if row.get("kind") == "image"}
    if chat_model in pictures:
        chat_model, image_model = None, chat_model
    if chat_model is None and image_model is None:  # 4
        chat_model = next((name for name in names if name not in pictures), None)
        image_model = next((name for name in names if name in pictures), None)
    if chat_model is None and image_model is None:
        raise TargetError(f"{url} serves no model now.")
    return Target(chat_model, image_model, tuple(names), headers.get("server"))
