"""The environment that an engine gets: an allow-list, so that no proxy password or API key of the user reaches it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from services.sizing.types import Card
from services.worker.engines.order import LaunchError

# Passed on from our own environment, when set there.
_PASSED = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ",
    "XDG_CACHE_HOME",  # compile caches of vLLM and Triton
    "LD_LIBRARY_PATH",  # where containers and mining systems put the driver's libraries
    "CUDA_HOME", "CUDA_CACHE_PATH",  # llama.cpp's kernels for Pascal are compiled once at the first start, into this cache
    "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES",
    "VK_DRIVER_FILES", "VK_ICD_FILENAMES",
)
_ALWAYS = {
    "PYTHONUNBUFFERED": "1",  # the log's last lines are the reason of a failure: they must be there
    "PYTHONNOUSERSITE": "1",  # only the pinned environment
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",  # weights are on disk; an engine has no business on the internet
    "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1",
}


def child_environment(parent: Mapping[str, str], card: Card, nodes: int | None = None) -> dict[str, str]:
    """The clean environment of an engine on `card`. `nodes`: how many render nodes are here (counted when None).
    Raises LaunchError for a card that no program could find."""
    passed = {name: parent[name] for name in _PASSED if name in parent}
    return {**passed, **_ALWAYS, **visible_devices(card, _nodes() if nodes is None else nodes)}


def _nodes() -> int:
    return len(list(Path("/dev/dri").glob("renderD*")))


def visible_devices(card: Card, nodes: int) -> dict[str, str]:
    """What makes the engine see this card only. By UUID or PCI address: indices shift when a riser dies. A container is given one render
    node, and there ROCm counts that one card as 0 whatever its index on the host is: then no index is named."""
    if card.vendor == "nvidia":
        if card.id.startswith("GPU-"):
            return {"CUDA_VISIBLE_DEVICES": card.id}
        if card.index is not None and card.pci_address == card.id:  # the driver gave no UUID
            return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(card.index)}
        raise LaunchError(f"the card {card.id} ({card.name}) was described, not detected; make the plan on the rig itself.")
    if card.vendor == "amd":
        if card.pci_address is None:
            raise LaunchError(f"the card {card.id} ({card.name}) was described, not detected; make the plan on the rig itself.")
        # Mesa's device-select layer (docs.mesa3d.org/envvars): this PCI address, and show no other device. ROCm counts from 0.
        address = card.pci_address.replace(":", "_").replace(".", "_")
        rocm = {} if card.index is None or nodes == 1 else {"HIP_VISIBLE_DEVICES": str(card.index)}
        return {"DRI_PRIME": f"pci-{address}", "MESA_VK_DEVICE_SELECT_FORCE_DEFAULT_DEVICE": "1", **rocm}
    return {"CUDA_VISIBLE_DEVICES": ""}  # the simulated CPU card: a GPU that is there too is not used
