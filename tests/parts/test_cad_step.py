"""STEP files: millimetres, triangles as fine as the part asks for, colours, bodies by name, and damaged files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from codepose.parts.cad import step
from codepose.parts.cad.files import body_names, read_cad
from codepose.parts.cad.surface import MeshError, Surface
from codepose.parts.inspection import inspect
from codepose.parts.mesh import load_mesh
from codepose.parts.shapes import resolve

DATA = Path(__file__).parents[1] / "data" / "cad" / "25-step"
PLATE, PIN, ASSEMBLY = DATA / "plate-mm.step", DATA / "pin-inch.stp", DATA / "assembly.step"

Write = Callable[[bytes], Path]


@pytest.fixture
def written(tmp_path: Path) -> Write:
    pytest.importorskip("cascadio", reason="the extra step is not installed")

    def write(data: bytes) -> Path:
        path = tmp_path / "part.step"
        path.write_bytes(data)
        return path

    return write


@pytest.fixture(scope="module")
def assembly() -> list[Surface]:
    pytest.importorskip("cascadio", reason="the extra step is not installed")
    return read_cad(ASSEMBLY)


def refusal(path: Path) -> str:
    with pytest.raises(MeshError) as caught:
        read_cad(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def box(surfaces: list[Surface]) -> NDArray[np.float64]:
    corners = np.concatenate([one.triangles.reshape(-1, 3) for one in surfaces])
    return np.array([corners.min(axis=0), corners.max(axis=0)])


def area(surfaces: list[Surface]) -> float:
    a, b, c = np.moveaxis(np.concatenate([one.triangles for one in surfaces]), 1, 0)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def test_a_plate_with_a_hole_in_millimetres(assembly: list[Surface]) -> None:
    surfaces = read_cad(PLATE)
    np.testing.assert_allclose(box(surfaces), [[-20, -10, -5], [20, 10, 5]], atol=1e-5)
    exact = 2 * (40 * 20 - np.pi * 25) + 2 * (40 + 20) * 10 + 2 * np.pi * 5 * 10
    assert area(surfaces) == pytest.approx(exact, rel=1e-3)
    assert {one.source for one in surfaces} == {"none"}


def test_inches_become_millimetres_and_the_unit_option_changes_nothing(written: Write) -> None:
    part = load_mesh(PIN, unit="m")
    np.testing.assert_allclose(part.extents, [25.4, 25.4, 50.8], rtol=1e-3)
    report = inspect(PIN, "m")
    assert (report.unit, report.own_unit, list(report.plausible)) == ("mm", True, ["mm"])


def test_triangles_are_as_fine_as_the_part_is_large(written: Write) -> None:
    """A pin of 1 inch and one of 40 have the same triangles, whose sides are within 0.1 % of the part's surface."""
    (small,), larger = read_cad(PIN), PIN.read_bytes().replace(b"LENGTH_MEASURE(25.4)", b"LENGTH_MEASURE(1016.)")
    (large,) = read_cad(written(larger))
    assert len(large.triangles) == len(small.triangles)
    assert area([large]) == pytest.approx(1600 * area([small]), rel=1e-5)
    middles = (small.triangles + np.roll(small.triangles, 1, axis=1)) / 2
    around = np.ptp(small.triangles[:, :, 2], axis=1) > 1
    assert np.hypot(*np.moveaxis(middles[around][:, :, :2], 2, 0)).min() > 12.7 - 0.001 * 50.8


def test_an_assembly_with_its_places_colours_and_names(assembly: list[Surface]) -> None:
    plate, screw, second = assembly
    np.testing.assert_allclose(box([plate]), [[-20, -10, -5], [20, 10, 5]], atol=1e-5)
    np.testing.assert_allclose(box([screw]), [[18, -2, 5], [22, 2, 13]], atol=0.01)
    np.testing.assert_allclose(box([second]), [[-17, -2, 5], [-13, 2, 13]], atol=0.01)
    for one, color in ((plate, (255, 128, 0)), (screw, (0, 0, 255)), (second, (0, 0, 255))):
        assert one.colors is not None
        assert (one.colors == color).all()
    assert [one.bodies for one in assembly] == [
        ("assembly", "plate"), ("assembly", "screws", "screw"), ("assembly", "screws", "screw#2")
    ]  # fmt: skip


def test_one_body_or_assembly_by_its_name(assembly: list[Surface]) -> None:
    assert [len(read_cad(ASSEMBLY, name)) for name in body_names(assembly)] == [3, 1, 2, 1, 1]
    np.testing.assert_allclose(load_mesh(ASSEMBLY, body="screw#2").extents, [4, 4, 8], atol=0.01)
    assert inspect(ASSEMBLY, body="screws").bodies == 2
    (finding,) = [one for one in inspect(ASSEMBLY).findings if "separate bodies" in one]
    assert finding.endswith("type --body with one of the names in it: assembly, plate, screws, screw, screw#2")
    with pytest.raises(MeshError, match=r"no body 'nut' in it; type --body with one of assembly, plate, screws, screw"):
        read_cad(ASSEMBLY, "nut")


def test_files_without_names_say_so() -> None:
    bracket = DATA.parents[1] / "bracket.ply"
    with pytest.raises(MeshError, match=r"bracket.ply: it names no bodies, so leave out --body nut"):
        read_cad(bracket, "nut")
    with pytest.raises(MeshError, match="hammer is built in and names no bodies: leave out --body head"):
        resolve("hammer", body="head")


def test_a_colour_of_one_face(written: Write) -> None:
    """The first face of the plate, at its side, is styled green over the plate's own orange."""
    green = """
#9001=STYLED_ITEM('',(#9002),#39);#9002=PRESENTATION_STYLE_ASSIGNMENT((#9003));
#9003=SURFACE_STYLE_USAGE(.BOTH.,#9004);#9004=SURFACE_SIDE_STYLE('',(#9005));
#9005=SURFACE_STYLE_FILL_AREA(#9006);#9006=FILL_AREA_STYLE('',(#9007));
#9007=FILL_AREA_STYLE_COLOUR('',#9008);#9008=COLOUR_RGB('',0.,1.,0.);
"""
    text = ASSEMBLY.read_text().replace("(#365,\n    #375)", "(#365,#9001,\n    #375)")
    surfaces = read_cad(written(text.replace("ENDSEC;\nEND-", f"{green}ENDSEC;\nEND-").encode()), "plate")
    colored = {tuple(one.colors[0, 0]): one for one in surfaces if one.colors is not None}
    assert set(colored) == {(255, 128, 0), (0, 255, 0)}
    assert area([colored[0, 255, 0]]) == pytest.approx(20 * 10, rel=1e-5)


def test_without_the_extra_one_line_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "find_spec", lambda name: None)
    assert refusal(PLATE) == (
        "a STEP file needs cascadio; type pip install 'codepose[step]', in the checkout pip install '.[step]'"
    )


def test_a_part_too_large_for_hands_is_told_where_its_unit_is(written: Write) -> None:
    path = written(PIN.read_bytes().replace(b"LENGTH_MEASURE(25.4)", b"LENGTH_MEASURE(25400.)"))
    with pytest.raises(MeshError, match=r"mm across; the file says its unit itself; export it again in the right one"):
        load_mesh(path)
    assert "the file says its unit itself" in inspect(path).findings[0]


def test_a_part_that_single_precision_has_blurred(written: Write) -> None:
    """OpenCASCADE gives corners in single precision, and 1 km away that is too coarse for a pin of 2 inches."""
    far = PIN.read_bytes().replace(b"CARTESIAN_POINT('',(0.,0.,", b"CARTESIAN_POINT('',(4.E6,0.,")
    far = far.replace(b"CARTESIAN_POINT('',(0.5,", b"CARTESIAN_POINT('',(4000000.5,")
    assert "its shape is lost" in refusal(written(far))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (bytes(range(256)) * 8, "it is damaged, or no STEP file"),
        (PIN.read_bytes()[:2000], "the file ends early: END-ISO-10303-21 is missing"),
        (b"ISO-10303-21;\nHEADER;\nENDSEC;\nDATA;\nENDSEC;\nEND-ISO-10303-21;\n", "OpenCASCADE finds no surface in it"),
        (PIN.read_bytes().replace(b"VECTOR('',#36", b"VECTOR('',#88"), "it is damaged: OpenCASCADE crashes on it"),
        (PIN.read_bytes().replace(b"CIRCLE('',#25,0.5", b"CIRCLE('',#25,1.E300"), "it is damaged: OpenCASCADE crashes"),
    ],
    ids=["empty", "binary", "cut off", "no solids", "wrong reference", "huge number"],
)
def test_damaged_files_end_in_one_line(written: Write, data: bytes, words: str) -> None:
    assert refusal(written(data)).startswith(words)


def test_a_file_that_opencascade_never_ends_with(written: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "_SECONDS", 3)
    endless = PIN.read_bytes().replace(
        b"#26 = CARTESIAN_POINT('',(0.,0.,1.))", b"#26 = CARTESIAN_POINT('',(0.,0.,1.E300))"
    )
    assert refusal(written(endless)) == (
        "OpenCASCADE does not get done with it in 3 seconds of one processor; export the part again"
    )


def test_a_cascadio_that_does_not_load_is_named(
    written: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cascadio.py").write_text("raise ImportError('libTK.so is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = written(PIN.read_bytes() + b"\n")
    assert refusal(path).startswith("OpenCASCADE fails on it (ImportError: libTK.so is missing)")
