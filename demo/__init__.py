"""Demonstrations: a daemon to try, and a client session with explanations."""
