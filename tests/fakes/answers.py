"""What the fake engine says: bodies in the shapes of vLLM 0.32, llama.cpp's server and our diffusion server.

One fake token is one whitespace-separated word, plus 4 for each chat message, so a test can compute every count by hand.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any

MESSAGE_OVERHEAD = " <m> <m> <m> <m>"


def prompt_text(body: dict[str, Any]) -> str:
    """The prompt as the fake chat template renders it."""
    if "messages" in body:
        return " ".join(_content(m.get("content")) + MESSAGE_OVERHEAD for m in body["messages"])
    prompt = body.get("prompt", body.get("input", ""))
    if isinstance(prompt, list):
        return " ".join(str(p) for p in prompt)
    return str(prompt)


def _content(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content)
    return content or ""


def count(text: str) -> int:
    return len(text.split())


def pieces(text: str) -> list[str]:
    """A text as an engine might stream it: cut where no reader would."""
    return [text[at : at + 5] for at in range(0, len(text), 5)]


def tokenize(flavour: str, body: dict[str, Any], context: int) -> dict[str, Any]:
    if flavour == "llama.cpp":
        return {"tokens": list(range(count(body.get("content", ""))))}
    n = count(prompt_text(body))
    return {"count": n, "max_model_len": context, "tokens": list(range(n)), "token_strs": None}


def error(flavour: str, status: int, message: str) -> dict[str, Any]:
    if flavour == "llama.cpp":
        return {"error": {"message": message, "type": "server_error", "code": status}}
    kind = {400: "BadRequestError", 401: "Unauthorized", 404: "NotFoundError"}.get(status, "InternalServerError")
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def too_long(flavour: str, prompt: int, wanted: int, context: int) -> dict[str, Any]:
    if flavour == "llama.cpp":
        message = f"request ({prompt} tokens) exceeds the available context size ({context} tokens), try increasing it"
        kind = "exceed_context_size_error"
        return {"error": {"code": 400, "message": message, "type": kind, "n_prompt_tokens": prompt, "n_ctx": context}}
    message = (f"This model's maximum context length is {context} tokens. However, you requested {wanted} output tokens and your prompt "
               f"contains {prompt} input tokens, for a total of {prompt + wanted} tokens. Please reduce the length of the input prompt "
               "or the number of requested output tokens.")
    return {"error": {"message": message, "type": "BadRequestError", "param": "input_tokens", "code": 400}}


@dataclass(frozen=True, slots=True)
class Shape:
    """The answer to one text request: `tokens` words, `n` times."""

    chat: bool
    model: str
    n: int
    prompt: int
    tokens: int

    @property
    def usage(self) -> dict[str, int]:
        out = self.tokens * self.n
        return {"prompt_tokens": self.prompt, "completion_tokens": out, "total_tokens": self.prompt + out}

    def base(self, chunk: bool) -> dict[str, Any]:
        if self.chat:
            kind = "chat.completion.chunk" if chunk else "chat.completion"
            return {"id": "chatcmpl-fake", "object": kind, "created": 1, "model": self.model}
        return {"id": "cmpl-fake", "object": "text_completion", "created": 1, "model": self.model}

    def whole(self) -> dict[str, Any]:
        text = " ".join(f"w{i}" for i in range(self.tokens))
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choices = [{"index": i, **said, "logprobs": None, "finish_reason": "length"} for i in range(self.n)]
        return {**self.base(chunk=False), "choices": choices, "usage": self.usage}

    def sse(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        text = json.dumps({**self.base(chunk=True), "choices": choices, **more}, separators=(",", ":"))
        return b"data: " + text.encode() + b"\n\n"

    def opening(self) -> list[bytes]:
        if not self.chat:
            return []
        return [self.sse([{"index": i, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]) for i in range(self.n)]

    def event(self, i: int, word: str | None = None) -> bytes:
        text = word if word is not None else ("" if i == 0 else " ") + f"w{i}"
        said: dict[str, Any] = {"delta": {"content": text}} if self.chat else {"text": text}
        return b"".join(self.sse([{"index": c, **said, "logprobs": None, "finish_reason": None}]) for c in range(self.n))

    def closing(self, usage: bool, with_finish: bool = True) -> list[bytes]:
        said: dict[str, Any] = {"delta": {}} if self.chat else {"text": ""}
        events = [self.sse([{"index": i, **said, "finish_reason": "length"}]) for i in range(self.n)] if with_finish else []
        if usage:
            events.append(self.sse([], usage=self.usage))
        return [*events, b"data: [DONE]\n\n"]


def pooled_texts(body: dict[str, Any]) -> list[str]:
    """The texts of a request for embeddings, or each document of a reranking with its query; a token id counts as one word."""
    if "query" in body:
        return [f"{body['query']} {document}" for document in body["documents"]]
    given = body["input"]
    several = isinstance(given, list) and not isinstance(given[0], int)
    return [text if isinstance(text, str) else " ".join(map(str, text)) for text in (given if several else [given])]


def embeddings(flavour: str, model: str, body: dict[str, Any], counts: list[int]) -> dict[str, Any]:
    """A vector for each text: its number of words, and where it stands."""
    vectors = [[float(count), float(i)] for i, count in enumerate(counts)]
    packed = body.get("encoding_format") == "base64"
    data = [{"object": "embedding", "index": i, "embedding": base64.b64encode(struct.pack("<2f", *v)).decode() if packed else v}
            for i, v in enumerate(vectors)]
    more = {"id": "embd-fake", "created": 1} if flavour == "vllm" else {}
    usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)} | ({"completion_tokens": 0} if flavour == "vllm" else {})
    return {"object": "list", "model": model, "data": data, "usage": usage, **more}


def reranking(flavour: str, model: str, body: dict[str, Any], counts: list[int]) -> dict[str, Any]:
    """The longer a document, the better. As the engines: vLLM sends the documents back, llama.cpp says what kind of object it is."""
    ranked = sorted(range(len(counts)), key=lambda i: -counts[i])[: body.get("top_n") or None]
    usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
    if flavour == "vllm":
        results = [{"index": i, "document": {"text": body["documents"][i], "multi_modal": None}, "relevance_score": counts[i] / 100}
                   for i in ranked]
        return {"id": "score-fake", "model": model, "usage": usage, "results": results}
    return {"model": model, "object": "list", "usage": usage,
            "results": [{"index": i, "relevance_score": counts[i] / 100} for i in ranked]}


def dialect(path: str, model: str, prompt: int, tokens: int) -> dict[str, Any]:
    """A whole answer of /v1/messages or /v1/responses, as llama.cpp gives it."""
    text, usage = " ".join(f"w{i}" for i in range(tokens)), {"input_tokens": prompt, "output_tokens": tokens}
    if path == "/v1/messages":
        return {"id": "msg_fake", "type": "message", "role": "assistant", "model": model, "content": [{"type": "text", "text": text}],
                "stop_reason": "max_tokens", "stop_sequence": None, "usage": usage | {"cache_read_input_tokens": 0}}
    said = {"type": "message", "id": "msg_fake", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "annotations": [], "text": text}]}
    return {"id": "resp_fake", "object": "response", "created_at": 1, "status": "completed", "model": model, "error": None,
            "output": [said], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
            "usage": usage | {"total_tokens": prompt + tokens, "input_tokens_details": {"cached_tokens": 0}}}


def dialect_events(path: str, model: str, prompt: int, tokens: int) -> list[bytes]:
    """The same as a stream."""
    whole = dialect(path, model, prompt, tokens)
    words = [("" if i == 0 else " ") + f"w{i}" for i in range(tokens)]
    if path == "/v1/messages":
        begun = whole | {"content": [], "stop_reason": None, "usage": {"input_tokens": prompt, "output_tokens": 0}}
        block = {"index": 0, "content_block": {"type": "text", "text": ""}}
        return [
            image_event("message_start", {"message": begun}), image_event("content_block_start", block),
            *(image_event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": word}}) for word in words),
            image_event("content_block_stop", {"index": 0}),
            image_event("message_delta", {"delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": tokens}}),
            image_event("message_stop", {}),
        ]
    place = {"item_id": "msg_fake", "output_index": 0, "content_index": 0}
    return [
        image_event("response.created", {"response": whole | {"status": "in_progress", "output": [], "usage": None}}),
        *(image_event("response.output_text.delta", {**place, "delta": word}) for word in words),
        image_event("response.completed", {"response": whole}),
    ]


def png(width: int, height: int, seed: int) -> bytes:
    """A one-colour PNG of that size; the colour comes from the seed, so equal seeds give equal bytes."""
    row = b"\0" + bytes((seed % 256, seed // 256 % 256, 77)) * width

    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(row * height, 1)) + part(b"IEND", b"")


def images(body: dict[str, Any]) -> dict[str, Any]:
    width, height = (int(side) for side in (body.get("size") or "32x32").split("x"))
    n, steps, seed = body.get("n") or 1, body.get("steps") or 10, body.get("seed")
    first = 0 if seed is None else seed
    data = [{"b64_json": base64.b64encode(png(width, height, first + i)).decode(), "seed": first + i} for i in range(n)]
    return {"created": 1, "data": data, "usage": {"images": n, "steps": steps * n, "denoise_s": 0.1, "vae_s": 0.05, "total_s": 0.15}}


def image_event(kind: str, payload: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **payload})}\n\n".encode()


def worker_status(placement: str, model: str, card: str, state: str) -> dict[str, Any]:
    """The JSON of services.wire.worker.WorkerStatus."""
    reason = None if state == "ready" else f"the fake is told to be {state}"
    return {"placement_id": placement, "model_id": model, "card_id": card, "engine": "vllm", "state": state, "state_for_s": 1.5,
            "reason": reason, "engine_pid": 4242, "restarts": 1, "load_s": 7.5, "peak_bytes": 400_000_000, "resident_bytes": 300_000_000,
            "worker_resident_bytes": 30_000_000, "free_bytes_at_start": None, "engine_version": "fake"}


def metrics(flavour: str, model: str, running: int, prompt_tokens: int, output_tokens: int) -> str:
    if flavour == "diffusers":
        return f"# TYPE rigserve_diffusion_queue_depth gauge\nrigserve_diffusion_queue_depth {running}.0\n"
    if flavour == "llama.cpp":
        return (f"# TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing {running}\n"
                f"# TYPE llamacpp:requests_deferred gauge\nllamacpp:requests_deferred 0\n"
                f"# TYPE llamacpp:prompt_tokens_total counter\nllamacpp:prompt_tokens_total {prompt_tokens}\n"
                f"# TYPE llamacpp:tokens_predicted_total counter\nllamacpp:tokens_predicted_total {output_tokens}\n")
    label = f'{{engine="0",model_name="{model}"}}'
    return (f"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{label} {running}\n"
            f"# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{label} 0\n"
            f"# TYPE vllm:prompt_tokens_total counter\nvllm:prompt_tokens_total{label} {prompt_tokens}\n"
            f"# TYPE vllm:generation_tokens_total counter\nvllm:generation_tokens_total{label} {output_tokens}\n"
            f"# TYPE vllm:iteration_tokens_total histogram\nvllm:iteration_tokens_total_count{label} {output_tokens}\n")
