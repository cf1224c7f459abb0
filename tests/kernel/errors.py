# SPDX-License-Identifier: GPL-2.0-only
"""What can stop the harness, as opposed to what makes it say no."""


class CannotRun(Exception):
    """Something this machine lacks; the message says what to install."""


class HarnessFailed(Exception):
    """The harness itself broke: nothing was judged."""
