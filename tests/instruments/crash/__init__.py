"""Crash states: drawn from a log of writes, opened, and judged against the ledgers."""
