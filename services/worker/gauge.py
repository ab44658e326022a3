"""How much memory the engine holds: of the host on a CPU card, of the device and the host on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.hardware.memory import device_process_bytes, device_used_bytes, process_tree, tree_resident_bytes
from services.sizing.types import Card

Source = Literal["process", "card", "pss"]


@dataclass(slots=True)
class Gauge:
    """Samples one engine. `used_before_bytes` is what the card had in use just before the start; `source` says what the last sample rests
    on. The host's peak is of a GPU's engine only: on a CPU card it is `peak_bytes`."""

    card: Card
    tree: int
    used_before_bytes: int | None = None
    now_bytes: int | None = None
    peak_bytes: int | None = None
    host_peak_bytes: int | None = None
    source: Source | None = None

    def sample(self) -> None:
        """Read once (some milliseconds; reading a large process's pages holds it up a little, so not more than once a second)."""
        self.now_bytes = self._read()
        if self.now_bytes is not None:
            self.peak_bytes = max(self.now_bytes, self.peak_bytes or 0)
        if self.card.vendor != "cpu" and (held := tree_resident_bytes(self.tree)) is not None:
            self.host_peak_bytes = max(held, self.host_peak_bytes or 0)

    def _read(self) -> int | None:
        """CPU card: PSS of the process tree. NVIDIA: what the driver books on these processes. Where it doesn't: what the card has
        in use now beyond what it had before the start (other programs of the card would be counted in)."""
        if self.card.vendor == "cpu":
            self.source = "pss"
            return tree_resident_bytes(self.tree)
        own = device_process_bytes(self.card.id, process_tree(self.tree))
        if own is not None:
            self.source = "process"
            return own
        used = device_used_bytes(self.card.id)
        self.source = "card"
        return None if used is None or self.used_before_bytes is None else max(0, used - self.used_before_bytes)
