# SPDX-License-Identifier: GPL-2.0-only
"""Groups of verbs that suggest one for a typo."""

from difflib import get_close_matches

import click

# What a newcomer may try first, and the verb for it.
SYNONYMS = {
    "clear": "invalidate",
    "copy": "clone",
    "create": "volume create",
    "delete": "volume delete",
    "df": "status",
    "discard": "set discard",
    "drop": "invalidate",
    "evict": "invalidate",
    "format": "make",
    "fsck": "check",
    "help": "--help",
    "info": "status",
    "list": "volume list",
    "ls": "volume list",
    "mkfs": "make",
    "policy": "set replacement",
    "replacement": "set replacement",
    "stat": "status",
    "stats": "status",
    "sync": "flush",
    "trim": "set discard",
    "version": "--version",
}


def check_verb(group: click.Group, ctx: click.Context, name: str) -> None:
    """Fail with a suggestion if a group has no such verb; an option is click's to refuse."""
    if not name.startswith("-") and group.get_command(ctx, name) is None:
        close = suggestion(name, group.list_commands(ctx), {} if ctx.parent else SYNONYMS)
        ctx.fail(f"no such verb: {name!r}" + (f"; did you mean {close!r}?" if close else ""))


def suggestion(name: str, verbs: list[str], synonyms: dict[str, str]) -> str | None:
    """Returns the verb that was meant, if one comes to mind.

    1. It is spelt alike. 2. The name, or a part of it, the last one first, is a synonym or a verb.
    """
    if close := get_close_matches(name, verbs, 1):
        return close[0]
    parts = (name, *name.replace("_", "-").split("-")[::-1])
    found = (synonyms.get(part) or (part if part in verbs else None) for part in parts)
    return next(filter(None, found), None)


class VerbGroup(click.Group):
    """A group whose error for an unknown verb names a similar one, and whose help shows whole sentences."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the verb that the arguments begin with, its name and its arguments."""
        check_verb(self, ctx, args[0])
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of verbs for --help."""
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            assert command is not None, "it is listed"
            rows.append((name, command.get_short_help_str(limit=200)))
        with formatter.section("Verbs"):
            formatter.write_dl(rows)
