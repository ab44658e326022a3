"""The doctor's report as text: what is wrong first, each with why and the command that fixes it; what is right in a line each."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterable

from services.doctor.finding import HOST, Finding, Report, Severity

INDENT = "    "


def report_lines(report: Report, width: int) -> list[str]:
    """Lines of at most `width` columns, commands excepted: those can be copied whole."""
    counts = ", ".join(_counted(report.count(severity), severity) for severity in Severity)
    lines = [*textwrap.wrap(report.looked_at, width), counts]
    groups: dict[tuple[str, ...], list[Finding]] = defaultdict(list)
    for finding in report.findings:
        if finding.severity is not Severity.OK:
            groups[finding.severity, finding.id, finding.why, finding.source, finding.advice].append(finding)
    for same in groups.values():
        lines += ["", *_group(same, width)]
    fine = [finding for finding in report.findings if finding.severity is Severity.OK]
    return [*lines, "", *_fine(fine, width)] if fine else lines


def _counted(count: int, severity: Severity) -> str:
    plural = "s" if count != 1 and severity in (Severity.ERROR, Severity.WARNING, Severity.NOTE) else ""
    return f"{count} {severity.value}{plural}"


def _group(same: list[Finding], width: int) -> Iterable[str]:
    """Findings that differ only in the card: one heading, a line for each card, one why."""
    first = same[0]
    yield f"{first.severity.value.upper()}  {first.id} (rule {first.rule})"
    for finding in same:
        yield from _wrapped("" if finding.subject == HOST else f"{finding.subject_name}: ", finding.seen, width)
    source = f" [{first.source}]" if first.source else ""
    if first.why or source:
        yield from _wrapped("why: ", first.why + source, width)
    for command in dict.fromkeys(line for finding in same for line in (finding.fix or "").splitlines()):
        yield f"{INDENT}run: {command}"
    if first.advice:
        yield from _wrapped("do:  ", first.advice, width)


def _fine(fine: list[Finding], width: int) -> Iterable[str]:
    yield "OK"
    by_rule: dict[str, list[Finding]] = defaultdict(list)
    for finding in fine:
        by_rule[finding.id].append(finding)
    for rule, findings in by_rule.items():
        cards = [finding for finding in findings if finding.subject != HOST]
        said = [finding.seen for finding in findings if finding.subject == HOST]
        if len(cards) == 1:
            said.append(f"{cards[0].subject_name}: {cards[0].seen}")
        elif cards:
            said.append(f"{len(cards)} cards")
        yield from _wrapped(f"{rule}: ", "; ".join(said), width)


def _wrapped(label: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(label + text, width, initial_indent=INDENT, subsequent_indent=INDENT + "     ", break_long_words=False,
                         break_on_hyphens=False)
