# SPDX-License-Identifier: GPL-2.0-only
"""Verbs on devices that no daemon has open."""
