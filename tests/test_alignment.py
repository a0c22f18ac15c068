"""Two tokenisers meet by characters; an interface is a ridge regression; a chain reads as its family's model does."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from transformers import AutoModelForCausalLM

import pifi_probe as pp
from pifi_probe.alignment import fit
from pifi_probe.alignment.chain import chain_features, read_out, run_chain
from pifi_probe.alignment.fit import fit_interfaces, match_tokens
from pifi_probe.alignment.interface import Interface
from pifi_probe.alignment.readout import FLOOR, _Path, cross_fitted, fit_block, fit_stack
from pifi_probe.alignment.tokens import compact, content_mask, encode, joined, token_states, with_previous
from pifi_probe.encoders import n_positions
from pifi_probe.errors import CorruptFileError, FeatureError, TaskError
from pifi_probe.layers import stream as streaming
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.tokenizer import donor_tokenizer
from pifi_probe.probing.chain_references import _Network
from tests import slm, tiny
from tests.states import whole_states

TASK = slm.tiny_task(60)
TEXTS = list(TASK.splits["train"].texts)
ENTRY = 2


def interface(llm: str, entry: int = ENTRY, texts: list[str] = TEXTS) -> Interface:
    states = token_states(slm.tiny_slm("bert"), slm.tiny_tokenizer(), texts)
    return fit_interfaces(states, texts, open_checkpoint(llm), [entry], model=llm)[entry]


# --- tokens meet ------------------------------------------------------------------------------------------------


def test_a_token_meets_the_first_of_the_donors_that_has_read_all_of_it():
    donor = [3, 5, 9, 12]  # "the", " f", "ilms", " ok"
    assert match_tokens([3, 9, 10, 12], donor) == [-1, 2, 3, 3]  # the donor's first token is a sink


def test_tokens_without_characters_meet_nothing_and_tokens_of_one_character_meet_its_last():
    assert match_tokens([-1, 4, 7], [-1, 2, 4, 4, 4, 7, -1]) == [-1, 4, 5]


def test_a_token_that_the_donor_never_reads_meets_nothing():
    assert match_tokens([3, 8], [-1, 3]) == [1, -1]


def test_the_places_of_a_pair_are_those_in_the_joined_text():
    coded = encode(slm.tiny_tokenizer(), ["the film"], ["was good"], 20)
    whole = joined(["the film"], ["was good"])[0]
    ends = [end for end in coded.ends[0] if end >= 0]
    assert [whole[:end].split()[-1] for end in ends] == ["the", "film", "was", "good"]


def test_a_tokenizer_that_cannot_say_where_its_tokens_lie_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(FeatureError, match="does not say at which characters"):
        encode(Slow(), ["x"], None, 10)  # type: ignore[arg-type]


# --- the encoder's side -----------------------------------------------------------------------------------------


def test_token_states_are_those_of_each_text_alone_without_special_tokens():
    model, tokenizer = slm.tiny_slm("bert"), slm.tiny_tokenizer()
    states = token_states(model, tokenizer, TEXTS[:7])
    for row, text in enumerate(TEXTS[:7]):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        expected = torch.cat([hidden[-1][0, 1:-1], hidden[0][0, 1:-1]], dim=1).numpy()
        found = states.tokens[states.starts[row] : states.starts[row + 1]]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        pooled = torch.cat([torch.cat([h[0, 1:-1].mean(0), h[0, 0]]) for h in hidden]).numpy()
        np.testing.assert_allclose(states.pooled[row], pooled, atol=1e-5)


def test_a_text_without_tokens_keeps_its_special_ones_and_an_unknown_word_is_one():
    states = token_states(slm.tiny_slm("bert"), slm.tiny_tokenizer(), ["", "zebra", "good"])
    assert list(states.lengths) == [2, 1, 1]
    assert list(states.ends) == [-1, -1, 5, 4]


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_text_is_cut_at_the_positions_that_its_encoder_has(family: str):
    encoder = slm.tiny_slm(family)
    states = token_states(encoder, slm.tiny_tokenizer(), ["good " * 500], max_tokens=10_000)
    whole = int(states.lengths[0]) + 2  # with the special tokens
    assert whole == n_positions(encoder) <= encoder.config.max_position_embeddings
    assert (family == "roberta") == (n_positions(encoder) < encoder.config.max_position_embeddings)


def test_some_of_the_texts_are_taken_with_their_tokens():
    states = token_states(slm.tiny_slm("bert"), slm.tiny_tokenizer(), TEXTS[:9])
    some = states.take([7, 2])
    assert np.array_equal(some.tokens[some.starts[1] :], states.tokens[states.starts[2] : states.starts[3]])
    assert np.array_equal(some.pooled, states.pooled[[7, 2]])


def test_compacting_moves_content_left_in_its_order():
    ids = torch.tensor([[2, 7, 3, 8, 9, 3, 0], [0, 0, 2, 5, 3, 6, 3]])
    content = content_mask(ids, torch.tensor([[1, 1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 1]]), [0, 2, 3])
    moved, mask = compact(ids[..., None].float(), content)
    assert moved[..., 0].tolist() == [[7, 8, 9, 0, 0, 0, 0], [5, 6, 0, 0, 0, 0, 0]]
    assert mask.sum(1).tolist() == [3, 2] and mask[:, 0].all()


# --- the interface ----------------------------------------------------------------------------------------------


def test_an_interface_is_the_ridge_regression_to_the_donors_normalised_states(llm: str):
    found = interface(llm)
    tokenizer, encoder = slm.tiny_tokenizer(), slm.tiny_slm("bert")
    donor = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32).eval()
    own_tokenizer = donor_tokenizer(open_checkpoint(llm))
    rows: list[NDArray[np.float64]] = []
    targets: list[NDArray[np.float64]] = []
    firsts = []
    for text in TEXTS:
        coded = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            hidden = encoder(**coded, output_hidden_states=True).hidden_states
        own = torch.cat([hidden[-1], hidden[0]], dim=-1)[:, 1:-1]  # (1, words, 2 d)
        batch = own_tokenizer(text, return_tensors="pt")
        states = whole_states(donor, batch["input_ids"], batch["attention_mask"])[ENTRY][0]
        rows += list(with_previous(own)[0].double().numpy())  # both have the same words behind one [CLS]
        targets += list(states[1:-1].double().numpy())
        firsts.append(states[0].numpy())
    y = np.stack(targets)
    size = np.sqrt(np.square(y).mean(1))
    reference = Ridge(alpha=found.penalty).fit(np.stack(rows), y / size[:, None])
    x = torch.from_numpy(np.stack(rows)).float()
    np.testing.assert_allclose((x @ found.weight.T + found.bias).numpy(), reference.predict(x.numpy()), atol=2e-2)
    np.testing.assert_allclose(found.first.numpy(), np.mean(firsts, axis=0), atol=1e-4)
    assert found.scale == pytest.approx(float(np.median(size)), rel=1e-3)
    assert found.saw["labels"] == "none" and found.saw["tokens"] == len(rows)


def test_r2_is_measured_on_texts_that_were_not_fitted(llm: str):
    found = interface(llm)
    held = np.zeros(len(TEXTS), dtype=bool)
    held[np.random.default_rng(0).permutation(len(TEXTS))[:6]] = True
    encoder, tokenizer = slm.tiny_slm("bert"), slm.tiny_tokenizer()
    donor = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32).eval()
    sides: list[list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = [[], []]
    for text, out in zip(TEXTS, held, strict=True):
        coded = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            hidden = encoder(**coded, output_hidden_states=True).hidden_states
        own = with_previous(torch.cat([hidden[-1], hidden[0]], dim=-1)[:, 1:-1])[0]
        states = whole_states(donor, coded["input_ids"], coded["attention_mask"])[ENTRY][0, 1:-1]
        sides[int(out)].append((own.numpy(), (states / states.square().mean(1, keepdim=True).sqrt()).numpy()))
    (x, y), (u, v) = (tuple(np.concatenate(part) for part in zip(*side, strict=True)) for side in sides)
    lacking = np.square(v - Ridge(alpha=found.penalty).fit(x, y).predict(u)).sum()
    assert found.r2 == pytest.approx(1 - lacking / np.square(v - y.mean(0)).sum(), abs=2e-3)


def test_the_fit_at_every_depth_is_summed_over_some_dimensions_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tiny.tiny_checkpoint("llama", tmp_path, hidden_size=192, head_dim=48)
    slm.tiny_tokenizer().save_pretrained(folder)
    states = token_states(slm.tiny_slm("bert"), slm.tiny_tokenizer(), TEXTS)
    checkpoint, whole = open_checkpoint(str(folder)), []
    real = fit._Sums.empty
    monkeypatch.setattr(fit._Sums, "empty", lambda p, width: whole.append(width) or real(p, width))
    some = fit.interface_fits(states, TEXTS, checkpoint, [1], model="x")
    assert set(whole) == {64}
    every = fit._summed(states, TEXTS, checkpoint, [1], "x", 200, None, 0, "cpu", False, slice(None))
    assert some[1] == pytest.approx(fit._penalties(every, whole=False)[1][0], abs=1e-6)


def test_the_donor_is_read_only_up_to_the_last_entry(llm: str, monkeypatch: pytest.MonkeyPatch):
    read: list[int] = []
    original = streaming.extract_from
    monkeypatch.setattr(
        streaming, "extract_from", lambda checkpoint, i, **rest: read.append(i) or original(checkpoint, i, **rest)
    )
    states = token_states(slm.tiny_slm("bert"), slm.tiny_tokenizer(), TEXTS)
    found = fit_interfaces(states, TEXTS, open_checkpoint(llm), [0, ENTRY], model=llm)
    assert read == [0, 1] and sorted(found) == [0, ENTRY]
    assert found[ENTRY].digest() == interface(llm).digest()  # whatever other entries are fitted next to it


def test_an_interface_comes_back_from_its_file_as_it_was(llm: str, tmp_path: Path):
    found = interface(llm)
    again = Interface.load(found.save(tmp_path / "x.safetensors"))
    assert again.digest() == found.digest() and again.facts() == found.facts()
    (tmp_path / "y").write_bytes(b"no interface")
    with pytest.raises(CorruptFileError, match="not an interface"):
        Interface.load(tmp_path / "y")


def test_texts_that_share_no_token_are_refused(llm: str):
    with pytest.raises(FeatureError, match="too few to align"):
        interface(llm, texts=["", "", ""])


# --- the chain --------------------------------------------------------------------------------------------------


def test_a_chain_reads_the_same_in_a_batch_as_alone(llm: str):
    entry = interface(llm)
    layer = pp.extract(f"{llm}[{ENTRY}]", dtype=torch.float32)
    states = token_states(slm.tiny_slm("bert"), slm.tiny_tokenizer(), TEXTS[:11])
    found = chain_features(states, entry, [layer], batch_tokens=40)
    for row in range(11):
        alone = chain_features(states.take([row]), entry, [layer])
        np.testing.assert_allclose(found[row], alone[0], atol=1e-4)
    assert chain_features(states, entry).shape == (11, 2 * tiny.WIDTH)


def test_the_readout_is_by_hand_what_it_says(llm: str):
    torch.manual_seed(0)
    x, y = torch.randn(1, 4, 6), torch.randn(1, 4, 6)
    found = read_out(x, y, torch.ones(1, 4))[0].numpy()
    a, d = y[0, 1:].numpy(), (y - x)[0, 1:].numpy()
    a, d = (part / np.sqrt(np.square(part).mean(1, keepdims=True)) for part in (a, d))
    np.testing.assert_allclose(found, np.concatenate([a.mean(0), a[-1], d.mean(0), np.abs(d).max(0)]), atol=1e-6)


def test_the_last_token_of_a_long_text_is_found_in_short_types_too():
    x = torch.randn(1, 303, 8, generator=torch.Generator().manual_seed(0))
    for n in (301, 302):
        mask = (torch.arange(303) <= n).long()[None]
        last = read_out(x.bfloat16(), 2 * x.bfloat16(), mask)[0, 8:16].float()
        expected = x[0, n] / x[0, n].square().mean().sqrt()
        assert torch.allclose(last, expected, atol=0.05)


def test_without_a_layer_the_chain_hands_its_states_on():
    x = torch.randn(2, 3, 4)
    assert torch.equal(run_chain([], x, torch.ones(2, 3)), x)


# --- the readout ------------------------------------------------------------------------------------------------


def planted(n: int, k: int, dim: int, signal: float, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % k)
    x = rng.normal(size=(n, dim)).astype(np.float32)
    x[:, :k] += signal * np.eye(k, dtype=np.float32)[y]
    return x, y


@pytest.mark.parametrize(("n", "dim", "k"), [(120, 30, 2), (60, 300, 2), (120, 30, 4)])
def test_a_block_is_scikit_learns_regression_on_standardised_features(n: int, dim: int, k: int):
    x, y = planted(n, k, dim, 1.0, 0)
    block = fit_block(x, y, k)
    z = (x - x.mean(0)) / x.std(0) / np.sqrt(dim / 500)
    reference = LogisticRegression(C=block.C, max_iter=5000, tol=1e-8).fit(z, y)
    np.testing.assert_allclose(block(x), reference.predict_log_proba(z), atol=0.02)


def test_out_of_fold_scores_know_nothing_of_their_own_text():
    x, y = planted(200, 2, 400, 0.0, 1)  # pure noise that any fit remembers
    block = fit_block(x, y, 2)
    assert (block(x).argmax(1) == y).mean() > 0.9
    assert abs((block.out_of_fold.argmax(1) == y).mean() - 0.5) < 0.12


def test_a_useless_block_does_no_harm_and_a_useful_one_helps():
    x, y = planted(400, 2, 20, 1.0, 2)
    new, truth = planted(4000, 2, 20, 1.0, 3)
    rng = np.random.default_rng(4)
    base, noise = fit_block(x, y, 2), fit_block(rng.normal(size=(400, 300)).astype(np.float32), y, 2)
    more = x + rng.normal(size=x.shape).astype(np.float32)  # another view of the same
    useful = fit_block(more, y, 2)
    alone = (base(new).argmax(1) == truth).mean()
    with_noise = fit_stack([base, noise], y, 2)([base(new), noise(rng.normal(size=(4000, 300)).astype(np.float32))])
    assert (with_noise.argmax(1) == truth).mean() > alone - 0.015
    assert fit_stack([base, useful], y, 2).coef.shape == (2, 4)


def test_a_block_whose_folds_run_against_the_truth_is_not_turned_round():
    y = np.array([0, 1] * 10)
    right = np.log(np.where(np.eye(2)[y] > 0, 0.7, 0.3))
    against, useful = _Said(right[:, ::-1]), _Said(right)
    new = [np.log([[0.9, 0.1], [0.2, 0.8]]), np.log([[0.3, 0.7], [0.6, 0.4]])]
    for blocks, speaks in (([against, useful], 1), ([useful, against], 0), ([against, against], 0)):
        stack = fit_stack(blocks, y, 2)
        assert np.array_equal(stack(new).argmax(1), new[speaks].argmax(1))
    wrong = _Said(np.log(np.where(np.eye(3)[np.arange(12) % 3] > 0, 0.1, 0.45)))
    three = np.log([[0.2, 0.2, 0.6]])
    assert fit_stack([wrong, wrong], np.arange(12) % 3, 3)([three, three[:, ::-1]]).argmax() == 2


@dataclass
class _Said:
    """What the folds said of training texts."""

    out_of_fold: NDArray[np.float64]


@pytest.mark.parametrize("dim", [4, 400])
def test_features_that_are_all_constant_say_what_is_frequent(dim: int):
    block = fit_block(np.ones((12, dim), np.float32), np.array([0] * 4 + [1] * 8), 2)
    assert np.allclose(np.exp(block(np.ones((1, dim), np.float32))), [[1 / 3, 2 / 3]], atol=0.05)


@pytest.mark.parametrize("n", [100, 400])
def test_with_many_classes_and_few_texts_a_useless_block_does_no_harm_either(n: int):
    """A free matrix over classes and blocks, 800 numbers, would lose ten points and more."""
    x, y = planted(n, 20, 40, 3.0, 7)
    new, truth = planted(2000, 20, 40, 3.0, 8)
    rng = np.random.default_rng(9)
    base, noise = fit_block(x, y, 20), fit_block(rng.normal(size=(n, 300)).astype(np.float32), y, 20)
    said = noise(rng.normal(size=(2000, 300)).astype(np.float32))
    alone = (base(new).argmax(1) == truth).mean()
    joined = fit_stack([base, noise], y, 20)
    assert alone > 0.3 and (joined([base(new), said]).argmax(1) == truth).mean() > alone - 0.02
    assert joined.coef.shape == (20, 40) and joined.coef.min() >= 0
    held = cross_fitted([base.out_of_fold, noise.out_of_fold], y, 20)
    assert held[np.arange(n), y].mean() > base.out_of_fold[np.arange(n), y].mean() - 0.05


def test_a_probability_that_is_rounded_to_zero_has_the_floor_and_no_warning(recwarn: pytest.WarningsRecorder):
    y = np.arange(60) % 3
    x = (np.eye(3)[y] + np.random.default_rng(0).normal(scale=0.1, size=(60, 3))).astype(np.float32)
    found = _Path(x, y, 3).at(100.0).log_probabilities(1e4 * x)
    assert not recwarn.list and found.min() == FLOOR and (found.argmax(1) == y).all()


def test_a_class_with_a_single_text_does_not_stop_the_readout_and_one_class_alone_does():
    x, y = planted(40, 2, 5, 1.0, 5)
    y[0] = 2
    assert fit_block(x, y, 3)(x).shape == (40, 3)
    with pytest.raises(TaskError, match="too few for a readout"):
        fit_block(x, np.zeros(40, dtype=np.int64), 2)


def test_one_token_at_a_time_each_token_is_a_sequence_of_its_own(llm: str):
    entry, layer = interface(llm), pp.extract(f"{llm}[{ENTRY}]", dtype=torch.float32)
    states = token_states(slm.tiny_slm("bert"), slm.tiny_tokenizer(), TEXTS[:11])
    found = chain_features(states, entry, [layer], one_token=True)
    row = int(np.argmax([int(n) for n in states.lengths]))
    x = entry(states.take([row]).padded([0])[0])
    y = torch.cat([layer(x[:, [place]]) for place in range(x.shape[1])], dim=1)
    expected = read_out(x, y, torch.ones(1, x.shape[1]))[0]
    np.testing.assert_allclose(found[row], expected, atol=1e-4)
    assert np.abs(found[row] - chain_features(states, entry, [layer])[row]).max() > 1e-3


def test_an_interface_that_is_not_aligned_has_the_size_of_the_fitted_one_and_knows_nothing_of_it(llm: str):
    entry = interface(llm)
    drawn = entry.redrawn(3)
    assert drawn.weight.square().mean().item() == pytest.approx(entry.weight.square().mean().item(), rel=0.1)
    cosine = torch.nn.functional.cosine_similarity(drawn.weight.flatten(), entry.weight.flatten(), dim=0)
    assert abs(float(cosine)) < 0.1 and torch.equal(drawn.first, entry.first) and drawn.scale == entry.scale
    assert torch.equal(entry.redrawn(3).weight, drawn.weight) and drawn.digest() != entry.digest()


# --- the evaluation ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(slm.tiny_slm_folder(tmp_path_factory.mktemp("slm")))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIFI_PROBE_FEATURES", str(tmp_path / "features"))
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path / "cache"))


def test_every_arm_is_scored_alone_and_with_the_encoder_on_every_test(bert: str, llm: str):
    other = replace(slm.tiny_task(20, "others"), splits={"test": slm.tiny_task(200).splits["test"]})
    table = pp.probe_chain(
        bert, llm, TASK, "1-2", fractions=(20,), n_draws=2, twins=2, also=[other], references=["donor"], progress=False
    )
    arms = {"encoder", "interface", "real", "shuffled", "random", "donor"}
    assert set(table.scores["arm"]) == arms and set(table.scores["test"]) == {"words", "others"}
    assert set(table.scores["n_labels"]) == {20, 60}
    key = "real | with encoder | 20 | words"
    assert table.predicted[key].shape == (2, 1, 60) and len(table.labels["words"]) == 60
    right = (table.predicted[key] == table.labels["words"]).mean()
    row = table.scores.query("arm == 'real' and reading == 'with encoder' and n_labels == 20 and test == 'words'")
    assert row["accuracy"].item() == pytest.approx(right)
    assert table.predicted["shuffled | alone | 60 | words"].shape == (1, 2, 60)
    again = pp.ChainTable.from_json(table.to_json())
    assert again.answer == table.answer and again.differences.equals(table.differences)
    difference = table.difference("real", "encoder")
    assert difference["low"] <= difference["difference"] <= difference["high"]


def test_conditions_are_taken_from_the_real_layers_one_by_one(bert: str, llm: str):
    arms = ["real", "one token", "unaligned"]
    table = pp.probe_chain(bert, llm, TASK, "1-2", arms=arms, progress=False)
    assert set(table.scores["arm"]) == {"encoder", *arms}
    again = pp.probe_chain(bert, llm, TASK, "1-2", arms=arms[::-1], progress=False)
    for arm in arms:
        key = f"{arm} | alone | 60 | words"
        assert np.array_equal(again.predicted[key], table.predicted[key]), "what is kept on disk is each arm's own"


@pytest.mark.slow
def test_a_second_evaluation_computes_nothing_anew(bert: str, llm: str, monkeypatch: pytest.MonkeyPatch):
    first = pp.probe_chain(bert, llm, TASK, "1-2", progress=False)

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    for name in (
        "pifi_probe.features.chain_parts.token_states",
        "pifi_probe.alignment.kept.fit_interfaces",
        "pifi_probe.features.chain_parts.chain_features",
    ):
        monkeypatch.setattr(name, refused)
    again = pp.probe_chain(bert, llm, TASK, "1-2", progress=False)
    assert again.scores.equals(first.scores)


def test_a_donor_with_other_numbers_than_weights_is_another_one(bert: str, llm: str, tmp_path: Path):
    def nll(donor: Path | str) -> float:
        table = pp.probe_chain(bert, str(donor), TASK, "0-1", arms=["real"], progress=False)
        return float(table.scores.query("arm == 'real' and reading == 'alone'")["nll"].item())

    shutil.copytree(llm, tmp_path / "donor")
    first = nll(tmp_path / "donor")
    config = tmp_path / "donor" / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("10000.0", "3.0"), encoding="utf-8")
    assert nll(tmp_path / "donor") != first


def test_without_layers_the_chain_is_that_of_the_headroom(bert: str, llm: str):
    table = pp.probe_chain(bert, llm, TASK, arms=["real"], progress=False)
    assert tuple(table.info["layers"]) == pp.headroom(bert, llm, TASK, progress=False).span


@pytest.mark.parametrize("name", ["twins", "n_draws", "max_tokens"])
def test_numbers_below_one_are_refused(name: str, bert: str, llm: str):
    with pytest.raises(pp.errors.PlugInError, match=f"{name}=0"):
        pp.probe_chain(bert, llm, TASK, 1, progress=False, **{name: 0})  # type: ignore[arg-type]


@pytest.mark.slow
def test_references_have_as_many_weights_and_come_with_every_score(bert: str, llm: str):
    names = ["mlp", "trained layers", "encoder twice"]
    table = pp.probe_chain(bert, llm, TASK, "1-2", arms=["real"], references=names, fractions=[20], progress=False)
    whole = table.scores[table.scores["n_labels"] == table.info["n_train"]]
    assert set(whole[whole["reading"] == "with encoder"]["arm"]) == {"real", *names}
    assert all(np.isfinite(table.difference("real", name)["difference"]) for name in names)
    again = pp.probe_chain(bert, llm, TASK, "1-2", arms=["real"], references=names, fractions=[20], progress=False)
    assert again.scores.equals(table.scores)
    real = [pp.extract(f"{llm}[{i}]", dtype=torch.float32) for i in (1, 2)]
    size = sum(tensor.numel() for layer in real for _, tensor in layer.tensors())
    before = [layer.digest() for layer in real]
    for kind in names[:2]:
        network = _Network(kind, interface(llm), real, 2, 0)
        block = sum(weight.numel() for weight in network.block.parameters())
        assert abs(block - size) < 0.02 * size and all(weight.requires_grad for weight in network.block.parameters())
    assert [layer.digest() for layer in real] == before


def test_the_alignment_sees_no_label_and_no_text_of_a_test(bert: str, llm: str):
    def digest(task: pp.Task) -> str:
        table = pp.probe_chain(bert, llm, task, 1, arms=["interface"], n_align=30, progress=False)
        return str(table.info["interface"]["digest"])

    test = TASK.splits["test"]
    changed = replace(test, texts=tuple(f"{text} film" for text in test.texts))
    assert digest(TASK) == digest(replace(TASK, splits={**TASK.splits, "test": changed}))


def test_a_twin_with_an_interface_of_its_own_is_aligned_to_other_states(bert: str, llm: str):
    table = pp.probe_chain(bert, llm, TASK, "2", own_interfaces=True, progress=False)
    assert {"shuffled, own interface", "random, own interface"} <= set(table.scores["arm"])


@pytest.mark.parametrize("layers", ["0-3", "2-1", "layers", 7, (1, 9), "other[0:2]"])
def test_layers_that_are_no_chain_of_the_donor_are_refused(bert: str, llm: str, layers: object):
    with pytest.raises(pp.errors.PifiProbeError, match="does not name a chain of layers"):
        pp.probe_chain(bert, llm, TASK, layers, progress=False)  # type: ignore[arg-type]
