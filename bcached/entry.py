"""Where both programs begin: their modules are imported here, so that what fails on the way is one line too.

Too small a limit on address space shows anywhere: an import that cannot be mapped, memory, a thread that
cannot be started. Libraries end the process or interrupt it then, so the limit is looked at before they load.
"""

import importlib
import os
import resource
import sys

ADDRESS_SPACE_MIN = 512 << 20  # with the libraries, and the stacks of some threads
OUT_OF_MEMORY = "out of memory: more is needed, or higher limits (ulimit -v, LimitAS=, MemoryMax=, TasksMax=)"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether something could not be had for want of memory, a thread among it."""
    if isinstance(error, MemoryError):
        return True
    words = str(error)
    if isinstance(error, ImportError):
        return "failed to map" in words or "annot allocate memory" in words
    return isinstance(error, RuntimeError) and "can't start new thread" in words


def _run(program: str, module: str) -> int:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < ADDRESS_SPACE_MIN:
        sys.stderr.write(
            f"{program}: the limit on address space (ulimit -v, LimitAS=) is {limit >> 10} KiB, "
            f"and at least {ADDRESS_SPACE_MIN >> 10} KiB are needed\n"
        )
        return 1
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # no algebra is done here, and each has a stack
    try:
        status = importlib.import_module(module).main()
    except (MemoryError, ImportError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sys.stderr.write(f"{program}: {OUT_OF_MEMORY}\n")
        return 1
    return int(status or 0)


def daemon() -> int:
    """The command bcached."""
    return _run("bcached", "bcached.service.daemon")


def control() -> int:
    """The command bcachectl."""
    return _run("bcachectl", "bcached.cli.main")
