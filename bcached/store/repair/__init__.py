# SPDX-License-Identifier: GPL-2.0-only
"""Repair of a set on its devices, in steps that its owner asks for."""
