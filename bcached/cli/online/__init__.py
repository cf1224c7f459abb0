# SPDX-License-Identifier: GPL-2.0-only
"""Verbs of a running daemon: each sends requests to its socket."""
