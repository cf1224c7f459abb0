# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl verify`: every invariant of the allocator, checked by the daemon now."""

import click

from bcached.cli.answer import answer
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.online.daemon import connected
from bcached.errors import BcachedError


@click.command
@pass_options
def verify(options: GlobalOptions) -> None:
    """Check every invariant of the allocator now. Each violation is a line; the exit status is 1 if any."""
    with connected(options) as client:
        violations = client.verify()
    answer(options, {"violations": violations}, lambda: "\n".join(violations) or "all invariants hold")
    if violations:
        raise BcachedError(f"verify at {options.socket}: expected no violation, found {len(violations)}")
