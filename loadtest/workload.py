"""What each request says: seeded, so that a seed gives the same requests again, and another one shares nothing with them. Pure."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loadtest.arrivals import Arrival
from loadtest.lengths import read_lengths
from loadtest.spec import Spec

WORDS = tuple((Path(__file__).parent / "words.txt").read_text(encoding="utf8").split())
WORDS_PER_TOKEN = 0.75  # for a trace's prompts: English text is about 4/3 tokens a word (OpenAI's tokenizer guide); usage tells the truth
TURNS = 6
ENDLESS_TOKENS = 10_000_000
HUGE_PROMPT_WORDS = 40_000
HUGE_IMAGE = "16384x16384"
PICTURES = ("a photo of the digit three", "a photo of the digit seven", "a lantern beside a river", "a quiet harbor in the morning")
CHAT, COMPLETIONS, EMBEDDINGS, IMAGES = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/images/generations"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `expect`: an answer, or a refusal (any clear 4xx; `held`: anything but a 5xx, for a request that a lenient server may
    take). `leave_after_chunks`: the client hangs up then. `read_pause_s`: it waits that long between two lines."""

    kind: str
    path: str
    body: bytes
    expect: Literal["answer", "refusal", "held"] = "answer"
    streamed: bool = False
    wanted_tokens: int | None = None
    leave_after_chunks: int | None = None
    read_pause_s: float = 0.0
    size: str | None = None
    steps: int | None = None


class Workload:
    """The requests of one user (`stream` names it) of one run."""

    def __init__(self, spec: Spec, stream: str) -> None:
        self._spec = spec
        self._draw = random.Random(f"workload/{spec.seed}/{stream}")  # noqa: S311
        self._prompt, self._output = read_lengths(spec.prompt_words), read_lengths(spec.output_tokens)
        self._prefixes = [
            _words(random.Random(f"prefix/{spec.seed}/{group}"), 4096) for group in range(max(1, spec.prefix_groups))  # noqa: S311
        ]
        self._grid = itertools.cycle(self._draw.sample(grid := _grid(spec), len(grid)))
        self._talk: list[dict[str, str]] = []
        self._oddities = itertools.cycle(self._draw.sample(odd := _oddities(spec), len(odd)))
        self._impossible = itertools.cycle(_impossible(spec))

    def part(self) -> float:
        """A draw from 0 to 1."""
        return self._draw.random()

    def next_kind(self) -> str:
        kinds = list(self._spec.weights)
        return self._draw.choices(kinds, [self._spec.weights[kind] for kind in kinds])[0]

    def next(self, kind: str, arrival: Arrival | None = None) -> Ask:
        """The next request of a kind; a trace's arrival may say its lengths."""
        if kind == "image":
            return self._image()
        if kind == "abuse":
            return next(self._oddities)
        if kind == "wont_fit":
            path, body = next(self._impossible)
            if body.pop("huge", False):
                body["messages"] = [{"role": "user", "content": " ".join(_words(self._draw, HUGE_PROMPT_WORDS))}]
            return Ask(kind, path, _json(body), expect="refusal")
        words = self._prompt.draw(self._draw)
        tokens = self._output.draw(self._draw)
        if arrival is not None and arrival.prompt_tokens:
            words = max(1, round(arrival.prompt_tokens * WORDS_PER_TOKEN))
        if arrival is not None and arrival.output_tokens:
            tokens = arrival.output_tokens
        return self._text(kind, words, 1 if kind == "probe" else tokens)

    def _text(self, kind: str, words: int, tokens: int) -> Ask:
        spec = self._spec
        if kind == "embeddings":
            return Ask(kind, EMBEDDINGS, _json({"model": spec.chat_model, "input": self._prompt_text(words)}))
        body: dict[str, Any] = {"model": spec.chat_model, "max_tokens": tokens, "seed": self._draw.randrange(2**31)}
        streamed = kind not in ("chat", "probe")
        if streamed:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if spec.ignore_eos:
            body |= {"ignore_eos": True, "min_tokens": tokens}
        if kind == "completions":
            body["prompt"] = self._prompt_text(words)
        else:
            body["messages"] = self._turn(words) if kind == "multi_turn" else [{"role": "user", "content": self._prompt_text(words)}]
        leave = self._draw.randint(1, max(1, tokens // 2)) if kind == "canceller" else None
        pause_s = 0.2 if kind == "slow_reader" else 0.0
        path = COMPLETIONS if kind == "completions" else CHAT
        return Ask(kind, path, _json(body), streamed=streamed, wanted_tokens=tokens, leave_after_chunks=leave, read_pause_s=pause_s)

    def _prompt_text(self, words: int) -> str:
        """`prefix_share` of the words are one of the common beginnings; the rest is this request's own."""
        if self._spec.prompts:
            return self._draw.choice(self._spec.prompts)
        shared = min(round(words * self._spec.prefix_share), 4096, words)
        return " ".join(self._draw.choice(self._prefixes)[:shared] + _words(self._draw, words - shared))

    def _turn(self, words: int) -> list[dict[str, str]]:
        """A conversation that grows by a question each time, after TURNS a new one; the answers in it are made up too."""
        if len(self._talk) >= 2 * TURNS - 1:
            self._talk = []
        if self._talk:
            self._talk.append({"role": "assistant", "content": " ".join(_words(self._draw, words))})
        self._talk.append({"role": "user", "content": self._prompt_text(words)})
        return list(self._talk)

    def _image(self) -> Ask:
        size, steps, count = next(self._grid)
        body: dict[str, Any] = {"model": self._spec.image_model, "prompt": self._draw.choice(PICTURES), "n": count}
        body |= {"response_format": "b64_json", "seed": self._draw.randrange(2**31)}
        body |= ({"size": size} if size else {}) | ({"steps": steps} if steps else {})
        return Ask("image", IMAGES, _json(body), size=size, steps=steps)


def _grid(spec: Spec) -> list[tuple[str | None, int | None, int]]:
    """Sizes × steps × numbers; None leaves it to the server."""
    return list(itertools.product(spec.image_sizes or (None,), spec.image_steps or (None,), spec.image_counts or (1,)))


def _impossible(spec: Spec) -> list[tuple[str, dict[str, Any]]]:
    """Bodies that no card can hold. Those named by the user are models that the server knows and that fit none of its cards."""
    chat = [{"role": "user", "content": "Hello"}]
    found: list[tuple[str, dict[str, Any]]] = [(CHAT, {"model": name, "messages": chat}) for name in spec.wont_fit_models]
    if spec.chat_model:
        found.append((CHAT, {"model": spec.chat_model, "messages": chat, "max_tokens": ENDLESS_TOKENS}))
        found.append((CHAT, {"model": spec.chat_model, "huge": True, "max_tokens": 1}))
    if spec.image_model:
        found.append((IMAGES, {"model": spec.image_model, "prompt": PICTURES[0], "size": HUGE_IMAGE}))
    return found or [(CHAT, {"model": "no-model-here", "messages": chat})]


def _oddities(spec: Spec) -> list[Ask]:
    """Requests that a careless or hostile client sends."""
    model, chat = spec.chat_model, [{"role": "user", "content": "Hello"}]
    good = {"model": model, "messages": chat, "max_tokens": 4}
    refused: list[tuple[str, bytes]] = [
        (CHAT, b'{"model": '), (CHAT, b"[]"), (CHAT, b""), (CHAT, b"\xff\xfe\x00"), (CHAT, _json({"model": model})),
        (CHAT, _json(good | {"messages": "hello"})), (CHAT, _json(good | {"max_tokens": -1})),
        (CHAT, _json(good | {"model": "no-model-here"})), (CHAT, _json(good | {"temperature": "hot"})), ("/v1/no-such-route", _json(good)),
    ]  # fmt: skip
    lenient = [(CHAT, _json(good | {"temperature": 99})), (CHAT, b"[" * 2000 + b"]" * 2000), (CHAT, _json(good | {"stop": [""] * 100})),
               (CHAT, _json(good | {"messages": [{"role": "user", "content": "\x00" * 64}]}))]
    return [Ask("abuse", path, body, expect="refusal") for path, body in refused] + [
        Ask("abuse", path, body, expect="held") for path, body in lenient
    ]


def _words(source: random.Random, count: int) -> list[str]:
    return source.choices(WORDS, k=count) if count > 0 else []


def _json(body: Any) -> bytes:
    return json.dumps(body).encode()


def read_prompts(text: str) -> tuple[str, ...]:
    """Prompts of a file: ShareGPT's JSON (the first human turn of each conversation), JSON lines with `prompt` or `text`, or one a line.
    Raises ValueError with a sentence."""
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    rows = whole if isinstance(whole, list) else [_line(line) for line in text.splitlines() if line.strip()]
    found = tuple(prompt for row in rows if (prompt := _prompt_of(row)))
    if not found:
        raise ValueError("the prompt file has no prompt in it; give one a line, JSON lines with `prompt`, or ShareGPT's JSON")
    return found


def _line(line: str) -> Any:
    try:
        return json.loads(line) if line.lstrip().startswith("{") else line
    except ValueError:
        return line


def _prompt_of(row: Any) -> str | None:
    if isinstance(row, str):
        return row.strip() or None
    if not isinstance(row, dict):
        return None
    turns = row.get("conversations") or row.get("conversation") or ()
    said = next((turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") in ("human", "user")), None)
    return said or row.get("prompt") or row.get("text") or None
