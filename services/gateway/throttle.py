"""Failed tries with a wrong key, by the address they come from. Pure: the time is handed in.

A good key is never asked about here, so an address that is shut out (or shared with somebody who guesses) keeps its good keys.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

TRIES = 20
TRIES_PER_S = 20 / 60
MAX_ADDRESSES = 10_000


class Throttle:
    """A bucket of TRIES per address, refilled at TRIES_PER_S; the addresses that failed longest ago are forgotten first."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def failed(self, address: str, now: float) -> float | None:
        """Counts one; the seconds until the next try is looked at, None while tries are left.

        Worked number: the 21st failure at once waits 3 s (20 a minute).
        """
        network = _network(address)
        left, at = self._buckets.pop(network, (float(TRIES), now))
        left = min(float(TRIES), left + (now - at) * TRIES_PER_S)
        allowed = left >= 1
        self._buckets[network] = (left - 1 if allowed else left, now)
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        return None if allowed else (1 - left) / TRIES_PER_S


def _network(address: str) -> str:
    """Who has one address of IPv6 has a /64 of them."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
