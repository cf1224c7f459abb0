# SPDX-License-Identifier: GPL-2.0-only
"""An export by nbdkit: its process, which serves until a signal ends it, and the report of its own end."""

import importlib.util
import os
import shlex
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from urllib.parse import quote

from bcached.cli.interruption import signals_deferred, signals_interrupt
from bcached.cli.main import Failed, Interrupted

ENGINE = "nbdkit"
PLUGIN = "bcached.device.view_plugin"  # run by nbdkit, never imported
MISSING = "the program nbdkit and its Python plugin are needed (Debian: nbdkit, nbdkit-plugin-python)"


def refuse_without_engine() -> None:
    """Raises Failed if nbdkit is not installed."""
    if shutil.which(ENGINE) is None:
        raise Failed(MISSING)


def uri_of(socket_path: str) -> str:
    """Returns the URI of an export, for clients of any working directory."""
    return f"nbd+unix://?socket={quote(os.path.abspath(socket_path))}"


def serve(
    socket_path: str,
    parameters: Sequence[str],
    *,
    cow: bool,
    on_ready: Callable[[], None],
    pass_fds: Sequence[int] = (),
) -> None:
    """Export what the plugin's parameters describe, until a signal: that is the end of every export.

    pass_fds are the descriptors that the parameters name.

    Raises Interrupted if the signal comes before on_ready is called, Failed if nbdkit ends by itself.
    """
    _remove_abandoned(socket_path)
    command = [*_engine(socket_path, cow=cow), *parameters]
    serves = False
    try:
        with signals_interrupt(), _running(command, pass_fds) as (engine, ready):
            serves = bool(os.read(ready, 1))
            if serves:
                with _removed_at_end(socket_path):
                    on_ready()
                    engine.wait()
            engine.wait()
    except KeyboardInterrupt:
        if serves:
            return
        raise Interrupted("interrupted: nothing was exported") from None
    again = "neither device was written; the same command exports them again"
    hint = again if serves else f"its own message says why; {MISSING}"
    raise Failed(f"nbdkit ended with status {engine.returncode}: {shlex.join(command)}; {hint}")


@contextmanager
def _removed_at_end(socket_path: str) -> Iterator[None]:
    """Remove the socket, which nbdkit leaves behind: a client must fail, not wait for an answer."""
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            os.unlink(socket_path)


def _remove_abandoned(socket_path: str) -> None:
    """Remove a socket whose export was killed. Raises Failed at one that is served, and at any other file."""
    if not os.path.lexists(socket_path):
        return
    if not stat.S_ISSOCK(os.lstat(socket_path).st_mode):
        raise Failed(f"{socket_path}: expected no file, or the socket of an export that was killed")
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(socket_path)
        except ConnectionRefusedError:
            os.unlink(socket_path)
            return
    raise Failed(f"{socket_path}: another process serves this socket")


def _engine(socket_path: str, *, cow: bool) -> list[str]:
    spec = importlib.util.find_spec(PLUGIN)
    assert spec is not None
    assert spec.origin is not None
    writing = ["--filter=cow"] if cow else ["-r"]
    # It must not outlive this process, even if that is killed.
    return [
        ENGINE,
        "-f",
        "--exit-with-parent",
        "-U",
        socket_path,
        *writing,
        "python",
        f"script={spec.origin}",
    ]


@contextmanager
def _running(command: list[str], pass_fds: Sequence[int]) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Yields the process, and a pipe that it writes to when it accepts connections, and closes at its end."""
    ready, writer = os.pipe()
    engine: subprocess.Popen[bytes] | None = None
    try:
        pid_file = ["--pidfile", f"/dev/fd/{writer}"]
        command = [*command[:1], *pid_file, *command[1:]]
        # In a session of its own: Ctrl-C is for this process, which then ends it.
        with signals_deferred():  # a process that was begun is always known, and ended
            engine = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.DEVNULL, pass_fds=[writer, *pass_fds], start_new_session=True
            )
            os.close(writer)
        yield engine, ready
    finally:
        if engine is not None:
            engine.terminate()
            engine.wait()
        os.close(ready)
