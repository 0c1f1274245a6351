"""Processes of one run on this machine, a core each."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence


def start(command: Sequence[str], processes: int) -> list[subprocess.Popen[bytes]]:
    """`python COMMAND` in so many processes, which find each other; what they print goes to standard error."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = []
    for rank in map(str, range(processes)):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if processes > 1:
            environment |= {"RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        started.append(subprocess.Popen([sys.executable, *command], env=environment, stdout=sys.stderr))  # noqa: S603
    return started
