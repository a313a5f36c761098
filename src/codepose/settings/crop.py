"""Two numbers that every part of the program has to agree on: how what is encoded is cut out."""

GRID = 16
"""Crops and scenes are a multiple of it, in pixels; a backbone's stride divides it."""
ROI_PAD = 1.2
"""Side of the square region that is encoded, over the longer side of the box; the codebook's, too."""
