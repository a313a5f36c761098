"""CAD files of strangers: none may name another file, which would be read from this machine's disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from codepose.parts.cad.gltf import document_of
from codepose.parts.cad.obj import CONTINUED
from codepose.parts.cad.surface import refuse
from codepose.parts.cad.text import decoded


def standing_alone(suffix: str, data: bytes) -> bytes:
    """A CAD file's content without the names of material libraries and pictures in other files.

    Args:
        suffix: Of the file's name, such as ".obj".
        data: Its content.

    Raises:
        MeshError: It is a glTF file that is useless without the others, or damaged.
    """
    if suffix == ".obj":
        lines = CONTINUED.sub(" ", decoded(data)).split("\n")
        return "\n".join(line for line in lines if line.split()[:1] != ["mtllib"]).encode("utf-8", "replace")
    if suffix == ".ply":
        end = max(0, data.find(b"end_header"))
        return re.sub(rb"[^\r\n]*TextureFile[^\r\n]*", b"comment", data[:end]) + data[end:]
    if suffix in (".gltf", ".glb"):
        for uri in _uris(document_of(data)):
            if not uri.startswith("data:"):
                refuse(f"it names another file, {uri[:60]!r}", "export GLB, which holds everything")
    return data


def _uris(document: Any) -> Iterator[str]:
    """All that is called "uri", wherever it stands in a JSON document."""
    waiting = [document]
    while waiting:
        values = waiting.pop()
        if isinstance(values, dict):
            if isinstance(values.get("uri"), str):
                yield values["uri"]
            waiting += values.values()
        elif isinstance(values, list):
            waiting += values
