"""Answers to questions as SQuAD compares them: exact match, and F1 of what they share."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

ANSWERED, UNANSWERED = "answer", "no answer"
ANSWERS = (ANSWERED, UNANSWERED)
"""What a question has, by which rows are split and thresholds can be set."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_IDEOGRAPH = re.compile(r"[\u2e80-\u2fff\u3040-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_MARKS = frozenset(string.punctuation)
_WIDE_MARKS = _MARKS | frozenset("，。：？！“”；’‘《》…·、「」『』（）－～—【】〈〉")
"""Those of CMRC 2018, and a few of their kind."""


def exact_match(found: str | None, wanted: Sequence[str]) -> bool:
    """Say whether an answer is one of the right ones, case, punctuation and English articles left out of account.

    As in the script of SQuAD 2 (Rajpurkar et al. 2018, "Know What You Don't Know"). Of answers with characters of
    Chinese or Japanese, their punctuation is left out too.

    Args:
        found: None for no answer.
        wanted: The right answers; none if there is no answer.

    Example:
        >>> exact_match("The shop.", ["shop", "a small shop"])
        True
    """
    return _parts(found or "") in map(_parts, _comparable(wanted))


def answer_f1(found: str | None, wanted: Sequence[str]) -> float:
    """Give the F1 of the words of an answer, against the right answer that it shares most with.

    As in the script of SQuAD 2; characters of Chinese and Japanese are words of their own, as in that of CMRC 2018 (Cui
    et al. 2019, "A Span-Extraction Dataset for Chinese Machine Reading Comprehension"). Where either side has no
    answer, it is 1 if both have none, and 0 otherwise.

    Args:
        found: None for no answer.
        wanted: The right answers; none if there is no answer.

    Example:
        >>> answer_f1("two days", ["two working days"])
        0.8
    """
    own = _parts(found or "")
    return max(_f1(own, _parts(one)) for one in _comparable(wanted))


def _comparable(wanted: Sequence[str]) -> Sequence[str]:
    """Leave out right answers of which nothing remains, as the script does."""
    return [one for one in wanted if _parts(one)] or [""]


def _parts(answer: str) -> list[str]:
    wide = _IDEOGRAPH.search(answer)
    marks = _WIDE_MARKS if wide else _MARKS
    plain = "".join(character for character in answer.lower() if character not in marks)
    plain = _ARTICLES.sub(" ", plain)
    return (_IDEOGRAPH.sub(r" \g<0> ", plain) if wide else plain).split()


def _f1(found: Sequence[str], wanted: Sequence[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    shared = (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted))
