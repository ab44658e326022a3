"""A checkpoint's own tensor list, read from its headers alone: exact weight bytes before anything is downloaded or loaded.

The readers never touch a network. They are given `Files`, a listing and a way to read a range of bytes, so the same code reads a local
folder and, through somebody else's range requests, a remote repository. Everything they read may be hostile: whatever is wrong with it
becomes one `CheckpointError` with a sentence, after a bounded amount of reading, memory and time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from services.sizing.types import ImageGeometry, TextGeometry

ReadRange = Callable[[int, int], bytes]
"""(offset, length) -> that many bytes, or fewer at the end of the file."""

# Tensors of one file: a sparse model with every expert apart has tens of thousands.
MAX_TENSORS = 200_000
MAX_FOLDER_FILES = 20_000
SPLIT = re.compile(r"-(\d{5})-of-(\d{5})(?=\.(?:gguf|safetensors)$)")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class CheckpointError(Exception):
    """The files are not a checkpoint that can be sized safely. The message is a sentence that names the file."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One stored tensor. `shape` has the outer dimension first; `dtype` is the format's own name (BF16, Q4_K, ...)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    component: str | None = None

    @property
    def elements(self) -> int:
        count = 1
        for side in self.shape:
            count *= side
        return count


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the headers of one checkpoint say. `quant` is None where nothing says how the weights were quantized."""

    format: Literal["safetensors", "gguf", "diffusers"]
    tensors: tuple[TensorInfo, ...]
    file_bytes: int
    quant: str | None = None
    text: TextGeometry | None = None
    image: ImageGeometry | None = None

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def embedding_bytes(self) -> int:
        """The token embedding alone: llama.cpp keeps it in host RAM."""
        names = ("token_embd.weight", "embed_tokens.weight", "word_embeddings.weight", "tok_embeddings.weight")
        return sum(tensor.size_bytes for tensor in self.tensors if tensor.name.endswith(names))


class Files(Protocol):
    """A folder or a repository: its files by relative name, and a way to read a part of one."""

    def sizes(self) -> Mapping[str, int]:
        """Relative name (with /) -> bytes."""
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """A range of one listed file, shorter only at its end. May raise OSError."""
        ...


class LocalFolder:
    """`Files` of a local folder. Links that lead out of it are not followed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def sizes(self) -> Mapping[str, int]:
        if not self._folder.is_dir():
            raise CheckpointError(f"{self._folder} is not a folder.")
        found: dict[str, int] = {}
        for path in sorted(self._folder.rglob("*")):
            if len(found) >= MAX_FOLDER_FILES:
                raise CheckpointError(f"{self._folder} holds more than {MAX_FOLDER_FILES} files: not a checkpoint.")
            if path.is_file() and path.resolve().is_relative_to(self._folder):
                found[path.relative_to(self._folder).as_posix()] = path.stat().st_size
        return found

    def read(self, name: str, offset: int, length: int) -> bytes:
        with (self._folder / name).open("rb") as file:
            file.seek(offset)
            return file.read(length)


def reader_of(files: Files, name: str) -> ReadRange:
    """One file as a range reader whose I/O faults are CheckpointErrors."""

    def read(offset: int, length: int) -> bytes:
        try:
            return files.read(name, offset, length)
        except OSError as error:
            raise CheckpointError(f"{name} cannot be read: {error}") from None

    return read


def parts_of(sizes: Mapping[str, int], name: str) -> list[str]:
    """All parts of a split in order, or just `name`. A missing part is an error: half a model would look smaller than it is."""
    split = SPLIT.search(name)
    if split is None:
        return [name]
    count = int(split[2])
    if not 1 <= count <= 1000:
        raise CheckpointError(f"{name}: a split of {count} parts is not accepted.")
    parts = [f"{name[: split.start()]}-{part:05d}-of-{count:05d}{name[split.end() :]}" for part in range(1, count + 1)]
    missing = [part for part in parts if part not in sizes]
    if missing:
        raise CheckpointError(f"{missing[0]} is missing: {len(missing)} of the {count} parts of this checkpoint are not here.")
    return parts


def check_layout(name: str, spans: Iterable[tuple[int, int, str]], data_bytes: int | None) -> None:
    """Refuse tensors that overlap or lie outside the file. `spans` are (start, end, tensor) within the data part of `data_bytes` bytes."""
    last_end, last_tensor = 0, ""
    for start, end, tensor in sorted(spans):
        if start < last_end:
            raise CheckpointError(f"{name}: tensors {last_tensor[:80]!r} and {tensor[:80]!r} overlap; the file is damaged or hostile.")
        last_end, last_tensor = end, tensor
    if data_bytes is not None and last_end > data_bytes:
        raise CheckpointError(
            f"{name}: tensor {last_tensor[:80]!r} ends {last_end - data_bytes:,} bytes after the end of the file; the file is truncated."
        )
