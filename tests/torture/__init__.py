# SPDX-License-Identifier: GPL-2.0-only
"""Crash states without end: `python -m tests.torture`, or `make torture`.

It tells stories by chance and judges what cuts may leave of them, until it is told to stop. A case is named
so that it can be told again: chance:SEED, or workload:SEED:OPERATION+OPERATION+...
"""
