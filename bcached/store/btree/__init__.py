# SPDX-License-Identifier: GPL-2.0-only
"""The btree on its devices: nodes read, written out and replaced."""
