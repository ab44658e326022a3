"""The table of reasons against the launchers: no flag without its reason, no reason without its flag."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from services.deploy.flags import REASONS
from services.sizing.types import Engine
from services.worker.engines import diffusion, llamacpp, vllm

LAUNCHERS = {Engine.LLAMACPP: llamacpp, Engine.VLLM: vllm, Engine.DIFFUSERS: diffusion}


@pytest.mark.parametrize("engine", list(Engine))
def test_reasons_match_the_launcher(engine: Engine) -> None:
    source = Path(str(LAUNCHERS[engine].__file__)).read_text(encoding="utf8")
    words = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert {word for word in words if re.fullmatch(r"--[a-z][a-z-]*", word)} == set(REASONS[engine])
