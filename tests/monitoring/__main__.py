# SPDX-License-Identifier: GPL-2.0-only
"""Draw the dashboard from the metrics of a daemon at work, and print what each of its queries returns."""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from .prometheus import filled_in, panels, watched_daemon
from .rendering import amount, curves_of, rendered

SECONDS = 30


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.monitoring", description=__doc__)
    parser.add_argument("picture", type=Path, help="where to write it, such as dashboard.svg")
    parser.add_argument(
        "--rounds", type=int, default=20, help="of work by the daemon; each takes about a second"
    )
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bcached-") as folder,
        watched_daemon(Path(folder), options.rounds) as prometheus,
    ):
        options.picture.write_text(rendered(prometheus, SECONDS))
        without = 0
        for panel in panels():
            print(panel["title"])
            for target in panel["targets"]:
                print(f"    {filled_in(target['expr'])}")
            curves = list(curves_of(panel, prometheus, SECONDS))
            without += not curves
            for legend, values in curves:
                unit = panel["fieldConfig"]["defaults"].get("unit", "short")
                print(f"        {legend:40} {amount(values[-1], unit) if values else 'no number yet'}")
    print(f"{len(panels())} panels, {without} without data; the picture is {options.picture}")
    return 1 if without else 0


if __name__ == "__main__":
    sys.exit(main())
