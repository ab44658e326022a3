"""The decision tree, branch by branch, in its order."""

from __future__ import annotations

import pytest

from services.gateway.admission import View, admit, check_text, image_too_large, largest_image
from services.gateway.backends import Backend, from_placement
from services.gateway.directory import Directory
from services.gateway.settings import Limits
from services.gateway.text_request import read_text_request
from services.sizing.fit import fit
from services.sizing.types import ImageWorkload
from services.wire.errors import (
    BackendStarting,
    ContextLengthExceeded,
    InvalidValue,
    ModelDoesNotFit,
    ModelNotFound,
    NoAvailableWorker,
    QueueFull,
)
from services.wire.worker import WorkerState
from tests.gateway.rig import HOST, catalogue, rig_plan

CATALOGUE = catalogue()
PLAN = rig_plan()
SMOL = "smollm2-135m-instruct"


@pytest.fixture
def directory() -> Directory:
    ends = {"engine_url": "http://h:1", "worker_url": "http://h:2", "token_file": None}
    backends = [from_placement(place, PLAN.cards[0], ends) for place in PLAN.placements]
    for backend in backends:
        set_state(backend, WorkerState.READY)
    return Directory(backends, CATALOGUE, Limits(queue=1))


def set_state(backend: Backend, state: WorkerState, reason: str | None = None) -> None:
    backend.state, backend.reason, backend.since_s = state, reason, 100.0
    backend.lane.ready = state is WorkerState.READY


def view(directory: Directory, name: str, **more) -> View:
    return View(name, directory.get(name), list(directory.models), **more)


def unserved(directory: Directory, name: str) -> View:
    spec = CATALOGUE.get(name)
    return view(directory, name, spec=spec, reports=tuple(fit(card, spec, HOST, catalogue=CATALOGUE) for card in PLAN.cards))


def test_1_draining_comes_first(directory: Directory) -> None:
    with pytest.raises(NoAvailableWorker):
        admit(view(directory, "nobody", draining=True), "text", 100)


def test_2a_unknown(directory: Directory) -> None:
    with pytest.raises(ModelNotFound, match=SMOL):
        admit(view(directory, "nobody"), "text", 100)
    with pytest.raises(ModelNotFound, match="'x\\?\\?y"):
        admit(view(directory, "x\r\ny" + "z" * 500), "text", 100)


def test_2a_catalogued_but_no_card_is_known(directory: Directory) -> None:
    with pytest.raises(ModelNotFound):
        admit(view(directory, "sdxl", spec=CATALOGUE.get("sdxl"), reports=()), "image", 100)


def test_2b_fits_no_card(directory: Directory) -> None:
    with pytest.raises(ModelDoesNotFit) as refused:
        admit(unserved(directory, "qwen2.5-32b-instruct"), "text", 100)
    assert [report["fits"] for report in refused.value.extra["fit"]] == [False, False]
    assert "Simulated CPU card" in refused.value.message, "the nearest is the one with 8 GiB"


def test_2c_would_fit(directory: Directory) -> None:
    with pytest.raises(ModelNotFound, match="It would fit card sim-0"):
        admit(unserved(directory, "llama-3.2-1b-instruct"), "text", 100)


def test_3_wrong_kind_comes_before_state(directory: Directory) -> None:
    set_state(directory.models["digits-sd"].backends[0], WorkerState.LOADING)
    with pytest.raises(InvalidValue):
        admit(view(directory, "digits-sd"), "text", 100)


@pytest.mark.parametrize(("state", "error"), [
    (WorkerState.STARTING, BackendStarting), (WorkerState.LOADING, BackendStarting), (WorkerState.WARMING, BackendStarting),
    (WorkerState.RESTARTING, BackendStarting), (WorkerState.FAILED, NoAvailableWorker), (WorkerState.UNREACHABLE, NoAvailableWorker),
    (WorkerState.DRAINING, NoAvailableWorker),
])
def test_4_not_ready(directory: Directory, state: WorkerState, error: type[Exception]) -> None:
    set_state(directory.models[SMOL].backends[0], state, "because")
    with pytest.raises(error) as refused:
        admit(view(directory, SMOL), "text", 100)
    assert refused.value.retry_after_s is not None


def test_4_retry_after_is_what_is_left_of_the_load(directory: Directory) -> None:
    backend = directory.models[SMOL].backends[0]
    set_state(backend, WorkerState.LOADING)
    backend.status = {"load_s": 30.0}
    with pytest.raises(BackendStarting) as refused:
        admit(view(directory, SMOL), "text", 112)
    assert refused.value.retry_after_s == 18.0


def test_5_queue_full(directory: Directory) -> None:
    from services.gateway.scheduler import Need, Ticket

    queue = directory.models[SMOL].queue
    for _ in range(3):
        queue.request(Ticket(Need()), 100)
    with pytest.raises(QueueFull) as full:
        admit(view(directory, SMOL), "text", 104)
    assert full.value.retry_after_s == 2 * 4 / 2, "(1 waiting + 1) x the age of the oldest / 2 slots"


def test_6_admitted_by_any_name(directory: Directory) -> None:
    for name in (SMOL, SMOL.upper(), "HuggingFaceTB/SmolLM2-135M-Instruct"):
        assert admit(view(directory, name), "text", 100).id == SMOL


def test_output_beyond_the_context(directory: Directory) -> None:
    served = directory.models[SMOL]
    for name in ("max_tokens", "max_completion_tokens"):
        raw = f'{{"model":"m","messages":[{{"role":"user","content":"x"}}],"{name}":512}}'.encode()
        with pytest.raises(ContextLengthExceeded) as refused:
            check_text(read_text_request("/v1/chat/completions", raw), served)
        assert refused.value.param == name
        check_text(read_text_request("/v1/chat/completions", raw.replace(b"512", b"511")), served)


def test_more_answers_than_sequences(directory: Directory) -> None:
    raw = b'{"model":"m","messages":[{"role":"user","content":"x"}],"n":3}'
    with pytest.raises(InvalidValue, match="at most 2"):
        check_text(read_text_request("/v1/chat/completions", raw), directory.models[SMOL])
    check_text(read_text_request("/v1/chat/completions", raw.replace(b"3", b"2")), directory.models[SMOL])


def test_image_too_large_says_whose_limit_it_is(directory: Directory) -> None:
    served = directory.models["digits-sd"]
    largest = largest_image(served)
    assert largest is not None
    assert "gives this placement no more room" in image_too_large((64, 64), largest, fit(PLAN.cards[0], CATALOGUE.get("digits-sd"),
        HOST)).message
    too_much = fit(PLAN.cards[1], CATALOGUE.get("sdxl"), HOST, workload=ImageWorkload(width_px=4096, height_px=4096, batch=8))
    assert not too_much.fits
    assert too_much.reason in image_too_large((64, 64), largest, too_much).message
