"""The way of a real rig, as far as it goes without a card: captured driver output -> plan -> weights from a stand-in of the hub -> argv."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli import prepare as preparing
from services.cli.rig import rig_of_this_machine
from services.hardware.detect import detect
from services.sizing.catalogue import load_catalogue
from services.sizing.plan import make_plan
from services.sizing.planfile import dump_plan, load_plan
from services.sizing.types import Card, Engine, ImageWorkload, Plan, Variant
from services.worker.engines import launch
from services.worker.engines.order import Order
from tests.fakes.hub import HubStandIn
from tests.hardware.player import NvmlPlayer, build_tree
from tests.provision.conftest import safetensors_bytes


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    with HubStandIn().running() as stand_in:
        monkeypatch.setenv("RIGSERVE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield stand_in


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """What `rigserve plan` decides on a host whose driver shows an RTX 3060 Ti and a CMP 50HX, read back from its file."""
    root = build_tree(tmp_path, "celeron_proc")
    monkeypatch.setattr("services.cli.rig.detect", lambda: detect(proc=root / "proc", sys=root / "sys", nvml=NvmlPlayer("mixed_rig")))
    rig = rig_of_this_machine()
    assert [card.name for card in rig.cards] == ["NVIDIA GeForce RTX 3060 Ti", "NVIDIA CMP 50HX"]
    assert not any(card.simulated for card in rig.cards)
    path = tmp_path / "plan.yaml"
    path.write_text(dump_plan(make_plan(rig.host, rig.cards, load_catalogue())), encoding="utf8")
    return load_plan(path)


def published(variant: Variant) -> dict[str, bytes]:
    """Tiny files under the names that the catalogue asks the repository for."""
    files = {}
    for pattern in variant.source.files:
        name = pattern.replace("model*", "model").replace("*", "config")
        side = b'{"_class_name": "StableDiffusionXLPipeline"}' if name == "model_index.json" else b"{}"
        files[name] = {"safetensors": safetensors_bytes(), "gguf": b"GGUF" + bytes(4096)}.get(name.rsplit(".", 1)[-1], side)
    return files


def test_real_cards_get_real_models_and_their_weights(
    plan: Plan, hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {p.card_id for p in plan.placements} == {card.id for card in plan.cards}
    assert {isinstance(p.workload, ImageWorkload) for p in plan.placements} == {True, False}
    catalogue = load_catalogue()
    for placement in plan.placements:
        variant = next(v for v in catalogue.get(placement.model_id).variants if v.id == placement.variant_id)
        assert variant.source.kind == "hub"
        hub.add(variant.source.repository or "", published(variant))
    monkeypatch.setattr(preparing.environments, "ensure", lambda name, sink: Path(sys.executable))
    monkeypatch.setenv("PATH", "/usr/bin")
    prepared = preparing.prepare(plan)
    assert [p.placement.id for p in prepared] == [p.id for p in plan.placements]
    assert "weights of" in capsys.readouterr().err  # progress is said
    for item in prepared:
        assert item.weights.exists()
        argv = argv_of(item, plan, tmp_path)
        assert str(item.weights) in argv
    asked = len(hub.requests("resolve"))
    preparing.prepare(plan)
    assert len(hub.requests("resolve")) == asked, "a second start fetches nothing"


def argv_of(item: preparing.Prepared, plan: Plan, folder: Path) -> str:
    """The engine's command line on its card; a card is only ever named by its UUID."""
    card: Card = next(c for c in plan.cards if c.id == item.placement.card_id)
    order = Order(
        placement=item.placement, card=card, host=plan.host, model=load_catalogue().get(item.placement.model_id), weights=item.weights,
        engine_host="127.0.0.1", engine_port=9000, token="t", token_file=folder / "token", state_dir=folder, project=folder,
        engine_python=Path(sys.executable), free_bytes=card.free_bytes,
    )
    started = launch(order)
    if item.placement.choice.engine is not Engine.VLLM:
        assert "t" not in started.argv
    return " ".join(started.argv)
