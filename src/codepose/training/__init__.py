"""Training: run folders, the loop, and its stages."""
