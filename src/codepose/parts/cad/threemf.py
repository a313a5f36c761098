"""3MF files: the objects that are built, at their places, in millimetres, with their colours."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from codepose.parts.cad.surface import Surface, check_count, corners_of, refuse
from codepose.parts.cad.text import numbers, whole
from codepose.parts.cad.threemf_looks import Palette, colored, read_palettes

_MILLIMETRES = {
    "micron": 0.001, "millimeter": 1.0, "centimeter": 10.0, "inch": 25.4, "foot": 304.8, "meter": 1000.0,
}  # fmt: skip
_CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
_UNDERSTOOD = {
    _CORE,
    "http://schemas.microsoft.com/3dmanufacturing/material/2015/02",
    "http://schemas.microsoft.com/3dmanufacturing/production/2015/06",
}
_LARGEST = 512 * 2**20  # bytes of one file in the archive, unpacked
_MOST_ELEMENTS = 4_000_000  # of XML; each takes some 300 bytes
_MOST_PLACES = 10_000  # of objects in each other
_NO_SUPPORT = ("support", "solidsupport")  # types of objects that are no part of the part


@dataclass
class _Model:
    """One XML file: its objects by number, and what colours them."""

    name: str
    root: Element
    unit: float
    objects: dict[str, Element] = field(default_factory=dict)
    palettes: dict[str, Palette] = field(default_factory=dict)


def read_3mf(_: Path, data: bytes) -> list[Surface]:
    """The surfaces that a 3MF file builds, in mm.

    Raises:
        MeshError: The file is damaged or absurdly large, or needs an extension that is not read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _surfaces(_Files(archive))
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError):
        return refuse("it is damaged, or no 3MF file")


class _Files:
    """The models in an archive, each read once."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._names = {name.lower().lstrip("/"): name for name in archive.namelist()}
        self._models: dict[str, _Model] = {}

    def content(self, name: str) -> bytes | None:
        """A file's content, None where there is no such file."""
        found = self._names.get(name.lower().lstrip("/"))
        if found is None:
            return None
        if self._archive.getinfo(found).file_size > _LARGEST:
            refuse(f"its {name} would have {self._archive.getinfo(found).file_size:,} bytes", "export a coarser mesh")
        with self._archive.open(found) as file:
            return file.read(_LARGEST)

    def root(self) -> _Model:
        """The model that the archive's relations name."""
        relations = self.content("_rels/.rels")
        targets = [] if relations is None else list(_parsed(relations)[0])
        for target in targets:
            if target.get("Type", "").endswith("/3dmodel"):
                return self.model(target.get("Target", ""))
        return self.model("3D/3dmodel.model")

    def model(self, name: str) -> _Model:
        """The objects in one of the XML files."""
        if name not in self._models:
            data = self.content(name)
            if data is None:
                return refuse(f"it is damaged: {name or 'its model'} is not in it")
            root, prefixes = _parsed(data)
            for prefix in root.get("requiredextensions", "").split():
                if prefixes.get(prefix) not in _UNDERSTOOD:
                    refuse(f"it needs the 3MF extension {prefixes.get(prefix, prefix)}, which is not read",
                           "export the part without it")  # fmt: skip
            if root.tag != f"{{{_CORE}}}model":
                refuse("it is of a draft before 3MF 1.0, or no 3MF model", "export the part as 3MF 1.0 or later")
            unit = root.get("unit", "millimeter")
            if unit not in _MILLIMETRES:
                refuse(f"it is damaged: its unit is {unit[:40]!r}")
            model = _Model(name, root, _MILLIMETRES[unit])
            resources = root.find(f"{{{_CORE}}}resources")
            for one in [] if resources is None else resources.iter(f"{{{_CORE}}}object"):
                model.objects[one.get("id", "")] = one
            if resources is not None:
                model.palettes = read_palettes(resources, self.content)
            self._models[name] = model
        return self._models[name]


def _parsed(data: bytes) -> tuple[Element, dict[str, str]]:
    """The root of an XML file, and the namespaces by prefix."""
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        refuse("it is damaged: its XML declares entities")
    prefixes, root, count = dict[str, str](), None, 0
    try:
        for event, found in ElementTree.iterparse(io.BytesIO(data), events=("start-ns", "start")):
            count += event == "start"
            if event == "start-ns":
                prefixes.setdefault(*found)
            elif root is None:
                root = found
            if count > _MOST_ELEMENTS:
                refuse(f"it has more than {_MOST_ELEMENTS:,} vertices and triangles", "export a coarser mesh")
    except ElementTree.ParseError as error:
        refuse(f"it is damaged, or cut off: {error}")
    assert root is not None
    return root, prefixes


def _surfaces(files: _Files) -> list[Surface]:
    main, surfaces, total = files.root(), list[Surface](), 0
    for model, one, place in _objects(files, main):
        for surface in _mesh(model, one):
            total += len(surface.triangles)
            check_count(total)
            surfaces.append(_transformed(surface, place * main.unit))
    return surfaces


def _objects(files: _Files, main: _Model) -> Iterator[tuple[_Model, Element, NDArray[np.float64]]]:
    """Each object with a mesh of its own, and its (4, 3) place in the main model's unit."""
    build = main.root.find(f"{{{_CORE}}}build")
    items = [] if build is None else build.findall(f"{{{_CORE}}}item")
    waiting = [(*_referenced(files, main, item), _transform(item), 0) for item in reversed(items)]
    for count in range(_MOST_PLACES):
        if not waiting:
            return
        model, one, place, depth = waiting.pop()
        if depth > 100:
            refuse("it is damaged: an object holds itself")
        if one.get("type", "model") in _NO_SUPPORT:
            continue
        yield model, one, place
        for part in one.iterfind(f"{{{_CORE}}}components/{{{_CORE}}}component"):
            inner = _transform(part)
            inner = np.vstack([inner[:3] @ place[:3], inner[3] @ place[:3] + place[3]])
            waiting.append((*_referenced(files, model, part), inner, depth + 1))
        if len(waiting) + count > _MOST_PLACES:
            break
    refuse(f"it places objects more than {_MOST_PLACES:,} times", "export the part without copies")


def _referenced(files: _Files, model: _Model, reference: Element) -> tuple[_Model, Element]:
    """The object that a build item or component names, in this or another of the archive's models."""
    path = next((value for key, value in reference.attrib.items() if key.endswith("}path")), None)
    other = model if path is None else files.model(path)
    number = reference.get("objectid", "")
    if number not in other.objects:
        refuse(f"it is damaged: object {number[:20]!r} is not in it")
    return other, other.objects[number]


def _transform(reference: Element) -> NDArray[np.float64]:
    """(4, 3) a row (x, y, z, 1) is multiplied with."""
    words = reference.get("transform", "1 0 0 0 1 0 0 0 1 0 0 0").split()
    if len(words) != 12:
        refuse("it is damaged: a transform has not 12 numbers")
    return numbers(words).reshape(4, 3)


def _mesh(model: _Model, one: Element) -> list[Surface]:
    mesh = one.find(f"{{{_CORE}}}mesh")
    if mesh is None:
        return []
    for inner in mesh:
        if inner.tag.rpartition("}")[2] == "beamlattice":
            refuse("it has a beam lattice, which is not read", "export the part as triangles")
    vertices = mesh.findall(f"{{{_CORE}}}vertices/{{{_CORE}}}vertex")
    faces = mesh.findall(f"{{{_CORE}}}triangles/{{{_CORE}}}triangle")
    check_count(len(faces))
    places = numbers([one.get(axis, "?") for one in vertices for axis in "xyz"]).reshape(-1, 3)
    index = whole([one.get(key, "?") for one in faces for key in ("v1", "v2", "v3")]).reshape(-1, 3)
    own = corners_of(places, index)
    return colored(own, faces, (one.get("pid", ""), one.get("pindex", "0")), model.palettes)


def _transformed(surface: Surface, place: NDArray[np.float64]) -> Surface:
    moved = surface.triangles @ place[:3] + place[3]
    colors, uv = surface.colors, surface.uv
    if np.linalg.det(place[:3]) < 0:
        moved = moved[:, ::-1]
        colors = None if colors is None else colors[:, ::-1]
        uv = None if uv is None else uv[:, ::-1]
    return Surface(moved, surface.source, colors, surface.picture, uv, surface.missing)
