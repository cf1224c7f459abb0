# SPDX-License-Identifier: GPL-2.0-only
"""What is left of a damaged set, and how far it can be trusted."""
