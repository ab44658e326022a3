"""How much memory the engine holds: of the host on a CPU card, of the device on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

from services.hardware.memory import device_process_bytes, device_used_bytes, process_tree, tree_resident_bytes
from services.sizing.types import Card


@dataclass(slots=True)
class Gauge:
    """Samples one engine. `used_before_bytes` is what the card had in use just before the start."""

    card: Card
    tree: int
    used_before_bytes: int | None = None
    now_bytes: int | None = None
    peak_bytes: int | None = None

    def sample(self) -> None:
        """Read once (some milliseconds; reading a large process's pages holds it up a little, so not more than once a second)."""
        self.now_bytes = self._read()
        if self.now_bytes is not None:
            self.peak_bytes = max(self.now_bytes, self.peak_bytes or 0)

    def _read(self) -> int | None:
        """CPU card: PSS of the process tree. NVIDIA: what the driver books on these processes. Where it doesn't: what the card has
        in use now beyond what it had before the start (other programs of the card would be counted in)."""
        if self.card.vendor == "cpu":
            return tree_resident_bytes(self.tree)
        own = device_process_bytes(self.card.id, process_tree(self.tree))
        if own is not None:
            return own
        used = device_used_bytes(self.card.id)
        return None if used is None or self.used_before_bytes is None else max(0, used - self.used_before_bytes)
