"""The program of the stand-in images: a worker and its engine that only pretend, for files that reserve GPUs on a machine without one.

It runs in a container made from the gateway's image (which knows plans, and whose `rigserve health worker` is the real one), with the words
that the compose file gives a worker, and answers on both of its ports like tests/fakes/engine.py. `fetch` ends at once.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from services.sizing.planfile import load_plan
from tests.fakes.engine import FakeEngine, Fault, Settings
from tests.fakes.http import Reply, Request, Server


class StandIn(FakeEngine):
    async def handle(self, request: Request, reply: Reply) -> None:
        if request.path == "/readyz":
            return await reply.send(200, {"state": "ready"})
        await super().handle(request, reply)


async def serve(settings: Settings, token: str, host: str, ports: tuple[int, ...]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    engine = StandIn(settings, token, Fault(), 0.0)
    web = Server(engine.handle, engine.on_abort)
    listening = [await web.listen(host, port) for port in ports]
    await stop.wait()
    for one in listening:
        one.close()
    for writer in list(web.open):
        writer.transport.abort()


def main() -> None:
    if sys.argv[1] == "fetch":
        return
    assert sys.argv[1] == "worker", sys.argv
    parser = argparse.ArgumentParser()
    for name in ("--plan", "--token-file"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--placement", "--host", "--load-lock", "--drain-s"):
        parser.add_argument(name, required=True)
    for name in ("--port", "--engine-port"):
        parser.add_argument(name, type=int, required=True)
    args = parser.parse_args(sys.argv[2:])
    (placement,) = [one for one in load_plan(args.plan).placements if one.id == args.placement]
    settings = Settings(placement.model_id, placement.choice.engine.value, placement=placement.id, card=placement.card_id)
    asyncio.run(serve(settings, args.token_file.read_text().strip(), args.host, (args.port, args.engine_port)))


if __name__ == "__main__":
    main()
