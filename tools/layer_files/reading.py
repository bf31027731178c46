"""The text of cuda-convnet's layer files as sections with fields, each with the line that it stands in.

The format is that of Python 2's ConfigParser (2012 source, layer.py:94; cuda-convnet2, layer.py:94): `[section]`,
`key=value`, keys in any case, comments in lines that begin with # or ;, and behind " ;". Its values are words, numbers
and lists of numbers with commas, one for each input of a layer. No released file continues a value in an indented line,
or refers to another value by %(name)s; here both are errors.
"""

import dataclasses
import math
import re
from pathlib import Path

from alexnet_jax import files
from alexnet_jax.errors import AlexNetError


@dataclasses.dataclass(frozen=True)
class Missing:
    """A word of a file that a config cannot say: where it stands, and what it is in one sentence."""

    where: str  # FILE:LINE
    word: str
    what: str


@dataclasses.dataclass(frozen=True)
class Section:
    """A `[name]` and its fields: {key in small letters: (value, line)}."""

    name: str
    path: Path
    line: int
    fields: dict[str, tuple[str, int]]

    def where(self, key: str = "") -> str:
        """FILE:LINE of a field, or of the section where it has none of that name."""
        return f"{self.path.name}:{self.fields[key][1] if key in self.fields else self.line}"

    def word(self, key: str) -> str:
        """key=value as the file has it, or that it has none."""
        return f"{key}={self.fields[key][0]}" if key in self.fields else f"no {key}"

    def text(self, key: str, default: str | None = None) -> str:
        """The value of a field. Raises AlexNetError where there is none and no default."""
        if key not in self.fields and default is None:
            raise AlexNetError(f"{self.where()}: [{self.name}] has no {key}: add it.")
        return self.fields[key][0] if key in self.fields else str(default)

    def texts(self, key: str, default: str | None = None) -> tuple[str, ...]:
        """The values between the commas of a field."""
        return tuple(part.strip() for part in self.text(key, default).split(","))

    def numbers(self, key: str, count: int, default: str | None = None) -> tuple[float, ...]:
        """`count` finite numbers; one that stands alone is meant for all. Raises AlexNetError for anything else."""
        texts = self.texts(key, default)
        numbers = tuple(map(number_of, texts))
        if any(number is None for number in numbers):
            raise AlexNetError(f"{self.where(key)}: {self.word(key)} is not a number: write one.")
        if len(texts) not in (1, count):
            raise AlexNetError(
                f"{self.where(key)}: {self.word(key)} has {len(texts)} values and [{self.name}] {count} inputs: write "
                "one for each input."
            )
        return tuple(number for number in numbers if number is not None) * (count if len(texts) == 1 else 1)

    def number(self, key: str, default: str | None = None) -> float:
        """One number. Raises AlexNetError."""
        return self.numbers(key, 1, default)[0]


def number_of(text: str) -> float | None:
    """A finite number, None for any other text."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def read(path: Path) -> dict[str, Section]:
    """The sections of a file by name, in its order. Raises AlexNetError for what is not a layer file."""
    if path.exists() and not path.is_file():
        raise AlexNetError(f"{path} is not a file: name one of cuda-convnet's .cfg files.")
    sections = dict[str, Section]()
    now: Section | None = None
    for line, raw in enumerate(files.read_text(path).splitlines(), 1):
        text, where = re.sub(r"\s;.*", "", raw).rstrip(), f"{path.name}:{line}"
        if not text.strip() or text.startswith(("#", ";")):
            continue
        if text[0].isspace():
            raise AlexNetError(
                f"{where}: the line is indented, which continues the value above: begin it at the margin."
            )
        if header := re.fullmatch(r"\[([^\]]+)\]", text):
            name = header[1]
            if name in sections:
                raise AlexNetError(
                    f"{where}: [{name}] stands in line {sections[name].line} already: remove one of them."
                )
            now = sections[name] = Section(name, path, line, {})
        else:
            _add(now, text, where, line)
    if not sections:
        raise AlexNetError(f"{path} has no [section], so it is not one of cuda-convnet's layer files: name another.")
    return sections


def _add(section: Section | None, text: str, where: str, line: int) -> None:
    match = re.fullmatch(r"([^=:\s\[]+)\s*[=:]\s*(.*)", text)
    if not match:
        shown = text if len(text) <= 40 else text[:40] + "..."
        raise AlexNetError(f"{where}: {shown!r} is neither a [section] nor key=value: mend it, or begin it with #.")
    key, value = match[1].lower(), match[2].strip()
    if section is None:
        raise AlexNetError(f"{where}: {key} stands before the first [section]: put it into one.")
    if key in section.fields:
        raise AlexNetError(f"{where}: [{section.name}] has {key} in line {section.fields[key][1]} already: remove one.")
    if "%(" in value:
        raise AlexNetError(f"{where}: {key}={value} refers to another value: write the value itself.")
    section.fields[key] = (value, line)


def merged(every: list[Missing]) -> list[Missing]:
    """The same word with the same sentence once, with all of its lines: FILE:LINE, LINE, ..."""
    lines = dict[tuple[str, str, str], list[str]]()
    for missing in every:
        file, _, line = missing.where.rpartition(":")
        places = lines.setdefault((file, missing.word, missing.what), [])
        if line not in places:
            places.append(line)
    return [Missing(f"{file}:{', '.join(places)}", word, what) for (file, word, what), places in lines.items()]
