"""One run of pip: bounded in time, without prompts and secrets, its output turned into Progress and into one sentence when it fails."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.provision.progress import Progress, ProgressSink

# What a child may see of our environment: enough for proxies, certificates and the user's own pip settings, and no tokens.
PASSED = frozenset({"PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "NETRC", "LD_LIBRARY_PATH", "CURL_CA_BUNDLE",
                    "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS",
                    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"})
# Settings of pip that would send the packages elsewhere, or install something else than the lock.
DROPPED = frozenset({"PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_DRY_RUN", "PIP_REQUIREMENT", "PIP_EDITABLE", "PIP_UPGRADE",
                     "PIP_FORCE_REINSTALL", "PIP_IGNORE_INSTALLED", "PIP_QUIET", "PIP_VERBOSE", "PIP_LOG", "PIP_PYTHON", "PIP_REPORT"})
TICK_S = 0.5
KEPT_LINES = 400
PACKAGE = re.compile(r"^(?:Collecting|Processing|Requirement already satisfied:) ")
WHEEL = re.compile(r"^\s*(?:Downloading|Using cached|Processing) (\S+)(?: \((\d[^)]*B)\))?")
UNREACHABLE = re.compile(r"Retrying \(Retry\(|connection broken by|Failed to establish a new connection|Read timed out|Could not fetch URL")
LACKING = re.compile(r"No matching distribution found|Could not find a version that satisfies")
TROUBLE = re.compile(r"([^:'\"]+)['\")]+: /")  # the innermost cause in urllib3's nested words, before the path that was asked for
VERSIONS = re.compile(r" ?\(from versions: [^)]*\)")
CREDENTIALS = re.compile(r"//[^/@\s]+@")


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds one run of pip. `timeout_s` is one connection or read; pip's own settings replace it and `retries`.

    `stall_s`: the run ends when pip neither said nor read nor wrote anything for so long. `failed_connections`: it ends at so many
    failed attempts to connect, so that an index that is down costs minutes and not an attempt for each of a hundred packages.
    """

    timeout_s: int = 15
    retries: int = 2
    stall_s: float = 300.0
    failed_connections: int = 12
    probe_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """`reason`: what went wrong in pip's own words, and whether an index could not be reached; empty when it went well."""

    ok: bool
    reason: str = ""


@dataclass(slots=True)
class _Run:
    """What has been seen of one run so far."""

    lines: list[str] = field(default_factory=list)
    collected: int = 0
    latest: str = ""
    unpacking: bool = False
    failed_connections: int = 0
    trouble: str = ""

    def read(self, line: str) -> None:
        line = CREDENTIALS.sub("//***@", line.rstrip())
        self.lines = [*self.lines[-KEPT_LINES:], line]
        if PACKAGE.match(line):
            self.collected += 1
        if found := WHEEL.match(line):
            size = f" ({found[2]})" if found[2] else ""
            self.latest = "-".join(found[1].rsplit("/", 1)[-1].split("-")[:2]) + size
        elif line.startswith("Installing collected packages"):
            self.unpacking = True
        if UNREACHABLE.search(line):
            self.failed_connections += 1
            cause = TROUBLE.search(line)
            self.trouble = cause[1].strip() if cause else line.strip()[:200]

    def reason(self) -> str:
        said = last_words(self.lines)
        return f"a package index could not be reached ({self.trouble}); {said}" if self.failed_connections else said


def child_environment(scratch: Path | None = None) -> dict[str, str]:
    """The environment of pip and of the probes. Downloads go to `scratch`: /tmp is often a small part of memory."""
    kept = {k: v for k, v in os.environ.items() if k in PASSED or (k.startswith("PIP_") and k not in DROPPED)}
    kept |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"}
    return kept | ({"TMPDIR": str(scratch)} if scratch else {})


def pip_install(
    python: Path, arguments: Sequence[str], *, scratch: Path, packages: int | None, limits: Limits, progress: ProgressSink, log: Path
) -> Outcome:
    """Run `pip install` for the environment of `python`. `packages` is how many it will install, the total of the progress;
    None where pip has yet to find out.

    Wheels only: nothing is compiled and no package's own build code runs. pip's output is appended to `log`.
    """
    command = [str(python), "-m", "pip", "install", "--only-binary=:all:", "--no-compile", "--progress-bar=off", "--no-color",
               *_patience(limits), *arguments]
    run = _Run()
    installed_before = _installed(python)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env=child_environment(scratch), cwd=scratch)
    try:
        stopped = _follow(process, run, limits, lambda: progress(_now(run, packages, scratch, _installed(python) - installed_before)))
    finally:
        _end(process)
        with log.open("a", encoding="utf8") as sink:
            sink.write("\n".join(["$ pip install " + " ".join(arguments), *run.lines, ""]))
    if process.returncode == 0 and not stopped:
        return Outcome(True)
    return Outcome(False, stopped or run.reason())


def last_words(lines: Sequence[str]) -> str:
    """The lines of pip that tell why: its ERROR lines, else what it said last."""
    said = [line.strip() for line in lines if line.strip() and not line.startswith("[notice]")]
    errors = [VERSIONS.sub("", line.removeprefix("ERROR:").strip()) for line in said if line.startswith("ERROR:")]
    return " / ".join(dict.fromkeys(errors[-3:] or said[-3:]))[:600] or "pip said nothing"


def _patience(limits: Limits) -> list[str]:
    """Our own timeout and retries only where the user has set none."""
    flags = []
    if not {"PIP_TIMEOUT", "PIP_DEFAULT_TIMEOUT"} & os.environ.keys():
        flags.append(f"--timeout={limits.timeout_s}")
    if "PIP_RETRIES" not in os.environ:
        flags.append(f"--retries={limits.retries}")
    return flags


def _follow(process: subprocess.Popen[bytes], run: _Run, limits: Limits, tick: Callable[[], None]) -> str:
    """Read until the end. Returns why the run was given up, empty if it ended by itself."""
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    moved, heard_s, rest, ticked_s = _moved_bytes(process.pid), time.monotonic(), b"", 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if selector.select(TICK_S):
                chunk = process.stdout.read()
                if chunk == b"":
                    process.wait()
                    return ""
                *lines, rest = (rest + (chunk or b"")).split(b"\n")
                for line in lines:
                    run.read(line.decode(errors="replace"))
                heard_s = time.monotonic()
            if (now_moved := _moved_bytes(process.pid)) != moved:
                moved, heard_s = now_moved, time.monotonic()
            if time.monotonic() - ticked_s >= TICK_S:
                tick()
                ticked_s = time.monotonic()
            if run.failed_connections >= limits.failed_connections:
                return f"gave up after {run.failed_connections} failed connections to a package index ({run.trouble})"
            if time.monotonic() - heard_s > limits.stall_s:
                return f"pip did nothing for {limits.stall_s:.0f} s and was stopped; its last words: {last_words(run.lines)}"


def _now(run: _Run, packages: int | None, scratch: Path, installed: int) -> Progress:
    if run.unpacking:
        return Progress("install", _at_most(installed, packages), packages, "unpacking packages")
    fetched_bytes = bytes_under(scratch)
    text = f"fetching {run.latest or 'packages'}, {fetched_bytes / 2**20:.0f} MiB so far; packages"
    return Progress("download", _at_most(run.collected, packages), packages, text)


def _at_most(count: int, total: int | None) -> int:
    return count if total is None else min(count, total)


def bytes_under(folder: Path) -> int:
    """Bytes of all files below `folder` now. pip renames and removes files and folders while we look: what is gone counts nothing.

    Not Path.rglob: before Python 3.13 a folder that vanishes under its walk is an error.
    """
    total_bytes = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total_bytes += os.lstat(os.path.join(place, name)).st_size
    return total_bytes


def _installed(python: Path) -> int:
    return sum(1 for _ in python.parents[1].glob("lib*/python*/site-packages/*.dist-info"))


def _moved_bytes(pid: int) -> int | None:
    """Everything the process has read and written so far, from files and sockets; None where the kernel does not tell."""
    try:
        text = Path(f"/proc/{pid}/io").read_text()
    except OSError:
        return None
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(("rchar", "wchar")))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask, then insist. Never leaves pip running behind us."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
