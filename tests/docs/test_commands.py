"""Every command of README.md, CONTRIBUTING.md and docs/: its options exist, and it runs, or tests/docs/not_run.py says why not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from tests.docs.commands import SHELLS, Block, Command, blocks, commands, inline, parse, shown, whole
from tests.docs.marks import PROJECT, README, pages
from tests.docs.not_run import ANSWERS, NOT_RUN
from tests.gateway.rig import Rig, start_rig

LOCAL = "http://127.0.0.1:8000"  # where the pages say that the gateway is
PROGRAM = Path(sys.executable).parent / "rigserve"
PLAN = ("plan", "--cards", "P106-100#GPU-0b1c2d3e,RTX 3060 Ti#GPU-6f1d2c30", "--host-ram", "8GiB", "--out")
SHIM = """#!/bin/bash
# Commands that ask the gateway at its default address ask the test's.
case "$1" in
  status|top) set -- "$@" --url "$RIG_URL" ;;
esac
exec "{program}" "$@"
"""


def excuse(command: Command) -> str | None:
    return next((begin for begin in NOT_RUN if command.text.startswith(begin)), None)


def test_there_are_commands_on_the_pages_that_promise_them() -> None:
    found = {command.page.name for command in shown()}
    assert {"README.md", "CONTRIBUTING.md", "first-rig.md", "amd-cards.md", "cmp-quirks.md", "drivers-and-images.md", "power-and-heat.md",
            "keys.md", "clients.md", "troubleshooting.md", "load-testing.md", "images.md"} <= found  # fmt: skip
    assert len(shown()) > 50


def test_every_excuse_is_needed() -> None:
    assert not set(NOT_RUN) - {excuse(command) for command in shown()}
    assert not [begin for begin in ANSWERS if not any(command.text.startswith(begin) for command in shown())]


def test_no_command_hides_in_a_block_without_a_language() -> None:
    looks = re.compile(r"^(\$ |(sudo |\.venv/bin/)?(rigserve|make|curl|docker|pip|python|apt|llm|npm) )", re.MULTILINE)
    others = [block for page in pages() for block in blocks(page) if block.language not in SHELLS]
    drawn = "docs/design.md"  # a drawing of processes
    hidden = [f"{block.page}:{block.line}" for block in others if looks.search(block.text) and not block.page.match(drawn)]
    assert not hidden, "tag these blocks sh, bash or console"


ALL = [*shown(), *inline()]
OURS = [command for command in ALL if "rigserve" in command.text.split("|")[0].split()[:2]]


@pytest.mark.parametrize("command", OURS, ids=lambda command: command.place)
def test_rigserve_takes_these_words(command: Command) -> None:
    words = Command(command.page, command.line, command.text.split(" | ")[0]).words
    parse(words[words.index("rigserve") :])


def test_make_has_these_targets_and_variables() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z_]+) \?=|\$\((LOAD_ARGS)\)", makefile, re.MULTILINE))
    for command in (one for one in ALL if one.text.startswith("make ")):
        for word in command.words[1:]:
            known = {name for pair in variables for name in pair if name}
            assert word in targets or word.partition("=")[0] in known, f"{command.place}: the Makefile has no {word}"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = start_rig(tmp_path_factory.mktemp("rig"))
    try:
        rig.gateway.wait_ready()
        yield rig
    finally:
        rig.stop()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a user has one who follows the pages."""
    file = tmp_path_factory.mktemp("plan") / "plan.yaml"
    subprocess.run([PROGRAM, *PLAN, file], check=True, capture_output=True, timeout=60)
    return file


Run = Callable[[Command], None]


@pytest.fixture
def run(rig: Rig, plan: Path, tmp_path: Path) -> Run:
    """Runs a command in a folder that has a plan.yaml, with the rig of fake engines where the pages have the gateway."""
    shutil.copy(plan, tmp_path)
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / "rigserve"
    shim.write_text(SHIM.format(program=PROGRAM), encoding="utf8")
    shim.chmod(0o755)
    (tmp_path / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n", encoding="utf8")  # a refusal must fail
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy") and name != "DATABASE_URL"}
    environment |= {"PATH": f"{shim.parent}:{os.environ['PATH']}", "CURL_HOME": str(tmp_path), "HOME": str(home),
                    "RIG_URL": rig.gateway.url, "XDG_STATE_HOME": str(home)}  # fmt: skip

    def now(command: Command) -> None:
        text = command.text.replace(LOCAL, rig.gateway.url)
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
        fine = {0, *(code for begin, (code, _) in ANSWERS.items() if command.text.startswith(begin))}
        assert done.returncode in fine, f"{command.place}: {command.text}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr, f"{command.place}: {done.stderr[-2000:]}"

    return now


RUN = {page: [command for command in commands(page) if excuse(command) is None] for page in pages()}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, found in RUN.items() if found], ids=lambda page: str(page.relative_to(PROJECT)))
def test_the_commands_of_a_page_run(page: Path, run: Run) -> None:
    for command in RUN[page]:
        run(command)


@pytest.mark.slow
def test_a_wrong_command_fails(run: Run) -> None:
    for text in ("rigserve fit nobody --card P106-100", f"curl {LOCAL}/v1/models/nobody", "rigserve status --nothing", "false | cat"):
        with pytest.raises(AssertionError):
            run(Command(README, 1, text))


@pytest.mark.parametrize("words", ["rigserve fit a --crad x", "rigserve power --set many", "rigserve nothing", "rigserve keys make x"])
def test_wrong_words_are_found(words: str) -> None:
    with pytest.raises(click.UsageError):
        parse(words.split())


def test_how_blocks_are_cut_into_commands(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("""\
```console
$ curl x -d '{"a":
    1}'
{"an": "answer"}
```

```sh
# a comment
one \\
  two   # said beside it

cat > f <<'E'
$ not a command
E
```
""", encoding="utf8")
    found = commands(page)
    assert [(one.line, one.text) for one in found] == [
        (2, "curl x -d '{\"a\":\n    1}'"), (9, "one \\\n  two   # said beside it"), (12, "cat > f <<'E'\n$ not a command\nE"),
    ]  # fmt: skip
    assert found[1].words == ["one", "two"]
    assert not whole("echo 'a")
    page.write_text("```sh\nrun 'open\n```\n", encoding="utf8")
    with pytest.raises(AssertionError, match="has no end"):
        commands(page)
    assert list(blocks(page)) == [Block(page, 1, "sh", "run 'open")]
