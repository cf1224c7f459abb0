# SPDX-License-Identifier: GPL-2.0-only
"""The journal on its devices: the rings, the entries written, the entries read back."""
