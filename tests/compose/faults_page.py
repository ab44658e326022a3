"""docs/faults.md: what the fault tests measured. Written by them when RIGSERVE_WRITE_DOCS is set (`make faults`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tests.compose.engine import ROOT

PAGE = ROOT / "docs" / "faults.md"
HEAD = """# Faults: what clients see, and for how long

Measured by `tests/compose/test_faults*.py` on real containers: the stack that `rigserve compose` writes for two simulated cards (no
GPU: llama.cpp on the CPU), one model with a replica on each, three clients that ask without a pause, a long stream on each replica.
One run on a machine with two cores, others at work on it; seconds, and in brackets the **bound** that the test asserts.
`make faults` writes this page anew.

- **Stream on it**: how the stream on the broken replica ended, seconds after the fault. *error*: an error event of the API, with its
  code. *done*: mended within a stream's patience (30 s without a token), it went on and was whole. *cut*: the connection ended
  without the closing `[DONE]`, because the gateway itself went down.
- **Others failed**: short requests of the three clients that did not end in 200, of those that ended after the fault.
- **Slowest**: the longest of them, the second try on the other replica included.
- **Noticed**: from the fault until the gateway sends nothing there any more.
- **Back**: from the fault until the replica is ready again and has answered; where a hand mends it, from the mending.

| fault | stream on it | others failed | slowest (bound) | noticed (bound) | back (bound) | brought back by |
| --- | --- | --- | --- | --- | --- | --- |
"""
TAIL = """
After each fault the test also holds: no seat is taken at the gateway and twenty requests in a row are answered; after a fault of one
replica also: the stream on the other one was whole, and the mended one answers. Docker leaves a container that was killed by hand as it
is; a container or an engine that dies by itself comes back by itself.
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a test asserts, seconds."""

    slowest_s: float
    noticed_s: float
    back_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """What one fault did. `stream`: how the stream on the broken part ended and after how long. None: not looked for."""

    fault: str
    stream: str
    failed: int
    asked: int
    slowest_s: float
    noticed_s: float | None
    back_s: float
    by: str
    bounds: Bounds

    def text(self) -> str:
        noticed = "–" if self.noticed_s is None else f"{self.noticed_s:.1f} ({self.bounds.noticed_s:g})"
        return (f"| {self.fault} | {self.stream} | {self.failed} of {self.asked} | {self.slowest_s:.1f} ({self.bounds.slowest_s:g}) | "
                f"{noticed} | {self.back_s:.1f} ({self.bounds.back_s:g}) | {self.by} |")  # fmt: skip


def write_page(rows: Sequence[Row]) -> None:
    if os.environ.get("RIGSERVE_WRITE_DOCS"):
        PAGE.write_text(HEAD + "".join(f"{row.text()}\n" for row in rows) + TAIL, encoding="utf8")
