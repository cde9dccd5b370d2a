"""Which token a proposition comes from, and which forms of words the data themselves show."""

from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st

from model.alignment import NOWHERE, Aligner, alignments, verbs_read
from model.stories import Proposition, Sentence, tell_stories


def sentence(text: str, *propositions: str) -> Sentence:
    """A sentence with its propositions, written as on the command line."""
    stated: list[Proposition] = []
    for proposition in propositions:
        entity, relation, value = proposition.split(",")
        stated.append((entity, relation, value))
    return Sentence("s", tuple(text.split()), tuple(stated))


def test_propositions_stand_in_the_order_of_their_tokens() -> None:
    """A second `type` of a word is its second token; further propositions of an entity are of the same token; forms count by spelling."""
    read = sentence(
        "the girl saw needles and a red needle", "girl,type,girl", "girl,see,needle", "needle,type,needle", "needle,type,needle",
        "needle,has_property,red",
    )  # fmt: skip
    assert Aligner({}).align(read) == [(1, NOWHERE, 1), (1, NOWHERE, 3), (3, NOWHERE, 3), (7, NOWHERE, 7), (7, NOWHERE, 6)]
    assert Aligner({"see": frozenset({"saw"})}).align(read)[1] == (1, 2, 3)


def test_irregular_forms_are_learned_from_where_words_are_missing() -> None:
    """`children` stands wherever `child` would come from nowhere; what stands everywhere else too is no form."""
    lost = [sentence(f"the children saw a c{n}", "child,type,child", f"c{n},type,c{n}") for n in range(4)]
    others = [sentence(f"the cat saw a c{n}", "cat,type,cat") for n in range(40)]
    aligner = Aligner.of([*lost, *others])
    assert aligner.irregular == {"child": frozenset({"children"})}
    assert aligner.align(lost[0]) == [(1, NOWHERE, 1), (4, NOWHERE, 4)]


def test_an_entity_that_stands_nowhere_is_put_after_the_last() -> None:
    """So the sentence still says how many it has; never beyond the sentence's end."""
    assert Aligner({}).align(sentence("a dog ran", "dog,type,dog", "ghost,type,ghost")) == [(1, NOWHERE, 1), (2, NOWHERE, 2)]
    assert Aligner({}).align(sentence("dogs", "dog,type,dog", "ghost,type,ghost")) == [(0, NOWHERE, 0), (0, NOWHERE, 0)]


def test_a_token_is_called_the_verb_that_train_calls_it() -> None:
    """Most often, where it is called several; a word never seen as one is itself or its base form, where that is a verb at all."""
    saw = [sentence("a dog saw a cat", "dog,type,dog", "dog,see,cat", "cat,type,cat")] * 2
    odd = sentence("a dog saw a log", "dog,type,dog", "dog,saw,log", "log,type,log")
    others = [sentence("she sees wood and wants saws", "wood,type,wood")]
    sentences = [*saw, odd, *others]
    aligner = Aligner({"see": frozenset({"saw"})})
    table = torch.full((len(sentences), 3, 3), NOWHERE)
    for row, each in enumerate(sentences):
        found = torch.tensor(aligner.align(each))
        table[row, : len(found)] = found
    assert verbs_read(sentences, table) == {"saw": "see", "sees": "see", "saws": "saw"}


def test_tables_hold_the_first_places_and_the_first_tokens() -> None:
    """What lies beyond is cut off; sentences without propositions have none."""
    table = alignments([sentence("a dog and a cat", "dog,type,dog", "cat,type,cat"), sentence("it ran")], places=1, tokens=64)
    assert table.tolist() == [[[1, NOWHERE, 1]], [[NOWHERE] * 3]]
    long = sentence("the dog in the garden see a cat", "dog,see,cat", "cat,type,cat")
    assert alignments([long], places=2, tokens=4).tolist() == [[[1, NOWHERE, NOWHERE], [3, NOWHERE, NOWHERE]]]
    assert alignments([long], places=1, tokens=8).tolist() == [[[1, 5, 7]]]


def test_every_entity_of_the_tell_stories_is_found() -> None:
    """At its own token or an inflected form of it, in rising order."""
    sentences = tell_stories(20, 1)
    aligner = Aligner.of(sentences)
    for each in sentences:
        found = aligner.align(each)
        assert all(stated[0] in aligner.words(each.tokens[place]) for (place, _, _), stated in zip(found, each.propositions, strict=True))
        assert [place for place, _, _ in found] == sorted(place for place, _, _ in found)


WORDS = st.sampled_from(["dog", "dogs", "cat", "saw", "red", "children", "child"])


@given(st.lists(WORDS, min_size=1, max_size=8), st.lists(st.tuples(WORDS, st.sampled_from(["type", "see"]), WORDS), max_size=9))
def test_alignments_rise_and_stay_inside(tokens: Sequence[str], stated: Sequence[Proposition]) -> None:
    """Whatever the sentence says: entities have a token of it, in order; the rest one or none."""
    found = Aligner({}).align(Sentence("s", tuple(tokens), tuple(stated)))
    entities = [entity for entity, _, _ in found]
    assert entities == sorted(entities)
    assert all(0 <= place < len(tokens) for place in entities)
    assert all(NOWHERE <= place < len(tokens) for row in found for place in row)
