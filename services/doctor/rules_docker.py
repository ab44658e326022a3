"""Rules on containers: docker, compose, limits, and how cards get into containers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from services.doctor.advice import CONFIGURE_DOCKER, TOOLKIT, TOOLKIT_REPOSITORY, WRITE_CDI, install
from services.doctor.case import Case, boards, driver_version, version_of
from services.doctor.finding import Finding, Severity, on_host
from services.doctor.readings import Docker, NoDocker, Toolkit, Unread

OLDEST_ENGINE = (23,)
FULL_ENGINE = (25,)
OLDEST_COMPOSE = (2, 20)
TRIED_COMPOSE = (2, 26)
NEWER = "Debian 12's own is 20.10, too old: take Debian 13's, or Docker's own repository as its install guide says."
_TRIED = "tried with engines 20.10 and 26.1, compose 1.29 and 2.26"


@dataclass(frozen=True, slots=True)
class Hole:
    """A published hole of the NVIDIA Container Toolkit. `fixed_in` is the first version without it."""

    cve: str
    fixed_in: str
    what: str
    source: str


# All five let an image that is made for it reach out of its container. Bulletin numbers are NVIDIA's (answers/detail/a_id).
HOLES = (
    Hole("CVE-2024-0132", "1.16.2", "a crafted image gets at the host's files (not where CDI is used), CVSS 9.0", "NVIDIA bulletin 5582"),
    Hole("CVE-2025-23359", "1.17.4", "a way around the fix of CVE-2024-0132, CVSS 8.3", "NVIDIA bulletin 5616; containers/toolbox#1627"),
    Hole(
        "CVE-2025-23266",
        "1.17.8",
        "NVIDIAScape: a crafted image runs code as root on the host, CVSS 9.0",
        "NVIDIA bulletin 5659 (all versions up to 1.17.7; with CDI only before 1.17.5)",
    ),
    Hole("CVE-2025-23267", "1.17.8", "the update-ldcache hook follows a crafted image's links, CVSS 8.5", "NVIDIA bulletin 5659"),
    Hole(
        "CVE-2026-24260", "1.19.1", "a race by which a crafted image may run code on the host, CVSS 8.5", "NVIDIA bulletin 5850, June 2026"
    ),
)


def docker_works(case: Case) -> Iterator[Finding]:
    """1. No docker: warning. 2. No permission: error. 3. No answer: error. 4. Ok."""
    found, machine = case.readings.docker, case.readings.machine
    if isinstance(found, Docker):
        yield on_host(Severity.OK, f"docker engine {found.engine} answers")  # 4
    elif found.kind == "absent":  # 1
        yield on_host(
            Severity.WARNING,
            found.said,
            "`rigserve up` runs one container per card. `rigserve serve` needs no docker.",
            fix=install(machine, "docker.io"),
            advice=NEWER,
        )
    elif found.kind == "refused":  # 2
        yield on_host(
            Severity.ERROR,
            f"user {machine.user} may not use docker (groups: {', '.join(machine.groups) or 'none'}): {found.said}",
            "`rigserve up` talks to docker as this user.",
            "docs.docker.com, Linux post-installation",
            "sudo usermod -aG docker $USER && newgrp docker",
            "The docker group is as good as root: add only who may be root.",
        )
    else:  # 3
        yield on_host(
            Severity.ERROR,
            f"the docker engine does not answer: {found.said}",
            "`rigserve up` can't start anything.",
            fix="sudo systemctl enable --now docker && sudo journalctl -u docker -n 30 --no-pager",
        )


def docker_version(case: Case) -> Iterator[Finding]:
    """1. Before 23: error, the images can't be built. 2. Before 25: warning. 3. Ok."""
    found = case.readings.docker
    if not isinstance(found, Docker):
        return
    version, fix = version_of(found.engine), install(case.readings.machine, "docker.io")
    if version < OLDEST_ENGINE:  # 1
        yield on_host(
            Severity.ERROR,
            f"docker engine {found.engine}",
            "It can't build the images (no named build contexts, no heredocs) and hands out no card through CDI.",
            _TRIED,
            fix,
            NEWER,
        )
    elif version < FULL_ENGINE:  # 2
        yield on_host(
            Severity.WARNING,
            f"docker engine {found.engine}",
            "Before 25 there is no start_interval for health checks and no CDI: starts are noticed later.",
            _TRIED,
            fix,
            NEWER,
        )
    else:  # 3
        yield on_host(Severity.OK, f"docker engine {found.engine} is new enough")


def compose_version(case: Case) -> Iterator[Finding]:
    """1. No `docker compose`: error. 2. Version 1 or before 2.20: error. 3. Before 2.26, the oldest tried: warning. 4. Ok."""
    found = case.readings.docker
    if not isinstance(found, Docker):
        return
    fix = install(case.readings.machine, "docker-compose-plugin")
    advice = (
        "The package's name: docker-compose-plugin (Docker's repository), docker-compose-v2 (Ubuntu), docker-compose (Debian 13 and later)."
    )
    if found.compose is None:  # 1
        yield on_host(
            Severity.ERROR,
            "`docker compose` is not there",
            "`rigserve up` is compose. The old docker-compose 1 can't read our file.",
            _TRIED,
            fix,
            advice,
        )
    elif version_of(found.compose) < OLDEST_COMPOSE:  # 2
        yield on_host(
            Severity.ERROR,
            f"compose {found.compose}",
            "It lacks what our file uses (up --wait, named build contexts).",
            _TRIED,
            fix,
            advice,
        )
    elif version_of(found.compose) < TRIED_COMPOSE:  # 3
        yield on_host(Severity.WARNING, f"compose {found.compose}", "2.26 is the oldest that was tried with our file.", _TRIED, fix, advice)
    else:  # 4
        yield on_host(Severity.OK, f"compose {found.compose} is new enough")


def toolkit_there(case: Case) -> Iterator[Finding]:
    """With NVIDIA cards and docker: 1. can't tell: unknown. 2. Not installed: error. 3. Installed, but docker was never told: error.
    4. Ok, and by which way cards get in."""
    found, docker = case.readings.toolkit, case.readings.docker
    if not boards(case) or not isinstance(docker, Docker):
        return
    machine = case.readings.machine
    get = f"{install(machine, TOOLKIT)}\n{CONFIGURE_DOCKER}"
    # 1
    if isinstance(found, Unread):
        yield on_host(Severity.UNKNOWN, f"the NVIDIA Container Toolkit can't be asked: {found.why}", fix="nvidia-ctk --version")
        return
    ways = _ways(found, docker)
    # 2
    if found.version is None and not ways:
        yield on_host(
            Severity.ERROR,
            "the NVIDIA Container Toolkit is not installed",
            'Containers can\'t get a card: "could not select device driver nvidia with capabilities: [[gpu]]".',
            "seen with engine 26.1",
            get,
            TOOLKIT_REPOSITORY,
        )
    # 3
    elif not ways:
        yield on_host(
            Severity.ERROR,
            f"toolkit {found.version} is installed, but there is no hook, no nvidia runtime, no CDI file",
            "Containers can't get a card.",
            "NVIDIA Container Toolkit, install guide",
            CONFIGURE_DOCKER,
        )
    # 4
    else:
        yield on_host(Severity.OK, f"containers get cards by {', '.join(ways)}")


def _ways(toolkit: Toolkit, docker: Docker) -> list[str]:
    ways = ["the toolkit's hook"] if toolkit.hook_on_path else []
    ways += ["docker's nvidia runtime"] if "nvidia" in docker.runtimes else []
    return ways + [f"CDI ({spec.path})" for spec in toolkit.cdi_specs]


def toolkit_holes(case: Case) -> Iterator[Finding]:
    """1. Not installed, or can't tell: said by the rule before. 2. A version with known holes: warning with each. 3. Ok."""
    found = case.readings.toolkit
    if not isinstance(found, Toolkit) or found.version is None:
        if isinstance(found, Toolkit) and found.hook_on_path:
            yield on_host(
                Severity.UNKNOWN,
                "a toolkit hook is on the PATH, but neither nvidia-ctk nor nvidia-container-cli tells a version",
                "So nobody can say which published holes it has.",
                fix="nvidia-ctk --version",
            )
        return
    open_holes = [hole for hole in HOLES if version_of(found.version) < version_of(hole.fixed_in)]
    floor = max((hole.fixed_in for hole in HOLES), key=version_of)
    if open_holes:
        yield on_host(
            Severity.WARNING,
            f"toolkit {found.version}: " + "; ".join(f"{hole.cve} ({hole.what})" for hole in open_holes),
            "An image made for it breaks out of its container. Run only images that you built until it is updated.",
            "; ".join(dict.fromkeys(hole.source for hole in open_holes)),
            f"{install(case.readings.machine, TOOLKIT)}\nsudo systemctl restart docker",
            f"{floor} or newer closes all of them. {TOOLKIT_REPOSITORY}",
        )
    else:
        yield on_host(Severity.OK, f"toolkit {found.version} is at or above {floor}, which closed the last hole in our table")


def cdi_is_current(case: Case) -> Iterator[Finding]:
    """A CDI file that names another driver's libraries than the one that runs: error."""
    found, version = case.readings.toolkit, driver_version(case)
    for spec in found.cdi_specs if isinstance(found, Toolkit) else ():
        if version and spec.driver_versions and version not in spec.driver_versions:
            yield on_host(
                Severity.ERROR,
                f"{spec.path} is for driver {', '.join(spec.driver_versions)}; {version} runs",
                "It was written before a driver update: containers would look for libraries that are gone.",
                "NVIDIA Container Toolkit, CDI support",
                WRITE_CDI,
            )


def limits_work(case: Case) -> Iterator[Finding]:
    """1. A limit that the kernel can't keep: warning. 2. cgroup version not told: unknown. 3. Version 1: note. 4. Ok."""
    found = case.readings.docker
    if isinstance(found, NoDocker):
        return
    if found.limits_missing:  # 1
        yield on_host(
            Severity.WARNING,
            f"the kernel keeps no limit of {', '.join(found.limits_missing)}",
            "Each container is limited so that one engine can't take the whole host down; without, it can.",
            "docker info",
            "sudo sed -i 's/^GRUB_CMDLINE_LINUX=\"/&cgroup_enable=memory swapaccount=1 /' /etc/default/grub\n"
            "sudo update-grub && sudo reboot",
        )
    elif found.cgroup_version is None:  # 2
        yield on_host(Severity.UNKNOWN, "docker doesn't tell the cgroup version", fix="docker info | grep -i cgroup")
    elif found.cgroup_version == "1":  # 3
        yield on_host(Severity.NOTE, "cgroup version 1: limits work; new systems use version 2", fix=None)
    else:  # 4
        yield on_host(Severity.OK, f"cgroup version {found.cgroup_version}, all limits work")
