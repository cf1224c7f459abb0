"""The tasks of a running set, one file per task."""
