"""Titles in scripts that Matplotlib's usual font lacks."""

import logging
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

import dt.fonts
from dt.fonts import USUAL, families

LACKED = ["⫸", "ᶍ", "⌭"]  # by the usual font, but other fonts that come with Matplotlib have them
NOWHERE = ["ㄅ", "字", "𓀀"]  # in no font that comes with Matplotlib


@pytest.fixture(autouse=True)
def only_what_comes_with_matplotlib(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    own = [entry for entry in fontManager.ttflist if entry.fname.startswith(matplotlib.get_data_path())]
    monkeypatch.setattr(fontManager, "ttflist", own)
    monkeypatch.setattr(dt.fonts, "findSystemFonts", list)
    caplog.set_level(logging.INFO)


@pytest.fixture
def font(tmp_path: Path) -> Iterator[Path]:
    """A font with one square for ㄅ."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder, path = FontBuilder(1000, isTTF=True), tmp_path / "square.ttf"
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord("ㄅ"): "square"})
    builder.setupGlyf({".notdef": pen.glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (800, 0), "square": (800, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Square", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    yield path
    fontManager._findfont_cached.cache_clear()


def has(family: str, character: str) -> bool:
    path = findfont(FontProperties(family=[family]), fallback_to_default=False)
    return ord(character) in get_font(path).get_charmap()


@pytest.mark.parametrize("title", ["HalfCheetah", "Ant ²", "Геопард", "Ѐ é ß $x$", ""])
def test_a_title_that_the_usual_font_has_needs_no_other(title: str, caplog: pytest.LogCaptureFixture) -> None:
    assert families([title]) == [USUAL]
    assert not caplog.records


@pytest.mark.parametrize("character", LACKED)
def test_a_character_that_the_usual_font_lacks_is_drawn_with_one_that_has_it(
    character: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, other = families(["HalfCheetah", f"Hopper {character}"])
    assert first == USUAL
    assert has(other, character)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert other in caplog.text


@pytest.mark.parametrize("character", NOWHERE)
def test_a_character_that_no_font_has_is_named_with_the_cure(character: str, caplog: pytest.LogCaptureFixture) -> None:
    assert families([f"Hopper {character}{character}"]) == [USUAL]
    assert caplog.text.count(f"U+{ord(character):04X}") == 1
    assert "install one that has" in caplog.text
    assert caplog.text.isascii()  # a log is read in any terminal


def test_many_characters_that_no_font_has_make_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    families([chr(ord("字") + number) for number in range(60)])
    assert len(caplog.records) == 1
    assert "and 52 more" in caplog.text
    assert len(caplog.text) < 600


def test_a_font_that_was_installed_after_matplotlib_looked_is_found(
    font: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert families(["ㄅ"]) == [USUAL]
    monkeypatch.setattr(dt.fonts, "findSystemFonts", lambda: [str(font)])
    assert families(["ㄅ"]) == [USUAL, "Square"]


def test_a_file_that_is_no_font_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "broken.ttf"
    path.write_bytes(b"no font")
    monkeypatch.setattr(dt.fonts, "findSystemFonts", lambda: [str(path)])
    assert families(["ㄅ"]) == [USUAL]
