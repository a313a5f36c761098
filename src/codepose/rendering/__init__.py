"""Meshes at poses to images: the rasteriser and its shading."""
