"""Fonts for titles in any script: Matplotlib's own, and for what it lacks installed ones that have it."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable
from contextlib import suppress

from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager, get_font

log = logging.getLogger(__name__)
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it tells of weights that a family lacks
USUAL = "sans-serif"
BOXES = "Last Resort"  # a font that comes with Matplotlib and draws a box for every character
MOST_NAMED = 8  # characters in a log's line


def families(texts: Iterable[str]) -> list[str]:
    """The font families that draw `texts`, in the order in which Matplotlib is to look for a character.

    Installed fonts follow the usual one where it lacks characters; those that no font has are named in a warning.
    """
    chosen = [USUAL]
    lacking = {character for text in texts for character in text} - _characters(USUAL)
    having = _installed(lacking) if lacking else {}
    while any(found & lacking for found in having.values()):
        best = max(sorted(having), key=lambda family: (len(having[family] & lacking), "Sans" in family))
        log.info("%s draws %d characters of titles that the usual font lacks", best, len(having[best] & lacking))
        lacking -= having[best]
        chosen.append(best)
    if lacking:
        names = [f"U+{ord(character):04X} {unicodedata.name(character, '')}".strip() for character in sorted(lacking)]
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        log.warning(
            "no installed font has %s%s of the titles, so boxes stand for them; install one that has, and draw the"
            " figures again: snakemake --forcerun figures",
            ", ".join(names[:MOST_NAMED]),
            more,
        )
    return chosen


def _installed(wanted: set[str]) -> dict[str, set[str]]:
    """Those of the `wanted` characters that each installed family has; Matplotlib's list may be older than a font."""
    known = {entry.fname for entry in fontManager.ttflist}
    for path in sorted(set(findSystemFonts()) - known):
        with suppress(Exception):  # a file that is no font, or one of a kind that Matplotlib does not read
            fontManager.addfont(path)
    names = {entry.name for entry in fontManager.ttflist if BOXES not in entry.name}
    return {name: _characters(name) & wanted for name in sorted(names)}


def _characters(family: str) -> set[str]:
    """What a family's upright font can draw at any size; nothing, where it cannot be read."""
    try:
        font = get_font(findfont(FontProperties(family=[family]), fallback_to_default=family == USUAL))
    except (OSError, RuntimeError, ValueError):  # no such file, not a font, not found
        return set()
    return set(map(chr, font.get_charmap())) if font.scalable else set()
