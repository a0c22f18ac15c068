"""Frozen-SLM PiFi trains the project's own plug-in, all seeds at once, to the numbers of each seed alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pifi_probe.encoders import pool
from pifi_probe.errors import PlugInError, TaskError, TrainingDiverged
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.probing.frozen_arms import Tail, make_arm, make_tail
from pifi_probe.probing.frozen_slm import FrozenRun, Vectors, frozen_slm
from pifi_probe.vocabulary import BASIC_CONTROLS
from tests.runs import Parts

K, SEEDS = 2, (0, 3, 5)
ARMS = (None, *BASIC_CONTROLS)


@pytest.fixture(scope="module")
def layer(parts: Parts) -> FrozenLayer:
    return parts.layer


def vectors(n: int, seed: int, flipped: float = 0.1) -> Vectors:
    rng = np.random.default_rng(seed)
    labels = rng.integers(K, size=n)
    h = rng.normal(size=(n, 24)) + (labels - 0.5)[:, None] * np.linspace(0, 2, 24)
    return Vectors(h, np.where(rng.random(n) < flipped, 1 - labels, labels))


TRAIN, SCORE = vectors(93, 0), vectors(37, 1)


def trained(layer: FrozenLayer, control: str | None, seeds: tuple[int, ...] = SEEDS, **options: Any) -> FrozenRun:
    arm = make_arm(layer, control, target_rms=2.0, seeds=seeds)
    return frozen_slm([arm], TRAIN, SCORE, n_labels=K, seeds=seeds, **{"batch_size": 16, **options})[0]


def plain_loop(tail: Tail, seed: int, epochs: int, lr: float = 1e-3) -> tuple[Any, int]:
    """One seed with nothing stacked; returns the logits of `SCORE` after the best epoch, and that epoch."""
    order, dropped = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    draw = np.lexsort((np.random.default_rng(0).random(len(TRAIN)), TRAIN.labels))
    held = np.isin(np.arange(len(TRAIN)), draw[2::5])
    fit, valid = TRAIN.take(np.flatnonzero(~held)), TRAIN.take(np.flatnonzero(held))
    optimizer = torch.optim.Adam([p for p in tail.parameters() if p.requires_grad], lr=lr)
    found = []
    for _ in range(epochs):
        for rows in np.split(permuted := order.permutation(len(fit)), range(16, len(permuted), 16)):
            h = torch.from_numpy(fit.h[rows])
            h = h if tail.plugin is None else tail.plugin(h)
            h = tail.head[0](h)
            h = h * torch.from_numpy(dropped.random(h.shape, dtype=np.float32) >= 0.2) / 0.8
            logits = tail.head[3](tail.head[2](h))
            loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(fit.labels[rows]), label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        tail.eval()
        with torch.no_grad():
            checked = tail(torch.from_numpy(valid.h)).log_softmax(1)[range(len(valid)), valid.labels].mean()
            found.append((float(-checked), tail(torch.from_numpy(SCORE.h)).double().log_softmax(1).numpy()))
    best = min(range(epochs), key=lambda epoch: found[epoch][0])
    return found[best][1], best + 1


@pytest.mark.parametrize("wiring", ["pifi", "matched"])
@pytest.mark.parametrize("control", ARMS)
def test_all_seeds_at_once_are_the_plain_loop_over_seeds(layer: FrozenLayer, control: str | None, wiring: str) -> None:
    run = trained(layer, control, wiring=wiring)
    arm = make_arm(layer, control, target_rms=2.0, seeds=SEEDS)
    for place, seed in enumerate(SEEDS):
        tail = make_tail(arm, torch.from_numpy(TRAIN.h[:64]), K, wiring, seed, place)
        log_p, best = plain_loop(tail, seed, epochs=3)
        assert run.best_epoch[place] == best
        np.testing.assert_allclose(run.nll[place], -log_p[range(len(SCORE)), SCORE.labels], rtol=1e-3, atol=2e-4)
        assert (run.correct[place] == (log_p.argmax(1) == SCORE.labels)).mean() > 0.97  # ties may flip by rounding


@pytest.mark.parametrize("control", ARMS)
def test_a_seeds_numbers_do_not_depend_on_the_seeds_beside_it(layer: FrozenLayer, control: str | None) -> None:
    together, alone = trained(layer, control), trained(layer, control, seeds=(3,))
    np.testing.assert_allclose(together.nll[1], alone.nll[0], rtol=1e-4, atol=1e-5)
    assert np.abs(together.nll[1] - together.nll[0]).max() > 1e-3


def test_training_twice_gives_the_same_bits(layer: FrozenLayer) -> None:
    first, second = trained(layer, None), trained(layer, None)
    assert np.array_equal(first.nll, second.nll)


@pytest.mark.parametrize("wiring", ["pifi", "matched"])
@pytest.mark.parametrize("control", ARMS)
def test_the_start_is_the_model_that_plug_in_makes(parts: Parts, control: str | None, wiring: str) -> None:
    model = parts.model(seed=3, wiring=wiring, control=control)
    ids = torch.randint(5, 20, (32, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states, mask = model.encode(ids, torch.ones_like(ids))
        h, expected = pool(states, mask, model.config.pooling), model(ids, torch.ones_like(ids)).logits
    arm = make_arm(parts.layer, control, target_rms=2.0, seeds=SEEDS)
    tail = make_tail(arm, h, K, wiring, 3, SEEDS.index(3))
    if model.plugin is not None:  # the scales were matched on other texts
        for name in ("scale_in", "scale_out"):
            assert float(getattr(tail.plugin, name)) == pytest.approx(float(getattr(model.plugin, name)), rel=0.2)
            getattr(tail.plugin, name).copy_(getattr(model.plugin, name))
    with torch.no_grad():
        assert torch.allclose(tail.eval()(h), expected, atol=1e-5)


def test_arms_share_head_order_and_dropout_with_one_seed(layer: FrozenLayer) -> None:
    # With a bypass that starts at zero and a learning rate of nearly nothing, nothing else is left.
    runs = [trained(layer, control, learning_rate=1e-12) for control in ARMS]
    for run in runs[1:]:
        np.testing.assert_allclose(run.nll, runs[0].nll, atol=1e-6)


def test_the_scored_weights_are_those_of_the_epoch_with_the_lowest_held_out_nll(layer: FrozenLayer) -> None:
    long = trained(layer, None, epochs=8, learning_rate=1e-2)
    assert np.array_equal(long.best_epoch, long.validation_nll.argmin(axis=1) + 1)
    assert long.best_epoch.min() < 8
    for place, best in enumerate(long.best_epoch):
        short = trained(layer, None, epochs=int(best), learning_rate=1e-2)
        assert short.best_epoch[place] == best
        assert np.array_equal(short.nll[place], long.nll[place])


def test_the_layer_stays_as_it_was_and_is_taken_once_at_a_time(layer: FrozenLayer) -> None:
    before, asked = layer.digest(), []

    def arms() -> Any:
        for control in ARMS:
            asked.append(control)
            yield make_arm(layer, control, target_rms=2.0, seeds=SEEDS)

    runs = frozen_slm(arms(), TRAIN, SCORE, n_labels=K, seeds=SEEDS)
    assert asked == list(ARMS) and len(runs) == len(ARMS)
    assert layer.digest() == before and layer.frozen
    for run in runs:
        assert run.nll.shape == run.correct.shape == (3, 37)
        assert run.correct.mean() > 0.6  # chance is a half: each arm has learned something


def test_each_seed_has_a_random_layer_of_its_own(layer: FrozenLayer) -> None:
    digests = {one.card.sha256 for one in make_arm(layer, "random", seeds=SEEDS).layers}
    assert len(digests) == len(SEEDS)


def test_labels_that_have_nothing_to_do_with_the_vectors_are_not_learned(layer: FrozenLayer) -> None:
    rng = np.random.default_rng(0)
    train = Vectors(TRAIN.h, rng.permutation(TRAIN.labels))
    score = Vectors(np.tile(SCORE.h, (8, 1)), rng.integers(K, size=8 * len(SCORE)))
    run = frozen_slm([make_arm(layer, target_rms=2.0)], train, score, n_labels=K)[0]
    assert 0.4 < run.correct.mean() < 0.6
    assert run.nll.mean() > 0.69


def test_bad_input_is_named(layer: FrozenLayer) -> None:
    with pytest.raises(PlugInError, match="unknown wiring"):
        trained(layer, None, wiring="loose")
    with pytest.raises(PlugInError, match="unknown control"):
        make_arm(layer, "unfrozen")
    with pytest.raises(PlugInError, match="no layer"):
        make_arm(None)
    with pytest.raises(PlugInError, match="2 layers and there are 3 seeds"):
        frozen_slm([make_arm(layer, "random", seeds=(0, 1))], TRAIN, SCORE, n_labels=K)
    with pytest.raises(TaskError, match="too few for 2 classes"):
        frozen_slm([], TRAIN.take(np.arange(9)), SCORE, n_labels=K)
    with pytest.raises(TaskError, match="label lies outside"):
        frozen_slm([], TRAIN, Vectors(SCORE.h, SCORE.labels + 1), n_labels=K)
    with pytest.raises(PlugInError, match="width"):
        frozen_slm([], TRAIN, Vectors(SCORE.h[:, :5], SCORE.labels), n_labels=K)
    with pytest.raises(TaskError, match=r"NaN or infinite \| where: row 4"):
        Vectors(np.where(np.arange(93)[:, None] == 4, np.nan, TRAIN.h), TRAIN.labels)
    with pytest.raises(TaskError, match="do not fit labels"):
        Vectors(TRAIN.h, TRAIN.labels[1:])
    with pytest.raises(TrainingDiverged, match="epoch 1"):
        trained(layer, None, learning_rate=1e30)


@pytest.mark.assets
def test_the_real_last_layer_trains_on_vectors_of_minilms_width(smollm2: Path) -> None:
    import pifi_probe as pp

    last = pp.extract(f"{smollm2}[29]")
    assert isinstance(last, FrozenLayer)
    wide = [Vectors(np.tile(one.h, (1, 16)), one.labels) for one in (TRAIN, SCORE)]
    run = frozen_slm([make_arm(last, target_rms=29.0)], *wide, n_labels=K, epochs=1)[0]
    assert run.correct.mean() > 0.6
