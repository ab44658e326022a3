"""From rows to result.json: the window, rates, goodput, the join with the server, the checks."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import jsonschema
import pytest

from loadtest.exposition import ServerCounts, counts_of, samples
from loadtest.figures import curve, interval_of_mean, interval_of_percentile, overlap_tokens, percentile, summary, t_95
from loadtest.join import joined
from loadtest.record import Record, from_row, to_row
from loadtest.result import Beside, result_of
from loadtest.scrape import nvidia_watts
from loadtest.slo import DEFAULT, Slo, read_slo
from loadtest.spec import Spec
from tests.loadtest.results import START, idle, started, stream

SPEC = Spec(url="http://127.0.0.1:1", chat_model="m", profile="chat", duration_s=12, warmup_s=2)
SCHEMA = json.loads((DEFAULT.parent / "result.schema.json").read_text(encoding="utf8"))


def verdicts(result: dict) -> dict[str, str]:  # type: ignore[type-arg]
    return {one["name"]: one["verdict"] for one in result["checks"]}


def test_figures_are_the_worked_numbers() -> None:
    assert percentile([1, 2, 3, 4], 50) == 2.5
    assert percentile([], 50) is None
    assert interval_of_percentile([float(i) for i in range(1, 101)], 50) == [40, 61]
    assert interval_of_percentile([1.0, 2.0], 95) is None
    assert interval_of_mean([1.0]) is None
    assert interval_of_mean([1.0, 3.0]) == [pytest.approx(-10.706), pytest.approx(14.706)]
    assert t_95(4) == 2.776
    assert t_95(40) == pytest.approx(2.021, abs=0.003)
    assert overlap_tokens(0, 1, 11, 0, 0.55) == 6
    assert overlap_tokens(0, 1, 11, 0.55, 2) == 5
    assert overlap_tokens(5, 5, 3, 0, 6) == 3
    assert curve([1.0, 3.0], 3) == [1, 2, 3]


def test_pieces_of_a_stream_add_up_to_its_tokens() -> None:
    edges = [0.1 * i for i in range(40)]
    parts = [overlap_tokens(0.33, 2.77, 97, a, b) for a, b in itertools.pairwise(edges)]
    assert sum(parts) == 97


def test_no_value_is_none_and_never_0() -> None:
    assert summary([]) == {"p50": None, "p90": None, "p95": None, "p99": None, "mean": None, "max": None, "n": 0,
                           "ci95": {"p50": None, "p95": None}}  # fmt: skip
    empty = result_of(SPEC, [started()])
    jsonschema.validate(empty, SCHEMA)
    assert (empty["output_tok_s"], empty["goodput"], empty["error_share"]) == (None, None, None)
    assert verdicts(empty)["anything_answered"] == "fail"


def test_rows_survive_their_json() -> None:
    record = Record("chat", 1.0, ending="shed", reason="r", gaps_s=[0.1])
    assert from_row(json.loads(json.dumps(to_row(record)))) == record


def test_warm_up_is_left_out_and_the_rate_counts_what_came_in_the_window() -> None:
    rows = [started(), *(stream(i * 0.1) for i in range(120)), stream(1.9, itl_s=1.0, tokens=3), idle(5)]
    result = result_of(SPEC, rows, Slo(ttft_s=1, tpot_s=0.5))
    jsonschema.validate(result, SCHEMA)
    assert result["requests"] == 100
    assert result["ttft_s"]["p50"] == 0.2
    assert result["tpot_s"]["p95"] == pytest.approx(0.02)
    # 10 streams/s of 11 tokens, and all 3 tokens of the one that was due before the window; the last ones end after it.
    assert result["output_tok_s"] == pytest.approx(110.3, abs=0.5)
    assert result["goodput"] == 10
    assert result["goodput_share"] == 1
    assert verdicts(result)["generator_not_the_limit"] == "pass"
    assert verdicts(result)["enough_samples"] == "pass"


def test_where_only_the_warm_up_has_requests_they_are_measured_and_that_is_told() -> None:
    result = result_of(SPEC, [started(), stream(0.1), stream(0.2)])
    assert (result["requests"], result["warmup_s"], verdicts(result)["warm_up_left_out"]) == (2, 0, "warn")
    assert verdicts(result_of(SPEC, [started(), stream(0.1), stream(5)]))["warm_up_left_out"] == "pass"


def test_lateness_of_the_generator_is_in_the_latency_and_is_told() -> None:
    result = result_of(SPEC, [started(), *(stream(3 + i * 0.1, ttft_s=0.7, late_s=0.5) for i in range(20)), idle(5)], Slo(ttft_s=0.5))
    assert result["late_s"]["p50"] == 0.5
    assert result["goodput"] == 0
    assert verdicts(result)["generator_not_the_limit"] == "warn"


def test_goodput_counts_skipped_and_unfinished_requests_as_offered() -> None:
    rows = [started(), stream(3), stream(4, ttft_s=9), stream(5, ending="unfinished", first_s=None, last_s=None, output_tokens=None),
            {"type": "skipped", "unix_s": START + 6, "index": 9}, stream(7, ending="cancelled")]  # fmt: skip
    result = result_of(SPEC, rows, Slo(ttft_s=1))
    assert (result["good_requests"], result["goodput_share"], result["skipped"], result["unfinished"]) == (1, 0.25, 1, 1)


def test_sheds_are_failures_unless_the_profile_came_for_them() -> None:
    shed = stream(3, ending="shed", status=429, reason="status 429 queue_full", first_s=None, last_s=None, output_tokens=None)
    rows = [started(), stream(3), shed]
    assert result_of(SPEC, rows)["failures"] == 1
    overload = result_of(Spec(profile="overload", duration_s=12, warmup_s=2), rows)
    assert (overload["failures"], overload["shed"], overload["http_5xx"]) == (0, 1, 0)
    assert overload["goodput_share"] == 0.5


def test_a_200_that_was_not_whole_and_lengths_that_were_not_asked_for_are_found() -> None:
    broken = stream(3, ending="failed", reason="a stream without finish_reason")
    long = stream(4, output_tokens=90)
    found = verdicts(result_of(SPEC, [started(), broken, long]))
    assert (found["answers_are_whole"], found["lengths_as_asked"]) == ("fail", "fail")


def test_chunks_for_tokens_cached_prompts_and_dropped_fields_are_told() -> None:
    rows = [started(), stream(3, tokens_source="chunks"), stream(4, cached_tokens=7, dropped="ignore_eos")]
    result = result_of(SPEC, rows)
    assert result["tokens"]["source"] == "mixed"
    assert result["tokens"]["cached_share"] == 1
    found = verdicts(result)
    assert (found["usage_from_server"], found["nothing_from_cache"], found["fields_kept"]) == ("warn", "warn", "warn")


GATEWAY = """# HELP x
gen_ai_client_token_usage_sum{card="GPU-1",gen_ai_token_type="input",gen_ai_request_model="m"} 70.0
gen_ai_client_token_usage_sum{card="GPU-1",gen_ai_token_type="output",gen_ai_request_model="m"} 110.0
gen_ai_client_token_usage_sum{card="GPU-2",gen_ai_token_type="output",gen_ai_request_model="a \\"b\\""} 5.0
rigserve_images_total{card="GPU-1",model="i"} 3.0
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-1",modelName="x"} 81.5
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-1",energy_source="counter"} 2000.0
nonsense line here
"""


def test_the_servers_own_counts() -> None:
    counts = counts_of(samples(GATEWAY))
    assert (counts.prompt_tokens, counts.output_tokens, counts.images) == (70, 115, 3)
    assert counts.output_by_card == {"GPU-1": 110, "GPU-2": 5}
    assert (counts.watts_by_card, counts.joules_by_card) == ({"GPU-1": 81.5}, {"GPU-1": 2.0})
    vllm = counts_of(samples('vllm:prompt_tokens_total{engine="0"} 5\nvllm:generation_tokens_total{engine="0"} 1e3'))
    assert (vllm.source, vllm.prompt_tokens, vllm.output_tokens) == ("vllm", 5, 1000)
    assert counts_of(samples("llamacpp:prompt_tokens_total 4\nllamacpp:tokens_predicted_total 6")).output_tokens == 6
    assert counts_of(samples("up 1")).output_tokens is None
    idle_gateway = counts_of(samples("rigserve_requests_running 0"))
    assert idle_gateway.output_tokens == 0


def test_join_agrees_differs_or_does_not_know() -> None:
    records = [from_row(stream(3)) for _ in range(10)]
    same = joined(records, ServerCounts("x", 100, 1000), ServerCounts("x", 170, 1110))
    assert (same["agree"], same["output_tokens"]["difference"]) == (True, 0)
    assert joined(records, ServerCounts("x", 0, 0), ServerCounts("x", 70, 120))["agree"] is False
    assert joined(records, ServerCounts(), ServerCounts())["agree"] is None
    restarted = joined(records, ServerCounts("x", 500, 5000), ServerCounts("x", 70, 110))
    assert restarted["output_tokens"]["server"] is None
    left = [*records, Record("canceller", 0.0, ending="cancelled")]
    assert joined(left, ServerCounts("x", 0, 0), ServerCounts("x", 70, 110))["agree"] is None


def test_cards_have_their_rate_their_watts_and_say_when_they_are_simulated() -> None:
    power = ((START + 3, {"GPU-1": 80.0}), (START + 4, {"GPU-1": 120.0}), (START + 1, {"GPU-1": 999.0}))
    beside = Beside(power=power, power_source="server",
                    cards={"GPU-1": {"name": "P104-100", "simulated": False}}, marks=((START + 5, "pause"),))  # fmt: skip
    result = result_of(SPEC, [started(), *(stream(2 + i) for i in range(10))], beside=beside)
    jsonschema.validate(result, SCHEMA)
    card = result["by_card"]["GPU-1"]
    assert (card["watts"], card["output_tok_s"], card["output_tok_per_joule"]) == (100, 11, 0.11)
    assert verdicts(result)["real_cards"] == "pass"
    assert result["marks"] == [{"t_s": 5, "what": "pause"}]
    simulated = Beside(cards={"GPU-1": {"name": "CPU", "simulated": True}})
    assert verdicts(result_of(SPEC, [started(), stream(3)], beside=simulated))["real_cards"] == "warn"


def test_nvidia_smi_without_a_power_reading() -> None:
    assert nvidia_watts("GPU-a, P106-090, [N/A]\nGPU-b, P104-100, 42.5\nrubbish\n") == {"GPU-b": 42.5}
    assert nvidia_watts("") is None


def test_slo_files(tmp_path: Path) -> None:
    assert read_slo(DEFAULT) == Slo(ttft_s=2, tpot_s=0.1, image_s=60)
    slo = Slo(ttft_s=0.25, tpot_s=0.02, e2e_s=1, image_s=2)
    assert slo.good(from_row(stream(0)))
    assert not slo.good(from_row(stream(0, ttft_s=0.26)))
    assert not slo.good(from_row(stream(0, itl_s=0.03)))
    assert not slo.good(Record("image", 0.0, ending="ok", end_s=3))
    assert slo.good(Record("chat", 0.0, ending="ok", end_s=0.9))
    for text in ("ttft_s = 0", "ttft_s = true", "speed = 1", "ttft_s =", 'ttft_s = "1"'):
        (tmp_path / "slo.toml").write_text(text)
        with pytest.raises(ValueError, match="SLO file"):
            read_slo(tmp_path / "slo.toml")
    with pytest.raises(ValueError, match="can't be read"):
        read_slo(tmp_path / "none.toml")
