"""`make gpu`: every case on this machine's GPU, then docs/gpu-validation.md. `--empty` writes the table without any figure."""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from services.hardware.detect import detect
from services.provision import environments
from services.provision.progress import silent
from services.sizing.catalogue import load_catalogue
from services.sizing.types import Card, Host
from services.worker.version import installed_version
from tests.gpu.cap import Cap, CapError
from tests.gpu.cases import ROWS, Case, cases_of
from tests.gpu.runner import Bench, Outcome, run_case
from tests.gpu.table import Result, document

DOC = Path(__file__).parents[2] / "docs" / "gpu-validation.md"
BUDGET_S = 450.0  # of all runs together: 8 minutes less what making weights takes
PACKAGES = {"vllm": ("vllm",), "llamacpp": ("xllamacpp",), "diffusion": ("diffusers", "torch")}


def planned(card: Card, host: Host) -> Iterator[Result]:
    """Every row as its two cases, or as the reason why it has none."""
    catalogue = load_catalogue()
    for row in ROWS:
        try:
            yield from (Result(row, case) for case in cases_of(row, card, host, catalogue))
        except ValueError as error:
            yield Result(row, why=str(error))


def run_all(wanted: list[Result], run: Callable[[Case], Outcome], left_s: Callable[[], float]) -> list[Result]:
    """Run what there is time for. What was not run says so: it shows nothing, and is no success."""
    done = []
    for result in wanted:
        if result.case is None:
            done.append(result)
        elif left_s() <= 0:
            done.append(Result(result.row, result.case, why=f"no time was left of {BUDGET_S:.0f} s"))
        else:
            done.append(_one(result, result.case, run))
        sys.stdout.write(f"{_line(done[-1])}\n")
        sys.stdout.flush()
    return done


def _one(result: Result, case: Case, run: Callable[[Case], Outcome]) -> Result:
    try:
        return Result(result.row, case, run(case))
    except CapError as error:
        return Result(result.row, case, why=str(error))


def _line(result: Result) -> str:
    said = {True: "as predicted", False: "NOT AS PREDICTED", None: "not run"}[result.as_predicted]
    what = result.case.name if result.case else f"{result.row.card_gib} GiB, {result.row.model_id} {result.row.variant_id}"
    return f"{said}: {what}: {result.outcome.happened if result.outcome else result.why}"


def on_gpu(card: Card, host: Host, folder: Path) -> list[Result]:
    """Installs the engines that are needed, then runs every case under its cap."""
    wanted = list(planned(card, host))
    names = sorted({result.case.judged.choice.environment for result in wanted if result.case})
    for name in names:
        sys.stdout.write(f"environment {name} ...\n")
        sys.stdout.flush()
    bench = Bench(card, host, folder, {name: environments.ensure(name, silent) for name in names})
    until_s = time.monotonic() + BUDGET_S

    def run(case: Case) -> Outcome:
        with Cap(card.id, case.have_bytes) as cap:
            return run_case(case, bench, cap.free_bytes, until_s)

    return run_all(wanted, run, lambda: until_s - time.monotonic())


def facts_of(card: Card, results: list[Result]) -> list[str]:
    """What the figures hang on. Versions are those of the environments that were used."""
    used = sorted({result.case.judged.choice.environment for result in results if result.case})
    versions = []
    for name in used:
        python = environments.python_of(name)
        found = installed_version(python, PACKAGES[name.split("-")[0]]) if python else None
        versions.append(f"{name} {found or 'unknown'}")
    return [
        f"date: {datetime.datetime.now(datetime.UTC).date()}",
        f"GPU: {card.name}, {card.total_bytes / 2**30:.1f} GiB, compute capability {card.compute_capability}, driver {card.driver_version}",
        f"versions: {', '.join(versions)}", "command: `make gpu`",
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--empty", action="store_true", help="write the table without figures")
    if parser.parse_args().empty:
        DOC.write_text(document([], []), encoding="utf8")
        return 0
    found = detect()
    card = next((card for card in found.cards if card.vendor == "nvidia" and card.id.startswith("GPU-")), None)
    if card is None:
        sys.stderr.write("no NVIDIA card answers here, so nothing can be measured; docs/gpu-validation.md stays as it is\n")
        return 1
    with tempfile.TemporaryDirectory(prefix="rigserve-gpu-") as folder:
        results = on_gpu(card, found.host, Path(folder))
    DOC.write_text(document(results, facts_of(card, results)), encoding="utf8")
    wrong = [result for result in results if result.as_predicted is False]
    sys.stdout.write(f"{len(results)} runs, {len(wrong)} not as predicted; {DOC.relative_to(Path.cwd())}\n")
    return 1 if wrong or not any(result.as_predicted for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
