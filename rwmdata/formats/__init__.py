"""Recordings of other tools in and out: one module a format."""
