"""Fields of requests that get numbers for texts: embeddings, reranking. As fields.py: what is not in a table never reaches an engine."""

from __future__ import annotations

from services.gateway.checks import Check, Schema, boolean, integer, list_of, one_of, refuse, text
from services.gateway.fields import MAX_PRIORITY
from services.wire.errors import InvalidValue

MAX_INPUTS = 2048  # OpenAI's limit
MAX_INPUT_TOKENS = 2**20
MAX_DIMENSIONS = 2**16
MAX_DOCUMENTS = 1000
MAX_TEXT = 2**20

_TOKENS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 10**7 - 1}, "minItems": 1}
_INPUT: Schema = {"anyOf": [
    {"type": "string", "minLength": 1}, _TOKENS,
    {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": MAX_INPUTS},
    {"type": "array", "items": _TOKENS, "minItems": 1, "maxItems": MAX_INPUTS},
]}  # fmt: skip


def _check_input(name: str, value: object) -> None:
    """A string, several strings, token ids, or several lists of token ids; none of them empty."""
    if isinstance(value, str) and value:
        return
    if isinstance(value, list) and value:
        if _are_tokens(value):
            return
        if len(value) > MAX_INPUTS:
            raise InvalidValue(f"{name} may hold at most {MAX_INPUTS} texts; got {len(value)}.", param=name)
        if all(isinstance(item, str) and item for item in value) or all(_are_tokens(item) for item in value):
            return
    raise InvalidValue(f"{name} must be a string, a list of strings, or a list of token ids, and not empty.", param=name)


def _are_tokens(value: object) -> bool:
    return (
        isinstance(value, list) and 0 < len(value) <= MAX_INPUT_TOKENS and all(type(token) is int and 0 <= token < 10**7 for token in value)
    )


POOLING: dict[str, Check] = {"model": text(256, empty=False), "user": text(1000), "priority": integer(0, MAX_PRIORITY)}
EMBEDDING: dict[str, Check] = POOLING | {
    "input": Check(_check_input, _INPUT),
    "encoding_format": one_of("float", "base64"),
    "dimensions": integer(1, MAX_DIMENSIONS),
}

_documents = list_of(text(MAX_TEXT, empty=False), MAX_DOCUMENTS)


def _check_documents(name: str, value: object) -> None:
    if value == []:
        raise refuse(name, "a list of strings that is not empty", value)
    _documents.test(name, value)


RERANK: dict[str, Check] = POOLING | {
    "query": text(MAX_TEXT, empty=False),
    "documents": Check(_check_documents, _documents.schema | {"minItems": 1}),
    "top_n": integer(1, MAX_DOCUMENTS),
    "return_documents": boolean,
}
