"""Which plots a report has. Pure."""

from __future__ import annotations

from typing import Any

from loadtest.plots import Plot, Series


def sweep_plots(result: dict[str, Any]) -> list[Plot]:
    """Throughput against latency, and goodput against what was offered."""
    points = result["sweep"]["points"]
    rates = sorted((point for point in points if point["label"] == "rate"), key=lambda point: point["offered_rps"])
    knee = result["sweep"]["knee_rps"]
    marks = [(knee, "knee")] if knee else []
    known = [point for point in rates if point["output_tok_s"] is not None]
    latency = [
        Series(words, [(point["output_tok_s"], point[name]) for point in known], dots=True,
               labels=[f"{point['offered_rps']:g} requests/s offered: {words} {point[name]} s" for point in known])
        for name, words in (("ttft_p50_s", "TTFT p50"), ("ttft_p95_s", "TTFT p95"))
    ]  # fmt: skip
    offered = [(point["offered_rps"], point["offered_rps"]) for point in rates]
    good = [(point["offered_rps"], point["goodput_rps"]) for point in rates]
    return [
        Plot("Throughput and latency", "output tok/s", "seconds", latency, about="Each dot is one offered rate."),
        Plot("Goodput and what was offered", "offered requests/s", "requests/s",
             [Series("good", good, dots=True), Series("all of them good", offered, dashed=True)], marks),
        Plot("Output and what was offered", "offered requests/s", "tok/s",
             [Series("output", [(point["offered_rps"], point["output_tok_s"]) for point in rates], dots=True)], marks),
    ]  # fmt: skip


def run_plots(result: dict[str, Any]) -> list[Plot]:
    """One run: over its time, and its distributions."""
    pieces = result["timeline"]
    marks = [(mark["t_s"], mark["what"]) for mark in result["marks"]]
    marks += [(result["warmup_s"], "measured from here")] if result["warmup_s"] else []
    width = pieces[1]["t_s"] - pieces[0]["t_s"] if len(pieces) > 1 else result["duration_s"]

    def over(name: str, scale: float = 1.0) -> list[tuple[float, float | None]]:
        return [(piece["t_s"], None if piece[name] is None else piece[name] * scale) for piece in pieces]

    tokens = Plot("Output tokens", "seconds", "tok/s", [Series("output", over("output_tok_s"))], marks)
    plots = [*_distributions(result), tokens]
    plots.append(Plot("Throughput and latency, piece by piece", "output tok/s", "TTFT p50, seconds", [
        Series("a piece of time", [(piece["output_tok_s"], piece["ttft_p50_s"]) for piece in pieces], line=False),
    ], about=f"Each dot is {width:g} s."))  # fmt: skip
    plots.append(Plot("Offered and good", "seconds", "requests/s",
                      [Series("offered", over("offered", 1 / width), dashed=True), Series("good", over("good", 1 / width))], marks))
    plots.append(Plot("In flight", "seconds", "requests", [Series("in flight", over("in_flight"))], marks))
    bad = [Series(words, over(name, 1 / width), shown_as=shade) for name, words, shade in
           (("failed", "failed", 4), ("shed", "shed", 1), ("refused", "refused as it should", 2), ("skipped", "not sent", 3))
           if any(piece[name] for piece in pieces)]  # fmt: skip
    plots.append(Plot("Errors", "seconds", "requests/s", bad or [Series("failed", over("failed"))], marks))
    if any(piece["images"] for piece in pieces):
        plots.append(Plot("Images", "seconds", "images/s", [Series("images", over("images", 1 / width))], marks))
    return plots + _card_plots(result, marks)


def _distributions(result: dict[str, Any]) -> list[Plot]:
    plots = []
    for name, words in (("ttft_s", "Time to first token"), ("tpot_s", "Time per output token")):
        limit = result["slo"][name]
        values = result["curves"][name]
        spots = [(value, 100 * i / (len(values) - 1)) for i, value in enumerate(values)]
        marks = [(limit, "SLO")] if limit else []
        line = [Series(words, spots)]
        plots.append(Plot(words, "seconds", "% of answers at most this", line, marks, top=100, unknown="no answer was streamed"))
    return plots


def _card_plots(result: dict[str, Any], marks: list[tuple[float, str]]) -> list[Plot]:
    """One line a card; colours are the same in both plots."""
    cards, pieces = list(result["by_card"]), result["timeline"]
    names = {card: (about["name"] or card) + (" (simulated)" if about["simulated"] else "") for card, about in result["by_card"].items()}

    def lines(key: str, missing: float | None) -> list[Series]:
        return [
            Series(names[card], [(piece["t_s"], piece[key].get(card, missing)) for piece in pieces], shown_as=i)
            for i, card in enumerate(cards) if any(card in piece[key] for piece in pieces)
        ]  # fmt: skip

    return [
        Plot("Output tokens by card", "seconds", "tok/s", lines("output_tok_s_by_card", 0.0) or [Series("no card", [])], marks,
             unknown="the server's answers name no card (header x-rigserve-card or x-card)"),
        Plot("Power by card", "seconds", "W", lines("watts_by_card", None) or [Series("no card", [])], marks,
             unknown="no power reading: neither the server's /metrics nor nvidia-smi here tell one"),
    ]  # fmt: skip
