"""The events of a streamed job, as server-sent events with the names of OpenAI's image streams.

    image_generation.progress        after each denoise step: ours; step of steps
    image_generation.partial_image   an unfinished picture, when some were asked for
    image_generation.completed       one per picture
    [DONE]                           so that a stream that was cut can be told from one that is whole

An edit's events begin with image_edit. A stream that fails ends with `data: {"error": ...}` instead.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from services.diffusion.contract import ImageJob, Outcome, Picture, Step
from services.wire.errors import ApiError

HEARTBEAT = b": working\n\n"


class Events:
    """Of one job. Pure, but for the time of day."""

    def __init__(self, job: ImageJob) -> None:
        self._kind = "image_generation" if job.edit is None else "image_edit"
        self._job = job
        self._partials = 0

    def step(self, step: Step) -> bytes:
        """One event, or two when there is an unfinished picture."""
        said = _event(f"{self._kind}.progress", {"step": step.done, "steps": step.total, "step_s": round(step.seconds, 6)})
        if step.partial is None:
            return said
        self._partials += 1
        return said + _event(f"{self._kind}.partial_image", self._picture(step.partial) | {"partial_image_index": self._partials - 1})

    def completed(self, outcome: Outcome) -> bytes:
        """All pictures, and the end. The usage, which is the whole job's, stands in the last."""
        last = len(outcome.pictures) - 1
        parts = [
            _event(f"{self._kind}.completed", self._picture(picture) | ({"usage": usage(outcome)} if number == last else {}))
            for number, picture in enumerate(outcome.pictures)
        ]
        return b"".join(parts) + b"data: [DONE]\n\n"

    def _picture(self, picture: Picture) -> dict[str, Any]:
        job = self._job
        more = {"filtered": True} if picture.filtered else {}
        return {
            "b64_json": base64.b64encode(picture.data).decode("ascii"), "created_at": int(time.time()), "seed": picture.seed,
            "size": f"{job.width_px}x{job.height_px}", "output_format": job.output.format, "quality": "auto", "background": "opaque",
            **more,
        }  # fmt: skip


def failed(error: ApiError) -> bytes:
    """The event that ends a stream that has failed."""
    return f"data: {json.dumps(error.body(), separators=(',', ':'))}\n\n".encode()


def usage(outcome: Outcome) -> dict[str, Any]:
    """What a job took, as every answer tells it."""
    return {
        "images": len(outcome.pictures),
        "steps": outcome.denoise_steps,
        "denoise_s": round(outcome.denoise_s, 6),
        "vae_s": round(outcome.vae_s, 6),
        "total_s": round(outcome.total_s, 6),
    }


def _event(kind: str, payload: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **payload}, separators=(',', ':'))}\n\n".encode()
