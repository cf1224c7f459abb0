# SPDX-License-Identifier: GPL-2.0-only
"""The keys of a node: packed, cut, merged and counted. Knows no nodes."""
