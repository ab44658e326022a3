"""Reads Prometheus' text format, as much as the join with the server's own counts needs. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


@dataclass(frozen=True, slots=True)
class Sample:
    name: str
    labels: dict[str, str]
    value: float


def samples(text: str) -> list[Sample]:
    """Lines that are no sample are left out."""
    found = []
    for line in text.splitlines():
        if line.startswith("#") or not (match := _LINE.match(line)):
            continue
        name, labels, value = match.groups()
        try:
            number = float(value)
        except ValueError:
            continue
        found.append(Sample(name, {key: _plain(said) for key, said in _LABEL.findall(labels or "")}, number))
    return found


def _plain(text: str) -> str:
    return re.sub(r'\\[\\"n]', lambda match: _ESCAPES[match.group()], text)


@dataclass(frozen=True, slots=True)
class ServerCounts:
    """Sums since the server's start, by its own count; None where it tells none. `source`: which metric they come from."""

    source: str | None = None
    prompt_tokens: float | None = None
    output_tokens: float | None = None
    images: float | None = None
    output_by_card: dict[str, float] | None = None
    watts_by_card: dict[str, float] | None = None
    joules_by_card: dict[str, float] | None = None


def counts_of(found: list[Sample]) -> ServerCounts:
    """What a rigserve gateway, a vLLM or a llama.cpp server says.

    1. gen_ai_client_token_usage (OpenTelemetry's name; a histogram, so its _sum): tokens by `gen_ai_token_type`, and by `card`.
    2. Else vLLM's vllm:prompt_tokens_total and vllm:generation_tokens_total.
    3. Else llama.cpp's llamacpp:prompt_tokens_total and llamacpp:tokens_predicted_total.
    Watts and joules are dcgm-exporter's, by `UUID`. Before its first request a server may not have a sample yet: counted as 0 where its
    other metrics show which server it is.
    """
    names = {one.name for one in found}
    watts = {one.labels.get("UUID", ""): one.value for one in found if one.name == "DCGM_FI_DEV_POWER_USAGE"} or None
    joules = {
        one.labels.get("UUID", ""): one.value / 1000 for one in found if one.name.startswith("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION")
    } or None
    images = sum(one.value for one in found if one.name == "rigserve_images_total") if any("rigserve_" in name for name in names) else None
    if "gen_ai_client_token_usage_sum" in names or any(name.startswith("rigserve_") for name in names):  # 1
        usage = [one for one in found if one.name == "gen_ai_client_token_usage_sum"]
        by_card: dict[str, float] = {}
        for one in usage:
            if one.labels.get("gen_ai_token_type") == "output":
                card = one.labels.get("card", "")
                by_card[card] = by_card.get(card, 0) + one.value
        prompt = sum(one.value for one in usage if one.labels.get("gen_ai_token_type") == "input")
        return ServerCounts("gen_ai_client_token_usage", prompt, sum(by_card.values()), images, by_card, watts, joules)
    for source, prompt_name, output_name in (  # 2, 3
        ("vllm", "vllm:prompt_tokens_total", "vllm:generation_tokens_total"),
        ("llama.cpp", "llamacpp:prompt_tokens_total", "llamacpp:tokens_predicted_total"),
    ):
        if output_name in names:
            prompt, output = (sum(one.value for one in found if one.name == name) for name in (prompt_name, output_name))
            return ServerCounts(source, prompt, output, None, None, watts, joules)
    return ServerCounts(None, None, None, images, None, watts, joules)
