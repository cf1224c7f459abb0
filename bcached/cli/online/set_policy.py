# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl set`: the superblock's settings of replacement and discards."""

import click

from bcached.cli.answer import answer
from bcached.cli.examples import examples
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.groups import VerbGroup
from bcached.cli.online.daemon import connected
from bcached.set_state import POLICY_NAMES
from bcached.wire.admin_messages import Policy


@click.group("set", cls=VerbGroup)
def set_policy() -> None:
    """Change how buckets are chosen and prepared for reuse. Durable when the command returns."""


@set_policy.command(
    help=f"Set which buckets are reused first: VALUE is {', '.join(POLICY_NAMES[:-1])} "
    f"or {POLICY_NAMES[-1]}.",
    epilog=examples("bcachectl set replacement fifo"),
)
@click.argument("value", metavar="VALUE", type=click.Choice(POLICY_NAMES))
@pass_options
def replacement(options: GlobalOptions, value: Policy) -> None:
    """Set the replacement policy."""
    with connected(options) as client:
        client.set_replacement(value)
    answer(options, {}, lambda: f"replacement is {value}")


@set_policy.command(epilog=examples("bcachectl set discard on"))
@click.argument("value", metavar="VALUE", type=click.Choice(["on", "off"]))
@pass_options
def discard(options: GlobalOptions, value: str) -> None:
    """Set whether buckets are discarded (trimmed) before reuse: VALUE is on or off."""
    with connected(options) as client:
        client.set_discard(value == "on")
    answer(options, {}, lambda: f"discards are {value}")
