"""Images under the names of the GPU builds whose worker only pretends (stand_in_worker.py), and a render node that is none."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.compose.engine import ROOT, Engine

DOCKERFILE = """
FROM {gateway}
COPY tests /opt/stand-in/tests
ENV PYTHONPATH=/opt/stand-in:/opt/rigserve
LABEL rigserve.stand-in=true
ENTRYPOINT ["/opt/rigserve/.venv/bin/python", "-m", "tests.compose.stand_in_worker"]
"""
CONTENT = ("tests/__init__.py", "tests/compose/__init__.py", "tests/compose/stand_in_worker.py", "tests/fakes/__init__.py",
           "tests/fakes/answers.py", "tests/fakes/engine.py", "tests/fakes/http.py")  # fmt: skip


@contextmanager
def stand_ins(engine: Engine, gateway: str, names: Iterable[str], folder: Path) -> Iterator[None]:
    """`names` are stand-ins within the block; what had those names before has them again afterwards."""
    for path in CONTENT:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, folder / path)
    (folder / "Dockerfile").write_text(DOCKERFILE.format(gateway=gateway), encoding="utf8")
    before = {name: engine.docker("image", "inspect", "-f", "{{.Id}}", name, check=False).stdout.strip() for name in names}
    made = "rigserve-test/stand-in:worker"
    engine.docker("build", "-q", "-t", made, str(folder))
    try:
        for name in before:
            engine.docker("tag", made, name)
        yield
    finally:
        for name, ident in before.items():
            engine.docker(*(("tag", ident, name) if ident else ("rmi", name)), check=False)
        engine.docker("rmi", made, check=False)


@contextmanager
def render_node(path: Path, group: int) -> Iterator[None]:
    """A device node in the place of an AMD card's: the kernel's null device. A real one stays what it is."""
    if path.exists():
        yield
        return
    folder_made = not path.parent.exists()
    path.parent.mkdir(exist_ok=True)
    os.mknod(path, 0o660 | stat.S_IFCHR, os.makedev(1, 3))
    os.chown(path, 0, group)
    path.chmod(0o660)  # whatever the umask took away
    try:
        yield
    finally:
        path.unlink()
        if folder_made:
            path.parent.rmdir()
