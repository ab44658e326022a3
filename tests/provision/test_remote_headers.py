"""Headers of a repository by range requests: the readers of services.sizing see a remote file as they see a local one."""

from __future__ import annotations

import struct

import pytest

from services.provision.errors import NotFoundError, ProvisionError, UnreachableError
from services.provision.remote_headers import FIRST_BYTES, RemoteFolder
from services.sizing.checkpoint import reader_of
from services.sizing.checkpoint_gguf import read_gguf
from services.sizing.checkpoint_safetensors import read_safetensors
from tests.fakes.hub import HubStandIn
from tests.provision.conftest import HURRIED, safetensors_bytes

BIG = safetensors_bytes(4 << 20)


def gguf_bytes(tokens: int) -> bytes:
    """Version 3, one vocabulary array, no tensors, then weights that nobody asks for."""
    words = b"".join(struct.pack("<Q", 8) + b"token%03d" % (i % 1000) for i in range(tokens))
    key = b"tokenizer.ggml.tokens"
    pair = struct.pack("<Q", len(key)) + key + struct.pack("<IIQ", 9, 8, tokens) + words
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair + bytes(4 << 20)


@pytest.fixture
def remote(hub: HubStandIn) -> RemoteFolder:
    hub.add("some/tiny", {"model.safetensors": BIG, "m.gguf": gguf_bytes(20_000), "config.json": b"{}", "evil.bin": b"x", "x.py": b"x"})
    return RemoteFolder("some/tiny", patience=HURRIED)


def test_only_what_may_be_read_is_listed(remote: RemoteFolder, hub: HubStandIn) -> None:
    assert dict(remote.sizes()) == {"model.safetensors": len(BIG), "m.gguf": len(gguf_bytes(20_000)), "config.json": 2}
    assert remote.commit == hub.repositories["some/tiny"].commit
    with pytest.raises(NotFoundError, match=r"no file 'evil\.bin' that may be read"):
        remote.read("evil.bin", 0, 1)


def test_a_safetensors_header_costs_one_small_range(remote: RemoteFolder, hub: HubStandIn) -> None:
    [tensor] = read_safetensors(reader_of(remote, "model.safetensors"), "model.safetensors", len(BIG))
    assert (tensor.name, tensor.size_bytes) == ("w", 4 << 20)
    assert hub.sent_bytes == {"model.safetensors": FIRST_BYTES}
    assert hub.seen[-1].range == f"bytes=0-{FIRST_BYTES - 1}"


def test_a_gguf_header_without_the_weights(remote: RemoteFolder, hub: HubStandIn) -> None:
    size_bytes = remote.sizes()["m.gguf"]
    header = read_gguf(reader_of(remote, "m.gguf"), "m.gguf", size_bytes)
    assert header.metadata["tokenizer.ggml.tokens.length"] == 20_000
    assert header.header_bytes > FIRST_BYTES
    assert remote.fetched_bytes == hub.sent_bytes["m.gguf"] < size_bytes / 2


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 10), (5, 0), (FIRST_BYTES - 1, 2), (len(BIG) - 3, 100), (len(BIG) + 5, 1), (-1, 4), (0, -4)]
)
def test_any_range_is_the_files_own(remote: RemoteFolder, offset: int, length: int) -> None:
    expected = BIG[offset : offset + length] if offset >= 0 and length > 0 else b""
    assert remote.read("model.safetensors", offset, length) == expected


def test_the_bound(hub: HubStandIn) -> None:
    hub.add("some/tiny", {"model.safetensors": BIG})
    remote = RemoteFolder("some/tiny", patience=HURRIED, max_total_bytes=1 << 20)
    remote.read("model.safetensors", 0, 8)
    with pytest.raises(ProvisionError, match=r"more than 1,048,576 bytes.*damaged or hostile"):
        remote.read("model.safetensors", 8, 2 << 20)
    assert hub.sent_bytes["model.safetensors"] == FIRST_BYTES


def test_faults(remote: RemoteFolder, hub: HubStandIn) -> None:
    hub.faults.cut_after_bytes, hub.faults.cuts = 1000, 1
    assert remote.read("model.safetensors", 0, 2000) == BIG[:2000]
    hub.faults.cuts = -1
    with pytest.raises(UnreachableError, match=r"The header of model\.safetensors could not be read"):
        remote.read("model.safetensors", FIRST_BYTES, 2000)
    hub.faults.cut_after_bytes, hub.faults.ignore_range = None, True
    with pytest.raises(ProvisionError, match="only as a whole"):
        remote.read("m.gguf", 0, 10)
