# SPDX-License-Identifier: GPL-2.0-only
"""The daemon's own files and folders: logs, maps, and what a group may read."""
