# SPDX-License-Identifier: GPL-2.0-only
"""bcached(8), from the parser of the daemon's command line."""

import argparse
from collections.abc import Iterable

from manual.roff import Page

FILES = {
    "/etc/bcached/bcached.toml": "The configuration: `bcached.toml`(5). Read after it: `conf.d/*.toml`.",
    "/run/bcached/io.bcached": "The socket of clients, in varlink.",
    "/run/bcached": "The gen maps, which clients map read-only.",
    "/var/lib/bcached": "The lease files, which fence clients of a previous run; usually the image as well.",
}
ENVIRONMENT = {
    "BCACHED__SECTION__KEY": "Sets a key of the configuration, and overrides the files.",
    "STATE_DIRECTORY, RUNTIME_DIRECTORY": "The defaults of the keys of these names. Set by systemd.",
    "LISTEN_FDS, LISTEN_FDNAMES": "Sockets from systemd: `varlink` for clients, `metrics` for Prometheus.",
    "NOTIFY_SOCKET, WATCHDOG_USEC": "Where and how often the daemon reports to systemd.",
    "BCACHED_LOOP": "`asyncio` runs the daemon without uvloop.",
}


class Recorder(argparse.RawDescriptionHelpFormatter):
    """A formatter that records the options it formats: argparse lists them in no other public way."""

    recorded: list[tuple[str, str]]

    def add_arguments(self, actions: Iterable[argparse.Action]) -> None:
        """Note the names and the help of each."""
        for action in actions:
            names = ", ".join(action.option_strings)
            self.recorded.append((f"{names} {action.metavar or ''}".rstrip(), self._expand_help(action)))
        super().add_arguments(actions)


def options_of(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """Returns each option's names and help."""

    class Recording(Recorder):
        recorded: list[tuple[str, str]] = []  # noqa: RUF012 - one for this call

    parser.formatter_class = Recording
    parser.format_help()
    return Recording.recorded


def daemon_page(parser: argparse.ArgumentParser, date: str) -> str:
    """Returns the page."""
    name, _, summary = (parser.description or "").rstrip(".").partition(": ")
    page = Page(name, 8, date, summary)
    page.section("SYNOPSIS")
    options = options_of(parser)
    page.synopsis(name, " ".join(f"[{names}]" for names, _ in options if not names.startswith("-h")))
    page.section("DESCRIPTION")
    page.paragraph(
        "Owns a cache set, which `bcachectl make` has formatted, and hands out its sectors to clients over a "
        "Unix socket. Runs in the foreground, usually as a service of systemd, and logs to standard error."
    )
    page.section("OPTIONS")
    for names, text in options:
        page.entry([names], text)
    for paragraph in (parser.epilog or "").strip().split("\n\n"):
        title, _, text = paragraph.partition(": ")
        page.section(title.upper())
        page.paragraph(text)
    page.section("ENVIRONMENT")
    for variable, text in ENVIRONMENT.items():
        page.entry([variable], text)
    page.section("FILES")
    for path, text in FILES.items():
        page.entry([path], text)
    page.section("SEE ALSO")
    page.paragraph("`bcachectl`(8), `bcached.toml`(5), `systemd`(1)")
    return str(page)
