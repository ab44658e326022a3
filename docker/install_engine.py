"""Build step of the worker images: make one engine environment, for a machine that is not this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from services.provision.environments import ENVIRONMENTS, Home, ProvisionError, ensure
from services.provision.progress import Progress


def main(name: str, requirements: str) -> int:
    stages: list[str] = []

    def say(progress: Progress) -> None:
        if stages[-1:] != [progress.stage]:
            stages.append(progress.stage)
            print(f"{name}: {progress.stage}: {progress.text}", flush=True)

    try:
        python = ensure(name, say, home=Home(requirements=Path(requirements).absolute()), elsewhere=True)
    except ProvisionError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    _finish(name, python)
    return 0


def _finish(name: str, python: Path) -> None:
    """What an image with a read-only root can't do later (bytecode), and what it has no use for (pip, lock, log)."""
    if ENVIRONMENTS[name].probe_elsewhere:  # where the engine was imported, the bytecode of what it needs is there already
        subprocess.run([python, "-m", "compileall", "-q", "-j", "0", python.parents[1]], check=False)  # a package may carry templates
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "pip"], check=True)
    for suffix in ("lock", "log"):
        (python.parents[2] / f"{name}.{suffix}").unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
