# SPDX-License-Identifier: GPL-2.0-only
"""The real daemon on a real image, as `bcachectl make` and `bcached` make and run it."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_S = 120.0
FILL_BYTES = 1 << 22
CONFIG = """\
[set]
devices = ["{folder}/cache.img"]
state_directory = "{folder}/state"
runtime_directory = "{folder}/run"
[socket]
path = "{folder}/io.bcached"
group = ""
[metrics]
listen = ""
[log]
level = "warning"
"""


@dataclass(frozen=True)
class Daemon:
    """A daemon that is ready: its process, its socket, and how long it took from exec to being ready."""

    process: subprocess.Popen[bytes]
    path: str
    ready_s: float

    def memory(self, name: str) -> int:
        """A figure of /proc/PID/status in bytes: VmRSS now, VmHWM at its peak."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise KeyError(name)


def make_image(folder: Path, bucket: str, size_bytes: int) -> None:
    """A sparse image and a configuration for it; what was there goes."""
    for name in ("run", "state"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "cache.img").unlink(missing_ok=True)
    config = folder / "bcached.toml"
    config.write_text(CONFIG.format(folder=folder))
    config.chmod(0o600)
    subprocess.run(
        [tool("bcachectl"), "make", "-b", bucket, "--size", str(size_bytes), str(folder / "cache.img")],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def fill_holes(image: Path) -> None:
    """Write all of an image once, so that it is like a device: no write waits until it has found a place."""
    with image.open("r+b") as file:
        size_bytes = file.seek(0, os.SEEK_END)
        for start in range(0, size_bytes, FILL_BYTES):
            file.seek(start)
            data = file.read(min(FILL_BYTES, size_bytes - start))
            file.seek(start)
            file.write(data)
        os.fsync(file.fileno())


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


@contextmanager
def daemon(folder: Path) -> Iterator[Daemon]:
    """From when it says READY=1 until it has stopped."""
    log, notify = folder / "bcached.log", folder / "notify.sock"
    notify.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, log.open("wb") as output:
        listener.bind(str(notify))
        started = time.perf_counter()
        process = subprocess.Popen(
            [tool("bcached"), "--config", str(folder / "bcached.toml")],
            stdout=output,
            stderr=output,
            env=os.environ | {"NOTIFY_SOCKET": str(notify)},
        )
        try:
            _wait_until_ready(listener, process, log)
            yield Daemon(process, str(folder / "io.bcached"), time.perf_counter() - started)
            if process.poll() is not None:
                raise RuntimeError(f"the daemon ended by itself: {log.read_text()[-2000:]}")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def _wait_until_ready(listener: socket.socket, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up_at = time.monotonic() + START_S
    while time.monotonic() < give_up_at and process.poll() is None:
        if select.select([listener], [], [], 0.05)[0] and b"READY=1" in listener.recv(4096):
            return
    raise RuntimeError(f"the daemon did not become ready: {log.read_text(errors='replace')[-2000:]}")


def call(path: str, method: str, **parameters: object) -> dict[str, Any]:
    """One call of one method on a connection of its own."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(path)
        connection.sendall(json.dumps({"method": method, "parameters": parameters}).encode() + b"\0")
        received = b""
        while not received.endswith(b"\0"):
            received += connection.recv(1 << 16)
    reply = json.loads(received[:-1])
    if "error" in reply:
        raise RuntimeError(f"{method}: {reply}")
    return dict(reply.get("parameters", {}))
