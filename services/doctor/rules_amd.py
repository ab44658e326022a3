"""Rules on AMD cards: may they be opened, and do they hang."""

from __future__ import annotations

from collections.abc import Iterator

from services.doctor.case import Case, cards_of, named, on_card
from services.doctor.finding import Finding, Severity, on_host
from services.doctor.readings import DeviceFile, KernelLog
from services.sizing.cards import spec_of
from services.sizing.engine_table import kind_of
from services.sizing.types import Card

KFD = "/dev/kfd"
_SOURCE = "AMD ROCm install guide; Mesa opens /dev/dri/renderD* only"


def render_nodes(case: Case) -> Iterator[Finding]:
    """For each AMD card: 1. no render node: error. 2. This user may not open it: warning in general, since containers are given the
    group's number, and error where they can't be. 3. Ok, with the number."""
    nodes = {node.path: node for node in case.readings.device_files}
    for card in cards_of(case):
        if card.vendor != "amd":
            continue
        node = nodes.get(card.render_node or "")
        # 1
        if node is None or not node.exists:
            yield on_card(
                Severity.ERROR,
                card,
                f"no render node {card.render_node or 'under /dev/dri'}",
                "llama.cpp reaches the card through it (Vulkan and ROCm alike).",
                _SOURCE,
                "sudo modprobe amdgpu && ls -l /dev/dri",
            )
        # 2
        elif not node.may_open:
            yield _refused(card, node, case)
        # 3
        else:
            yield on_card(Severity.OK, card, f"{node.path} may be opened (group {node.group}, number {node.gid})")


def _refused(card: Card, node: DeviceFile, case: Case) -> Finding:
    group = node.group if node.gid and node.group and not node.group.isdigit() else None
    join = "sudo usermod -aG {0} $USER && newgrp {0}"
    if group:
        fix = join.format(group)
    else:  # root's own, or a number without a name: nobody should join that
        fix = f"sudo groupadd -f render && sudo chgrp render {node.path} && sudo chmod 660 {node.path}\n{join.format('render')}"
    return on_card(
        Severity.ERROR,
        card,
        f"user {case.readings.machine.user} may not open {node.path} (group {node.group}, number {node.gid})",
        "`rigserve serve` runs engines as this user. Containers get the group by its number (RENDER_GID): `rigserve up` works.",
        _SOURCE,
        fix,
        f"For containers: RENDER_GID={node.gid} in .env."
        if node.gid
        else "Do this before `rigserve up`: containers never get root's group.",
    )


def kfd(case: Case) -> Iterator[Finding]:
    """Only where a card's llama.cpp is the ROCm build: 1. /dev/kfd is missing: error. 2. Not to be opened: error. 3. Ok."""
    rocm = [card for card in cards_of(case) if card.vendor == "amd" and _uses_rocm(card)]
    node = next((one for one in case.readings.device_files if one.path == KFD), None)
    if not rocm:
        return
    if node is None or not node.exists:  # 1
        yield on_host(
            Severity.ERROR,
            f"{KFD} is missing; {', '.join(named(card) for card in rocm)} would run ROCm builds",
            "ROCm programs reach the cards through it.",
            _SOURCE,
            "sudo modprobe amdgpu && ls -l /dev/kfd",
        )
    elif not node.may_open:  # 2
        yield on_host(
            Severity.ERROR,
            f"user {case.readings.machine.user} may not open {KFD} (group {node.group}, number {node.gid})",
            "ROCm programs reach the cards through it.",
            _SOURCE,
            f"sudo usermod -aG {node.group} $USER && newgrp {node.group}",
        )
    else:  # 3
        yield on_host(Severity.OK, f"{KFD} may be opened (group {node.group}, number {node.gid})")


def _uses_rocm(card: Card) -> bool:
    kind = kind_of(card, spec_of(card))
    return bool(kind and kind.llamacpp and kind.llamacpp.environment.endswith("rocm"))


def timeouts(case: Case) -> Iterator[Finding]:
    """amdgpu's ring timeouts and resets in the kernel log: warning."""
    log = case.readings.log
    if isinstance(log, KernelLog) and log.amdgpu_timeouts:
        yield on_host(
            Severity.WARNING,
            f"amdgpu reports {log.amdgpu_timeouts} hang(s) or reset(s) since boot",
            "An unstable memory clock or undervolt from mining, or a bad riser.",
            "Linux, amdgpu driver",
            "sudo dmesg | grep -iE 'amdgpu.*(timeout|reset)'",
            "Put clocks and voltages back to stock before serving.",
        )
