"""CAD files of kinds that users report trouble with: read with the right size and colours, or refused in words."""

from __future__ import annotations

import gzip
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codepose.parts import textures
from codepose.parts.cad import files
from codepose.parts.cad.files import read_cad
from codepose.parts.cad.surface import MeshError
from codepose.parts.inspection import inspect
from codepose.parts.mesh import Unit, load_mesh
from codepose.parts.textures import painted

DATA = Path(__file__).parents[1] / "data" / "cad"
GREY, RED, BLUE, ORANGE = (153, 153, 153), (230, 26, 26), (20, 20, 230), (255, 188, 0)
MIXED = (126, 58, 126)  # half of the picture red, half blue, a yellow corner
U_PROFILE, L_PROFILE, BRICK = 24_400.0, 21_300.0, 24_800.0  # mm^2


def area_of(triangles: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.linalg.norm(np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]), axis=1) / 2


def mean_color(path: Path) -> np.ndarray[Any, Any]:
    """(3,) of the whole surface."""
    whole = painted(read_cad(path))
    assert whole.colors is not None
    return np.average(whole.colors.mean(axis=1), axis=0, weights=area_of(whole.triangles))


@pytest.fixture(autouse=True)
def _longer_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textures, "TEXTURED_EDGE", 0.05)


@pytest.mark.parametrize(
    ("name", "unit", "area", "size", "color"),
    [
        ("01-concave-ngon/u_ngon.obj", "mm", U_PROFILE, (100, 70, 40), GREY),
        ("01-concave-ngon/u_ngon.ply", "mm", U_PROFILE, (100, 70, 40), GREY),
        ("01-concave-ngon/u_ngon_bin.ply", "mm", U_PROFILE, (100, 70, 40), GREY),
        ("01-concave-ngon/wallhole.obj", "mm", 721.421, (10, 15, 10), GREY),
        ("03-gltf-quantized/reference.glb", "m", L_PROFILE, (120, 80, 30), GREY),
        ("03-gltf-quantized/i16_normalized.glb", "m", L_PROFILE, (120, 80, 30), GREY),
        ("03-gltf-quantized/u8_normalized.glb", "m", 21_349.4, (120, 80, 30.1), GREY),
        ("04-gltf-second-uv/texcoord1_blue.glb", "m", BRICK, (100, 60, 40), BLUE),
        ("05-gltf-texture-transform/offset_blue.glb", "m", BRICK, (100, 60, 40), BLUE),
        ("09-mixed-polygons/mixed_ascii.ply", "mm", L_PROFILE, (120, 80, 30), GREY),
        ("09-mixed-polygons/mixed_le.ply", "mm", L_PROFILE, (120, 80, 30), GREY),
        ("10-stl-headers/reference.stl", "mm", L_PROFILE, (120, 80, 30), GREY),
        ("10-stl-headers/trailing_bytes.stl", "mm", L_PROFILE, (120, 80, 30), GREY),
        ("12-ply-tristrips/tristrips.ply", "mm", L_PROFILE, (120, 80, 30), GREY),
        ("13-obj-texture-paths/plain.obj", "mm", BRICK, (100, 60, 40), MIXED),
        ("13-obj-texture-paths/options.obj", "mm", BRICK, (100, 60, 40), MIXED),
        ("13-obj-texture-paths/backslash.obj", "mm", BRICK, (100, 60, 40), MIXED),
        ("14-texture-modes/rgb.obj", "mm", BRICK, (100, 60, 40), MIXED),
        ("14-texture-modes/float_tiff.obj", "mm", BRICK, (100, 60, 40), (86, 86, 86)),
        ("16-gltf-vertex-colors/color_float.glb", "m", BRICK, (100, 60, 40), ORANGE),
        ("16-gltf-vertex-colors/color_ubyte.glb", "m", BRICK, (100, 60, 40), ORANGE),
        ("16-gltf-vertex-colors/color_times_factor.glb", "m", BRICK, (100, 60, 40), ORANGE),
        ("16-gltf-vertex-colors/specgloss_orange.glb", "m", BRICK, (100, 60, 40), ORANGE),
        ("18-odd-numbers/utm_double.ply", "m", L_PROFILE, (120, 80, 30), GREY),
        ("19-3mf-units/inch.3mf", "mm", L_PROFILE, (120, 80, 30), GREY),
        ("19-3mf-units/mm.3mf", "inch", L_PROFILE, (120, 80, 30), GREY),
        ("20-obj-flavours/bom.obj", "mm", L_PROFILE, (120, 80, 30), GREY),
        ("20-obj-flavours/latin1_material.obj", "mm", L_PROFILE, (120, 80, 30), GREY),
        ("21-ply-texturefile/missing.ply", "mm", BRICK, (100, 60, 40), GREY),
        ("24-obj-materials/folder_mtl.obj", "mm", BRICK, (100, 60, 40), RED),
    ],
)
def test_a_file_has_its_area_size_and_color(
    name: str, unit: Unit, area: float, size: tuple[float, ...], color: tuple[int, ...]
) -> None:
    mesh = load_mesh(DATA / name, unit=unit)
    found = area_of(mesh.vertices[mesh.faces].astype(np.float64)).sum()
    assert found == pytest.approx(area, rel=2e-4)
    np.testing.assert_allclose(mesh.extents, size, atol=0.02)
    np.testing.assert_allclose(mean_color(DATA / name), color, atol=2)


def test_a_polygon_is_as_large_as_it_is_drawn() -> None:
    """The half moons and holes of Assimp's concave_polygon.obj; fans over them are 13 times as large."""
    (surface,) = read_cad(DATA / "20-obj-flavours/concave_polygon.obj")
    assert area_of(surface.triangles).sum() == pytest.approx(0.245497, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("06-gltf-ktx2-texture/basisu.glb", r"needs the glTF extension KHR_texture_basisu, .*; export"),
        (
            "07-gltf-compressed/meshopt_stub.glb",
            r"needs the glTF extension EXT_meshopt_compression, .*; export",
        ),
        (
            "07-gltf-compressed/half_draco.glb",
            r"compressed .*KHR_draco_mesh_compression\); export the part again without",
        ),
        ("11-truncated/cut_ascii.stl", r"the file ends early, after 12 triangles; export the part again"),
        (
            "11-truncated/half_of_faces_ascii.ply",
            r"the file ends early: its header counts 20 of element 'face'",
        ),
        (
            "14-texture-modes/broken.obj",
            r"its picture broken\.png cannot be read \(.*\); save the picture again",
        ),
        (
            "14-texture-modes/emptyimg.obj",
            r"its picture emptyimg\.png is none of PNG, .*; save it again",
        ),
        ("18-odd-numbers/utm_float.ply", r"in single precision, in steps of 512 there: its shape is lost; export it"),
    ],
)
def test_what_cannot_be_read_right_is_refused_in_words(name: str, words: str) -> None:
    with pytest.raises(MeshError, match=words) as caught:
        load_mesh(DATA / name)
    assert str(caught.value).startswith(f"{DATA / name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("21-ply-texturefile/missing.ply", ("gone.png",)),
        ("20-obj-flavours/latin1_material.obj", ("gehäuse.mtl",)),
    ],
)
def test_files_that_are_not_there_are_named(name: str, missing: tuple[str, ...]) -> None:
    report = inspect(DATA / name)
    assert report.missing == missing
    assert report.findings[0].startswith(f"{missing[0]}, named in the file, is not there")


def test_a_3mf_file_says_its_unit_itself() -> None:
    report = inspect(DATA / "19-3mf-units/inch.3mf", unit="m")
    assert report.unit == "mm"
    np.testing.assert_allclose(report.size, (120, 80, 30), atol=1e-4)


@pytest.mark.parametrize("name", ["part.zip", "part.tar.gz", "part.7z"])
def test_archives_are_no_cad_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(DATA / "10-stl-headers/reference.stl")
    else:
        path.write_bytes(gzip.compress(b"solid"))
    with pytest.raises(
        MeshError, match=r"an archive is no CAD file; unpack it and give the path of the STEP, .* in it"
    ):
        read_cad(path)


def test_a_file_that_is_too_large_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "part.stl"
    path.write_bytes(b"solid" * 100)
    monkeypatch.setattr(files, "_LARGEST", 499)
    with pytest.raises(MeshError, match=r"a file of 500 bytes is not read; export the part with a coarser mesh"):
        read_cad(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30])
def test_corners_that_are_no_numbers_are_counted(tmp_path: Path, value: float) -> None:
    data = bytearray((DATA / "10-stl-headers/reference.stl").read_bytes())
    data[84 + 12 : 84 + 16] = struct.pack("<f", value)
    (tmp_path / "part.stl").write_bytes(data)
    with pytest.raises(MeshError, match=r"part\.stl: 1 corners of faces are not finite numbers, or absurdly far away"):
        read_cad(tmp_path / "part.stl")


@pytest.mark.parametrize(("away", "refused"), [(5_000_000, True), (500_000, False), (5_000_000.1, False)])
def test_coarse_steps_are_told_by_what_single_precision_can_hold(tmp_path: Path, away: float, refused: bool) -> None:
    path = tmp_path / "part.obj"
    lines = [f"v {away + x} {y} {z}" for x in (0, 120) for y in (0, 80) for z in (0, 30)]
    path.write_text("\n".join([*lines, "f 1 2 3", "f 6 7 8"]))
    if refused:
        with pytest.raises(MeshError, match=r"in steps of 0\.5 there"):
            read_cad(path)
    else:
        assert np.ptp(read_cad(path)[0].triangles[..., 0]) == pytest.approx(120.0)


@pytest.mark.parametrize("suffix", files.READERS)
def test_no_reader_breaks_on_bytes_that_are_none_of_its_own(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"part{suffix}"
    for data in (b"\x89PNG\r\n\x1a\n" + bytes(200), b"{}", b"ply\nend_header\n", b"glTF" + bytes(20), b"[" * 10_000):
        path.write_bytes(data)
        with pytest.raises(MeshError) as caught:
            read_cad(path)
        text = str(caught.value)
        assert text.startswith(f"{path}: ")
        assert ";" in text, "what is to do"
        assert "Error" not in text
