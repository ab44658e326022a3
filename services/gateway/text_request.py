"""A request for text or for what a text is worth, read as far as the gateway needs it: chat, completions, embeddings alike."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import orjson

from services.gateway import fields
from services.gateway.backends import Kind
from services.gateway.body import parse_object
from services.gateway.checks import Check
from services.gateway.dialects import MESSAGES_API, RESPONSES_API, pictures_in
from services.gateway.keep_alive import KeepAlive, read_keep_alive
from services.gateway.messages import check_messages
from services.gateway.pooling_fields import EMBEDDING, RERANK
from services.gateway.tools import check_choice
from services.wire.errors import InvalidValue

# Tokens that a chat template adds: BOS, the default system prompt of SmolLM2, Qwen2.5 or Llama 3 (20 to 40), a few per message (which the
# JSON around each message outweighs). Generous: it only decides whether the engine is asked to count.
TEMPLATE_TOKENS = 256
# vLLM's protocol: an absent max_tokens is 16 for a completion, and the rest of the context for a chat.
COMPLETION_TOKENS = 16
MAX_PROMPTS = 64

# Tokens that a tokenizer sets around a text that is embedded: [CLS] and [SEP], an instruction's end.
SPECIAL_TOKENS = 4

Route = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/v1/messages", "/v1/responses"]
DIALECTS: tuple[Route, ...] = ("/v1/messages", "/v1/responses")
PROMPT_FIELDS: dict[Route, str] = {
    "/v1/chat/completions": "messages", "/v1/completions": "prompt", "/v1/embeddings": "input", "/v1/rerank": "documents",
    "/v1/messages": "messages", "/v1/responses": "input",
}  # fmt: skip
KINDS: dict[Route, Kind] = {
    "/v1/chat/completions": "text", "/v1/completions": "text", "/v1/embeddings": "embedding", "/v1/rerank": "rerank",
    "/v1/messages": "text", "/v1/responses": "text",
}  # fmt: skip
ALSO_REQUIRED: dict[Route, tuple[str, ...]] = {"/v1/rerank": ("query",), "/v1/messages": ("max_tokens",)}
TABLES: dict[Route, dict[str, Check]] = {
    "/v1/chat/completions": fields.CHAT, "/v1/completions": fields.COMPLETION, "/v1/embeddings": EMBEDDING, "/v1/rerank": RERANK,
    "/v1/messages": MESSAGES_API, "/v1/responses": RESPONSES_API,
}  # fmt: skip


class TextRequest(NamedTuple):  # not a frozen dataclass: made once a request, and those take four times as long to make
    """`raw` is the body as it came; `dropped` names the fields that don't go on; `pictures` counts the picture parts. `priority` is for the
    queue here and no longer in `body`: a vLLM that does not schedule by it refuses it; None: not named."""

    route: Route
    raw: bytes
    body: dict[str, Any]
    model: str
    stream: bool
    asks_usage: bool
    max_tokens: int | None
    n: int
    dropped: tuple[str, ...]
    pictures: int
    priority: int | None = None

    keep_alive: KeepAlive | None = None

    @property
    def chat(self) -> bool:
        return self.route == "/v1/chat/completions"

    @property
    def generates(self) -> bool:
        """Whether the answer is text that has to have room in the context too."""
        return self.kind == "text"

    @property
    def kind(self) -> Kind:
        """What the model must do."""
        return KINDS[self.route]

    @property
    def prompt_field(self) -> str:
        return PROMPT_FIELDS[self.route]

    @property
    def prompts(self) -> list[str | list[int]]:
        """What is computed each by itself: texts or lists of token ids. Not of a chat, whose template makes one of it."""
        given = self.body[self.prompt_field]
        if self.route == "/v1/rerank":
            return [f"{self.body['query']} {document}" for document in given]
        return given if isinstance(given, list) and not isinstance(given[0], int) else [given]

    @property
    def output_tokens(self) -> int:
        """The tokens that must have room beside the prompt."""
        if not self.generates:
            return 0
        return self.max_tokens or (COMPLETION_TOKENS if self.route == "/v1/completions" else 1)

    @property
    def most_events(self) -> int | None:
        """More events than this no stream of this request has: one for each token, with room for what engines cut finer or send beside.
        None where no length was asked for."""
        return None if self.max_tokens is None else 2 * self.max_tokens * self.n + 64

    @property
    def most_prompt_tokens(self) -> int | None:
        """A bound without a tokenizer: no tokenizer in use makes more tokens of a text than it has UTF-8 bytes, and the body holds the
        prompt and more. None where that is no bound: templates write tools and documents out at length."""
        if not self.generates:
            return max(len(item.encode()) if isinstance(item, str) else len(item) for item in self.prompts) + SPECIAL_TOKENS
        if self.body.get("tools") or self.body.get("documents") or self.body.get("chat_template_kwargs"):
            return None
        return len(self.raw) + TEMPLATE_TOKENS

    def for_engine(self, model_id: str) -> bytes:
        """The body that the engine gets: the client's own bytes unless something must change.

        1. A field must go (the priority too), the model was named by an alias, or the stream options lack the usage: written anew.
        2. A stream without stream options: they are added at the end of the client's bytes.
        3. The client's bytes.
        """
        if self.route in DIALECTS:
            return self._for_dialect(model_id)
        options = self.body.get("stream_options")
        own = self.dropped or self.priority is not None
        if own or self.model != model_id or (self.stream and options is not None and not self.asks_usage):  # 1
            body = {name: value for name, value in self.body.items() if name not in self.dropped} | {"model": model_id}
            if self.stream:
                body["stream_options"] = (options or {}) | {"include_usage": True}
            return orjson.dumps(body)
        if self.stream and not self.asks_usage and "stream_options" not in self.body:  # 2
            return self.raw.rstrip()[:-1] + b',"stream_options":{"include_usage":true}}'
        if self.stream and not self.asks_usage:  # "stream_options": null
            return orjson.dumps(self.body | {"stream_options": {"include_usage": True}})
        return self.raw  # 3


    def _for_dialect(self, model_id: str) -> bytes:
        """Usage is in the stream unasked. Nothing is kept, whatever the client or the engine takes for granted."""
        kept = {"store": False} if self.route == "/v1/responses" else {}
        return orjson.dumps({name: value for name, value in self.body.items() if name not in self.dropped} | {"model": model_id} | kept)


def read_text_request(route: Route, raw: bytes) -> TextRequest:
    """Parses and checks. Raises InvalidValue with param."""
    body = parse_object(raw)
    chat = route == "/v1/chat/completions"
    for name in ("model", PROMPT_FIELDS[route], *ALSO_REQUIRED.get(route, ())):
        if body.get(name) is None:
            raise InvalidValue(f"{name} is required.", param=name)
    dropped = fields.check_fields(body, TABLES[route])
    keep_alive = read_keep_alive(body)
    for name in dropped:  # not checked, so nothing may read it: max_completion_tokens of a completion might be a text
        del body[name]
    priority = body.pop("priority", None)
    pictures = check_messages(body["messages"]) if chat else pictures_in(body[PROMPT_FIELDS[route]]) if route in DIALECTS else 0
    if route == "/v1/completions":
        _check_prompt(body["prompt"])
    if chat:
        check_choice(body)
    stream = bool(body.get("stream"))
    options = body.get("stream_options")
    if options is not None and not stream:
        raise InvalidValue("stream_options is only allowed when stream is true.", param="stream_options")
    max_tokens = body.get("max_completion_tokens") or body.get("max_tokens") or body.get("max_output_tokens")
    if (body.get("min_tokens") or 0) > (max_tokens or fields.MAX_TOKENS):
        raise InvalidValue("min_tokens must not be more than max_tokens.", param="min_tokens")
    asks_usage = bool(options and options.get("include_usage"))
    made = TextRequest(route, raw, body, body["model"], stream, asks_usage, max_tokens, body.get("n") or 1, dropped, pictures, priority)
    return made if keep_alive is None else made._replace(keep_alive=keep_alive)


def _check_prompt(value: Any) -> None:
    """A string, several strings, token ids, or several lists of token ids; none of them empty."""
    if isinstance(value, str) and value:
        return
    if isinstance(value, list) and 0 < len(value) <= fields.MAX_TOKENS:
        if all(type(token) is int and 0 <= token < 10**7 for token in value):
            return
        if len(value) > MAX_PROMPTS:
            raise InvalidValue(f"prompt may hold at most {MAX_PROMPTS} prompts; got {len(value)}.", param="prompt")
        if all(isinstance(item, str) and item for item in value):
            return
        if all(isinstance(item, list) and item and all(type(t) is int and 0 <= t < 10**7 for t in item) for item in value):
            return
    raise InvalidValue("prompt must be a string, a list of strings, or a list of token ids, and not empty.", param="prompt")
