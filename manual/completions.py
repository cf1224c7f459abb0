# SPDX-License-Identifier: GPL-2.0-only
"""Completion files of bcachectl for bash, zsh and fish: click's, with the paths at which the shells look."""

from click.shell_completion import get_completion_class

from bcached.cli.main import bcachectl

PATHS = {
    "bash": "bash-completion/completions/bcachectl",
    "zsh": "zsh/site-functions/_bcachectl",
    "fish": "fish/vendor_completions.d/bcachectl.fish",
}


def completion_files() -> dict[str, str]:
    """Returns the files by their path below share/."""
    return {path: completion(shell) for shell, path in PATHS.items()}


def completion(shell: str) -> str:
    """Returns what `_BCACHECTL_COMPLETE={shell}_source bcachectl` prints.

    In fish, click's cuts what a verb or option is for at its first comma.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    source = kind(bcachectl, {}, "bcachectl", "_BCACHECTL_COMPLETE").source()
    return source.replace('(string split "," ', '(string split --max 1 "," ')
