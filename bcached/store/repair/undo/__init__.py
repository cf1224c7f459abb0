# SPDX-License-Identifier: GPL-2.0-only
"""The undo file of a repair: what it overwrites, and how that goes back to the devices."""
