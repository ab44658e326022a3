"""Readings in, findings out: every rule once, numbered as in docs/doctor.md. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from services.doctor import rules_amd, rules_cards, rules_docker, rules_driver, rules_host, rules_plan
from services.doctor.case import Case, boards, cards_of
from services.doctor.finding import Finding, Report, Severity


@dataclass(frozen=True, slots=True)
class Rule:
    number: int
    id: str
    question: str
    check: Callable[[Case], Iterator[Finding]]


_TABLE: tuple[tuple[str, str, Callable[[Case], Iterator[Finding]]], ...] = (
    ("cards-answer", "Does every card answer its driver?", rules_driver.cards_answer),
    ("driver-branch", "Is NVIDIA's driver branch right for each card?", rules_driver.driver_branch),
    ("driver-open", "Are NVIDIA's open modules loaded although a card needs the proprietary ones?", rules_driver.open_modules),
    ("driver-nouveau", "Does nouveau hold a card?", rules_driver.nouveau),
    ("cuda-image", "Can the driver start the images that each card gets?", rules_driver.images_start),
    ("kernel-log", "Can the kernel log be read, and whole?", rules_cards.kernel_log),
    ("xid", "Did NVIDIA's driver log errors (Xid)?", rules_cards.xids),
    ("pcie-width", "How many PCIe lanes has each card, of how many?", rules_cards.pcie_width),
    ("pcie-generation", "Which PCIe generation, of which?", rules_cards.pcie_generation),
    ("pcie-replays", "Are transfers sent again (riser)?", rules_cards.pcie_replays),
    ("pcie-errors", "Did the kernel log PCIe errors?", rules_cards.bus_errors),
    ("memory-faults", "Has a card bad memory, and would one be told?", rules_cards.memory_faults),
    ("power-limit", "What may each card draw, and all together?", rules_cards.power_limits),
    ("persistence", "Does the driver stay with idle cards?", rules_cards.persistence),
    ("amd-render-node", "May each AMD card be opened?", rules_amd.render_nodes),
    ("amd-kfd", "May ROCm's device be opened, where it is needed?", rules_amd.kfd),
    ("amd-hangs", "Did amdgpu log hangs?", rules_amd.timeouts),
    ("docker", "Does docker answer this user?", rules_docker.docker_works),
    ("docker-version", "Is the docker engine new enough?", rules_docker.docker_version),
    ("compose-version", "Is compose there and new enough?", rules_docker.compose_version),
    ("container-limits", "Can the kernel keep containers' limits?", rules_docker.limits_work),
    ("toolkit", "Can containers get NVIDIA cards?", rules_docker.toolkit_there),
    ("toolkit-holes", "Has the NVIDIA Container Toolkit known holes?", rules_docker.toolkit_holes),
    ("toolkit-cdi", "Is the CDI file of the driver that runs?", rules_docker.cdi_is_current),
    ("memory", "Is there host memory for the plan?", rules_host.memory),
    ("memory-kills", "Did the kernel kill programs for memory?", rules_host.killed_for_memory),
    ("disk", "Is there disk for images and weights?", rules_host.disks),
    ("port", "Is the gateway's port free?", rules_host.gateway_port),
    ("clock", "Is the clock right?", rules_host.clock),
    ("cpu", "Has the CPU what the engines are compiled for?", rules_host.cpu_flags),
    ("plan-cards", "Is the plan for the cards that are here?", rules_plan.planned_cards),
)
RULES = tuple(Rule(number, *row) for number, row in enumerate(_TABLE, start=1))
_ORDER = tuple(Severity)


def diagnose(case: Case) -> Report:
    """Every finding, the worst first, then by rule."""
    found = [replace(finding, rule=rule.number, id=rule.id) for rule in RULES for finding in rule.check(case)]
    found.sort(key=lambda finding: (_ORDER.index(finding.severity), finding.rule))
    return Report(_looked_at(case), tuple(found))


def _looked_at(case: Case) -> str:
    machine, silent = case.readings.machine, sum(board.card is None for board in boards(case))
    cards = f"{len(cards_of(case))} card(s) that answer" + (f", {silent} that don't" if silent else "")
    return f"{machine.os_name}, kernel {machine.kernel}, {cards}"
