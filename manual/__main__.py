# SPDX-License-Identifier: GPL-2.0-only
"""Write the man pages and completion files: `python -m manual DIRECTORY`."""

import argparse
from pathlib import Path

from manual.completions import completion_files
from manual.pages import pages


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m manual", description=__doc__)
    parser.add_argument("directory", metavar="DIRECTORY", type=Path)
    directory: Path = parser.parse_args().directory
    for path, text in {**pages(), **completion_files()}.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


if __name__ == "__main__":
    main()
