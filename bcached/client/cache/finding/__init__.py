# SPDX-License-Identifier: MIT
"""How an object is found and read again."""
