"""Dummy checkpoints: our own readers find in them the geometry that they were made from; CPU engines load them (-m engine)."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from services.hardware.host import read_host
from services.provision import environments
from services.provision.progress import silent
from services.sizing.cards import simulated_cpu_card
from services.sizing.catalogue import load_catalogue
from services.sizing.checkpoint_config import geometry_of_config, quant_of_config
from services.sizing.checkpoint_folder import read_path
from services.sizing.fit import ways_of
from services.sizing.judge import judge
from services.sizing.memory_weights import gguf_parts
from services.sizing.types import Engine, ImageWorkload, ModelSpec, TextWorkload, Variant, WeightSource, Workload
from services.sizing.units import GIB
from services.worker.engines.order import Launch, Order
from tests.gpu import runner
from tests.gpu.cases import Case, Row
from tests.gpu.dummy_text import END, byte_letters, config, words, write_folder, write_gguf_model
from tests.gpu.runner import OUT_OF_MEMORY, RAN, Bench, forced, largest_requests, order_of, run_case
from tests.gpu.sparse import write_safetensors
from tests.worker import llama_stand_in

CATALOGUE = load_catalogue()


def tiny_text(variant: Variant) -> ModelSpec:
    llama = CATALOGUE.get("llama-3.1-8b-instruct")
    assert llama.text is not None
    shape = replace(llama.text, hidden_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
                    intermediate_size=512, vocab_size=2048, max_position_embeddings=2048)  # fmt: skip
    return replace(llama, id="tiny", text=shape, variants=(variant,), params=None, tool_parser=None, aliases=())


GGUF = Variant("q8_0-gguf", "gguf", "Q8_0", WeightSource("hub"))
SAFE = Variant("bf16", "safetensors", "bf16", WeightSource("hub"))


def test_the_alphabet_of_byte_level_bpe() -> None:
    letters = byte_letters()
    assert len(set(letters)) == 256
    assert (letters[ord("H")], letters[ord(" ")], letters[ord("\n")]) == ("H", "Ġ", "Ċ")
    assert words(300)[256] == END
    assert len(set(words(152064))) == 152064


@pytest.mark.parametrize(("model_id", "variant_id"), [("llama-3.1-8b-instruct", "q8_0-gguf"), ("qwen2.5-7b-instruct", "q4_k_m-gguf")])
def test_a_gguf_of_zeros_has_the_size_and_shape_of_the_real_one(tmp_path: Path, model_id: str, variant_id: str) -> None:
    model = CATALOGUE.get(model_id)
    variant = next(one for one in model.variants if one.id == variant_id)
    assert model.text is not None
    path = write_gguf_model(tmp_path / "model.gguf", model.text, variant)
    read = read_path(path)
    assert read.text is not None
    assert replace(read.text, architecture=model.text.architecture, attention_bias=model.text.attention_bias) == model.text
    tensors = sum(tensor.size_bytes for tensor in read.tensors)
    assert tensors == gguf_parts(model.text, variant.quant)[0]
    assert path.stat().st_blocks * 512 < 0.01 * path.stat().st_size, "it is a hole: no disk is taken"
    if variant.file_bytes:
        assert abs(path.stat().st_size / variant.file_bytes - 1) < 0.005, "as large as the published file"


@pytest.mark.parametrize("variant_id", ["bf16", "awq-int4", "gptq-int4"])
def test_a_folder_for_vllm_says_the_geometry(tmp_path: Path, variant_id: str) -> None:
    model = CATALOGUE.get("qwen2.5-7b-instruct")
    variant = next(one for one in model.variants if one.id == variant_id)
    assert model.text is not None
    folder = write_folder(tmp_path, model.text, variant)
    read = json.loads((folder / "config.json").read_text())
    assert replace(geometry_of_config(read), attention_bias=True) == model.text, "Qwen2's own config.json is silent about its biases, too"
    assert quant_of_config(read) == variant.quant
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert len(vocabulary) == model.text.vocab_size
    with pytest.raises(ValueError, match="vLLM can't make dummy weights of bnb-nf4"):
        config(model.text, replace(variant, quant="bnb-nf4"))


def test_a_safetensors_hole(tmp_path: Path) -> None:
    assert write_safetensors(tmp_path / "model.safetensors", {"a.weight": (1000, 1000), "b": (7,)}, "F16") == 2_000_014
    (tmp_path / "config.json").write_text(json.dumps(config(tiny_text(SAFE).text, SAFE)))  # type: ignore[arg-type]
    assert {tensor.name: tensor.shape for tensor in read_path(tmp_path).tensors} == {"a.weight": (1000, 1000), "b": (7,)}


def case_on_cpu(model: ModelSpec, engine: Engine, workload: Workload, folder: Path) -> tuple[Case, Bench]:
    card, host = simulated_cpu_card(2 * GIB), read_host()
    (variant, choice), *_ = ways_of(card, model, host, engine)[0]
    row = Row(2, model.id, variant.id, engine)
    case = Case(row, "limit", model, judge(model, variant, choice, workload, host, card, 2 * GIB), 2 * GIB)
    return case, Bench(card, host, folder, {choice.environment: Path("/env/bin/python")})


def test_vllm_is_started_as_in_service_but_for_its_weights(tmp_path: Path) -> None:
    case, bench = case_on_cpu(tiny_text(SAFE), Engine.VLLM, TextWorkload(1024, 2), tmp_path)
    order = order_of(case, bench, None)
    launch = Launch(("python", "--load-format", "safetensors", "--max-model-len", "1024"), {}, tmp_path, None)  # type: ignore[arg-type]
    assert forced(launch, order).argv == ("python", "--load-format", "dummy", "--max-model-len", "1024")
    assert (order.weights / "tokenizer.json").exists()
    assert [len(body["prompt"]) for body in largest_requests(order)] == [1024 - 32] * 2


@pytest.mark.parametrize(("mode", "happened"), [
    ("good", RAN), ("oom", OUT_OF_MEMORY), ("badwarm", "a request was answered 500"), ("crash", "tensor 'blk.0.attn_q' data is not within"),
])  # fmt: skip
def test_how_a_run_ended_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, happened: str) -> None:
    """A stand-in takes llama.cpp's place: only its lack of memory counts as such."""
    real = runner.launch

    def stand_in(order: Order) -> Launch:
        made = real(order)
        return replace(made, argv=(sys.executable, llama_stand_in.__file__, *made.argv[made.argv.index("--model"):]))

    monkeypatch.setattr(runner, "launch", stand_in)
    monkeypatch.setattr(runner, "weights_of", lambda case, bench, order: tmp_path / f"{mode}.gguf")
    case, bench = case_on_cpu(tiny_text(GGUF), Engine.LLAMACPP, TextWorkload(2048, 2), tmp_path)
    outcome = run_case(case, bench, None, time.monotonic() + 20)
    assert happened in outcome.happened


@pytest.mark.engine
@pytest.mark.parametrize(("engine", "variant"), [(Engine.LLAMACPP, GGUF), (Engine.VLLM, SAFE)], ids=["llamacpp", "vllm"])
def test_a_tiny_language_model_runs_on_the_cpu_engine(tmp_path: Path, engine: Engine, variant: Variant) -> None:
    case, bench = case_on_cpu(tiny_text(variant), engine, TextWorkload(1024, 2), tmp_path)
    (name,) = bench.pythons
    outcome = run_case(case, replace(bench, pythons={name: environments.ensure(name, silent)}), None, time.monotonic() + 150)
    assert outcome.happened == RAN, (tmp_path / "engine.log").read_text()[-2000:]
    assert outcome.measured_bytes


@pytest.mark.engine
def test_a_tiny_pipeline_runs_on_the_cpu_engine(tmp_path: Path) -> None:
    """The shapes that sizing knows as sd-1.5, in miniature: the way from configuration to picture is the same."""
    model = replace(CATALOGUE.get("sd-1.5"), id="tiny", aliases=())
    model = replace(model, image=replace(model.image, native_px=32))  # type: ignore[type-var]
    case, bench = case_on_cpu(model, Engine.DIFFUSERS, ImageWorkload(32, 32), tmp_path)
    (name,) = bench.pythons
    outcome = run_case(case, replace(bench, pythons={name: environments.ensure(name, silent)}), None, time.monotonic() + 90)
    assert outcome.happened == RAN, (tmp_path / "engine.log").read_text()[-2000:]
    assert outcome.measured_bytes
