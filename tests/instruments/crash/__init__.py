# SPDX-License-Identifier: GPL-2.0-only
"""Crash states: drawn from a log of writes, opened, and judged against the ledgers."""
