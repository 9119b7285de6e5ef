"""Files of one word and its tag a line → sentences with entities."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from lc_finetune.checkpoint import JOINT, Task
from lc_finetune.data.examples import IntentExample, Loaded, TaggedExample
from lc_finetune.data.intents import intent_in, read_as_joint
from lc_finetune.data.rows import read_text
from lc_finetune.errors import DataError
from lc_finetune.labels import Span
from lc_finetune.schemes import OUTSIDE, SchemeConflict, detect_scheme, parse_tag, tags_to_spans

CONLL = (".conll", ".iob", ".bio", ".txt")
"""Suffixes of such files."""


class _Token(NamedTuple):
    word: str
    tag: str
    line: int


def read_conll(path: Path, task: Task | Literal["auto"] = "auto") -> Loaded:
    """Read sentences of one word and tag a line; words are joined as they are written, see `_joined`.

    Where a comment above each sentence names its label, `# intent: book_table`, that is read with the entities, unless
    the task is another.
    """
    sentences, intents, comments = _conll_sentences(path)
    if not any(is_tag(token.tag) for tokens in sentences for token in tokens):
        raise DataError(
            f"{path}: expected a tag such as O or B-PER in the last column, found none. "
            "Write a word and its tag on each line."
        )
    try:
        scheme = detect_scheme([[token.tag for token in tokens] for tokens in sentences])
    except SchemeConflict as conflict:
        line = sentences[conflict.sequence][conflict.position].line
        raise DataError(
            f"{path}:{line}: expected one tagging scheme (IOB1, IOB2, BIOES, BILUO), found a mixture: "
            f"{conflict.reason}. Convert the file to one scheme."
        ) from None
    words = [[token.word for token in tokens] for tokens in sentences]
    by_character = _is_by_character(words)
    examples = tuple(
        _joined(of_sentence, tags_to_spans([token.tag for token in tokens], scheme), by_character=by_character)
        for of_sentence, tokens in zip(words, sentences, strict=True)
    )
    notes = [f"{path}: {len(examples)} sentences in {scheme}{', a character a line' if by_character else ''}."]
    without = next((tokens[0].line for tokens, intent in zip(sentences, intents, strict=True) if intent is None), None)
    if task == JOINT and without is not None:
        raise DataError(
            f"{path}:{without}: expected a label for each sentence, found one without. Write it on a line above, as in "
            "# intent: book_table."
        )
    if task in ("auto", JOINT) and without is None:
        comments -= len(sentences)
        labelled = tuple(
            IntentExample(one.text, str(intent), one.spans) for one, intent in zip(examples, intents, strict=True)
        )
        notes += [*_left_out(path, comments), *read_as_joint(str(path), task)]
        return Loaded(labelled, JOINT, tuple(notes))
    return Loaded(examples, "token-classification", (*notes, *_left_out(path, comments)))


def _left_out(path: Path, comments: int) -> list[str]:
    return [f"{path}: {comments} comment lines left out."] if comments else []


def _conll_sentences(path: Path) -> tuple[list[list[_Token]], list[str | None], int]:
    """Read the sentences and the label that a comment gives each, and count the comment lines."""
    sentences: list[list[_Token]] = []
    intents: list[str | None] = []
    intent: str | None = None
    comments = width = 0
    inside = False
    for number, line in enumerate(read_text(path).replace("\r\n", "\n").split("\n"), start=1):
        columns = _conll_columns(line)
        if not line.strip() or columns[0] == "-DOCSTART-":
            inside = False
        elif line.startswith("# ") and (len(columns) != (width or len(columns)) or not (inside or is_tag(columns[-1]))):
            comments += 1
            intent = intent_in(line) or intent
        else:
            width = width or len(columns)
            if len(columns) < 2 or len(columns) != width or not columns[0] or not columns[-1]:
                raise DataError(
                    f"{path}:{number}: expected {max(2, width)} columns, the word first and the tag last, found "
                    f"{sum(map(bool, columns))}. Separate them with a tab or a space."
                )
            if not inside:
                sentences.append([])
                intents.append(intent)
                intent = None
            sentences[-1].append(_Token(columns[0], columns[-1], number))
            inside = True
    return sentences, intents, comments


def _conll_columns(line: str) -> list[str]:
    """Cut at tabs, or else at spaces and at nothing else: words may hold any other white space of Unicode."""
    if "\t" in line:
        return [column.strip(" ") for column in line.split("\t")]
    return [column for column in line.split(" ") if column]


def is_tag(tag: str) -> bool:
    """Say whether this can be an entity's tag."""
    return tag == OUTSIDE or (tag[1:2] == "-" and parse_tag(tag)[0] == tag[0])


_UNSPACED = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff01-\uff9f\U00020000-\U0003ffff]")
"""Characters and marks of Chinese and Japanese, beside which no space is written, and forms of other width."""


def _is_by_character(sentences: Sequence[Sequence[str]]) -> bool:
    """Say whether lines hold characters, as in most files of Chinese: nearly all do, and some of them are of it."""
    words = [word for sentence in sentences for word in sentence]
    single = sum(len(word) == 1 for word in words)
    return single >= 0.9 * len(words) and any(map(_UNSPACED.match, words))


def _joined(words: Sequence[str], spans: Sequence[Span], *, by_character: bool) -> TaggedExample:
    """Join words with single spaces, and move the spans to characters.

    There is no space beside characters and marks of Chinese and Japanese, and none at all between lines that hold
    characters, where those of a Latin word stand apart too.
    """
    text = ""
    starts: list[int] = []
    for word in words:
        if text and not (by_character or _UNSPACED.match(text[-1]) or _UNSPACED.match(word)):
            text += " "
        starts.append(len(text))
        text += word
    return TaggedExample(
        text,
        tuple(Span(starts[s.start], starts[s.end - 1] + len(words[s.end - 1]), s.label) for s in spans),
    )
