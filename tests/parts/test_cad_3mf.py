"""3MF files: units, places, colours, what is not read, and archives that unpack to far more than they are."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codepose.parts.cad import threemf
from codepose.parts.cad.files import read_cad
from codepose.parts.cad.surface import MeshError, Surface

NAMESPACES = " ".join(
    f'{prefix}="http://schemas.microsoft.com/3dmanufacturing/{name}"'
    for prefix, name in {
        "xmlns": "core/2015/02", "xmlns:m": "material/2015/02", "xmlns:p": "production/2015/06",
        "xmlns:b": "beamlattice/2017/02", "xmlns:s": "slice/2015/07",
    }.items()
)  # fmt: skip
VERTICES = '<vertices><vertex x="0" y="0" z="0"/><vertex x="10" y="0" z="0"/><vertex x="0" y="10" z="0"/></vertices>'
TRIANGLE = f'<mesh>{VERTICES}<triangles><triangle v1="0" v2="1" v3="2"/></triangles></mesh>'
OBJECT = f'<object id="1">{TRIANGLE}</object>'


def written(path: Path, resources: str, build: str, *, root: str = "", files: dict[str, bytes] | None = None) -> Path:
    model = f"<model {NAMESPACES} {root}><resources>{resources}</resources><build>{build}</build></model>"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("3D/3dmodel.model", model)
        for name, data in (files or {}).items():
            archive.writestr(name, data)
    return path


def read(folder: Path, resources: str, build: str, **more: object) -> list[Surface]:
    return read_cad(written(folder / "part.3mf", resources, build, **more))  # type: ignore[arg-type]


def refusal(folder: Path, resources: str, build: str, **more: object) -> str:
    with pytest.raises(MeshError) as caught:
        read(folder, resources, build, **more)
    return str(caught.value)


@pytest.mark.parametrize(
    ("unit", "mm"),
    [("micron", 0.001), ("millimeter", 1), ("centimeter", 10), ("inch", 25.4), ("foot", 304.8), ("meter", 1000)],
)
def test_units_become_millimetres(tmp_path: Path, unit: str, mm: float) -> None:
    (surface,) = read(
        tmp_path, OBJECT, '<item objectid="1" transform="1 0 0 0 1 0 0 0 1 2 0 0"/>', root=f'unit="{unit}"'
    )
    np.testing.assert_allclose(surface.triangles[0], np.array([[2, 0, 0], [12, 0, 0], [2, 10, 0]]) * mm)


def test_components_are_placed_in_each_other_and_mirrored_ones_turned(tmp_path: Path) -> None:
    parts = (
        '<object id="2"><components>'
        '<component objectid="1" transform="0 1 0 -1 0 0 0 0 1 5 0 0"/></components></object>'
        f"{OBJECT.replace('id=', 'type=' + chr(34) + 'support' + chr(34) + ' id=').replace('1', '9', 1)}"
    )
    build = '<item objectid="2" transform="-2 0 0 0 2 0 0 0 2 0 0 7"/><item objectid="9"/>'
    (surface,) = read(tmp_path, OBJECT + parts, build)  # without the support
    corners = [[-10, 0, 7], [-10, 20, 7], [10, 0, 7]]  # (x, y) -> (5 - y, x) -> (-2x, 2y)
    np.testing.assert_allclose(np.sort(surface.triangles[0], axis=0), np.sort(corners, axis=0))
    a, b, c = surface.triangles[0]
    assert np.cross(b - a, c - a)[2] > 0


def test_objects_in_another_model_of_the_archive(tmp_path: Path) -> None:
    other = f"<model {NAMESPACES}><resources>{OBJECT}</resources></model>".encode()
    build = '<item objectid="1" p:path="/3D/Other.model"/>'
    assert len(read(tmp_path, "", build, files={"3D/Other.model": other})) == 1
    assert "object '1' is not in it" in refusal(tmp_path, "", '<item objectid="1"/>', files={"3D/Other.model": other})


def test_colors_of_materials_groups_and_pictures(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (2, 2), (0, 0, 255)).save(picture, "PNG")
    palettes = (
        '<basematerials id="5"><base name="a" displaycolor="#00FF00"/><base name="b" displaycolor="#FF000080"/>'
        '</basematerials><m:colorgroup id="6"><m:color color="#010203"/><m:color color="#040506"/></m:colorgroup>'
        '<m:texture2d id="7" path="/3D/blue.png" contenttype="image/png" tilestyleu="mirror" tilestylev="none"/>'
        '<m:texture2dgroup id="8" texid="7"><m:tex2coord u="0.5" v="0.25"/></m:texture2dgroup>'
    )
    faces = (
        '<triangle v1="0" v2="1" v3="2"/><triangle v1="0" v2="1" v3="2" pid="6" p1="0" p2="1" p3="0"/>'
        '<triangle v1="0" v2="1" v3="2" pid="8" p1="0"/>'
    )
    one = f'<object id="1" pid="5" pindex="1"><mesh>{VERTICES}<triangles>{faces}</triangles></mesh></object>'
    files = {"3D/blue.png": picture.getvalue()}
    plain, mixed, pictured = read(tmp_path, palettes + one, '<item objectid="1"/>', files=files)
    assert plain.colors is not None
    assert mixed.colors is not None
    assert plain.colors[0].tolist() == [[255, 0, 0]] * 3
    assert mixed.colors[0].tolist() == [[1, 2, 3], [4, 5, 6], [1, 2, 3]]
    assert pictured.picture is not None
    assert pictured.uv is not None
    assert (pictured.picture.pixels == (0, 0, 255)).all()
    assert (pictured.picture.wrap, pictured.uv[0, 0].tolist()) == (("mirror", "clamp"), [0.5, 0.25])
    assert "its picture '/3D/blue.png' is not in it" in refusal(tmp_path, palettes + one, '<item objectid="1"/>')


@pytest.mark.parametrize(
    ("resources", "root", "words"),
    [
        (
            OBJECT,
            'requiredextensions="s"',
            "needs the 3MF extension http://schemas.microsoft.com/3dmanufacturing/slice",
        ),
        (OBJECT, 'requiredextensions="nobody"', "needs the 3MF extension nobody"),
        (OBJECT, 'unit="yard"', "its unit is 'yard'"),
        (OBJECT.replace("</mesh>", "<b:beamlattice/></mesh>"), "", "it has a beam lattice, which is not read"),
        (OBJECT.replace('x="10"', 'x="ten"'), "", "'ten' stands where a number should be"),
        (OBJECT.replace('v3="2"', 'v3="3"'), "", "a face names vertex 3 of 3"),
        (OBJECT.replace('v3="2"', ""), "", "'?' stands where a number should be"),
        (OBJECT.replace("</mesh>", ""), "", "it is damaged, or cut off"),
        ('<m:multiproperties id="3" pids="1"/>' + OBJECT, "", "it mixes materials in one colour"),
        ('<object id="1"><components><component objectid="1"/></components></object>', "", "an object holds itself"),
    ],
)
def test_what_would_be_lost_or_read_wrong_is_refused(tmp_path: Path, resources: str, root: str, words: str) -> None:
    assert words in refusal(tmp_path, resources, '<item objectid="1"/>', root=root)


def test_a_draft_of_the_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "part.3mf"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("3D/3dmodel.model", '<model xmlns="http://schemas.microsoft.com/3dmanufacturing/2013/01"/>')
    with pytest.raises(MeshError, match=r"it is of a draft before 3MF 1\.0, or no 3MF model"):
        read_cad(path)


def test_what_unpacks_to_far_more_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threemf, "_LARGEST", 10_000)
    path = written(tmp_path / "part.3mf", OBJECT + " " * 10_000, '<item objectid="1"/>')
    assert path.stat().st_size < 1000
    with pytest.raises(MeshError, match=r"its 3D/3dmodel\.model would have 10,\d{3} bytes"):
        read_cad(path)


def test_counts_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubled = "".join(
        f'<object id="{k}"><components>{f"<component objectid={chr(34)}{k - 1}{chr(34)}/>" * 2}</components></object>'
        for k in range(2, 60)
    )
    monkeypatch.setattr(threemf, "_MOST_PLACES", 500)
    assert "it places objects more than 500 times" in refusal(tmp_path, OBJECT + doubled, '<item objectid="59"/>')
    monkeypatch.setattr(threemf, "_MOST_ELEMENTS", 8)
    assert "it has more than 8 vertices and triangles" in refusal(tmp_path, OBJECT, '<item objectid="1"/>')


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    path = tmp_path / "part.3mf"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("3D/3dmodel.model", '<!DOCTYPE m [<!ENTITY a "aaaa">]><model>&a;</model>')
    with pytest.raises(MeshError, match="its XML declares entities"):
        read_cad(path)
