"""The worker process: `python -m services.worker --plan plan.yaml --placement ID ...` (see --help)."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from services.calibration.store import Store, default_path
from services.hardware.telemetry import meter
from services.sizing.catalogue import CatalogueError, UnknownModelError, load_catalogue
from services.sizing.planfile import PlanFileError, load_plan
from services.sizing.types import ModelSpec, Plan
from services.wire.worker import WorkerState
from services.worker.driver import Driver
from services.worker.enginelog import EngineLog
from services.worker.engines.order import Order
from services.worker.loadlock import LoadLock
from services.worker.status import StatusApp, listen, status_server

BAD_ARGUMENTS = 2
NEVER_STARTED = 3
PROJECT = Path(__file__).resolve().parents[2]
EXAMPLE = """example:
  python -m services.worker --plan plan.yaml --placement smollm2-0 --port 9100 --engine-port 9101 \\
      --token-file run/token --weights model.gguf --engine-python .venvs/llamacpp-cpu/bin/python

exit codes: 0 stopped by SIGTERM or SIGINT, 2 bad arguments or plan, 3 the engine was given up (--exit-on-failure)
"""


class UsageError(Exception):
    """The arguments or the files they name can't be used. The message says what to do."""


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m services.worker", description="Runs one placement of a plan: starts its engine, watches it, tells its state.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--plan", type=Path, required=True, help="plan.yaml")
    parser.add_argument("--placement", required=True, help="id of the placement in the plan")
    parser.add_argument("--host", default="127.0.0.1", help="where the status port and the engine listen")
    parser.add_argument("--port", type=port, required=True, help="status port")
    parser.add_argument("--engine-port", type=port, required=True)
    parser.add_argument("--token-file", type=Path, required=True, help="the placement's token; a private file (0600)")
    parser.add_argument("--weights", type=Path, required=True, help="a folder (safetensors, diffusers) or one .gguf file")
    program = parser.add_mutually_exclusive_group(required=True)
    program.add_argument("--engine-python", type=Path, help="interpreter of the engine's environment")
    program.add_argument("--engine-binary", type=Path, help="a llama-server program")
    parser.add_argument("--log-file", type=Path, help="the engine's output; - for our stdout (default: engine.log in the state folder)")
    parser.add_argument("--state-dir", type=Path, help="private files of this run (default: run/workers/PLACEMENT)")
    parser.add_argument("--load-lock", type=Path, help="hold this file's lock while the engine loads, so that no two models load at once")
    parser.add_argument("--drain-s", type=seconds, default=0.0, help="how long running requests may take to end after SIGTERM (default: 0)")
    parser.add_argument("--calibration", type=Path, help="keep what is measured in this SQLite file (default: $RIGSERVE_CALIBRATION, else "
                        "rigserve/calibration.db in $XDG_STATE_HOME)")
    parser.add_argument("--exit-on-failure", action="store_true", help="end with code 3 when the engine is given up")
    return parser.parse_args(argv)


def port(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 65535:
        raise ValueError(number)
    return number


def seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 86400:
        raise ValueError(number)
    return number


def build_order(args: argparse.Namespace) -> tuple[Plan, Order]:
    """The plan and this worker's part of it. Raises UsageError or PlanFileError."""
    plan = load_plan(args.plan)
    placement = next((p for p in plan.placements if p.id == args.placement), None)
    if placement is None:
        raise UsageError(f"{args.plan} has no placement {args.placement}; it has {', '.join(p.id for p in plan.placements) or 'none'}.")
    card = next((c for c in plan.cards if c.id == placement.card_id), None)
    if card is None:
        raise UsageError(f"{args.plan}: placement {placement.id} is on card {placement.card_id}, which the plan does not list.")
    for path, name in ((args.weights, "--weights"), (args.engine_python, "--engine-python"), (args.engine_binary, "--engine-binary")):
        if path is not None and not path.exists():
            raise UsageError(f"{name} {path}: there is no such file or folder.")
    state_dir = (args.state_dir or Path("run/workers") / placement.id).absolute()
    _make(state_dir)
    return plan, Order(
        placement=placement, card=card, host=plan.host, model=_model(placement.model_id), weights=args.weights.absolute(),
        engine_host=args.host, engine_port=args.engine_port, token=_token(args.token_file), token_file=args.token_file.absolute(),
        state_dir=state_dir, project=PROJECT,
        # absolute, but not resolved: a virtual environment is known by the path of its python, which is a link
        engine_python=args.engine_python.absolute() if args.engine_python else None,
        engine_binary=args.engine_binary.absolute() if args.engine_binary else None,
    )


def _make(state_dir: Path) -> None:
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        reason = None if os.access(state_dir, os.W_OK | os.X_OK) else "this user may not write there"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise UsageError(f"--state-dir {state_dir} can't be used ({reason}); name a folder that this user may write to.")


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf8").strip()
    except OSError as error:
        raise UsageError(f"--token-file {path} can't be read: {error.strerror}.") from error
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(f"--token-file {path} must hold one token: printable ASCII without blanks.")
    return token


def _model(model_id: str) -> ModelSpec | None:
    try:
        return load_catalogue().get(model_id)
    except UnknownModelError:
        return None


async def serve(args: argparse.Namespace, plan: Plan, order: Order) -> int:
    """Until a signal (0) or, with --exit-on-failure, until the engine is given up (3)."""
    try:
        sock = listen(args.host, args.port)
    except OSError as error:
        raise UsageError(f"the status port {args.port} of {args.host} can't be used: {error.strerror}.") from error
    log = EngineLog(args.log_file or order.state_dir / "engine.log", order.token)
    load_lock = _load_lock(args.load_lock)
    driver = Driver(plan, order, log, say=lambda text: print(f"worker {text}", file=sys.stderr, flush=True), load_lock=load_lock,
                    calibration=Store(args.calibration or default_path()), meter=meter(order.card))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, driver.drain, args.drain_s)
    loop.add_signal_handler(signal.SIGINT, driver.stop)  # Ctrl-C: whoever pressed it waits
    server = status_server(StatusApp(driver, order.token))
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        await driver.run(until_failed=args.exit_on_failure)
    finally:
        server.should_exit = True
        await serving
        log.close()
        if load_lock is not None:
            load_lock.close()
    return NEVER_STARTED if driver.life.state is WorkerState.FAILED else 0


def _load_lock(path: Path | None) -> LoadLock | None:
    try:
        return LoadLock(path) if path else None
    except OSError as error:
        raise UsageError(f"--load-lock {path} can't be opened ({error.strerror}); name one that all workers share.") from error


def main(argv: list[str] | None = None) -> int:
    args = arguments(sys.argv[1:] if argv is None else argv)
    try:
        plan, order = build_order(args)
        return asyncio.run(serve(args, plan, order))
    except (UsageError, PlanFileError, CatalogueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_ARGUMENTS


if __name__ == "__main__":
    sys.exit(main())
