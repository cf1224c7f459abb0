# SPDX-License-Identifier: GPL-2.0-only
"""Lives of one daemon on images that outlive it."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from instruments.clients.daemon_process import BIN, DaemonProcess

CALLS = ["pwritev", "fdatasync", "punch_hole", "discard_blocks"]
GARBLED = "may garble the sector"  # in the warning of an entry that was garbled as the power failed
SYSTEM_CALLS = ("pwritev2", "pwritev", "fdatasync", "fallocate")


class Forked:
    """A process that the launcher began; as much of Popen as is needed."""

    def __init__(self, launcher: "subprocess.Popen[bytes]") -> None:
        assert launcher.stdout is not None
        self._answers: IO[bytes] = launcher.stdout
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._answers], [], [], 0)[0]:
            self.returncode = int(self._answers.readline())
        return self.returncode

    def wait(self, timeout: float = 20.0) -> int:
        if self.returncode is None:
            assert select.select([self._answers], [], [], timeout)[0], "it does not end"
        status = self.poll()
        assert status is not None
        return status

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # the launcher may know before we do
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class MortalDaemon(DaemonProcess):
    """The daemon with a launcher of its own, on the given devices or on images of its own."""

    def __init__(self, members: int = 1, devices: Sequence[str] = ()) -> None:
        super().__init__()
        self.devices = list(devices) or [str(self.folder / f"cache{index}.img") for index in range(members)]
        text = self.config.read_text().replace(
            f'"{self.folder}/cache.img"', '"' + '", "'.join(self.devices) + '"'
        )
        self.config.write_text(text)
        self._forking = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("launcher.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self._forking.stdin, self._forking.stdout):
            assert pipe is not None
            pipe.close()
        self._forking.wait(20)
        super().__exit__(*details)

    def make(self, *options: str) -> None:
        """Lay out the set."""
        command = [str(BIN / "bcachectl"), "make", *options, *self.devices]
        made = subprocess.run(command, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr

    def start(self, fatal: dict[str, Any] | None = None) -> None:
        """Begin a life that ends by itself at the fatal call, if one is named."""
        self._forget_what_was_told()
        asked = {
            "arguments": ["--config", str(self.config)],
            "environment": {"NOTIFY_SOCKET": str(self.folder / "notify")},
            "log": str(self.folder / "log"),
            "fatal": fatal,
        }
        assert self._forking.stdin is not None
        self._forking.stdin.write(json.dumps(asked).encode() + b"\n")
        self.process = Forked(self._forking)  # type: ignore[assignment]

    def start_traced(self, call: str, count: int) -> None:
        """Begin a life as a program of its own; strace ends it at a thread's count-th such call."""
        self._forget_what_was_told()
        inject = f"inject={call}:signal=KILL:when={count}"
        command = ["strace", "-f", "--seccomp-bpf", "-qqq", "-e", f"trace={call}", "-e", inject]
        command += ["-o", os.devnull, str(BIN / "bcached"), "--config", str(self.config)]
        environment = {**os.environ, "NOTIFY_SOCKET": str(self.folder / "notify")}
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stderr=log)

    def _forget_what_was_told(self) -> None:
        """A former life may have been killed before anybody listened."""
        self.told = []
        while select.select([self._manager], [], [], 0)[0]:
            self._manager.recv(65536)

    def is_alive(self) -> bool:
        assert self.process is not None
        return self.process.poll() is None

    def kill(self) -> int:
        """Kill it, if it has not ended yet; its status."""
        assert self.process is not None
        if isinstance(self.process, subprocess.Popen) and self.process.poll() is None:
            # The daemon, not who traces it: the tracer follows.
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            for child in children:
                os.kill(int(child), signal.SIGKILL)
        else:
            self.process.send_signal(signal.SIGKILL)
        return self.process.wait(20)

    def wait_until_ready_or_dead(self, within_s: float = 30.0) -> bool:
        """Whether it serves; else it has died before."""
        for _ in range(round(within_s / 0.5)):
            try:
                self.wait_until_told("READY", "1", within_s=0.5)
            except AssertionError:
                if not self.is_alive():
                    return False
            else:
                return True
        raise AssertionError(f"neither ready nor dead: {self.told}; logged:\n{self.log_text()}")

    def quarrels(self, *, garbled: bool = False) -> list[str]:
        """What it logged that is not mere information, nor of a sector that is garbled, if one is."""
        lines = [line for line in self.log_text().splitlines() if line.endswith("}")]
        messages = [json.loads(line) for line in lines if line.startswith("{")]
        told = [str(message) for message in messages if message["level"] not in ("info", "debug")]
        return [one for one in told if not (garbled and GARBLED in one)]


def strace_is_there() -> bool:
    return shutil.which("strace") is not None
