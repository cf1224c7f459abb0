# SPDX-License-Identifier: GPL-2.0-only
"""Verbs of a running daemon, but for those on volumes: each sends requests to its socket."""
