# SPDX-License-Identifier: GPL-2.0-only
"""bcachectl as a person at a shell uses it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from instruments.time.patience import tries


@dataclass(frozen=True)
class Shell:
    """bcachectl, with the socket of some daemon."""

    socket: Path

    @property
    def command(self) -> list[str]:
        return [str(Path(sys.executable).with_name("bcachectl")), "--socket", str(self.socket)]

    def run(self, *arguments: str, given: bytes = b"") -> Result:
        """A verb, within this process, with these bytes on its standard input."""
        return CliRunner().invoke(bcachectl, ["--socket", str(self.socket), *arguments], input=given)

    def told(self, *arguments: str, given: bytes = b"") -> str:
        """What a verb that works prints for people."""
        done = self.run(*arguments, given=given)
        assert (done.exit_code, done.stderr) == (0, ""), done.output
        return done.stdout

    def gave(self, *arguments: str) -> bytes:
        """The bytes that a verb that works writes."""
        done = self.run(*arguments)
        assert (done.exit_code, done.stderr) == (0, ""), done.output
        return done.stdout_bytes

    def document(self, *arguments: str, given: bytes = b"") -> Any:
        """The one JSON document of a verb that works."""
        return json.loads(self.told("--json", *arguments, given=given))

    def refused(self, *arguments: str, given: bytes = b"") -> str:
        """The one line of a verb that fails."""
        done = self.run(*arguments, given=given)
        assert (done.exit_code, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        return line

    def misused(self, *arguments: str) -> str:
        """What is said of a verb that cannot be meant so."""
        done = self.run(*arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        return " ".join(done.stderr.split())

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """A verb that goes on, as a process of its own."""
        return subprocess.Popen(
            [*self.command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"COLUMNS": "120"},
        )


def wait_until(question: Callable[[], bool], seconds: float = 30) -> None:
    """Ask until the answer is yes."""
    assert any(question() for _ in tries(seconds))
