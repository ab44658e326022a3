"""What the doctor says: one finding per thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """error: will not start, or is broken now. warning: works, but worse or riskier than it could. note: good to know.
    unknown: could not be read, and `seen` says why. ok: looked at, and right."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"
    UNKNOWN = "unknown"
    OK = "ok"


HOST = "host"


@dataclass(frozen=True, slots=True)
class Finding:
    """`subject` is HOST or a card's id, `subject_name` what people call it.

    `seen` is what was read, `why` what it leads to, `source` where that is known from. `fix` holds the exact commands, one a line (None:
    no command can), `advice` what hands must do or what the commands can't say. `rule` and `id` are those of docs/doctor.md; `diagnose`
    fills them in.
    """

    severity: Severity
    subject: str
    subject_name: str
    seen: str
    why: str = ""
    source: str = ""
    fix: str | None = None
    advice: str = ""
    rule: int = 0
    id: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings of one look, worst first. `looked_at` names the machine in a line."""

    looked_at: str
    findings: tuple[Finding, ...]

    def count(self, severity: Severity) -> int:
        return sum(finding.severity is severity for finding in self.findings)


def on_host(severity: Severity, seen: str, why: str = "", source: str = "", fix: str | None = None, advice: str = "") -> Finding:
    """A finding on the machine as a whole."""
    return Finding(severity, HOST, HOST, seen, why, source, fix, advice)
