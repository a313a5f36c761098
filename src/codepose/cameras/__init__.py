"""What comes from a camera: its intrinsics and lens, photos, depth images."""
