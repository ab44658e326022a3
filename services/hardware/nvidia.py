"""NVIDIA cards through NVML. The module is imported inside functions: a machine without a driver must work too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from services.hardware.pci import NVIDIA, PciDevice, of_vendor
from services.sizing.cards import identify
from services.sizing.types import Card, PcieLink

# What to do about NVML's return codes (nvml.h, nvmlReturn_t). The rest are told in NVML's own words.
_ADVICE = {
    4: "no permission to use the NVIDIA driver; run as a user that may open /dev/nvidia*",
    9: "the NVIDIA driver is not loaded; `sudo modprobe nvidia`, or install driver branch 580 (the last one for GTX 10, P10x and V100)",
    12: "the NVIDIA library libnvidia-ml.so.1 is not installed; install the NVIDIA driver (in a container: give it the GPU)",
    15: "the card has fallen off the bus; check its riser and power cable, then reboot",
    18: "the driver in the kernel and its library are of different versions, as after an update; reboot",
}
NOT_FOUND = 6
DRIVER_NOT_LOADED = 9
LIBRARY_NOT_FOUND = 12
GPU_IS_LOST = 15


def load() -> Any:
    """The pynvml module."""
    import pynvml

    return pynvml


def code_of(error: Exception) -> int | None:
    """NVML's return code inside an NVMLError."""
    return getattr(error, "value", None)


def plainly(error: Exception) -> str:
    """An NVMLError as a sentence that says what to do where we know it."""
    return _ADVICE.get(code_of(error) or 0) or str(error)


@contextmanager
def session(nvml: Any) -> Iterator[None]:
    """NVML initialised, and shut down after; raises NVMLError when the driver can't be used."""
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def read_cards(nvml: Any | None, on_bus: tuple[PciDevice, ...]) -> tuple[tuple[Card, ...], tuple[str, ...]]:
    """Every NVIDIA card that answers, and notes on those that don't."""
    nvml = nvml or load()
    seen = of_vendor(on_bus, NVIDIA)
    try:
        with session(nvml):
            cards, notes = _answering(nvml)
    except nvml.NVMLError as error:
        if not seen and code_of(error) in (DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND):
            return (), ("NVIDIA: none found (no such card on the PCI bus, no driver).",)
        where = f"; the PCI bus shows {len(seen)} NVIDIA card(s) ({', '.join(d.device_id for d in seen)})" if seen else ""
        return (), (f"NVIDIA: NVML says: {plainly(error)}{where}.",)
    known = {card.pci_address for card in cards}
    notes += [
        f"NVIDIA: the card {device.device_id} at {device.address} is on the PCI bus but the driver doesn't list it "
        f"(kernel driver: {device.driver or 'none'}); driver branches after 580 leave out GTX 10, P10x and V100."
        for device in seen
        if device.address not in known and not any(device.address in note for note in notes)
    ]
    return tuple(cards), tuple(notes)


def _answering(nvml: Any) -> tuple[list[Card], list[str]]:
    driver = _text(_ask(nvml, nvml.nvmlSystemGetDriverVersion))
    cards, notes = [], []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            cards.append(_read(nvml, index, driver))
        except nvml.NVMLError as error:
            handle = _ask(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
            address = _address(nvml, handle) if handle is not None else None
            notes.append(f"NVIDIA: card {index}{f' at {address}' if address else ''} left out: {plainly(error)}.")
    return cards, notes


def _read(nvml: Any, index: int, driver: str | None) -> Card:
    """One card. Raises NVMLError when not even its name and memory can be read; everything else may be unknown."""
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = _text(nvml.nvmlDeviceGetName(handle)) or "NVIDIA card"
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    address = _address(nvml, handle)
    uuid = _text(_ask(nvml, nvml.nvmlDeviceGetUUID, handle))
    device_id = _device_id(nvml, handle)
    capability = _ask(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    limit_mw = _ask(nvml, nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    spec = identify(name, int(memory.total), device_id)
    return Card(
        id=uuid or address or f"nvidia-{index}",
        name=name,
        vendor="nvidia",
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        spec=spec.key if spec else None,
        index=index,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        driver_version=driver,
        pci_address=address,
        pci_device_id=device_id,
        link=_link(nvml, handle),
        power_limit_watts=limit_mw / 1000 if limit_mw is not None else None,
        note=None if uuid else "NVML gives no UUID for this card; its id changes when cards are moved.",
    )


def _link(nvml: Any, handle: Any) -> PcieLink | None:
    """The link now. An idle card may run it at generation 1 to save power; the width does not change, and max_generation tells the rest."""
    link = PcieLink(
        _ask(nvml, nvml.nvmlDeviceGetCurrPcieLinkGeneration, handle),
        _ask(nvml, nvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
        _ask(nvml, nvml.nvmlDeviceGetMaxPcieLinkGeneration, handle),
        _ask(nvml, nvml.nvmlDeviceGetMaxPcieLinkWidth, handle),
    )
    return None if link == PcieLink(None, None) else link


def _address(nvml: Any, handle: Any) -> str | None:
    """The kernel's form 0000:01:00.0 of NVML's 00000000:01:00.0."""
    info = _ask(nvml, nvml.nvmlDeviceGetPciInfo, handle)
    text = _text(info.busId) if info else None
    return text[-12:].lower() if text else None


def _device_id(nvml: Any, handle: Any) -> str | None:
    """The four hex digits of the PCI device. NVML puts device and vendor into one number: 0x1C0710DE."""
    info = _ask(nvml, nvml.nvmlDeviceGetPciInfo, handle)
    return f"{int(info.pciDeviceId) >> 16:04x}" if info else None


def _ask(nvml: Any, function: Any, *arguments: Any) -> Any:
    """The answer, or None where this card or driver doesn't know the question."""
    try:
        return function(*arguments)
    except nvml.NVMLError:
        return None


def _text(value: Any) -> str | None:
    """NVML gives bytes or str, by the age of the binding."""
    return value.decode("utf8", "replace") if isinstance(value, bytes) else value
