"""PLY, OBJ, STL and OFF files: flavours, encodings, counts that lie, and what is cut off."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from codepose.parts import textures
from codepose.parts.cad.files import read_cad
from codepose.parts.cad.polygons import triangulate
from codepose.parts.cad.surface import MeshError, Surface
from codepose.parts.textures import painted

SQUARE = [[0, 0, 0], [100, 0, 0], [100, 100, 0], [0, 100, 0]]
ARROW = [[0, 0, 0], [100, 50, 0], [0, 100, 0], [40, 50, 0]]  # 3,000 mm^2, a quad that is not convex
V = "".join(f"v {x} {y} {z}\n" for x, y, z in SQUARE)
RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture(autouse=True)
def _longer_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textures, "TEXTURED_EDGE", 0.05)


def read(path: Path, content: str | bytes) -> list[Surface]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_cad(path)


def refusal(path: Path, content: str | bytes) -> str:
    with pytest.raises(MeshError) as caught:
        read(path, content)
    return str(caught.value)


def area(surfaces: list[Surface]) -> float:
    triangles = np.concatenate([one.triangles for one in surfaces])
    sides = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    return float(np.linalg.norm(sides, axis=1).sum()) / 2


def colors(surfaces: list[Surface]) -> set[tuple[int, ...]]:
    """Those of the painted surface's corners."""
    whole = painted(surfaces)
    assert whole.colors is not None
    return {tuple(int(c) for c in row) for row in whole.colors.reshape(-1, 3)}


# polygons


def star(points: int, stretch: float = 0.4) -> np.ndarray[Any, Any]:
    angle = np.linspace(0, 2 * np.pi, 2 * points, endpoint=False)
    radius = np.where(np.arange(2 * points) % 2, stretch, 1.0) * 50
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), 0 * angle], axis=1)


@pytest.mark.parametrize("points", [2, 3, 5, 40])
@pytest.mark.parametrize("backwards", [False, True])
def test_polygons_are_cut_as_they_are_drawn_and_face_as_before(points: int, backwards: bool) -> None:
    drawn = star(points)
    rotation = np.linalg.qr(np.random.default_rng(points).normal(size=(3, 3)))[0]
    drawn = (drawn[::-1] if backwards else drawn) @ rotation.T + (7, 8, 9)
    normal = np.cross(drawn, np.roll(drawn, -1, axis=0)).sum(axis=0) / 2  # Newell: as long as the area
    a, b, c = (drawn[triangulate(drawn, np.array([len(drawn)]))][:, k] for k in range(3))
    sides = np.cross(b - a, c - a) / 2
    np.testing.assert_allclose(sides.sum(axis=0), normal, atol=1e-9)
    assert np.linalg.norm(sides, axis=1).sum() == pytest.approx(np.linalg.norm(normal)), "none lies outside"


def test_polygons_keep_their_order_and_what_is_none_is_left_out() -> None:
    rows = np.concatenate([SQUARE[:2], ARROW, SQUARE, SQUARE[:3]]).astype(float)
    cut = triangulate(rows, np.array([2, 4, 4, 3]))
    np.testing.assert_array_equal(np.sort(cut.min(axis=1) >= 6), [False, False, True, True, True])
    np.testing.assert_array_equal(cut[2:], [[6, 7, 8], [6, 8, 9], [10, 11, 12]])


def test_a_star_drawn_in_one_stroke_crosses_itself() -> None:
    angle = 2 * np.pi * 2 / 5 * np.arange(5)
    drawn = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    with pytest.raises(MeshError, match="polygon 1 crosses itself; export the part again as triangles"):
        triangulate(drawn, np.array([5]))


# PLY


def ply(
    order: str,
    faces: list[list[int]],
    *,
    places: Any = SQUARE,
    count: str = "uchar",
    index: str = "int",
    real: str = "float",
) -> bytes:
    """Of faces with lists of any length, before them a property of a vertex that means nothing, and after them one."""
    header = (
        f"ply\nformat {order} 1.0\ncomment made by hand\nobj_info nothing\nelement vertex {len(places)}\n"
        f"property {real} x\nproperty {real} y\nproperty {real} z\nproperty short quality\n"
        f"element face {len(faces)}\nproperty list {count} {index} vertex_index\nproperty uchar flags\nend_header\n"
    ).encode()
    if order == "ascii":
        rows = [[*p, -3] for p in places] + [[len(f), *f, 7] for f in faces]
        return header + "\n".join(" ".join(map(str, row)) for row in rows).encode() + b"\n"
    end = "<" if "little" in order else ">"
    code = {
        "uchar": "B",
        "ushort": "H",
        "int": "i",
        "uint": "I",
        "char": "b",
        "short": "h",
        "float": "f",
        "double": "d",
    }
    body = b"".join(struct.pack(f"{end}3{code[real]}h", *p, -3) for p in places)
    for f in faces:
        body += struct.pack(f"{end}{code[count]}", len(f)) + struct.pack(f"{end}{len(f)}{code[index]}B", *f, 7)
    return header + body


@pytest.mark.parametrize("order", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize(
    ("count", "index"), [("uchar", "int"), ("ushort", "uint"), ("int", "uchar"), ("char", "short")]
)
@pytest.mark.parametrize("real", ["float", "double"])
def test_ply_lists_of_any_kind_and_length(tmp_path: Path, order: str, count: str, index: str, real: str) -> None:
    for faces in ([[0, 1, 2, 3]], [[0, 1, 2], [0, 2, 3]], [[0, 1, 2], [0, 1, 2, 3], [0, 2]]):
        surfaces = read(tmp_path / "part.ply", ply(order, faces, count=count, index=index, real=real))
        assert area(surfaces) == pytest.approx(10_000 if len(faces) < 3 else 15_000)


@pytest.mark.parametrize("order", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("faces", [[[0, 1, 2], [0, 2, 3]], [[0, 1, 2], [0, 1, 2, 3]]])
def test_every_cut_of_a_ply_file_is_refused(tmp_path: Path, order: str, faces: list[list[int]]) -> None:
    whole = ply(order, faces)
    for length in range(1, len(whole) - (2 if order == "ascii" else 0)):
        refusal(tmp_path / "part.ply", whole[:length])
    assert "ends early: its header counts 2 of element 'face'" in refusal(
        tmp_path / "part.ply", whole[: len(whole) - 6]
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"vertex 4", b"vertex 99999999999999999", "the file ends early: its header counts 99,999,999,999,999,999 of"),
        (b"face 2", b"face 4000000000", "the file ends early: its header counts 4,000,000,000 of element 'face'"),
        (b"vertex 4", b"vertex -4", "its header has the line 'element vertex -4'"),
        (b"float x", b"quad x", "its header has the line 'property quad x'"),
        (b"property float y\n", b"", "its vertices have no x, y and z"),
        (b"format", b"farmat", "its header does not tell text from binary"),
        (b"3 0 2 3", b"3 0 2 4", "a face names vertex 4 of 4"),
        (b"3 0 2 3", b"3 0 2 -1", "a face names vertex -1 of 4"),
        (b"3 0 2 3", b"3 0 2 x", "'x' stands where a number should be"),
        (b"3 0 2 3", b"-3 0 2 3", "a list of -3 numbers"),
    ],
)
def test_what_is_wrong_in_a_ply_file_is_named(tmp_path: Path, old: bytes, new: bytes, words: str) -> None:
    whole = ply("ascii", [[0, 1, 2], [0, 2, 3]])
    assert old in whole
    assert words in refusal(tmp_path / "part.ply", whole.replace(old, new))


@pytest.mark.parametrize("flavour", ["crlf", "latin-1", "crlf header of a binary file"])
def test_flavours_of_ply_headers(tmp_path: Path, flavour: str) -> None:
    data = ply("binary_little_endian" if "binary" in flavour else "ascii", [[0, 1, 2, 3]])
    if flavour == "crlf":
        data = data.replace(b"\n", b"\r\n")
    elif flavour == "latin-1":
        data = data.replace(b"by hand", "für Müller".encode("latin-1"))
    else:
        head, end, body = data.partition(b"end_header\n")
        data = (head + end).replace(b"\n", b"\r\n") + body
    assert area(read(tmp_path / "part.ply", data)) == pytest.approx(10_000)


@pytest.mark.parametrize(("kind", "one"), [("uchar", 255), ("ushort", 65535), ("float", 1.0)])
@pytest.mark.parametrize("names", [("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue")])
@pytest.mark.parametrize("element", ["vertex", "face"])
def test_ply_colors_of_any_kind(tmp_path: Path, kind: str, one: float, names: tuple[str, ...], element: str) -> None:
    lines = "".join(f"property {kind} {name}\n" for name in names)
    data = ply("ascii", [[0, 1, 2, 3]]).decode()
    own = f" {one} 0 0"
    if element == "vertex":
        data = data.replace("property short quality\n", "property short quality\n" + lines).replace(
            " -3\n", f" -3{own}\n"
        )
    else:
        data = data.replace("property uchar flags\n", "property uchar flags\n" + lines).replace(" 7\n", f" 7{own}\n")
    surfaces = read(tmp_path / "part.ply", data)
    assert (surfaces[0].source, colors(surfaces)) == (element, {RED})


def test_ply_pictures_by_vertex_or_by_corner(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4], pixels[:, 4:] = RED, BLUE
    Image.fromarray(pixels).save(tmp_path / "my picture.png")
    head = "ply\nformat ascii 1.0\ncomment TextureFile my picture.png\nelement vertex 4\n"
    head += "".join(f"property float {axis}\n" for axis in "xyz")
    own = "property float s\nproperty float t\nelement face 1\nproperty list uchar int vertex_indices\n"
    rows = "".join(f"{x} {y} {z} 0.1 0.5\n" for x, y, z in SQUARE)
    assert colors(read(tmp_path / "part.ply", f"{head}{own}end_header\n{rows}4 0 1 2 3\n")) == {RED}
    corners = own.replace("property float s\nproperty float t\n", "") + "property list uchar float texcoord\n"
    rows = "".join(f"{x} {y} {z}\n" for x, y, z in SQUARE)
    face = "4 0 1 2 3 8 " + "0.9 0.5 " * 4
    assert colors(read(tmp_path / "part.ply", f"{head}{corners}end_header\n{rows}{face}\n")) == {BLUE}


def test_a_ply_face_keeps_its_color_when_it_is_cut(tmp_path: Path) -> None:
    data = ply("ascii", [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2, 3]]).decode().replace("flags", "red")
    data = data.replace("uchar red\n", "uchar red\nproperty uchar green\nproperty uchar blue\n")
    for color in ("1 2 3", "4 5 6", "7 8 9"):
        data = data.replace(" 7\n", f" {color}\n", 1)
    (surface,) = read(tmp_path / "part.ply", data)
    assert surface.colors is not None
    assert surface.colors[:, 0].tolist() == [[1, 2, 3], [1, 2, 3], [4, 5, 6], [7, 8, 9], [7, 8, 9]]


# OBJ


@pytest.mark.parametrize(
    "content",
    [
        V + "f 1 2 3 4\n",
        V + "f -4 -3 -2 -1\n",
        V + "f 1// 2// 3// 4//",
        V + "vn 0 0 1\nf 1//1 2//1 3//1 4//1 # a square\n",
        V + "vt 0 0\nf 1/1 2/1 3/1 4/-1\n",
        V + "f 1 2 \\\n 3 4\n",
        V.replace("v ", "v\t ").replace("\n", "\r\n") + "f\t1 2 3 4\r\n",
        V.replace("\n", "\r") + "f 1 2 3 4\r",
        "\ufeff" + V + "o square\ng f 1 2 3\ns off\nl 1 2\np 1\nf 1 2 3 4",
        V.replace("100", "1e2") + "f 1 2 3 4\n",
        "v 9 9 9\nf -1 -1 -1\n" + V + "f -4 -3 -2 -1\n",
    ],
)
def test_flavours_of_obj_files(tmp_path: Path, content: str) -> None:
    assert area(read(tmp_path / "part.obj", content)) == pytest.approx(10_000)
    assert area(read(tmp_path / "part.obj", content.removeprefix("\ufeff").encode("utf-16"))) == pytest.approx(10_000)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (V + "f 1 2 5\n", "a face names vertex 4 of 4"),
        (V + "f 0 1 2\n", "a face names vertex 0, and the first is 1"),
        (V + "f 1 2 -5\n", "a face names vertex -1 of 4"),
        (V + "f 1/1 2/1 3/1\n", "a face names vertex 0 of 0"),
        (V + "f 1 2 three\n", "'three' stands where a number should be"),
        (V + "f 1 2 1.5\n", "an index is no whole number"),
        (V + "v 1,5 2,5 3,5\nf 1 2 3\n", "'1,5' stands where a number should be"),
        (V + "v 1 2\nf 1 2 3\n", "a vertex is given as 'v 1 2'"),
        (V + "surf 0 1 0 1 1 2 3 4\nf 1 2 3\n", "free-form surfaces, which are not read; export the part as triangles"),
        (V + "l 1 2\n", "has no faces"),
    ],
)
def test_what_is_wrong_in_an_obj_file_is_named(tmp_path: Path, content: str, words: str) -> None:
    assert words in refusal(tmp_path / "part.obj", content)


@pytest.mark.parametrize(
    ("library", "statement"),
    [
        ("map_Kd red.png", "mtllib a.mtl"),
        ("map_Kd textures/red.png", "mtllib a.mtl"),
        ("map_Kd textures\\red.png", "mtllib a.mtl"),
        ("map_Kd C:\\Users\\Mia\\RED.PNG", "mtllib a.mtl"),
        ('map_Kd "red.png"', "mtllib a.mtl"),
        ("map_kd my red picture.png", "mtllib other.mtl a.mtl"),
        ("map_Kd -s 1 1 1 -o 0 0 -bm 0.5 -clamp on my red picture.png", "mtllib a.mtl"),
        ("map_Kd -blendu on -mm 0 1 -imfchan r red.png\r", "mtllib my materials.mtl"),
        ("Kd 0 0 1\nmap_Kd red.png", "mtllib a.mtl"),
        ("Kd 1 0 0", "mtllib sub/a.mtl"),
        ("Kd 1 0 0", "mtllib A.MTL"),
    ],
)
def test_obj_materials_and_pictures_are_found(tmp_path: Path, library: str, statement: str) -> None:
    red = Image.new("RGB", (2, 2), RED)
    (tmp_path / "textures").mkdir()
    (tmp_path / "sub").mkdir()
    for name in ("red.png", "textures/red.png", "my red picture.png"):
        red.save(tmp_path / name)
    for name in ("a.mtl", "my materials.mtl", "sub/a.mtl"):
        (tmp_path / name).write_text(f"newmtl rot für mich\n{library}\n")
    (tmp_path / "other.mtl").write_text("newmtl blue\nKd 0 0 1\n")
    content = f"{statement}\n{V}vt 0.5 0.5\nusemtl rot für mich\nf 1/1 2/1 3/1 4/1\n"
    for encoding in ("utf-8", "latin-1"):
        surfaces = read(tmp_path / "part.obj", content.encode(encoding))
        assert colors(surfaces) == {RED}
        assert surfaces[0].missing == ()


def test_options_of_a_picture_scale_move_and_clamp_it(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4], pixels[:, 4:] = RED, BLUE
    Image.fromarray(pixels).save(tmp_path / "two.png")
    content = f"mtllib a.mtl\n{V}vt 1.2 0.5\nusemtl a\nf 1/1 2/1 3/1 4/1\n"
    for options, wanted in (("", RED), ("-s 0.5 1", BLUE), ("-o 0.5", BLUE), ("-clamp on", BLUE), ("-o -2", RED)):
        (tmp_path / "a.mtl").write_text(f"newmtl a\nmap_Kd {options} two.png\n")
        assert colors(read(tmp_path / "part.obj", content)) == {wanted}, options


def test_obj_colors_of_vertices_materials_and_none(tmp_path: Path) -> None:
    (tmp_path / "a.mtl").write_text("newmtl a\nKd 0 0 1\nnewmtl grey\nKd 0.5\n")
    colored = "".join(f"v {x} {y} {z} 1 0 0\n" for x, y, z in SQUARE)
    assert colors(read(tmp_path / "part.obj", f"mtllib a.mtl\n{colored}usemtl a\nf 1 2 3 4\n")) == {RED}
    assert colors(read(tmp_path / "part.obj", f"{colored.replace(' 1 0 0', ' 255 0 0')}f 1 2 3 4\n")) == {RED}
    split = f"mtllib a.mtl\n{V}usemtl a\nf 1 2 3\nusemtl none\nf 1 3 4\nusemtl grey\nf 1 2 3\n"
    assert colors(read(tmp_path / "part.obj", split)) == {BLUE, (153, 153, 153), (128, 128, 128)}


# STL


FACET = "facet normal 0 0 1\n outer loop\n  vertex 0 0 0\n  vertex 100 0 0\n  vertex 100 100 0\n endloop\nendfacet\n"
ASCII = f"solid part\n{FACET}{FACET}endsolid part\n"


def binary(count: int = 2, header: bytes = b"", attribute: int = 0) -> bytes:
    facet = struct.pack("<12fH", 0, 0, 1, 0, 0, 0, 100, 0, 0, 100, 100, 0, attribute)
    return header.ljust(80, b"\0") + struct.pack("<I", count) + 2 * facet


@pytest.mark.parametrize(
    "content",
    [
        ASCII, ASCII.upper(), ASCII.replace("\n", "\r\n"), ASCII.replace("part", "facet vertex endfacet"),
        ASCII.replace("100 ", "1.0E+02 "), f"\n  {ASCII}",
        f"solid\n{FACET}endsolid\nsolid\n{FACET}endsolid\n", "\ufeff" + ASCII,
        binary(), binary(header=b"solid exported by someone"), binary() + b"\r\n", binary() + bytes(49),
        ASCII.replace("part", "Gehäuse").encode("latin-1"),
    ],
)  # fmt: skip
def test_flavours_of_stl_files(tmp_path: Path, content: str | bytes) -> None:
    assert area(read(tmp_path / "part.stl", content)) == pytest.approx(10_000)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (binary(3), "the file ends early: its header counts 3 triangles, and 2 are there"),
        (binary(0xFFFFFFFF), "its header counts 4,294,967,295 triangles, and 2 are there"),
        (binary(1), "its header counts 1 triangles, and there is room for 2"),
        (binary(0), "its header counts 0 triangles, and there is room for 2"),
        (binary()[:90], "it is damaged, or no STL file"),
        (ASCII.replace("endsolid part\n", ""), "the file ends early, after 2 triangles"),
        (ASCII[: ASCII.rindex("vertex")], "the file ends early, after 1 triangles"),
        (ASCII.replace("  vertex 100 100 0\n", "", 1), "it is damaged: 2 triangles with 5 corners"),
        (ASCII.replace("100 100", "100 x"), "'x' stands where a number should be"),
    ],
)
def test_what_is_wrong_in_an_stl_file_is_named(tmp_path: Path, content: str | bytes, words: str) -> None:
    assert words in refusal(tmp_path / "part.stl", content)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (binary(), {(153, 153, 153)}),
        (binary(attribute=0b1_11111_00000_00000), {RED}),  # VisCAM: the first bit says that there is one
        (binary(attribute=0b0_11111_00000_00000), {(153, 153, 153)}),
        (binary(header=b"COLOR=\x00\x00\xff\xff", attribute=0b0_00000_00000_11111), {RED}),  # Magics: the other way
        (binary(header=b"COLOR=\x00\x00\xff\xff", attribute=0b1_00000_00000_11111), {BLUE}),
    ],
)
def test_colors_of_stl_faces(tmp_path: Path, content: bytes, wanted: set[tuple[int, ...]]) -> None:
    assert colors(read(tmp_path / "part.stl", content)) == wanted


# OFF


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("OFF\n4 1 0\n{v}\n4 0 1 2 3\n", (153, 153, 153)),
        ("OFF 4 1 0 # counts\n\n{v}\n# faces\n4 0 1 2 3 255 0 0\n", RED),
        ("OFF\n4 1 0\n{v}\n4 0 1 2 3 1.0 0.0 0.0\n", RED),
        ("COFF\n4 1 0\n{c}\n4 0 1 2 3\n", RED),
    ],
)
def test_flavours_of_off_files(tmp_path: Path, content: str, wanted: tuple[int, ...]) -> None:
    v = "\n".join(f"{x} {y} {z}" for x, y, z in SQUARE)
    surfaces = read(tmp_path / "part.off", content.format(v=v, c=v.replace("\n", " 255 0 0 255\n") + " 255 0 0 255"))
    assert area(surfaces) == pytest.approx(10_000)
    assert colors(surfaces) == {wanted}


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.replace("OFF", "4OFF"), lambda s: s.replace("4 1 0", "4 2 0"), lambda s: s.replace("4 1 0", "x"),
        lambda s: s.replace("4 0 1 2 3", "4 0 1 2"), lambda s: s.replace("4 0 1 2 3", "4 0 1 2 4"),
        lambda s: s.replace("4 1 0", "99999999999 1 0"), lambda s: s.replace("100 0 0", "100 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_an_off_file_is_refused(tmp_path: Path, change: Callable[[str], str]) -> None:
    v = "\n".join(f"{x} {y} {z}" for x, y, z in SQUARE)
    refusal(tmp_path / "part.off", change(f"OFF\n4 1 0\n{v}\n4 0 1 2 3\n"))
