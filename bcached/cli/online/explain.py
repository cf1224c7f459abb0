# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl explain`: why an allocation waits or failed."""

import click

from bcached.cli.answer import answer
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.online.daemon import connected


@click.command
@pass_options
def explain(options: GlobalOptions) -> None:
    """Say why allocations wait or fail: what is missing, and what would provide it."""
    with connected(options) as client:
        lines = client.explain()
    answer(options, {"lines": lines}, lambda: "\n".join(lines))
