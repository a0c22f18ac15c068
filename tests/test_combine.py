"""Combinations of layers: what each design computes, where it starts, how it trains, is saved and described."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.errors import FrozenLayerError, PlugInError, RecipeError
from pifi_probe.layers.frozen import FrozenChain, FrozenLayer, FrozenLayers, FrozenParallel, list_of
from pifi_probe.layers.residual import residual_rms
from pifi_probe.plugin import tokenizer_for
from pifi_probe.plugin.combine import Gated, GatedSerial, Mix, Unshared
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.training import controls, controls_at_equal_k, ensemble
from pifi_probe.training.describe import describe_model, start_digest
from tests import runs, slm, tiny
from tests.slm import logits

DESIGNS = ("gated-serial", "mix", "unshared", "gated")
MODES = ({"wiring": "pifi"}, {"wiring": "matched"}, {"feed": "sequence", "pooling": "mean", "scale": "matched"})
WIDE = 48


@pytest.fixture(scope="module")
def donors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of unlike family and width."""
    folder = tmp_path_factory.mktemp("llms")
    return tiny.tiny_checkpoint("llama", folder / "a"), tiny.tiny_checkpoint("gemma", folder / "b", hidden_size=WIDE)


@pytest.fixture(scope="module")
def layers(donors: tuple[Path, Path]) -> list[FrozenLayer]:
    """Layers 0 to 2 of the first model, and layer 1 of the wide one."""
    found = pp.extract(f"{donors[0]}[0] | {donors[0]}[1] | {donors[0]}[2] | {donors[1]}[1]")
    return list_of(found)


def of(design: str, layers: list[FrozenLayer]) -> FrozenLayers:
    """Layers in the form that the design takes; the unshared one of unlike models."""
    if design in ("serial", "gated-serial"):
        return layers[1] >> layers[0] >> layers[2]
    return layers[1] | layers[3] if design == "unshared" else layers[1] | layers[0] | layers[2]


def build(bert: Path, given: FrozenLayers, **options: Any) -> Any:
    options.setdefault("target_rms", 2.0)
    return pp.plug_in(str(bert), given, task=slm.tiny_task(), **options)


def moved(model: PiFiForSequenceClassification) -> PiFiForSequenceClassification:
    """Give everything that starts at zero other values, as training would."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and ("gates" in name or "L_out" in name):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


# The grammar


def test_a_parallel_specification_gives_its_branches_in_order(donors: tuple[Path, Path]) -> None:
    a, b = donors
    found = pp.extract(f"{a}[0] >> {a}[2] | {b}[-1] | {a}[0:2]")
    assert isinstance(found, FrozenParallel)
    assert [branch.hidden_size for branch in found.branches] == [tiny.WIDTH, WIDE, tiny.WIDTH]
    kinds = [type(branch) for branch in found.branches]
    assert kinds == [FrozenChain, FrozenLayer, FrozenChain]
    assert [one.card.index for one in list_of(found)] == [0, 2, 2, 0, 1]


def test_the_operator_builds_what_the_specification_names(layers: list[FrozenLayer]) -> None:
    first, second, third, wide = layers
    assert list_of(first | second | wide) == list_of(first | (second | wide)) == [first, second, wide]
    found = first >> second | third
    assert isinstance(found, FrozenParallel) and len(found.branches) == 2
    assert list_of(first | first) == [first, first], "a layer may stand next to itself"


def test_a_parallel_set_has_no_output_and_no_place_in_a_series(layers: list[FrozenLayer]) -> None:
    both = layers[0] | layers[1]
    with pytest.raises(FrozenLayerError, match="no output of their own"):
        both(torch.randn(1, 1, tiny.WIDTH))
    for wrong in (lambda: both >> layers[2], lambda: layers[2] >> both):
        with pytest.raises(FrozenLayerError, match="cannot stand in a series"):
            wrong()


# Where each design starts, and what it computes


@pytest.mark.parametrize("modes", MODES, ids=str)
@pytest.mark.parametrize("design", DESIGNS)
def test_every_design_starts_exactly_at_its_first_layer_alone(
    design: str, modes: dict[str, Any], bert: Path, layers: list[FrozenLayer]
) -> None:
    combined = build(bert, of(design, layers), combine=design, seed=3, **modes)
    single = build(bert, layers[1], seed=3, **modes)
    assert torch.equal(logits(combined), logits(single))
    assert not torch.equal(logits(moved(combined)), logits(single)), "and can leave it"


@pytest.mark.parametrize("control", ["random", "shuffled"])
@pytest.mark.parametrize("design", DESIGNS)
def test_a_control_of_a_combination_starts_at_the_control_of_its_first_layer(
    design: str, control: str, bert: Path, layers: list[FrozenLayer]
) -> None:
    combined = build(bert, of(design, layers), combine=design, control=control, seed=3)
    assert torch.equal(logits(combined), logits(build(bert, layers[1], control=control, seed=3)))


def test_the_start_is_exact_in_mixed_precision(bert: Path, layers: list[FrozenLayer]) -> None:
    for design in DESIGNS:
        with torch.autocast("cpu", torch.bfloat16):
            combined = build(bert, of(design, layers), combine=design, scale="matched")
            assert torch.equal(logits(combined), logits(build(bert, layers[1], scale="matched")))


def added(layer: FrozenLayer, x: torch.Tensor, target: float | None) -> torch.Tensor:
    """B(x) of a combination, one token at a time."""
    rows = []
    for row in x.reshape(-1, x.shape[-1]):
        factor = 1.0 if target is None else target / float(row.square().mean().sqrt())
        u = (factor * row)[None, None]  # (1, 1, d_llm)
        rows.append(((layer(u) - u) / factor)[0, 0])
    return torch.stack(rows).view(x.shape)


@pytest.mark.parametrize("scale", ["none", "matched"])
@pytest.mark.parametrize("design", DESIGNS)
def test_each_design_computes_its_equation(design: str, scale: str, bert: Path, layers: list[FrozenLayer]) -> None:
    targets = [2.0, 5.0] if design == "unshared" else [2.0, 5.0, 0.7]
    model = moved(build(bert, of(design, layers), combine=design, scale=scale, target_rms=targets))
    plugin: Any = model.plugin
    at = [None] * 3 if scale == "none" else targets
    h = torch.randn(5, slm.WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        x = (plugin.scale_in * plugin.L_in(h))[:, None]  # (5, 1, d_llm)
        first = layers[1](x)
        if isinstance(plugin, GatedSerial):
            y = first + plugin.gates[0] * added(layers[0], first, at[1])
            y = y + plugin.gates[1] * added(layers[2], y, at[2])
        elif isinstance(plugin, Mix):
            y = first + plugin.gates[0] * added(layers[0], x, at[1]) + plugin.gates[1] * added(layers[2], x, at[2])
        elif isinstance(plugin, Gated):
            u = plugin.gates(h).softmax(-1) - torch.tensor([5.0, 0.0, 0.0]).softmax(-1)  # (5, 3)
            y = first + u[:, None, :1] * (first - x)
            y = y + u[:, None, 1:2] * added(layers[0], x, at[1]) + u[:, None, 2:] * added(layers[2], x, at[2])
        else:
            y = first
        expected = plugin.L_out(plugin.scale_out * y)[:, 0]
        if isinstance(plugin, Unshared):
            own: Any = plugin.further[0]
            expected = expected + own.L_out(own.scale_out * layers[3]((own.scale_in * own.L_in(h))[:, None]))[:, 0]
        assert torch.allclose(plugin(h), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("design", ["gated-serial", "mix", "gated", "unshared"])
def test_with_matched_scale_every_branch_is_asked_at_its_own_scale(
    design: str, bert: Path, layers: list[FrozenLayer]
) -> None:
    targets = [2.0, 0.5] if design == "unshared" else [2.0, 0.5, 30.0]
    model = moved(build(bert, of(design, layers), combine=design, wiring="matched", target_rms=targets))
    seen: list[float] = []
    for layer in model.frozen_layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(float(inputs[0].square().mean().sqrt())))
    task = slm.tiny_task()
    texts = list(task.splits["train"].texts)
    with torch.no_grad():
        model(**slm.tiny_tokenizer()(texts, padding=True, return_tensors="pt"))
    assert seen == pytest.approx(targets, rel=0.05)


def test_branches_may_be_series_themselves(bert: Path, layers: list[FrozenLayer]) -> None:
    model = moved(build(bert, layers[1] | layers[0] >> layers[2], combine="mix"))
    plugin: Any = model.plugin
    x = torch.randn(4, 1, tiny.WIDTH)
    with torch.no_grad():
        expected = layers[1](x) + plugin.gates[0] * (layers[2](layers[0](x)) - x)
        assert torch.allclose(plugin.core(x, None), expected, atol=1e-4)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("mask", ["causal", "bidirectional"])
def test_padding_changes_nothing_when_all_tokens_are_fed(
    design: str, mask: str, bert: Path, layers: list[FrozenLayer]
) -> None:
    model = moved(build(bert, of(design, layers), combine=design, feed="sequence", mask=mask, scale="matched"))
    h = torch.randn(1, 4, slm.WIDTH, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([h, torch.randn(1, 2, slm.WIDTH)], dim=1)
    plugin: Any = model.plugin
    with torch.no_grad():
        alone = plugin(h, torch.ones(1, 4, dtype=torch.long))
        beside = plugin(padded, torch.tensor([[1, 1, 1, 1, 0, 0]]))[:, :4]
    assert torch.allclose(alone, beside, atol=1e-4)


def test_an_input_of_zeros_gives_no_nan(bert: Path, layers: list[FrozenLayer]) -> None:
    for design in DESIGNS:
        plugin: Any = moved(build(bert, of(design, layers), combine=design, scale="matched")).plugin
        h = torch.zeros(2, slm.WIDTH, requires_grad=True)
        out = plugin(h)
        out.sum().backward()
        assert h.grad is not None and torch.isfinite(out).all() and torch.isfinite(h.grad).all()


# Choices and refusals


def test_the_default_design_follows_from_the_layers(bert: Path, layers: list[FrozenLayer]) -> None:
    found = [build(bert, given).config.combine for given in (layers[0], layers[0] >> layers[1])]
    found += [build(bert, given).config.combine for given in (layers[0] | layers[1], layers[0] | layers[3])]
    assert found == [None, "serial", "mix", "unshared"]


@pytest.mark.parametrize(
    ("form", "combine", "says"),
    [
        ("one", "mix", "nothing to combine as 'mix'"),
        ("series", "mix", "layers in series cannot be combined as 'mix'.*gated-serial"),
        ("parallel", "serial", "side by side cannot be combined as 'serial'.*A >> B"),
        ("parallel", "mixed", "unknown combination 'mixed'.*gated-serial, mix"),
        ("unlike", "mix", "'mix' needs equal hidden sizes, got 32, 48.*unshared"),
        ("unlike", "gated", "'gated' needs equal hidden sizes.*unshared"),
    ],
)
def test_a_design_that_does_not_fit_the_layers_is_refused_with_what_does(
    form: str, combine: str, says: str, bert: Path, layers: list[FrozenLayer]
) -> None:
    given: dict[str, FrozenLayers] = {
        "one": layers[0],
        "series": layers[0] >> layers[1],
        "parallel": layers[0] | layers[1],
        "unlike": layers[0] | layers[3],
    }
    with pytest.raises(PlugInError, match=says) as caught:
        build(bert, given[form], combine=combine)
    assert "next:" in str(caught.value) and "\n" not in str(caught.value)


def test_a_wrong_number_of_scales_is_named(bert: Path, layers: list[FrozenLayer]) -> None:
    with pytest.raises(PlugInError, match="3 numbers for 2 branches"):
        build(bert, layers[0] | layers[1], scale="matched", target_rms=[1.0, 2.0, 3.0])


@pytest.mark.parametrize("design", DESIGNS)
def test_a_combination_is_not_folded_and_the_error_says_what_folds(
    design: str, bert: Path, layers: list[FrozenLayer]
) -> None:
    with pytest.raises(PlugInError, match="one layer folds, and so does a plain series"):
        build(bert, of(design, layers), combine=design).fold()
    assert build(bert, layers[0] >> layers[1]).fold().fold_report is not None


# Controls


def test_every_layer_of_a_set_becomes_its_control_from_draws_of_its_own(bert: Path, layers: list[FrozenLayer]) -> None:
    twice = build(bert, layers[1] | layers[1] | layers[0], combine="mix", control="shuffled", seed=5)
    assert [one.card.variant for one in twice.frozen_layers] == ["shuffled"] * 3
    first, second, _ = (dict(one.tensors()) for one in twice.frozen_layers)
    name = next(name for name in first if "down_proj" in name)
    assert torch.equal(first[name].flatten().sort().values, second[name].flatten().sort().values)
    assert not torch.equal(first[name], second[name]), "unlike permutations"
    again = build(bert, layers[1] | layers[1] | layers[0], combine="mix", control="shuffled", seed=5)
    assert start_digest(again) == start_digest(twice)
    digests = [[one.digest() for one in model.frozen_layers] for model in (again, twice)]
    assert digests[0] == digests[1]


def test_controls_without_a_layer_are_as_wide_as_all_projections(bert: Path, layers: list[FrozenLayer]) -> None:
    for combine, given, width in (
        ("mix", layers[0] | layers[1], tiny.WIDTH),
        ("unshared", layers[0] | layers[3], tiny.WIDTH + WIDE),
    ):
        made = {name: build(bert, given, combine=combine, control=name) for name in ("linear", "mlp", None)}
        trained = {name: sum(p.numel() for p in model.plugin.parameters()) for name, model in made.items() if name}
        projections = sum(one.weight.numel() for one in made[None].plugin.projections().values())
        assert trained == {"linear": projections, "mlp": projections}
        assert made["mlp"].plugin.L_in.out_features == width


def test_vanilla_stays_vanilla_whatever_is_combined(bert: Path, layers: list[FrozenLayer]) -> None:
    made = build(bert, layers[0] | layers[3], control="vanilla")
    assert made.plugin is None and describe_model(made)["label"] == "pifi: vanilla"


def test_the_controls_of_a_combination_are_made_in_one_line(bert: Path, layers: list[FrozenLayer]) -> None:
    made: dict[str, Any] = {
        name: make(0) for name, make in controls(str(bert), layers[0] | layers[3], slm.tiny_task()).items()
    }
    assert made["shuffled"].config.combine == "unshared" and made["linear"].plugin.L_in.out_features == 32 + WIDE


def test_controls_at_equal_k_have_as_many_parts(bert: Path, layers: list[FrozenLayer]) -> None:
    given = layers[0] >> layers[1] >> layers[2]
    made: dict[str, Any] = {
        name: make(1)
        for name, make in controls_at_equal_k(str(bert), given, slm.tiny_task(), combine="gated-serial").items()
    }
    assert made.keys() == {"repeated", "shuffled", "mlp"}
    repeated = made["repeated"]
    assert [one.card.index for one in repeated.frozen_layers] == [0, 0, 0]
    drawn = [one.weight for name, one in repeated.plugin.projections().items() if name.startswith("L_in")]
    assert len({tuple(one.flatten().tolist()) for one in drawn}) == 3, "independent projections"
    assert [one.card.variant for one in made["shuffled"].frozen_layers] == ["shuffled"] * 3
    assert made["mlp"].frozen_layers == []


# Training


@pytest.fixture(scope="module")
def trained(bert: Path, layers: list[FrozenLayer]) -> dict[str, tuple[PiFiForSequenceClassification, Any]]:
    found = {}
    for design in DESIGNS:
        model = build(bert, of(design, layers), combine=design, wiring="matched")
        found[design] = (model, pp.fine_tune(model, runs.TASK, runs.RECIPE))
    return found


@pytest.mark.parametrize("design", DESIGNS)
def test_a_run_trains_gates_and_projections_and_no_frozen_layer(
    design: str, trained: dict[str, Any], bert: Path, layers: list[FrozenLayer]
) -> None:
    model, result = trained[design]
    start = build(bert, of(design, layers), combine=design, wiring="matched").state_dict()
    changed = {
        name
        for name, tensor in model.state_dict().items()
        if name.startswith("plugin") and (tensor != start[name]).any()
    }
    own = {"gates"} if isinstance(model.plugin, (Mix, GatedSerial)) else {"gates.weight", "gates.bias"}
    if design == "unshared":
        own = {"further.0.L_in.weight", "further.0.L_out.weight"}
    assert changed == {f"plugin.{name}" for name in own | {"L_in.weight", "L_out.weight"}}
    assert result.layer_digests["before"] == result.layer_digests["after"]
    assert result.layer_digests["after"] == [one.card.sha256 for one in model.frozen_layers]
    assert ("grad_gates" in result.curves) == (design != "unshared")


def test_gates_have_a_learning_rate_of_their_own(bert: Path, layers: list[FrozenLayer], tmp_path: Path) -> None:
    model = build(bert, layers[0] | layers[1], wiring="matched")
    pp.fine_tune(model, runs.TASK, runs.RECIPE.replace(epochs=1, lr_gate=1e-12))
    assert float(model.plugin.gates.detach().abs().max()) < 1e-10
    model = build(bert, layers[0] | layers[1], wiring="matched")
    pp.fine_tune(model, runs.TASK, runs.RECIPE.replace(epochs=1, learning_rate=1e-8))
    assert float(model.plugin.gates.detach().abs().max()) > 1e-3, "Adam moves a gate by about lr_gate a step"


def test_a_run_of_a_combination_repeats_itself(trained: dict[str, Any], bert: Path, layers: list[FrozenLayer]) -> None:
    again = pp.fine_tune(build(bert, of("mix", layers), combine="mix", wiring="matched"), runs.TASK, runs.RECIPE)
    first = trained["mix"][1]
    assert again.identity == first.identity and again.curves == first.curves


def test_an_ended_run_of_a_combination_is_found_again(bert: Path, layers: list[FrozenLayer], tmp_path: Path) -> None:
    made = [build(bert, layers[0] | layers[1], combine=design) for design in ("mix", "mix", "gated")]
    recipe = runs.RECIPE.replace(epochs=1)
    result = pp.fine_tune(made[0], runs.TASK, recipe, out=tmp_path, save_model=True)
    assert pp.fine_tune(made[1], runs.TASK, recipe, out=tmp_path, resume=True).start == result.start
    assert torch.equal(logits(made[1]), logits(made[0]))
    with pytest.raises(RecipeError, match="its model differs"):
        pp.fine_tune(made[2], runs.TASK, recipe, out=tmp_path, resume=True)


@pytest.mark.parametrize("design", DESIGNS)
def test_a_combination_is_diagnosed_as_any_model(design: str, trained: dict[str, Any]) -> None:
    model, result = trained[design]
    for subject in (model, result):
        found = pp.diagnose(subject, task=runs.TASK)
        assert found["dimensions"].status == "ok" and found["the layer is frozen"].status == "ok"
    assert all("branch_ratio" in epoch and "output_ratio" in epoch for epoch in result.epochs)


def test_an_ensemble_is_the_mean_of_its_members_probabilities(
    bert: Path, layers: list[FrozenLayer], tmp_path: Path
) -> None:
    models = [build(bert, layers[1], seed=seed) for seed in range(3)]
    recipe = runs.RECIPE.replace(epochs=1)
    results = [pp.fine_tune(model, runs.TASK, recipe.replace(seed=seed)) for seed, model in enumerate(models)]
    both = ensemble(models, results, runs.TASK)
    members = [np.exp(-one.tests[runs.TASK.name].per_example("nll")) for one in results]
    mean = -np.log(np.mean(members, axis=0))
    assert np.allclose(both.tests[runs.TASK.name].per_example("nll"), mean, atol=1e-3)
    assert both.label == f"{results[0].label}, ensemble of 3" and both.metrics["validation"]["n"] == 12
    assert pp.diagnose(both)["the layer is frozen"].status == "ok"
    assert pp.RunResult.from_json(both.to_json()).to_dict() == both.to_dict()
    table = pp.compare([results[0], both], results[0].label)
    assert [row.arm for row in table.rows] == [results[0].label, both.label]


def test_an_ensemble_of_unlike_runs_is_refused(trained: dict[str, Any]) -> None:
    models, results = zip(*(trained[design] for design in ("mix", "gated")), strict=True)
    with pytest.raises(RecipeError, match="not seeds of one arm"):
        ensemble(models, results, runs.TASK)
    with pytest.raises(RecipeError, match="do not make an ensemble"):
        ensemble(models[:1], results[:1], runs.TASK)


# Saved, described, uploaded


@pytest.mark.parametrize(("save_layer", "control"), [(True, None), (False, "shuffled")])
@pytest.mark.parametrize("design", DESIGNS)
def test_a_saved_combination_comes_back_equal(
    design: str, save_layer: bool, control: str | None, bert: Path, layers: list[FrozenLayer], tmp_path: Path
) -> None:
    options = {"combine": design, "wiring": "matched", "save_layer": save_layer, "control": control}
    model = moved(build(bert, of(design, layers), **options))
    model.save_pretrained(tmp_path)
    again = PiFiForSequenceClassification.from_pretrained(tmp_path, allow_external=not save_layer)
    assert type(again.plugin) is type(model.plugin) and all(one.frozen for one in again.frozen_layers)
    assert torch.equal(logits(again), logits(model))
    assert describe_model(again) == describe_model(model)


def test_the_label_and_the_card_say_how_layers_are_combined(
    bert: Path, layers: list[FrozenLayer], donors: tuple[Path, Path], tmp_path: Path
) -> None:
    a, b = donors
    model = build(bert, layers[1] | layers[3])
    assert describe_model(model)["label"] == f"pifi: {a}[1] | {b}[1] (unshared)"
    assert model.config.layer_specs == f"{a}[1] | {b}[1]"
    branches = build(bert, layers[1] >> layers[0] | layers[2])
    assert branches.config.layer_specs == f"{a}[1] >> {a}[0] | {a}[2]"
    series = build(bert, layers[1] >> layers[0], combine="gated-serial")
    assert describe_model(series)["label"] == f"pifi: {a}[1] >> {a}[0] (gated-serial)"
    assert describe_model(build(bert, layers[1] >> layers[0]))["label"] == f"pifi: {a}[1] >> {a}[0]"
    shuffled = build(bert, layers[1] | layers[0], control="shuffled", wiring="matched")
    assert describe_model(shuffled)["label"] == f"matched: shuffled {a}[1] | {a}[0] (mix)"
    wide = build(bert, layers[1] | layers[3], control="mlp")
    assert describe_model(wide)["label"] == f"pifi: mlp of width {tiny.WIDTH + WIDE} (unshared)"
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"+ {a}[1] | {b}[1] (unshared)" in card and "| combine | unshared |" in card
    assert "2 frozen layers of language models" in card
    assert all(item["card"]["sha256"] in card for item in model.config.layers)


def test_a_single_layer_is_described_as_before(bert: Path, layers: list[FrozenLayer]) -> None:
    described = describe_model(build(bert, layers[1]))
    assert "combine" not in described and "branches" not in described and "further" not in described["shapes"]


def test_the_command_line_combines_layers(
    bert: Path, donors: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = f"{donors[0]}[0] | {donors[0]}[1]"
    rows = [f"the film was {slm.WORDS[n % 8]} {n},{'good' if n % 8 < 4 else 'bad'}" for n in range(60)]
    file = tmp_path / "words.csv"
    file.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    arm = ["--task", str(file), "--slm", str(bert), "--layer", spec, "--combine", "gated", "--epochs", "1"]
    assert main(["train", *arm, "--out", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == f"pifi: {spec} (gated)"
    assert main(["extract", spec, "--out", str(tmp_path / "layers"), "--json"]) == 0
    assert [one["index"] for one in json.loads(capsys.readouterr().out)] == [0, 1]


@pytest.mark.slow
@pytest.mark.assets
def test_real_layers_start_exactly_at_the_first_and_are_asked_at_their_own_scale() -> None:
    task = pp.load_task("movie-reviews").subset(train=64, validation=8, test=8)
    donor = pp.extract("smollm2-135m[20] | smollm2-135m[3]")
    both, one = (pp.plug_in("minilm-l6", given, task=task, wiring="matched") for given in (donor, "smollm2-135m[20]"))
    data = tokenizer_for(both)(list(task.splits["train"].texts), padding=True, return_tensors="pt")
    for model in (both, one):
        torch.nn.init.normal_(model.plugin.L_out.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    seen: list[float] = []
    for layer in both.frozen_layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(float(inputs[0].square().mean().sqrt())))
    with torch.no_grad():
        assert torch.equal(both(**data).logits, one(**data).logits)
    assert seen == pytest.approx([residual_rms(layer.card) for layer in both.frozen_layers], rel=0.02)
