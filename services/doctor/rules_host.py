"""Rules on the host: memory, disks, ports, clock, CPU."""

from __future__ import annotations

from collections.abc import Iterator

from services.doctor.case import Case, cards_of
from services.doctor.finding import Finding, Severity, on_host
from services.doctor.readings import Disk, NoDocker, Unread
from services.sizing.engines import LLAMACPP_CPU_FLAGS, VLLM_CPU_FLAGS
from services.sizing.types import HostNeed, Placement
from services.sizing.units import GIB, gib

SMALL_HOST_BYTES = 10 * GIB
FREE_WITHOUT_PLAN_BYTES = 20 * GIB  # our own line: one vLLM image and one 8B model
RELEASE_YEAR = 2026
FREE_SPACE = "docker system df ; docker image prune ; df -h"
LARGER_DISK = "Set RIGSERVE_CACHE to a folder on a larger disk (a mining rig's flash drive is too small)."
_RAM_SOURCE = "BTCpro test: vLLM on 8 GB RAM works with 16 GB swap, without it the kernel kills it"
_MAKE_SWAP = (
    "sudo fallocate -l {size}G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile\n"
    "echo '/swapfile none swap sw 0 0' | sudo tee -a /etc/fstab"
)


def memory(case: Case) -> Iterator[Finding]:
    """1. RAM not told: unknown. 2. With a plan: its need within RAM: ok; with swap: warning; beyond: error; not all known: unknown.
    3. Without: a small host without swap: warning; a small one with swap: note; else ok."""
    ram, swap = case.readings.host.ram_bytes, case.readings.swap_bytes
    # 1
    if ram is None:
        yield on_host(Severity.UNKNOWN, "/proc/meminfo tells no memory size", fix="cat /proc/meminfo")
        return
    seen = f"{gib(ram)} RAM, {'swap unknown' if swap is None else f'{gib(swap)} swap' if swap else 'no swap'}"
    fix = None if swap else _MAKE_SWAP.format(size=16)
    # 2
    if case.plan and case.plan.placements:
        yield _against_plan(case.plan.placements, ram, swap or 0, seen)
    # 3
    elif ram < SMALL_HOST_BYTES and not swap:
        yield on_host(Severity.WARNING, seen, "The kernel kills an engine that needs more at load than there is.", _RAM_SOURCE, fix)
    elif ram < SMALL_HOST_BYTES:
        yield on_host(Severity.NOTE, seen, "Small: rigserve prefers llama.cpp (0.34 GB a process) over vLLM (3.4 GB) here.", _RAM_SOURCE)
    else:
        yield on_host(Severity.OK, seen)


def needed_bytes(needs: tuple[HostNeed, ...]) -> int:
    """Host memory when models are loaded one after the other: what all keep, and the largest extra that one takes while it loads.

    Worked number: kept 1 and 2 GiB, peaks 4 and 3 GiB: 1 + 2 + max(4 - 1, 3 - 2) = 6 GiB.
    """
    kept = [need.resident_bytes if need.resident_bytes is not None else need.ram_bytes or 0 for need in needs]
    extra = [max(0, (need.ram_bytes or 0) - own) for need, own in zip(needs, kept, strict=True)]
    return sum(kept) + max(extra, default=0)


def _against_plan(placements: tuple[Placement, ...], ram: int, swap: int, seen: str) -> Finding:
    needs = tuple(one.report.host for one in placements if one.report.host and one.report.host.ram_bytes is not None)
    untold = len(placements) - len(needs)
    need = needed_bytes(needs)
    said = f"{seen}; the plan needs {gib(need)} while its models load one by one, beside system and gateway"
    if untold:
        said += f" (and {untold} placement(s) whose need is not known)"
    missing = -(-(need - ram) // GIB)
    if need > ram + swap:
        fix = _MAKE_SWAP.format(size=max(16, missing))
        return on_host(
            Severity.ERROR, said, "The kernel would kill engines while they load.", _RAM_SOURCE, fix, "Or plan fewer or smaller models."
        )
    if need > ram:
        return on_host(Severity.WARNING, said, "It loads through swap: slowly, and the disk wears.", _RAM_SOURCE)
    return on_host(Severity.UNKNOWN if untold else Severity.OK, said)


def killed_for_memory(case: Case) -> Iterator[Finding]:
    """1. The log is not read: nothing. 2. Programs that the kernel killed for memory since boot: warning. 3. None: ok."""
    log = case.readings.log
    if isinstance(log, Unread):  # 1
        return
    if log.oom_kills:  # 2
        yield on_host(
            Severity.WARNING,
            f"{len(log.oom_kills)} program(s) killed for lack of memory since boot, last: {log.oom_kills[-1]}",
            '"Memory cgroup" means a container\'s own limit, else the whole host ran out.',
            "Linux, OOM killer",
            "sudo dmesg | grep -i 'killed process'",
            "More swap, a smaller plan, or a higher limit for that container.",
        )
    else:  # 3
        yield on_host(Severity.OK, "no program was killed for lack of memory since boot")


def disks(case: Case) -> Iterator[Finding]:
    """For each file system: 1. not read: unknown. 2. With a plan: what is known of its weights and images doesn't fit: error; it fits, but
    not all sizes are known: unknown; all fits: ok. 3. Without: under 20 GiB: warning, else ok. 4. Docker is there, but doesn't tell where
    it keeps images: unknown."""
    found = case.readings.disks
    # 1
    if isinstance(found, Unread):
        yield on_host(Severity.UNKNOWN, f"free space can't be read: {found.why}", fix="df -h")
        return
    for device in dict.fromkeys(disk.device for disk in found):
        here = tuple(disk for disk in found if disk.device == device)
        place = " and ".join(f"{disk.purpose} ({disk.path})" for disk in here)
        seen, free_bytes = f"{gib(here[0].free_bytes)} free of {gib(here[0].total_bytes)} for {place}", here[0].free_bytes
        # 2
        if case.plan and case.plan.placements:
            need, untold, words = _disk_need(case, here)
            seen += f"; the plan needs {words}, if none of it is there yet"
            if need > free_bytes:
                yield on_host(Severity.ERROR, seen, "A download or build would stop half way.", "", FREE_SPACE, LARGER_DISK)
            else:
                yield on_host(Severity.UNKNOWN if untold else Severity.OK, seen)
        # 3
        elif free_bytes < FREE_WITHOUT_PLAN_BYTES:
            why = "Under 20 GiB there is hardly room for an engine's image and one 8B model (our own line; give --plan for exact figures)."
            yield on_host(Severity.WARNING, seen, why, "", FREE_SPACE, LARGER_DISK)
        else:
            yield on_host(Severity.OK, seen)
    # 4
    docker = case.readings.docker
    if isinstance(docker, NoDocker) and docker.kind != "absent":
        yield on_host(Severity.UNKNOWN, "where container images are kept is not known: docker doesn't answer this user", fix="df -h")


def _disk_need(case: Case, disks_here: tuple[Disk, ...]) -> tuple[int, int, str]:
    """What a plan writes to one file system: bytes of known sizes, how many sizes are not known, and both in words."""
    purposes, placements = {disk.purpose for disk in disks_here}, case.plan.placements if case.plan else ()
    sizes: dict[str, list[int | None]] = {}
    if "model weights" in purposes:
        weights = {(one.model_id, one.variant_id): one.report.host.disk_bytes if one.report.host else None for one in placements}
        sizes["weights"] = list(weights.values())
    if "container images" in purposes:
        sizes["images"] = [case.image_bytes.get(name) for name in sorted({one.choice.environment for one in placements})]
    words = []
    for what, each in sizes.items():
        known = [size for size in each if size is not None]
        words += [f"{gib(sum(known))} of {what}"] if known else []
        words += [f"{len(each) - len(known)} {what} of unknown size"] if len(known) < len(each) else []
    every = [size for each in sizes.values() for size in each]
    return sum(size or 0 for size in every), every.count(None), " and ".join(words)


def gateway_port(case: Case) -> Iterator[Finding]:
    """1. Ports not read: unknown. 2. The gateway's is in use: warning, it may be rigserve itself. 3. Ok."""
    found = case.readings.listeners
    if isinstance(found, Unread):  # 1
        yield on_host(Severity.UNKNOWN, f"ports in use can't be read: {found.why}", fix=f"ss -ltnp 'sport = :{case.port}'")
        return
    users = [one for one in found if one.port == case.port]
    if users:  # 2
        by = users[0].process or "a program of another user (root sees which)"
        yield on_host(
            Severity.WARNING,
            f"port {case.port} is in use on {', '.join(one.address for one in users)} by {by}",
            "The gateway can't have it, unless this is the gateway.",
            fix=f"sudo ss -ltnp 'sport = :{case.port}'",
            advice="Stop that program, or choose another port: RIGSERVE_PORT in .env (containers), --port (rigserve serve).",
        )
    else:  # 3
        yield on_host(Severity.OK, f"port {case.port} is free for the gateway")


def clock(case: Case) -> Iterator[Finding]:
    """1. A year before this release: error. 2. NTP not told: unknown. 3. Not synchronized: warning. 4. Ok."""
    found = case.readings.clock
    fix = "sudo timedatectl set-ntp true && timedatectl"
    if found.year < RELEASE_YEAR:  # 1
        yield on_host(
            Severity.ERROR,
            f"the clock says {found.year}",
            "Certificates are not valid yet by it: every download fails. An empty battery on the board does this.",
            fix=fix,
            advice="Replace the board's battery (CR2032) if it comes back after power-off.",
        )
    elif found.synchronized is None:  # 2
        yield on_host(
            Severity.UNKNOWN,
            f"the clock says {found.year}; systemd doesn't tell whether NTP keeps it",
            "Logs, usage and rate limits of several rigs agree only by a common clock.",
            fix="timedatectl || chronyc tracking",
        )
    elif not found.synchronized:  # 3
        yield on_host(
            Severity.WARNING,
            f"the clock says {found.year} and is not synchronized",
            "Logs, usage and rate limits of several rigs agree only by a common clock.",
            fix=fix,
        )
    else:  # 4
        yield on_host(Severity.OK, "the clock is kept by NTP")


def cpu_flags(case: Case) -> Iterator[Finding]:
    """1. Flags not told, or no x86: unknown. 2. llama.cpp's set is whole: ok. 3. A plan runs what needs what is missing: error.
    4. Else warning."""
    host = case.readings.host
    # 1
    if not host.cpu_flags or host.machine not in (None, "x86_64", "AMD64"):
        yield on_host(Severity.UNKNOWN, f"{host.machine or 'this CPU'} tells no x86 instruction sets")
        return
    missing = sorted(LLAMACPP_CPU_FLAGS - set(host.cpu_flags))
    name = host.cpu_model or "the CPU"
    # 2
    if not missing:
        yield on_host(Severity.OK, f"{name} has {', '.join(sorted(LLAMACPP_CPU_FLAGS))}")
        return
    environments = {one.choice.environment for one in case.plan.placements} if case.plan else set()
    no_avx2 = not set(host.cpu_flags) >= VLLM_CPU_FLAGS
    hit = sorted(one for one in environments if one.startswith("llamacpp") or (one == "vllm-cpu" and no_avx2))
    # 3, 4
    yield on_host(
        Severity.ERROR if hit else Severity.WARNING,
        f"{name} has no {', '.join(missing)}" + (f"; planned: {', '.join(hit)}" if hit else ""),
        "llama.cpp's wheels are compiled for them, the GPU ones too, and die with SIGILL without; vLLM's CPU build needs avx2.",
        "xllamacpp.get_system_info() of the wheels (GGML_NATIVE=OFF)",
        advice="llama.cpp's own llama-server chooses its code by processor. " + ("vLLM on a GPU runs without." if cards_of(case) else ""),
    )
