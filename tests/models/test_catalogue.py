"""The catalogue's own figures, checked against each other: what can be recomputed is recomputed."""

from __future__ import annotations

import pytest

from services.sizing.catalogue import MODELS_FOLDER, load_catalogue
from services.sizing.gguf_mix import mix_of
from services.sizing.memory_weights import gguf_parts
from services.sizing.params import count_params
from services.sizing.quant import parse_scheme
from services.sizing.types import ModelSpec
from tests.models.published import GGUF_FILES, PUBLISHED, PUBLISHED_PARTS

CATALOGUE = load_catalogue()
MODELS = CATALOGUE.models
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
            left_out = sum(part.params for part in (model.image.components if model.image else ()) if part.name in variant.without)
            assert variant.weight_bytes == (model.params - left_out) * width_bytes, variant.id


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


@pytest.mark.parametrize("model_id", PUBLISHED)
def test_parameter_counts_are_the_published_ones(model_id: str) -> None:
    published, extra, _ = PUBLISHED[model_id]
    assert CATALOGUE.get(model_id).params == published - extra


@pytest.mark.parametrize(("model_id", "part", "published", "_where"), PUBLISHED_PARTS)
def test_parts_of_pipelines_are_the_published_ones(model_id: str, part: str, published: int, _where: str) -> None:
    image = CATALOGUE.get(model_id).image
    assert image is not None
    assert {component.name: component.params for component in image.components}[part] == published


@pytest.mark.parametrize(("model_id", "mix", "file_bytes"), GGUF_FILES)
def test_tensors_of_known_gguf_files_leave_room_for_a_vocabulary_only(model_id: str, mix: str, file_bytes: int) -> None:
    """A header holds 49,000 to 262,000 words with their scores and merges: 1 to 9 MB, and nothing else is in the file."""
    text = CATALOGUE.get(model_id).text
    assert text is not None
    header_bytes = file_bytes - gguf_parts(text, mix)[0]
    assert 20 <= header_bytes / text.vocab_size <= 65


@by_id
def test_every_quantization_is_one_that_sizing_knows(model: ModelSpec) -> None:
    for variant in model.variants:
        assert mix_of(variant.quant) if variant.format == "gguf" else parse_scheme(variant.quant)


def test_the_catalogue_covers_what_a_rig_owner_wants() -> None:
    kinds = [model.kind for model in MODELS]
    assert len(MODELS) >= 60
    assert kinds.count("embedding") >= 10
    assert kinds.count("image") >= 12
    assert sum(1 for model in MODELS if model.text and model.text.vision_params) >= 10
    assert all(model.licence for model in MODELS)
