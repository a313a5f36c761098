"""Readers of CAD files, each to `Surface`s or to a `MeshError` that says why not."""
