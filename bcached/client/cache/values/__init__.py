# SPDX-License-Identifier: MIT
"""Values as objects: their names, formats and times."""
