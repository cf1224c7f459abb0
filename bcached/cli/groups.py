# SPDX-License-Identifier: GPL-2.0-only
"""Groups of verbs that suggest one for a typo."""

from difflib import get_close_matches

import click


def check_verb(group: click.Group, ctx: click.Context, name: str) -> None:
    """Fail with a suggestion if a group has no such verb; an option is click's to refuse."""
    if not name.startswith("-") and group.get_command(ctx, name) is None:
        close = get_close_matches(name, group.list_commands(ctx), 1)
        ctx.fail(f"no such verb: {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))


class VerbGroup(click.Group):
    """A group whose error for an unknown verb names a similar one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the verb that the arguments begin with, its name and its arguments."""
        check_verb(self, ctx, args[0])
        return super().resolve_command(ctx, args)
