"""Score the sizing against measured runs, beside two naive estimators: python -m tests.accuracy.score RUNS.jsonl [--rows] [--out FILE.md]

A run is a JSON object whose `measured` holds what was logged. `measured` is cut off before a run is shown to any estimator.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.sizing.case_geometry import CaseError, image_pipeline, text_geometry
from services.sizing.cases import evaluate
from services.sizing.params import count_params

Run = dict[str, Any]
Answer = dict[str, Any]
GIB = 2**30
STARTED = ("fits", "fits_marginal")
HEADER = """# Accuracy

How far the sizing is from what public logs measured, beside two naive estimators. Made by `make accuracy`.

**Not a blind score.** Constants were read off some of these runs (each is named beside its constant in the code), and rules for versions,
hybrids, allocator rounding and vision were written with the rows in sight. Weights, KV cache and GGUF sizes follow from architecture alone;
for activations, vision and images expect larger errors on runs that nobody here has seen.

Each run says model, quantization, engine, card and settings; its measured figures are cut off before any estimator sees it. Errors are
means of |predicted - measured| / measured (GiB for available KV, which may be near zero). "Start or refuse" counts tight as a start; a
false fit is the costly mistake. Runs of transformers come from two documents and are many: read each engine for itself.

Image peaks: `total_peak_gib` is what tensors hold at the worst moment, cuDNN's workspace with them, as `torch.cuda.max_memory_allocated`
says it; the CUDA context is not in it. The verdict asks for more: the smallest card on which torch's allocator gets through, and the
context. Some of the runs report what the allocator had *reserved* instead (the same run of FLUX.1 is in the file both ways: 36.2 and
33.9 GiB), one source reports a loaded pipeline without its work, one nvidia-smi: those miss by that. Vision towers, pipeline-parallel
runs, quantization done on the card and hand-made GGUF mixes are the weak spots, named below.

"""


@dataclass(frozen=True)
class Error:
    """One figure of one run: relative and absolute error of the prediction."""

    run: str
    group: str
    predicted: float
    measured: float

    @property
    def relative(self) -> float:
        return (self.predicted - self.measured) / self.measured


def load_runs(path: Path) -> list[Run]:
    """The runs of a JSONL file, in its order."""
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines() if line.strip()]


def blind(run: Run) -> Run:
    """The run as an estimator may see it: without what was measured, and without words written about it afterwards."""
    return {key: value for key, value in run.items() if key not in ("measured", "notes", "quote")}


def naive_gpustack(run: Run) -> Answer:
    """weights x 1.2 + 2 GiB for language models (a known scheduler's rule), weights alone for images."""
    weights = naive_weights_gib(run, bits_of(str(run.get("quant", "bf16"))))
    need = weights if run.get("kind") == "image" else weights * 1.2 + 2
    return {"weights_gib": weights, "total_peak_gib": need, "verdict": naive_verdict(run, need)}


def naive_calculator(run: Run) -> Answer:
    """parameters x bits / 8 x 1.2, as the usual VRAM calculators do."""
    weights = naive_weights_gib(run, bits_of(str(run.get("quant", "bf16"))))
    return {"weights_gib": weights, "total_peak_gib": weights * 1.2, "verdict": naive_verdict(run, weights * 1.2)}


def naive_weights_gib(run: Run, bits: float) -> float:
    """Every parameter at the quantization's nominal bits."""
    if run.get("kind") == "image":
        params = sum(image_pipeline(str(run["model"])).components.values())
    else:
        params = count_params(text_geometry(str(run["model"]), run.get("arch")))
    return params * bits / 8 / GIB / (run.get("tensor_parallel") or 1)


def bits_of(quant: str) -> float:
    """The number of bits that a name says."""
    name = quant.lower()
    if re.search(r"nf4|fp4|int4|awq|q4|w4|4-?bit|iq4", name):
        return 4
    if re.search(r"q2", name):
        return 2
    if re.search(r"q3", name):
        return 3
    if re.search(r"fp8|int8|q8|8-?bit", name):
        return 8
    return 32 if "fp32" in name or name == "f32" else 16


def naive_verdict(run: Run, need_gib: float) -> str | None:
    have = run.get("gpu_vram_gib")
    if not have:
        return None
    return "fits" if need_gib <= have * (run.get("gpu_memory_utilization") or 1.0) else "does_not_fit"


def answers(runs: Iterable[Run], estimator: Callable[[Run], Answer]) -> dict[str, Answer]:
    """Every run's answer by id; a run that an estimator can't answer is an {"error"}."""
    found: dict[str, Answer] = {}
    for run in runs:
        try:
            found[run["id"]] = estimator(blind(run))
        except (CaseError, ValueError, KeyError) as error:
            found[run["id"]] = {"error": str(error)}
    return found


def figure_errors(runs: list[Run], found: dict[str, Answer], quantity: str) -> list[Error]:
    """Errors of one quantity over the runs that measured it and that were answered."""
    errors = []
    for run in runs:
        measured, predicted = run["measured"].get(quantity), found[run["id"]].get(quantity)
        if quantity == "total_peak_gib" and run["measured"].get("outcome") not in STARTED:
            continue  # what was allocated when a run died is no peak
        if isinstance(measured, int | float) and measured > 0 and isinstance(predicted, int | float):
            errors.append(Error(run["id"], group_of(run), float(predicted), float(measured)))
    return errors


def token_errors(runs: list[Run], found: dict[str, Answer]) -> list[Error]:
    """KV tokens from the KV bytes that were measured: is the arithmetic of the cache right, whatever was left for it?"""
    errors = []
    for run in runs:
        measured = run["measured"]
        tokens, gib, per_token = measured.get("kv_tokens"), measured.get("kv_available_gib"), found[run["id"]].get("kv_bytes_per_token")
        if tokens and gib and gib > 0 and per_token:
            errors.append(Error(run["id"], group_of(run), gib * GIB / per_token, tokens))
    return errors


def group_of(run: Run) -> str:
    """The engine without its version."""
    return re.split(r"[ (]", str(run["engine"]))[0]


@dataclass(frozen=True)
class Verdicts:
    """How often "it starts" was right; `false_fits` are the costly mistakes."""

    right: int
    asked: int
    false_fits: tuple[str, ...]
    false_refusals: tuple[str, ...]
    unanswered: tuple[str, ...]


def verdicts(runs: list[Run], found: dict[str, Answer]) -> Verdicts:
    """Predicted start or refusal against the outcome."""
    right, asked, fits, refusals, unanswered = 0, 0, [], [], []
    for run in runs:
        outcome, predicted = run["measured"].get("outcome"), found[run["id"]].get("verdict")
        if outcome is None:
            continue
        if predicted is None:
            unanswered.append(run["id"])
            continue
        asked += 1
        started, says = outcome in STARTED, predicted in ("fits", "tight")
        right += started == says
        if says and not started:
            fits.append(run["id"])
        if started and not says:
            refusals.append(run["id"])
    return Verdicts(right, asked, tuple(fits), tuple(refusals), tuple(unanswered))


def summary(errors: list[Error], *, absolute: bool = False) -> str:
    """ "1.2 % (median 0.3 %, n = 25)", or in GiB."""
    if not errors:
        return "-"
    sizes = [abs(error.predicted - error.measured) if absolute else 100 * abs(error.relative) for error in errors]
    unit = "GiB" if absolute else "%"
    return f"{statistics.fmean(sizes):.2f} {unit} (median {statistics.median(sizes):.2f}, n = {len(sizes)})"


def report(runs: list[Run]) -> str:
    """The whole comparison as Markdown."""
    ours = answers(runs, evaluate)
    others = {"weights x 1.2 + 2 GiB": answers(runs, naive_gpustack), "parameters x bits / 8 x 1.2": answers(runs, naive_calculator)}
    lines = ["| quantity | engine | rigserve | " + " | ".join(others) + " |", "|---|---|---|" + "---|" * len(others)]

    def row(name: str, engine: str, chosen: list[Run], quantity: str, *, absolute: bool = False) -> None:
        cells = [summary(figure_errors(chosen, found, quantity), absolute=absolute) for found in (ours, *others.values())]
        if cells[0] != "-":
            lines.append(f"| {name} | {engine} | " + " | ".join(cells) + " |")

    for engine in dict.fromkeys(group_of(run) for run in runs):
        mine = [run for run in runs if group_of(run) == engine]
        row("weights", engine, mine, "weights_gib")
        tokens = token_errors(mine, ours)
        if tokens:
            lines.append(f"| KV tokens from KV bytes | {engine} | {summary(tokens)} |" + " - |" * len(others))
        row("available KV", engine, mine, "kv_available_gib", absolute=True)
        row("activation peak", engine, mine, "activation_peak_gib")
        row("total peak", engine, mine, "total_peak_gib")
    for name, chosen in (("all", runs), ("vllm", [run for run in runs if group_of(run) == "vllm"])):
        cells = []
        for found in (ours, *others.values()):
            v = verdicts(chosen, found)
            cells.append(f"{v.right} of {v.asked} right, {len(v.false_fits)} false fits")
        lines.append(f"| start or refuse | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + weak_spots(runs, ours)


def weak_spots(runs: list[Run], ours: dict[str, Answer]) -> str:
    """Where it is wrong, said row by row."""
    v = verdicts(runs, ours)
    lines = [
        f"False fits: {', '.join(v.false_fits) or 'none'}.", f"False refusals: {', '.join(v.false_refusals) or 'none'}.",
        f"No verdict (card size not given): {len(v.unanswered)}.",
    ]  # fmt: skip
    unknown = [f"{run['id']} ({run['model']})" for run in runs if "error" in ours[run["id"]]]
    lines.append(f"Not answered: {', '.join(unknown) or 'none'}.")
    return "\n".join(f"- {line}" for line in lines) + "\n"


def worst(runs: list[Run], ours: dict[str, Answer]) -> str:
    """Every figure of every run, for work on the formulas."""
    lines = []
    for quantity in ("weights_gib", "kv_available_gib", "activation_peak_gib", "total_peak_gib"):
        for error in sorted(figure_errors(runs, ours, quantity), key=lambda e: -abs(e.relative)):
            lines.append(_line(quantity, error))
    lines += [_line("kv_tokens", error) for error in token_errors(runs, ours)]
    return "\n".join(lines)


def _line(quantity: str, error: Error) -> str:
    shown = f"{error.predicted:11.3f} {error.measured:11.3f} {100 * error.relative:+7.2f} %"
    return f"{quantity:20} {error.run:10} {error.group:12} {shown}"


def main() -> None:
    """Print the report (and every row with --rows); write it with --out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--rows", action="store_true")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    runs = load_runs(chosen.runs)
    told = report(runs)
    sys.stdout.write(told)
    if chosen.rows:
        sys.stdout.write(worst(runs, answers(runs, evaluate)) + "\n")
    if chosen.out is not None:
        chosen.out.write_text(HEADER + told, encoding="utf8")


if __name__ == "__main__":
    main()
