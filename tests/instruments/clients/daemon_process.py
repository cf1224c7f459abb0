# SPDX-License-Identifier: GPL-2.0-only
"""The real daemon, as a subprocess on a real image, with the service manager's place taken by the test."""

import atexit
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

from instruments.time.patience import tries

BIN = Path(sys.executable).parent
START_S = 60.0
CONFIG = """\
[set]
devices = ["{folder}/cache.img"]
state_directory = "{folder}/state"
runtime_directory = "{folder}/run"
[limits]
restart_grace_s = 0
[socket]
path = "{folder}/io.bcached"
group = ""
[metrics]
listen = "127.0.0.1:0"
[access]
allocator = []
[log]
format = "json"
"""


@cache
def made_image() -> Path:
    """A fresh set of 1,024 buckets of 64k, made once for all tests of a process."""
    folder = tempfile.mkdtemp(prefix="bcached-")
    atexit.register(shutil.rmtree, folder)
    image = Path(folder) / "cache.img"
    command = [str(BIN / "bcachectl"), "make", "-b", "64k", "--size", "64M", str(image)]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return image


class DaemonProcess:
    """A folder with image and configuration, and the daemon on it; enter to start, leave to have it gone.

    `told` is what it told the service manager, `logs` what it wrote to stderr (once it has ended).
    """

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        passed: Mapping[str, socket.socket] | None = None,
        stderr: int | None = None,  # a descriptor, in place of the log
        launcher: tuple[str, ...] = (),
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bcached-"))  # a short path: sockets' paths are bounded
        self.config = self.folder / "bcached.toml"
        self.config.write_text(CONFIG.format(folder=self.folder))
        self.config.chmod(0o600)
        self.socket_path = self.folder / "io.bcached"
        self.told: list[dict[str, str]] = []
        self._environment = dict(environment or {})
        self._arguments = arguments
        self._launcher = launcher  # what to put before the command
        self._passed = dict(passed or {})
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(str(self.folder / "notify"))
        self._stderr = stderr
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if not (self.folder / "cache.img").exists():
            subprocess.run(["cp", "--sparse=always", made_image(), self.folder / "cache.img"], check=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._manager.close()
        shutil.rmtree(self.folder)

    def start(self) -> None:
        """Begin a life of the daemon; it need not become ready."""
        self.told = []
        environment = {**os.environ, **self._environment, "NOTIFY_SOCKET": str(self.folder / "notify")}
        command = [*self._launcher, str(BIN / "bcached"), "--config", str(self.config), *self._arguments]
        # Free numbers beyond those the daemon is to have: dup2 would close what the tests have open there.
        descriptors = [fcntl.fcntl(passed.fileno(), fcntl.F_DUPFD, 60) for passed in self._passed.values()]
        if descriptors:
            moves = " ".join(f"{3 + n}<&{descriptor}" for n, descriptor in enumerate(descriptors))
            command = ["bash", "-c", f'export LISTEN_PID=$$; exec "$0" "$@" {moves}', *command]
            environment |= {"LISTEN_FDS": str(len(descriptors)), "LISTEN_FDNAMES": ":".join(self._passed)}
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command, env=environment, stderr=self._stderr or log, pass_fds=descriptors
            )
        for descriptor in descriptors:
            os.close(descriptor)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more can be told."""
        return self.process is not None and self.process.poll() is not None

    def wait_until_told(
        self, name: str, value: str | None = None, within_s: float = START_S
    ) -> dict[str, str]:
        """The next message to the service manager that assigns the name (that value)."""
        for _ in tries(within_s, pause_s=0.01):
            has_ended = self.has_ended
            while select.select([self._manager], [], [], 0)[0]:
                message = dict(line.split("=", 1) for line in self._manager.recv(65536).decode().split("\n"))
                self.told.append(message)
                if message.get(name) in ([value] if value else [*message.values()]) and name in message:
                    return message
            if has_ended:
                break
        raise AssertionError(f"never told {name}: {self.told}; logged:\n{self.log_text()}")

    def wait_until_ready(self) -> Self:
        """Until it says that it serves."""
        self.wait_until_told("READY", "1")
        return self

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: signal.Signals | None = signal.SIGTERM, within_s: float = 30.0) -> int:
        """Returns its exit status, after the signal. Raises subprocess.TimeoutExpired if it does not end."""
        assert self.process is not None
        if number is not None:
            self.process.send_signal(number)
        for _ in tries(within_s):
            if self.process.poll() is not None:
                break
        return self.process.wait(0)

    def log_text(self) -> str:
        """All that it wrote to stderr."""
        return (self.folder / "log").read_text()

    @property
    def logs(self) -> list[dict[str, Any]]:
        """Its log messages."""
        return [json.loads(line) for line in self.log_text().splitlines()]

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One call on a connection of its own: the reply, be it parameters or an error."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(self.socket_path))
            return ask(connection, method, **parameters)

    def scrape(self) -> str:
        """Its metrics."""
        (serving,) = (line for line in self.logs if line["message"] == "serving")
        with urllib.request.urlopen(serving["metrics"][0], timeout=20) as response:
            text: str = response.read().decode()
        return text


def ask(connection: socket.socket, method: str, **parameters: Any) -> dict[str, Any]:
    """One call on a connection: the reply, be it parameters or an error."""
    name = method if method.count(".") > 1 else f"io.bcached.{method}"
    connection.sendall(json.dumps({"method": name, "parameters": parameters}).encode() + b"\0")
    received = b""
    while not received.endswith(b"\0"):
        more = connection.recv(1 << 20)
        if not more:
            raise ConnectionResetError
        received += more
    reply: dict[str, Any] = json.loads(received[:-1])
    return reply
