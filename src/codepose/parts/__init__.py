"""CAD parts: meshes, textures, shapes, symmetries."""
