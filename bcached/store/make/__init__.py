# SPDX-License-Identifier: GPL-2.0-only
"""Laying out a set."""
