"""Published geometries that the tests' worked numbers use."""

from __future__ import annotations

from services.sizing.types import TextGeometry

LLAMA_8B = TextGeometry("LlamaForCausalLM", 4096, 32, 32, 8, 128, 14336, 128256, 131072, False)
LLAMA_3B = TextGeometry("LlamaForCausalLM", 3072, 28, 24, 8, 128, 8192, 128256, 131072, True)
QWEN_7B = TextGeometry("Qwen2ForCausalLM", 3584, 28, 28, 4, 128, 18944, 152064, 32768, False, attention_bias=True)
QWEN3_30B_A3B = TextGeometry(
    "Qwen3MoeForCausalLM", 2048, 48, 32, 4, 128, 6144, 151936, 40960, False, qk_norm=True, num_experts=128, num_experts_per_tok=8,
    moe_intermediate_size=768,
)  # fmt: skip
GEMMA_27B = TextGeometry(
    "Gemma3ForConditionalGeneration", 5376, 62, 32, 16, 128, 21504, 262208, 131072, True, qk_norm=True, norms_per_layer=4,
    sliding_window_tokens=1024, sliding_window_layers=52,
)  # fmt: skip
DEEPSEEK_V3 = TextGeometry(
    "DeepseekV3ForCausalLM", 7168, 61, 128, 128, 128, 18432, 129280, 163840, False, mla_kv_lora_rank=512, mla_rope_head_dim=64,
    mla_q_lora_rank=1536, mla_nope_head_dim=128, mla_v_head_dim=128, num_experts=256, num_experts_per_tok=8, moe_intermediate_size=2048,
    num_dense_layers=3, shared_expert_intermediate_size=2048,
)  # fmt: skip
