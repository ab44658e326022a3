"""A variant that is made on this machine, once: a GGUF checkpoint unpacked to safetensors by an engine environment's python."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from services.provision.errors import ProvisionError
from services.provision.pip_install import child_environment
from services.provision.progress import Progress, ProgressSink

SCRIPT = Path(__file__).with_name("convert_gguf.py")
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
_MADE_WITH = ("torch", "transformers", "gguf", "safetensors", "accelerate")
_VERSIONS = f"""
import importlib.metadata, json
found = {{d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"] in {_MADE_WITH!r}}}
print(json.dumps(found))
"""


def dtype_for(quant: str) -> str:
    """The converter's name for a variant's quant. Raises ProvisionError for one that it can't make."""
    if quant not in DTYPES:
        raise ProvisionError(f"A variant of quant {quant!r} can't be converted here; only {', '.join(DTYPES)}. Correct the model file.")
    return DTYPES[quant]


def convert(python: Path, gguf: Path, target: Path, dtype: str, progress: ProgressSink) -> None:
    """Make the folder `target` from `gguf`; it appears in one rename. Raises ProvisionError with the converter's last words.

    -P keeps this folder off the child's import path: our `errors` or `cache` must not stand in for a library's module.
    """
    command = [str(python), "-P", str(SCRIPT), str(gguf), str(target), "--dtype", dtype]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=child_environment())
        try:
            assert process.stdout is not None
            for line in process.stdout:
                _forward(line, progress)
            process.wait()
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if process.returncode != 0 or not target.is_dir():
            raise _why(gguf, process.returncode, log)


def versions_of(python: Path) -> dict[str, str]:
    """The versions of the libraries that do the work, for the manifest."""
    answer = subprocess.run([str(python), "-P", "-c", _VERSIONS], capture_output=True, check=False, env=child_environment())
    try:
        found = json.loads(answer.stdout)
    except ValueError:
        raise ProvisionError(f"{python} does not run: {_last_line(answer.stderr)}. Remove its environment and run again.") from None
    return {str(name): str(version) for name, version in sorted(found.items())}


def _forward(line: bytes, progress: ProgressSink) -> None:
    """One JSON event of the converter. Its own steps become the text, so that the stage stays one."""
    try:
        event = json.loads(line)
        progress(Progress("convert", event["done"], event["total"], f"converting: {event['text']}"))
    except (ValueError, KeyError, TypeError):
        return  # a library printed to stdout


def _why(gguf: Path, status: int, log: IO[bytes]) -> ProvisionError:
    log.seek(0)
    last = _last_line(log.read())
    if status == -9:
        return ProvisionError(f"Converting {gguf.name} was killed, most likely because memory ran out. Stop other programs and run again.")
    return ProvisionError(f"Converting {gguf.name} failed (exit {status}): {last}")


def _last_line(text: bytes) -> str:
    lines = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"
