# SPDX-License-Identifier: GPL-2.0-only
"""Demonstrations: a daemon to try, and a client session with explanations."""
