"""Poses in, better poses out."""
