# SPDX-License-Identifier: GPL-2.0-only
"""The man pages by their path below share/, as a prefix has them."""

import os
import time

from bcached.service.command_line import argument_parser
from manual.bcachectl_page import bcachectl_page
from manual.configuration_page import CONFIGURATION, configuration_page
from manual.daemon_page import daemon_page


def pages() -> dict[str, str]:
    """Returns all pages: paths and texts."""
    date = date_of_build()
    return {
        "man/man8/bcached.8": daemon_page(argument_parser(), date),
        "man/man8/bcachectl.8": bcachectl_page(date),
        "man/man5/bcached.toml.5": configuration_page(CONFIGURATION.read_text(), date),
    }


def date_of_build() -> str:
    """Returns today, or the day that a reproducible build sets."""
    return time.strftime("%Y-%m-%d", time.gmtime(float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())))
