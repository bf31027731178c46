"""The network as a drawing, read off the live model: its towers, what each layer gives, and where they exchange.

The text of an SVG. It brings its own background, light or dark; at the width of a phone, 360 pixels, its text is 11
pixels high.
"""

import itertools
import math
from html import escape

from alexnet_jax.errors import AlexNetError
from alexnet_jax.model import alexnet as models, placement

WIDTH, MARGIN = 720, 20
BOX, GAP = 320, 40  # the width of a tower, and what is between the two
LINE, OWN, GATHER, BAR = 34, 30, 92, 56  # heights: a line of text in a box, an arrow, an exchange, a shared box
LEFTS = (MARGIN, MARGIN + BOX + GAP)
CROSSING = (268, WIDTH - 268)  # where the links of an exchange leave and arrive, tower 0 and tower 1
STRAIGHT = (MARGIN + 22, WIDTH - MARGIN - 22)  # where a tower's own features pass an exchange

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

_WORDS = {"relu": "ReLU", "batch_norm": "BN", "spatial_norm": "spatial norm"}


def architecture(model: models.AlexNet, image_pixels: int, *, title: str = "") -> str:
    """The drawing of a network on images of so many pixels, as the text of an SVG. Raises AlexNetError.

    Shapes are per tower: channels x height x width. `title` is its accessible name.
    """
    if model.towers > 2:
        raise AlexNetError(f"The drawing has room for one tower or two, and this network has {model.towers}.")
    drawing = _Drawing(model.towers)
    drawing.head(f"image 3 x {image_pixels} x {image_pixels}")
    shapes, sent = placement.shapes(model, image_pixels), placement.traffic(model, image_pixels)
    held: tuple[int, ...] = (image_pixels, image_pixels, 3)
    for place, layer in enumerate(model.stack):
        gathers = layer.name in model.exchange and model.towers > 1
        is_dense = isinstance(layer, models.DenseLayer)
        if gathers:
            joined = (*held[:-1], model.towers * held[-1])
            drawing.gather(f"{sent[layer.name]:,} floats", _shape((math.prod(joined),) if is_dense else joined))
        elif place:
            drawing.own()
        lines, held = _lines(model, layer, shapes)
        drawing.layer(lines)
    if model.towers > 1:
        drawing.gather(f"{held[-1]:,} logits", f"{model.classes:,} logits")
    drawing.foot(_note(model))
    name = title or f"AlexNet with {model.towers} tower{'s' * (model.towers > 1)}"
    return drawing.svg(name, _in_words(model, sent))


def _note(model: models.AlexNet) -> str:
    """What is below the drawing."""
    if model.towers == 1:
        return ""
    norms = [models.operation_name("norm", layer.name) for layer in model.stack if "norm" in layer.post_ops]
    if model.norm.across_towers and norms:
        return f"{' and '.join(norms)} also exchange their outermost channels"
    return "floats: per image, from each tower to the other"


def _lines(
    model: models.AlexNet, layer: models.ConvLayer | models.DenseLayer, shapes: dict[str, tuple[int, ...]]
) -> tuple[list[tuple[str, str]], tuple[int, ...]]:
    """[(operations, shape)] of a layer, a shape where it changes, and the shape in which it ends."""
    held = shapes[f"{layer.name}_out"]
    if layer is model.stack[-1] and model.towers > 1:
        lines = [(layer.name, f"{held[-1]:,} of {model.classes:,}")]
    else:
        lines = [(layer.name, _shape(held if layer is not model.stack[-1] else (model.classes,)))]
    for word in layer.post_ops:
        name = models.operation_name(word, layer.name)
        said = name if word in ("norm", *models.POOLS) else _WORDS.get(word, word)
        shape = shapes[name]
        if len(lines) > 1 and not lines[-1][1] and len(f"{lines[-1][0]}, {said}") <= (11 if shape != held else 22):
            lines[-1] = (f"{lines[-1][0]}, {said}", _shape(shape) if shape != held else "")
        elif len(lines) > 1 and lines[-1][1] and shape == held and len(f"{lines[-1][0]}, {said}") <= 11:
            lines[-1] = (f"{lines[-1][0]}, {said}", lines[-1][1])
        else:
            lines.append((said, _shape(shape) if shape != held else ""))
        held = shape
    return lines, held


def _shape(shape: tuple[int, ...]) -> str:
    """[H, W, C] as channels x height x width."""
    return f"{shape[-1]:,}" if len(shape) == 1 else f"{shape[-1]} x {shape[0]} x {shape[1]}"


def _in_words(model: models.AlexNet, sent: dict[str, int]) -> str:
    """The drawing for those who cannot see it."""
    if model.towers == 1:
        return f"One tower of {len(model.stack)} layers: {', '.join(layer.name for layer in model.stack)}."
    meets = [layer.name for layer in model.stack if layer.name in model.exchange]
    alone = [layer.name for layer in model.stack if layer.name not in model.exchange]
    exchanges = ", ".join(f"{sent[name]:,} floats before {name}" for name in meets)
    return (
        f"Both devices read the whole image. {', '.join(alone)} see their own tower only. The towers exchange "
        f"{exchanges or 'nothing before the logits'}, per image each way. Each tower computes half of the logits, and "
        "a last exchange gives all of them to both."
    )


class _Drawing:
    """The parts of an SVG from the top down: `_y` is where the next one begins."""

    def __init__(self, towers: int) -> None:
        self._towers, self._y, self._alone_from = towers, float(MARGIN), float(MARGIN)
        self._lefts = LEFTS if towers == 2 else ((WIDTH - BOX) / 2,)
        self._arrows: list[str] = []
        self._boxes: list[str] = []

    def head(self, image: str) -> None:
        """The image, which both devices read, between the names of the towers."""
        y, end = self._y, self._y + BAR + 44
        self._boxes.append(_shared(y, image, width=300))
        for tower, left in enumerate(self._lefts):
            if self._towers == 2:
                name_x = STRAIGHT[tower] + (48 if tower == 0 else -48)
                self._boxes.append(_text(name_x, y + 22, f"tower {tower}", f"title{tower}"))
                self._boxes.append(_text(name_x, y + 48, f"device {tower}", "middle"))
            start = WIDTH / 2 + (80 if tower else -80) * (self._towers == 2)
            self._arrows.append(_link((start, y + BAR), (left + BOX / 2, end), tower))
        self._y = self._alone_from = end

    def layer(self, lines: list[tuple[str, str]]) -> None:
        """A layer, once per tower."""
        height = LINE * len(lines) + 14
        for tower, left in enumerate(self._lefts):
            self._boxes.append(_rectangle(left, self._y, BOX, height, f"box{tower}"))
            for number, (operations, shape) in enumerate(lines):
                base = self._y + 32 + LINE * number
                self._boxes.append(_text(left + 14, base, operations, "" if number else "name"))
                if shape:
                    self._boxes.append(_text(left + BOX - 14, base, shape, "small" if number else "shape"))
        self._y += height

    def own(self) -> None:
        """An arrow within each tower, none between them."""
        for tower, left in enumerate(self._lefts):
            self._arrows.append(_link((left + BOX / 2, self._y), (left + BOX / 2, self._y + OWN), tower))
        self._y += OWN

    def gather(self, sent: str, held: str) -> None:
        """An exchange: each tower's features go to both towers."""
        y, end = self._y, self._y + GATHER
        self._divider()
        self._arrows.append(_rectangle(MARGIN / 2, y + 8, WIDTH - MARGIN, GATHER - 16, "shared"))
        for tower in (0, 1):
            self._arrows.append(_link((STRAIGHT[tower], y), (STRAIGHT[tower], end), tower))
            self._arrows.append(_link((CROSSING[tower], y), (CROSSING[1 - tower], end), tower, halo=tower == 1))
        left, right = STRAIGHT[0] + 20, STRAIGHT[1] - 20
        self._arrows += [_text(left, y + 40, "all_gather", "code"), _text(left, y + 70, sent)]
        self._arrows += [_text(right, y + 40, "each now holds", "small"), _text(right, y + 70, held, "small")]
        self._y = self._alone_from = end

    def foot(self, note: str) -> None:
        """The softmax, and a note below it."""
        if self._towers == 2:
            self._boxes.append(_shared(self._y, "softmax, on both devices", width=WIDTH - MARGIN))
        else:
            self.own()
            self._boxes.append(_shared(self._y, "softmax", width=BOX))
        self._y += BAR
        if note:
            self._boxes.append(_text(WIDTH / 2, self._y + 34, note, "middle"))
            self._y += 34
        self._y += MARGIN

    def _divider(self) -> None:
        """A dotted line between the towers, where nothing crosses."""
        if self._y - self._alone_from > 16:
            path = f"M {WIDTH / 2} {self._alone_from + 10} V {self._y - 6}"
            self._arrows.append(f'<path d="{path}" class="divider"/>')

    def svg(self, title: str, description: str) -> str:
        """The whole picture."""
        total = round(self._y)
        opening = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}" '
            'role="img" aria-labelledby="title description">'
        )
        labels = f'<title id="title">{escape(title)}</title>\n<desc id="description">{escape(description)}</desc>'
        card = f'<rect x="1" y="1" width="{WIDTH - 2}" height="{total - 2}" rx="18" class="card"/>'
        parts = itertools.chain(self._arrows, self._boxes)
        return "\n".join([opening, labels, f"<style>{STYLE}</style>", card, *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, words: str, style: str = "") -> str:
    """A line of text on its baseline; the x of a shape becomes a multiplication sign."""
    words = escape(words).replace(" x ", " &#215; ")
    return f'<text x="{x:g}" y="{y:g}" class="{style}">{words}</text>'


def _rectangle(x: float, y: float, width: float, height: float, style: str) -> str:
    """A box with round corners."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="12" class="{style}"/>'


def _shared(y: float, words: str, *, width: float) -> str:
    """A box for what both devices have."""
    box = _rectangle((WIDTH - width) / 2, y, width, BAR, "shared")
    return box + _text(WIDTH / 2, y + BAR / 2 + 8, words, "middle")


def _link(start: tuple[float, float], end: tuple[float, float], tower: int, *, halo: bool = False) -> str:
    """An arrow in a tower's color, vertical at both ends; `halo` sets it off from what it crosses."""
    (x0, y0), (x1, y1) = start, (end[0], end[1] - 14)
    middle = (y0 + y1) / 2
    path = f'd="M {x0:g} {y0:g} C {x0:g} {middle:g}, {x1:g} {middle:g}, {x1:g} {y1:g}"'
    head = f'<path d="M {x1 - 12:g} {y1:g} L {x1 + 12:g} {y1:g} L {end[0]:g} {end[1]:g} Z" class="head{tower}"/>'
    return (f'<path {path} class="halo"/>' if halo else "") + f'<path {path} class="link{tower}"/>{head}'
