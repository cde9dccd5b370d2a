"""How propositions lie along a sentence: the one thing that parsing and generating must agree on.

    token        0    1      2     3      4   5    6     7
    sentence     the  girl   saw   a      red big  ball  .
    counts            1                            3              parsing says how many propositions each token carries
    places            p0                           p1 p2 p3
    gaps              2                            5 0 0  2       generating says how many tokens each place lies after the previous

The extraction goes through a sentence's tokens in order, so counts tell the places, and gaps tell the places: two ways to write one
monotonic alignment. In training the layout is known and given to both directions (teacher forcing); the cycles share it, so that nothing
has to be guessed between them. Each direction's own prediction of it (counts, gaps) is trained alongside.

Letters of the axes: K slots, B sentences, T tokens, P places, Q places and the end of the sentence.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

REACH = 8
"""So many distances along the sentence are told apart: 0 to REACH - 1 tokens, the last standing for all beyond."""
IGNORED = -100
"""The target that means 'no target', the default `ignore_index` of `torch.nn.functional.cross_entropy`."""


class Layout(NamedTuple):
    """Where the propositions of sentences lie; integers and booleans, except for `rows_KBQ2` and `near_KBT2Q`.

    `inside`, `before` and `after` are row numbers in tables stacked over the slots; what is said of them below is within a slot.
    """

    position_KBP: Tensor
    """The token of each place's entity, 0 where the place is empty."""
    filled_KBP: Tensor
    inside_KBP: Tensor
    """Its index among the propositions of its token, and their number: `index * (max_propositions + 1) + number`."""
    count_KBT: Tensor
    """How many propositions each token carries; IGNORED beyond the sentence."""
    gap_KBQ: Tensor
    """How many tokens each place, and the sentence's end, lies after the previous place (the first: after token -1); IGNORED if none."""
    rows_KBQ2: Tensor
    """First 1 for the filled places and the end, else 0; then 1 for the end alone."""
    before_KBT: Tensor
    """How far each token lies after the nearest place before it, capped; if there is none, REACH plus that from token -1."""
    after_KBT: Tensor
    """How far each token lies before the nearest place at or after it, capped; if there is none, REACH plus that to the end."""
    near_KBT2Q: Tensor
    """Two masks over Q, joined: 1 for the nearest places before the token; 1 for the nearest at or after it (the end is one)."""

    def twice(self) -> Layout:
        """The layout for the sentences repeated once more; only the fields that reading needs are doubled."""
        position, filled, inside = (torch.cat((part, part), dim=1) for part in self[:3])
        return self._replace(position_KBP=position, filled_KBP=filled, inside_KBP=inside)


def inside_rows(max_propositions: int) -> int:
    """How many rows a slot's table of `inside` has."""
    return (max_propositions + 1) ** 2


def end_rows(filled_KBP: Tensor, dtype: torch.dtype) -> Tensor:
    """The `rows_KBQ2` of a layout, which do not depend on where its places lie."""
    row_Q, number_KB1 = torch.arange(filled_KBP.shape[2] + 1, device=filled_KBP.device), filled_KBP.sum(-1, keepdim=True)
    return torch.stack((row_Q <= number_KB1, row_Q == number_KB1), dim=-1).to(dtype)


def lay_out(position_KBP: Tensor, filled_KBP: Tensor, length_KB: Tensor, tokens: int, max_propositions: int, dtype: torch.dtype) -> Layout:
    """The layout of sentences whose places are known; places are filled from the first on, in the order of their tokens."""
    position_KBP = position_KBP * filled_KBP
    slots, _, places = position_KBP.shape
    token_T = torch.arange(tokens, device=position_KBP.device)
    row_Q = torch.arange(places + 1, device=position_KBP.device)
    slot_K11 = torch.arange(slots, device=position_KBP.device)[:, None, None]
    number_KB1, length_KB1 = filled_KBP.sum(-1, keepdim=True), length_KB[..., None]
    stop_KBQ = torch.where(row_Q < number_KB1, functional.pad(position_KBP, (0, 1)), length_KB1)
    here_KBQ = row_Q <= number_KB1

    same_KBPP = (position_KBP[..., None] == position_KBP[:, :, None]) & filled_KBP[..., None] & filled_KBP[:, :, None]
    inside_KBP = same_KBPP.tril(-1).sum(-1) * (max_propositions + 1) + same_KBPP.sum(-1)
    count_KBT = ((position_KBP[:, :, None] == token_T[:, None]) & filled_KBP[:, :, None]).sum(-1).clamp(max=max_propositions)
    gap_KBQ = (stop_KBQ - functional.pad(stop_KBQ[..., :-1], (1, 0), value=-1)).clamp(min=0)

    stop_KB1Q, token_T1, here_KB1Q = stop_KBQ[:, :, None], token_T[:, None], here_KBQ[:, :, None]
    before_KBT = torch.where((stop_KB1Q < token_T1) & here_KB1Q, stop_KB1Q, -1).amax(-1)
    after_KBT = torch.where((stop_KB1Q >= token_T1) & here_KB1Q, stop_KB1Q, tokens).amin(-1)
    behind = (token_T - before_KBT).clamp(max=REACH - 1) + REACH * (before_KBT < 0)
    ahead = (after_KBT - token_T).clamp(max=REACH - 1) + REACH * (after_KBT == length_KB1)
    near = [((stop_KB1Q == at[..., None]) & here_KB1Q).to(dtype) for at in (before_KBT, after_KBT)]
    return Layout(
        position_KBP,
        filled_KBP,
        inside_KBP + slot_K11 * inside_rows(max_propositions),
        torch.where(token_T < length_KB1, count_KBT, IGNORED),
        torch.where(here_KBQ, gap_KBQ, IGNORED),
        end_rows(filled_KBP, dtype),
        behind + slot_K11 * (2 * REACH),
        ahead + slot_K11 * (2 * REACH),
        torch.cat(near, dim=-1),
    )


def places_of_counts(count_KBT: Tensor, places: int) -> tuple[Tensor, Tensor]:
    """The token of each place, and whether it is filled, from how many propositions each token carries."""
    end_KBT = count_KBT.clamp(min=0).cumsum(-1)
    place_P = torch.arange(places, device=count_KBT.device)
    position_KBP = (end_KBT[:, :, None] <= place_P[:, None]).sum(-1)
    filled_KBP = place_P < end_KBT[..., -1:]
    return position_KBP * filled_KBP, filled_KBP


def places_of_gaps(gap_KBQ: Tensor, filled_KBP: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """The token of each filled place, and the sentences' lengths (1 to `tokens`), from the gaps."""
    row_Q = torch.arange(gap_KBQ.shape[2], device=gap_KBQ.device)
    number_KB1 = filled_KBP.sum(-1, keepdim=True)
    least_KBQ = ((row_Q == 0) | (row_Q == number_KB1)).to(gap_KBQ.dtype)
    stop_KBQ = gap_KBQ.clamp(min=least_KBQ).cumsum(-1) - 1
    length_KB = stop_KBQ.gather(2, number_KB1).squeeze(2).clamp(1, tokens)
    return torch.minimum(stop_KBQ[..., :-1], length_KB[..., None] - 1) * filled_KBP, length_KB
