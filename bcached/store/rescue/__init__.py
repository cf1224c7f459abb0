# SPDX-License-Identifier: GPL-2.0-only
"""Dirty data of a set that may be damaged: what is left of it, how far it can be trusted, writing it back."""
