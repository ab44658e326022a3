"""python -m services.gateway: the gateway as a process.

Exit codes: 0 after SIGTERM or SIGINT, 2 when arguments, plan, endpoints or port can't be used.
"""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import sys
from pathlib import Path

from services.gateway.app import make_app
from services.gateway.backends import EndpointsError
from services.gateway.breaker import BreakerLimits
from services.gateway.core import Gateway, Inputs
from services.gateway.door import Mode
from services.gateway.hot_protocol import hot_protocol
from services.gateway.knees import read_knees
from services.gateway.log_stream import LateStream
from services.gateway.logs import LogHandler, RequestLog, log, log_event
from services.gateway.server import listen, make_server, plain_protocol
from services.gateway.settings import Deadlines, Limits, Settings
from services.sizing.catalogue import Catalogue, CatalogueError, load_catalogue
from services.sizing.economics import Tariff, TariffError
from services.sizing.planfile import PlanFileError, load_plan

# The names of containers that are down are asked for every second, and each look-up occupies a thread until it is answered: many threads
# (libuv has 4), short look-ups (glibc waits 5 s, twice), so that those that are up are found at once. Read when first used.
RESOLVING = {"UV_THREADPOOL_SIZE": "32", "RES_OPTIONS": "timeout:1 attempts:1"}


def main() -> None:
    for name, value in RESOLVING.items():
        os.environ.setdefault(name, value)
    settings = parse_arguments(sys.argv[1:])
    requests = RequestLog()
    logging.basicConfig(level=logging.INFO, handlers=[LogHandler(late := LateStream(sys.stderr), requests)])
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    try:
        gateway = Gateway(read_inputs(settings))
        gateway.request_log = requests
        gateway.throughput.knees = read_knees(settings.load_results)
        late.dropped = gateway.metrics.log_dropped.inc
    except (EndpointsError, PlanFileError, CatalogueError, ValueError) as error:
        print(f"rigserve gateway: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    try:
        bound = listen(settings.host, settings.port)
    except OSError as error:
        sentence = f"can't listen on {settings.host} port {settings.port} ({error.strerror or error}); choose another with --port"
        print(f"rigserve gateway: {sentence}", file=sys.stderr)
        raise SystemExit(2) from None
    _say_who_may_ask(gateway)
    protocol = plain_protocol(gateway) if settings.plain_path else hot_protocol(gateway)
    try:
        make_server(make_app(gateway), gateway, protocol, lambda: read_inputs(settings)).run(sockets=[bound])
    finally:
        gateway.recorder.settle()
        requests.flush()
        late.finish()


def _say_who_may_ask(gateway: Gateway) -> None:
    mode, settings = gateway.ledger.door.mode, gateway.settings
    host = settings.published_on or settings.host
    said = {
        Mode.UNKEYED: "there are no keys: whoever reaches this address may ask" + (" (this machine only)" if settings.loopback else ""),
        Mode.KEYED: "a key is asked for",
        Mode.NO_KEYS: "there are no keys, and others can reach this address, so nobody is served: make one with `rigserve keys create`"
                      + ("" if settings.database else " and name its --database") + ", or say --open",
        Mode.CLOSED: "the keys can't be read: nobody is served until they can",
    }
    level = logging.INFO if mode is Mode.KEYED or (mode is Mode.UNKEYED and settings.loopback) else logging.WARNING
    log_event("open" if mode is Mode.UNKEYED else mode.value, {"host": host, "said": said[mode]}, level)


def read_inputs(settings: Settings) -> Inputs:
    """Plan and catalogue. A catalogue that can't be read stops only a gateway that was told to use it: without one, refusals say less."""
    catalogue: Catalogue | None = None
    try:
        catalogue = load_catalogue(settings.models_dir)
    except CatalogueError as error:
        if settings.models_dir is not None:
            raise
        log.warning("no model catalogue: %s", error)
    return Inputs(settings, load_plan(settings.plan) if settings.plan else None, catalogue)


def parse_arguments(argv: list[str]) -> Settings:
    deadlines, limits = Deadlines(), Limits()
    parser = argparse.ArgumentParser(prog="rigserve gateway", description="The OpenAI-compatible gateway of a rig.")
    parser.add_argument("--plan", type=Path, help="plan.yaml (with --endpoints)")
    parser.add_argument("--endpoints", type=Path, help="endpoints.json: where each placement of the plan listens")
    parser.add_argument("--backend", action="append", default=[], metavar="MODEL=URL", help="an OpenAI-compatible server; may be repeated")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--models-dir", type=Path, help="the model catalogue (default: the project's models/)")
    parser.add_argument("--drain-grace-s", type=_seconds, default=10.0, help="how long running requests may take after SIGTERM")
    parser.add_argument("--database", default=os.environ.get("DATABASE_URL"), metavar="URL",
                        help="keys and usage: a file, sqlite:///... or postgresql://... (default: DATABASE_URL, else none)")
    parser.add_argument("--open", action="store_true", help="while there are no keys, serve whoever reaches --host")
    parser.add_argument("--published-on", metavar="ADDRESS", help="in a container: the host's address that its port is published on")
    parser.add_argument("--open-status", action="store_true", help="answer /metrics, /v1/cards and /v1/throughput without a key")
    parser.add_argument("--trusted-proxies", type=_addresses, default=(), metavar="ADDRESS,...",
                        help="proxies before this gateway (addresses or networks) whose X-Forwarded-* headers are believed (default: none)")
    parser.add_argument("--keep-alive-s", type=_seconds, help="unload a model on demand after so long without a request (default: when its "
                        "room is needed)")
    parser.add_argument("--tariff", default=os.environ.get("RIGSERVE_TARIFF") or None, metavar="PRICE",
                        help="price of a kilowatt-hour, for the costs in /v1/throughput (default: RIGSERVE_TARIFF, else no costs)")
    parser.add_argument("--currency", default=os.environ.get("RIGSERVE_CURRENCY") or "EUR", help="of the tariff (default: "
                        "RIGSERVE_CURRENCY, else EUR)")
    parser.add_argument("--load-result", action="append", type=Path, default=[], metavar="FILE", help="result.json of a sweep of the "
                        "load kit: its knee is told in /v1/throughput; may be repeated")
    parser.add_argument("--plain-path", action="store_true", help=argparse.SUPPRESS)  # every request by way of the application: for tests
    parser.add_argument("--poll-s", type=_seconds, default=1.0, help="how often workers are asked how they are")
    for name in Deadlines.__slots__:
        flag = "--deadline-" + name.replace("_", "-")
        parser.add_argument(flag, type=_seconds, default=getattr(deadlines, name), help=f"default {getattr(deadlines, name):g}")
    for name in Limits.__slots__:
        flag = "--limit-" + name.replace("_", "-")
        default = getattr(limits, name)
        said = "learned" if default is None else f"{default:g}"
        parser.add_argument(flag, type=int if default is None else type(default), default=default, help=f"default: {said}")
    for name in BreakerLimits.__slots__:
        flag, default = "--breaker-" + name.replace("_", "-"), getattr(BreakerLimits(), name)
        parser.add_argument(flag, type=_seconds if name.endswith("_s") else type(default), default=default, help=f"default {default:g}")
    given = parser.parse_args(argv)
    if (given.plan is None) != (given.endpoints is None):
        parser.error("--plan and --endpoints belong together")
    if given.plan is None and not given.backend:
        parser.error("name at least one --backend MODEL=URL, or a --plan with --endpoints")
    return Settings(
        given.host, given.port, given.plan, given.endpoints, tuple(_backend(parser, text) for text in given.backend), given.models_dir,
        given.drain_grace_s, given.poll_s,
        Deadlines(**{name: getattr(given, f"deadline_{name}") for name in Deadlines.__slots__}),
        Limits(**{name: getattr(given, f"limit_{name}") for name in Limits.__slots__}), given.plain_path,
        BreakerLimits(**{name: getattr(given, f"breaker_{name}") for name in BreakerLimits.__slots__}),
        given.database or None, given.open, given.published_on or None, given.open_status, given.trusted_proxies,
        _tariff(parser, given.tariff, given.currency), tuple(given.load_result), given.keep_alive_s,
    )


def _tariff(parser: argparse.ArgumentParser, price: str | None, currency: str) -> Tariff | None:
    try:
        return None if price is None else Tariff(float(price), currency)
    except TariffError as error:
        parser.error(str(error))
    except ValueError:
        parser.error(f"{price!r} is no price of a kilowatt-hour; write for example --tariff 0.25")


def _backend(parser: argparse.ArgumentParser, text: str) -> tuple[str, str]:
    model, equals, url = text.partition("=")
    if not model or not equals or not url:
        shown = "--backend" if "@" in text else f"--backend {text!r}"  # never a password
        parser.error(f"{shown}: write MODEL=URL, for example qwen=http://127.0.0.1:9001")
    return model, url


def _addresses(text: str) -> tuple[str, ...]:
    """As uvicorn compares them. Every address at once (*, 0.0.0.0/0) is refused: whoever sends the header could call itself anything."""
    try:
        networks = [ipaddress.ip_network(part.strip()) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:200]!r}: write addresses or networks, like 127.0.0.1,10.0.0.0/24") from None
    if any(network.prefixlen == 0 for network in networks):
        raise argparse.ArgumentTypeError("this trusts every address; name the proxy's own, like 127.0.0.1")
    return tuple(str(network.network_address if network.num_addresses == 1 else network) for network in networks)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds")
    return value


if __name__ == "__main__":
    main()
