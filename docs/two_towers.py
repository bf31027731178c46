"""Draws the two towers and what they exchange: `python docs/two_towers.py` writes docs/two_towers.svg.

The picture brings its own background, light or dark. At the width of a phone, 360 pixels, its text is 11 pixels high.
"""

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

# One row after the other, from the image to the logits. Shapes are per tower: channels x height x width.
#   ("layer", lines)                    a box in each tower; a line is (operations, shape), the first one in bold
#   ("own",)                            an arrow within each tower: the other one is not seen
#   ("gather", sent, held)              an exchange: what each tower sends per image, what each holds afterwards
ROWS: tuple[tuple[Any, ...], ...] = (
    ("layer", (("conv1", "48 x 55 x 55"), ("norm1", ""), ("pool1, ReLU", "48 x 27 x 27"))),
    ("own",),
    ("layer", (("conv2", "128 x 27 x 27"), ("ReLU, norm2", ""), ("pool2", "128 x 13 x 13"))),
    ("gather", "21,632 floats", "256 x 13 x 13"),
    ("layer", (("conv3", "192 x 13 x 13"), ("ReLU", ""))),
    ("own",),
    ("layer", (("conv4", "192 x 13 x 13"), ("ReLU", ""))),
    ("own",),
    ("layer", (("conv5", "128 x 13 x 13"), ("pool5, ReLU", "128 x 6 x 6"))),
    ("gather", "4,608 floats", "9,216"),
    ("layer", (("fc6", "2,048"), ("ReLU, dropout", ""))),
    ("gather", "2,048 floats", "4,096"),
    ("layer", (("fc7", "2,048"), ("ReLU, dropout", ""))),
    ("gather", "2,048 floats", "4,096"),
    ("layer", (("fc8", "500 of 1,000"),)),
    ("gather", "500 logits", "1,000 logits"),
)
TITLE = "AlexNet of 2012: two towers on two devices"
DESCRIPTION = (
    "Both devices read the whole image. On each, conv1 and conv2 see their own tower only. Before conv3 the towers "
    "exchange their feature maps, 21,632 floats per image each way. conv4 and conv5 see their own tower only. Before "
    "fc6, fc7 and fc8 the towers exchange 4,608, 2,048 and 2,048 floats. Each tower computes half of the logits, and "
    "a last exchange gives all of them to both."
)
NOTE = "floats: per image, from each tower to the other"

WIDTH, MARGIN = 720, 20
BOX, GAP = 320, 40  # the width of a tower, and what is between the two
LINE, OWN, GATHER, BAR = 34, 30, 92, 56  # heights: a line of text in a box, an arrow, an exchange, a shared box
LEFTS = (MARGIN, MARGIN + BOX + GAP)
CROSSING = (268, WIDTH - 268)  # where the links of an exchange leave and arrive, tower 0 and tower 1
STRAIGHT = (MARGIN + 22, WIDTH - MARGIN - 22)  # where a tower's own maps pass an exchange
OUT = Path(__file__).with_suffix(".svg")

STYLE = """
  text { font-family: Helvetica, Arial, 'DejaVu Sans', sans-serif; font-size: 22px; fill: #1b2330 }
  .name { font-size: 26px; font-weight: bold }
  .shape { font-size: 25px; text-anchor: end }
  .small { text-anchor: end }
  .middle { text-anchor: middle }
  .title0, .title1 { font-size: 24px; font-weight: bold; text-anchor: middle }
  .title0 { fill: #2459c4 } .title1 { fill: #bf4a0b }
  .code { font-family: Menlo, Consolas, 'DejaVu Sans Mono', monospace; font-weight: bold }
  .card { fill: #ffffff; stroke: #cfd6e0; stroke-width: 2 }
  .shared { fill: #eceff4 }
  .divider { stroke: #8d99a9; stroke-width: 3; stroke-dasharray: 3 9; stroke-linecap: round }
  .halo { fill: none; stroke: #eceff4; stroke-width: 15 }
  .link0, .link1 { fill: none; stroke-width: 7 }
  .box0 { fill: #dbe8fd; stroke: #2459c4; stroke-width: 3 }
  .box1 { fill: #fde3d2; stroke: #bf4a0b; stroke-width: 3 }
  .link0 { stroke: #2459c4 } .head0 { fill: #2459c4 }
  .link1 { stroke: #bf4a0b } .head1 { fill: #bf4a0b }
  @media (prefers-color-scheme: dark) {
    text { fill: #e8edf4 }
    .title0 { fill: #6ea0ff } .title1 { fill: #ff9a5c }
    .card { fill: #11161d; stroke: #333d4b }
    .shared { fill: #262e3a }
    .halo { stroke: #262e3a }
    .divider { stroke: #748297 }
    .box0 { fill: #16305c; stroke: #6ea0ff } .link0 { stroke: #6ea0ff } .head0 { fill: #6ea0ff }
    .box1 { fill: #56290f; stroke: #ff9a5c } .link1 { stroke: #ff9a5c } .head1 { fill: #ff9a5c }
  }
"""


def text(x: float, y: float, words: str, style: str = "") -> str:
    """A line of text on its baseline; the x of a shape becomes a multiplication sign."""
    words = escape(words).replace(" x ", " &#215; ")
    return f'<text x="{x}" y="{y}" class="{style}">{words}</text>'


def rectangle(x: float, y: float, width: float, height: float, style: str) -> str:
    """A box with round corners."""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="12" class="{style}"/>'


def link(start: tuple[float, float], end: tuple[float, float], tower: int, *, halo: bool = False) -> str:
    """An arrow in a tower's color, vertical at both ends; `halo` sets it off from what it crosses."""
    (x0, y0), (x1, y1) = start, (end[0], end[1] - 14)
    middle = (y0 + y1) / 2
    path = f'd="M {x0} {y0} C {x0} {middle}, {x1} {middle}, {x1} {y1}"'
    head = f'<path d="M {x1 - 12} {y1} L {x1 + 12} {y1} L {end[0]} {end[1]} Z" class="head{tower}"/>'
    return (f'<path {path} class="halo"/>' if halo else "") + f'<path {path} class="link{tower}"/>{head}'


def layer(y: float, lines: tuple[tuple[str, str], ...]) -> tuple[list[str], float]:
    """A layer, once per tower, and its height."""
    height = LINE * len(lines) + 14
    parts = []
    for tower, left in enumerate(LEFTS):
        parts.append(rectangle(left, y, BOX, height, f"box{tower}"))
        for number, (operations, shape) in enumerate(lines):
            base = y + 32 + LINE * number
            parts.append(text(left + 14, base, operations, "" if number else "name"))
            if shape:
                parts.append(text(left + BOX - 14, base, shape, "small" if number else "shape"))
    return parts, height


def own(y: float) -> tuple[list[str], float]:
    """An arrow within each tower, none between them."""
    centers = [left + BOX / 2 for left in LEFTS]
    return [link((x, y), (x, y + OWN), tower) for tower, x in enumerate(centers)], OWN


def gather(y: float, sent: str, held: str) -> tuple[list[str], float]:
    """An exchange: each tower's features go to both towers."""
    parts = [rectangle(MARGIN / 2, y + 8, WIDTH - MARGIN, GATHER - 16, "shared")]
    end = y + GATHER
    for tower in (0, 1):
        parts.append(link((STRAIGHT[tower], y), (STRAIGHT[tower], end), tower))
        parts.append(link((CROSSING[tower], y), (CROSSING[1 - tower], end), tower, halo=tower == 1))
    left, right = STRAIGHT[0] + 20, STRAIGHT[1] - 20
    parts += [text(left, y + 40, "all_gather", "code"), text(left, y + 70, sent)]
    parts += [text(right, y + 40, "each now holds", "small"), text(right, y + 70, held, "small")]
    return parts, GATHER


def head(y: float) -> tuple[list[str], float]:
    """The image, which both devices read, between the names of the towers."""
    parts = [shared(y, "image 224 x 224 x 3", width=300)]
    for tower, left in enumerate(LEFTS):
        name_x = STRAIGHT[tower] + (48 if tower == 0 else -48)
        parts.append(text(name_x, y + 22, f"tower {tower}", f"title{tower}"))
        parts.append(text(name_x, y + 48, f"device {tower}", "middle"))
        parts.append(link((WIDTH / 2 + (80 if tower else -80), y + BAR), (left + BOX / 2, y + BAR + 44), tower))
    return parts, BAR + 44


def shared(y: float, words: str, *, width: float) -> str:
    """A box for what both devices have."""
    box = rectangle((WIDTH - width) / 2, y, width, BAR, "shared")
    return box + text(WIDTH / 2, y + BAR / 2 + 8, words, "middle")


def divider(start: float, end: float) -> str:
    """A dotted line between the towers, where nothing crosses."""
    return f'<path d="M {WIDTH / 2} {start + 10} V {end - 6}" class="divider"/>'


def body(y: float) -> tuple[list[str], float]:
    """All rows from `y` down, the boxes on top of the arrows, and where the last row ends."""
    drawers: dict[str, Callable[..., tuple[list[str], float]]] = {"layer": layer, "own": own, "gather": gather}
    arrows: list[str] = []
    boxes: list[str] = []
    alone_from = y
    for kind, *values in ROWS:
        drawn, height = drawers[kind](y, *values)
        if kind == "gather":
            arrows.append(divider(alone_from, y))
            alone_from = y + height
        (boxes if kind == "layer" else arrows).extend(drawn)
        y += height
    return arrows + boxes, y


def draw() -> str:
    """The whole picture, as the text of an SVG file."""
    top, height = head(MARGIN)
    rows, y = body(MARGIN + height)
    bottom = [
        shared(y, "softmax, on both devices", width=WIDTH - MARGIN),
        text(WIDTH / 2, y + BAR + 34, NOTE, "middle"),
    ]
    total = round(y + BAR + 34 + MARGIN)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}" '
        'role="img" aria-labelledby="title description">'
    )
    labels = f'<title id="title">{escape(TITLE)}</title>\n<desc id="description">{escape(DESCRIPTION)}</desc>'
    card = f'<rect x="1" y="1" width="{WIDTH - 2}" height="{total - 2}" rx="18" class="card"/>'
    return "\n".join([opening, labels, f"<style>{STYLE}</style>", card, *top, *rows, *bottom, "</svg>"]) + "\n"


if __name__ == "__main__":
    OUT.write_text(draw(), encoding="utf-8")
    print(f"wrote {OUT}")
