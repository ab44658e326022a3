"""Does the prompt fit the context? Bytes prove it for most requests; for the rest the engine that will run it counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from services.gateway.directory import Served
from services.gateway.scheduler import Need
from services.gateway.text_request import TextRequest
from services.gateway.upstream import Upstream, UpstreamError
from services.sizing.types import Engine

ANYTHING = Need()
# Where an engine counts these, of which fields. vLLM has no route for the second: it refuses what is too long itself.
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "/v1/messages": ("/v1/messages/count_tokens", ("messages", "system", "tools")),
    "/v1/responses": ("/v1/responses/input_tokens", ("input", "instructions", "tools")),
}
MOST_COUNTED = 16  # texts of one request, the longest first: what is too long among the others the engine refuses itself
# What the rendering of a chat depends on beside its messages.
RENDERING = ("tools", "documents", "chat_template_kwargs", "add_generation_prompt", "continue_final_message", "add_special_tokens")


def proven_need(request: TextRequest) -> int | None:
    """Tokens of context that are enough for this request for certain; None when only a tokenizer can tell.

    A prompt that the engine will truncate always fits; one with pictures is left to the engine, which alone knows their tokens.
    """
    if request.pictures or request.body.get("truncate_prompt_tokens") is not None:
        return request.output_tokens
    most = request.most_prompt_tokens
    return None if most is None else most + request.output_tokens


def certain_need(request: TextRequest, served: Served) -> Need | None:
    """Tokens of context. 1. No context is known. 2. Bytes prove that every backend holds it. None: the engine must count."""
    known = [backend.lane.context_tokens for backend in served.backends if backend.lane.context_tokens is not None]
    if not known:  # 1
        return ANYTHING
    proven = proven_need(request)
    return Need(tokens=proven) if proven is not None and proven <= min(known) else None  # 2


async def count_prompt(request: TextRequest, upstream: Upstream, engine: Engine | None, model_id: str, timeout_s: float) -> int | None:
    """The prompt's tokens as the engine counts them (of several prompts the longest); None when it can't say.

    None is not a refusal: the request goes on, and the engine's own answer decides.
    """
    try:
        if request.route in COUNTERS:
            return await _count_dialect(request, upstream, model_id, timeout_s)
        if request.chat:
            return await _count_chat(request, upstream, engine, model_id, timeout_s)
        return await _count_prompts(request.prompts, upstream, engine, model_id, timeout_s)
    except (UpstreamError, TimeoutError):
        return None


async def _count_chat(request: TextRequest, upstream: Upstream, engine: Engine | None, model_id: str, timeout_s: float) -> int | None:
    given = {name: request.body[name] for name in RENDERING if request.body.get(name) is not None}
    if engine is Engine.LLAMACPP:
        rendered = await _post(upstream, "/apply-template", {"messages": request.body["messages"], **given}, timeout_s)
        text = rendered.get("prompt")
        return await _count_text(text, upstream, engine, model_id, timeout_s) if isinstance(text, str) else None
    asked = {"model": model_id, "messages": request.body["messages"], "add_generation_prompt": True, **given}
    return _number(await _post(upstream, "/tokenize", asked, timeout_s))


async def _count_dialect(request: TextRequest, upstream: Upstream, model_id: str, timeout_s: float) -> int | None:
    path, names = COUNTERS[request.route]
    asked = {name: request.body[name] for name in names if request.body.get(name) is not None}
    return _number(await _post(upstream, path, asked | {"model": model_id}, timeout_s))


async def _count_prompts(
    prompts: Sequence[str | list[int]], upstream: Upstream, engine: Engine | None, model_id: str, timeout_s: float
) -> int | None:
    longest = max((len(item) for item in prompts if isinstance(item, list)), default=0)
    texts = [item for item in prompts if isinstance(item, str)]
    for text in sorted(texts, key=len, reverse=True)[:MOST_COUNTED]:
        if len(text.encode()) <= longest:  # fewer bytes than another has tokens
            break
        count = await _count_text(text, upstream, engine, model_id, timeout_s)
        if count is None:
            return None
        longest = max(longest, count)
    return longest


async def _count_text(text: str, upstream: Upstream, engine: Engine | None, model_id: str, timeout_s: float) -> int | None:
    if engine is Engine.LLAMACPP:
        return _number(await _post(upstream, "/tokenize", {"content": text, "add_special": True, "parse_special": True}, timeout_s))
    return _number(await _post(upstream, "/tokenize", {"model": model_id, "prompt": text}, timeout_s))


def _number(answer: dict[str, Any]) -> int | None:
    """The count in vLLM's answer, the length of the list in llama.cpp's."""
    count, tokens = answer.get("count", answer.get("input_tokens")), answer.get("tokens")
    if type(count) is int:
        return count
    return len(tokens) if isinstance(tokens, list) else None


async def _post(upstream: Upstream, path: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    status, answer = await upstream.fetch("POST", path, orjson.dumps(body), timeout_s=timeout_s)
    if status != 200:
        return {}
    try:
        value = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
