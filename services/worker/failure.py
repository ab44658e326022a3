"""Why an engine ended, in one sentence, from its exit code and last lines."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

# (what the engines print, what it means for the user), most telling first.
_SIGNS = (
    (re.compile(r"out of memory|cudaMalloc failed|CUDA_ERROR_OUT_OF_MEMORY|ErrorOutOfDeviceMemory|std::bad_alloc|MemoryError"
                r"|Cannot allocate memory|failed to allocate|No available memory for the cache blocks", re.IGNORECASE),
     "out of memory"),
    (re.compile(r"no kernel image is available|device kernel image is invalid|PTX was compiled with an unsupported", re.IGNORECASE),
     "this build of the engine has no code for this card or driver"),
    (re.compile(r"GPU is lost|fallen off the bus|CUDA_ERROR_NO_DEVICE|no CUDA-capable device|unspecified launch failure", re.IGNORECASE),
     "the card does not answer"),
    (re.compile(r"unrecognized arguments|error: invalid argument|error: unknown argument|error: argument |invalid choice:", re.IGNORECASE),
     "a flag that this version of the engine does not know"),
    (re.compile(r"address already in use|couldn't bind|EADDRINUSE", re.IGNORECASE), "its port is in use"),
    (re.compile(r"ModuleNotFoundError|ImportError|cannot open shared object file|cannot start ", re.IGNORECASE),
     "the engine's environment is not complete"),
)
_EXCEPTION = re.compile(r"\b([A-Za-z_.]*(?:Error|Exception)): (\S.*)$")
_NOT_THE_CAUSE = re.compile(
    r"ulimit|\bWARNING\b|Engine core initialization failed|See root cause|WorkerProc initialization failed|EngineDeadError"
)
_ERROR_LINE = re.compile(r"\b(error|fatal|failed)\b", re.IGNORECASE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_MAX_CHARACTERS = 400


def why_it_ended(code: int, lines: Sequence[str]) -> str:
    """One sentence. `code` is the exit code, 128 + n for signal n.

    1. A line that says something we know: its meaning, and the line.
    2. A signal: which, and what usually sends it.
    3. An exception: the first that is not "see above" (vLLM's first process only reports what a later one died of).
    4. The last line with "error", "fatal" or "failed", or else the last line.
    """
    ended = f"the engine ended with code {code}"
    lines = [_COLOUR.sub("", line) for line in lines]
    # 1
    for pattern, meaning in _SIGNS:
        found = next((line for line in lines if pattern.search(line)), None)
        if found:
            return f"{ended}: {meaning}: {_short(found)}"
    # 2
    if code > 128:
        return f"the engine was ended by {_signal(code - 128)}"
    # 3
    exceptions = [match for line in lines if (match := _EXCEPTION.search(line)) and not _NOT_THE_CAUSE.search(line)]
    if exceptions:
        return f"{ended}: {_short(exceptions[0][0])}"
    # 4
    spoken = [line for line in lines if line.strip()]
    telling = [line for line in spoken if _ERROR_LINE.search(line)] or spoken
    return f"{ended}: {_short(telling[-1])}" if telling else f"{ended} and printed nothing"


def is_out_of_memory(problem: str) -> bool:
    """Whether an ending of `why_it_ended`, or a refused largest request, says that the card's or host's memory was not enough."""
    return "out of memory" in problem and "the host ran out of memory" not in problem


def _signal(number: int) -> str:
    if number == signal.SIGILL:
        return "SIGILL: this CPU lacks instructions that the engine was built for (AVX2)"
    if number == signal.SIGKILL:
        return "SIGKILL: by hand, or by the kernel when the host ran out of memory (see dmesg)"
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _short(line: str) -> str:
    clean = line.strip()
    return clean if len(clean) <= _MAX_CHARACTERS else clean[: _MAX_CHARACTERS - 1] + "…"
