"""Whether the figures can be trusted: each check says pass, warn, fail or unknown, and why. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from loadtest.record import Record

LAG_LIMIT_S = 0.010
CPU_LIMIT_PERCENT = 90.0
CACHED_LIMIT = 0.05
SAMPLES_FOR_P99 = 100
SAME_LENGTH = 0.95

Verdict = tuple[str, str]


def checks(result: dict[str, Any], measured: Sequence[Record], missed: Sequence[float]) -> list[dict[str, str]]:
    """`fail` means that a figure here is wrong or that the server cheated; `warn` that it needs care."""
    asked: tuple[tuple[str, Callable[[], Verdict]], ...] = (
        ("anything_answered", lambda: _answered(result)),
        ("warm_up_left_out", lambda: _warm(result)),
        ("usage_from_server", lambda: _usage(result)),
        ("answers_are_whole", lambda: _whole(measured)),
        ("lengths_as_asked", lambda: _lengths(measured)),
        ("nothing_from_cache", lambda: _cache(result)),
        ("fields_kept", lambda: _fields(measured)),
        ("tokens_agree_with_server", lambda: _agree(result)),
        ("generator_not_the_limit", lambda: _generator(result, missed)),
        ("generator_calibrated", lambda: _calibrated(result)),
        ("enough_samples", lambda: _samples(result)),
        ("real_cards", lambda: _cards(result)),
    )
    return [{"name": name, "verdict": verdict, "detail": detail} for name, ask in asked for verdict, detail in (ask(),)]


def _answered(result: dict[str, Any]) -> Verdict:
    done = result["ok"] + result["refused"] + result["shed"] + result["cancelled"]
    return ("pass", f"{done} of {result['requests']} requests") if done else ("fail", "no request was answered in the window")


def _warm(result: dict[str, Any]) -> Verdict:
    if result["warmup_s"]:
        return "pass", f"the first {result['warmup_s']:g} s are not measured"
    return "warn", "the first requests are measured too: that was asked for, or no later one was answered"


def _usage(result: dict[str, Any]) -> Verdict:
    source = result["tokens"]["source"]
    if source is None:
        return "unknown", "no text was answered"
    if source == "usage":
        return "pass", "every token count is the server's own usage"
    return "warn", "some token counts are content events, which may hold more than one token: rates may be too low"


def _whole(measured: Sequence[Record]) -> Verdict:
    """A 200 that was no whole answer: no finish_reason, no [DONE], an error event, nothing inside."""
    broken = [one for one in measured if one.status == 200 and one.ending == "failed"]
    if broken:
        return "fail", f"{len(broken)} answers had status 200 and were not whole, e.g. {broken[0].reason}"
    return "pass", "every 200 was a whole answer"


def _lengths(measured: Sequence[Record]) -> Verdict:
    asked = [one for one in measured if one.ending == "ok" and one.wanted_tokens and one.output_tokens is not None]
    if not asked:
        return "unknown", "no text was answered"
    longer = sum(1 for one in asked if (one.output_tokens or 0) > (one.wanted_tokens or 0))
    if longer:
        return "fail", f"{longer} of {len(asked)} answers are longer than max_tokens"
    same = sum(1 for one in asked if one.output_tokens == one.wanted_tokens) / len(asked)
    if same < SAME_LENGTH:
        return "warn", f"{same:.0%} of the answers have the length asked for; --ignore-eos makes them equal where a server takes it"
    return "pass", f"{same:.0%} of the answers have the length that was asked for"


def _cache(result: dict[str, Any]) -> Verdict:
    share, wanted = result["tokens"]["cached_share"], result["spec"]["prefix_share"]
    seed = f"seed {result['seed']}, new for each run unless given"
    if share is None:
        return "unknown", f"the server tells no cached_tokens; {seed}"
    if share > wanted + CACHED_LIMIT:
        return "warn", f"{share:.1%} of the prompt tokens came from its cache, {wanted:.0%} were meant to"
    return "pass", f"{share:.1%} of the prompt tokens came from its cache; {seed}"


def _fields(measured: Sequence[Record]) -> Verdict:
    dropped = {one.dropped for one in measured if one.dropped}
    if dropped:
        return "warn", f"the server left out {', '.join(sorted(dropped))}"
    return "pass", "the server named no field that it left out"


def _agree(result: dict[str, Any]) -> Verdict:
    server = result["server"]
    if server["agree"] is None:
        return "unknown", server["note"]
    both = server["output_tokens"]
    said = f"output tokens: client {both['client']}, server {both['server']:.0f}"
    return ("pass", said) if server["agree"] else ("fail", f"{said}; other clients at the same time?")


def _generator(result: dict[str, Any], missed: Sequence[float]) -> Verdict:
    generator, late = result["generator"], result["late_s"]
    lag, cpu = generator["loop_lag_s"]["p99"], generator["cpu_percent_max"]
    if lag is None:
        return "unknown", "the run was too short to see"
    said = f"loop lag p99 {lag * 1000:.1f} ms, CPU at most {cpu or 0:.0f} %, sent late p99 {(late['p99'] or 0) * 1000:.1f} ms"
    if missed:
        return "warn", f"{len(missed)} requests were not sent: --max-in-flight was reached, as a server that can't keep up makes it; {said}"
    if lag > LAG_LIMIT_S or (cpu or 0) > CPU_LIMIT_PERCENT or (late["p99"] or 0) > LAG_LIMIT_S:
        return "warn", f"{said}: the generator was busy; use --processes, a second machine, or less load"
    return "pass", said


def _calibrated(result: dict[str, Any]) -> Verdict:
    calibration = result["calibration"]
    if calibration is None:
        return "unknown", "python -m loadtest calibrate was not run on this machine"
    streams = calibration["good_up_to_streams"]
    peak = max((piece["in_flight"] for piece in result["timeline"]), default=0.0)
    said = f"errors within the tolerance up to {streams} streams, {peak:.0f} were in flight"
    return ("pass", said) if streams and peak <= streams else ("warn", said)


def _samples(result: dict[str, Any]) -> Verdict:
    n = result["e2e_s"]["n"] or result["image_s"]["n"] or result["refusal_s"]["n"]
    if n >= SAMPLES_FOR_P99:
        return "pass", f"{n} answers"
    return "warn", f"{n} answers: with fewer than {SAMPLES_FOR_P99} the p99 is the worst of them"


def _cards(result: dict[str, Any]) -> Verdict:
    simulated = sorted(card for card, about in result["by_card"].items() if about["simulated"])
    if simulated:
        return "warn", f"simulated: {', '.join(simulated)}; its figures are a CPU's and say nothing about a GPU"
    known = [card for card, about in result["by_card"].items() if about["simulated"] is False]
    return ("pass", ", ".join(sorted(known))) if known else ("unknown", "the server names no card")
