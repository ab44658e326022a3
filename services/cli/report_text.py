"""A FitReport as text: the same lines in `fit`, `plan` and the start-up log."""

from __future__ import annotations

from services.cli.output import gib
from services.sizing.types import FitReport, HostNeed, ImageWorkload, MemoryBill, Speed, Workload

LINES = (
    ("weights", "weights_bytes"), ("LoRA slots", "lora_bytes"), ("KV cache", "kv_cache_bytes"), ("activations", "activation_bytes"),
    ("engine", "engine_bytes"), ("CUDA graphs", "graphs_bytes"), ("margin", "reserve_bytes"),
    ("measured more", "measured_extra_bytes"),
)


def workload_text(workload: Workload | None) -> str:
    """`2048 tokens × 8 sequences` or `512×512 px × 1`."""
    if workload is None:
        return "nothing"
    if isinstance(workload, ImageWorkload):
        return f"{workload.width_px}×{workload.height_px} px × {workload.batch}"
    return f"{workload.context_tokens} tokens × {workload.sequences} sequence{'s' if workload.sequences > 1 else ''}"


def bill_text(bill: MemoryBill) -> str:
    """One line a term; terms that are nothing are left out."""
    rows = [f"  {label:<12} {gib(getattr(bill, name)):>10}" for label, name in LINES if getattr(bill, name)]
    return "\n".join([*rows, f"  {'need':<12} {gib(bill.total_bytes):>10}"])


def report_text(report: FitReport) -> str:
    """The whole answer: verdict, bill, largest workload, predictions, host needs, reasons, hints."""
    label = " (simulated)" if report.simulated else ""
    lines = [f"{report.model_id} on {report.card_name}{label}: {report.verdict.value.replace('_', ' ')}"]
    if report.choice:
        lines.append(f"  {report.quant} by {report.choice.engine.value}, {report.choice.dtype}, {workload_text(report.workload)}")
    if report.bill:
        lines += [bill_text(report.bill), f"  {'have':<12} {gib(report.have_bytes):>10}   headroom {gib(report.headroom_bytes)}"]
    lines.append(f"  {report.reason}")
    if report.largest:
        lines.append(f"  largest that fits: {workload_text(report.largest)}{f' ({report.largest_by})' if report.largest_by else ''}")
    lines += _predicted_lines(report.speed) + _host_lines(report.host)
    lines += [f"  because: {r}" for r in (report.choice.reasons if report.choice else ())]
    lines += [f"  instead: {h.text}" for h in report.hints]
    return "\n".join(lines)


def _predicted_lines(speed: Speed | None) -> list[str]:
    """Speeds are never measured here, so the line says so; it is left out where no source supports any figure."""
    if speed is None:
        return []
    figures = (
        (speed.decode_tok_s, "~{:,.1f} tok/s decode"), (speed.prefill_tok_s, "~{:,.0f} tok/s prefill"),
        (speed.images_per_min, "~{:,.1f} images/min"), (speed.load_s, "~{:,.0f} s to load"),
    )  # fmt: skip
    said = ", ".join(words.format(figure) for figure, words in figures if figure is not None)
    return [f"  predicted: {said or 'no speed'} ({speed.basis})" if speed.basis else f"  predicted: {said}"] if said or speed.basis else []


def _host_lines(need: HostNeed | None) -> list[str]:
    if need is None:
        return []
    return [f"  host: {gib(need.ram_bytes)} RAM while loading, {gib(need.resident_bytes)} while serving; {gib(need.disk_bytes)} of disk"]
