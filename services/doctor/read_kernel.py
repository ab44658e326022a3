"""The kernel log, and what of it concerns cards and memory."""

from __future__ import annotations

import re
from collections import Counter

from services.doctor.commands import NOT_THERE, Run
from services.doctor.readings import KernelLog, Unread, Xid

JOURNAL = ("journalctl", "-k", "-b", "-q", "--no-pager", "-o", "short-monotonic")
DMESG = ("dmesg",)
_STAMP = re.compile(r"\[\s*(\d+\.\d+)\]")
# NVRM: Xid (PCI:0000:0b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.   (older: "Xid (0000:01:00): 31, Ch 0")
_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2})[^)]*\): (\d+),? ?(.*)", re.IGNORECASE)
_BUS_ERROR = re.compile(r"([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.\d): PCIe Bus Error: severity=", re.IGNORECASE)
_OOM = re.compile(r"((?:Memory cgroup out|Out) of memory: Killed process \d+ \([^)]*\))")
_AMDGPU = re.compile(r"amdgpu.*(?:ring \S+ timeout|GPU reset begin)")
# Printed over several lines, each with NVRM: before it (NixOS/nixos-hardware#1880; open modules: zzzhouuu/truenas-nvidia-drivers#20).
_IGNORED = (
    re.compile(r"The NVIDIA .{1,80}? installed in this system is supported through the NVIDIA \d+\.xx Legacy drivers"),
    re.compile(r"The NVIDIA GPU \S+ \(PCI ID: \S+\) installed in this system is not supported by open nvidia\.ko"),
)
_IGNORED_BY = re.compile(r"The (\d{3}\.\d[\d.]*) NVIDIA driver will ignore")


def read_log(run: Run) -> KernelLog | Unread:
    """1. The journal of this boot: it is whole. 2. dmesg: a ring that forgets its oldest lines. 3. Neither may be read: why not.

    The journal answers with nothing and code 0 to a user who may not read it, so an empty one counts as not read.
    """
    refusals = []
    for argv in (JOURNAL, DMESG):
        output = run(argv)
        if isinstance(output, Unread):
            refusals.append(output.why)
        elif output.code == NOT_THERE:
            refusals.append(f"{argv[0]} is not installed")
        elif output.code or not _STAMP.search(output.out):
            said = output.reason.removeprefix(f"{argv[0]}: ") if output.err.strip() else "shows nothing to this user"
            refusals.append(f"{argv[0]}: {said}")
        else:
            return parse_log(output.out, " ".join(argv[:3]) if argv is JOURNAL else "dmesg")
    return Unread("; ".join(refusals))


def parse_log(text: str, source: str) -> KernelLog:
    """The log's lines of interest, counted. `text` is dmesg's form, or the journal's with -o short-monotonic."""
    first = _STAMP.search(text)
    kinds: Counter[tuple[str, int]] = Counter()
    words: dict[tuple[str, int], str] = {}
    for match in _XID.finditer(text):
        kind = (match[1].lower()[-10:], int(match[2]))
        kinds[kind] += 1
        words[kind] = match[3].strip()[:200]
    bus = Counter(match[1].lower() for match in _BUS_ERROR.finditer(text))
    flat = _as_one_line(text)
    ignored_by = _IGNORED_BY.search(flat)
    return KernelLog(
        source=source,
        from_s=float(first[1]) if first else None,
        xids=tuple(Xid(address, code, count, words[address, code]) for (address, code), count in sorted(kinds.items())),
        bus_errors=tuple(sorted(bus.items())),
        oom_kills=tuple(match[1] for match in _OOM.finditer(text)),
        ignored_gpus=tuple(dict.fromkeys(match[0] for kind in _IGNORED for match in kind.finditer(flat))),
        ignored_by=ignored_by[1] if ignored_by else None,
        amdgpu_timeouts=len(_AMDGPU.findall(text)),
    )


def _as_one_line(text: str) -> str:
    """The driver's own messages joined, without stamps and NVRM: marks, so that a sentence over several lines can be found."""
    lines = [line for line in text.splitlines() if "NVRM" in line]
    return re.sub(r"\s+", " ", " ".join(line.rpartition("NVRM:")[2] for line in lines))
