"""Markers as pure text: whatever is masked can be restored, at once or in pieces."""

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from lc_finetune.agents.masking import Markers, Restorer
from lc_finetune.labels import Span

ENTITIES = ("Ann", "Ann Lee", "张伟", "[PERSON_1]", "x", 'J "Jo" M')
PIECES = (*ENTITIES, "[PERSON_", "1]", "[TEXT_1]", "Kim", " Doe", "Kim Doe", " ", "\\", "\n", "[", "]", "é", "n")

texts = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
conversations = st.lists(st.tuples(texts, st.randoms(use_true_random=False)), min_size=1, max_size=4)


@given(conversations, st.booleans())
def test_what_is_masked_can_be_restored(conversation: list[tuple[str, object]], with_pseudonyms: bool) -> None:
    """Turn after turn, with a tagger that misses some, and markers and pseudonyms in what the user says."""
    pools = {"PERSON": ["Kim Doe"]} if with_pseudonyms else {}
    known: dict[str, dict[str, str]] = {}
    said: dict[str, list[Span]] = {}
    for text, chance in conversation:
        said[text] = [span for span in found_in(text) if chance.random() < 0.7]  # type: ignore[attr-defined]
        markers = Markers(known, pools=pools)
        markers.learn(said)
        for earlier, spans in said.items():
            masked = markers.mask(earlier, spans)
            restorer = Restorer(markers)

            assert markers.restore(masked) == earlier
            assert "".join(map(restorer.feed, masked)) + restorer.rest() == earlier
            assert json.loads(markers.restore(json.dumps(masked, ensure_ascii=False), in_json=True)) == earlier
        known = json.loads(json.dumps(markers.as_dict()))


@given(texts)
def test_no_entity_is_left_in_a_masked_text(text: str) -> None:
    """When the tagger knows them all."""
    markers = Markers()
    spans = found_in(text)
    markers.learn({text: spans})
    left = re.sub(r"\[(?:PERSON|TEXT)_\d+\]", "·", markers.mask(text, spans))

    assert not any(entity in left for entity in ENTITIES)


def found_in(text: str) -> list[Span]:
    """The entities of a text, the longest of those that start at the same place."""
    pattern = "|".join(map(re.escape, sorted(ENTITIES, key=len, reverse=True)))
    return [Span(*found.span(), "PERSON") for found in re.finditer(pattern, text)]
