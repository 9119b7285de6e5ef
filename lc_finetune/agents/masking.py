"""Entities → markers, and back: the part of redaction that knows only texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count

from lc_finetune.errors import ConfigError
from lc_finetune.labels import Span

LITERAL = "TEXT"
"""Label of a text that looks like one of the markers, but was not written by the model."""


class Markers:
    """Which marker stands for which entity of one conversation, one to one.

    A marker is `[LABEL_1]`, or a pseudonym of the label's pool while there are any left. None occurs in the texts that
    were there when it was made, and where a later text happens to hold one, it is masked as if it were an entity:
    restoring what was masked always gives the text again. No marker is a part of another.
    """

    def __init__(
        self, known: Mapping[str, Mapping[str, str]] | None = None, *, pools: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """Go on from `known`, marker → `{"label": …, "text": …}`, as `as_dict` gives it."""
        self._entity_of = {marker: (entity["label"], entity["text"]) for marker, entity in (known or {}).items()}
        self._marker_of = {text: marker for marker, (_, text) in self._entity_of.items()}
        self._label_of = {written: label for label, text in self._entity_of.values() for written in _ways(text)}
        self._pools = pools or {}
        self._texts: list[str] = []
        self._pattern = _any_of(self._entity_of)

    def as_dict(self) -> dict[str, dict[str, str]]:
        """Write plain dicts, for the agent's state."""
        return {marker: {"label": label, "text": text} for marker, (label, text) in self._entity_of.items()}

    @property
    def bracketed(self) -> bool:
        """Whether any marker is not a pseudonym."""
        return any(marker.startswith("[") for marker in self._entity_of)

    # Masking.

    def learn(self, texts: Mapping[str, Iterable[Span]]) -> None:
        """Give each entity of the texts a marker that occurs in none of them."""
        self._texts = list(texts)
        for text, spans in texts.items():
            for span in spans:
                self._marker(text[span.start : span.end], span.label)

    def mask(self, text: str, spans: Iterable[Span] = (), *, by_model: bool = False) -> str:
        """Mask the text's entities and all others that are known, which the tagger may have missed here.

        A known entity is found as it was written or as JSON writes it, but not within a longer word. Spans that overlap
        are masked as one.

        Args:
            text: One of the texts that were learned.
            spans: Its entities, offsets in characters.
            by_model: Whether the model wrote it, so that markers in it are markers and not a part of the text.
        """
        markers = self._markers_in(text)
        found = [*spans, *self._known_in(text, literals=not by_model)]
        if by_model:
            found = [span for span in found if not any(_overlap(span, marker) for marker in markers)]
        else:
            found += markers
        parts, done = [], 0
        for start, end, label in _united(found):
            parts += [text[done:start], self._marker(text[start:end], label)]
            done = end
        return "".join([*parts, text[done:]])

    def _known_in(self, text: str, *, literals: bool) -> Iterator[Span]:
        for written, label in self._label_of.items():
            if written not in text or (label == LITERAL and not literals):
                continue
            for found in re.finditer(re.escape(written), text):
                start, end = found.span()
                if not _in_word(text[start - 1 : start + 1]) and not _in_word(text[end - 1 : end + 1]):
                    yield Span(start, end, label)

    def _markers_in(self, text: str) -> list[Span]:
        return [Span(*found.span(), LITERAL) for found in self._pattern.finditer(text)]

    def _marker(self, text: str, label: str) -> str:
        known = self._marker_of.get(text) or self._marker_of.get(_unescaped(text))
        if known is not None:
            return known
        marker = next(marker for marker in self._candidates(label) if self._free(marker))
        self._entity_of[marker] = (label, text)
        self._marker_of[text] = marker
        self._label_of.update(dict.fromkeys(_ways(text), label))
        self._pattern = _any_of(self._entity_of)
        return marker

    def _candidates(self, label: str) -> Iterator[str]:
        yield from self._pools.get(label, ())
        stem = re.sub(r"\W+", "_", label).upper()
        yield from (f"[{stem}_{number}]" for number in count(1))

    def _free(self, marker: str) -> bool:
        return marker not in self._entity_of and not any(marker in text for text in self._texts)

    # Restoring.

    def restore(self, text: str, *, in_json: bool = False) -> str:
        """Put the entities back, written as JSON writes them within a string if `in_json`."""
        return self._pattern.sub(lambda found: self._entity(found[0], in_json), text)

    def ready(self, text: str) -> int:
        """Count the characters of a text that goes on which belong to no marker that has only begun."""
        done = max((found.end() for found in self._pattern.finditer(text)), default=0)
        begun = (i for i in range(done, len(text)) if any(marker.startswith(text[i:]) for marker in self._entity_of))
        return next(begun, len(text))

    def _entity(self, marker: str, in_json: bool) -> str:
        text = self._entity_of[marker][1]
        return json.dumps(text, ensure_ascii=False)[1:-1] if in_json else text


class Restorer:
    """Restores a text that arrives in pieces; what may be the beginning of a marker waits for the next piece."""

    def __init__(self, markers: Markers, *, in_json: bool = False) -> None:
        self._markers = markers
        self._in_json = in_json
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take a piece and give what can be given."""
        text = self._held + piece
        ready = self._markers.ready(text)
        self._held = text[ready:]
        return self._markers.restore(text[:ready], in_json=self._in_json)

    def rest(self) -> str:
        """Give what waited in vain."""
        held, self._held = self._held, ""
        return held


def check_pools(pools: Mapping[str, Sequence[str]]) -> None:
    """Refuse pseudonyms that could not be told apart or put back.

    Raises:
        ConfigError: If one is blank, begins with a bracket, is written otherwise in JSON, or is a part of another.
    """
    names = sorted((name for pool in pools.values() for name in pool), key=len)
    for name in names:
        if not name.strip() or name.startswith("[") or json.dumps(name, ensure_ascii=False)[1:-1] != name:
            raise ConfigError(f"Expected pseudonyms without brackets, quotes and backslashes, found {name!r}.")
    for i, name in enumerate(names):
        whole = next((other for other in names[i + 1 :] if name in other), None)
        if whole is not None:
            raise ConfigError(f"Expected pseudonyms of which none is a part of another, found {name!r} and {whole!r}.")


def _any_of(markers: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, markers)) or r"(?!)")


def _united(spans: Iterable[Span]) -> list[Span]:
    """Join what overlaps; the label is that of the first, or of the longest among those that start there."""
    united: list[Span] = []
    for span in sorted((span for span in spans if span.start < span.end), key=lambda span: (span.start, -span.end)):
        if united and span.start < united[-1].end:
            united[-1] = united[-1]._replace(end=max(united[-1].end, span.end))
        else:
            united.append(span)
    return united


def _overlap(a: Span, b: Span) -> bool:
    return a.start < b.end and b.start < a.end


def _ways(entity: str) -> set[str]:
    """In which ways an entity is written: as it is, and within a JSON string."""
    return {entity, json.dumps(entity)[1:-1], json.dumps(entity, ensure_ascii=False)[1:-1]}


def _in_word(pair: str) -> bool:
    """Whether two neighbouring characters are of one word, in a script that parts words by spaces and has cases."""
    return len(pair) == 2 and all(one.isdigit() or one.lower() != one.upper() for one in pair)


def _unescaped(text: str) -> str:
    """Read a text as the inside of a JSON string, if it can be read so."""
    if "\\" not in text:
        return text
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text
