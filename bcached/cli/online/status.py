# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl status`: the state of the set."""

import click

from bcached.cli.answer import answer
from bcached.cli.examples import examples
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.online.daemon import connected
from bcached.cli.online.picture import picture


@click.command(
    epilog=examples("bcachectl status", "bcachectl --json status | jq '.state.members[].freelist'")
)
@pass_options
def status(options: GlobalOptions) -> None:
    """Print the set's state: buckets by state, free lists, waits, gens."""
    with connected(options) as client:
        now = client.status()
    answer(options, {"state": now}, lambda: picture(now))
