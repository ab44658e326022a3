"""`rigserve health`: the health check of our containers. Standard library and click only: it runs every few seconds on a small CPU."""

from __future__ import annotations

import http.client
import json

import click

timeout_option = click.option("--timeout-s", default=3.0, show_default=True, type=click.FloatRange(min=0.1), help="How long to wait.")


@click.group(epilog="Example: rigserve health worker --port 9100")
def health() -> None:
    """Ask the worker or gateway of this machine how it is. Exit code 0 when well, 1 when not."""


@health.command(epilog="Example: rigserve health worker --port 9100")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where its status port listens.")
@click.option("--port", default=9100, show_default=True, type=click.IntRange(1, 65535), help="Its status port.")
@timeout_option
def worker(host: str, port: int, timeout_s: float) -> None:
    """Exit code 0 only when the worker's engine is ready."""
    say_or_fail("worker", *asked(host, port, "/readyz", timeout_s))


@health.command(epilog="Example: rigserve health gateway --port 8000")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Its port.")
@timeout_option
def gateway(host: str, port: int, timeout_s: float) -> None:
    """Exit code 0 when the gateway answers, whatever its models do: a gateway is not restarted because a worker loads."""
    say_or_fail("gateway", *asked(host, port, "/healthz", timeout_s))


def asked(host: str, port: int, path: str, timeout_s: float) -> tuple[bool, str]:
    """Whether `path` answers 200, and what was said. No proxy is asked, whatever the environment says."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status == 200, _state(answer.read(65536)) or f"status {answer.status}"
    except (OSError, http.client.HTTPException) as error:
        return False, f"no answer at {host}:{port} ({str(error) or type(error).__name__})"
    finally:
        connection.close()


def _state(body: bytes) -> str | None:
    try:
        said = json.loads(body)
        return str(said.get("state") or said["status"])
    except (ValueError, AttributeError, KeyError):
        return None


def say_or_fail(who: str, well: bool, said: str) -> None:
    if not well:
        raise click.ClickException(f"{who}: {said}")
    click.echo(f"{who}: {said}")
