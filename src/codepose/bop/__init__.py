"""BOP datasets and result files, in and out."""
