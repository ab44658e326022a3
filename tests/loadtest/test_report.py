"""The page, the plots, the sweep's knee, compare and --fail-if."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from loadtest.calibrate import row_of
from loadtest.compare import compare, differences, read_results, regressions
from loadtest.knee import Point, knee, over_saturated, point_of, rates_between
from loadtest.limits import read_limit
from loadtest.outcome import console, failing, markdown, write
from loadtest.plots import Plot, Series, figure, ticks
from loadtest.report import page
from loadtest.result import Beside, result_of
from loadtest.spec import Spec
from tests.loadtest.results import START, idle, started, stream
from tests.loadtest.test_result import SCHEMA

HOSTILE = "</title><script>alert(1)</script>"


class Tags(HTMLParser):
    """Every tag must be closed where it was opened."""

    VOID = frozenset({"meta", "br", "path", "circle", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.links += [value or "" for name, value in attributes if name in ("href", "src", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in self.VOID or self.open.pop() == tag


def result(scale: float = 1.0, n: int = 100, **more: Any) -> dict[str, Any]:
    spec = Spec(url="http://127.0.0.1:1", chat_model="m", profile="chat", duration_s=12, warmup_s=2)
    rows = [started(), *(stream(2 + i * 10 / n, ttft_s=0.2 * scale * (1 + 0.001 * (i % 7)), **more) for i in range(n)), idle(4)]
    return result_of(spec, rows, beside=Beside(power=((START + 3, {"GPU-1": 80.0}),), marks=((START + 5, "pause"),)))


def point(offered: float, share: float, label: str = "rate") -> Point:
    return Point(offered, offered * share, share, 10 * offered, 0.1, 0.2, 0.02, 1.0, label)


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    found = page(result())
    tags = Tags()
    tags.feed(found)
    assert tags.open == []
    assert {"svg", "table", "details"} <= tags.seen
    assert not tags.seen & {"script", "link", "img", "iframe"}
    assert tags.links == []
    for words in ("Time to first token", "Time per output token", "Output tokens by card", "Power by card", "Offered and good", "Errors",
                  "Throughput and latency", "prefers-color-scheme: dark", "pause"):  # fmt: skip
        assert words in found


def test_what_the_server_says_is_text_only() -> None:
    one = result(card=HOSTILE, ending="failed", reason=HOSTILE)
    one["models"]["chat"] = HOSTILE
    assert "<script>" not in page(one)
    assert "&lt;script&gt;" in page(one)


def test_an_empty_run_has_a_page_that_says_unknown() -> None:
    empty = result_of(Spec(duration_s=5, warmup_s=1), [])
    text = page(empty)
    assert "unknown" in text
    assert "nothing was measured" in text or "no answer was streamed" in text
    assert "unknown" in console(empty, Path("x"))


def test_ticks_are_round() -> None:
    assert ticks(0, 9.3) == [0, 2, 4, 6, 8]
    assert ticks(0, 0.0031) == [0, 0.001, 0.002, 0.003]
    assert ticks(5, 5) == [5]


def test_a_gap_in_a_line_is_not_bridged() -> None:
    drawn = figure(Plot("t", "x", "y", [Series("s", [(0, 1.0), (1, None), (2, 3.0)])]))
    line = drawn.split("class='line c1' d='")[1].split("'")[0]
    assert line.count("M") == 2


def test_knee_is_the_worked_number() -> None:
    points = [point(9, 1, "throughput"), point(3, 0.97), point(1, 1), point(2, 1), point(4, 0.6)]
    found = knee(points)
    assert (found["knee_rps"], found["saturated_rps"], found["knee_output_tok_s"]) == (2, 4, 20)
    assert found["peak_goodput_rps"] == pytest.approx(2.91)
    assert knee([point(1, 0.5)])["knee_rps"] is None
    assert knee([point(1, 1)])["saturated_rps"] is None
    assert rates_between(1, 3, 3) == [1, 2.15, 3.3]
    assert rates_between(1, 3, 1) == [3.3]
    assert over_saturated([point(1, 0.9), point(2, 0.9)])
    assert not over_saturated([point(1, 0.9), point(2, 0.9, "throughput")])


def test_a_sweep_has_its_schema_and_plots() -> None:
    one = result()
    points = [point_of(one, "synchronous"), point_of(one, "throughput"), point_of(one, "rate")]
    swept = one | {"kind": "sweep", "sweep": {"points": [each.to_json() for each in points], **knee(points)}}
    jsonschema.validate(swept, SCHEMA)
    assert "Goodput and what was offered" in page(swept)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(one | {"kind": "sweep"}, SCHEMA)


def test_compare_finds_what_got_worse_and_not_what_is_the_same() -> None:
    before, slower = result(), result(1.5)
    rows = {row.figure: row for row in compare([before], [slower])}
    assert rows["ttft_s.p50"].change == pytest.approx(0.5, abs=0.01)
    assert (rows["ttft_s.p50"].better, rows["ttft_s.p50"].sure) == (False, True)
    assert [row.figure for row in regressions(list(rows.values()), 0.1)][:1] == ["ttft_s.p50"]
    assert regressions(compare([before], [result()]), 0.1) == []
    assert regressions(compare([slower], [before]), 0.1) == []


def test_compare_of_repeated_runs_tells_chance_from_change() -> None:
    def runs(*rates: float) -> list[dict[str, Any]]:
        return [result() | {"output_tok_s": rate} for rate in rates]

    def row(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> Any:
        return next(one for one in compare(a, b) if one.figure == "output_tok_s")

    assert row(runs(20, 21, 22), runs(10, 11, 12)).sure is True
    assert row(runs(20, 10, 30), runs(10, 22, 13)).sure is False
    assert regressions([row(runs(20, 10, 30), runs(10, 22, 13))], 0.1) == []


def test_a_first_failure_is_a_regression() -> None:
    failed = result() | {"error_share": 0.2}
    assert [row.figure for row in regressions(compare([result()], [failed]), 0.1)] == ["error_share"]
    assert differences(result(), result() | {"profile": "mixed"}) == ["profile"]


def test_results_that_are_none_are_sentences(tmp_path: Path) -> None:
    for text in ("{", "[]", "{}", '{"schema": "other"}'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=r"a\.json"):
            read_results(tmp_path / "a.json")
    with pytest.raises(ValueError, match="can't be read"):
        read_results(tmp_path / "none.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no result\.json"):
        read_results(tmp_path / "empty")


def test_files_are_written_and_read_again(tmp_path: Path) -> None:
    one = result()
    write(one, tmp_path)
    assert read_results(tmp_path) == [json.loads(json.dumps(one))]
    assert (tmp_path / "report.html").read_text(encoding="utf8") == page(one)
    assert "| output |" in markdown(one)


@pytest.mark.parametrize(
    ("text", "fails"),
    [("failures>0", False), ("ttft_s.p95>0.1", True), ("goodput_share<0.99", False), ("images_per_s<1", True), ("requests != 100", False),
     ("no.such>1", True), ("url>1", True)],
)  # fmt: skip
def test_limits(text: str, fails: bool) -> None:
    assert bool(failing(result(), [read_limit(text)])) is fails


@pytest.mark.parametrize("text", ["", "failures", "failures>", "failures>x", "__import__('os')>0", ">1"])
def test_bad_limits(text: str) -> None:
    with pytest.raises(ValueError, match="no condition"):
        read_limit(text)


def test_nothing_answered_fails_without_being_asked() -> None:
    dead = result(ending="failed", reason="no connection")
    assert failing(dead, []) == ["no request was answered: no connection"]


def test_calibration_row_is_measured_less_known_less_the_mocks_own() -> None:
    one = result_of(Spec(duration_s=12, warmup_s=2, users=10), [started(), *(stream(2 + i * 0.1, ttft_s=0.204) for i in range(100))])
    one["output_tok_s"] = 427.0
    row = row_of(one, {"first_late_s": [0.003] * 9, "spans_s": [0.98] * 9, "sent_tokens": 1100}, 10, 0.2, 0.02, 50)
    assert row["known_output_tok_s"] == pytest.approx(423.73, abs=0.01)
    assert row["ttft_error_s"]["p95"] == pytest.approx(0.004)
    assert row["ttft_client_error_s"]["p95"] == pytest.approx(0.001)
    assert row["tpot_error_s"]["p50"] == pytest.approx(0)
    assert row["output_tok_s_error"] == pytest.approx(0.0077, abs=0.0001)
    assert row["within_tolerance"] is True
    one["ttft_s"]["p95"] = 0.25
    assert row_of(one, {"first_late_s": [0.0], "spans_s": [0.98], "sent_tokens": 1}, 10, 0.2, 0.02, 50)["within_tolerance"] is False
