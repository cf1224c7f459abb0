# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl write-prios`: make prios and gens durable now."""

import click

from bcached.cli.answer import answer
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.online.daemon import connected


@click.command("write-prios")
@pass_options
def write_prios(options: GlobalOptions) -> None:
    """Write the prios and gens of all buckets now; returns when they are durable."""
    with connected(options) as client:
        client.write_priorities()
    answer(options, {}, lambda: "prios and gens are durable")
