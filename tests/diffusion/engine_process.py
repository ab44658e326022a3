"""A real engine process on digits-sd, and what a test asks of it."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
TOKEN = "engine-token"
READY = re.compile(r"ready on http://127\.0\.0\.1:(\d+)")


class EngineProcess:
    """`python -m services.diffusion` with the diffusion environment's python, as the worker starts it. `start_s`: exec to /health 200."""

    def __init__(self, python: Path, folder: Path, *flags: str) -> None:
        (folder / "token").write_text(TOKEN)
        self.log = folder / "engine.log"
        argv = [str(python), "-m", "services.diffusion", "--weights", str(ROOT / "models" / "digits-sd"), "--model-id", "digits-sd",
                "--token-file", str(folder / "token"), "--native-px", "32", "--default-steps", "20", "--default-guidance-scale", "3",
                *flags]
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT)}
        started_s = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=log, stderr=log)
        self.client = httpx.Client(base_url=self._wait(started_s), headers={"authorization": f"Bearer {TOKEN}"}, timeout=120)
        assert self.client.get("/health").status_code == 200
        self.start_s = time.monotonic() - started_s

    def _wait(self, started_s: float) -> str:
        while time.monotonic() < started_s + 90:
            if match := READY.search(self.log.read_text()):
                return f"http://127.0.0.1:{match[1]}"
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"not ready after 90 s: {self.log.read_text()}")

    def ask(self, **fields: Any) -> httpx.Response:
        return self.client.post("/v1/images/generations", json={"prompt": "a photo of the digit seven", **fields})

    def make(self, **fields: Any) -> dict[str, Any]:
        answer = self.ask(**fields)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def pngs(self, **fields: Any) -> list[bytes]:
        return [base64.b64decode(entry["b64_json"]) for entry in self.make(**fields)["data"]]

    def metric(self, name: str) -> float:
        text = self.client.get("/metrics").text
        return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"rigserve_diffusion_{name} "))

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.client.close()

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """The exit code."""
        self.process.send_signal(signum)
        return self.process.wait(30)


def pixels(png: bytes) -> np.ndarray:
    """(height, width, 3), whole numbers that can be subtracted."""
    return np.asarray(Image.open(io.BytesIO(png))).astype(int)
