"""Golden command lines, one per engine and card class. A changed flag must be a decision, seen here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from services.diffusion import __main__ as diffusion_main
from services.sizing.types import Card, Engine, EngineChoice, ImageWorkload, TextWorkload, Variant, WeightSource
from services.worker.engines import launch, llamacpp_server
from services.worker.engines.environment import child_environment
from services.worker.engines.llamacpp import SERVER_PROGRAM
from services.worker.engines.order import LaunchError
from services.worker.engines.vllm import gpu_share
from tests.worker.sample import CHAT, CMP50HX, CPU, GIB, GTX1660S, IMAGE, P106, RTX3060TI, RX580, TOKEN, order, placement

LLAMA = (
    "--model /w/model.gguf --alias small-chat --host 127.0.0.1 --port 9101 --api-key-file /run/token --ctx-size 4096 --parallel 2 "
    "--no-kv-unified --cache-ram 0 --fit off --metrics --no-slots --no-ui --offline --jinja --cors-origins localhost "
)
ON_GPU = "--gpu-layers 999 --load-mode none --threads 2 --flash-attn {fa} --cache-type-k {kv} --cache-type-v {kv}"


@pytest.mark.parametrize(("card", "flash"), [(P106, "on"), (GTX1660S, "on"), (CMP50HX, "on"), (RTX3060TI, "on"), (RX580, "auto")],
                         ids=lambda x: x if isinstance(x, str) else x.name)
def test_llamacpp_binary_on_gpus(card: Card, flash: str) -> None:
    got = launch(order(card, placement(card), engine_python=None, engine_binary=Path("/opt/llama-server")))
    assert " ".join(got.argv) == "/opt/llama-server " + LLAMA + ON_GPU.format(fa=flash, kv="f16")
    assert got.env == {}
    assert got.files == ()
    assert (got.warm_up.path, got.warm_up.body) == ("/v1/completions", {"model": "small-chat", "prompt": "Hello", "max_tokens": 1})


def test_llamacpp_on_the_simulated_card() -> None:
    got = launch(order(CPU, placement(CPU)))
    cpu = "--gpu-layers 0 --threads 2 --flash-attn auto --cache-type-k f16 --cache-type-v f16"
    assert " ".join(got.argv) == f"/env/bin/python -I -u {SERVER_PROGRAM} " + LLAMA + cpu


def test_llamacpp_with_a_quantized_cache_and_a_batch() -> None:
    choice = EngineChoice(Engine.LLAMACPP, "llamacpp-vulkan", "float16", kv_dtype="q8_0")
    where = placement(RX580, choice=choice, workload=TextWorkload(4096, 4, batch_tokens=256))
    argv = " ".join(launch(order(RX580, where)).argv)
    assert "--ctx-size 16384 --parallel 4" in argv
    assert "--batch-size 256 --ubatch-size 256" in argv
    assert argv.endswith(ON_GPU.format(fa="on", kv="q8_0"))


def vllm(card: Card, **choice: object) -> tuple[str, dict[str, str]]:
    made = EngineChoice(Engine.VLLM, "vllm", "float16")
    where = placement(card, choice=replace(made, **choice), quant="awq-int4-g128")  # type: ignore[arg-type]
    got = launch(order(card, where, weights=Path("/w/model"), free_bytes=int(card.total_bytes * 0.95)))
    return " ".join(got.argv), got.env


VLLM = (
    "/env/bin/python -I -m vllm.entrypoints.openai.api_server --model /w/model --served-model-name small-chat small --host 127.0.0.1 "
    "--port 9101 --max-model-len 2048 --max-num-seqs 2 --load-format safetensors --disable-uvicorn-access-log --disable-fastapi-docs "
    "--kv-cache-memory-bytes 536870912 "
)
TOOLS = " --enable-auto-tool-choice --tool-call-parser hermes --config /run/state/vllm.yaml"


def test_vllm_on_an_rtx_3060_ti() -> None:
    argv, env = vllm(RTX3060TI)
    assert argv == VLLM + "--gpu-memory-utilization 0.149 --dtype float16" + TOOLS
    assert "TORCHDYNAMO_DISABLE" not in env


@pytest.mark.parametrize("card", [GTX1660S, CMP50HX], ids=lambda card: card.name)
def test_vllm_on_turing(card: Card) -> None:
    argv, _ = vllm(card, attention_backend="TRITON_ATTN", enforce_eager=True)
    share = {"GPU-1660s": "0.198", "GPU-50hx": "0.119"}[card.id]
    assert argv == VLLM + f"--gpu-memory-utilization {share} --dtype float16 --attention-backend TRITON_ATTN --enforce-eager" + TOOLS


def test_vllm_on_the_simulated_card() -> None:
    argv, env = vllm(CPU, dtype="bfloat16")
    assert argv == VLLM + "--dtype bfloat16 --enforce-eager --distributed-executor-backend uni" + TOOLS
    assert env["TORCHDYNAMO_DISABLE"] == "1"
    assert "LD_PRELOAD" not in env  # this interpreter's environment has no Intel OpenMP
    assert env["VLLM_NO_USAGE_STATS"] == "1"


def test_vllm_with_bitsandbytes_and_a_small_cache_type() -> None:
    choice = EngineChoice(Engine.VLLM, "vllm", "bfloat16", kv_dtype="fp8")
    where = placement(RTX3060TI, choice=choice, quant="bnb-nf4", workload=TextWorkload(2048, 2, batch_tokens=1024))
    argv = " ".join(launch(order(RTX3060TI, where, weights=Path("/w/model"))).argv)
    assert "--max-num-batched-tokens 1024" in argv
    assert "--kv-cache-dtype fp8" in argv
    assert "--quantization bitsandbytes" in argv


def test_gpu_share() -> None:
    assert gpu_share(6 * GIB, int(7.7 * GIB), 8 * GIB) == 0.75
    assert gpu_share(6 * GIB, int(5.9 * GIB), 8 * GIB) == 0.737
    assert gpu_share(6 * GIB, None, 8 * GIB) == 0.75


@pytest.mark.parametrize(("card", "device", "dtype"), [
    (P106, "cuda:0", "float32"), (RTX3060TI, "cuda:0", "float16"), (CPU, "cpu", "float32"),
], ids=lambda x: x if isinstance(x, str) else x.name)
def test_diffusion(card: Card, device: str, dtype: str) -> None:
    where = placement(card, Engine.DIFFUSERS, dtype=dtype, workload=ImageWorkload(768, 640, 2), model_id="sd")
    got = launch(order(card, where, model=IMAGE, weights=Path("/w/sd")))
    assert " ".join(got.argv) == (
        "/env/bin/python -m services.diffusion --weights /w/sd --model-id sd --host 127.0.0.1 --port 9101 --token-file /run/token "
        f"--device {device} --dtype {dtype} --max-width-px 768 --max-height-px 640 --max-batch 2 --max-steps 150 --multiple-px 8 "
        "--native-px 512 --default-steps 25 --default-guidance-scale 7.5 --offload none --grace-s 4"
    )
    assert (got.env, got.cwd) == ({"PYTHONPATH": "/project"}, Path("/project"))
    assert got.stop_grace_s > 4
    assert got.warm_up.body["size"] == "512x512"
    assert got.warm_up.body["steps"] == 1


def test_a_model_without_guidance_and_adapters_beside_the_weights(tmp_path: Path) -> None:
    """Adapters are served under their files' names, and only as many as the plan's headroom holds: twice their size in float32."""
    (tmp_path / "loras").mkdir()
    for name in ("thin.v2", "bold"):
        (tmp_path / "loras" / f"{name}.safetensors").write_bytes(bytes(1000))
    (tmp_path / "loras" / "notes.txt").write_text("not one")
    assert IMAGE.image is not None
    model = replace(IMAGE, image=replace(IMAGE.image, uses_cfg=False))

    def argv(headroom_bytes: int | None) -> str:
        where = placement(P106, Engine.DIFFUSERS, dtype="float32", workload=ImageWorkload(512, 512), model_id="sd")
        where = replace(where, report=replace(where.report, headroom_bytes=headroom_bytes))
        return " ".join(launch(order(P106, where, model=model, weights=tmp_path)).argv)

    folder = tmp_path / "loras"
    assert argv(4000).endswith(f"--distilled --lora bold={folder}/bold.safetensors --lora thin.v2={folder}/thin.v2.safetensors --grace-s 4")
    assert argv(None) == argv(4000)
    with pytest.raises(LaunchError, match="the plan leaves"):
        argv(3999)
    (folder / "two words.safetensors").write_bytes(b"")
    with pytest.raises(LaunchError, match="under its name"):
        argv(None)


@pytest.mark.parametrize(("quant", "flags"), [("fp16", ""), ("bnb-nf4", "--quantization nf4 "), ("bnb-int8", "--quantization int8 ")])
def test_diffusion_with_bitsandbytes_and_an_alias(quant: str, flags: str) -> None:
    where = placement(CMP50HX, Engine.DIFFUSERS, workload=ImageWorkload(512, 512), model_id="sd", quant=quant)
    argv = " ".join(launch(order(CMP50HX, where, model=replace(IMAGE, aliases=("org/sd",)), weights=Path("/w/sd"))).argv)
    assert argv.endswith(f"--offload none {flags}--alias org/sd --grace-s 4")


def test_diffusion_as_the_variant_and_the_choice_say() -> None:
    """Text encoders packed too, a part left out, the VAE in tiles: what the bill was made for."""
    variant = Variant("nf4-no-t5", "diffusers", "bnb-nf4", WeightSource("repo", path="x"),
                      quantized=("denoiser", "text_encoder"), without=("text_encoder_3",))
    where = placement(RTX3060TI, Engine.DIFFUSERS, workload=ImageWorkload(512, 512), model_id="sd", quant="bnb-nf4")
    where = replace(where, variant_id="nf4-no-t5", choice=replace(where.choice, vae_tiling=True))
    argv = launch(order(RTX3060TI, where, model=replace(IMAGE, variants=(variant,)), weights=Path("/w/sd"))).argv
    assert "--offload none --vae-tiling --without text_encoder_3 --quantization nf4 --quantize-text-encoders --grace-s" in " ".join(argv)


@pytest.mark.parametrize("card", [P106, GTX1660S, RTX3060TI, CMP50HX, RX580, CPU], ids=lambda card: card.name)
@pytest.mark.parametrize("engine", [Engine.VLLM, Engine.LLAMACPP, Engine.DIFFUSERS])
def test_the_token_is_never_in_argv_or_environment(card: Card, engine: Engine) -> None:
    workload = ImageWorkload(512, 512) if engine is Engine.DIFFUSERS else None
    weights = Path("/w/model.gguf") if engine is Engine.LLAMACPP else Path("/w/model")
    made = order(card, placement(card, engine, workload=workload), weights=weights, model=IMAGE if workload else CHAT)
    got = launch(made)
    assert TOKEN not in " ".join(got.argv) + repr(got.env) + repr(got.files) + repr(made)
    if engine is Engine.VLLM:
        assert got.files[0].text == f'api-key:\n- "{TOKEN}"\n'


def test_our_own_engines_take_these_command_lines(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    for card in (CPU, RTX3060TI):
        choice = EngineChoice(Engine.LLAMACPP, "llamacpp", "auto", kv_dtype="q8_0")
        text = launch(order(card, placement(card, choice=choice, workload=TextWorkload(4096, 4, batch_tokens=256))))
        parsed = llamacpp_server.arguments(list(text.argv[4:]))
        assert (parsed.ctx_size, parsed.parallel, parsed.cache_type_k) == (16384, 4, "q8_0")
        where = placement(card, Engine.DIFFUSERS, dtype="float32", workload=ImageWorkload(512, 512), model_id="sd", quant="bnb-nf4")
        model = replace(IMAGE, aliases=("org/sd",))
        image = launch(order(card, where, model=model, weights=tmp_path, token_file=token))
        settings = diffusion_main.parse(list(image.argv[3:]))
        assert (settings.token, settings.quantization, settings.aliases) == (TOKEN, "nf4", ("org/sd",))


def test_refusals_are_sentences() -> None:
    with pytest.raises(LaunchError, match="safetensors"):
        launch(order(CPU, placement(CPU, Engine.VLLM)))
    with pytest.raises(LaunchError, match=r"one \.gguf file"):
        launch(order(CPU, placement(CPU), weights=Path("/w/model")))
    with pytest.raises(LaunchError, match="--engine-python"):
        launch(order(CPU, placement(CPU, Engine.VLLM), weights=Path("/w/model"), engine_python=None))
    with pytest.raises(LaunchError, match="not an image model"):
        launch(order(CPU, placement(CPU, Engine.DIFFUSERS, workload=ImageWorkload(32, 32))))
    with pytest.raises(LaunchError, match="bnb-nf4 and bnb-int8, not bnb-fp4"):
        launch(order(CPU, placement(CPU, Engine.DIFFUSERS, workload=ImageWorkload(32, 32), quant="bnb-fp4"), model=IMAGE))
    with pytest.raises(LaunchError, match="image workload"):
        launch(order(CPU, placement(CPU, workload=ImageWorkload(32, 32))))
    with pytest.raises(LaunchError, match="no memory bill"):
        launch(order(CPU, placement(CPU, Engine.VLLM, bill=None), weights=Path("/w/model")))


def test_embedding_models() -> None:
    model = replace(CHAT, kind="embedding", tool_parser=None)
    got = launch(order(CPU, placement(CPU), model=model))
    assert "--embedding" in got.argv
    assert got.warm_up.path == "/v1/embeddings"
    assert "--runner pooling" in " ".join(launch(order(CPU, placement(CPU, Engine.VLLM), model=model, weights=Path("/w/m"))).argv)


def test_the_environment_is_an_allow_list() -> None:
    parent = {"PATH": "/bin", "HOME": "/home/rig", "LANG": "C.UTF-8", "LD_LIBRARY_PATH": "/hive/lib", "HTTPS_PROXY": "http://me:pw@proxy",
              "HF_TOKEN": "hf_x", "OPENAI_API_KEY": "sk-x", "AWS_SECRET_ACCESS_KEY": "x", "PYTHONPATH": "/elsewhere", "LD_PRELOAD": "/x.so"}
    env = child_environment(parent, RTX3060TI)
    assert {name: env[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH")} == {
        "PATH": "/bin", "HOME": "/home/rig", "LANG": "C.UTF-8", "LD_LIBRARY_PATH": "/hive/lib"}
    assert env["CUDA_VISIBLE_DEVICES"] == "GPU-3060ti"
    assert env["HF_HUB_OFFLINE"] == "1"
    assert not {"HTTPS_PROXY", "HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "LD_PRELOAD"} & set(env)


def test_each_card_alone_is_visible() -> None:
    assert child_environment({}, CPU)["CUDA_VISIBLE_DEVICES"] == ""
    amd = child_environment({}, RX580)
    assert (amd["DRI_PRIME"], amd["MESA_VK_DEVICE_SELECT_FORCE_DEFAULT_DEVICE"]) == ("pci-0000_03_00_0", "1")
    second = replace(RX580, index=2)
    assert child_environment({}, second, nodes=3)["HIP_VISIBLE_DEVICES"] == "2"
    assert "HIP_VISIBLE_DEVICES" not in child_environment({}, second, nodes=1), "in its container it is the only card, and card 0"
    no_uuid = replace(P106, id="0000:01:00.0", pci_address="0000:01:00.0", index=3)
    assert child_environment({}, no_uuid)["CUDA_VISIBLE_DEVICES"] == "3"
    for card in (replace(P106, id="card-0"), replace(RX580, id="card-1", pci_address=None)):
        with pytest.raises(LaunchError, match="described, not detected"):
            child_environment({}, card)
