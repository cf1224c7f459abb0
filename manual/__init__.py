# SPDX-License-Identifier: GPL-2.0-only
"""Man pages and completion files, made of the texts that --help and config/bcached.toml have.

Each known generator does a part of that: click-man writes one page for every verb and sub-verb,
argparse-manpage knows the daemon only, and neither reads the configuration. This one needs only what bcached
itself is installed with, so `make install` downloads nothing for it.
"""
