"""The 78 fault scenarios: number, what is done, what is expected. A test says with `@scenario(19)` which one it is, and with the fixture
`seen` what it observed; `make reliability` runs them and writes docs/reliability.md from that."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest


@dataclass(frozen=True, slots=True)
class Scenario:
    do: str
    expect: str


GROUPS = {
    1: "Worker faults", 19: "Clients", 29: "Overload and fairness", 38: "Restart, configuration, state", 50: "Bad requests",
    63: "Protocol abuse", 70: "Images", 75: "Cards and fit",
}  # fmt: skip

SCENARIOS: dict[int, Scenario] = {
    1: Scenario("SIGKILL an engine in mid-stream", "error event within 2 s, no [DONE], the SDK raises; engine ejected; seat free"),
    2: Scenario("SIGKILL before the first token, a second engine is free", "one 200, after a retry that the client does not see"),
    3: Scenario("SIGKILL before the first token, no other engine", "502 or 503 within 1 s, Retry-After"),
    4: Scenario("an engine accepts and never answers", "504 at the first-token deadline; its connection closed; breaker counts one"),
    5: Scenario("an engine stalls after some tokens", "error event at the inter-token deadline; breaker counts one"),
    6: Scenario("an engine hangs while /health says 200", "ejected by one-token heartbeats within 3 probes; another model unaffected"),
    7: Scenario("an engine that is slow but moves", "not ejected; the answer is whole"),
    8: Scenario("/health is slow under load", "not ejected"),
    9: Scenario("an engine answers 500 five times", "breaker opens; half-open by a one-token request; closes after 2 good ones"),
    10: Scenario("an engine answers 400 a hundred times", "passed through; breaker stays closed"),
    11: Scenario("all engines of a model fail", "an error at once; the last one is never ejected for ever"),
    12: Scenario("an engine flaps, 20 cycles", "growing time out; no request is lost twice"),
    13: Scenario("bad JSON, half UTF-8, CR LF and cut events from an engine", "re-framed, or one error event; never invalid SSE"),
    14: Scenario("a 200 stream of [DONE] only", "an error, not an empty success"),
    15: Scenario("a clean end without [DONE]", "error event"),
    16: Scenario("10 MB in one event; a stream that goes on past max_tokens", "passed on in bounded memory; cut with an error event"),
    17: Scenario("an engine restarts with another model", "503 for the old model, never another model's answer"),
    18: Scenario("the network of one engine is gone", "given up within 2 s, served elsewhere"),
    19: Scenario("the client leaves in mid-stream", "the engine's connection closed within 1 s"),
    20: Scenario("the client leaves before the first token, streaming or not", "the engine's connection closed within 1 s"),
    21: Scenario("the client leaves while queued", "its place is gone, the next moves up"),
    22: Scenario("the client leaves after [DONE]", "nothing: no cancel is counted"),
    23: Scenario("one of two streams of an engine is cancelled", "the other one is whole"),
    24: Scenario("a client never reads, then leaves", "memory bounded; the engine's connection closed"),
    25: Scenario("a client reads 1 byte/s", "cut by the write deadline; the others' tokens come as before"),
    26: Scenario("500 clients vanish at once (RST)", "seats 0 within 2 s; no task or socket is left"),
    27: Scenario("a client half-closes after its request", "documented: either the answer, or a clean cancel; never a seat that stays"),
    28: Scenario("the same Idempotency-Key twice at once", "one execution; the second waits or gets 409"),
    29: Scenario("10 times the load that saturates", "goodput at least 90 % of peak; refusals at once; memory flat"),
    30: Scenario("back to half of the load after that", "normal time to first token at once"),
    31: Scenario("SDK clients that retry, at 3 times the load", "retries to engines within the budget; no amplification"),
    32: Scenario("key A floods, key B asks now and then", "B waits little longer than alone"),
    33: Scenario("long prompts flood, a short chat beside them", "the short one is measured apart and gets its turn"),
    34: Scenario("image jobs saturate one card, chat on another", "chat unaffected"),
    35: Scenario("a burst of 1,000 in 1 s", "bounded queue, the rest 429; /healthz and /metrics answer within 200 ms"),
    36: Scenario("streams at the cap for hours", "resident memory, descriptors and tasks flat"),
    37: Scenario("a key's limits at their edges", "the exact count is admitted; given back when an engine fails before its tokens"),
    38: Scenario("SIGTERM with 50 streams open", "new requests refused; streams end whole or with an error event; exit within the grace"),
    39: Scenario("SIGKILL of the gateway in mid-stream", "engines stop; after the start counters and usage are consistent"),
    40: Scenario("an engine restarts under load, with a twin", "no request fails when it drains first"),
    41: Scenario("reload of the configuration, also a bad one", "atomic; a bad file is rejected with its place, the old one stays"),
    42: Scenario("a key is revoked in mid-stream", "new requests 401 within 5 s; what happens to the stream is documented"),
    43: Scenario("the usage database: disk full, read-only, locked", "served; usage spooled and counted; nobody unauthorised gets in"),
    44: Scenario("a corrupt database at the start", "refused in clear words, or moved aside; an empty key table never opens the door"),
    45: Scenario("the wall clock jumps by an hour", "deadlines unaffected; windows sane; no negative usage"),
    46: Scenario("the log's volume is full, stdout blocked", "serving goes on"),
    47: Scenario("a download is cut, the disk full, the hash wrong", "nothing partial stays; the state is failed; a retry is offered"),
    48: Scenario("two gateways on one database", "no id twice; which limits are per process is documented"),
    49: Scenario("a scrape every second with 500 label sets", "under 50 ms; unknown models are one label"),
    50: Scenario("bad JSON, empty, an array, text/plain, invalid UTF-8", "400 in OpenAI's shape, never 500"),
    51: Scenario("depth 100,000; an integer of 5,000 digits; a million keys; a key twice", "400 within 100 ms; the loop not held up"),
    52: Scenario("a body of 50 MB, with and without a length", "413 without being buffered"),
    53: Scenario("a lone surrogate, NUL, bidi marks, a model name of 10 KB", "400 or 404; escaped in the log"),
    54: Scenario("NaN, Infinity, 1e999, \"NaN\", true, \"3\", 2^80 in every number", "400 with param"),
    55: Scenario("sampling values out of range", "400, or a documented clamp"),
    56: Scenario("logit_bias out of the vocabulary, echo with max_tokens 0, best_of", "400; the engine lives"),
    57: Scenario("a prompt longer than the context; over by 1 with max_tokens", "400 with the numbers; not sent to an engine"),
    58: Scenario("an evil regex, a schema of 10,000 enums, a recursive grammar", "400 or bounded; the next request is normal"),
    59: Scenario("an unknown model, another tenant's, the wrong kind", "404 or 400, told in the same time"),
    60: Scenario("model ids that are paths or URLs", "400 or 404; no file and no network is touched"),
    61: Scenario("unknown and dangerous extra fields", "taken out or 400; never passed on"),
    62: Scenario("image_url to private addresses, files, slow or huge things", "400; nothing is fetched"),
    63: Scenario("two lengths, length with chunks, bare LF", "400 and closed"),
    64: Scenario("CR LF in header values and in a model name", "no header of the client's making; its request id is checked"),
    65: Scenario("a header of 100 KB; 5,000 headers", "431"),
    66: Scenario("100 pipelined requests", "in order, all counted"),
    67: Scenario("slow headers, slow bodies", "closed in time; 200 such clients do not hold up others"),
    68: Scenario("1,000 idle connections; 5,000", "served; above the limit refused, no crash"),
    69: Scenario("Expect: 100-continue, HEAD, OPTIONS, unknown methods, //v1/", "correct; no way around the key check"),
    70: Scenario("8192x8192, 513x511, 0x0, n 100", "400 with the sizes that are allowed"),
    71: Scenario("steps 0, -1, 10^6; guidance NaN", "400"),
    72: Scenario("out of memory inside the pipeline", "an error of its own class; the next 512x512 works"),
    73: Scenario("the client leaves at step 5 of 50", "stops by the next step; seat free"),
    74: Scenario("one seed twice; b64 and url forms", "identical; URLs unguessable, expiring, own key only"),
    75: Scenario("a model that needs more than any card", "refused before any download, with the arithmetic"),
    76: Scenario("fits alone but not beside another; a context too long for the KV cache", "refused, or a smaller context offered"),
    77: Scenario("a card is lost", "its state says so; its models elsewhere or 503; no restart loop"),
    78: Scenario("a card throttles", "shown with the reason; gets less"),
}

# Scenarios that no test here runs, and why. Empty is the aim; a number is in one place only: here, or on a test.
NOT_RUN: dict[int, str] = {}


def scenario(number: int) -> pytest.MarkDecorator:
    """The mark of a test that is (a part of) this scenario."""
    assert number in SCENARIOS
    return pytest.mark.scenario(number)


@dataclass
class Seen:
    """What a test observed: `seen(status=504, code="timeout", metric="rigserve_backend_failures{kind=deadline} +1")`. It comes into the
    table in the order in which it was said, so say it only after it was asserted."""

    said: dict[str, str] = field(default_factory=dict)

    def __call__(self, **what: object) -> None:
        self.said |= {name: str(value) for name, value in what.items()}
