"""Whole rigs, played from captures: what the doctor finds on each, and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.doctor.case import boards
from services.doctor.diagnose import Case, diagnose
from services.doctor.finding import HOST, Severity
from services.doctor.readings import Cards, Docker, KernelLog, NoDocker, Toolkit, Unread
from tests.doctor.player import RIGS, load, of, readings, report, severities, sources, the

ERROR, WARNING, NOTE, UNKNOWN, OK = Severity


@pytest.mark.parametrize("rig", RIGS)
def test_every_finding_is_whole(rig: str, tmp_path: Path) -> None:
    found = report(rig, tmp_path)
    assert found.findings
    for finding in found.findings:
        assert finding.rule, finding
        assert finding.seen
        if finding.severity in (ERROR, WARNING):
            assert finding.why, finding.id
            assert finding.fix or finding.advice, finding.id
        if finding.severity is OK:
            assert not finding.fix
            assert "unknown" not in finding.seen
    order = [list(Severity).index(finding.severity) for finding in found.findings]
    assert order == sorted(order)


def test_a_clean_rig_has_no_error_and_no_warning(tmp_path: Path) -> None:
    found = report("clean_3060ti", tmp_path)
    assert (found.count(ERROR), found.count(WARNING)) == (0, 0)
    assert {finding.id for finding in found.findings if finding.severity is UNKNOWN} == {"pcie-generation"}
    assert "but the card is idle" in the(found, "pcie-generation").seen
    assert "llamacpp-cuda13" in the(found, "cuda-image").seen
    assert "all lanes" in the(found, "pcie-width").seen
    assert found.looked_at == "Ubuntu 24.04.3 LTS, kernel 6.8.0-87-generic, 1 card(s) that answer"


def test_p106_ignored_by_driver_590(tmp_path: Path) -> None:
    found = report("p106_on_590", tmp_path)
    branch = of(found, "driver-branch")
    assert [(one.severity, one.subject) for one in branch] == [(ERROR, "0000:01:00.0"), (ERROR, "0000:02:00.0")]
    assert "590.48.01" in branch[0].seen
    assert "Pascal" in branch[0].seen
    assert branch[0].fix == "sudo nvidia-driver-update 580.126.18 && sudo reboot"  # HiveOS
    assert not of(found, "cards-answer"), "the same cause is not told twice"
    assert severities(found, "toolkit") == [ERROR]
    assert "2 that don't" in found.looked_at


def test_the_ignoring_driver_is_known_from_the_log_alone(tmp_path: Path) -> None:
    rig = load("p106_on_590")
    del rig["commands"]["modinfo -F version nvidia"]
    from services.doctor.read import read

    found = diagnose(Case(read(tmp_path / "weights", sources(rig, tmp_path))))
    assert severities(found, "driver-branch") == [ERROR, ERROR]


def test_a_mixed_rig_on_535(tmp_path: Path) -> None:
    found = report("mixed_on_535", tmp_path)
    assert severities(found, "driver-branch") == [WARNING] * 3
    pascal = the(found, "cuda-image", "GPU-22222222-1111-4f5a-8b6c-7d8e9fa0b1c2")
    assert pascal.severity is ERROR
    assert "PTX" in pascal.seen
    ampere = the(found, "cuda-image", "GPU-0b1c2d3e-1111-4f5a-8b6c-7d8e9fa0b1c2")
    assert ampere.severity is WARNING
    assert "vllm-cuda" in ampere.seen
    assert len(of(found, "cuda-image", "GPU-33333333-1111-4f5a-8b6c-7d8e9fa0b1c2")) == 2  # falls back to CUDA 12, where it has PTX only
    holes = the(found, "toolkit-holes")
    for cve in ("CVE-2024-0132", "CVE-2025-23359", "CVE-2025-23266", "CVE-2025-23267", "CVE-2026-24260"):
        assert cve in holes.seen
    assert "1.19.1" in holes.advice
    assert severities(found, "docker-version") == [ERROR]
    assert severities(found, "compose-version") == [ERROR]
    assert "525.125.06" in the(found, "toolkit-cdi").seen
    assert severities(found, "container-limits") == [NOTE]
    assert severities(found, "memory") == [WARNING]
    assert "swapon" in (the(found, "memory").fix or "")
    assert severities(found, "clock") == [WARNING]
    assert severities(found, "persistence") == [NOTE, OK, OK]
    assert the(found, "power-limit", "GPU-22222222-1111-4f5a-8b6c-7d8e9fa0b1c2").severity is WARNING  # 90 of 180 W
    assert "415 W together" in the(found, "power-limit", HOST).seen
    assert "null" in the(found, "power-limit", HOST).seen


def test_a_card_that_fell_off_the_bus(tmp_path: Path) -> None:
    found = report("xid79", tmp_path)
    lost = of(found, "xid", "0000:07:00.0")
    assert [one.severity for one in lost] == [ERROR, ERROR]
    assert "Xid 79 once" in lost[0].seen
    assert "riser" in lost[0].advice
    (working,) = of(found, "xid", "GPU-0b1c2d3e-1111-4f5a-8b6c-7d8e9fa0b1c2")
    assert (working.severity, "Xid 43 2 times" in working.seen) == (NOTE, True)
    assert the(found, "cards-answer", "0000:07:00.0").severity is ERROR
    assert the(found, "pcie-errors").subject == "GPU-0b1c2d3e-1111-4f5a-8b6c-7d8e9fa0b1c2"
    assert "VLLM::EngineCor" in the(found, "memory-kills").seen


def test_risers(tmp_path: Path) -> None:
    found = report("riser_gen1_x1", tmp_path)
    pascal, turing = "GPU-5a3f2c1e-0000-4c2b-9d10-1f0a6b7c8d9e", "GPU-6a3f2c1e-0000-4c2b-9d10-1f0a6b7c8d9e"
    width = the(found, "pcie-width", pascal)
    assert width.severity is WARNING
    assert "about 21 s at generation 1" in width.seen  # 4 GiB / 0.20 GB/s
    assert the(found, "pcie-generation", pascal).severity is OK  # the highest that it can do
    falls_back = the(found, "pcie-generation", turing)
    assert (falls_back.severity, "for certain" in falls_back.seen) == (WARNING, True)
    assert [(one.severity, one.subject) for one in of(found, "pcie-replays")] == [(WARNING, pascal), (NOTE, turing)]


def test_an_idle_x1_riser_is_not_called_slow_for_certain(tmp_path: Path) -> None:
    width = the(report("mixed_on_535", tmp_path), "pcie-width", "GPU-0b1c2d3e-1111-4f5a-8b6c-7d8e9fa0b1c2")
    assert width.severity is NOTE
    assert "if it gets there under load" in width.seen


def test_a_tiny_host_of_a_plain_user(tmp_path: Path) -> None:
    found = report("tiny_host", tmp_path)
    log = the(found, "kernel-log")
    assert log.severity is UNKNOWN
    assert "Operation not permitted" in log.seen
    assert not of(found, "xid"), "an unread log proves nothing"
    assert not of(found, "memory-kills")
    docker = the(found, "docker")
    assert docker.severity is ERROR
    assert docker.fix == "sudo usermod -aG docker $USER && newgrp docker"
    assert (the(found, "clock").severity, "2010" in the(found, "clock").seen) == (ERROR, True)
    assert "hive-agent" in the(found, "port").seen
    assert severities(found, "disk") == [WARNING, UNKNOWN]  # the weights' place is full, docker's isn't told
    for rule in ("memory", "port", "cpu"):
        assert severities(found, rule) == [WARNING], rule
    assert "CVE-2026-24260" in the(found, "toolkit-holes").seen
    assert "CVE-2025-23266" not in the(found, "toolkit-holes").seen  # fixed in 1.17.8


def test_a_polaris_rig(tmp_path: Path) -> None:
    found = report("rx580", tmp_path)
    node = the(found, "amd-render-node")
    assert node.severity is ERROR
    assert node.fix == "sudo usermod -aG render $USER && newgrp render"
    assert "RENDER_GID=993" in node.advice
    assert not of(found, "amd-kfd"), "Polaris runs Vulkan, which needs no /dev/kfd"
    assert severities(found, "amd-hangs") == [WARNING]
    assert "limit 110 W of 145 W" in the(found, "power-limit").seen
    assert severities(found, "pcie-replays") == [UNKNOWN]
    assert not [one.id for one in found.findings if one.id.startswith(("driver-", "toolkit", "cuda", "xid"))]


def test_roots_own_node_is_given_to_render_not_the_user_to_root(tmp_path: Path) -> None:
    from services.doctor.read import read

    rig = load("rx580") | {"device_group": ["root", 0]}
    fix = the(diagnose(Case(read(tmp_path / "weights", sources(rig, tmp_path)))), "amd-render-node").fix or ""
    assert "chgrp render /dev/dri/renderD128" in fix
    assert "-aG root" not in fix


def test_no_docker_is_a_warning_and_hides_no_other_rule(tmp_path: Path) -> None:
    found = report("no_docker", tmp_path)
    assert severities(found, "docker") == [WARNING]
    assert "rigserve serve" in the(found, "docker").why
    assert not of(found, "docker-version") + of(found, "compose-version") + of(found, "container-limits")
    late = the(found, "kernel-log")
    assert (late.severity, "starts 4313 s after boot" in late.seen) == (NOTE, True)
    assert severities(found, "driver-branch") == [OK]


def test_what_the_readers_read(tmp_path: Path) -> None:
    got = readings("xid79", tmp_path)
    assert isinstance(got.cards, Cards)
    assert got.cards.health[0].busy_percent == 97
    assert isinstance(got.log, KernelLog)
    assert [(xid.address, xid.code, xid.count) for xid in got.log.xids] == [
        ("0000:01:00", 43, 2),
        ("0000:07:00", 79, 1),
        ("0000:07:00", 154, 1),
    ]
    assert got.log.from_s == 0.0
    assert isinstance(got.docker, Docker)
    assert (got.docker.engine, got.docker.compose, got.docker.runtimes) == ("28.5.2", "2.40.3", ("nvidia", "runc"))
    assert isinstance(got.toolkit, Toolkit)
    assert (got.toolkit.version, got.toolkit.hook_on_path) == ("1.18.2", True)
    assert got.swap_bytes == 8388604 * 1024
    assert not isinstance(got.listeners, Unread)
    assert [(one.port, one.address) for one in got.listeners] == [(631, "127.0.0.1")]
    assert [board.card is None for board in boards(Case(got))] == [False, True]
    assert isinstance(readings("no_docker", tmp_path / "other").docker, NoDocker)
