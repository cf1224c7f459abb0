# SPDX-License-Identifier: GPL-2.0-only
"""bcachectl(8), from click's commands: a section for each verb, with the text of its --help."""

import inspect
from collections.abc import Iterator

import click

from bcached.cli.global_options import DEFAULT_SOCKET, SOCKET_VARIABLE
from bcached.cli.main import bcachectl
from manual.roff import Page

AS_IT_IS = "\b"  # click's mark of a paragraph that keeps its lines


def bcachectl_page(date: str) -> str:
    """Returns the page."""
    name = "bcachectl"
    context = click.Context(bcachectl, info_name=name, **bcachectl.context_settings)
    summary, *more = paragraphs(bcachectl.help)
    page = Page(name, 8, date, summary.rstrip(".")[0].lower() + summary.rstrip(".")[1:])
    page.section("SYNOPSIS")
    page.synopsis(name, "[OPTIONS] VERB [ARGS]...")
    page.section("DESCRIPTION")
    for text in [f"{summary} The verbs are below, in the order of `--help`.", *more]:
        page.paragraph(text)
    page.section("OPTIONS")
    write_options(page, bcachectl, context)
    page.section("VERBS")
    for verb in verbs(bcachectl, context):
        write_verb(page, verb)
    write_epilog(page, bcachectl.epilog, "EXAMPLES")
    page.section("ENVIRONMENT")
    page.entry([SOCKET_VARIABLE], "The daemon's socket, where `--socket` is not given.")
    page.section("FILES")
    page.entry([DEFAULT_SOCKET], "The daemon's socket.")
    page.section("SEE ALSO")
    page.paragraph("`bcached`(8), `bcached.toml`(5), `bcache-super-show`(8), `make-bcache`(8), `fsck`(8)")
    return str(page)


def verbs(group: click.Group, context: click.Context) -> Iterator[click.Context]:
    """Yields every verb that does something: of a group, its own verbs."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context, **command.context_settings)
        if isinstance(command, click.Group):
            yield from verbs(command, inner)
        else:
            yield inner


def write_verb(page: Page, context: click.Context) -> None:
    """Write a verb's usage, text, options and examples."""
    command = context.command
    page.subsection(" ".join([context.command_path, *command.collect_usage_pieces(context)]))
    for text in paragraphs(command.help):
        page.paragraph(text)
    write_options(page, command, context)
    write_epilog(page, command.epilog, None)


def write_options(page: Page, command: click.Command, context: click.Context) -> None:
    """Write the options as --help lists them, but --help itself once only."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None and ("--help" not in parameter.opts or context.parent is None):
            page.entry([record[0]], record[1])


def write_epilog(page: Page, epilog: str | None, title: str | None) -> None:
    """Write the examples, and what else follows them; below a title of their own if there is one."""
    for text in paragraphs(epilog):
        if text.startswith(AS_IT_IS):
            heading, *lines = text.removeprefix(AS_IT_IS).strip("\n").splitlines()
            if title is None:
                page.paragraph(heading)
            else:
                page.section(title)
            page.example(inspect.cleandoc("\n".join(lines)).splitlines())
        elif title is None:
            page.paragraph(text)
        else:
            heading, _, rest = text.partition(": ")
            page.section(heading.upper())
            page.paragraph(rest)


def paragraphs(text: str | None) -> list[str]:
    """Returns the paragraphs of a help text."""
    return inspect.cleandoc(text or "").split("\n\n") if text else []
