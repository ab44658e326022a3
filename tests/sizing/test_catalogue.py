"""Reading model files: what is accepted, what is refused, and how plainly."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.sizing.catalogue import CatalogueError, UnknownModelError, load_catalogue
from services.sizing.types import ModelSpec

GOOD = """\
id: tiny
title: Tiny
kind: chat
licence: MIT
params: 134515008
aliases: [Maker/Tiny-Chat]
figures_source: config.json
text:
  architecture: LlamaForCausalLM
  hidden_size: 576
  num_hidden_layers: 30
  num_attention_heads: 9
  num_key_value_heads: 3
  head_dim: 64
  intermediate_size: 1536
  vocab_size: 49152
  max_position_embeddings: 8192
  tie_word_embeddings: true
variants:
- id: bf16
  format: safetensors
  quant: bf16
  source:
    kind: hub
    repository: Maker/Tiny-Chat
    revision: main
    files: ['*.json', model*.safetensors]
  figures_source: its repository
"""


def refusal(folder: Path, text: str, name: str = "tiny.yaml") -> str:
    (folder / name).write_text(text, encoding="utf8")
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(folder)
    return str(caught.value)


def test_the_project_catalogue_is_found_by_any_name() -> None:
    catalogue = load_catalogue()
    assert isinstance(catalogue.get("smollm2-135m-instruct"), ModelSpec)
    assert catalogue.get(" META-LLAMA/llama-3.1-8b-INSTRUCT ").id == "llama-3.1-8b-instruct"
    for model in catalogue.models:
        assert all(catalogue.get(alias) is model for alias in model.aliases)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("qwen2.5-7b-inst", "qwen2.5-7b-instruct"),
        ("Qwen/Qwen2.5-7B-Instrukt", "qwen2.5-7b-instruct"),
        ("sd1.5", "sd-1.5"),
        ("smolm2", "smollm2"),
    ],
)
def test_an_unknown_name_brings_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        load_catalogue().get(typed)
    assert any(name.startswith(meant) for name in caught.value.nearest)
    assert repr(typed) in str(caught.value)


@pytest.mark.parametrize(("typed", "meant"), [("llama-3.1-8b", "llama-3.1-8b-instruct"), ("Gemma-2-9B", "gemma-2-9b-it")])
def test_a_name_without_its_tuning_is_the_tuned_model(typed: str, meant: str) -> None:
    assert load_catalogue().get(typed).id == meant


def test_a_plain_name_is_never_another_model() -> None:
    assert load_catalogue().get("qwen3-4b").id == "qwen3-4b"  # there is a qwen3-4b-instruct-2507 too


@pytest.mark.parametrize("typed", ["", " "])
def test_no_name_is_said_to_be_missing(typed: str) -> None:
    with pytest.raises(UnknownModelError, match="missing"):
        load_catalogue().get(typed)


def test_a_name_like_no_other_brings_a_way_on() -> None:
    with pytest.raises(UnknownModelError, match="rigserve models") as caught:
        load_catalogue().get("?" * 5000)
    assert caught.value.nearest == ()
    assert len(str(caught.value)) < 300


def test_a_good_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(GOOD, encoding="utf8")
    (model,) = load_catalogue(tmp_path).models
    assert model.text is not None
    assert model.text.num_key_value_heads == 3
    assert model.variants[0].source.files == ("*.json", "model*.safetensors")
    assert model.variants[0].weight_bytes is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("head_dim: 64", "head_dim: '64'", "tiny.yaml line 14: text.head_dim: Input should be a valid integer"),
        ("head_dim: 64", "head_dim: 64.5", "text.head_dim: Input should be a valid integer"),
        ("head_dim: 64", "head_dim: true", "text.head_dim: Input should be a valid integer"),
        ("head_dim: 64", "head_dims: 64", "text.head_dims: Unexpected keyword argument"),
        ("  head_dim: 64\n", "", "text.head_dim: Field required"),
        ("head_dim: 64", "head_dim: -64", "head_dim: -64 is not between 0 and 2**50"),
        ("head_dim: 64", "head_dim: 0x" + "f" * 40, "not between 0 and 2**50"),
        ("params: 134515008", "params: .nan", "cannot be read"),
        ("params: 134515008", "params: !!bool maybe", "cannot be read"),
        ("licence: MIT", "licence: MIT\nid: tiny", "line 5: the key 'id' is given twice"),
        ("licence: MIT", "licence: &a MIT\nnote: *a", "aliases are not allowed"),
        ("licence: MIT", "licence: [MIT", "line 5"),
        ("licence: MIT", "[a, b]: MIT", "a key must be a plain word"),
        ("id: tiny", "id: Tiny Model", "lower-case letters"),
        ("id: tiny", "id: other", "does not match the file name"),
        ("kind: chat", "kind: image", "kind 'image' needs exactly one geometry"),
        ("kind: chat", "kind: chatty", "kind: Input should be 'chat', 'embedding', 'rerank' or 'image'"),
        ("Maker/Tiny-Chat]", "TINY]", "alias 'tiny' is given 2 times"),
        ("kind: hub", "kind: hubb", "source.kind: Input should be 'hub'"),
        ("    revision: main\n", "", "source kind 'hub' needs `revision`"),
        ("repository: Maker/Tiny-Chat", "repository: ../Tiny", "not of the form owner/name"),
        ("model*.safetensors", "../model.safetensors", "not a path inside the source"),
        ("model*.safetensors", "/etc/passwd", "not a path inside the source"),
        ("model*.safetensors", "pytorch_model.bin", "is a pickle"),
        ("    revision: main", "    revision: main\n    sha256: [abc]", "one digest for each"),
        ("kind: hub", "kind: converted\n    converted_from: bf16", "not a downloadable variant"),
        ("  quant: bf16", "  quant: bf16\n  weight_bytes: 0", "0 bytes is not a size"),
        ("format: safetensors", "format: diffusers", "does not go with kind 'chat'"),
        ("figures_source: config.json", "figures_source: ''", "say where the figures come from"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    message = refusal(tmp_path, GOOD.replace(old, new, 1))
    assert said in message
    assert "tiny.yaml" in message


@pytest.mark.parametrize("text", ["", "- a list", "just words", "a: b\n---\nc: d", "\tid: x", "id: \x00", "[" * 20000])
def test_what_is_no_model_file_is_refused(tmp_path: Path, text: str) -> None:
    assert "tiny.yaml" in refusal(tmp_path, text)


def test_an_oversized_file_is_not_read(tmp_path: Path) -> None:
    assert "page of text" in refusal(tmp_path, "# " + "x" * 300_000)


def test_one_name_belongs_to_one_model(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(GOOD, encoding="utf8")
    assert "already belongs to" in refusal(tmp_path, GOOD.replace("id: tiny", "id: other"), "other.yaml")


def test_no_folder_and_no_files_are_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="is not a folder"):
        load_catalogue(tmp_path / "nowhere")
    with pytest.raises(CatalogueError, match="holds 0 model files"):
        load_catalogue(tmp_path)


