"""The tasks of a running set, one file a task."""
