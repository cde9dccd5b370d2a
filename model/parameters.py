"""Where the numbers of K models lie: one flat buffer of short rows, every row owned by one slot.

    rows        w0 of slot 0 | w0 of slot 1 | ... | w1 of slot 0 | w1 of slot 1 | ...        each ROW numbers wide
    views       w0_K..., w1_K...: what the network computes with, contiguous per parameter
    slot_rows   which rows belong to a slot: what snapshots, loading and the optimizer work with

So a matrix product sees a contiguous (K, in, out) block, and the optimizer updates all parameters of all slots with one operation each.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.noise import generator_for

ROW = 16


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter of one slot.

    Initial values are normal with mean `mean` and standard deviation `std`. `rule_axis` is the axis over rules: each rule is drawn
    separately, around 0, so that a model with fewer rules has the same values in those it has. `decays` says whether weight decay applies.
    `twice` says that a step uses the parameter a second time, through a separate leaf, so that the second gradients of all of these are
    added in one operation. `parts` are drawn separately and concatenated along the last axis.
    """

    name: str
    size: tuple[int, ...]
    std: float = 0.0
    mean: float | tuple[float, ...] = 0.0
    rule_axis: int | None = None
    decays: bool = True
    parts: tuple[ParameterSpec, ...] = ()
    twice: bool = False

    @classmethod
    def joined(cls, name: str, *parts: ParameterSpec) -> ParameterSpec:
        """Matrices that work on the same state as one: one product for all of them."""
        return cls(name, (*parts[0].size[:-1], sum(part.size[-1] for part in parts)), parts=parts)

    @property
    def count(self) -> int:
        return math.prod(self.size)

    @property
    def rows(self) -> int:
        return math.ceil(self.count / ROW)

    def draw(self, seed: int, rules: int) -> Tensor:
        """The initial values of a trial with this seed and number of rules, the others zeros (float32, on the CPU)."""
        if self.parts:
            return torch.cat([part.draw(seed, rules) for part in self.parts], dim=-1)
        if self.std == 0.0:
            return torch.tensor(self.mean).expand(self.size).clone()
        if self.rule_axis is None:
            return torch.randn(self.size, generator=generator_for(seed, self.name)) * self.std + torch.tensor(self.mean)
        one = self.size[: self.rule_axis] + self.size[self.rule_axis + 1 :]
        drawn = [torch.randn(one, generator=generator_for(seed, self.name, rule)) * self.std for rule in range(rules)]
        drawn += [torch.zeros(one)] * (self.size[self.rule_axis] - rules)
        return torch.stack(drawn, self.rule_axis)


class ParameterStore:
    """The buffers of `slots` models and of their optimizer, all (rows, ROW): `values`, `moment1`, `moment2`, `averages` (of the values over
    the last steps: what is evaluated and saved), `gradient`, `scratch`.

    `views` are the values as named leaves, `again` a second set of leaves over the same memory, for parameters used `twice`.
    `version` is the version of the model; it is part of the layout.
    """

    def __init__(self, specs: Sequence[ParameterSpec], slots: int, device: torch.device, dtype: torch.dtype, version: int = 0) -> None:
        self.version = version
        self.specs, self.slots, self.device, self.dtype = tuple(specs), slots, device, dtype
        self.rows_per_slot = sum(spec.rows for spec in specs)
        rows = self.rows_per_slot * slots
        self.values, self.moment1, self.moment2, self.averages = (torch.zeros(rows, ROW, device=device, dtype=dtype) for _ in range(4))
        self.gradient, self.scratch = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.slot_rows_KR = self._slot_rows()
        self.row_slot_R = torch.empty(rows, dtype=torch.int64, device=device)
        self.row_slot_R[self.slot_rows_KR] = torch.arange(slots, device=device)[:, None].expand(-1, self.rows_per_slot)
        decays_R = torch.cat([torch.full((spec.rows * slots,), float(spec.decays)) for spec in specs])
        self.decays_R1 = decays_R[:, None].to(device, dtype)
        self.views = {name: view.detach().requires_grad_() for name, view in self._blocks(self.values).items()}
        self.again = {spec.name: self.views[spec.name].detach().requires_grad_() for spec in specs if spec.twice}
        self.gradient_views, self.average_views = self._blocks(self.gradient), self._blocks(self.averages)

    @property
    def layout(self) -> str:
        """A digest of names and sizes: snapshots of another layout cannot be restored."""
        return hashlib.sha256(repr((self.version, [(spec.name, spec.size) for spec in self.specs])).encode()).hexdigest()[:16]

    def _slot_rows(self) -> Tensor:
        starts, first = [], 0
        for spec in self.specs:
            block = torch.arange(spec.rows * self.slots).view(self.slots, spec.rows) + first
            starts.append(block)
            first += spec.rows * self.slots
        return torch.cat(starts, dim=1).to(self.device)

    def _blocks(self, buffer: Tensor) -> dict[str, Tensor]:
        blocks, first = {}, 0
        for spec in self.specs:
            block = buffer[first : first + spec.rows * self.slots].view(self.slots, spec.rows * ROW)
            blocks[spec.name] = block[:, : spec.count].view(self.slots, *spec.size)
            first += spec.rows * self.slots
        return blocks

    def initial_rows(self, seed: int, rules: int) -> Tensor:
        """The rows of a new model with this seed and number of rules."""
        drawn = [spec.draw(seed, rules).flatten() for spec in self.specs]
        padded = [torch.nn.functional.pad(v, (0, spec.rows * ROW - spec.count)) for v, spec in zip(drawn, self.specs, strict=True)]
        return torch.cat(padded).view(-1, ROW).to(self.device, self.dtype)

    def named(self, rows: Tensor) -> dict[str, Tensor]:
        """One slot's rows taken apart into named parameters."""
        parts = torch.split(rows, [spec.rows for spec in self.specs])
        return {spec.name: part.flatten()[: spec.count].view(spec.size) for spec, part in zip(self.specs, parts, strict=True)}

    def rows_of(self, named: dict[str, Tensor]) -> Tensor:
        """The inverse of `named`."""
        flat = [torch.nn.functional.pad(named[spec.name].flatten(), (0, spec.rows * ROW - spec.count)) for spec in self.specs]
        return torch.cat(flat).view(-1, ROW).to(self.device, self.dtype)

    @property
    def _state(self) -> tuple[Tensor, ...]:
        return self.values, self.moment1, self.moment2, self.averages

    def read(self, slot: int) -> tuple[Tensor, ...]:
        """Copies of one slot's values, moments and averages; on the CPU where the device has no room for them."""
        rows = self.slot_rows_KR[slot]
        try:
            return tuple(buffer[rows] for buffer in self._state)
        except torch.OutOfMemoryError:
            return tuple(buffer.cpu()[rows.cpu()] for buffer in self._state)

    def write(self, slot: int, *state: Tensor) -> None:
        """Overwrites one slot with values, moments and averages; values alone start a new model (moments 0, averages the values)."""
        values, *rest = state
        rows = self.slot_rows_KR[slot]
        with torch.no_grad():
            for buffer, new in zip(self._state, (values, *(rest or (values * 0, values * 0, values))), strict=True):
                buffer[rows] = new.to(self.device, self.dtype)
