"""Which room may import which, and what no room may import. The table is docs/design.md's; this test is what makes it true."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SERVICES = Path(__file__).parents[1] / "services"

MAY_IMPORT = {
    "sizing": set(),
    "wire": set(),
    "keys": set(),
    "hardware": {"sizing"},
    "provision": {"sizing"},
    "calibration": {"sizing"},
    "worker": {"sizing", "hardware", "wire", "calibration"},
    "diffusion": {"sizing", "wire", "hardware"},
    "gateway": {"sizing", "wire", "keys"},
    "deploy": {"sizing", "wire"},
    "doctor": {"sizing", "hardware"},
    "cli": {"sizing", "hardware", "provision", "wire", "deploy", "doctor", "keys", "calibration"},
}
HEAVY = {"torch", "diffusers", "transformers", "bitsandbytes", "vllm", "xllamacpp", "gguf", "accelerate"}
NETWORK = {"socket", "http", "urllib", "httpx", "requests", "aiohttp", "huggingface_hub"}
NEVER = {
    "sizing": HEAVY | NETWORK | {"subprocess", "time", "asyncio", "datetime", "threading"},
    "wire": HEAVY | NETWORK | {"fastapi", "starlette", "subprocess"},
    "keys": HEAVY | {"fastapi", "starlette", "subprocess", "asyncio"},
    "hardware": HEAVY,
    "provision": HEAVY,
    "calibration": HEAVY | NETWORK | {"subprocess", "asyncio"},
    "worker": HEAVY,
    "diffusion": set(),
    "gateway": HEAVY,
    "deploy": HEAVY | NETWORK | {"subprocess", "time", "asyncio", "datetime", "threading"},
    "doctor": HEAVY | NETWORK,
    "cli": HEAVY,
}
# The only files that run inside an engine's own environment and may import what is there.
ENGINE_FILES = {
    *(path.relative_to(SERVICES).as_posix() for path in (SERVICES / "diffusion" / "model").glob("*.py")),
    "worker/engines/llamacpp_server.py", "provision/convert_gguf.py", "hardware/probe_cuda.py",
}  # fmt: skip


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} relative import; write services.<room>"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "services"}
    return found


def test_every_room_has_a_row_and_a_card() -> None:
    rooms = {p.name for p in SERVICES.iterdir() if p.is_dir() and not p.name.startswith("__")}
    assert rooms == set(MAY_IMPORT)
    for room in rooms:
        lines = (SERVICES / room / "README.md").read_text(encoding="utf8").splitlines()
        assert 5 <= len(lines) <= 20, f"services/{room}/README.md has {len(lines)} lines; a card has at most 20"


@pytest.mark.parametrize("path", sorted(SERVICES.rglob("*.py")), ids=lambda p: str(p.relative_to(SERVICES)))
def test_borders(path: Path) -> None:
    name = path.relative_to(SERVICES).as_posix()
    room = name.split("/")[0]
    if room not in MAY_IMPORT:
        return
    found = imports_of(path)
    ours = {i.split(".")[1] for i in found if i.startswith("services.")} - {room}
    assert ours <= MAY_IMPORT[room], f"{name} imports {sorted(ours - MAY_IMPORT[room])}"
    if name in ENGINE_FILES:
        return
    never = NEVER[room] | (HEAVY if room == "diffusion" else set())
    heads = {i.split(".")[0] for i in found}
    assert not heads & never, f"{name} imports {sorted(heads & never)}"
    if room == "hardware":
        top = {n for node in ast.parse(path.read_text(encoding="utf8")).body for n in _names(node)}
        assert "pynvml" not in top, f"{name}: NVML is imported inside functions only"


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import):
        return {a.name.split(".")[0] for a in node.names}
    return {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) else set()
