"""The ticket of a request for text: what it needs, whose it is, how urgent it is, where its beginning may be cached. Pure."""

from __future__ import annotations

from typing import Any

from services.gateway.scheduler import Need, Ticket
from services.gateway.text_request import TextRequest

LEAST_BYTES = 512  # a shorter prompt is soon computed anew: not worth another card
MOST_CHARS = 1024
NOWHERE: frozenset[str] = frozenset()


def text_ticket(
    request: TextRequest, need: Need, key: str | None, tried: frozenset[str] = NOWHERE, queue_s: float | None = None
) -> Ticket:
    """`key`: whose request it is; None: nobody's in particular. `tried`: backends that have failed it. It takes a turn for each answer."""
    prefix = prefix_of(request, key) if request.generates and len(request.raw) >= LEAST_BYTES else None
    return Ticket(need, tried, prefix, request.priority or 0, key, request.n, queue_s)


def prefix_of(request: TextRequest, key: str | None) -> int | None:
    """A number for how the prompt begins: its first MOST_CHARS characters (or token ids), of a chat up to the end of what the user said
    first, which the later turns of the conversation begin with too. None where nothing can be said.

    The key goes into it: with another key the same prompt has another number, so that nobody's waiting time tells what others have asked.
    (Python's hash of text is keyed with a secret of this process.)
    """
    if request.route in ("/v1/completions", "/v1/responses"):
        return _of_prompt(request.body[request.prompt_field], key)
    said: list[str] = []
    for message in request.body["messages"]:
        said += _texts(message.get("content"))
        if message.get("role") == "user":
            break
    text = "".join(said)[:MOST_CHARS]
    return hash((key, text)) if text else None


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if isinstance(part, dict) and isinstance(part.get("text"), str)]


def _of_prompt(prompt: Any, key: str | None) -> int | None:
    """Several prompts begin in several ways."""
    if isinstance(prompt, str):
        return hash((key, prompt[:MOST_CHARS]))
    return hash((key, *prompt[:MOST_CHARS])) if prompt and type(prompt[0]) is int else None
