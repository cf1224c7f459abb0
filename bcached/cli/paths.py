# SPDX-License-Identifier: GPL-2.0-only
"""Devices, files and sockets on the command line: shells complete them as paths."""

import click

# Not checked here: the verb that opens it says what is wrong with it, and what to do.
PATH = click.Path(readable=False)
