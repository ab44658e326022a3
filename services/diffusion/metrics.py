"""What this engine counts, for Prometheus. One registry per process, made at the start and handed around."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from services.diffusion.contract import Outcome

STEP_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
JOB_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metrics:
    """Counters of one engine process. Safe to use from the job's thread and the event loop at once."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.images = Counter("rigserve_diffusion_images", "Images made.", registry=registry)
        self.steps = Counter("rigserve_diffusion_denoise_steps", "Denoise steps run, summed over images.", registry=registry)
        self.step_s = Histogram(
            "rigserve_diffusion_step_seconds", "Seconds of one denoise step of a whole batch.", buckets=STEP_BUCKETS_S, registry=registry
        )
        self.vae_s = Histogram(
            "rigserve_diffusion_vae_seconds", "Seconds of a job after its last step: VAE and PNG.", buckets=JOB_BUCKETS_S, registry=registry
        )
        self.job_s = Histogram(
            "rigserve_diffusion_job_seconds", "Seconds of a whole job, its wait left out.", buckets=JOB_BUCKETS_S, registry=registry
        )
        self.queue_depth = Gauge("rigserve_diffusion_queue_depth", "Jobs that run or wait.", registry=registry)
        self.out_of_memory = Counter("rigserve_diffusion_out_of_memory", "Jobs that needed more memory than there is.", registry=registry)
        self.stopped = Counter("rigserve_diffusion_stopped", "Jobs stopped because their client left.", registry=registry)
        self.peak_bytes = Gauge(
            "rigserve_diffusion_peak_memory_bytes", "Highest memory of any job so far (device memory on a GPU).", registry=registry
        )
        self._highest_bytes = 0

    def count(self, outcome: Outcome) -> None:
        """One finished job."""
        self.images.inc(len(outcome.pictures))
        self.steps.inc(outcome.denoise_steps)
        self.vae_s.observe(outcome.vae_s)
        self.job_s.observe(outcome.total_s)
        self._highest_bytes = max(self._highest_bytes, outcome.peak_bytes or 0)
        if self._highest_bytes:
            self.peak_bytes.set(self._highest_bytes)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
