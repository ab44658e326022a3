"""Measures the measuring: the kit against a server whose times are known, at rising numbers of streams."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadtest.drive import DriveError, run
from loadtest.figures import percentile, rounded
from loadtest.slo import Slo
from loadtest.spec import Spec
from loadtest.surroundings import surroundings
from loadtest.target import read_url

TTFT_TOLERANCE_S = 0.005
TPOT_TOLERANCE_S = 0.001
RATE_TOLERANCE = 0.02
Say = Callable[[str], None]


@contextmanager
def mock(ttft_s: float, itl_s: float, tokens: int) -> Iterator[str]:
    """The address of a mock server of ours, for as long as the block runs."""
    argv = [sys.executable, "-m", "loadtest.mock", "--ttft-ms", str(ttft_s * 1000), "--itl-ms", str(itl_s * 1000), "--tokens", str(tokens)]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    try:
        line = child.stdout.readline() if child.stdout else ""
        if "ready on" not in line:
            raise DriveError("the mock server did not start")
        yield line.split()[-1]
    finally:
        child.terminate()
        child.wait(5)
        if child.stdout:
            child.stdout.close()


def calibrate(out: Path, streams: Sequence[int], seconds: float, ttft_s: float, itl_s: float, tokens: int, processes: int, say: Say,
              ) -> dict[str, Any]:  # fmt: skip
    """Errors at each number of streams: measured less known. Written by the caller."""
    rows = []
    with mock(ttft_s, itl_s, tokens) as url:
        for count in streams:
            folder = out / f"streams-{count}"
            folder.mkdir(parents=True, exist_ok=True)
            read_url(f"{url}/lateness", None)  # forgets what was before
            # Users begin at different times, as real ones do; whole cycles of request and answer are measured after all have begun,
            # because half a cycle more or less would look like an error of the rate.
            cycle_s = ttft_s + (tokens - 1) * itl_s
            duration_s = (2 + max(2, round(seconds / cycle_s))) * cycle_s
            spec = Spec(url=url, chat_model="mock", profile="chat", duration_s=duration_s, warmup_s=2 * cycle_s, users=count)
            spec = dataclasses.replace(spec, output_tokens=f"fixed:{tokens}", prompt_words="fixed:8", stagger_s=cycle_s)
            result = run(spec, folder, Slo(), processes, watch=False)
            lateness = json.loads(read_url(f"{url}/lateness", None)[1])
            rows.append(row_of(result, lateness, count, ttft_s, itl_s, tokens))
            say(sentence(rows[-1]))
    good = [row["streams"] for row in rows if row["within_tolerance"]]
    bad = [row["streams"] for row in rows if not row["within_tolerance"]]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "known": {"ttft_s": ttft_s, "tpot_s": itl_s, "tokens": tokens},
        "tolerance": {"ttft_p95_s": TTFT_TOLERANCE_S, "tpot_p95_s": TPOT_TOLERANCE_S, "output_tok_s": RATE_TOLERANCE},
        "good_up_to_streams": max((count for count in good if not bad or count < min(bad)), default=None),
        "processes": processes, "rows": rows, "environment": surroundings(),
    }


def row_of(result: dict[str, Any], lateness: dict[str, Any], streams: int, ttft_s: float, itl_s: float, tokens: int) -> dict[str, Any]:
    """Errors of one number of streams: measured less known, and the client's part of it, less how late the mock itself was.

    The known rate of a closed loop is streams · tokens / (ttft + (tokens − 1) · itl). Worked number: 10 streams, 50 tokens, 0.2 s and
    0.02 s: 10 · 50 / 1.18 = 423.7 tok/s. The moments in which a user has its answer and has not yet sent the next request are in the error.
    """
    late = sorted(lateness["first_late_s"])
    spans = sorted(span / (tokens - 1) - itl_s for span in lateness["spans_s"])
    known_rate, rate = streams * tokens / (ttft_s + (tokens - 1) * itl_s), result["output_tok_s"]
    found: dict[str, Any] = {"streams": streams, "n": result["ttft_s"]["n"], "failures": result["failures"]}
    for name, known, mocks in (("ttft", ttft_s, late), ("tpot", itl_s, spans)):
        off = {f"p{percent}": _less(result[f"{name}_s"][f"p{percent}"], known) for percent in (50, 95, 99)}
        own = {f"p{percent}": _less(off[f"p{percent}"], percentile(mocks, percent)) for percent in (50, 95, 99)}
        found |= {f"{name}_error_s": off, f"{name}_client_error_s": own}
    found |= {
        "output_tok_s": rounded(rate), "known_output_tok_s": rounded(known_rate),
        "output_tok_s_error": rounded(rate / known_rate - 1) if rate else None,
        "client_tokens": result["server"]["output_tokens"]["client"], "mock_tokens": lateness["sent_tokens"],
        "generator_cpu_percent": result["generator"]["cpu_percent_max"],
    }
    ttft, tpot, off = found["ttft_client_error_s"]["p95"], found["tpot_client_error_s"]["p95"], found["output_tok_s_error"]
    found["within_tolerance"] = (
        ttft is not None and tpot is not None and off is not None
        and abs(ttft) <= TTFT_TOLERANCE_S and abs(tpot) <= TPOT_TOLERANCE_S and abs(off) <= RATE_TOLERANCE
    )  # fmt: skip
    return found


def sentence(row: dict[str, Any]) -> str:
    def ms(what: str, name: str) -> str:
        value = row[what][name]
        return "unknown" if value is None else f"{value * 1000:+.2f}"

    off = row["output_tok_s_error"]
    return (
        f"{row['streams']} streams, {row['n']} answers: TTFT {ms('ttft_error_s', 'p50')} (p50), {ms('ttft_error_s', 'p95')} ms (p95), "
        f"the client's part {ms('ttft_client_error_s', 'p50')}, {ms('ttft_client_error_s', 'p95')}; "
        f"TPOT {ms('tpot_error_s', 'p50')}, {ms('tpot_error_s', 'p95')} ms; tok/s {'unknown' if off is None else f'{off:+.2%}'}; "
        f"tokens {row['client_tokens']} of {row['mock_tokens']}: {'good' if row['within_tolerance'] else 'outside of the tolerance'}"
    )


def _less(value: float | None, known: float | None) -> float | None:
    return None if value is None or known is None else rounded(value - known)
