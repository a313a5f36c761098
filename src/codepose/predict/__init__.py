"""Images from files or cameras, poses out to files."""
