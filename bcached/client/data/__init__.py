# SPDX-License-Identifier: MIT
"""Reads and writes of the data itself, at the sectors of a key. Knows no requests."""
