"""Parameter counts as others published them, to hold the catalogue's own against.

HUB: `safetensors.total` of the Hugging Face API as listed on 25 September 2026; INDEX: total size of the safetensors index, divided by the
bytes of its dtype; CODE: the count that public code states for the loaded model or its GGUF. Where a published total counts something that
is no parameter of the loaded model, `extra` says how much, and how that follows from the geometry.
"""

from __future__ import annotations


def mtp(hidden: int, heads: int, kv_heads: int, mlp: int) -> int:
    """Qwen3.5's multi-token-prediction layer: a gated attention layer (256 a head), its MLP, five norms, the joining matrix."""
    attention = (3 * heads + 2 * kv_heads) * 256 * hidden
    return attention + mlp + 2 * hidden * hidden + 5 * hidden + 512


# id: (published, extra, where)
PUBLISHED: dict[str, tuple[int, int, str]] = {
    "smollm2-135m-instruct": (134_515_008, 0, "HUB"),
    "smollm2-360m-instruct": (361_821_120, 0, "HUB"),
    "smollm2-1.7b-instruct": (1_711_376_384, 0, "HUB"),
    "smollm3-3b": (3_075_098_624, 0, "HUB"),
    "qwen2.5-0.5b-instruct": (494_032_768, 0, "HUB"),
    "qwen2.5-1.5b-instruct": (1_543_714_304, 0, "HUB"),
    "qwen2.5-3b-instruct": (3_085_938_688, 0, "HUB"),
    "qwen2.5-7b-instruct": (15_231_233_024 // 2, 0, "INDEX"),
    "qwen3-0.6b": (751_632_384, 151_936 * 1024, "HUB"),  # the tied output matrix is stored a second time
    "qwen3-1.7b": (2_031_739_904, 151_936 * 2048, "HUB"),
    "qwen3-4b": (4_022_468_096, 0, "HUB"),
    "qwen3-4b-instruct-2507": (4_022_468_096, 0, "HUB"),
    "qwen3-8b": (8_190_735_360, 0, "HUB"),
    "qwen3-32b": (32_762_123_264, 0, "HUB"),
    "qwen3.5-0.8b": (873_438_784, mtp(1024, 8, 2, 3 * 1024 * 3584), "HUB"),
    "qwen3.5-2b": (2_274_069_824, mtp(2048, 8, 2, 3 * 2048 * 6144), "HUB"),
    "qwen3.5-4b": (4_659_865_088, mtp(2560, 16, 4, 3 * 2560 * 9216), "HUB"),
    "qwen3.5-9b": (9_653_104_368, mtp(4096, 16, 4, 3 * 4096 * 12288), "HUB"),
    "qwen3.6-27b": (27_781_427_952, mtp(5120, 24, 4, 3 * 5120 * 17408), "HUB"),
    "qwen3.6-35b-a3b": (35_951_822_704, mtp(2048, 16, 2, 257 * (3 * 2048 * 512 + 2048)), "HUB"),
    "llama-3.1-8b-instruct": (8_030_261_248, 0, "HUB"),
    "llama-3.2-1b-instruct": (1_235_814_400, 0, "HUB"),
    "llama-3.2-3b-instruct": (3_212_749_824, 0, "HUB"),
    "mistral-7b-instruct-v0.3": (7_248_023_552, 0, "HUB"),
    "ministral-8b-instruct-2410": (8_019_808_256, 0, "HUB"),
    "ministral-3-3b-instruct-2512": (3_849_090_048, 0, "HUB"),
    "ministral-3-8b-instruct-2512": (8_918_026_716, 34 * 7 * 2, "HUB"),  # two FP8 scales for each of the seven matrices of a layer
    "ministral-3-14b-instruct-2512": (13_945_032_240, 40 * 7 * 2, "HUB"),
    "devstral-small-2-24b-instruct-2512": (24_011_361_840, 40 * 7 * 2, "HUB"),
    "gemma-2-2b-it": (2_614_341_888, 0, "HUB"),
    "gemma-3-1b-it": (999_885_952, 0, "HUB"),
    "gemma-3-4b-it": (4_300_079_472, 0, "HUB"),
    "gemma-4-e2b-it": (5_123_178_051, 0, "HUB"),
    "gemma-4-e4b-it": (7_996_156_490, 0, "HUB"),
    "gemma-4-12b-it": (11_959_730_224, 0, "HUB"),
    "gemma-4-26b-a4b-it": (25_805_936_206, 0, "HUB"),
    "gemma-4-31b-it": (31_273_088_876, 0, "HUB"),
    "phi-3.5-mini-instruct": (3_821_079_552, 0, "HUB"),
    "phi-4": (14_659_507_200, 0, "HUB"),
    "phi-4-mini-instruct": (3_836_021_760, 0, "HUB"),
    "deepseek-r1-distill-qwen-1.5b": (1_777_088_000, 0, "CODE"),
    "gpt-oss-20b": (20_914_757_184, 0, "HUB"),
    "glm-4.7-flash": (29_943_393_920, 0, "CODE"),
    "glm-4-9b-0414": (9_400_279_040, 0, "CODE"),
    "granite-3.3-2b-instruct": (2_533_539_840, 0, "HUB"),
    "granite-3.3-8b-instruct": (8_170_864_640, 0, "HUB"),
    "granite-4.1-3b": (3_402_836_480, 0, "HUB"),
    "granite-4.1-8b": (8_791_592_960, 0, "HUB"),
    "olmo-2-0425-1b-instruct": (1_484_916_736, 0, "CODE"),
    "olmo-2-1124-7b-instruct": (7_298_617_344, 0, "HUB"),
    "olmo-3-7b-instruct": (7_298_011_136, 0, "CODE"),
    "lfm2-1.2b": (1_170_340_608, 0, "CODE"),
    "all-minilm-l6-v2": (22_713_728, 512, "HUB"),  # one row of position numbers
    "bge-small-en-v1.5": (33_360_512, 512, "HUB"),
    "bge-base-en-v1.5": (109_482_752, 512, "HUB"),
    "multilingual-e5-small": (117_654_272, 512, "HUB"),
    "multilingual-e5-base": (278_044_162, 514, "HUB"),
    "multilingual-e5-large": (559_890_946, 514, "HUB"),
    "snowflake-arctic-embed-l-v2.0": (567_754_752, 0, "HUB"),
    "nomic-embed-text-v1.5": (136_731_648, 0, "HUB"),
    "embeddinggemma-300m": (302_863_104, 0, "HUB"),
    "qwen3-embedding-0.6b": (595_776_512, 0, "HUB"),
    "qwen3-embedding-4b": (4_021_774_336, 0, "HUB"),
    "qwen3-embedding-8b": (7_567_295_488, 0, "HUB"),
}
# component of an image model: (model, component, published, where)
PUBLISHED_PARTS = (
    ("tiny-sd", "unet", 323_384_964, "CODE"),
    ("sd3.5-medium", "transformer", 2_469_663_936, "CODE"),
    ("z-image-turbo", "transformer", 6_154_908_736, "CODE"),
    ("flux.2-klein-4b", "transformer", 3_875_544_576, "CODE"),
)
# GGUF files whose exact size is known: (model, mix, bytes of the file). The header (vocabulary) is the rest.
GGUF_FILES = (
    ("smollm2-135m-instruct", "Q4_1", 98_362_432),
    ("qwen2.5-7b-instruct", "Q4_K_M", 4_683_074_240),
    ("llama-3.2-3b-instruct", "Q4_K_M", 2_019_377_696),
    ("qwen3-8b", "Q4_K_M", 5_027_783_488),
    ("gemma-3-1b-it", "Q4_K_M", 806_058_240),
    ("gemma-3-4b-it", "Q4_K_M", 2_489_757_856),
    ("gemma-3-12b-it", "Q4_K_M", 7_300_574_976),
)
