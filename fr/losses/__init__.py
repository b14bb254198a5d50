"""Margin losses over class shards."""
