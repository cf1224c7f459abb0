# SPDX-License-Identifier: GPL-2.0-only
"""Entry points of both programs: imports their modules here, so that a failing import is one line, too.

Too low a limit on address space fails anywhere: mapping a library, allocating memory, starting a thread.
Libraries may abort the process then, so the limit is checked before they are loaded.
"""

import codecs
import importlib
import io
import os
import resource
import shlex
import signal
import sys

ADDRESS_SPACE_MIN = 512 << 20  # for the libraries and the stacks of some threads
OUT_OF_MEMORY = "out of memory: more is needed, or higher limits (ulimit -v, LimitAS=, MemoryMax=, TasksMax=)"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory, or a thread, could not be allocated."""
    if isinstance(error, MemoryError):
        return True
    message = str(error)
    if isinstance(error, ImportError):
        return "failed to map" in message or "annot allocate memory" in message
    return isinstance(error, RuntimeError) and "can't start new thread" in message


def open_closed_streams() -> None:
    """Open the null device as each standard stream that is closed, before a device gets its number.

    What a library or a child writes to standard error would be written to that device.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            stream = open(os.devnull, "w" if number else "r")  # noqa: SIM115 (gets the lowest number, this one)
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def print_any_name() -> None:
    """Let standard output take names of any encoding: bytes as they are, and other characters escaped."""
    codecs.register_error("any_name", _any_name)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="any_name")


def _any_name(error: UnicodeError) -> tuple[str | bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    character, after = error.object[error.start], error.start + 1
    try:
        return character.encode("ascii", "surrogateescape"), after
    except UnicodeEncodeError:
        return character.encode("ascii", "backslashreplace"), after


def _missing(error: ImportError) -> str:
    """Returns which module is not installed, and what to install; empty if that is not the reason."""
    name = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or name in ("", __package__):
        return ""
    metadata = importlib.import_module("importlib.metadata")  # takes long, and is needed here only
    try:
        needed: list[str] = metadata.requires(__package__) or []
    except metadata.PackageNotFoundError:  # a checkout that was not installed
        needed = []
    named = [one for one in needed if "extra ==" not in one]
    how = f"pip install {shlex.join(named)}" if named else "install bcached with its dependencies"
    return f"needs the module {name}, which is not installed (the client library does without): {how}"


def _run(program: str, module: str) -> int:
    open_closed_streams()
    print_any_name()
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < ADDRESS_SPACE_MIN:
        sys.stderr.write(
            f"{program}: the limit on address space (ulimit -v, LimitAS=) is {limit >> 10} KiB, "
            f"and at least {ADDRESS_SPACE_MIN >> 10} KiB are needed\n"
        )
        return 1
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # unused, and each thread has a stack
    try:
        status = importlib.import_module(module).main()
    except KeyboardInterrupt:  # while modules were imported: no command had begun
        sys.stderr.write(f"{program}: interrupted\n")
        return 128 + signal.SIGINT
    except (MemoryError, ImportError, RuntimeError) as error:
        missing = _missing(error) if isinstance(error, ImportError) else ""
        if not is_out_of_memory(error) and not missing:
            raise
        sys.stderr.write(f"{program}: {missing or OUT_OF_MEMORY}\n")
        return 1
    return int(status or 0)


def daemon() -> int:
    """Run the bcached command."""
    return _run("bcached", "bcached.service.daemon")


def control() -> int:
    """Run the bcachectl command."""
    return _run("bcachectl", "bcached.cli.main")
