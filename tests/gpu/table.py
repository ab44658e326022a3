"""docs/gpu-validation.md: what was predicted beside what a GPU did, or that nothing was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.sizing.fit import workload_words
from services.sizing.types import Verdict
from tests.gpu.cases import Case, Row
from tests.gpu.runner import OUT_OF_MEMORY, RAN, Outcome

HEADER = """# Validation on a GPU

What the sizing predicts beside what a real GPU does, on small cards that are emulated: another process holds what the GPU has too much of
(`tests/gpu/cap.py`), so that every engine meets a real end of memory, its CUDA context counted. Shapes are real, weights are made up
(zeros, or vLLM's `--load-format dummy`); nothing is downloaded but the engines. Engines are started by the worker's own command lines.
What this can't show: other kernels of older cards (they take other workspaces), speed, and anything about heat.

- **limit**: the largest workload that the sizing admits. It must run.
- **beyond**: the smallest that it says is too large by more than its stated margin. It must be refused, and forced past that it must run
  out of memory.

*predicted* is the bill without its reserve, *measured* the peak that the driver books on the engine's processes (else what the card has in
use beyond what it had before); a run that died has no error, its peak is not what it needed.
error = (predicted - measured) / measured.

Made by `make gpu` (under 8 minutes once the engines are installed; it installs those that are missing).

"""
COLUMNS = ("card", "engine", "model", "workload", "side", "sizing says", "predicted GiB", "measured GiB", "error", "happened",
           "as predicted")  # fmt: skip
EMPTY = "**Not measured yet.** No GPU was at hand when this was written; the table stands empty. Run `make gpu` on a machine with one.\n"
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Result:
    """One line. `case` is None where the row has none (`why`); `outcome` None where it was not run (`why`)."""

    row: Row
    case: Case | None = None
    outcome: Outcome | None = None
    why: str = ""

    @property
    def as_predicted(self) -> bool | None:
        """None: not run, nothing is shown.

        1. limit: admitted, and it ran. 2. beyond: refused, and forced it ran out of memory.
        """
        if self.case is None or self.outcome is None:
            return None
        admitted = self.case.judged.verdict is not Verdict.DOES_NOT_FIT
        if self.case.side == "limit":  # 1
            return admitted and self.outcome.happened == RAN
        return not admitted and self.outcome.happened == OUT_OF_MEMORY  # 2

    @property
    def error(self) -> float | None:
        """Worked number: 7.6 GiB predicted, 8.0 measured: -5 %."""
        if self.case is None or self.outcome is None or self.outcome.happened != RAN or not self.outcome.measured_bytes:
            return None
        return (self.case.predicted_bytes - self.outcome.measured_bytes) / self.outcome.measured_bytes


def document(results: Sequence[Result], facts: Sequence[str]) -> str:
    """The whole file. `facts`: date, GPU, driver, versions, command; without results the table is empty and says so."""
    head = "".join(f"- {fact}\n" for fact in facts) + ("\n" if facts else "")
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS), *(f"| {' | '.join(_cells(result))} |" for result in results)]
    return HEADER + (head if results else EMPTY + "\n") + "\n".join(lines) + "\n"


def _cells(result: Result) -> list[str]:
    row, case, outcome = result.row, result.case, result.outcome
    named = [f"{row.card_gib} GiB", row.engine.value, f"{row.model_id} {row.variant_id}"]
    if case is None:
        return [*named, "-", "-", "-", "-", "-", "-", _plain(result.why), "not run"]
    measured = outcome.measured_bytes if outcome else None
    agreed = {True: "yes", False: "**NO**", None: "not run"}[result.as_predicted]
    return [
        *named, workload_words(case.judged.workload), case.side, case.judged.verdict.value, f"{case.predicted_bytes / GIB:.2f}",
        "-" if measured is None else f"{measured / GIB:.2f}", "-" if result.error is None else f"{100 * result.error:+.1f} %",
        _plain(outcome.happened if outcome else result.why), agreed,
    ]  # fmt: skip


def _plain(words: str) -> str:
    return " ".join(words.replace("|", "/").split())[:200]
