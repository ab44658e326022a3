"""Rules on single cards: errors in the log, the PCIe link, power, memory faults."""

from __future__ import annotations

from collections.abc import Iterator

from services.doctor.case import Case, boards, cards_of, health_of, named, on_card
from services.doctor.finding import Finding, Severity, on_host
from services.doctor.readings import Unread
from services.doctor.xid import CATALOGUE, MEANINGS, UNLISTED
from services.sizing.speed_data import link_bytes_per_s
from services.sizing.types import Card
from services.sizing.units import GIB

LOAD_EXAMPLE_BYTES = 4 * GIB
IDLE_PERCENT = 5
WHOLE_LOG_S = 60.0  # a log whose first line is later has lost its beginning
REPLAYS_WARNING = 100  # our own line: no maker publishes one; what counts is that the figure grows under load
DEEP_CAP = 0.57  # 200 of an RTX 3090's 350 W, where decode collapses
_LINK_SOURCE = "BTCpro test: 608 tok/s at x4, 607 at x1; duggasco/CMP100-210: gen1 x1 carries 0.20 GB/s"
_POWER_SOURCE = (
    "jeanfbrito: an RTX 3090 at 280 of 350 W loses <1 %, under 200 W it collapses; jacquesmattheij: a V100 at 150 W failed to load"
)


def kernel_log(case: Case) -> Iterator[Finding]:
    """1. Not read: unknown. 2. Its first lines are gone: note. 3. Ok."""
    log = case.readings.log
    # 1
    if isinstance(log, Unread):
        yield on_host(
            Severity.UNKNOWN,
            f"the kernel log can't be read: {log.why}",
            "Xid errors, PCIe errors and programs killed for memory are told there and nowhere else.",
            CATALOGUE,
            "sudo dmesg | grep -iE 'xid|pcie bus error|killed process'",
            f"Or let this user read it for good: sudo usermod -aG systemd-journal,adm {case.readings.machine.user}, then log in again.",
        )
    # 2
    elif log.source == "dmesg" and (log.from_s or 0) > WHOLE_LOG_S:
        yield on_host(Severity.NOTE, f"{log.source} starts {log.from_s:.0f} s after boot; what was said before is gone")
    # 3
    else:
        yield on_host(Severity.OK, f"read since boot by {log.source}")


def xids(case: Case) -> Iterator[Finding]:
    """1. The log is not read (said by the rule before), or nothing here can make an Xid: nothing. 2. Each Xid per card by the table.
    3. None: ok."""
    log, known = case.readings.log, boards(case)
    # 1
    if isinstance(log, Unread) or not (known or log.xids):
        return
    # 2
    by_address = {(board.address or "")[:10]: board for board in known}
    for xid in log.xids:
        meaning, board = MEANINGS.get(xid.code, UNLISTED), by_address.get(xid.address)
        subject, name = (board.subject, board.name) if board else (xid.address, f"card at {xid.address}")
        times = "once" if xid.count == 1 else f"{xid.count} times"
        yield Finding(
            meaning.severity,
            subject,
            name,
            f"Xid {xid.code} {times}: {xid.text or meaning.meaning}",
            f"Xid {xid.code}: {meaning.meaning}.",
            CATALOGUE,
            f"sudo dmesg | grep -i 'xid.*{xid.address}'",
            meaning.advice,
        )
    # 3
    if not log.xids:
        yield on_host(Severity.OK, "no Xid error in the kernel log")


def pcie_width(case: Case) -> Iterator[Finding]:
    """The width doesn't change at idle, so this is certain. 1. Not told: unknown. 2. All lanes: ok. 3. Fewer: a warning on generation 1
    for certain (x1 there takes 20 s a 4 GB model), else a note: serving hardly slows, loading does."""
    for card in cards_of(case):
        link = card.link
        # 1
        if link is None or link.width is None or link.max_width is None:
            yield on_card(
                Severity.UNKNOWN,
                card,
                "the driver doesn't tell the width of the PCIe link",
                "A riser makes it x1, and loading slow.",
                _LINK_SOURCE,
                _lspci(card),
            )
        # 2
        elif link.width >= link.max_width:
            yield on_card(Severity.OK, card, f"PCIe x{link.width}, all lanes that the card has")
        # 3
        else:
            generation, certain = _generation(case, card)
            slow = generation is not None and link_bytes_per_s(generation, link.width) < 0.25e9 and certain
            yield on_card(
                Severity.WARNING if slow else Severity.NOTE,
                card,
                f"PCIe x{link.width} of x{link.max_width}{_load_words(card, generation, certain)}",
                "A narrow link hardly slows decoding; it makes loading slow and rules out offload and tensor parallel.",
                _LINK_SOURCE,
                _lspci(card),
                "A wider slot, or a riser with more lanes. On a mining board this is how it is built: plan for the load time.",
            )


def pcie_generation(case: Case) -> Iterator[Finding]:
    """1. Not told: unknown. 2. The highest possible: ok. 3. Lower and the card works: warning, certain. 4. Lower and idle: unknown, since
    cards lower it to save power. 5. Lower and nobody says whether it works: unknown too."""
    for card in cards_of(case):
        link, busy = card.link, health_of(case, card).busy_percent
        # 1
        if link is None or link.generation is None or link.max_generation is None:
            yield on_card(Severity.UNKNOWN, card, "the driver doesn't tell the PCIe generation", fix=_lspci(card))
            continue
        seen = f"PCIe generation {link.generation} now, {link.max_generation} possible"
        # 2
        if link.generation >= link.max_generation:
            yield on_card(Severity.OK, card, f"PCIe generation {link.generation}, the highest that card and slot can do")
        # 3
        elif busy is not None and busy > IDLE_PERCENT:
            yield on_card(
                Severity.WARNING,
                card,
                f"{seen}, while {busy} % busy: so it is the link, for certain",
                "Loading takes longer by the ratio; decoding hardly.",
                _LINK_SOURCE,
                _lspci(card),
                "Set the slot's PCIe speed in the BIOS from Auto or Gen1 to Gen2/Gen3; a poor riser cable falls back as well.",
            )
        # 4, 5
        else:
            idle = "the card is idle" if busy is not None else "whether the card is idle isn't told"
            yield on_card(
                Severity.UNKNOWN,
                card,
                f"{seen}, but {idle}",
                "Idle cards lower the generation to save power, so only a look under load can tell.",
                "nvidia-smi(1), PCIe generation",
                _watch(card),
                "Run it while a model loads or answers; ask the doctor then.",
            )


def _generation(case: Case, card: Card) -> tuple[int | None, bool]:
    """The generation that counts for loading, and whether that is certain: the highest possible, unless a busy card runs a lower one."""
    link, busy = card.link, health_of(case, card).busy_percent
    if link is None or link.generation is None:
        return None, False
    if link.max_generation is None or link.generation >= link.max_generation:
        return link.generation, True
    if busy is not None and busy > IDLE_PERCENT:
        return link.generation, True
    return link.max_generation, False


def _load_words(card: Card, generation: int | None, certain: bool) -> str:
    if generation is None or card.link is None or card.link.width is None:
        return ""
    seconds = LOAD_EXAMPLE_BYTES / link_bytes_per_s(generation, card.link.width)
    return f"; 4 GiB of weights take about {seconds:.0f} s at generation {generation}{'' if certain else ', if it gets there under load'}"


def _lspci(card: Card) -> str | None:
    return f"sudo lspci -vv -s {card.pci_address.removeprefix('0000:')} | grep -E 'LnkCap:|LnkSta:'" if card.pci_address else None


def _watch(card: Card) -> str:
    if card.vendor == "nvidia":
        return f"nvidia-smi --query-gpu=pcie.link.gen.current,pcie.link.width.current,utilization.gpu --format=csv -l 1 -i {card.id}"
    return f"cat /sys/bus/pci/devices/{card.pci_address}/current_link_speed"


def pcie_replays(case: Case) -> Iterator[Finding]:
    """1. Not told: unknown. 2. None: ok. 3. Few: note. 4. From 100 on: warning."""
    for card in cards_of(case):
        replays = health_of(case, card).replays
        fix = f"nvidia-smi -q -i {card.id} | grep -i replay" if card.vendor == "nvidia" else None
        # 1
        if replays is None:
            yield on_card(
                Severity.UNKNOWN,
                card,
                "the driver has no PCIe replay counter for this card",
                "Replays are transfers that a bad riser garbled.",
            )
        # 2
        elif replays == 0:
            yield on_card(Severity.OK, card, "no PCIe replay since the driver was loaded")
        # 3, 4
        else:
            yield on_card(
                Severity.WARNING if replays >= REPLAYS_WARNING else Severity.NOTE,
                card,
                f"{replays} PCIe replays since the driver was loaded",
                "Each is a transfer that arrived garbled and was sent again: a sign of a bad riser or cable. From 100 on we warn; "
                "that line is ours, what counts is growth under load.",
                "NVML, nvmlDeviceGetPcieReplayCounter",
                fix,
                "Look twice under load: if it grows, swap the riser or its cable.",
            )


def bus_errors(case: Case) -> Iterator[Finding]:
    """1. The log is not read: nothing. 2. PCIe errors (AER) in it, by device: warning. 3. None, and there are cards: ok."""
    log = case.readings.log
    # 1
    if isinstance(log, Unread):
        return
    # 2
    cards = {card.pci_address: card for card in cards_of(case) if card.pci_address}
    for address, count in log.bus_errors:
        card = cards.get(address)
        yield Finding(
            Severity.WARNING,
            card.id if card else address,
            named(card) if card else f"PCI device {address}",
            f"{count} PCIe bus error(s) in the kernel log",
            "Corrected errors cost time, the next may not be correctable.",
            "Linux, PCI Express AER",
            f"sudo dmesg | grep '{address}.*PCIe Bus Error'",
            "Swap the riser or its cable.",
        )
    # 3
    if cards and not log.bus_errors:
        yield on_host(Severity.OK, "no PCIe bus error in the kernel log")


def memory_faults(case: Case) -> Iterator[Finding]:
    """1. Bad pages or rows: warning, error while a reboot is due to take them out. 2. ECC on and none: ok.
    3. Cards without ECC, in one finding: note, since a bad bit there gives wrong tokens and no error."""
    without = []
    for card in cards_of(case):
        health = health_of(case, card)
        # 1
        if health.bad_pages:
            severity = Severity.ERROR if health.bad_pages_pending else Severity.WARNING
            yield on_card(
                severity,
                card,
                f"{health.bad_pages} memory page(s) or row(s) out of use" + (", more at reboot" if health.bad_pages_pending else ""),
                "The memory is wearing out.",
                "NVIDIA, dynamic page retirement",
                f"nvidia-smi -q -i {card.id} -d PAGE_RETIREMENT,ROW_REMAPPER",
                "Reboot when rows are pending; take the card out of the plan when the number grows.",
            )
        # 2
        elif health.ecc_on:
            yield on_card(Severity.OK, card, "ECC is on and no page is out of use")
        else:
            without.append(card)
    # 3
    if without:
        yield on_host(
            Severity.NOTE,
            f"no ECC, or off, on {len(without)} card(s): {', '.join(named(card) for card in without)}",
            "A bad bit after years of mining gives wrong tokens there, not an error.",
            "PixelML/club-170hx, notes on memtest_vulkan",
            "memtest_vulkan",
            "Run it once per card, at serving temperature (interactive; it asks for the card).",
        )


def power_limits(case: Case) -> Iterator[Finding]:
    """1. Not told: unknown. 2. Below 57 % of the default: warning. 3. Capped: ok, lost at reboot. 4. The default: note.
    5. All cards together, against a PSU that no software can read: note."""
    total, all_told = 0.0, True
    for card in cards_of(case):
        health = health_of(case, card)
        limit, default = health.power_enforced_watts or card.power_limit_watts, health.power_default_watts
        total, all_told = total + (limit or 0), all_told and limit is not None
        # 1
        if limit is None or default is None:
            said = f"limit {limit:.0f} W, the default isn't told" if limit is not None else "the driver tells no power limit"
            yield on_card(Severity.UNKNOWN, card, said, "The sum of all cards must stay below what the PSU can give.")
            continue
        seen = f"limit {limit:.0f} W of {default:.0f} W by default"
        # 2
        if limit < DEEP_CAP * default:
            yield on_card(
                Severity.WARNING,
                card,
                seen,
                "At so deep a cap decoding may collapse and loading a model may fail.",
                _POWER_SOURCE,
                _limit(card, 0.75 * default),
            )
        # 3
        elif limit < default - 1:
            yield on_card(Severity.OK, card, f"{seen}; a cap is lost at reboot unless a boot unit sets it")
        # 4
        else:
            yield on_card(
                Severity.NOTE,
                card,
                seen,
                "Three quarters of the power cost decoding a few per cent (prefill and images more): cheaper and cooler.",
                _POWER_SOURCE,
                _limit(card, 0.75 * default),
            )
    # 5
    if len(cards_of(case)) > 1:
        known = f"{total:.0f} W" if all_told else f"at least {total:.0f} W"
        yield on_host(
            Severity.NOTE,
            f"the cards may draw {known} together; the PSU's rating is unknown (null)",
            "No software can read a PSU's label. The limits are averages, peaks are higher, and the host comes on top.",
            advice="Compare with the label on the PSU, and count what each riser and cable is rated for.",
        )


def _limit(card: Card, watts: float) -> str:
    if card.vendor == "nvidia":
        return f"sudo nvidia-smi -i {card.id} -pl {watts:.0f}"
    return f"echo {watts * 1e6:.0f} | sudo tee /sys/bus/pci/devices/{card.pci_address}/hwmon/hwmon*/power1_cap"


def persistence(case: Case) -> Iterator[Finding]:
    """NVIDIA only. 1. Not told: unknown. 2. Off: note. 3. On: ok."""
    for card in cards_of(case):
        if card.vendor != "nvidia":
            continue
        on = health_of(case, card).persistence
        # 1
        if on is None:
            yield on_card(Severity.UNKNOWN, card, "the driver doesn't tell the persistence mode")
        # 2
        elif not on:
            yield on_card(
                Severity.NOTE,
                card,
                "persistence mode is off",
                "Without a program on it the driver lets the card go: each start waits for it, and power limits are forgotten.",
                "NVIDIA, driver persistence",
                "sudo systemctl enable --now nvidia-persistenced || sudo nvidia-smi -pm 1",
            )
        # 3
        else:
            yield on_card(Severity.OK, card, "persistence mode is on")
