# SPDX-License-Identifier: GPL-2.0-only
"""bcachectl: one file for each verb, which makes one call of client or store and prints the result."""
