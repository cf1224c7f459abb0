"""bcachectl itself: which verbs there are, and how each of them may fail.

A verb's module is imported only when the verb is used or asked for help, so that `bcachectl --help` and
completion are quick.
"""

import importlib
from typing import NamedTuple, NoReturn

import click

from bcached import __version__
from bcached.cli.examples import examples
from bcached.cli.session import DEFAULT_SOCKET, SOCKET_VARIABLE, Session
from bcached.entry import OUT_OF_MEMORY, is_out_of_memory
from bcached.errors import BcachedError, NoFreeBuckets, VolumeInUse

HINTS: dict[type[Exception], str] = {
    NoFreeBuckets: "bcachectl explain says why",
    VolumeInUse: "--force drops them, too",
}


class Verb(NamedTuple):
    """Where a verb lives, and what it does in half a line."""

    module: str
    command: str
    summary: str


VERBS = {
    "make": Verb("make", "make", "Lay out a cache set on devices or an image file."),
    "show": Verb("show", "show", "The superblock of a device, in bcache-super-show's words."),
    "dump": Verb("dump", "dump", "Every structure on a device, as JSON lines."),
    "check": Verb("check", "check", "Check everything on a device, and say what is wrong and what is lost."),
    "repair": Verb("repair", "repair", "Mend a set that does not open, in steps that are asked for."),
    "status": Verb("status", "status", "How the set stands: buckets, free lists, waits, gens."),
    "top": Verb("top", "top", "The same, live."),
    "explain": Verb("explain", "explain", "Why an allocation waits or failed."),
    "verify": Verb("verify", "verify", "Check every invariant of the allocator."),
    "write": Verb("write", "write", "Allocate, write and commit what comes from standard input."),
    "read": Verb("read", "read", "Look up, read and check, to standard output."),
    "allocate": Verb("allocate", "allocate", "Reserve sectors for as long as the command runs."),
    "lookup": Verb("lookup", "lookup", "Which sectors of a volume are there, and where."),
    "invalidate": Verb("invalidate", "invalidate", "Drop sectors of a volume."),
    "mark-clean": Verb("mark_clean", "mark_clean", "Let dirty sectors go when room is needed."),
    "flush": Verb("flush", "flush", "Make durable what was committed so far."),
    "volume": Verb("volume", "volume", "List, create and delete volumes."),
    "set": Verb("set_policy", "set_policy", "Choose the replacement policy, or turn discards on or off."),
    "gc": Verb("gc", "gc", "Collect garbage now."),
    "write-prios": Verb("write_prios", "write_prios", "Make prios and gens durable now."),
}


class Failed(click.ClickException):
    """The verb could not do it: one line on stderr, exit status 1."""

    def show(self, file: object = None) -> None:
        """Say it, in one line whatever it holds."""
        del file
        click.echo(f"bcachectl: {' '.join(self.message.splitlines())}", err=True)


class Verbs(click.Group):
    """The group of all verbs: imports one when it is used, and turns what it raises into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of the table above, not of the alphabet."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb of that name."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        command: click.Command = getattr(importlib.import_module(f"bcached.cli.{verb.module}"), verb.command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of verbs for --help, written without importing any."""
        del ctx
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the verb; the world's and the daemon's refusals become one line, and so would a bug of ours."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except (BcachedError, OSError) as error:
            hint = HINTS.get(type(error))
            _fail(f"{error}; {hint}" if hint else str(error))
        except Exception as error:  # never a traceback: a person at a shell cannot use one
            if is_out_of_memory(error):
                _fail(OUT_OF_MEMORY)
            _fail(f"a bug in bcachectl, please report it: {type(error).__name__}: {error}")


def _fail(message: str) -> NoReturn:
    raise Failed(message) from None


@click.command(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "bcachectl make --size 1G cache.img     an image file to try things on",
        "bcachectl status                       how the daemon's set stands",
        "bcachectl --json status | jq .         the same for programs",
        "bcachectl write 0 0 < picture.jpg      put something into volume 0",
        "bcachectl read 0 0 64k > picture.jpg   and get it back",
    )
    + "\n\nExit status: 0 done, 1 failed (one line on stderr says why), 2 usage. "
    "Sizes take k, M, G and T; a sector has 512 bytes.",
)
@click.option(
    "--socket",
    metavar="PATH",
    default=DEFAULT_SOCKET,
    envvar=SOCKET_VARIABLE,
    show_default=True,
    show_envvar=True,
    help="The daemon's socket.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@click.version_option(__version__, prog_name="bcachectl", message="%(prog)s %(version)s")
@click.pass_context
def bcachectl(context: click.Context, socket: str, as_json: bool) -> None:
    """Lay out, inspect and steer bcached's cache sets."""
    context.obj = Session(socket, as_json)


def main() -> None:
    """The entry point."""
    bcachectl(prog_name="bcachectl")
