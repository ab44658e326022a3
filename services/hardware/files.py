"""Reading the kernel's one-value files (sysfs, procfs): an absent, unreadable or odd one is None."""

from __future__ import annotations

from pathlib import Path


def text(path: Path) -> str | None:
    """The file's text without surrounding blanks; None when it can't be read. A lost PCI device gives EIO here."""
    try:
        return path.read_text(encoding="utf8", errors="replace").strip()
    except OSError:
        return None


def number(path: Path, base: int = 10) -> int | None:
    """The file's integer ("8192", or "0x1002" with base 16); None when there is none."""
    try:
        return int(text(path) or "", base)
    except ValueError:
        return None
