"""The configuration: files, checks, and the options made from it."""
