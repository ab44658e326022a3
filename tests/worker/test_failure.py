"""Reasons out of real engine output."""

from __future__ import annotations

import pytest

from services.worker.failure import why_it_ended

VLLM_KV = [
    "(EngineCore pid=11) ERROR 11-22 [core.py:1200] ValueError: To serve at least one request with the model's max seq len (4096), "
    "(0.18 GiB KV cache is needed, which is larger than the available KV cache memory (0.03 GiB).",
    "(APIServer pid=9) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
]


@pytest.mark.parametrize(("code", "lines", "words"), [
    (1, ["loading", "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 900.00 MiB on device 0: cudaMalloc failed: out of memory",
         "error: unable to load model"], "out of memory: ggml_backend_cuda"),
    (1, ["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"], "out of memory: torch"),
    (2, ["usage: api_server.py [options]", "api_server.py: error: unrecognized arguments: --no-such-flag"], "does not know: api_server.py"),
    (1, ["CUDA error: no kernel image is available for execution on the device"], "no code for this card or driver"),
    (1, VLLM_KV, "code 1: ValueError: To serve at least one request"),
    (132, ["main: loading model"], "SIGILL: this CPU lacks instructions"),
    (137, ["all slots are idle"], "SIGKILL: by hand, or by the kernel"),
    (127, ["cannot start /env/bin/python: No such file or directory"], "environment is not complete: cannot start /env/bin/python"),
    (1, ["start", "\x1b[31mError: model file is not GGUF\x1b[0m", "bye"], "code 1: Error: model file is not GGUF"),
    (3, ["start", "bye", ""], "code 3: bye"),
    (3, [], "code 3 and printed nothing"),
    (200, [], "signal 72"),
])
def test_reason(code: int, lines: list[str], words: str) -> None:
    assert words in why_it_ended(code, lines)


def test_a_long_line_is_cut() -> None:
    assert len(why_it_ended(1, ["Error: " + "x" * 100_000])) < 500
