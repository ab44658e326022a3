"""What is decided beside the plan: names, versions, times."""

from __future__ import annotations

from dataclasses import dataclass

from services.deploy.limits import DRAIN_S


@dataclass(frozen=True, slots=True)
class Options:
    """`version` is the tag of our images; `name` the stack's, so that two stacks can live on one machine."""

    version: str
    name: str = "rigserve"
    drain_s: int = DRAIN_S
