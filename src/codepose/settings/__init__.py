"""Frozen settings of everything a run does, and their files."""
