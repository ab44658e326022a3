"""The command line: what it means, what it refuses, and that the process says so and leaves with code 2."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from services.diffusion.__main__ import EXAMPLE, parse
from services.diffusion.settings import SettingsError, read_token

ROOT = Path(__file__).parents[2]
NEEDED = ["--weights", "w", "--model-id", "m"]


def test_the_contract_s_command_line(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("abc\n")
    made = parse(
        f"--weights models/digits-sd --model-id digits-sd --host 127.0.0.1 --port 9 --token-file {token} --device cuda:1 --dtype float16 "
        "--max-width-px 768 --max-height-px 512 --max-batch 2 --max-steps 60 --multiple-px 16 --native-px 512 --default-steps 30 "
        "--default-guidance-scale 6.5 --offload model".split()
    )
    assert (made.weights, made.token) == (Path("models/digits-sd"), "abc")
    assert (made.device, made.dtype, made.offload) == ("cuda:1", "float16", "model")
    assert (made.max_width_px, made.max_height_px, made.max_batch, made.max_steps) == (768, 512, 2, 60)
    assert (made.multiple_px, made.default_size_px(), made.default_steps, made.default_guidance_scale) == (16, (512, 512), 30, 6.5)
    assert "abc" not in repr(made)


def test_the_example_of_the_help_parses() -> None:
    words = EXAMPLE.replace("\\\n", " ").splitlines()[1].split()
    assert parse(words[words.index("services.diffusion") + 1 :]).model_id == "digits-sd"


@pytest.mark.parametrize("more", ["--host 0.0.0.0", "--offload model", "--quantize-text-encoders", "--native-px 4", "--default-steps 200",
                                  "--device cuda:0 --offload sequential --quantization nf4", "--token-file /nonexistent/token"])
def test_what_does_not_go_together_is_said(more: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse([*NEEDED, *more.split()])
    assert str(error.value).endswith(".")


@pytest.mark.parametrize("more", ["--device tpu", "--device cuda:x", "--port 70000", "--max-batch 0", "--default-guidance-scale nan",
                                  "--default-guidance-scale -1", "--dtype int4", "--max-width-px many"])
def test_bad_values_leave_with_code_2(more: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        parse([*NEEDED, *more.split()])
    assert leaving.value.code == 2
    assert more.split()[0] in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"  \n", b"two\nlines", b"\xff\xfe", "schlüssel".encode()])
def test_a_token_is_one_line_of_ascii(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(SettingsError):
        read_token(tmp_path / "token")


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "services.diffusion", *args], cwd=ROOT, capture_output=True, text=True, timeout=20)


def test_a_folder_that_is_none_and_a_port_that_is_taken(tmp_path: Path) -> None:
    refused = run("--weights", str(tmp_path), "--model-id", "m")
    assert refused.returncode == 2
    assert "model_index.json" in refused.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = run("--weights", str(ROOT / "models" / "digits-sd"), "--model-id", "m", "--port", port)
    assert refused.returncode == 2
    assert f"port {port}" in refused.stderr
    assert "Traceback" not in refused.stderr
