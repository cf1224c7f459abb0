# SPDX-License-Identifier: GPL-2.0-only
"""From devices to an open set: everything is read and checked before anything is written."""
