"""Snapshots and training states: contents, writer, resume."""
