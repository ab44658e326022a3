"""The commands of the docs that no test runs as they stand: how each begins, and why. tests/docs/test_commands.py runs all others.

An entry that no command of any page begins with fails a test. `rigserve` commands among these are still parsed by the real command line; of
`make` the targets and variables are looked up.
"""

from __future__ import annotations

DOCKER = "needs a docker engine"
SERVES = "runs until it is stopped"

NOT_RUN: dict[str, str] = {
    "make ": "installs, serves or tests for minutes: `make test` itself runs what most of these run",
    "sudo ": "changes this machine as root",
    "rigserve power --unit": "needs an NVIDIA card with a changed cap; tests/cli/test_power.py has a simulated one",
    "rigserve probe": "needs an NVIDIA card; tests/cli/test_probe.py has a stand-in",
    "rigserve fetch": "fetches gigabytes; tests/provision does it against a hub and an index on this machine",
    "rigserve serve": f"{SERVES}; tests/e2e does it, with real engines",
    "rigserve gateway": f"{SERVES}; tests/gateway/test_main.py does it",
    "rigserve up": f"{DOCKER}; tests/cli/test_compose_up.py has a stand-in, tests/compose a real one",
    "docker ": f"{DOCKER}; tests/compose has one",
    ".venvs/loadtest/bin/python -m loadtest ": "minutes of load; tests/loadtest runs the kit for seconds",
    "llm ": "another project's program; tests/clients runs this block whole",
    'cat > "$(dirname "$(llm logs path)")': "another project's program; tests/clients runs this block whole",
}

# Exit codes that are an answer, on a machine like this one, beside 0.
ANSWERS: dict[str, tuple[int, str]] = {
    "rigserve doctor": (1, "this machine has errors: no docker engine answers, say"),
    "rigserve power": (1, "this machine has no NVIDIA card"),
}
