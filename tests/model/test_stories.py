"""Synthetic stories."""

from collections import Counter

from model.stories import tell_stories


def test_the_same_seed_tells_the_same_stories_and_fewer_are_the_first() -> None:
    """Another seed tells others."""
    assert tell_stories(5, 3) == tell_stories(5, 3)
    assert tell_stories(3, 3) == [s for s in tell_stories(5, 3) if s.story_id < "synthetic-00003"]
    assert tell_stories(5, 4) != tell_stories(5, 3)


def test_the_words_are_many_and_zipfian() -> None:
    """About 500 entities and 1,500 words in a large sample; the ten most frequent entities make up more than a tenth of all."""
    sentences = tell_stories(3000, 1)
    entities = Counter(p[0] for s in sentences for p in s.propositions)
    words = {w for s in sentences for w in (*s.tokens, *(w for p in s.propositions for w in p))}
    assert 450 <= len(entities) <= 500
    assert 1300 <= len(words) <= 1700
    assert sum(count for _, count in entities.most_common(10)) > 0.1 * entities.total()


def test_propositions_are_in_the_order_of_their_nouns() -> None:
    """Each noun gives its type first; passive agents act; adjectives are properties."""
    for sentence in tell_stories(50, 2):
        kinds = [relation for _, relation, _ in sentence.propositions]
        assert kinds[0] == "type"
        assert 3 <= len(sentence.tokens) <= 20
        for entity, relation, value in sentence.propositions:
            assert (relation == "type") == (entity == value)
            if relation == "has_property":
                assert value in sentence.tokens
