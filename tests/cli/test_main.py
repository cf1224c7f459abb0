# SPDX-License-Identifier: GPL-2.0-only
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

import bcached
from bcached.cli.groups import SYNONYMS
from bcached.cli.main import VERBS, Verbs, bcachectl
from bcached.errors import (
    BcachedError,
    NoFreeBuckets,
    NoSuchVolume,
    PermissionDenied,
    ShuttingDown,
    VolumeInUse,
)


def run(*arguments: str, **options: object) -> Result:
    return CliRunner().invoke(bcachectl, arguments, **options)  # type: ignore[arg-type]


def test_help_lists_every_verb_there_is() -> None:
    done = run("--help")
    assert done.exit_code == 0
    assert all(f"\n  {name} " in done.stdout for name in VERBS)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_explains_itself(name: str) -> None:
    done = run(name, "--help")
    assert done.exit_code == 0
    assert done.stdout.startswith("Usage: bcachectl") or f" {name} " in done.stdout.splitlines()[0]


def test_help_loads_nothing_that_only_verbs_need() -> None:
    code = (
        "import sys; from bcached.cli.main import bcachectl; bcachectl(['--help'], standalone_mode=False);"
        "print({'numpy', 'msgspec', 'rich', 'asyncio', 'uvloop'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set()"


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-verb"],
        ["--no-such-option", "status"],
        ["allocate", "0"],
        ["allocate", "0", "0", "12x"],
        ["allocate", "0", "0", "100k", "--replicas", "7"],
        ["allocate", "-1", "0", "8"],
        ["set", "replacement", "mru"],
        ["set", "discard", "maybe"],
        ["volume", "create"],
        ["volume", "create", "a", "--size", "1000"],
        ["volume", "delete", ""],
        ["statsu"],
        ["volume", "lsit"],
        ["--json", "top"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_and_reaches_no_daemon(arguments: list[str], tmp_path: Path) -> None:
    done = run("--socket", str(tmp_path / "nobody"), *arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "no connection" not in done.stderr


def failure(*arguments: str, **options: object) -> str:
    """The one line on stderr of a verb that failed."""
    done = run(*arguments, **options)
    assert done.exit_code == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_without_a_daemon_one_line_says_what_to_do(tmp_path: Path) -> None:
    line = failure("--socket", str(tmp_path / "nobody"), "status")
    assert line.startswith(f"bcachectl: {tmp_path}/nobody: no connection to the daemon: No such file")
    assert "--socket" in line
    assert "BCACHED_SOCKET" in line


def test_a_socket_nobody_listens_on_is_told_from_one_that_is_missing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        assert "no process listens there" in failure("--socket", str(tmp_path / "deaf"), "verify")


def test_a_file_that_is_no_socket_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = failure("--socket", str(tmp_path / "file"), "explain")
    assert line.startswith(f"bcachectl: {tmp_path}/file: no connection to the daemon: Connection refused")


def test_a_path_too_long_for_a_socket_is_one_line_too(tmp_path: Path) -> None:
    assert "no connection to the daemon: AF_UNIX path too long" in failure(
        "--socket", str(tmp_path / ("x" * 200)), "gc"
    )


def test_the_environment_names_the_socket_and_the_option_wins(tmp_path: Path) -> None:
    environment = {"BCACHED_SOCKET": str(tmp_path / "variable")}
    assert f"{tmp_path}/variable:" in failure("status", env=environment)
    assert f"{tmp_path}/option:" in failure("--socket", str(tmp_path / "option"), "status", env=environment)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BcachedError("one\ntwo"), "bcachectl: one two"),
        (NoSuchVolume(7), "no volume has inode 7; bcachectl volume list prints them all"),
        (PermissionDenied("admin"), "needs role admin; root has every role, others those"),
        (ShuttingDown(), "the daemon is stopping; try again once it has started"),
        (VolumeInUse(3, 8), "volume 3 holds 8 dirty sectors; --force drops them, too"),
        (NoFreeBuckets("none", 7), "no free bucket in reserve none after 7 ms; bcachectl explain says why"),
        (FileNotFoundError(2, "No such file or directory", "/x"), "bcachectl: /x: No such file or directory"),
        (AssertionError("odd"), "a bug in bcachectl, please report it: AssertionError: odd"),
    ],
)
def test_whatever_a_verb_raises_becomes_one_line_without_a_traceback(error: Exception, told: str) -> None:
    @click.command
    def broken() -> None:
        raise error

    class Broken(Verbs):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
            del ctx, cmd_name
            return broken

    done = CliRunner().invoke(Broken("bcachectl"), ["broken"])
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert told in line


def test_the_version_is_the_packages() -> None:
    assert run("--version").stdout.startswith("bcachectl 0.")


@pytest.mark.parametrize("verb", ["status", "show"])
def test_a_path_without_permission_is_no_wrong_usage(verb: str, tmp_path: Path) -> None:
    # The verb finds out whether a path can be read: it says what to do then, and ends with its own status.
    path = tmp_path / "locked"
    path.write_text("")
    path.chmod(0)
    arguments = ["--socket", str(path), "status"] if verb == "status" else ["show", str(path)]
    code = f"from bcached.cli.main import bcachectl; bcachectl({arguments!r}, prog_name='bcachectl')"
    become = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    done = subprocess.run([*become, sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert "Usage" not in done.stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["statsu"], "status"),
        (["volume", "lsit"], "list"),
        (["set", "discrad"], "discard"),
        (["help"], "--help"),
        (["set-policy"], "set replacement"),
        (["volumes-list"], "volume"),
        (["ls"], "volume list"),
        (["mkfs"], "make"),
    ],
)
def test_what_is_meant_gets_a_suggestion(typed: list[str], meant: str) -> None:
    done = run(*typed)
    assert f"no such verb: {typed[-1]!r}; did you mean {meant!r}?" in done.stderr


def test_what_resembles_nothing_gets_none() -> None:
    assert "did you mean" not in run("xyzzy").stderr
    assert "no such verb: 'xyzzy'" in run("xyzzy").stderr


def test_every_suggestion_is_a_verb() -> None:
    for words in SYNONYMS.values():
        done = run(*words.split(), "--help")
        assert (done.exit_code, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["status", "--jsn"], "Did you mean --json?"),
        (["gc", "--nowait"], "Did you mean --no-wait?"),
        (["status", "--socket", "/x"], "--socket stands before the verb: bcachectl --socket ..."),
    ],
)
def test_an_option_that_does_not_exist_gets_a_suggestion(typed: list[str], words: str) -> None:
    done = run(*typed)
    assert done.exit_code == 2
    assert words in done.stderr.replace("'", "")


def test_the_verbs_of_a_group_are_listed_with_whole_sentences() -> None:
    told = run("volume", "--help").stdout
    assert "..." not in told.partition("Verbs:")[2]
    assert "its keys are dropped, its inode is free" in " ".join(told.split())


REPORT_LOST = b": the report is lost, not what it is about"


@pytest.mark.parametrize(
    ("args", "status", "lost"),
    [(("--version",), 1, b""), (("show", "{}"), 1, REPORT_LOST), (("check", "{}"), 8, REPORT_LOST)],
)
def test_a_full_disk_behind_the_output_is_one_line_without_a_number(
    args: Sequence[str], status: int, lost: bytes, tmp_path: Path
) -> None:
    image = str(tmp_path / "cache.img")
    assert run("make", "-b", "64k", "--size", "40M", image).exit_code == 0
    program = [sys.executable, "-c", "from bcached.entry_points import control; raise SystemExit(control())"]
    with open("/dev/full", "wb") as full:
        command = [*program, *(arg.format(image) for arg in args)]
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, timeout=60)
    said = b"standard output: No space left on device" if lost else b"No space left on device"
    assert (done.returncode, done.stderr) == (status, b"bcachectl: " + said + lost + b"\n")


@pytest.mark.parametrize("closed", [(0,), (2,), (0, 1, 2)])
def test_no_device_gets_the_number_of_a_standard_stream_that_is_closed(
    closed: tuple[int, ...], tmp_path: Path
) -> None:
    image, told = tmp_path / "image", tmp_path / "told"
    image.write_bytes(b"")
    program = (
        "import os, sys; from bcached.entry_points import open_closed_streams; open_closed_streams(); "
        f"number = os.open({str(image)!r}, os.O_RDWR); print('words', file=sys.stderr); "
        "ends = sys.stdin.isatty(), sys.stdin.read(), sys.stderr.isatty(); "
        f"open({str(told)!r}, 'w').write(f'{{number}} {{ends}}')"
    )
    streams = " ".join(f"{number}>&-" if number else "0<&-" for number in closed)
    script = f'exec "$0" -c "$1" {streams}'
    subprocess.run(["bash", "-c", script, sys.executable, program], stdin=subprocess.DEVNULL, check=False)
    number, _, ends = told.read_text().partition(" ")
    assert int(number) > 2
    assert ends == "(False, '', False)"
    assert image.read_bytes() == b""


@pytest.mark.parametrize(("program", "module"), [("daemon", "bcached"), ("control", "bcachectl")])
@pytest.mark.parametrize("is_installed", [True, False])
def test_an_environment_with_the_client_only_is_told_what_to_install(
    program: str, module: str, is_installed: bool, tmp_path: Path
) -> None:
    (tmp_path / "msgspec").symlink_to(Path(msgspec.__file__).parent)
    (tmp_path / "bcached").symlink_to(Path(bcached.__file__).parent)
    if is_installed:
        information = tmp_path / "bcached-1.dist-info"
        information.mkdir()
        needed = ["click<9,>=8.2", "msgspec<1,>=0.20", 'django<7,>=5.2; extra == "django"']
        lines = ["Metadata-Version: 2.4", "Name: bcached", "Version: 1"]
        lines += [f"Requires-Dist: {one}" for one in needed]
        (information / "METADATA").write_text("\n".join(lines))
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; "
    code += f"import bcached.entry_points as it; sys.exit(it.{program}())"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd="/", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert re.match(rf"{module}: needs the module \w+, which is not installed", done.stderr)
    how = "pip install 'click<9,>=8.2' 'msgspec<1,>=0.20'" if is_installed else "install bcached with its"
    assert how in done.stderr
    assert "django" not in done.stderr
