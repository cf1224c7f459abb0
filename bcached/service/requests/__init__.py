# SPDX-License-Identifier: GPL-2.0-only
"""The requests of a connection: run in order, answered in order. Knows no method and no transport."""
