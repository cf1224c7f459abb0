# SPDX-License-Identifier: GPL-2.0-only
"""The man pages and completion files, judged by the programs that read them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from bcached.cli.main import bcachectl
from bcached.service.settings.sections import Tables
from manual.bcachectl_page import verbs
from manual.completions import PATHS
from manual.pages import date_of_build, pages
from manual.roff import Page, line_as_text, marked

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix's share/, as the program writes it."""
    share = tmp_path_factory.mktemp("share")
    subprocess.run([sys.executable, "-m", "manual", share], cwd=ROOT, check=True)
    return share


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def as_read(page: Path) -> str:
    """The page as a reader sees it, in lines that nothing breaks."""
    environment = {**os.environ, "MANWIDTH": "1000", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""}
    shown = subprocess.run([tool("man"), "-l", page], env=environment, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


@pytest.mark.parametrize("path", pages())
def test_the_page_has_nothing_that_man_or_mandoc_warns_of(share: Path, path: str) -> None:
    shown = subprocess.run([tool("man"), "--warnings", "-l", share / path], capture_output=True, text=True)
    assert (shown.returncode, shown.stderr) == (0, "")
    judged = subprocess.run(
        [tool("mandoc"), "-T", "lint", "-W", "warning", share / path], capture_output=True, text=True
    )
    assert (judged.returncode, judged.stdout) == (0, "")


@pytest.mark.parametrize("path", pages())
def test_the_page_is_found_by_its_name(share: Path, path: str) -> None:
    found = subprocess.run([tool("lexgrog"), share / path], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    assert f': "{Path(path).stem} - ' in found.stdout


def test_a_request_that_does_not_exist_would_be_warned_of(share: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.8"
    wrong.write_text((share / "man/man8/bcached.8").read_text() + ".NOSUCH\n")
    shown = subprocess.run([tool("man"), "--warnings", "-l", wrong], capture_output=True, text=True)
    assert "NOSUCH" in shown.stderr


def test_every_verb_and_option_is_in_bcachectls_page(share: Path) -> None:
    text = as_read(share / "man/man8/bcachectl.8")
    root = click.Context(bcachectl, info_name="bcachectl", **bcachectl.context_settings)
    contexts = list(verbs(bcachectl, root))
    assert len(contexts) > 20
    for context in contexts:
        assert f"\n   {context.command_path} [OPTIONS]" in text
        for parameter in context.command.get_params(context):
            record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
            if record is not None and "--help" not in parameter.opts:
                assert f"\n       {record[0]}" in text
                assert " ".join(record[1].split()) in text


def test_what_help_says_is_in_the_daemons_page(share: Path) -> None:
    text = as_read(share / "man/man8/bcached.8")
    said = subprocess.run([BIN / "bcached", "--help"], capture_output=True, text=True).stdout
    options = re.findall(r"(?m)^  (-.*?)  +(.+)$", said)
    assert len(options) == 5
    for names, explanation in options:
        assert names in text
        assert explanation in text
    for paragraph in re.findall(r"(?m)^(?:Signals|Exit status): (.+)$", said):
        assert paragraph in text


def test_every_key_of_the_configuration_has_an_entry(share: Path) -> None:
    text = as_read(share / "man/man5/bcached.toml.5")
    for name, table in Tables.model_fields.items():
        section = text.split(f"\n[{name}]\n")[1].split("\n[")[0]
        assert table.annotation is not None
        for key in table.annotation.model_fields:
            assert re.search(rf"(?m)^       {key} = \S+", section), f"[{name}] {key}"


def test_the_date_is_the_one_that_a_reproducible_build_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert date_of_build() == "1970-01-02"


def test_text_is_never_taken_for_a_request() -> None:
    page = Page("x", 8, "1970-01-01", "a 'b' \\n")
    page.example([".begins with a dot", "a\\fBb"])
    lines = str(page).splitlines()
    assert r"x \- a \(aqb\(aq \en" in lines
    assert r"\&.begins with a dot" in lines
    assert r"a\efBb" in lines
    assert marked("say `a-b`, not\n c") == r"say \fBa\-b\fR, not c"
    assert line_as_text("a.") == "a."


def completed(share: Path, words: str) -> list[str]:
    """What bash offers for the last word, having sourced the installed file."""
    script = (
        f"source {share}/bash-completion/completions/bcachectl && complete -p bcachectl >/dev/null\n"
        f"COMP_WORDS=({words}) && COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))\n"
        '_bcachectl_completion bcachectl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        [tool("bash"), "--norc", "-c", script], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("bcachectl st", ["status"]),
        ("bcachectl ve", ["verify"]),
        ("bcachectl volume ''", ["create", "delete", "list", "owner"]),
        ("bcachectl set replacement ''", ["lru", "fifo", "random"]),
        ("bcachectl make --dis", ["--discard"]),
        ("bcachectl --js", ["--json"]),
    ],
)
def test_bash_completes_verbs_options_and_values(share: Path, words: str, offered: list[str]) -> None:
    assert completed(share, words) == offered


def test_fish_completes_with_what_each_is_for(share: Path) -> None:
    file = share / "fish/vendor_completions.d/bcachectl.fish"
    script = f"source {file}; complete -C 'bcachectl volu'; complete -C 'bcachectl set replacement l'"
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        [tool("fish"), "-c", script], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["volume\tList, create and delete volumes.", "lru"]


def test_zsh_completes_a_line_that_is_typed(share: Path) -> None:
    """It is run then, and says what follows the verb that was completed."""
    folder = share / "zsh/site-functions"
    setting = f"PS1=; fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D"
    script = f"""\
zmodload zsh/zpty
zpty typist {tool("zsh")} -f -i
zpty -w typist '{setting}'
zpty -w typist $'bcachectl volume cr\\t'
zpty -r typist seen "*Missing argument 'LABEL'*" && print completed
zpty -d typist
"""
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        [tool("zsh"), "-f", "-c", script], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "completed\n"


def test_devices_are_completed_as_files() -> None:
    environment = {**os.environ, "_BCACHECTL_COMPLETE": "bash_complete"}
    environment |= {"COMP_WORDS": "bcachectl check ", "COMP_CWORD": "2"}
    done = subprocess.run([BIN / "bcachectl"], env=environment, capture_output=True, text=True)
    assert done.stdout == "file,\n"


def test_what_is_called_a_device_or_a_file_is_completed_as_one() -> None:
    called = re.compile(r"(CACHE|DEVICE|DEV|FILE|PATH|TARGET)(\.\.\.)?")
    root = click.Context(bcachectl, info_name="bcachectl")
    found = {
        f"{context.command_path} {parameter.name}": parameter.type
        for context in [root, *verbs(bcachectl, root)]
        for parameter in context.command.params
        if called.fullmatch(parameter.make_metavar(context))
    }
    assert {"bcachectl socket", "bcachectl show device", "bcachectl make devices"} <= found.keys()
    assert [name for name, kind in found.items() if not isinstance(kind, click.Path)] == []


@pytest.mark.parametrize(("shell", "path"), list(PATHS.items()))
def test_the_shell_can_parse_its_completion_file(share: Path, shell: str, path: str) -> None:
    done = subprocess.run([tool(shell), "-n", share / path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_completing_a_verb_loads_nothing_that_only_verbs_need() -> None:
    code = (
        "import sys; from bcached.cli.main import bcachectl;"
        "bcachectl(prog_name='bcachectl', standalone_mode=False)"
    )
    environment = {**os.environ, "_BCACHECTL_COMPLETE": "bash_complete"}
    environment |= {"COMP_WORDS": "bcachectl ", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], env=environment, capture_output=True, text=True
    )
    assert "plain,status" in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"click", "bcached.cli.main"} <= loaded
    assert {"numpy", "msgspec", "rich", "asyncio", "uvloop"} & loaded == set()
