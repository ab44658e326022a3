"""The commands of the docs that no test runs as they stand: how each begins, and why. tests/docs/test_commands.py runs all others.

An entry that no command of any page begins with fails a test; `rigserve` commands among these are still parsed by the real command line.
"""

from __future__ import annotations

LOADS = "installs packages or fetches gigabytes; tests/provision does it against a hub and an index on this machine"
SERVES = "runs until it is stopped"
DOCKER = "needs a docker engine"
ROOT = "changes this machine as root"

NOT_RUN: dict[str, str] = {
    "sudo ": ROOT,
    "rigserve power --unit": "needs an NVIDIA card with a changed cap; tests/cli/test_power.py has a simulated one",
    "rigserve fetch": LOADS,
    "rigserve serve": f"{SERVES}; tests/e2e does, with real engines",
    "rigserve gateway": f"{SERVES}; tests/gateway/test_main.py does",
    "rigserve models pin": "needs a model that is loaded on demand; tests/cli/test_model_orders.py has one",
    "rigserve up": f"{DOCKER}; tests/cli/test_compose_up.py has a stand-in, tests/compose a real one",
    "docker ": f"{DOCKER}; tests/compose has one",
}
