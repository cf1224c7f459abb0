"""The read-only check of a set that may be damaged."""
