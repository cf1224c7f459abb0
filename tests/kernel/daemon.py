# SPDX-License-Identifier: GPL-2.0-only
"""bcached as a process of its own, on an image: begun, asked, stopped, killed."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bcached.client.blocking import BlockingClient

READY_WITHIN_S = 60
STOPPED_WITHIN_S = 20
CONFIG = """\
[set]
devices = [{images}]
state_directory = "{folder}"
runtime_directory = "{folder}"
[limits]
restart_grace_s = 1
[socket]
path = "{folder}/socket"
group = ""
[metrics]
listen = ""
[log]
level = "warning"
format = "console"
"""


class DaemonFailed(Exception):
    """The daemon did not do as it was told; the message holds its log."""


@dataclass
class Daemon:
    """A daemon that serves an image."""

    process: subprocess.Popen[bytes]
    folder: Path

    def client(self) -> BlockingClient:
        """A connection."""
        return BlockingClient(str(self.folder / "socket"))

    def stop(self) -> None:
        """An orderly stop."""
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(STOPPED_WITHIN_S) != 0:
            raise DaemonFailed(f"it stopped with {self.process.returncode}: {self.log()}")

    def kill(self) -> None:
        """The end without warning."""
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        """The end of what it logged."""
        return (self.folder / "log").read_text(errors="replace")[-2000:].strip()


@contextmanager
def serving(image: Path, *others: Path) -> Iterator[Daemon]:
    """A daemon that is ready, on all members of a set; killed at the end of the block if it still runs."""
    folder = image.with_suffix(".run")
    folder.mkdir(mode=0o700, exist_ok=True)
    with notify_socket(folder / "notify") as notifications:
        daemon = Daemon(begin([image, *others], folder), folder)
        try:
            wait_until_ready(daemon, notifications)
            yield daemon
        except Exception as error:
            with suppress(subprocess.TimeoutExpired):  # one that is about to fall tells why when it has
                daemon.process.wait(3)
            error.add_note(f"the daemon's log: {daemon.log()}")
            raise
        finally:
            daemon.kill()


def begin(images: Sequence[Path], folder: Path) -> "subprocess.Popen[bytes]":
    """The process, told where to announce itself."""
    config = folder / "bcached.toml"
    config.write_text(CONFIG.format(images=", ".join(f'"{image}"' for image in images), folder=folder))
    config.chmod(0o600)
    with open(folder / "log", "wb") as log:
        return subprocess.Popen(
            [program("bcached"), "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify")},
        )


@contextmanager
def notify_socket(path: Path) -> Iterator[socket.socket]:
    """Where the daemon says READY=1, as it does to systemd."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(0.2)
        yield listener


def wait_until_ready(daemon: Daemon, notifications: socket.socket) -> None:
    """Until the daemon serves; DaemonFailed if it ends before."""
    for _ in range(READY_WITHIN_S * 5):
        try:
            if b"READY=1" in notifications.recv(4096):
                return
        except TimeoutError:
            if daemon.process.poll() is not None:
                break
    raise DaemonFailed(f"it never became ready: {daemon.log()}")


def make_image(path: Path, size_bytes: int, bucket_bytes: int, block_bytes: int, *options: str) -> None:
    """An image that bcachectl laid out."""
    shape = ["-b", str(bucket_bytes), "-w", str(block_bytes), "--size", str(size_bytes)]
    command = [program("bcachectl"), "make", *shape, *options, str(path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise DaemonFailed(f"bcachectl make: {done.stderr.strip()}")


def program(name: str) -> str:
    """A program of the virtual environment this Python is of."""
    return str(Path(sys.executable).with_name(name))
