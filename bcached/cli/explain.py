"""`bcachectl explain`: why an allocation waits or failed."""

import click

from bcached.cli.answer import answer
from bcached.cli.daemon import connected
from bcached.cli.session import Session, pass_session


@click.command
@pass_session
def explain(session: Session) -> None:
    """Say why allocations wait or fail: what is missing, and what would provide it."""
    with connected(session) as client:
        lines = client.explain()
    answer(session, {"lines": lines}, lambda: "\n".join(lines))
