# SPDX-License-Identifier: GPL-2.0-only
"""Verbs of a running daemon on a volume and its data: each sends requests to its socket."""
