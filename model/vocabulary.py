"""The symbol table shared by tokens, entities, relations and values, and what a word it does not hold still says.

It comes from the train split alone. A word it does not hold is read by its base form or its ending, and can be copied from a sentence
though nothing is known of it (Gu et al. 2016, "Incorporating copying mechanism in sequence-to-sequence learning").
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from model.stories import Sentence

PAD, UNKNOWN = 0, 1
SPECIAL_SYMBOLS = ("<pad>", "<unknown>")
ENDING_LENGTH, ENDING_SHARED_BY = 3, 4
INFLECTIONS = (
    *(("ies", ("y",)), ("ied", ("y",)), ("es", ("e", "")), ("s", ("",)), ("ing", ("", "e")), ("ed", ("e", ""))),
    *(("ier", ("y",)), ("iest", ("y",)), ("er", ("", "e")), ("est", ("", "e"))),
)
BASE_LENGTH, VOWELS = 3, frozenset("aeiouy")


def base_forms(word: str) -> Iterator[str]:
    """What the word may be an inflection of, by English spelling alone: `stories` -> `story`, `stopped` -> `stop`, `made` -> nothing.

    What precedes the ending must have a vowel (`thing` is no form of `the`), unless the ending may replace a `y` (`tried`), and must not
    end in `e` if the ending begins with one (`seed` is no form of `see`).
    """
    for ending, replacements in INFLECTIONS:
        stem = word.removesuffix(ending)
        if stem != word and (VOWELS & set(stem) or "y" in replacements) and (ending[0] != "e" or stem[-1] != "e"):
            doubled = [stem[:-1]] if len(stem) > 2 and stem[-1] == stem[-2] else []
            yield from (base for base in (*(stem + letters for letters in replacements), *doubled) if len(base) >= BASE_LENGTH)


def singular(word: str) -> str:
    """What a word of which nothing is known is called as an entity: itself, without the ending of a plural (`hedges` -> `hedge`)."""
    if word.endswith("ies") and len(word) > len("ies") + 1:
        return word[: -len("ies")] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zes")):
        return word[: -len("es")]
    plural = word.endswith("s") and not word.endswith(("ss", "us", "is", "'s")) and len(word) > BASE_LENGTH
    return word[:-1] if plural else word


class Vocabulary:
    """The symbol table: special symbols first, then words by falling frequency, then by alphabet; and the words' endings.

    Input ids go beyond the table: an unknown word is read as `len(vocabulary) + ending`, so that its ending still says something.
    `named` says which symbols are in propositions of train (all, where it is not known), `verbs` what relation a token is called when it
    is read as a verb (`found` -> `find`).
    """

    def __init__(
        self, symbols: Sequence[str], endings: Sequence[str], named: Container[str] | None = None, verbs: Mapping[str, str] | None = None
    ) -> None:
        self.symbols, self.endings, self.verbs = tuple(symbols), tuple(endings), dict(verbs or {})
        self.named = tuple(named is None or symbol in named for symbol in self.symbols)
        self._ids = {symbol: number for number, symbol in enumerate(self.symbols) if number >= len(SPECIAL_SYMBOLS)}
        self._endings = {ending: number for number, ending in enumerate(self.endings)}

    @classmethod
    def of(cls, sentences: Sequence[Sentence], verbs: Mapping[str, str] | None = None) -> Vocabulary:
        """The table of every token, entity, relation and value of `sentences` (the train split); `verbs` as that split shows them."""
        counts = Counter(word for s in sentences for word in s.tokens)
        named = Counter(word for s in sentences for proposition in s.propositions for word in proposition)
        counts.update(named)
        words = sorted(counts, key=lambda word: (-counts[word], word))
        shared = Counter(word[-length:] for word in words for length in range(1, ENDING_LENGTH + 1) if len(word) > length)
        endings = [ending for ending, count in shared.items() if count >= ENDING_SHARED_BY]
        return cls([*SPECIAL_SYMBOLS, *words], ["", *sorted(endings)], named, verbs)

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def cased(self) -> bool:
        """Whether any word has capitals."""
        return any(symbol != symbol.lower() for symbol in self.symbols[len(SPECIAL_SYMBOLS) :])

    def __contains__(self, word: str) -> bool:
        return self.id(word) != UNKNOWN

    def id(self, word: str) -> int:
        """The word's number; `<pad>` written in a text is a word like any other."""
        return self._ids.get(word, UNKNOWN)

    def ending(self, word: str) -> int:
        """The number of the longest ending of the word that several words of train share."""
        longest = range(min(ENDING_LENGTH, len(word) - 1), 0, -1)
        return next((self._endings[word[-length:]] for length in longest if word[-length:] in self._endings), 0)

    def base(self, word: str) -> int:
        """The symbol of the word's base form by the spelling (`needles` -> `needle`); PAD if the table holds none."""
        return next((self._ids[base] for base in base_forms(word) if base in self._ids), PAD)

    def input_id(self, word: str) -> int:
        """The number under which the word is read: its symbol, else its base form's, else its ending's."""
        return self._ids.get(word) or self.base(word) or len(self) + self.ending(word)

    def symbol_bases(self) -> list[int]:
        """The base form of every symbol of the table, PAD where there is none."""
        return [PAD] * len(SPECIAL_SYMBOLS) + [self.base(word) for word in self.symbols[len(SPECIAL_SYMBOLS) :]]

    def symbol_verbs(self) -> list[int]:
        """The relation that every symbol of the table is called as a verb, PAD where there is none."""
        return [self._ids.get(self.verbs.get(word, ""), PAD) for word in self.symbols]

    def symbol_endings(self) -> list[int]:
        """The ending of every symbol of the table."""
        return [0] * len(SPECIAL_SYMBOLS) + [self.ending(word) for word in self.symbols[len(SPECIAL_SYMBOLS) :]]


class Unknowns:
    """The words of some sentences that the table does not hold, numbered after all input ids: told apart and copied, but not understood."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.first = len(vocabulary) + len(vocabulary.endings)
        self.words: list[str] = []
        self._ids: dict[str, int] = {}
        self._inputs_U, self._lemmas_U = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)

    def id(self, word: str) -> int:
        """The word's symbol, else a number of its own."""
        known = self.vocabulary.id(word)
        return known if known != UNKNOWN else self._number(word)

    def token_id(self, word: str) -> int:
        """The number under which a token stands: its symbol, else its base form's, else one of its own."""
        known = self.vocabulary.id(word)
        return known if known != UNKNOWN else self.vocabulary.base(word) or self._number(word)

    def _number(self, word: str) -> int:
        if word not in self._ids:
            self._ids[word] = self.first + len(self.words)
            self.words.append(word)
            self._number(singular(word))
        return self._ids[word]

    def to(self, device: torch.device) -> Unknowns:
        """The same words, ready to be used on `device`."""
        moved = copy.copy(self)
        moved._inputs_U = torch.tensor([self.vocabulary.input_id(word) for word in self.words] or [PAD], device=device)
        moved._lemmas_U = torch.tensor([self.id(singular(word)) for word in self.words] or [PAD], device=device)
        return moved

    def readable(self, ids: Tensor) -> Tensor:
        """The input ids under which the network reads these."""
        return torch.where(ids < self.first, ids, self._inputs_U[(ids - self.first).clamp(min=0)])

    def tokens(self, ids: Tensor) -> Tensor:
        """The ids of these words as tokens: a word that the table does not hold has the id of its base form, if the table holds that."""
        readable = self.readable(ids)
        return torch.where(readable < len(self.vocabulary), readable, ids)

    def copied(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Whether a token is to be copied (nothing is known of it), and what it is called then."""
        return ids >= self.first, self._lemmas_U[(ids - self.first).clamp(min=0)]

    def word(self, number: int) -> str:
        """The word of a number."""
        return self.words[number - self.first] if number >= self.first else self.vocabulary.symbols[number]
