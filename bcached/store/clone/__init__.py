# SPDX-License-Identifier: GPL-2.0-only
"""Copying a member of a set to another device: only what counts, where it was."""
