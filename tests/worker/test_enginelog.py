"""The engine's log: bounded, private, without the token."""

from __future__ import annotations

import stat
from pathlib import Path

from services.worker.enginelog import EngineLog


def test_lines_are_whole_and_the_token_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "engine.log"
    log = EngineLog(path, "s3cret")
    log.feed(b"key is s3c")
    log.feed(b"ret, ok\nload 10%\rload 99%\r\nhalf")
    assert log.lines() == ("key is ***, ok", "load 99%")
    log.close()
    assert log.lines()[-1] == "half"
    assert path.read_text() == "key is ***, ok\nload 99%\nhalf\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_full_file_is_rotated(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    log = EngineLog(path, "s3cret", max_file_bytes=1000)
    for i in range(100):
        log.feed(b"line %d of the engine\n" % i)
    log.close()
    assert path.stat().st_size <= 1000
    assert (tmp_path / "engine.log.1").stat().st_size <= 1000
    assert path.read_text().endswith("line 99 of the engine\n")


def test_a_line_without_end_is_cut(tmp_path: Path) -> None:
    log = EngineLog(None, "s3cret")
    log.feed(b"x" * 100_000)
    assert len(log.lines()) == 1
    assert len(log.lines()[0]) == 16 * 1024


def test_a_new_start_forgets_the_last_lines(tmp_path: Path) -> None:
    log = EngineLog(tmp_path / "engine.log", "s3cret")
    log.feed(b"out of memory")
    log.new_start("start 2")
    assert log.lines() == ()
    log.close()
    assert (tmp_path / "engine.log").read_text() == "out of memory\n--- start 2\n"
