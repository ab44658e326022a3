"""NVIDIA's Xid errors that matter on a mining rig, and what to do. Source: NVIDIA's Xid catalogue, and mining-rig reports where named."""

from __future__ import annotations

from dataclasses import dataclass

from services.doctor.finding import Severity

CATALOGUE = "NVIDIA, Xid catalogue"


@dataclass(frozen=True, slots=True)
class XidMeaning:
    severity: Severity
    meaning: str
    advice: str


_REBOOT = "Reboot; if it comes again on the same card, take that card out of the plan."
_MEMORY = "Test the card's memory at serving temperature (memtest_vulkan); take the card out of the plan if it fails."
_APPLICATION = "Usually the program, not the card. If several programs or models end so on one card, lower its memory clock to stock."
MEANINGS: dict[int, XidMeaning] = {
    8: XidMeaning(Severity.WARNING, "the card stopped working on a task", _APPLICATION),
    13: XidMeaning(Severity.WARNING, "graphics engine exception: a bad instruction or address", _APPLICATION),
    31: XidMeaning(Severity.WARNING, "a program touched memory that it may not, or the card's memory unit failed", _APPLICATION),
    32: XidMeaning(Severity.WARNING, "corrupt commands reached the card: often a bad PCIe link", "Swap the riser and its cable."),
    38: XidMeaning(Severity.ERROR, "the driver's firmware failed", _REBOOT),
    43: XidMeaning(Severity.NOTE, "a program's work was stopped; the card goes on", _APPLICATION),
    45: XidMeaning(Severity.NOTE, "clean-up after another error or a killed program", "Nothing, if a program was killed at that time."),
    48: XidMeaning(Severity.ERROR, "uncorrectable (double-bit) memory error", _MEMORY),
    61: XidMeaning(Severity.ERROR, "the card's microcontroller broke down", _REBOOT),
    62: XidMeaning(Severity.ERROR, "the card's microcontroller halted", _REBOOT),
    63: XidMeaning(Severity.WARNING, "a bad memory page or row was taken out of use", _MEMORY),
    64: XidMeaning(Severity.ERROR, "a bad memory page or row could not be taken out of use", _MEMORY),
    74: XidMeaning(Severity.WARNING, "NVLink error", _REBOOT),
    79: XidMeaning(
        Severity.ERROR,
        "the card has fallen off the bus",
        "Check its riser, the riser's own power plug and the card's power cable, and its temperature; then reboot.",
    ),
    94: XidMeaning(Severity.WARNING, "contained memory error: one program was hit", _MEMORY),
    95: XidMeaning(Severity.ERROR, "uncontained memory error", _MEMORY),
    119: XidMeaning(Severity.ERROR, "the card's own processor (GSP) does not answer", _REBOOT),
    120: XidMeaning(Severity.ERROR, "the card's own processor (GSP) failed", _REBOOT),
    154: XidMeaning(Severity.ERROR, "the driver asks for a reset or reboot of the card", _REBOOT),
}
UNLISTED = XidMeaning(Severity.WARNING, "an error that is not in our table", "Look the number up in NVIDIA's Xid catalogue.")
