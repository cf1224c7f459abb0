# SPDX-License-Identifier: GPL-2.0-only
"""The read-only check of a set that may be damaged."""
