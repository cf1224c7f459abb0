# SPDX-License-Identifier: GPL-2.0-only
"""Reports once what ended the daemon: runtime errors in a line each, bugs with their traceback."""

import os
import sys
from collections.abc import Iterator

from bcached.entry_points import OUT_OF_MEMORY, is_out_of_memory
from bcached.errors import BcachedError, ConfigError
from bcached.service.logs.log import get_logger, is_journal
from bcached.service.notify import Notifier

log = get_logger(__name__)


def report(error: BaseException) -> None:
    """Log the error and notify the service manager."""
    notifier = Notifier()
    for leaf in leaves(error):
        if isinstance(leaf, BcachedError):
            log.critical(str(leaf))
            notifier.failed(str(leaf))
        elif is_out_of_memory(leaf):
            log.critical(OUT_OF_MEMORY)
            notifier.failed(OUT_OF_MEMORY)
        else:
            log.critical("a bug in bcached", exc_info=leaf)
            notifier.failed(f"a bug in bcached: {leaf!r}")
    notifier.close()


def report_unusable(error: ConfigError, *, starting: bool) -> None:
    """Report why the configuration cannot be used, before there is one that configures the log."""
    # Not for --check-config: the service manager would take it for the state of the daemon.
    if starting:
        notifier = Notifier()
        notifier.failed(str(error))
        notifier.close()
    priority = "<3>" if is_journal(sys.stderr, os.environ.get("JOURNAL_STREAM", "")) else ""
    for line in str(error).splitlines():
        sys.stderr.write(f"{priority}bcached: {line}\n")


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yields the errors in an exception group, and in groups nested in it."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
