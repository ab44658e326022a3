"""Embeddings and reranking by the real llama.cpp, started as its launcher says, with a BERT of a few kilobytes."""

from __future__ import annotations

import base64
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from services.gateway.rerank import in_one_form
from services.provision import environments
from services.provision.progress import silent
from services.sizing.types import ModelKind, TextGeometry, TextWorkload
from services.worker.engines import launch
from services.worker.engines.order import Launch
from tests.worker.running import free_port
from tests.worker.sample import CHAT, CPU, TOKEN, order, placement
from tests.worker.tiny_bert import CONTEXT, FEED_FORWARD, HIDDEN, MEAN, RANK, WORDS, write_tiny_bert

TEXT = TextGeometry("BertModel", HIDDEN, 1, 2, 2, 16, FEED_FORWARD, len(WORDS), CONTEXT, True, kv_layers=0)
pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@contextmanager
def engine(folder: Path, kind: ModelKind, pooling: int, context_tokens: int = CONTEXT) -> Iterator[tuple[httpx.Client, Launch]]:
    write_tiny_bert(folder / "tiny.gguf", pooling, context_tokens)
    (folder / "token").write_text(TOKEN)
    model = replace(CHAT, kind=kind, text=TEXT)
    made = launch(order(
        CPU, placement(CPU, workload=TextWorkload(context_tokens, 2)), model=model, weights=folder / "tiny.gguf",
        engine_port=free_port(), token_file=folder / "token", engine_python=environments.ensure("llamacpp-cpu", silent), state_dir=folder,
    ))  # fmt: skip
    port = made.argv[made.argv.index("--port") + 1]
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {TOKEN}"}, timeout=20)
    with (folder / "log").open("w") as log, subprocess.Popen(made.argv, stdout=log, stderr=log) as process, client as http:
        try:
            wait(http, process, folder / "log")
            yield http, made
        finally:
            process.terminate()


def wait(http: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            if http.get(http.base_url.join("/health")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text()[-2000:])


def test_vectors(tmp_path: Path) -> None:
    """The warm-up works, text and token ids say the same, base64 is the same numbers, and a text as long as the context goes in whole."""
    with engine(tmp_path, "embedding", MEAN) as (http, made):
        assert http.post(made.warm_up.path, json=made.warm_up.body).status_code == 200
        answer = http.post("/v1/embeddings", json={"model": "small-chat", "input": ["one two", "three"]}).json()
        vectors = [entry["embedding"] for entry in answer["data"]]
        assert [len(vector) for vector in vectors] == [HIDDEN, HIDDEN]
        assert vectors[0] != vectors[1]
        assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}, "two, one, and [CLS] and [SEP] around each"
        same = http.post("/v1/embeddings", json={"model": "small-chat", "input": [2, 4, 5, 3], "encoding_format": "base64"}).json()
        packed = struct.unpack(f"<{HIDDEN}f", base64.b64decode(same["data"][0]["embedding"]))
        assert packed == pytest.approx(vectors[0], abs=1e-5)
        long = http.post("/v1/embeddings", json={"model": "small-chat", "input": "one " * (CONTEXT - 2)})
        assert (long.status_code, long.json()["usage"]["prompt_tokens"]) == (200, CONTEXT)


def test_a_text_longer_than_a_ubatch(tmp_path: Path) -> None:
    """An encoder reads a text in one piece: with llama.cpp's usual 512 tokens a piece this would be a 500."""
    with engine(tmp_path, "embedding", MEAN, 1024) as (http, _):
        answer = http.post("/v1/embeddings", json={"model": "small-chat", "input": "one " * 1022})
        assert (answer.status_code, answer.json()["usage"]["prompt_tokens"]) == (200, 1024)


def test_ranks(tmp_path: Path) -> None:
    """Best first, as many as were asked for, in the form that the gateway reads."""
    with engine(tmp_path, "rerank", RANK) as (http, made):
        assert http.post(made.warm_up.path, json=made.warm_up.body).status_code == 200
        asked = {"model": "small-chat", "query": "one", "documents": ["two", "three four", "one one"], "top_n": 2, "return_documents": True}
        answer = http.post("/v1/rerank", json=asked).json()
        assert answer["usage"]["prompt_tokens"] > 6
        ranked = in_one_form(answer, asked)
        assert ranked is not None
        assert len(ranked["results"]) == 2
        assert ranked["results"][0]["relevance_score"] >= ranked["results"][1]["relevance_score"]
        assert all(one["document"]["text"] == asked["documents"][one["index"]] for one in ranked["results"])  # type: ignore[index]
