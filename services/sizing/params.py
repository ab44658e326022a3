"""Every tensor of a text model, from its geometry alone; the parameter count is their sum.

The names are llama.cpp's (`token_embd`, `blk.3.attn_q`, ...), because its quantizer chooses a type by name. What differs between families
beyond the numbers (biases, norms, gates) is one row of `LAYOUTS`. Vision towers and `other_params` have no tensors here, only their count.

Worked number: Llama-3.1-8B = 128256 x 4096 (embedding) + the same (output) + 32 x (4096 x 4096 x 2 + 1024 x 4096 x 2 + 3 x 14336 x 4096
+ 2 x 4096) + 4096 = 8,030,261,248, as published.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from services.sizing.types import RecurrentLayers, TextGeometry

Role = Literal["embedding", "output", "linear", "expert", "router", "norm", "bias", "state"]
# More layers or experts than any model has, so that a hostile config.json cannot ask for a list without end.
MAX_LAYERS = 4096


@dataclass(frozen=True, slots=True)
class TensorShape:
    """One tensor: `shape` is (outputs, inputs), with the experts in front where a layer has several. `layer` is None outside the blocks."""

    name: str
    role: Role
    shape: tuple[int, ...]
    layer: int | None = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a family of models adds to the plain decoder (RMS norms, no biases, SwiGLU)."""

    norm_bias: bool = False
    qkv_bias: bool | None = None
    """None: the geometry's `attention_bias` decides."""
    output_bias: bool = False
    mlp_bias: bool = False
    expert_bias: bool = False
    qk_norm: Literal["head", "full"] = "head"
    sinks: bool = False
    query_gate: bool = False
    shared_expert_gate: bool = False
    router_correction: bool = False
    encoder: bool = False
    learned_positions: bool = False
    token_types: int = 0
    embedding_norm: bool = False
    final_norm: bool = True
    pooler: bool = False
    first_norm_missing: bool = False
    fused: bool = False
    """One matrix for queries, keys and values, and one for gate and up: quantizers treat it as one tensor."""
    gemma4: bool = False
    """One scale per layer, scales in the router, and a plain MLP beside the experts."""


_BERT = Layout(
    norm_bias=True, qkv_bias=True, output_bias=True, mlp_bias=True, encoder=True,
    learned_positions=True, token_types=2, embedding_norm=True, final_norm=False, pooler=True,
)  # fmt: skip
LAYOUTS: dict[str, Layout] = {
    "Qwen2ForCausalLM": Layout(qkv_bias=True),
    "Qwen2MoeForCausalLM": Layout(qkv_bias=True, shared_expert_gate=True),
    "Qwen2VLForConditionalGeneration": Layout(qkv_bias=True),
    "Qwen2_5_VLForConditionalGeneration": Layout(qkv_bias=True),
    "Phi3ForCausalLM": Layout(fused=True),
    "Olmo2ForCausalLM": Layout(qk_norm="full"),
    "Olmo3ForCausalLM": Layout(qk_norm="full"),
    "OlmoeForCausalLM": Layout(qk_norm="full"),
    "GptOssForCausalLM": Layout(qkv_bias=True, output_bias=True, expert_bias=True, sinks=True),
    "Glm4MoeLiteForCausalLM": Layout(router_correction=True),
    "Qwen3NextForCausalLM": Layout(query_gate=True, shared_expert_gate=True),
    "Qwen3_5ForCausalLM": Layout(query_gate=True),
    "Qwen3_5ForConditionalGeneration": Layout(query_gate=True),
    "Qwen3_5MoeForCausalLM": Layout(query_gate=True, shared_expert_gate=True),
    "Qwen3_5MoeForConditionalGeneration": Layout(query_gate=True, shared_expert_gate=True),
    "Starcoder2ForCausalLM": Layout(norm_bias=True, qkv_bias=True, output_bias=True, mlp_bias=True),
    "Gemma4ForCausalLM": Layout(gemma4=True),
    "Gemma4ForConditionalGeneration": Layout(gemma4=True),
    "Gemma4UnifiedForConditionalGeneration": Layout(gemma4=True),
    "BertModel": _BERT,
    "XLMRobertaModel": replace(_BERT, token_types=1),
    "NomicBertModel": Layout(norm_bias=True, encoder=True, token_types=2, embedding_norm=True, final_norm=False),
    "ModernBertModel": Layout(encoder=True, embedding_norm=True, first_norm_missing=True),
}


def layout_of(architecture: str) -> Layout:
    """The family's layout; a plain decoder (Llama, Mistral, Phi-3, Qwen3, Gemma, Granite, ...) for names without a row."""
    return LAYOUTS.get(architecture, Layout())


def count_params(geometry: TextGeometry) -> int:
    """All parameters, as published: tied matrices once, with vision tower and other parts."""
    return sum(tensor.elements for tensor in tensors_of(geometry)) + geometry.vision_params + geometry.other_params


def active_params(geometry: TextGeometry) -> int:
    """The parameters one token meets: all of a dense model, the routed share of the experts of an MoE model."""
    if not geometry.num_experts or not geometry.num_experts_per_tok:
        return count_params(geometry)
    experts = sum(tensor.elements for tensor in tensors_of(geometry) if tensor.role == "expert")
    return count_params(geometry) - experts + experts * geometry.num_experts_per_tok // geometry.num_experts


@lru_cache(maxsize=8)  # a handful: every question about one model asks for its tensors several times in a row
def tensors_of(geometry: TextGeometry) -> tuple[TensorShape, ...]:
    """Every tensor of the text model. Raises ValueError for more layers than any model has."""
    if not 0 <= geometry.num_hidden_layers <= MAX_LAYERS:
        raise ValueError(f"{geometry.num_hidden_layers} layers: not a text model")
    layout = layout_of(geometry.architecture)
    found = list(_embedding(geometry, layout))
    for layer, kind in enumerate(_layer_kinds(geometry)):
        recurrent = geometry.recurrent if kind == "recurrent" else None
        mixer = _recurrent(geometry, recurrent) if recurrent else _attention(geometry, layout, kind)
        for part in (mixer, _mlp(geometry, layout, layer), _norms(geometry, layout, layer)):
            found += (TensorShape(f"blk.{layer}.{name}", role, shape, layer) for name, role, shape in part)
    found += _top(geometry, layout)
    return tuple(found)


_Part = Iterator[tuple[str, Role, tuple[int, ...]]]


def _layer_kinds(g: TextGeometry) -> list[str]:
    """`window`, `full` or `recurrent` for each layer, the rarer ones spread evenly: only how many there are of each matters to sizes."""
    recurrent = g.recurrent.layers if g.recurrent else 0
    window = g.sliding_window_layers or 0
    if g.kv_layers and not recurrent:
        # Layers that read another layer's cache follow the same pattern as those that keep one.
        window = window * g.num_hidden_layers // g.kv_layers
    full = max(0, g.num_hidden_layers - recurrent - window)
    kinds: list[str] = []
    for layer in range(g.num_hidden_layers):
        is_full = (layer + 1) * full // g.num_hidden_layers > layer * full // g.num_hidden_layers
        rest = "recurrent" if kinds.count("recurrent") < recurrent else "window"
        kinds.append("full" if is_full else rest)
    return kinds


def _embedding(g: TextGeometry, layout: Layout) -> Iterator[TensorShape]:
    yield TensorShape("token_embd", "embedding", (g.vocab_size, g.hidden_size))
    if g.per_layer_embedding_size:
        width = g.num_hidden_layers * g.per_layer_embedding_size
        yield TensorShape("per_layer_token_embd", "embedding", (g.vocab_size, width))
        yield TensorShape("per_layer_model_proj", "linear", (width, g.hidden_size))
        yield TensorShape("per_layer_proj_norm", "norm", (g.per_layer_embedding_size,))
    if layout.learned_positions:
        yield TensorShape("position_embd", "embedding", (g.max_position_embeddings, g.hidden_size))
    if layout.token_types:
        yield TensorShape("token_types", "embedding", (layout.token_types, g.hidden_size))
    if layout.embedding_norm:
        yield from (TensorShape(name, role, shape) for name, role, shape in _norm("token_embd_norm", g.hidden_size, layout))


def _top(g: TextGeometry, layout: Layout) -> Iterator[TensorShape]:
    if layout.final_norm:
        yield from (TensorShape(name, role, shape) for name, role, shape in _norm("output_norm", g.hidden_size, layout))
    if not g.tie_word_embeddings and not layout.encoder:
        yield TensorShape("output", "output", (g.vocab_size, g.hidden_size))
    if layout.pooler:
        yield TensorShape("pooler", "linear", (g.hidden_size, g.hidden_size))
        yield TensorShape("pooler.bias", "bias", (g.hidden_size,))


def _norm(name: str, width: int, layout: Layout) -> _Part:
    yield name, "norm", (width,)
    if layout.norm_bias:
        yield f"{name}.bias", "bias", (width,)


_NORM_NAMES = ("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm", "post_ffw_norm_1", "post_ffw_norm_2", "pre_ffw_norm_2")


def _norms(g: TextGeometry, layout: Layout, layer: int) -> _Part:
    first = 1 if layout.first_norm_missing and layer == 0 else 0
    for name in _NORM_NAMES[first : g.norms_per_layer]:
        yield from _norm(name, g.hidden_size, layout)
    if layout.gemma4:
        yield "layer_output_scale", "state", (1,)
    if g.per_layer_embedding_size:
        yield "inp_gate", "linear", (g.per_layer_embedding_size, g.hidden_size)
        yield "proj", "linear", (g.hidden_size, g.per_layer_embedding_size)
        yield "post_norm", "norm", (g.hidden_size,)


def _attention(g: TextGeometry, layout: Layout, kind: str) -> _Part:
    if g.mla_kv_lora_rank:
        yield from _latent_attention(g, g.mla_kv_lora_rank)
        return
    full = kind == "full"
    head_dim = (full and g.full_attention_head_dim) or g.head_dim
    key_heads = (full and g.full_attention_kv_heads) or g.num_key_value_heads
    queries, keys = g.num_attention_heads * head_dim, key_heads * head_dim
    query_rows = queries * (2 if layout.query_gate else 1)
    biased = g.attention_bias if layout.qkv_bias is None else layout.qkv_bias
    shared = full and g.full_attention_shares_kv
    parts = (("attn_q", query_rows), ("attn_k", keys), ("attn_v", keys))[: 2 if shared else 3]
    for name, rows in (("attn_qkv", query_rows + 2 * keys),) if layout.fused else parts:
        yield name, "linear", (rows, g.hidden_size)
        if biased:
            yield f"{name}.bias", "bias", (rows,)
    yield "attn_output", "linear", (g.hidden_size, queries)
    if layout.output_bias:
        yield "attn_output.bias", "bias", (g.hidden_size,)
    if layout.sinks:
        yield "attn_sinks", "state", (g.num_attention_heads,)
    if g.qk_norm:
        yield "attn_q_norm", "norm", (queries if layout.qk_norm == "full" else head_dim,)
        yield "attn_k_norm", "norm", (keys if layout.qk_norm == "full" else head_dim,)


def _latent_attention(g: TextGeometry, rank: int) -> _Part:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): keys and values from one compressed vector."""
    rope, nope, value = g.mla_rope_head_dim or 0, g.mla_nope_head_dim or 0, g.mla_v_head_dim or 0
    queries = g.num_attention_heads * (nope + rope)
    if g.mla_q_lora_rank:
        yield "attn_q_a", "linear", (g.mla_q_lora_rank, g.hidden_size)
        yield "attn_q_a_norm", "norm", (g.mla_q_lora_rank,)
        yield "attn_q_b", "linear", (queries, g.mla_q_lora_rank)
    else:
        yield "attn_q", "linear", (queries, g.hidden_size)
    yield "attn_kv_a_mqa", "linear", (rank + rope, g.hidden_size)
    yield "attn_kv_a_norm", "norm", (rank,)
    yield "attn_kv_b", "linear", (g.num_attention_heads * (nope + value), rank)
    yield "attn_output", "linear", (g.hidden_size, g.num_attention_heads * value)


def _recurrent(g: TextGeometry, r: RecurrentLayers) -> _Part:
    inner = r.value_heads * r.value_head_dim
    channels = inner + 2 * r.key_heads * r.key_head_dim
    if r.kind == "short_conv":
        yield "shortconv.in_proj", "linear", (3 * g.hidden_size, g.hidden_size)
        yield "shortconv.conv", "state", (g.hidden_size, r.conv_kernel)
        yield "shortconv.out_proj", "linear", (g.hidden_size, g.hidden_size)
        return
    if r.kind == "gated_delta":
        yield "attn_qkv", "linear", (channels, g.hidden_size)
        yield "attn_gate", "linear", (inner, g.hidden_size)
        yield "ssm_ba", "linear", (2 * r.value_heads, g.hidden_size)
        yield "ssm_norm", "norm", (r.value_head_dim,)
    else:
        yield "ssm_in", "linear", (inner + channels + r.value_heads, g.hidden_size)
        yield "ssm_conv1d.bias", "bias", (channels,)
        yield "ssm_d", "state", (r.value_heads,)
        yield "ssm_norm", "norm", (inner,)
    yield "ssm_conv1d", "state", (channels, r.conv_kernel)
    yield "ssm_a", "state", (r.value_heads,)
    yield "ssm_dt", "state", (r.value_heads,)
    yield "ssm_out", "linear", (g.hidden_size, inner)


def _mlp(g: TextGeometry, layout: Layout, layer: int) -> _Part:
    wide = layer >= g.num_hidden_layers - (g.wide_mlp_layers or 0)
    plain = not g.num_experts or layer < (g.num_dense_layers or 0)
    if plain or layout.gemma4:
        yield from _matrices(g, "", g.intermediate_size * (2 if wide else 1), layout.mlp_bias, None)
    if plain or not g.num_experts:
        return
    width = g.moe_intermediate_size or g.intermediate_size
    yield "ffn_gate_inp", "router", (g.num_experts, g.hidden_size)
    if layout.expert_bias:
        yield "ffn_gate_inp.bias", "bias", (g.num_experts,)
    if layout.router_correction:
        yield "exp_probs_b", "bias", (g.num_experts,)
    if layout.gemma4:
        yield "ffn_gate_inp.scale", "norm", (g.hidden_size,)
        yield "ffn_down_exps.scale", "norm", (g.num_experts,)
    yield from _matrices(g, "_exps", width, layout.expert_bias, g.num_experts)
    if g.shared_expert_intermediate_size:
        yield from _matrices(g, "_shexp", g.shared_expert_intermediate_size, False, None)
        if layout.shared_expert_gate:
            yield "ffn_gate_inp_shexp", "router", (1, g.hidden_size)


def _matrices(g: TextGeometry, suffix: str, width: int, biased: bool, experts: int | None) -> _Part:
    """Two matrices (up, down) or three (gate, up, down)."""
    stack = (experts,) if experts else ()
    role: Role = "expert" if experts else "linear"
    fused = layout_of(g.architecture).fused
    names = ("ffn_up", "ffn_down") if g.mlp_matrices == 2 or fused else ("ffn_gate", "ffn_up", "ffn_down")
    up_rows = 2 * width if fused else width
    for name in names:
        rows, columns = (g.hidden_size, width) if name == "ffn_down" else (up_rows, g.hidden_size)
        yield f"{name}{suffix}", role, (*stack, rows, columns)
        if biased:
            yield f"{name}{suffix}.bias", "bias", (*stack, rows)
