"""The front pages show the same commands, their figures are the ledger's, and every page's links lead somewhere."""

import re
from pathlib import Path

import pytest

import alexnet_jax

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "launch" / "README.md"]
ANSWERS = re.compile(r"^## 网上那份中文介绍留下的问题\n.*?(?=^## )", re.DOTALL | re.MULTILINE)
INTERVAL = r"([+-]?\d+\.\d+ \([+-]?\d+\.\d+ to [+-]?\d+\.\d+\))"


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
    assert re.findall(INTERVAL, chinese.replace(" 至 ", " to ")) == re.findall(INTERVAL, english)
    links = [set(re.findall(r"\]\(([^)]+)\)", text)) for text in (english, chinese)]
    assert links[1] - {"README.md"} == links[0] - {"README.zh.md"}


def test_claims_on_the_front_page_are_those_of_the_ledger() -> None:
    """Each bullet's difference is in the ledger's table, in the line of the claim that the bullet links to."""
    lines = re.findall(rf"^\* \[.*\]\(experiments/(\S+)\): {INTERVAL}", _read("README.md"), re.MULTILINE)
    assert len(lines) == 5
    table = _read("experiments/README.md").splitlines()
    for folder, difference in lines:
        assert any(f"]({folder})" in line and f"| {difference}" in line for line in table), folder


def test_chinese_answers_use_commands_explained_in_english() -> None:
    (answers,) = ANSWERS.findall(_read("README.zh.md"))
    assert len(_commands(answers)) == 9
    assert set(_commands(answers)) <= set(_commands(_read("docs/paper-and-source.md")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Files, and headings of files; addresses on the web are not visited."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, target


def test_versions_agree() -> None:
    """The package's in CITATION.cff and first in CHANGELOG.md; ruff's in requirements.txt and the hooks."""
    assert f"\nversion: {alexnet_jax.__version__}\n" in _read("CITATION.cff")
    assert re.findall(r"^## (.*)$", _read("CHANGELOG.md"), re.MULTILINE)[0] == alexnet_jax.__version__
    (pinned,) = re.findall(r"^ruff==(.*)$", _read("requirements.txt"), re.MULTILINE)
    assert set(re.findall(r"ruff==([\d.]+)", _read(".pre-commit-config.yaml"))) == {pinned}
