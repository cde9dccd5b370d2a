"""Our AdamW per slot against torch's, and the schedule."""

import pytest
import torch

from model.config import Hyperparameters
from model.optimizer import BETA1, BETA2, EPSILON, learning_rate, step_factors, step_rows
from model.parameters import ParameterSpec, ParameterStore

SPECS = [ParameterSpec("a", (5, 7), std=1.0), ParameterSpec("b", (3,), std=1.0, decays=False)]


def test_each_slot_follows_torch_adamw_with_its_own_settings() -> None:
    """Rates, decay, clipping and step counts differ from slot to slot; a torch optimizer alone gives the same parameters."""
    store = ParameterStore(SPECS, 2, torch.device("cpu"), torch.float64)
    hps = [
        Hyperparameters(lr=0.1, weight_decay=0.3, clip_norm=0.5, epochs=1),
        Hyperparameters(lr=0.01, weight_decay=0.0, clip_norm=1e9, epochs=1),
    ]
    for slot in range(2):
        store.write(slot, store.initial_rows(slot, 1))
    torch.manual_seed(0)
    steps = 6
    gradients = torch.randn(steps, *store.values.shape, dtype=torch.float64)
    for name, view in store.gradient_views.items():
        assert view.shape[0] == 2, name
    expected = []
    for slot, hp in enumerate(hps):
        parameters = {name: value.clone().requires_grad_() for name, value in store.named(store.read(slot)[0]).items()}
        groups = [{"params": [parameters["a"]], "weight_decay": hp.weight_decay}, {"params": [parameters["b"]], "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=hp.lr, betas=(BETA1, BETA2), eps=EPSILON)
        for step in range(steps):
            own = store.named(gradients[step][store.slot_rows_KR[slot]])
            for name, parameter in parameters.items():
                parameter.grad = own[name].clone()
            torch.nn.utils.clip_grad_norm_(parameters.values(), hp.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(hp, step, steps)
            optimizer.step()
        expected.append(parameters)
    factors = step_factors([(hp, 0) for hp in hps], steps)
    decay, clip = (torch.tensor(values, dtype=torch.float64) for values in ([0.3, 0.0], [0.5, 1e9]))
    for step in range(steps):
        store.gradient.copy_(gradients[step])
        padding = torch.ones_like(store.gradient)
        for view in store._blocks(padding).values():
            view.zero_()
        store.gradient.mul_(1 - padding)
        step_rows(store, factors[step], decay, clip)
    for slot in range(2):
        for name, value in store.named(store.read(slot)[0]).items():
            assert torch.allclose(value, expected[slot][name].detach(), rtol=1e-4, atol=1e-6)


def test_the_average_weighs_late_steps_most_and_forgets_where_it_began() -> None:
    """Each slot by its own number of steps: the weights of eta = 8 written out, the initial values among those forgotten."""
    store = ParameterStore(SPECS, 2, torch.device("cpu"), torch.float64)
    for slot in range(2):
        store.write(slot, store.initial_rows(slot, 1))
        assert torch.equal(store.read(slot)[3], store.read(slot)[0])
    hps, done = [Hyperparameters(lr=0.1, epochs=2), Hyperparameters(lr=0.01, epochs=9)], (0, 40)
    factors = step_factors(list(zip(hps, done, strict=True)), 12)
    averages, none = [store.read(slot)[3] for slot in range(2)], torch.zeros(2, dtype=torch.float64)
    for step in range(12):
        store.gradient.copy_(torch.randn(store.values.shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64))
        step_rows(store, factors[step], none, none + 1e9)
        for slot in range(2):
            number = done[slot] + step + 1
            averages[slot] = (1 - 9 / (number + 8)) * averages[slot] + 9 / (number + 8) * store.read(slot)[0]
    for slot in range(2):
        assert torch.allclose(store.read(slot)[3], averages[slot])
        assert not torch.allclose(store.read(slot)[3], store.read(slot)[0])


def test_the_rate_rises_then_falls_to_its_floor() -> None:
    """Warm-up, peak, half a cosine, and the floor at the last step and after."""
    hp = Hyperparameters(lr=1.0, warmup=0.1, final_lr=0.1, epochs=10)
    rates = [learning_rate(hp, step, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0) == rates[9]
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0.1) == learning_rate(hp, 1000, 10)
