# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl gc`: collect garbage now."""

import click

from bcached.cli.answer import answer
from bcached.cli.global_options import GlobalOptions, pass_options
from bcached.cli.online.daemon import connected


@click.command
@click.option("--no-wait", is_flag=True, help="Only request it; do not wait for its end.")
@pass_options
def gc(options: GlobalOptions, no_wait: bool) -> None:
    """Collect garbage now: determine which sectors are in use, and which gens the index still holds."""
    with connected(options) as client:
        client.collect_garbage(wait=not no_wait)
        found = {} if no_wait else client.status().gc_found
    answer(options, found, lambda: "garbage collection requested" if no_wait else in_words(found))


def in_words(found: dict[str, int]) -> str:
    """Returns a line on what a collection found and did."""
    counted = {name: found.get(name, 0) for name in FOUND}
    return "garbage collected: " + ", ".join(f"{FOUND[name]} {count:,}" for name, count in counted.items())


FOUND = {
    "leaves": "leaves",
    "pointers": "pointers",
    "stale_pointers": "of them stale",
    "leaves_rewritten": "leaves rewritten",
    "nodes_saved": "nodes saved",
    "sectors_moved": "sectors moved",
    "milliseconds": "milliseconds",
}
