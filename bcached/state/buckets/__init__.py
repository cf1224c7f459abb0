# SPDX-License-Identifier: GPL-2.0-only
"""Buckets of one member: states, reserves, replacement, the next step. Knows no sectors, no index."""
