# SPDX-License-Identifier: GPL-2.0-only
"""bcachectl: the table of verbs, and how their errors are reported.

A verb's module is imported only when the verb is used or asked for help, so that `bcachectl --help` and
completion are quick.
"""

import importlib
import signal
import sys
from difflib import get_close_matches
from typing import NamedTuple, NoReturn

import click
from click.shell_completion import CompletionItem

from bcached import __version__
from bcached.cli.examples import examples
from bcached.cli.global_options import DEFAULT_SOCKET, SOCKET_VARIABLE, GlobalOptions
from bcached.cli.groups import check_verb
from bcached.cli.paths import PATH
from bcached.entry_points import OUT_OF_MEMORY, is_out_of_memory
from bcached.errors import (
    BcachedError,
    DeviceFailed,
    NoFreeBuckets,
    NoSuchVolume,
    PermissionDenied,
    ShuttingDown,
    StaleKey,
    VolumeInUse,
)

HINTS: dict[type[Exception], str] = {
    DeviceFailed: "the daemon is stopping, and its log says more",
    NoFreeBuckets: "bcachectl explain says why",
    NoSuchVolume: "bcachectl volume list prints them all",
    PermissionDenied: "root has every role, others those that the daemon's configuration grants in [access]",
    ShuttingDown: "try again once it has started",
    StaleKey: "look the key up again",
    VolumeInUse: "--force drops them, too",
}


class Verb(NamedTuple):
    """A verb's wing, its file there and the function in it, which have one name, and its short help."""

    wing: str
    command: str
    summary: str


VERBS = {
    "make": Verb("offline", "make", "Format devices or an image file as a cache set."),
    "show": Verb("offline", "show", "Print the superblock of a device as bcache-super-show does."),
    "dump": Verb("offline", "dump", "Print every structure on a device as JSON lines."),
    "check": Verb("offline", "check", "Check everything on a device; report what is wrong and what is lost."),
    "rescue": Verb(
        "offline", "rescue", "Write a set's dirty data to its backing device, without the kernel."
    ),
    "view": Verb("offline", "view", "Export a backing device as a rescue would leave it, without writing."),
    "repair": Verb("offline", "repair", "Repair a set that does not open, by the steps named."),
    "clone": Verb("offline", "clone", "Copy a cache device to another one, only what counts."),
    "resize": Verb("offline", "resize", "Make a cache device larger or smaller."),
    "warm": Verb("offline", "warm", "Fill a cache with clean data of its backing device."),
    "status": Verb("online", "status", "Print the set's state: buckets, free lists, waits, gens."),
    "top": Verb("online", "top", "Show the set's state, live."),
    "trace": Verb("online", "trace", "Print the daemon's events as they happen, as perf would."),
    "explain": Verb("online", "explain", "Say why an allocation waits or failed."),
    "verify": Verb("online", "verify", "Check every invariant of the allocator."),
    "write": Verb("volumes", "write", "Allocate, write and commit standard input."),
    "read": Verb("volumes", "read", "Look up, read and check, to standard output."),
    "allocate": Verb("volumes", "allocate", "Reserve sectors for as long as the command runs."),
    "lookup": Verb("volumes", "lookup", "Print which sectors of a volume are cached, and where."),
    "invalidate": Verb("volumes", "invalidate", "Drop sectors of a volume."),
    "mark-clean": Verb("volumes", "mark_clean", "Mark dirty sectors clean, so that they may be dropped."),
    "flush": Verb("online", "flush", "Make everything committed so far durable."),
    "volume": Verb("volumes", "volume", "List, create and delete volumes."),
    "set": Verb("online", "set_policy", "Set the replacement policy, or turn discards on or off."),
    "gc": Verb("online", "gc", "Collect garbage now."),
    "write-prios": Verb("online", "write_prios", "Make prios and gens durable now."),
}


class Failed(click.ClickException):
    """A verb failed: one line on stderr, exit status 1."""

    def show(self, file: object = None) -> None:
        """Print the message, on one line whatever it contains."""
        del file
        click.echo(f"bcachectl: {' '.join(self.message.splitlines())}", err=True)


class Interrupted(Failed):
    """Ctrl-C ended a verb: one line on stderr that says what is left behind, and the shell's status."""

    exit_code = 128 + signal.SIGINT


class Verbs(click.Group):
    """The group of all verbs: imports one when it is used, and turns its errors into one line."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the verb, with a suggestion if there is none; takes --json from behind the verb, too."""
        options, dashes, behind = _parted(args[1:])
        if "--json" in options:
            ctx.params["as_json"] = True
            args = [args[0], *(option for option in options if option != "--json"), *dashes, *behind]
        check_verb(self, ctx, args[0])
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the verbs in the order of the table above."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns the verb of that name, or None."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        module = importlib.import_module(f"bcached.cli.{verb.wing}.{verb.command}")
        command: click.Command = getattr(module, verb.command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Returns verbs or options that begin so; like --help, without importing any."""
        verbs = [
            CompletionItem(name, help=verb.summary)
            for name, verb in VERBS.items()
            if name.startswith(incomplete)
        ]
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of verbs for --help, without importing any."""
        del ctx
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the verb; every error becomes one line, a bug of ours as well."""
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            raise with_global_options(error, self.get_params(ctx)) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None
        except (BcachedError, OSError) as error:
            hint = HINTS.get(type(error))
            _fail(f"{words_of(error)}; {hint}" if hint else words_of(error))
        except Exception as error:  # never a traceback: a user cannot act on one
            if is_out_of_memory(error):
                _fail(OUT_OF_MEMORY)
            _fail(f"a bug in bcachectl, please report it: {type(error).__name__}: {error}")


def with_global_options(error: click.NoSuchOption, known: list[click.Parameter]) -> click.UsageError:
    """Returns an error for an option behind a verb that thinks of those before it, too."""
    names = [name for parameter in known for name in parameter.opts if name.startswith("--")]
    if error.option_name in names:
        message = f"{error.option_name} stands before the verb: bcachectl {error.option_name} ..."
        return click.UsageError(message, error.ctx)
    close = error.possibilities or get_close_matches(error.option_name, names, 1)
    return click.NoSuchOption(error.option_name, possibilities=close, ctx=error.ctx)


def _parted(args: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Returns the arguments before "--", that, and those behind it, which are no options."""
    if "--" not in args:
        return args, [], []
    at = args.index("--")
    return args[:at], ["--"], args[at + 1 :]


def words_of(error: Exception) -> str:
    """Returns what an error says, without the number that Python puts before the system's message."""
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return ": ".join([*names, error.strerror])
    return str(error)


def _fail(message: str) -> NoReturn:
    raise Failed(message) from None


@click.command(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "bcachectl make --size 1G cache.img     an image file for a trial",
        "bcachectl status                       the state of the daemon's set",
        "bcachectl --json status | jq .         the same for programs",
        "bcachectl write 0 0 < picture.jpg      write to volume 0",
        "bcachectl read 0 0 64k > picture.jpg   and read it back",
    )
    + "\n\nExit status: 0 done, 1 failed (one line on stderr says why), 2 usage. "
    "Sizes take k, M, G and T; a sector has 512 bytes. --json may stand behind the verb, too.",
)
@click.option(
    "--socket",
    metavar="PATH",
    type=PATH,
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
    """Format, inspect and administer bcached's cache sets."""
    context.obj = GlobalOptions(socket, as_json)


def main() -> None:
    """The entry point."""
    try:
        bcachectl(prog_name="bcachectl")
    except OSError as error:  # where no verb runs yet: of --help and --version
        sys.stderr.write(f"bcachectl: {words_of(error)}\n")
        sys.exit(1)
