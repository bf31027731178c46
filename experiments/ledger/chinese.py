"""The words of the ledger in Chinese, for README.zh.md."""

from experiments.ledger import verdicts
from experiments.ledger.claims import Claim

_WORDS = {
    verdicts.AS_PREDICTED: "与预测一致",
    verdicts.REFUTED: "被推翻",
    verdicts.UNDECIDED: "未定",
    verdicts.NO_RUNS: "尚未运行",
    verdicts.MORE_TO_COME: "种子还不全",
    ", ": "\uff0c",
    " to ": " 至 ",
    " times": " 倍",
}


def translated(text: str) -> str:
    """A verdict or a difference with the words of the page in Chinese."""
    for word, theirs in _WORDS.items():
        text = text.replace(word, theirs)
    return text


def comparisons(claim: Claim) -> tuple[str, ...]:
    """All comparisons of a claim in Chinese; those that its file does not translate in English."""
    first, _, *others = claim.chinese
    return (first, *(others or (comparison.what for comparison in claim.comparisons[1:])))
