"""Both front pages show the same commands, and the answers in Chinese are those of the page on paper and source."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ANSWERS = re.compile(r"^## 网上那份中文介绍留下的问题\n.*?(?=^## )", re.DOTALL | re.MULTILINE)


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _commands(text: str) -> list[str]:
    """The command lines of a page, without what follows them as a comment."""
    lines = re.findall(r"^    ((?:make|pip|alexnet|python) .*)$", text, re.MULTILINE)
    return [line.partition("  ")[0].strip() for line in lines]


def _code(text: str) -> list[str]:
    """The lines of Python of a page, without comments."""
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return [line.partition("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_both_pages_show_the_same_commands_and_code() -> None:
    english, chinese = _read("README.md"), ANSWERS.sub("", _read("README.zh.md"))
    assert len(_commands(english)) >= 12
    assert _commands(chinese) == _commands(english)
    assert _code(chinese) == _code(english)


def test_both_pages_have_the_same_figures_and_links() -> None:
    english, chinese = _read("README.md"), ANSWERS.sub("", _read("README.zh.md"))
    percent, commit = r"\d+\.\d+ %", r"\b(?=[0-9a-f]*\d)(?=\d*[a-f])[0-9a-f]{7}\b"
    for pattern in (percent, commit):
        assert set(re.findall(pattern, chinese)) == set(re.findall(pattern, english)) != set()
    links = [set(re.findall(r"\]\(([^)]+)\)", text)) for text in (english, chinese)]
    assert links[1] - {"README.md"} == links[0] - {"README.zh.md"}


def test_the_answers_in_chinese_use_commands_that_are_explained_in_english() -> None:
    (answers,) = ANSWERS.findall(_read("README.zh.md"))
    assert len(_commands(answers)) == 9
    assert set(_commands(answers)) <= set(_commands(_read("docs/paper-and-source.md")))
