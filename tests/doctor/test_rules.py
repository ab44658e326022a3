"""Every rule at its edges: readings of a clean rig with one thing changed."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.doctor.case import Case
from services.doctor.diagnose import RULES, diagnose
from services.doctor.finding import Finding, Severity
from services.doctor.read_kernel import parse_log
from services.doctor.readings import CardHealth, Cards, CdiSpec, Disk, Docker, Driver, Listener, Readings, Toolkit, Unread
from services.doctor.rules_docker import HOLES
from services.doctor.rules_host import needed_bytes
from services.doctor.xid import MEANINGS
from services.hardware.pci import PciDevice
from services.sizing.cards import parse_cards, simulated_cpu_card
from services.sizing.catalogue import load_catalogue
from services.sizing.plan import make_plan
from services.sizing.types import Card, Host, HostNeed, PcieLink, Plan
from tests.doctor.player import load, of, readings, the

ROOT = Path(__file__).parents[2]
GIB = 2**30
ERROR, WARNING, NOTE, UNKNOWN, OK = Severity


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Readings:
    return readings("clean_3060ti", tmp_path_factory.mktemp("rig"))


def one(got: Readings, rule: str, plan: Plan | None = None, **images: int) -> Finding:
    return the(diagnose(Case(got, plan, 8000, images)), rule)


def with_card(got: Readings, health: dict[str, Any] | None = None, **changes: Any) -> Readings:
    assert isinstance(got.cards, Cards)
    card = replace(got.cards.cards[0], **changes)
    return replace(got, cards=Cards((card,), (replace(got.cards.health[0], card_id=card.id, **(health or {})),), ()))


# --- drivers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "version", "severity"),
    [
        ("6.1", "580.126.18", OK),
        ("6.1", "590.44.01", ERROR),
        ("7.0", "595.58.03", ERROR),
        ("7.5", "590.44.01", OK),
        ("8.6", "610.43.03", OK),
        ("8.6", "550.54.14", WARNING),
        ("8.6", "470.239.06", ERROR),
        ("6.1", "535.146.02", WARNING),
        ("3.5", "470.239.06", NOTE),
    ],
)
def test_driver_branches(clean: Readings, capability: str, version: str, severity: Severity) -> None:
    assert one(with_card(clean, compute_capability=capability, driver_version=version, spec=None), "driver-branch").severity is severity


def test_no_driver_version_at_all_is_unknown(clean: Readings) -> None:
    got = replace(clean, cards=Cards((), (), ("NVIDIA: NVML says: the NVIDIA driver is not loaded.",)), driver=Driver(None, False))
    found = diagnose(Case(got))
    assert the(found, "driver-branch").severity is UNKNOWN
    assert the(found, "cards-answer").severity is ERROR


def test_open_modules_do_not_drive_pascal(clean: Readings) -> None:
    assert (
        one(replace(with_card(clean, compute_capability="6.1", spec=None), driver=Driver("580.126.18", True, True)), "driver-open").severity
        is ERROR
    )
    assert not of(diagnose(Case(replace(clean, driver=Driver("580.126.18", True, True)))), "driver-open")  # Ampere: as it should be


def test_nouveau(clean: Readings) -> None:
    found = one(replace(clean, bus=(PciDevice("0000:01:00.0", 0x10DE, "2489", "nouveau"),)), "driver-nouveau")
    assert found.severity is ERROR
    assert "modprobe.d" in (found.fix or "")


@pytest.mark.parametrize(
    ("os_id", "words"),
    [
        ("hiveos", "nvidia-driver-update 580"),
        ("ubuntu", "apt-get install -y nvidia-driver-580"),
        ("arch", ".run --kernel-module-type=proprietary"),
    ],
)
def test_the_fix_is_the_systems_own(clean: Readings, os_id: str, words: str) -> None:
    got = replace(with_card(clean, driver_version="535.1.1"), machine=replace(clean.machine, os_id=os_id))
    assert words in (one(got, "driver-branch").fix or "")


# --- cards ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "busy", "severity"),
    [
        (PcieLink(4, 16, 4, 16), 0, OK),
        (PcieLink(1, 16, 4, 16), 0, UNKNOWN),
        (PcieLink(1, 16, 4, 16), 97, WARNING),
        (PcieLink(1, 16, 4, 16), None, UNKNOWN),
        (PcieLink(None, 16, 4, 16), 0, UNKNOWN),
        (None, 0, UNKNOWN),
    ],
)
def test_pcie_generation(clean: Readings, link: PcieLink | None, busy: int | None, severity: Severity) -> None:
    assert one(with_card(clean, {"busy_percent": busy}, link=link), "pcie-generation").severity is severity


@pytest.mark.parametrize(
    ("link", "busy", "severity"),
    [
        (PcieLink(4, 16, 4, 16), 0, OK),
        (PcieLink(1, 1, 1, 16), 0, WARNING),
        (PcieLink(1, 1, 3, 16), 0, NOTE),
        (PcieLink(1, 1, 3, 16), 99, WARNING),
        (PcieLink(3, 1, 3, 16), 99, NOTE),
        (PcieLink(1, 4, 1, 4), 0, OK),
        (PcieLink(None, None), 0, UNKNOWN),
        (None, 0, UNKNOWN),
    ],
)
def test_pcie_width(clean: Readings, link: PcieLink | None, busy: int | None, severity: Severity) -> None:
    assert one(with_card(clean, {"busy_percent": busy}, link=link), "pcie-width").severity is severity


@pytest.mark.parametrize(("replays", "severity"), [(None, UNKNOWN), (0, OK), (1, NOTE), (99, NOTE), (100, WARNING)])
def test_replays(clean: Readings, replays: int | None, severity: Severity) -> None:
    assert one(with_card(clean, {"replays": replays}), "pcie-replays").severity is severity


@pytest.mark.parametrize(
    ("limit", "default", "severity"),
    [(200, 200, NOTE), (150, 200, OK), (113, 200, WARNING), (115, 200, OK), (None, 200, UNKNOWN), (150, None, UNKNOWN)],
)
def test_power(clean: Readings, limit: float | None, default: float | None, severity: Severity) -> None:
    got = with_card(clean, {"power_enforced_watts": limit, "power_default_watts": default}, power_limit_watts=None)
    assert one(got, "power-limit").severity is severity


@pytest.mark.parametrize(
    ("health", "severity"),
    [
        ({"bad_pages": 3, "bad_pages_pending": True, "ecc_on": True}, ERROR),
        ({"bad_pages": 3, "bad_pages_pending": False, "ecc_on": True}, WARNING),
        ({"bad_pages": 0, "ecc_on": True}, OK),
        ({"ecc_on": False}, NOTE),
        ({"ecc_on": None}, NOTE),
    ],
)
def test_memory_faults(clean: Readings, health: dict[str, Any], severity: Severity) -> None:
    assert one(with_card(clean, health), "memory-faults").severity is severity


@pytest.mark.parametrize(("persistence", "severity"), [(True, OK), (False, NOTE), (None, UNKNOWN)])
def test_persistence(clean: Readings, persistence: bool | None, severity: Severity) -> None:
    assert one(with_card(clean, {"persistence": persistence}), "persistence").severity is severity


def test_a_card_whose_driver_tells_nothing_is_never_ok(clean: Readings) -> None:
    assert isinstance(clean.cards, Cards)
    card = clean.cards.cards[0]
    bare = Card(card.id, card.name, "nvidia", card.total_bytes, pci_address=card.pci_address)
    found = diagnose(Case(replace(clean, cards=Cards((bare,), (CardHealth(bare.id),), ()), driver=Driver(None, True))))
    for rule in ("driver-branch", "pcie-width", "pcie-generation", "pcie-replays", "power-limit", "persistence"):
        assert [one.severity for one in of(found, rule)] == [UNKNOWN], rule


@pytest.mark.parametrize("code", [79, 48, 154, 43, 999])
def test_xids_by_the_table(clean: Readings, code: int) -> None:
    log = parse_log(f"[    0.0] NVRM: Xid (PCI:0000:01:00): {code}, words\n", "dmesg")
    expected = MEANINGS[code].severity if code in MEANINGS else WARNING
    assert one(replace(clean, log=log), "xid").severity is expected


# --- containers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "open_holes"),
    [("1.16.1", 5), ("1.16.2", 4), ("1.17.3", 4), ("1.17.4", 3), ("1.17.7", 3), ("1.17.8", 1), ("1.19.0", 1), ("1.19.1", 0), ("1.20.0", 0)],
)
def test_toolkit_floors(clean: Readings, version: str, open_holes: int) -> None:
    found = one(replace(clean, toolkit=Toolkit(version, True)), "toolkit-holes")
    assert found.severity is (WARNING if open_holes else OK)
    assert len(re.findall(r"CVE-\d{4}-\d+ \(", found.seen)) == open_holes


def test_every_hole_has_a_source() -> None:
    assert all(hole.source and re.fullmatch(r"CVE-\d{4}-\d{4,}", hole.cve) for hole in HOLES)


@pytest.mark.parametrize(
    ("toolkit", "runtimes", "severity"),
    [
        (Toolkit(None, False), ("runc",), ERROR),
        (Toolkit("1.19.1", False), ("runc",), ERROR),
        (Toolkit("1.19.1", False), ("nvidia", "runc"), OK),
        (Toolkit(None, True), ("runc",), OK),
        (Toolkit("1.19.1", False, (CdiSpec("/etc/cdi/nvidia.yaml", ()),)), ("runc",), OK),
        (Unread("nvidia-ctk did not end within 8 s"), ("runc",), UNKNOWN),
    ],
)
def test_ways_into_containers(clean: Readings, toolkit: Toolkit | Unread, runtimes: tuple[str, ...], severity: Severity) -> None:
    assert isinstance(clean.docker, Docker)
    assert one(replace(clean, toolkit=toolkit, docker=replace(clean.docker, runtimes=runtimes)), "toolkit").severity is severity


def test_a_hook_without_a_version_is_unknown_not_safe(clean: Readings) -> None:
    assert one(replace(clean, toolkit=Toolkit(None, True)), "toolkit-holes").severity is UNKNOWN


@pytest.mark.parametrize(
    ("engine", "compose", "of_engine", "of_compose"),
    [
        ("20.10.24", None, ERROR, ERROR),
        ("23.0.6", "1.29.2", WARNING, ERROR),
        ("24.0.9", "2.19.1", WARNING, ERROR),
        ("25.0.5", "2.20.0", OK, WARNING),
        ("26.1.5+dfsg1", "2.26.1-4", OK, OK),
    ],
)
def test_docker_versions(clean: Readings, engine: str, compose: str | None, of_engine: Severity, of_compose: Severity) -> None:
    found = diagnose(Case(replace(clean, docker=Docker(engine, compose, ("nvidia",), "/var/lib/docker", "2"))))
    assert (the(found, "docker-version").severity, the(found, "compose-version").severity) == (of_engine, of_compose)


@pytest.mark.parametrize(
    ("version", "missing", "severity"), [("2", (), OK), ("1", (), NOTE), (None, (), UNKNOWN), ("1", ("memory", "swap"), WARNING)]
)
def test_limits(clean: Readings, version: str | None, missing: tuple[str, ...], severity: Severity) -> None:
    assert (
        one(
            replace(clean, docker=Docker("28.5.2", "2.40.3", ("nvidia",), "/var/lib/docker", version, missing)), "container-limits"
        ).severity
        is severity
    )


# --- host ----------------------------------------------------------------------------------------------------------------


def test_host_memory_while_models_load_one_by_one() -> None:
    assert needed_bytes((HostNeed(4 * GIB, None, 1 * GIB), HostNeed(3 * GIB, None, 2 * GIB))) == 6 * GIB
    assert needed_bytes(()) == 0
    assert needed_bytes((HostNeed(2 * GIB, None),)) == 2 * GIB  # what stays is not known: all of it


def planned(cards: str, host: Host, *wants: tuple[str, int]) -> Plan:
    return make_plan(host, parse_cards(cards), load_catalogue(), want=list(wants))


@pytest.fixture(scope="module")
def plan() -> Plan:
    flags = ("avx2", "bmi2", "f16c", "fma")
    made = planned(
        "RTX 3060 Ti#GPU-0b1c2d3e-1111-4f5a-8b6c-7d8e9fa0b1c2",
        Host(16 * GIB, 14 * GIB, None, 12, flags, "x86_64"),
        ("llama-3.1-8b-instruct", 1),
    )
    assert made.placements
    return made


def test_memory_against_a_plan(clean: Readings, plan: Plan) -> None:
    assert one(clean, "memory", plan).severity is OK
    need = needed_bytes(tuple(placement.report.host for placement in plan.placements if placement.report.host))
    short = replace(clean, host=replace(clean.host, ram_bytes=need - 1))
    assert one(short, "memory", plan).severity is WARNING  # swap holds the rest
    found = one(replace(short, swap_bytes=0), "memory", plan)
    assert found.severity is ERROR
    assert "fallocate -l 16G" in (found.fix or "")
    assert one(replace(clean, host=replace(clean.host, ram_bytes=None)), "memory", plan).severity is UNKNOWN


def test_a_plan_whose_need_is_not_known_is_unknown(clean: Readings, plan: Plan) -> None:
    blind = replace(plan.placements[0], report=replace(plan.placements[0].report, host=None))
    assert one(clean, "memory", replace(plan, placements=(blind,))).severity is UNKNOWN


def test_disk_against_a_plan(clean: Readings, plan: Plan) -> None:
    assert plan.placements[0].report.host
    weights = plan.placements[0].report.host.disk_bytes
    assert weights
    environment = plan.placements[0].choice.environment
    roomy = (
        Disk("container images", "/var/lib/docker", 1, weights + GIB, 99 * GIB),
        Disk("model weights", "/w", 1, weights + GIB, 99 * GIB),
    )
    blind = one(replace(clean, disks=roomy), "disk", plan)
    assert (blind.severity, "1 images of unknown size" in blind.seen) == (UNKNOWN, True)
    assert one(replace(clean, disks=roomy), "disk", plan, **{environment: GIB // 2}).severity is OK
    full = one(replace(clean, disks=roomy), "disk", plan, **{environment: 2 * GIB})  # one file system has to hold both
    assert full.severity is ERROR
    apart = (roomy[0], replace(roomy[1], device=2))
    assert [
        finding.severity for finding in of(diagnose(Case(replace(clean, disks=apart), plan, 8000, {environment: 2 * GIB})), "disk")
    ] == [OK, OK]
    assert one(replace(clean, disks=Unread("the file systems did not answer within 20 s")), "disk", plan).severity is UNKNOWN


def test_planned_images_that_the_driver_can_not_start(clean: Readings, plan: Plan) -> None:
    found = one(with_card(clean, driver_version="550.54.14"), "cuda-image", plan)
    assert found.severity is ERROR
    assert plan.placements[0].choice.environment in found.seen


def test_plan_cards(clean: Readings, plan: Plan) -> None:
    assert one(clean, "plan-cards", plan).severity is OK
    gone = one(replace(clean, cards=Cards((), (), ())), "plan-cards", plan)
    assert gone.severity is ERROR
    assert "GPU-0b1c2d3e" in gone.seen
    assert one(with_card(clean, free_bytes=GIB), "plan-cards", plan).severity is WARNING
    host = Host(16 * GIB, 14 * GIB, None, 4, ("avx2", "bmi2", "f16c", "fma"), "x86_64")
    simulated = make_plan(host, (simulated_cpu_card(4 * GIB),), load_catalogue())
    assert one(clean, "plan-cards", simulated).severity is NOTE


def test_a_cpu_without_avx2_under_a_plan(clean: Readings, plan: Plan) -> None:
    old = replace(clean, host=replace(clean.host, cpu_flags=("sse4_2", "popcnt")))
    assert one(old, "cpu").severity is WARNING
    uses_llamacpp = any(placement.choice.environment.startswith("llamacpp") for placement in plan.placements)
    assert one(old, "cpu", plan).severity is (ERROR if uses_llamacpp else WARNING)
    assert one(replace(clean, host=replace(clean.host, cpu_flags=())), "cpu").severity is UNKNOWN
    assert one(replace(clean, host=replace(clean.host, machine="aarch64")), "cpu").severity is UNKNOWN


def test_ports(clean: Readings) -> None:
    taken = one(replace(clean, listeners=(Listener(8000, "0.0.0.0"),)), "port")
    assert taken.severity is WARNING
    assert "another user" in taken.seen
    assert one(replace(clean, listeners=(Listener(8001, "0.0.0.0", "nginx"),)), "port").severity is OK
    assert one(replace(clean, listeners=Unread("no /proc")), "port").severity is UNKNOWN


@pytest.mark.parametrize(
    ("year", "synchronized", "severity"), [(2026, True, OK), (2027, None, UNKNOWN), (2026, False, WARNING), (1970, True, ERROR)]
)
def test_clock(clean: Readings, year: int, synchronized: bool | None, severity: Severity) -> None:
    assert one(replace(clean, clock=replace(clean.clock, year=year, synchronized=synchronized)), "clock").severity is severity


# --- the room ------------------------------------------------------------------------------------------------------------


def test_rules_are_pure() -> None:
    """What decides may import nothing that reads a machine."""
    for path in [
        *(ROOT / "services/doctor").glob("rules_*.py"),
        *(ROOT / f"services/doctor/{name}.py" for name in ("case", "diagnose", "advice", "xid")),
    ]:
        heads = {name.split(".")[0] for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))) for name in _imports(node)}
        assert not heads & {"os", "subprocess", "pathlib", "time", "shutil", "datetime", "threading"}, path


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def test_the_docs_list_every_rule() -> None:
    rows = re.findall(r"^\| (\d+) \| `([a-z-]+)` \| (.+?) \|", (ROOT / "docs/doctor.md").read_text(encoding="utf8"), re.MULTILINE)
    assert rows == [(str(rule.number), rule.id, rule.question) for rule in RULES]


def test_every_rule_says_its_tree() -> None:
    for rule in RULES:
        assert rule.check.__doc__, rule.id


def test_captures_say_that_they_are_made_by_hand() -> None:
    for name in ("clean_3060ti", "p106_on_590", "mixed_on_535", "xid79", "riser_gen1_x1", "tiny_host", "no_docker"):
        assert "by hand" in load(name)["about"]
