"""The real engine: real diffusers, digits-sd, a process of its own."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from services.diffusion.folder import INPAINTS, PIPELINES, STARTS_FROM_IMAGE
from services.hardware.memory import tree_resident_bytes
from services.provision import environments
from services.wire.images import SCHEDULERS
from tests.diffusion.engine_process import ROOT, EngineProcess, pixels
from tests.diffusion.test_stream import events
from tests.models.digit_judge import DigitJudge

pytestmark = pytest.mark.engine
MIB = 2**20
LARGE = ("--max-width-px", "512", "--max-height-px", "512", "--max-batch", "4")


@pytest.fixture(scope="module")
def python() -> Path:
    return environments.ensure("diffusion-cpu")


@pytest.fixture(scope="module")
def engine(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """Admits 512x512; ten images run in batches of 4, 4 and 2."""
    with EngineProcess(python, tmp_path_factory.mktemp("engine"), *LARGE) as made:
        print(f"\nprocess start to /health 200: {made.start_s:.1f} s")
        yield made
        assert made.stop() == 0
        assert "Traceback" not in made.log.read_text()


def seen(pngs: list[bytes]) -> list[int]:
    return DigitJudge.from_real_digits().read([Image.open(io.BytesIO(png)) for png in pngs])


def test_a_seven_looks_like_a_seven(engine: EngineProcess) -> None:
    body = engine.make(n=10, seed=100)
    assert [entry["seed"] for entry in body["data"]] == list(range(100, 110))
    assert body["usage"]["images"] == 10
    assert body["usage"]["steps"] == 10 * 20
    assert 0 < body["usage"]["vae_s"] < body["usage"]["denoise_s"] < body["usage"]["total_s"]
    assert seen(engine.pngs(n=10, seed=100)).count(7) >= 9


def test_the_same_seed_gives_the_same_bytes(engine: EngineProcess) -> None:
    first = engine.pngs(seed=5, size="64x32", steps=8, n=6)
    assert engine.pngs(seed=5, size="64x32", steps=8, n=6) == first
    assert len(set(first)) == 6
    assert pixels(first[0]).shape == (32, 64, 3)
    assert engine.pngs(seed=6, size="64x32", steps=8, n=6) != first


def test_an_image_is_the_same_in_any_batch(engine: EngineProcess) -> None:
    """Kernels round differently for other batch sizes: one level of 255 in a few pixels, which nobody can see; noise is per image."""
    batch = engine.pngs(seed=20, n=10)
    alone = [engine.pngs(seed=seed)[0] for seed in range(20, 30)]
    worst = max(np.abs(pixels(a) - pixels(b)).max() for a, b in zip(batch, alone, strict=True))
    same = sum(a == b for a, b in zip(batch, alone, strict=True))
    print(f"\n{same} of 10 byte-identical, largest difference {worst} of 255")
    assert worst <= 1


def test_guidance_steps_and_negative_prompt_matter(engine: EngineProcess) -> None:
    made = [engine.pngs(**{"seed": 9, "steps": 6, **more})[0] for more in (
        {}, {"guidance_scale": 1.5}, {"negative_prompt": "a photo of the digit one"}, {"steps": 7}, {"guidance_scale": 0})]
    assert len(set(made)) == 5


def test_what_is_refused_leaves_the_engine_alone(engine: EngineProcess) -> None:
    for fields, code in (({"size": "520x512"}, "image_too_large"), ({"steps": 10**6}, "invalid_value"), ({"n": 100}, "invalid_value"),
                         ({"model": "other"}, "model_not_found"), ({"prompt": ""}, "invalid_value")):
        assert engine.ask(**fields).json()["error"]["code"] == code
    assert engine.client.post("/v1/images/generations", headers={"authorization": "Bearer no"}, json={"prompt": "x"}).status_code == 401
    assert engine.make(steps=2)["usage"]["steps"] == 2


def test_odd_prompts_work_and_none_is_logged(engine: EngineProcess) -> None:
    secret = "xyzzysecret"
    for prompt in (f"{secret} " * 300, f"{secret} \x00\u202e🤖 ٧ 七", secret + "é" * 3000):
        assert engine.ask(prompt=prompt, negative_prompt=prompt, steps=2).status_code == 200
    assert engine.ask(prompt=secret, size="8x7").status_code == 400
    assert secret not in engine.log.read_text()


def test_a_digit_can_be_drawn_over_another(engine: EngineProcess) -> None:
    """Weakly, the seven shines through; strongly, it is gone; what the mask keeps is the seven's, to the last bit."""
    seven = engine.pngs(seed=100)[0]
    url = "data:image/png;base64," + base64.b64encode(seven).decode()
    half = io.BytesIO()
    mask = Image.new("L", (32, 32))
    mask.paste(255, (16, 0, 32, 32))
    mask.save(half, "PNG")

    def edited(**more: Any) -> list[np.ndarray]:
        body = {"prompt": "a photo of the digit one", "images": [{"image_url": url}], "seed": 3, "n": 4, **more}
        answer = engine.client.post("/v1/images/edits", json=body)
        assert answer.status_code == 200, answer.text
        return [pixels(base64.b64decode(entry["b64_json"])) for entry in answer.json()["data"]]

    near, far = (np.mean([np.abs(made - pixels(seven)).mean() for made in edited(strength=strength)]) for strength in (0.2, 1.0))
    print(f"\nmean distance from the picture: {near:.1f} at strength 0.2, {far:.1f} at 1.0")
    assert near < far / 2
    kept = edited(mask={"image_url": "data:image/png;base64," + base64.b64encode(half.getvalue()).decode()})
    assert all((made[:, :16] == pixels(seven)[:, :16]).all() for made in kept)
    assert any((made[:, 16:] != pixels(seven)[:, 16:]).any() for made in kept)


def test_a_stream_tells_each_step_and_stops_when_its_client_leaves(engine: EngineProcess) -> None:
    asked = {"prompt": "a photo of the digit seven", "steps": 6, "seed": 5, "stream": True, "partial_images": 2}
    told = events(engine.client.post("/v1/images/generations", json=asked).text)
    assert [kind for kind, _ in told].count("image_generation.progress") == 6
    partial = [pixels(base64.b64decode(p["b64_json"])) for kind, p in told if kind == "image_generation.partial_image"]
    last = pixels(base64.b64decode(told[-2][1]["b64_json"]))
    assert (last == pixels(engine.pngs(seed=5, steps=6)[0])).all(), "the same picture as without a stream"
    first_off, second_off = (np.abs(made - last).mean() for made in partial)
    assert first_off > second_off > 0, "each unfinished picture is nearer to the last"
    before = engine.metric("stopped_total")
    with engine.client.stream("POST", "/v1/images/generations", json={**asked, "size": "128x128", "steps": 150}) as answer:
        next(answer.iter_bytes())
    left_s = time.monotonic()
    while engine.metric("stopped_total") == before:
        assert time.monotonic() - left_s < 30, "the job runs on although its client has left"
        time.sleep(0.02)
    assert engine.metric("queue_depth") == 0


class LongJob(threading.Thread):
    """A client that asks for 150 steps of some 0.2 s each and leaves when its patience ends."""

    def __init__(self, engine: EngineProcess, patience_s: float) -> None:
        super().__init__()
        self.engine, self.patience_s = engine, patience_s
        self.answers: list[httpx.Response] = []

    def run(self) -> None:
        job = {"prompt": "seven", "size": "128x128", "steps": 150, "n": 4}
        with contextlib.suppress(httpx.TimeoutException):
            self.answers.append(self.engine.client.post("/v1/images/generations", json=job, timeout=self.patience_s))


def long_job(engine: EngineProcess, patience_s: float) -> LongJob:
    """The job, after its first step."""
    before = engine.metric("step_seconds_count")
    job = LongJob(engine, patience_s)
    job.start()
    while engine.metric("step_seconds_count") == before:
        assert job.is_alive(), f"not one step in {patience_s} s"
        time.sleep(0.02)
    return job


def test_health_answers_during_a_job_and_a_client_that_leaves_stops_it(engine: EngineProcess) -> None:
    before = engine.metric("stopped_total")
    thread = long_job(engine, patience_s=4)
    slowest_s = 0.0
    while thread.is_alive():
        asked_s = time.monotonic()
        assert engine.client.get("/health").status_code == 200
        slowest_s = max(slowest_s, time.monotonic() - asked_s)
        time.sleep(0.05)
    left_s = time.monotonic()
    while engine.metric("stopped_total") == before:
        assert time.monotonic() - left_s < 30, "the job runs on although its client has left"
        time.sleep(0.02)
    print(f"\n/health during a job: {slowest_s * 1000:.0f} ms at worst; stopped {time.monotonic() - left_s:.1f} s after the client left")
    assert slowest_s < 2
    assert engine.metric("queue_depth") == 0
    assert engine.make(steps=2)["usage"]["steps"] == 2


def test_out_of_memory_is_survived(engine: EngineProcess) -> None:
    """The system refuses memory to the engine for real, by a limit on its address space.

    The job needs some 500 MB more than any job of this file before it, so nothing that the heap still holds can satisfy it.
    """
    pid, before = engine.process.pid, engine.metric("out_of_memory_total")
    _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    virtual_bytes = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (virtual_bytes + 20 * MIB, hard))
    try:
        answer = engine.ask(size="512x512", n=4, steps=2)
        small = engine.ask(seed=3, steps=4)
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, (hard, hard))
    assert answer.json()["error"]["code"] == "backend_out_of_memory"
    assert (answer.status_code, answer.headers["x-should-retry"]) == (500, "false")
    assert small.status_code == 200, "the next job must work, with the memory still limited"
    assert engine.metric("out_of_memory_total") == before + 1
    assert engine.make(size="256x256", n=4, steps=1)["usage"]["images"] == 4


def test_memory_stays_flat(engine: EngineProcess) -> None:
    sizes = ["32x32", "64x64", "128x128", "96x32"]
    for size in sizes:
        engine.make(size=size, steps=2, n=4)
    before = tree_resident_bytes(engine.process.pid)
    for i in range(20):
        engine.make(size=sizes[i % len(sizes)], steps=2, n=1 + i % 4)
    after = tree_resident_bytes(engine.process.pid)
    assert before is not None
    assert after is not None
    print(f"\nresident before 20 jobs {before / MIB:.0f} MiB, after {after / MIB:.0f} MiB")
    assert after - before < 16 * MIB


def test_speed_is_printed(engine: EngineProcess) -> None:
    for n in (1, 4, 10):
        usage = engine.make(n=n, seed=1)["usage"]
        assert usage["steps"] == n * 20
        print(f"\n{n} x 32x32, 20 steps: {usage['total_s']:.2f} s, {n / usage['total_s'] * 60:.0f} images/min", end="")


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantized_layers_draw_the_same_digits(python: Path, tmp_path: Path, engine: EngineProcess, kind: str) -> None:
    with EngineProcess(python, tmp_path, "--quantization", kind, "--quantize-text-encoders", "--max-batch", "4") as small:
        made = small.pngs(n=10, seed=100)
    assert made != engine.pngs(n=10, seed=100), "the layers were not replaced"
    assert seen(made).count(7) >= 8


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_a_job_ends_the_process_cleanly(python: Path, tmp_path: Path, signum: int) -> None:
    with EngineProcess(python, tmp_path, *LARGE, "--grace-s", "0") as busy:
        thread = long_job(busy, patience_s=30)
        asked_s = time.monotonic()
        assert busy.stop(signum) == 0
        print(f"\nended {time.monotonic() - asked_s:.1f} s after the signal")
        thread.join()
        assert thread.answers[0].json()["error"]["code"] == "no_available_worker"
        assert "Traceback" not in busy.log.read_text()


def printed(python: Path, module: str, folder: Path) -> dict[str, Any]:
    """The JSON object that the module prints when it runs in the engine's environment."""
    done = subprocess.run(
        [python, "-m", module, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return results


def test_adapters_and_packed_weights(python: Path, tmp_path: Path) -> None:
    results = printed(python, "tests.diffusion.tiny_adapters", tmp_path)
    for kind, seen_of in results["adapters"].items():
        assert seen_of == {
            "changes": True, "scale_0_is_none": True, "scales_differ": True, "two_differ": True, "off_again": True, "repeats": True,
            "in_edits": True,
        }, kind
    assert results["refused"] == {"other model": "WeightsRefused", "no tensors": "WeightsRefused", "cut": "WeightsRefused"}
    for kind, (held_bytes, billed_bytes) in results["bytes"].items():
        print(f"\ndigits-sd {kind}: {held_bytes:,} bytes held, {billed_bytes:,} billed", end="")
        assert billed_bytes == pytest.approx(held_bytes, rel=0.02), kind
    assert results["spiece"] == [True, True]


def test_every_pipeline_class_of_the_list_and_every_foreign_error(python: Path, tmp_path: Path) -> None:
    results = printed(python, "tests.diffusion.tiny_pipelines", tmp_path)
    schedulers = results.pop("schedulers")
    for seen_of in schedulers.values():
        assert seen_of.pop("distinct") >= 20, "names stand for different schedulers; a few agree after so few steps"
        assert seen_of == {"names": len(SCHEDULERS), "repeats": True, "own_again": True}
    assert results.pop("blackened") == {"filtered": [True, True], "distinct": 1}
    assert results.pop("foreign errors") == {
        "gpu": "OutOfMemory", "cpu": "OutOfMemory", "python": "OutOfMemory", "cublas": "OutOfMemory", "device": "DeviceLost",
        "other": "RuntimeError", "nan": "NotFinite", "afterwards": "the same", "cut": "WeightsRefused",
    }
    assert set(results) == set(PIPELINES)
    for name, result in results.items():
        edited = {
            "repeats": True, "strength_matters": True, "text_as_before": True, "formats": ["webp"],
            "steps_per_image": 4 if name.startswith("Latent") else 1,  # a quarter of 4; latent consistency always runs all
            "partials": 0 if name == "FluxPipeline" else 2,  # its latents are packed
        }
        assert result.pop("edits") == (edited if name in STARTS_FROM_IMAGE else None), name
        assert result.pop("masks") == ({"kept": True, "painted": True, "repeats": True} if name in INPAINTS else None), name
        assert result == {
            "seeds": [7, 8, 9], "sizes": [[32, 16]] * 3, "distinct": 3, "repeats": True, "times_positive": True,
            "denoise_steps": 9,  # 3 images of 3 steps
            "told": [[step, 6] for step in range(1, 7)],
            "callbacks": 6 + 6 + 1,  # two batches of 3 steps, twice, and the one step before the stop
            "stop_asked": 2,
        }, name
