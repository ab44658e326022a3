"""Readers at their edges: time limits, odd output, real commands of this machine."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from services.doctor import read as reading
from services.doctor.case import Case, version_of
from services.doctor.commands import NOT_THERE, Look, Output, run
from services.doctor.diagnose import diagnose
from services.doctor.finding import Severity
from services.doctor.read import read
from services.doctor.read_docker import read_docker, read_toolkit
from services.doctor.read_host import disk_of, read_clock, read_listeners, user_name
from services.doctor.read_kernel import parse_log, read_log
from services.doctor.readings import Docker, KernelLog, NoDocker, Readings, Toolkit, Unread
from tests.doctor.player import load, sources, the


def test_a_program_that_hangs_is_killed_in_time() -> None:
    started = time.monotonic()
    found = run((sys.executable, "-c", "import time; time.sleep(60)"), timeout_s=0.3)
    assert isinstance(found, Unread)
    assert "did not end" in found.why
    assert time.monotonic() - started < 5


def test_programs_that_are_not_there_or_fail() -> None:
    missing = run(("rigserve-no-such-program",))
    assert isinstance(missing, Output)
    assert missing.code == NOT_THERE
    failed = run((sys.executable, "-c", "import sys; sys.stderr.write('first\\nlast words\\n'); sys.exit(3)"))
    assert isinstance(failed, Output)
    assert (failed.code, failed.reason) == (3, "last words")
    assert isinstance(run(("/etc/hostname",)), Unread)  # no permission to execute


def test_a_hung_driver_costs_its_own_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CARDS_S", 0.2)
    released = threading.Event()

    class Hung:
        NVMLError = Exception

        def nvmlInit(self) -> None:
            released.wait(30)

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(name)

    rig = load("clean_3060ti")
    at = sources(rig, tmp_path)
    from dataclasses import replace

    try:
        got = read(tmp_path / "weights", replace(at, nvml=Hung()))
    finally:
        released.set()
    assert isinstance(got.cards, Unread)
    found = diagnose(Case(got))
    assert the(found, "cards-answer").severity is Severity.ERROR
    assert the(found, "driver-branch").severity is Severity.OK  # the bus and /proc still tell
    assert the(found, "memory").severity is Severity.OK


def test_a_fault_in_a_reader_is_not_swallowed() -> None:
    look: Look[int] = Look("a reader", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        look.result(5)


@pytest.mark.parametrize(
    ("journal", "dmesg", "words"),
    [
        (Output(0, "", ""), Output(1, "", "dmesg: read kernel buffer failed: Operation not permitted\n"), "Operation not permitted"),
        (Output(NOT_THERE, "", ""), Output(0, "", ""), "journalctl is not installed; dmesg: shows nothing to this user"),
        (Unread("journalctl -k did not end within 8 s"), Output(NOT_THERE, "", ""), "did not end within 8 s"),
    ],
)
def test_a_log_that_is_closed_is_unread(journal: Output | Unread, dmesg: Output, words: str) -> None:
    found = read_log(lambda argv: journal if argv[0] == "journalctl" else dmesg)
    assert isinstance(found, Unread)
    assert words in found.why


def test_dmesg_stands_in_for_an_empty_journal() -> None:
    found = read_log(lambda argv: Output(0, "" if argv[0] == "journalctl" else "[    0.000000] Linux version\n", ""))
    assert found == KernelLog("dmesg", 0.0)


def test_old_and_odd_log_lines() -> None:
    log = parse_log(
        "[  1.0] NVRM: Xid (0000:01:00): 31, Ch 00000018, engmask 00000101\n"
        "[  2.0] NVRM: Xid (PCI:0000:0B:00): 62, 0096(1c54) 00000000 00000000\n"
        "[  3.0] NVRM: The NVIDIA GPU 0000:03:00.0 (PCI ID: 10de:1bb3)\n[  3.0] NVRM: installed in this system is not supported by open\n"
        "[  3.0] NVRM: nvidia.ko because it does not include the required GPU\n[  3.0] NVRM: System Processor (GSP).\n"
        "[  4.0] Out of memory: Killed process 77 (llama-server) total-vm:1kB\n",
        "dmesg",
    )
    assert [(xid.address, xid.code) for xid in log.xids] == [("0000:01:00", 31), ("0000:0b:00", 62)]
    assert len(log.ignored_gpus) == 1
    assert "not supported by open nvidia.ko" in log.ignored_gpus[0]
    assert log.oom_kills == ("Out of memory: Killed process 77 (llama-server)",)


@pytest.mark.parametrize(
    ("out", "kind"),
    [
        (Output(NOT_THERE, "", ""), "absent"),
        (Output(1, '{"ServerErrors":["permission denied while trying to connect"]}', ""), "refused"),
        (Output(1, "", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"), "silent"),
        (Output(0, "[1, 2]", ""), "silent"),
        (Unread("docker info did not end within 8 s"), "silent"),
    ],
)
def test_docker_that_can_not_be_used(out: Output | Unread, kind: str) -> None:
    found = read_docker(lambda argv: out)
    assert isinstance(found, NoDocker)
    assert found.kind == kind
    assert found.said


def test_docker_limits_that_the_kernel_lacks() -> None:
    said = '{"ServerVersion":"26.1.5","MemoryLimit":true,"SwapLimit":false,"PidsLimit":true}'
    found = read_docker(lambda argv: Output(0, said, "") if argv[1] == "info" else Output(1, "", "unknown command"))
    assert isinstance(found, Docker)
    assert (found.limits_missing, found.compose, found.cgroup_version) == (("swap",), None, None)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVIDIA Container Toolkit CLI version 1.17.8\ncommit: f202b80\n", "1.17.8"),
        ("cli-version: 1.13.5\nlib-version: 1.13.5\n", "1.13.5"),
        ("NVIDIA Container Toolkit CLI version 1.19.0-rc.6\n", "1.19.0-rc.6"),
    ],
)
def test_toolkit_versions(text: str, version: str, tmp_path: Path) -> None:
    found = read_toolkit(lambda argv: Output(0, text, ""), tmp_path, lambda name: None)
    assert isinstance(found, Toolkit)
    assert (found.version, found.hook_on_path, found.cdi_specs) == (version, False, ())


def test_a_toolkit_that_answers_nonsense_is_unread(tmp_path: Path) -> None:
    assert isinstance(read_toolkit(lambda argv: Output(1, "", "symbol lookup error"), tmp_path, lambda name: None), Unread)


@pytest.mark.parametrize(
    ("text", "numbers"), [("26.1.5+dfsg1", (26, 1, 5)), ("2.40.3", (2, 40, 3)), ("1.19.0-rc.6", (1, 19, 0)), ("x", ()), ("", ())]
)
def test_versions_are_compared_by_their_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert version_of(text) == numbers


def test_ports_of_ipv6_and_rubbish(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text("header\nrubbish\n")
    (tmp_path / "net/tcp6").write_text(
        "header\n 0: 00000000000000000000000000000000:1F40 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 77 1 0 100 0 0 10 0\n"
    )
    assert [(one.port, one.address, one.process) for one in read_listeners(tmp_path)] == [(8000, "::", None)]


def test_a_folder_that_is_not_there_yet_has_its_parents_disk(tmp_path: Path) -> None:
    assert disk_of("model weights", tmp_path / "a/b/c").free_bytes == pytest.approx(disk_of("x", tmp_path).free_bytes, rel=0.1)


def test_a_folder_that_this_user_may_not_enter_has_its_parents_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.stat

    def closed(path: Path, **more: Any) -> Any:
        if path.parts[-2:] == ("closed", "cache"):
            raise PermissionError(13, "Permission denied")
        return real(path, **more)

    monkeypatch.setattr(Path, "stat", closed)
    (tmp_path / "closed").mkdir()
    assert disk_of("model weights", tmp_path / "closed/cache").total_bytes > 0


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 3_999_999)
    assert user_name() == "3999999"


def test_a_clock_without_systemd_is_not_called_right() -> None:
    assert read_clock(lambda argv: Output(1, "", "System has not been booted with systemd"), time.time).synchronized is None


def test_this_machine_can_be_read_for_real() -> None:
    """No stand-in at all: whatever this machine is, the doctor reads it in time and raises nothing."""
    started = time.monotonic()
    got = read(Path.home() / ".cache/rigserve")
    assert isinstance(got, Readings)
    assert got.host.ram_bytes
    assert diagnose(Case(got)).findings
    assert time.monotonic() - started < 25
