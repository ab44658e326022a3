"""What is done on the machine just before an engine starts: its private files, a look at its port."""

from __future__ import annotations

import os
import socket

from services.worker.engines.order import PrivateFile


def write_private(file: PrivateFile) -> None:
    file.path.unlink(missing_ok=True)
    with os.fdopen(os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf8") as out:
        out.write(file.text)


def port_taken(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free, as it is for the engines
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False
