"""Plug-in probing gives what was planted: a layer that knows something gains, its shuffled twin does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pifi_probe as pp
from pifi_probe.compat import quiet_transformers
from pifi_probe.errors import EstimatorError, LayerIndexError, PlugInError, TaskError
from pifi_probe.features.donor import llm_features
from pifi_probe.features.rows import scoring_rows
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.residual import residual_rms
from pifi_probe.probing import layer_scores, plugin_probe, plugin_scores, warm
from pifi_probe.probing.encoder_vectors import slm_features
from pifi_probe.probing.gains import applicable
from pifi_probe.probing.ntk import ntk
from pifi_probe.probing.plugin_probe import probe_plugin
from pifi_probe.probing.table import ProbeTable
from pifi_probe.probing.warm import other_rows
from pifi_probe.scoring.estimators import get, ridge_accuracy
from pifi_probe.scoring.projections import project
from pifi_probe.scoring.spectrum import beside, centred
from pifi_probe.tasks import Split, Task
from tests import slm, tiny

N = 240
PLANTED, LINEAR, CONSTANT = 0, 1, 2
QUICK = pp.PluginProbeSettings(trained=False, ntk=False, n_permutations=0)


@dataclass(frozen=True)
class World:
    """An encoder, a language model with three planted layers, and a task that one of them helps with."""

    llm: str
    slm: str
    task: Task


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIFI_PROBE_FEATURES", str(folder / "features"))
        patch.setenv("PIFI_PROBE_CACHE", str(folder / "cache"))
        encoder = str(slm.tiny_slm_folder(folder / "slm"))
        texts = random_texts(2 * N + 200)
        h = np.asarray(slm_features(encoder, texts)[0], dtype=np.float64)
        first, second = two_directions(h)
        labels = (((h - h.mean(0)) @ first) * ((h - h.mean(0)) @ second) > 0).astype(int)
        task = task_of(replace(texts, labels=tuple(labels.tolist())))
        yield World(planted_llm(folder / "llm", h, first, second), encoder, task)


def random_texts(n: int) -> Split:
    rng = np.random.default_rng(0)
    texts = tuple(" ".join(rng.choice(slm.WORDS, size=rng.integers(4, 12))) + f" {i}" for i in range(n))
    return Split(texts=texts, labels=(0,) * n, ids=tuple(f"row {i}" for i in range(n)))


def two_directions(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two directions of most variance on which the vectors have no mean."""
    mean = h.mean(0) / np.linalg.norm(h.mean(0))
    centred_h = h - h.mean(0)
    axes = np.linalg.svd(centred_h - np.outer(centred_h @ mean, mean), full_matrices=False)[2]
    return axes[0], axes[1]


def task_of(rows: Split) -> Task:
    """Train on 2 N rows, half of which are scored; validate and test on the rest."""
    order = list(range(len(rows)))
    splits = {"train": order[: 2 * N], "validation": order[2 * N : 2 * N + 100], "test": order[2 * N + 100 :]}
    return Task("planted", "single", ("no", "yes"), "en", {name: rows.take(own) for name, own in splits.items()})


def planted_llm(folder: Path, h: np.ndarray, first: np.ndarray, second: np.ndarray) -> str:
    """Save a donor whose layer 0 multiplies two directions of its input, whose layer 1 is linear, and whose layer 2
    is the same when its entries are permuted.

    Under the first random projection the two directions are those of the encoder that decide the label:
    silu(t) u - silu(-t) u = t u, the product that no linear function of h is.
    """
    model = tiny.tiny_model("llama", intermediate_size=2)
    rotation = project("random", h, tiny.WIDTH, seed=(0, 0)).matrix  # (d_slm, d_llm)
    one, two = (torch.from_numpy(direction @ rotation).float() for direction in (first, second))
    layers = model.model.layers
    with torch.no_grad():
        for layer in layers:
            layer.input_layernorm.weight.fill_(1.0)
            layer.post_attention_layernorm.weight.fill_(1.0)
        layers[PLANTED].self_attn.o_proj.weight.zero_()
        layers[PLANTED].mlp.gate_proj.weight.copy_(torch.stack([one, -one]))
        layers[PLANTED].mlp.up_proj.weight.copy_(torch.stack([two, two]))
        spread = torch.randn(tiny.WIDTH, generator=torch.Generator().manual_seed(0))
        layers[PLANTED].mlp.down_proj.weight.copy_(torch.stack([spread, -spread], dim=1))
        layers[LINEAR].mlp.down_proj.weight.zero_()
        for parameter in layers[CONSTANT].parameters():
            parameter.fill_(0.05)
    with quiet_transformers():
        model.save_pretrained(folder)
    slm.tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def table(world: World) -> ProbeTable:
    return probe_plugin(
        world.slm,
        world.llm,
        world.task,
        pp.PluginProbeSettings(projections=["random"], n_draws=1, n_permutations=10),
        n=N,
    )


def row(table: ProbeTable, estimator: str, arm: str, layer: int | None, projection: str = "random") -> Any:
    frame = table.frame
    own = frame[(frame["estimator"] == estimator) & (frame["arm"] == arm) & (frame["projection"] == projection)]
    own = own[own["layer"].isna() if layer is None else own["layer"] == layer]
    assert len(own) == 1, f"{estimator}, {arm}, {layer}: {len(own)} rows"
    return own.iloc[0]


@pytest.mark.parametrize("estimator", ["ridge_accuracy", "ridge_mse", "usable_information"])
def test_a_branch_that_computes_what_h_alone_does_not_give_gains_and_its_twin_does_not(
    table: ProbeTable, estimator: str
) -> None:
    real, twin, difference = (row(table, estimator, arm, PLANTED) for arm in ("real", "shuffled", "real - shuffled"))
    assert real["low"] > 0 and difference["low"] > 0
    assert twin["low"] < 0.25 * real["value"]
    assert twin["value"] < 0.25 * real["value"]
    assert table.best_set(estimator, projection="random") == [PLANTED]


@pytest.mark.parametrize("estimator", ["ridge_accuracy", "ridge_mse", "logme", "hscore", "usable_information"])
def test_a_linear_branch_gains_nothing(table: ProbeTable, estimator: str) -> None:
    planted, linear = (row(table, estimator, "real", layer) for layer in (PLANTED, LINEAR))
    assert linear["value"] < 0.2 * planted["value"]
    if estimator != "logme":  # linear copies of h are no new directions, but they make large weights less unlikely
        assert linear["low"] <= 0.02 * planted["value"]


@pytest.mark.parametrize("estimator", ["ridge_accuracy", "ridge_mse", "logme", "hscore", "usable_information"])
def test_a_layer_that_is_its_own_shuffled_twin_does_not_differ_from_it(table: ProbeTable, estimator: str) -> None:
    found = row(table, estimator, "real - shuffled", CONSTANT)
    assert found["low"] <= 1e-9 and found["high"] >= -1e-9
    assert abs(found["value"]) < 1e-6


def test_a_gain_is_what_its_definition_says(table: ProbeTable, world: World) -> None:
    rows = scoring_rows(world.task, N, "train", 0)
    h = np.asarray(slm_features(world.slm, rows)[0])
    labels = np.array(rows.labels)
    for index in (PLANTED, LINEAR):
        layer = pp.extract(f"{world.llm}[{index}]", dtype="float32")
        assert isinstance(layer, FrozenLayer)
        x = h @ project("random", h, tiny.WIDTH, seed=(0, 0)).matrix
        x = torch.from_numpy(x * residual_rms(layer.card) / np.sqrt(np.square(x).mean())).float()
        with torch.no_grad():  # the full layer, not its single-token form
            z = (layer(x[:, None])[:, 0] - x).numpy()
        joined = np.hstack([centred(h), centred(z)])
        gain = ridge_accuracy(joined, labels) - ridge_accuracy(h, labels)
        assert row(table, "ridge_accuracy", "real", index)["value"] == pytest.approx(gain, abs=1.5 / N)
        information = get("usable_information")(z, labels, other=h)
        assert row(table, "usable_information", "real", index)["value"] == pytest.approx(information, abs=0.02)


def test_blocks_side_by_side_have_grams_that_add_up() -> None:
    rng = np.random.default_rng(0)
    h, z = 1e3 * rng.normal(size=(9, 4)), 1e-3 * rng.normal(size=(9, 7)) + 5
    both = beside(h, z)
    expected = sum(centred(one) @ centred(one).T for one in (h, z))
    np.testing.assert_allclose(both @ both.T, expected, rtol=1e-4, atol=1e-4)


def test_the_table_has_every_control_beside_every_layer(table: ProbeTable) -> None:
    frame = table.frame
    assert set(frame["family"]) == {"plug-in"}
    for estimator in ("ridge_accuracy", "ridge_mse", "logme", "hscore", "usable_information"):
        assert np.isfinite(row(table, estimator, "encoder", None)["value"])
    for estimator in ("frozen_slm_accuracy", "frozen_slm_nll"):
        own = frame[frame["estimator"] == estimator]
        alone = own[own["layer"].isna()]["arm"]
        assert sorted(alone) == ["linear", "vanilla"]
        for layer in range(3):
            arms = set(own[own["layer"] == layer]["arm"])
            assert arms == {"real", "random", "shuffled", "real - shuffled", "real - vanilla"}
        assert table.per_example[f"{estimator}, real - shuffled"].shape == (3, 3, 100)
    for estimator in ("ntk_ridge_accuracy", "ntk_ridge_mse"):
        assert set(frame[frame["estimator"] == estimator]["arm"]) == {"encoder", "real", "shuffled", "real - shuffled"}
    for estimator in ("cka", "mutual_knn"):
        assert len(frame[frame["estimator"] == estimator]) == 3


def test_trained_rows_of_a_layer_equal_to_its_twin_do_not_differ(table: ProbeTable) -> None:
    for estimator in ("frozen_slm_accuracy", "frozen_slm_nll"):
        found = row(table, estimator, "real - shuffled", CONSTANT, projection="")
        assert found["low"] <= 1e-6 and found["high"] >= -1e-6
    assert abs(row(table, "ntk_ridge_mse", "real - shuffled", CONSTANT, projection="")["value"]) < 1e-6


def test_the_null_of_permuted_labels_stands_beside_the_encoder_and_no_gain(table: ProbeTable) -> None:
    assert np.isfinite(row(table, "ridge_accuracy", "encoder", None)["p_value"])
    assert np.isnan(row(table, "ridge_accuracy", "real", PLANTED)["p_value"])


def test_the_table_says_how_it_was_made(table: ProbeTable) -> None:
    info = table.info
    assert (info["n"], info["split"], info["n_draws"], info["projections"]) == (N, "train", 1, ["random"])
    assert info["regime"].startswith("raw") and info["pooling"] == "cls (encoder)"
    assert info["alignment"]["n"] == N and info["alignment"]["drop_first"] and info["alignment"]["normalise"]
    assert info["trained"]["fitted"] == N and info["trained"]["scored"] == 100 and info["trained"]["seeds"] == [0, 1, 2]
    assert "final norm" in info["position"] and "shuffled" in info["null"]
    again = ProbeTable.from_json(table.to_json())
    assert again.frame.equals(table.frame)


def test_aligned_projections_report_how_well_they_align(world: World) -> None:
    found = probe_plugin(world.slm, world.llm, world.task, QUICK, n=60, estimators="ridge_mse")
    assert found.info["n_draws"] == 4
    assert set(found.info["alignment"]["r2"]) == {"ridge", "procrustes"}
    for projection in ("ridge", "procrustes"):
        value = row(found, "alignment_r2", "real", PLANTED, projection)["value"]
        assert value <= 1 and value == pytest.approx(found.info["alignment"]["r2"][projection]["0"], abs=1e-3)
        assert np.isfinite(row(found, "ridge_mse", "real - shuffled", LINEAR, projection)["value"])
    assert np.isfinite(row(found, "ridge_mse", "real - shuffled", LINEAR, "moment")["value"])


@pytest.mark.parametrize(("n_folds", "seed"), [(5, 0), (3, 0), (5, 7)])
def test_a_layer_is_a_chain_of_one_with_the_alignment_texts(world: World, n_folds: int, seed: int) -> None:
    settings = replace(QUICK, n_folds=n_folds)
    found = probe_plugin(world.slm, world.llm, world.task, settings, n=60, estimators="span", layers="0-1", seed=seed)
    rows = scoring_rows(world.task, 60, "train", seed)
    aligned = other_rows(world.task, rows, 60, seed)
    h = np.array(slm_features(world.slm, aligned, pooling="cls")[0])
    states = llm_features(world.llm, aligned, kind=world.task.kind, progress=False)
    for layer in (0, 1):
        entry, leave = (np.asarray(states[point]) for point in (layer, layer + 1))
        given = {"other": h, "entry": entry, "n_folds": n_folds, "seed": seed}
        expected = get("span")(leave, aligned.labels, **given)
        assert row(found, "span", "real", layer, projection="")["value"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert [each.shape for each in found.per_example.values()] == [(2, 60)]
    assert "span" not in {one.name for group in applicable("all") for one in group}, "it reads labels that may be few"


def test_span_is_refused_before_any_pass_where_the_alignment_texts_are_of_one_class(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alike(*given: Any) -> Split:
        rows = other_rows(*given)
        return replace(rows, labels=(0,) * len(rows))

    monkeypatch.setattr(plugin_probe, "other_rows", alike)
    monkeypatch.setattr(plugin_probe, "slm_features", lambda *_, **__: pytest.fail("a pass has begun"))
    with pytest.raises(EstimatorError, match="every label is 0"):
        probe_plugin(world.slm, world.llm, world.task, QUICK, n=60, estimators="span", layers=0)


def test_layers_are_read_once_each_and_only_those_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = layer_scores.extract_from

    def counted(checkpoint: Any, index: int, **options: Any) -> FrozenLayer:
        read.append(index)
        return original(checkpoint, index, **options)

    monkeypatch.setattr(layer_scores, "extract_from", counted)
    found = probe_plugin(
        world.slm,
        world.llm,
        world.task,
        pp.PluginProbeSettings(projections=["random"], n_permutations=0),
        n=60,
        layers=[-1, 0, 2],
    )
    assert read == [0, 2]
    assert sorted(set(found.frame["layer"].dropna())) == [0, 2]


def test_twice_the_same_call_gives_the_same_table(world: World) -> None:
    settings = pp.PluginProbeSettings(n_draws=2, n_permutations=5)
    first, second = (probe_plugin(world.slm, world.llm, world.task, settings, n=60, layers=[1]) for _ in range(2))
    assert first.frame.equals(second.frame)


def test_alignment_texts_are_training_rows_that_are_not_scored_whatever_their_labels(world: World) -> None:
    scored = scoring_rows(world.task, N, "train", 0)
    aligned = other_rows(world.task, scored, 100, seed=0)
    train = world.task.splits["train"]
    assert len(aligned) == 100 and not set(aligned.ids) & set(scored.ids) and set(aligned.ids) <= set(train.ids)
    flipped = replace(train, labels=tuple(1 - label for label in train.labels))
    other = replace(world.task, splits={**world.task.splits, "train": flipped})
    assert other_rows(other, scored, 100, seed=0).ids == aligned.ids


def test_warming_up_reads_neither_scored_nor_validation_nor_test_rows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    original = warm.fine_tune

    def spied(model: Any, task: Task, recipe: Any) -> Any:
        seen.extend(identifier for split in task.splits.values() for identifier in split.ids)
        return original(model, task, recipe)

    monkeypatch.setattr(warm, "fine_tune", spied)
    options: dict[str, Any] = {"n": 60, "layers": [0]}
    one = QUICK.replace(projections=["random"], n_draws=1)
    raw = probe_plugin(world.slm, world.llm, world.task, one, estimators="ridge_mse", **options)
    warmed = one.replace(warm_up=0.25)
    found = probe_plugin(world.slm, world.llm, world.task, warmed, estimators="ridge_mse", **options)
    held = scoring_rows(world.task, 60, "train", 0).ids + world.task.splits["validation"].ids
    assert seen and not set(seen) & set(held + world.task.splits["test"].ids)
    assert "0.25 epochs" in found.info["regime"] and "120 training rows" in found.info["regime"]
    before, after = (row(one, "ridge_mse", "encoder", None)["value"] for one in (raw, found))
    assert abs(before - after) > 1e-6


def test_scoring_on_validation_rows_fits_the_trained_proxy_to_training_rows(world: World) -> None:
    settings = pp.PluginProbeSettings(projections=["random"], split="validation", ntk=False, n_permutations=0)
    found = probe_plugin(world.slm, world.llm, world.task, settings, n=80, layers=[0], estimators="ridge_mse")
    assert (found.info["split"], found.info["n"]) == ("validation", 80)
    assert found.info["trained"]["fitted"] == 80


def test_the_tangent_kernel_takes_some_rows_of_many_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def seen(tail: Any, h: torch.Tensor) -> np.ndarray:
        sizes.append(len(h))
        return ntk(tail, h)

    monkeypatch.setattr(plugin_probe, "MOST_NTK", 40)
    monkeypatch.setattr(plugin_scores, "ntk", seen)
    options: dict[str, Any] = {"layers": [0], "estimators": ["ridge_mse"]}
    settings = pp.PluginProbeSettings(projections=["random"], n_draws=1, trained=False)
    many = probe_plugin(world.slm, world.llm, world.task, settings, n=60, **options)
    assert set(sizes) == {40} and many.info["tangent kernel"] == {"n": 40}
    assert any("40 of the scored rows" in note for note in many.notes)
    few = probe_plugin(world.slm, world.llm, world.task, settings, n=40, **options)
    for arm, layer in (("real", 0), ("encoder", None)):
        pair = [row(one, "ntk_ridge_mse", arm, layer, "") for one in (many, few)]
        assert pair[0].value == pytest.approx(pair[1].value, rel=1e-6), "draws are nested: they are the same rows"


def test_bad_input_is_refused_before_any_pass(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: Any, **options: Any) -> None:
        raise AssertionError("a pass was begun")

    monkeypatch.setattr("pifi_probe.probing.plugin_probe.slm_features", none)
    monkeypatch.setattr("pifi_probe.probing.plugin_probe.llm_features", none)
    refused: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (TaskError, "test split", {"split": "test"}),
        (EstimatorError, "unknown projections", {"projections": ["best"]}),
        (EstimatorError, "unknown projections", {"projections": []}),
        (EstimatorError, "n_draws=0", {"n_draws": 0}),
        (EstimatorError, "different seeds", {"seeds": (1, 1)}),
        (EstimatorError, "does not score what a layer adds", {"estimators": "effective_rank"}),
        (EstimatorError, "unknown estimator 'logmee'.*did you mean 'logme'", {"estimators": "logmee"}),
        (EstimatorError, "warm_up=-1", {"warm_up": -1}),
        (PlugInError, "unknown wiring", {"wiring": "tight"}),
        (LayerIndexError, r"no layer \[3\]", {"layers": [3]}),
        (LayerIndexError, "cannot read layers 'last'", {"layers": "last"}),
        (TaskError, "0 training rows are left to align", {"n": 2 * N}),
    ]
    for kind, message, options in refused:
        with pytest.raises(kind, match=message) as caught:
            arguments = {name: options.pop(name) for name in ("n", "layers", "estimators") if name in options}
            settings = pp.PluginProbeSettings(**options)
            probe_plugin(world.slm, world.llm, world.task, settings, **{"n": 60, **arguments})
        assert "next:" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(TaskError, match="left to warm up on"):
        probe_plugin(
            world.slm,
            world.llm,
            world.task,
            pp.PluginProbeSettings(projections=["random"], warm_up=1),
            n=2 * N,
            estimators="logme",
        )


@pytest.mark.assets
@pytest.mark.slow
def test_the_real_last_layer_gives_a_table(minilm: Path, smollm2: Path) -> None:
    task = pp.load_task("movie-reviews")
    found = probe_plugin(
        "minilm-l6", "smollm2-135m", task, pp.PluginProbeSettings(projections=["random"], n_draws=1), n=200, layers=[-1]
    )
    assert 0.6 < row(found, "ridge_accuracy", "encoder", None)["value"] < 0.95
    assert row(found, "frozen_slm_accuracy", "real", 29, projection="")["value"] > 0.6
