# SPDX-License-Identifier: GPL-2.0-only
"""The daemon's command line, and what is checked before anything is opened."""

import argparse
import resource
from contextlib import suppress
from difflib import get_close_matches
from typing import NoReturn

import bcached
from bcached.service.settings.config import DEFAULT_PATH

DESCRIPTORS_BESIDE_CLIENTS = 256
SIGNALS_AND_STATUS = """\
Signals: SIGTERM and SIGINT stop it cleanly within five seconds. SIGHUP reloads the configuration.

Exit status: 0 stopped cleanly, 1 failed (the log says why), 2 wrong usage or an invalid configuration.
"""


class Arguments(argparse.ArgumentParser):
    """A parser that knows which option was probably meant."""

    def error(self, message: str) -> NoReturn:
        """End with usage, and the message."""
        known = [name for action in self._actions for name in action.option_strings]
        _, _, typed = message.partition("unrecognized arguments: ")
        close = [
            name for word in typed.split() for name in get_close_matches(word.partition("=")[0], known, 1)
        ]
        super().error(f"{message}; did you mean {close[0]}?" if close else message)


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line; its help is also the text of the man page."""
    parser = Arguments(
        prog="bcached",
        description=bcached.__doc__,
        epilog=SIGNALS_AND_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", metavar="FILE", default=DEFAULT_PATH, help="the configuration; default: %(default)s"
    )
    parser.add_argument("--check-config", action="store_true", help="print the settings in effect, and exit")
    parser.add_argument("--quiet", action="store_true", help="with --check-config: print only errors")
    parser.add_argument("--version", action="version", version=f"bcached {bcached.__version__}")
    return parser


def parse_arguments() -> argparse.Namespace:
    """Returns the parsed command line; wrong usage exits with status 2."""
    return argument_parser().parse_args()


def allow_descriptors(connections: int) -> None:
    """Raise RLIMIT_NOFILE so that all clients fit, as far as the hard limit permits."""
    with suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = min(connections + DESCRIPTORS_BESIDE_CLIENTS, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
