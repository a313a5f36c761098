"""Readers of CAD files: PLY, OBJ, STL, glTF, 3MF and OFF, each to `Surface`s or to a `MeshError` that says why not."""
