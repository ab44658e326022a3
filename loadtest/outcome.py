"""What a run leaves: the files, the lines on the console, and whether it failed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.limits import Limit
from loadtest.report import number, page


def failing(result: dict[str, Any], limits: Sequence[Limit]) -> list[str]:
    """Why the command ends with 1: a limit was broken, or nothing at all was answered."""
    reasons = [reason for limit in limits if (reason := limit.broken_by(result))]
    if not result["ok"] + result["refused"] + result["shed"] + result["cancelled"]:
        worst = f": {result['errors'][0]['reason']}" if result["errors"] else ", none ended in time"
        reasons.append(f"no request was answered{worst}")
    return reasons


def write(result: dict[str, Any], out: Path) -> None:
    (out / "result.json").write_text(json.dumps(result, indent=1), encoding="utf8")
    (out / "report.html").write_text(page(result), encoding="utf8")
    (out / "summary.md").write_text(markdown(result), encoding="utf8")


def console(result: dict[str, Any], out: Path) -> str:
    ttft, tpot, e2e = result["ttft_s"], result["tpot_s"], result["e2e_s"]
    share = result["goodput_share"]
    lines = [
        f"requests {result['requests']}: {result['ok']} answered, {result['failures']} failed, {result['shed']} shed, "
        f"{result['refused']} refused as they should, {result['unfinished']} unfinished, {result['skipped']} not sent",
        f"output   {number(result['output_tok_s'], 'tok/s', 4)} (tokens: {result['tokens']['source'] or 'unknown'})",
        *(f"{name:<8} p50 {number(one['p50'], 's', 4)}, p95 {number(one['p95'], 's', 4)}, p99 {number(one['p99'], 's', 4)}, n {one['n']}"
          for name, one in (("TTFT", ttft), ("TPOT", tpot), ("whole", e2e), ("image", result["image_s"]), ("refusal", result["refusal_s"]))
          if one["n"] or name in ("TTFT", "TPOT", "whole")),
        f"goodput  {number(result['goodput'], 'good requests/s', 4)}" + ("" if share is None else f", {share:.1%} of what was offered"),
    ]  # fmt: skip
    if "sweep" in result:
        lines.append(f"knee     {number(result['sweep']['knee_rps'], 'requests/s')}; saturated from "
                     f"{number(result['sweep']['saturated_rps'], 'requests/s')}")  # fmt: skip
    said = [one for one in result["checks"] if one["verdict"] in ("warn", "fail")]
    lines += [f"{one['verdict']}: {one['name'].replace('_', ' ')}: {one['detail']}" for one in said]
    return "\n".join([*lines, f"written: {out / 'report.html'}, {out / 'result.json'}"])


def markdown(result: dict[str, Any]) -> str:
    """A line and a table for a page or a pull request."""
    model = " + ".join(name for name in result["models"].values() if name)
    worst = min((one["verdict"] for one in result["checks"]), key=("fail", "warn", "unknown", "pass").index, default="unknown")
    rows = (
        ("output", number(result["output_tok_s"], "tok/s")),
        ("TTFT p50 / p95", f"{number(result['ttft_s']['p50'])} / {number(result['ttft_s']['p95'], 's')}"),
        ("TPOT p50 / p95", f"{number(result['tpot_s']['p50'])} / {number(result['tpot_s']['p95'], 's')}"),
        ("goodput", number(result["goodput"], "requests/s")), ("requests, failures", f"{result['requests']}, {result['failures']}"),
        ("images", number(result["images_per_s"], "/s")), ("checks", worst),
    )  # fmt: skip
    head = f"**{model}** · {result['profile']}, {result['mode']} loop, {result['window_s']:g} s · {result['started_at']}\n\n"
    return head + "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)
