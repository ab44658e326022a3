"""The micro-benchmark in a real engine environment without a card: it must end in a sentence, not in a traceback."""

from __future__ import annotations

import subprocess

import pytest

from services.hardware import probe_cuda
from services.provision.environments import ensure


@pytest.mark.engine
def test_torch_without_cuda_is_said() -> None:
    python = ensure("diffusion-cpu")
    done = subprocess.run([str(python), "-I", probe_cuda.__file__], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == probe_cuda.NO_CARD
    assert "sees no CUDA card" in done.stderr
    assert not done.stdout
