"""Estimation: images to poses."""
