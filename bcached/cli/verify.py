"""`bcachectl verify`: every invariant of the allocator, checked by the daemon now."""

import click

from bcached.cli.answer import answer
from bcached.cli.daemon import connected
from bcached.cli.session import Session, pass_session
from bcached.errors import BcachedError


@click.command
@pass_session
def verify(session: Session) -> None:
    """Check every invariant of the allocator now. Each violation is a line; the exit status is 1 if any."""
    with connected(session) as client:
        violations = client.verify()
    answer(session, {"violations": violations}, lambda: "\n".join(violations) or "all invariants hold")
    if violations:
        raise BcachedError(f"verify at {session.socket}: expected no violation, found {len(violations)}")
