"""An engine that dies over a request: the second attempt is another backend's, at once."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.process import FakeEngineProcess
from tests.gateway.rig import CHAT, chat, start_gateway
from tests.reliability.stack import way_flags

pytestmark = pytest.mark.reliability
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
          "usage": {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}}  # fmt: skip
WORKS_S = 0.8  # longer than a connection that was stale takes to show it


class DyingEngine:
    """Answers one request; dies over the second one; after that its port is open, as of one that loads, and it answers no request."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            while request := client.recv(65536):
                body: object = {"object": "list", "data": []}
                if request.startswith(b"POST"):
                    self.asked += 1
                    if self.asked == 2:
                        time.sleep(WORKS_S)
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        return
                    if self.asked > 2:
                        time.sleep(60)
                    body = ANSWER
                data = json.dumps(body).encode()
                client.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data))

    def stop(self) -> None:
        self._listener.close()


def test_a_kept_connection_is_no_reason_to_ask_a_dead_engine_again(
    tmp_path: Path, way: str, fake_engine: Callable[..., FakeEngineProcess]
) -> None:
    """Without the look at how long the request was under way, it went to the same engine on a new connection and waited there for the
    deadline of the first byte or the answer, 30 s and more."""
    dying, twin = DyingEngine(), fake_engine("m", itl_s=0.25)
    gateway = start_gateway(tmp_path, f"--backend=m={dying.url}", f"--backend=m={twin.url}", *way_flags(way))
    try:
        gateway.wait_ready()
        for backend in ("backend-0", "backend-1"):  # each is measured, the first one as the faster
            assert gateway.post(CHAT, chat("m", max_tokens=4)).headers["x-rigserve-backend"] == backend
        begin_s = time.monotonic()
        answer = gateway.post(CHAT, chat("m", max_tokens=4))
        took_s = time.monotonic() - begin_s
        assert (answer.status_code, answer.headers["x-rigserve-attempts"], answer.headers["x-rigserve-backend"]) == (200, "2", "backend-1")
        assert dying.asked == 2
        assert WORKS_S < took_s < 8
    finally:
        gateway.stop()
        dying.stop()
