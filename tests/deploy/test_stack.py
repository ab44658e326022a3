"""plan -> Stack: names, limits, order, who may talk to whom."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.deploy.build import stack_of
from services.deploy.flags import REASONS, flags_of
from services.deploy.images import load_images
from services.deploy.limits import memory_limit, start_limit_s
from services.deploy.names import service_names
from services.deploy.options import Options
from services.deploy.stack import Gpu, Service, Stack, StackError
from services.sizing.planfile import load_plan
from services.sizing.types import Engine, HostNeed, Plan, Speed
from services.sizing.units import MIB
from tests.deploy.nine_cards import FOLDER


@pytest.fixture(scope="module")
def plan() -> Plan:
    return load_plan(FOLDER / "plan.yaml")


@pytest.fixture(scope="module")
def stack(plan: Plan) -> Stack:
    return stack_of(plan, load_images(), Options("0.1.0"))


def by_name(stack: Stack) -> dict[str, Service]:
    return {service.name: service for service in stack.services}


def test_one_worker_per_placement_on_its_own_card(plan: Plan, stack: Stack) -> None:
    workers = stack.of("worker")
    assert [dict(w.labels)["rigserve.placement"] for w in workers] == [p.id for p in plan.placements]
    ids = [w.gpu.nvidia_id for w in workers if w.gpu.nvidia_id]
    assert len(ids) == len(set(ids)) == 8
    assert all(identifier.startswith("GPU-") for identifier in ids)
    assert [w.gpu for w in workers if not w.gpu.nvidia_id] == [Gpu(nodes=("/dev/dri/renderD128",))]


def test_the_image_is_the_cards_not_the_hosts(stack: Stack) -> None:
    images = {dict(w.labels)["rigserve.card"][-1]: w.image.name.rpartition("-")[2] for w in stack.of("worker")}
    assert images["1"] == "cuda12"  # Pascal
    assert images["6"] == "cuda13"  # GTX 1660 SUPER
    assert images["0"] == "vulkan"  # 0000:0a:00.0, Polaris


def test_workers_start_one_after_the_other(stack: Stack) -> None:
    before = None
    for worker in stack.of("worker"):
        chain = [a for a in worker.after if a.condition == "healthy"]
        assert [a.service for a in chain] == ([before] if before else [])
        assert not any(a.required for a in chain), "one broken card must not stop the rest"
        fetches = [a for a in worker.after if a.condition == "done"]
        assert len(fetches) == 1
        assert fetches[0].required
        before = worker.name
    assert by_name(stack)["gateway"].after == ()


def test_only_the_gateway_is_in_two_networks_and_only_fetches_reach_out(stack: Stack) -> None:
    assert {n.name: n.internal for n in stack.networks} == {"workers": True, "edge": False, "egress": False}
    for service in stack.services:
        expected = {"worker": ("workers",), "fetch": ("egress",), "gateway": ("workers", "edge")}.get(service.role, ("edge",))
        assert service.networks == expected
        if service.role in ("worker", "fetch"):
            assert service.ports == ()


def test_weights_are_read_only_but_for_the_fetch(stack: Stack) -> None:
    for service in stack.services:
        for mount in service.mounts:
            if mount.target == "/weights":
                assert mount.read_only is (service.role != "fetch")


def test_a_worker_is_given_its_own_token_only(stack: Stack) -> None:
    for worker in stack.of("worker"):
        assert worker.secrets == (worker.name,)
    assert set(by_name(stack)["gateway"].secrets) == {w.name for w in stack.of("worker")}


def test_it_stops_later_than_it_drains(stack: Stack) -> None:
    for worker in stack.of("worker"):
        drain = int(worker.command[worker.command.index("--drain-s") + 1])
        assert worker.stop_grace_s == drain + 15


def test_memory_limit_worked_number(plan: Plan) -> None:
    placement = replace(plan.placements[0], report=replace(plan.placements[0].report, host=HostNeed(int(612.3 * MIB), None, None)))
    assert memory_limit(placement, None)[0] == 1022 * MIB
    assert memory_limit(placement, 1024 * MIB)[0] == 2046 * MIB
    unknown = replace(placement, report=replace(placement.report, host=None))
    assert memory_limit(unknown, None)[0] is None


def test_start_limit_worked_number(plan: Plan) -> None:
    card, first = plan.cards[0], plan.placements[0]
    placement = replace(first, report=replace(first.report, speed=Speed(load_s=25.7)))
    assert start_limit_s(placement, card)[0] == 1038
    assert start_limit_s(placement, replace(card, compute_capability="8.6"))[0] == 138
    unknown = replace(placement, report=replace(placement.report, speed=None))
    assert start_limit_s(unknown, replace(card, compute_capability="8.6"))[0] == 900


def test_names_are_names_for_dns_and_never_collide() -> None:
    ids = ["llama-3.1-8b-1", "llama-3-1-8b-1", "Gateway", "fetch-x", "a" * 90 + "-1", "a" * 90 + "-2"]
    names = service_names(ids)
    assert names["llama-3.1-8b-1"] == "llama-3-1-8b-1"
    assert names["llama-3-1-8b-1"] == "llama-3-1-8b-1-2"
    assert names["Gateway"] == "gateway-2"
    assert names["fetch-x"] == "placement-fetch-x"
    assert len(set(names.values())) == len(ids)
    assert all(len(name) <= 63 and name.isascii() for name in names.values())
    with pytest.raises(StackError, match="no letter or digit"):
        service_names(["--"])


def test_a_described_card_is_refused_with_what_to_do(plan: Plan) -> None:
    cards = tuple(replace(card, id="card-0") if i == 0 else card for i, card in enumerate(plan.cards))
    placements = tuple(replace(p, card_id="card-0") if p.card_id == plan.cards[0].id else p for p in plan.placements)
    with pytest.raises(StackError, match=r"described, not detected.*nvidia-smi -L.*rigserve plan"):
        stack_of(replace(plan, cards=cards, placements=placements), load_images(), Options("0.1.0"))


def test_an_empty_plan_is_refused(plan: Plan) -> None:
    with pytest.raises(StackError, match="places no model"):
        stack_of(replace(plan, placements=()), load_images(), Options("0.1.0"))


def test_a_changed_placement_changes_its_own_worker_only(plan: Plan, stack: Stack) -> None:
    first = plan.placements[0]
    changed = replace(first, report=replace(first.report, reason="another reason"))
    other = stack_of(replace(plan, placements=(changed, *plan.placements[1:])), load_images(), Options("0.1.0"))
    inputs = [[dict(s.labels)["rigserve.inputs"] for s in one.of("worker")] for one in (stack, other)]
    assert inputs[0][0] != inputs[1][0]
    assert inputs[0][1:] == inputs[1][1:]


def test_flags_keep_every_word_and_their_order() -> None:
    argv = ["/e/python", "-I", "-u", "x.py", "--alias", "a", "--metrics", "--served-model-name", "one", "two"]
    flags = flags_of(Engine.LLAMACPP, argv)
    assert [word for flag in flags for word in flag.words] == argv
    assert [flag.words[0] for flag in flags] == ["/e/python", "--alias", "--metrics", "--served-model-name"]
    assert flags[1].why == REASONS[Engine.LLAMACPP]["--alias"]
