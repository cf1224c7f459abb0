# SPDX-License-Identifier: GPL-2.0-only
"""Every command of README and docs/: which test executes it; its verb and options exist, wherever it is."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bcached.cli.main import bcachectl

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?ms)^```(\w*)\n(.*?)^```$|^#+ (.*?)$")
SHELLS = {"", "sh"}

# What executes the blocks of commands in a section. A page by itself: all of its sections.
EXECUTED_BY = {
    ("README.md", "Two commands"): "tests/demo/test_run.py",  # and CI runs make test
    ("README.md", "A tour of five minutes"): "tests/docs/test_readme.py",
    (
        "README.md",
        "On the device",
    ): "tests/docs/test_commands.py",  # below: the devices are those of the reader
    ("README.md", "As a service"): "tests/systemd/cases.py",
    ("docs/client.md", ""): "tests/docs/test_client_page.py",
    ("docs/container.md", ""): "tests/package/container_image.py",
    ("docs/installing.md", "On a block device"): "tests/systemd/cases.py",
    ("docs/installing.md", "Upgrading"): "tests/systemd/cases.py",
    ("docs/installing.md", "Removing it"): "tests/systemd/cases.py",
    ("docs/installing.md", "A Debian package"): "tests/package/cases.py",
    ("docs/installing.md", "A wheel, and a source distribution"): "tests/package/cases.py",
    (
        "docs/monitoring.md",
        "Monitoring bcached",
    ): "tests/monitoring/test_monitoring.py",  # the files that are copied
    ("docs/monitoring.md", "Events as they happen"): "tests/docs/test_readme.py",
    ("docs/operating.md", ""): "tests/docs/test_operating_page.py",
    ("docs/replacing.md", ""): "tests/cli/offline/test_replacing_guide.py",
    ("docs/rescue.md", ""): "tests/cli/offline/test_rescue_guide.py",
}
NO_COMMANDS = {("README.md", "bcached"), ("README.md", "On the device")}  # pictures


def blocks() -> Iterator[tuple[str, str, str]]:
    """Every block for a shell: its page, its section and its text."""
    for page in PAGES:
        section = ""
        for kind, text, heading in BLOCK.findall((ROOT / page).read_text()):
            if heading:
                section = heading
            elif kind in SHELLS:
                yield page, section, text


def commands(text: str) -> Iterator[list[str]]:
    """The words of each call of bcachectl in a text."""
    for found in re.findall(r"\bbcachectl [^\n`#|<>]*", text.replace("\\\n", "")):
        try:
            yield shlex.split(re.split(r"&&|;|\)|\.\.\.", found)[0])
        except ValueError:  # a quote that a cut separated from its other half
            continue


def wrong(words: list[str]) -> str | None:
    """Returns the word that bcachectl does not know, if any."""
    command: click.Command = bcachectl
    with click.Context(bcachectl) as context:
        for word in words[1:]:
            if word.startswith("-") and len(word) > 1 and not word[1].isdigit():
                if not any(
                    word.split("=")[0] in each.opts + each.secondary_opts for each in options(command)
                ):
                    return word
            elif isinstance(command, click.Group):
                found = command.get_command(context, word)
                if found is None:
                    return word if re.fullmatch(r"[a-z-]+", word) and command is bcachectl else None
                command = found
    return None


def options(command: click.Command) -> list[click.Parameter]:
    with click.Context(command) as context:
        with_json = command.get_params(context) + [each for each in bcachectl.params if "--json" in each.opts]
        return [*with_json, *(bcachectl.params if command is bcachectl else [])]


def test_every_block_of_commands_is_executed_by_a_test_that_exists() -> None:
    found = {(page, section) for page, section, _ in blocks()}
    known = {place for place in found if place in EXECUTED_BY or (place[0], "") in EXECUTED_BY}
    assert found - known - NO_COMMANDS == set()
    assert {page for page, _ in EXECUTED_BY} <= {page for page, _ in found}
    assert {place for place in EXECUTED_BY if place[1]} <= found, "sections that have no commands any more"
    assert [path for path in EXECUTED_BY.values() if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("page", [*PAGES, "SECURITY.md", "examples/README.md"])
def test_every_verb_and_option_that_a_page_names_exists(page: str) -> None:
    unknown = {" ".join(words): wrong(words) for words in commands((ROOT / page).read_text())}
    assert {line: word for line, word in unknown.items() if word is not None} == {}


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("bcachectl make --size 1G -b 64k x.img", None),
        ("bcachectl --json status", None),
        ("bcachectl status --json", None),
        ("bcachectl volume create photos", None),
        ("bcachectl make --sise 1G x.img", "--sise"),
        ("bcachectl statsu", "statsu"),
        ("bcachectl volume create --hold x", "--hold"),
    ],
)
def test_what_does_not_exist_is_seen(line: str, word: str | None) -> None:
    (words,) = commands(line)
    assert wrong(words) == word
