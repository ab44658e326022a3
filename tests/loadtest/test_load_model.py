"""Arrivals, shapes, lengths, profiles, workloads: what is sent, and when."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from statistics import fmean, stdev

import pytest

from loadtest.arrivals import TraceError, read_trace, schedule, share
from loadtest.lengths import read_lengths
from loadtest.profiles import PROFILES, read_weights, usable
from loadtest.shapes import SHAPES, users_at
from loadtest.spec import Spec, base_url, is_loopback, spec_from_json
from loadtest.workload import Workload, read_prompts


def gaps(kind: str, cv: float = 1.0) -> list[float]:
    times = [arrival.at_s for arrival in schedule(kind, 50, 200, seed=3, cv=cv)]
    return [b - a for a, b in itertools.pairwise(times)]


def test_constant_is_the_worked_number() -> None:
    assert [arrival.at_s for arrival in schedule("constant", 4, 1, seed=0)] == [0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(("kind", "cv"), [("poisson", 1.0), ("gamma", 1.0), ("gamma", 3.0), ("gamma", 0.3)])
def test_gaps_have_the_mean_and_deviation_that_were_asked_for(kind: str, cv: float) -> None:
    found = gaps(kind, cv)
    assert fmean(found) == pytest.approx(1 / 50, rel=0.06)
    assert stdev(found) / fmean(found) == pytest.approx(cv, rel=0.1)


def test_a_seed_gives_the_same_schedule_and_workers_share_it_without_loss() -> None:
    whole = schedule("poisson", 20, 10, seed=7)
    assert whole == schedule("poisson", 20, 10, seed=7)
    assert whole != schedule("poisson", 20, 10, seed=8)
    parts = [share(whole, worker, 3) for worker in range(3)]
    assert sorted((arrival for part in parts for arrival in part), key=lambda one: one.index) == whole


def test_trace() -> None:
    text = "Timestamp,Request tokens,Response tokens\n100,10,20\n102,11,\n130,1,1\n"
    found = read_trace(text.splitlines(), duration_s=10, speed=2)
    assert [(one.at_s, one.prompt_tokens, one.output_tokens) for one in found] == [(0, 10, 20), (1, 11, None)]


@pytest.mark.parametrize("text", ["", "when\n1\n", "timestamp\nsoon\n", "timestamp\n5\n1\n", "timestamp\n"])
def test_bad_traces_are_sentences(text: str) -> None:
    with pytest.raises(TraceError):
        read_trace(text.splitlines(), 10)


@pytest.mark.parametrize("rate", [0, -1])
def test_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        schedule("poisson", rate, 1, 0)


def test_shapes() -> None:
    assert [users_at("step", moment, 50, 10) for moment in (0, 25, 45, 50)] == [2, 6, 10, None]
    assert [users_at("spike", moment, 10, 8) for moment in (0, 4, 5.9, 6)] == [2, 8, 8, 2]
    assert [users_at("sweep", moment, 4, 6) for moment in range(4)] == [1, 2, 4, 6]
    assert users_at("ramp", 0, 10, 8) == 1
    assert users_at("soak", 5, 100, 8) == 8


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_has_one_to_all_users(shape: str) -> None:
    assert all(1 <= (users_at(shape, part, 100, 7) or 0) <= 7 for part in range(100))


def test_lengths() -> None:
    source = random.Random(1)
    assert read_lengths("12").draw(source) == 12
    assert {read_lengths("uniform:2:4").draw(source) for _ in range(200)} == {2, 3, 4}
    drawn = sorted(read_lengths("lognormal:100:0.5").draw(source) for _ in range(2001))
    assert drawn[1000] == pytest.approx(100, rel=0.08)
    assert drawn[-1] <= 800


@pytest.mark.parametrize("text", ["", "x", "fixed:0", "uniform:4:2", "uniform:4", "lognormal:9:99", "gauss:1:2", "fixed:nan"])
def test_bad_lengths(text: str) -> None:
    with pytest.raises(ValueError, match="not a length"):
        read_lengths(text)


def body(ask: object) -> dict[str, object]:
    return json.loads(ask.body)  # type: ignore[attr-defined]


def test_workloads_repeat_with_their_seed_only() -> None:
    spec = Spec(chat_model="m", seed=5)

    def first(one: Spec, stream: str = "0") -> list[bytes]:
        made = Workload(one, stream)
        return [made.next("chat_stream").body for _ in range(3)]

    assert first(spec) == first(spec)
    assert first(spec) != first(dataclasses.replace(spec, seed=6))
    assert first(spec) != first(spec, "1")


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_prefix_share_is_the_share_of_words_that_prompts_begin_with(part: float) -> None:
    made = Workload(Spec(chat_model="m", seed=5, prefix_share=part, prefix_groups=1, prompt_words="fixed:40"), "0")
    a, b = (body(made.next("chat_stream"))["messages"][0]["content"].split() for _ in range(2))  # type: ignore[index]
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), 40)
    assert 40 * part <= same <= 40 * part + 2
    assert len(a) == 40


def test_a_conversation_grows_from_its_own_beginning() -> None:
    made = Workload(Spec(chat_model="m"), "0")
    turns = [body(made.next("multi_turn"))["messages"] for _ in range(7)]
    assert [len(turn) for turn in turns] == [1, 3, 5, 7, 9, 11, 1]  # type: ignore[arg-type]
    assert turns[1][:1] == turns[0]  # type: ignore[index]


def test_image_grid_covers_every_combination() -> None:
    made = Workload(Spec(image_model="i", image_sizes=("64x64", "128x128"), image_steps=(4, 20), image_counts=(1, 2)), "0")
    asked = [made.next("image") for _ in range(8)]
    assert len({(ask.size, ask.steps, body(ask)["n"]) for ask in asked}) == 8


def test_a_trace_says_the_lengths() -> None:
    arrival = read_trace(["timestamp,request tokens,response tokens", "0,400,33"], 1)[0]
    ask = Workload(Spec(chat_model="m"), "0").next("chat_stream", arrival)
    assert ask.wanted_tokens == 33
    assert len(body(ask)["messages"][0]["content"].split()) == 300  # type: ignore[index]


def test_what_wont_fit_expects_a_refusal() -> None:
    made = Workload(Spec(chat_model="m", image_model="i", wont_fit_models=("huge",)), "0")
    asked = [made.next("wont_fit") for _ in range(4)]
    assert {ask.expect for ask in asked} == {"refusal"}
    assert {body(ask)["model"] for ask in asked} == {"huge", "m", "i"}


def test_profiles_ask_only_for_what_is_served() -> None:
    assert usable(PROFILES["ci"], "m", None) == {"chat_stream": 8, "chat": 1, "completions": 1, "probe": 1}
    assert usable(PROFILES["ci"], None, "i") == {"image": 1}
    assert usable(PROFILES["chat"], None, "i") == {}
    assert read_weights("chat=2,image=1") == {"chat": 2, "image": 1}
    with pytest.raises(ValueError, match="not a weight"):
        read_weights("chat=2,walk=1")


def test_a_spec_survives_its_json() -> None:
    spec = Spec(trace=tuple(schedule("constant", 2, 1, 0)), image_sizes=("8x8",), weights={"chat": 1}, rate_rps=None)
    assert spec_from_json(spec.to_json()) == spec
    assert spec.open_loop


def test_urls() -> None:
    assert base_url("http://127.0.0.1:8000/v1/") == "http://127.0.0.1:8000"
    assert base_url("https://host/api/v1") == "https://host/api"
    assert is_loopback("http://127.0.0.1:1")
    assert not is_loopback("http://10.0.0.1:1")
    for bad in ("127.0.0.1:8000", "ftp://x", "http://", "http://x:99999", "http://x:y", "http://key:secret@x", "http://[::1"):
        with pytest.raises(ValueError, match=r"URL"):
            base_url(bad)


def test_prompt_files() -> None:
    share_gpt = [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]}, {"conversations": []}]
    assert read_prompts(json.dumps(share_gpt)) == ("Hi",)
    assert read_prompts('{"prompt": "a"}\n{"text": "b"}\nplain\n') == ("a", "b", "plain")
    with pytest.raises(ValueError, match="no prompt"):
        read_prompts("\n")
