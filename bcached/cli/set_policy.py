"""`bcachectl set`: the superblock's settings of replacement and discards."""

import click

from bcached.cli.answer import answer
from bcached.cli.daemon import connected
from bcached.cli.examples import examples
from bcached.cli.session import Session, pass_session
from bcached.wire.messages import Policy


@click.group("set")
def set_policy() -> None:
    """Change how buckets are chosen and prepared for reuse. Durable when the command returns."""


@set_policy.command(epilog=examples("bcachectl set replacement fifo"))
@click.argument("value", metavar="VALUE", type=click.Choice(["lru", "fifo", "random"]))
@pass_session
def replacement(session: Session, value: Policy) -> None:
    """Set which buckets are reused first: VALUE is lru, fifo or random."""
    with connected(session) as client:
        client.set_replacement(value)
    answer(session, {}, lambda: f"replacement is {value}")


@set_policy.command(epilog=examples("bcachectl set discard on"))
@click.argument("value", metavar="VALUE", type=click.Choice(["on", "off"]))
@pass_session
def discard(session: Session, value: str) -> None:
    """Set whether buckets are discarded (trimmed) before reuse: VALUE is on or off."""
    with connected(session) as client:
        client.set_discard(value == "on")
    answer(session, {}, lambda: f"discards are {value}")
