"""Clients, and daemons for them to talk to."""
