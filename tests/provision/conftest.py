"""A hub, an empty cache and tiny weights for the tests of this room."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session

from services.provision.progress import Progress
from services.provision.transfer import Patience
from services.sizing.types import ModelSpec, Variant, WeightSource
from tests.fakes.hub import HubStandIn

HURRIED = Patience(attempts=3, first_wait_s=0.01, longest_wait_s=2.0, connect_s=5.0, read_s=10.0)
NO_PATIENCE = Patience(attempts=1, first_wait_s=0.01, longest_wait_s=2.0, connect_s=5.0, read_s=10.0)


def safetensors_bytes(tensor_bytes: int = 4096) -> bytes:
    """A valid file with one float32 tensor."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [tensor_bytes // 4], "data_offsets": [0, tensor_bytes]}}).encode()
    data = bytes(i * 7 % 251 for i in range(256)) * (tensor_bytes // 256)
    return struct.pack("<Q", len(header)) + header + data


def variant(kind: str = "hub", *, id: str = "v", format: str = "safetensors", quant: str = "bf16", **source: object) -> Variant:
    return Variant(id=id, format=format, quant=quant, source=WeightSource(kind=kind, **source))  # type: ignore[arg-type]


def model(*variants: Variant, id: str = "tiny") -> ModelSpec:
    return ModelSpec(id=id, title="Tiny", kind="chat", licence="none", params=None, variants=variants)


class Watcher:
    """A progress sink that keeps everything."""

    def __init__(self) -> None:
        self.steps: list[Progress] = []

    def __call__(self, step: Progress) -> None:
        self.steps.append(step)

    def of(self, stage: str) -> list[Progress]:
        return [step for step in self.steps if step.stage == stage]


@pytest.fixture(scope="session", autouse=True)
def _one_http_session() -> Iterator[None]:
    """The library keeps one HTTP session; making it costs more than most tests here."""
    yield
    close_session()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RIGSERVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # no test asks the real hub
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """A running stand-in, the only hub that this process knows, with no token around."""
    with HubStandIn().running() as stand_in:
        monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield stand_in
