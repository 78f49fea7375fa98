"""Pictures of the running program: a pty, a screen model, and Pillow (needs the dev extra).

    python scripts/screenshots.py docs/pictures --workspace PATH    # all scenes of the README
    python scripts/screenshots.py one.png --size 80x24 --keys "1 wait:rows enter" --workspace PATH

In --keys a word is a key; ``wait:text`` waits for it and ``type:text`` types it, with ``~`` for a
space. Braille dots are drawn by hand, because few fonts hold them in a fixed width.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from pty_harness import Terminal

FONT = "DejaVuSansMono.ttf"
BOLD = "DejaVuSansMono-Bold.ttf"
POINTS = 16
INK, PAPER = "#d3dae3", "#10151b"
NAMED = {
    "black": "#1d2021", "red": "#cc5555", "green": "#6aa84f", "brown": "#c9a227",
    "blue": "#3d6db5", "magenta": "#a86db5", "cyan": "#3fa7a0", "white": "#c0c5ce",
    "brightblack": "#6b7280", "brightred": "#ff7b7b", "brightgreen": "#8ee28e",
    "brightbrown": "#ffd866", "brightblue": "#78b4ff", "brightmagenta": "#e0a0f0",
    "brightcyan": "#6fe0d6", "brightwhite": "#ffffff",
}  # fmt: skip


def picture(terminal: Terminal, points: int = POINTS) -> Image.Image:
    """The terminal's screen as an image."""
    plain = ImageFont.truetype(FONT, points)
    bold = ImageFont.truetype(BOLD, points)
    wide, high = round(plain.getlength("M")), int(points * 1.3)
    screen = terminal.screen
    image = Image.new("RGB", (screen.columns * wide, screen.lines * high), PAPER)
    draw = ImageDraw.Draw(image)
    for y in range(screen.lines):
        for x in range(screen.columns):
            cell = screen.buffer[y][x]
            ink, paper = _colour(cell.fg, INK), _colour(cell.bg, PAPER)
            if cell.reverse:
                ink, paper = paper, ink
            left, top = x * wide, y * high
            span = wide * 2 if cell.data and ord(cell.data[0]) > 0x2E80 else wide
            if cell.data:
                draw.rectangle((left, top, left + span - 1, top + high - 1), fill=paper)
            _glyph(draw, cell.data, left, top, wide, high, ink, bold if cell.bold else plain)
            if cell.underscore:
                draw.line((left, top + high - 2, left + wide - 1, top + high - 2), fill=ink)
            if cell.strikethrough:
                draw.line((left, top + high // 2, left + wide, top + high // 2), fill=ink)
    return image


def _colour(name: str, default: str) -> str:
    if name == "default":
        return default
    return NAMED.get(name) or f"#{name}"


def _glyph(
    draw: ImageDraw.ImageDraw, text: str, left: int, top: int, wide: int, high: int,
    ink: str, font: ImageFont.FreeTypeFont,
) -> None:  # fmt: skip
    if not text or text == " ":
        return
    code = ord(text[0])
    if 0x2800 <= code <= 0x28FF:
        _braille(draw, code - 0x2800, left, top, wide, high, ink)
    elif text in _LINES:
        _box(draw, _LINES[text], left, top, wide, high, ink)
    elif text == "█":
        draw.rectangle((left, top, left + wide - 1, top + high - 1), fill=ink)
    else:
        draw.text((left, top + (high - font.size) // 2 - 1), text, font=font, fill=ink)


# Which sides of the cell a box character joins: left, up, right, down.
_LINES = {
    "─": "lr", "│": "ud", "╭": "rd", "╮": "ld", "╰": "ru", "╯": "lu", "├": "udr", "┤": "udl",
    "┬": "lrd", "┴": "lru", "┼": "lrud", "┌": "rd", "┐": "ld", "└": "ru", "┘": "lu",
}  # fmt: skip


def _box(
    draw: ImageDraw.ImageDraw, sides: str, left: int, top: int, wide: int, high: int, ink: str
) -> None:
    middle, centre = left + wide // 2, top + high // 2
    ends = {
        "l": (left, centre), "r": (left + wide, centre),
        "u": (middle, top), "d": (middle, top + high),
    }  # fmt: skip
    for side in sides:
        draw.line((middle, centre, *ends[side]), fill=ink)


def _braille(
    draw: ImageDraw.ImageDraw, bits: int, left: int, top: int, wide: int, high: int, ink: str
) -> None:
    places = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3))
    for bit, (column, row) in enumerate(places):
        if bits >> bit & 1:
            x = left + (2 * column + 1) * wide // 4
            y = top + (2 * row + 1) * high // 8
            draw.rectangle((x - 1, y - 1, x, y), fill=ink)


DIRTY = "1 wait:rows shift+tab shift+tab down down down down enter wait:tickets_dirty.jsonl~·"
# name, size and keys of the README's pictures; the workspace is one in which the demo ran.
SCENES = (
    ("home", "120x36", "wait:Next"),
    ("data", "120x36", f"{DIRTY} c wait:conflicting n n n n n t wait:trained"),
    ("data-80x24", "80x24", f"{DIRTY} j j"),
    ("ready", "120x36", f"{DIRTY} R wait:Axolotl wait:still"),
    ("alike", "120x36", f"{DIRTY} D wait:alike wait:cluster"),
    ("recipe", "120x36", "2 wait:learning wait:memory"),
    ("train", "120x36", "3 wait:triage-lora down enter wait:eval wait:grad"),
    ("evaluate", "120x36", "4 wait:tuned"),
    ("rate", "120x36", "5 wait:demo enter wait:begins enter wait:left"),
    ("help", "120x36", "1 wait:rows ? wait:Edit"),
)


def _take(out: Path, command: list[str], size: str, keys: str) -> None:
    columns, _, rows = size.partition("x")
    with Terminal(command, size=(int(columns), int(rows))) as terminal:
        terminal.wait_for("finetui")
        terminal.settle(0.8)
        for key in keys.split():
            if key.startswith("wait:"):
                terminal.wait_for(key[5:].replace("~", " "))
            elif key.startswith("type:"):
                terminal.type(key[5:].replace("~", " "))
            else:
                terminal.press(key)
            terminal.settle(0.3)
        out.parent.mkdir(parents=True, exist_ok=True)
        picture(terminal).save(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="a .png, or a folder for all scenes")
    parser.add_argument("--size", default="120x36")
    parser.add_argument("--keys", default="")
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--command", default=f"{sys.executable} -m finetui")
    given = parser.parse_args()
    command = [*given.command.split(), *([str(given.workspace)] if given.workspace else [])]
    if given.out.suffix == ".png":
        _take(given.out, command, given.size, given.keys)
        return
    for name, size, keys in SCENES:
        _take(given.out / f"{name}.png", command, size, keys)
        print(given.out / f"{name}.png")


if __name__ == "__main__":
    main()
