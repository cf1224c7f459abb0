"""Laying out a set."""
