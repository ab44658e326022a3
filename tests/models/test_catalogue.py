"""The catalogue's own figures, checked against each other: what can be recomputed is recomputed."""

from __future__ import annotations

import pytest

from services.sizing.catalogue import MODELS_FOLDER, load_catalogue
from services.sizing.params import count_params
from services.sizing.types import ModelSpec

MODELS = load_catalogue().models
by_id = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)


@by_id
def test_parameter_count_follows_from_the_geometry(model: ModelSpec) -> None:
    counted = count_params(model.text) if model.text else sum(part.params for part in model.image.components if model.image)
    assert counted == model.params


@by_id
def test_plain_16_and_32_bit_weights_are_parameters_times_bytes(model: ModelSpec) -> None:
    for variant in model.variants:
        width_bytes = {"fp32": 4, "bf16": 2, "fp16": 2}.get(variant.quant)
        if width_bytes and variant.weight_bytes is not None and variant.format != "gguf":
            assert variant.weight_bytes == model.params * width_bytes, variant.id


@by_id
def test_a_file_is_never_smaller_than_its_weights(model: ModelSpec) -> None:
    for variant in model.variants:
        if variant.weight_bytes is not None and variant.file_bytes is not None:
            assert variant.file_bytes > variant.weight_bytes, variant.id


@by_id
def test_smaller_quantizations_are_smaller(model: ModelSpec) -> None:
    sized = {variant.quant: variant.weight_bytes for variant in model.variants if variant.weight_bytes}
    order = [quant for quant in ("Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "bf16", "fp32") if quant in sized]
    assert [sized[quant] for quant in order] == sorted(sized[quant] for quant in order)


@by_id
def test_linear_weights_are_a_part_of_each_component(model: ModelSpec) -> None:
    for part in model.image.components if model.image else ():
        assert part.linear_params is None or 0 < part.linear_params <= part.params, part.name


def test_nothing_in_the_folder_is_a_pickle() -> None:
    assert not [path for path in MODELS_FOLDER.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]
