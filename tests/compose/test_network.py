"""Who can reach whom in the generated stack. Each "can't" has its "can" beside it, so that a broken look is not taken for a closed door."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.compose.faults import OTHER, VICTIM
from tests.compose.running_stack import RunningStack
from tests.e2e.stack import get

pytestmark = pytest.mark.compose
PYTHON = "/opt/rigserve/.venv/bin/python"
PORTS = (9100, 9101)
# Prints for each HOST:PORT who answered GET there within two seconds: a worker or engine, by the JSON that both send for an unknown caller;
# the listener below; or nobody. An accepted connection alone says nothing: what stands between here and the world may accept them all.
LOOK = """
import socket, sys
for address in sys.argv[1:]:
    host, port = address.rsplit(":", 1)
    said = b""
    try:
        with socket.create_connection((host, int(port)), 2) as there:
            there.settimeout(2)
            there.sendall(b"GET /v1/models HTTP/1.0\\r\\n\\r\\n")
            while more := there.recv(4096):
                said += more
    except OSError:
        pass
    print("worker" if b" 401 " in said and b'"error"' in said else "outside" if said == b"outside" else "nobody")
"""


def looked(stack: RunningStack, service: str, *addresses: str) -> list[str]:
    return stack.inside(service, PYTHON, "-c", LOOK, *addresses).split()


def looked_from(stack: RunningStack, network: str, *addresses: str) -> list[str]:
    """From a container of its own on another network."""
    image = stack.config()["services"]["gateway"]["image"]
    return stack.engine.said("run", "--rm", "--network", network, "--entrypoint", PYTHON, image, "-c", LOOK, *addresses).split()


def worker_addresses(stack: RunningStack) -> list[str]:
    found = [stack.inspect(service)["NetworkSettings"]["Networks"][f"{stack.name}_workers"]["IPAddress"] for service in (VICTIM, OTHER)]
    assert all(found)
    return [f"{address}:{port}" for address in found for port in PORTS]


def host_address() -> str:
    """Of the card that this machine reaches others with; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


@contextmanager
def listening() -> Iterator[str]:
    """HOST:PORT of something that answers outside all containers."""
    with socket.create_server((host_address(), 0)) as server:
        threading.Thread(target=_accept, args=(server,), daemon=True).start()
        yield f"{host_address()}:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket) -> None:
    while True:
        try:
            with server.accept()[0] as caller:
                caller.recv(4096)
                caller.sendall(b"outside")
        except OSError:
            return


def test_only_the_gateway_reaches_a_worker(replicas: RunningStack) -> None:
    """By address, from the host, docker's default network, the stack's own edge and egress; the gateway shows that the ports are open."""
    addresses = worker_addresses(replicas)
    assert looked(replicas, "gateway", *addresses) == ["worker"] * 4
    on_host = subprocess.run([sys.executable, "-c", LOOK, *addresses], capture_output=True, text=True, check=True, timeout=30)
    assert on_host.stdout.split() == ["nobody"] * 4
    for network in ("bridge", f"{replicas.name}_edge", f"{replicas.name}_egress"):
        assert looked_from(replicas, network, *addresses) == ["nobody"] * 4, network


def test_nothing_but_the_gateway_is_published_and_that_on_loopback(replicas: RunningStack) -> None:
    assert get(f"{replicas.url}/healthz") == {"status": "ok"}
    for service in replicas.services():
        bound = [b for binds in (replicas.inspect(service)["NetworkSettings"]["Ports"] or {}).values() for b in binds or []]
        expected = [{"HostIp": "127.0.0.1", "HostPort": str(replicas.port)}] if service == "gateway" else []
        assert bound == expected, service
    with pytest.raises(ConnectionRefusedError), socket.create_connection((host_address(), replicas.port), 2):
        pass


def test_a_worker_has_no_way_out(replicas: RunningStack) -> None:
    with listening() as outside:
        assert looked_from(replicas, f"{replicas.name}_egress", outside) == ["outside"], "the fetch services' network leads out"
        assert looked(replicas, "gateway", outside) == ["outside"]
        for service in (VICTIM, OTHER):
            assert looked(replicas, service, outside) == ["nobody"]
    assert "00000000" not in replicas.inside(VICTIM, "awk", "NR > 1 {print $2}", "/proc/net/route").split(), "a default route"


def test_a_worker_without_its_token_says_nothing(replicas: RunningStack) -> None:
    """Also to the other worker, which is on the same network: /readyz is one word, the rest needs the placement's own token."""
    ask = """
import sys, urllib.request, urllib.error
for path in sys.argv[2:]:
    try:
        print(urllib.request.urlopen(f"http://{sys.argv[1]}{path}", timeout=5).status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""
    paths = {":9100/readyz": "200", ":9100/status": "401", ":9101/v1/models": "401", ":9101/metrics": "401"}
    assert replicas.inside(OTHER, PYTHON, "-c", ask, VICTIM, *paths).split() == list(paths.values())
