# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl flush`: make everything committed so far durable."""

import click

from bcached.cli.answer import answer
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.online.daemon import connected


@click.command
@pass_options
def flush(options: GlobalOptions) -> None:
    """Make everything durable that any client has committed so far; returns when it is."""
    with connected(options) as client:
        sequence = client.flush()
    answer(options, {"sequence": sequence}, lambda: f"all is durable through journal entry {sequence}")
