"""Features are the pooled states of the whole model, and the encoder's vectors as the plug-in gets them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

import pifi_probe as pp
from pifi_probe.devices import has_bf16
from pifi_probe.errors import FeatureError, LayerIndexError, PifiProbeError, RecipeError, SpecError, TaskError
from pifi_probe.features.donor import llm_features, pool_tokens
from pifi_probe.features.feature_set import Features
from pifi_probe.features.rows import scoring_rows
from pifi_probe.kinds.parts.encoding import encode
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.tokenizer import donor_tokenizer
from pifi_probe.plugin.plugin import PlugIn
from pifi_probe.probing.encoder_vectors import slm_features
from pifi_probe.tasks import Split, tokens
from tests import slm, tiny
from tests.hub_server import running_hub
from tests.states import whole_states

TASK = slm.tiny_task()
ROWS = scoring_rows(TASK, 24)
PAIRS = replace(ROWS, pairs=tuple(reversed(ROWS.texts)))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIFI_PROBE_FEATURES", str(tmp_path / "features"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(slm.tiny_slm_folder(tmp_path_factory.mktemp("slm")))


def by_hand(
    llm: str, texts: tuple[str, ...], pooling: str = "mean", normalise: bool = True, drop_first: bool = True
) -> NDArray[np.float64]:
    """Features (points, N, D), text by text, through the whole model."""
    full = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32).eval()
    tokenizer = donor_tokenizer(open_checkpoint(llm))
    rows = []
    for text in texts:
        batch = tokenizer(text, return_tensors="pt")
        points = []
        for states in whole_states(full, batch["input_ids"], batch["attention_mask"]):
            vectors = states[0].double()
            if drop_first and len(vectors) > 1:
                vectors = vectors[1:]
            if normalise:
                vectors = vectors / vectors.square().mean(1, keepdim=True).sqrt()
            points.append((vectors.mean(0) if pooling == "mean" else vectors[-1]).numpy())
        rows.append(points)
    return np.asarray(rows).transpose(1, 0, 2)


def stacked(features: Features) -> NDArray[np.float32]:
    return np.stack([features[point] for point in range(features.n_points)])


# --- own states ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize(("normalise", "drop_first"), list(itertools.product([True, False], repeat=2)))
def test_features_are_those_of_the_whole_model_text_by_text(
    pooling: str, normalise: bool, drop_first: bool, llm: str
) -> None:
    features = llm_features(llm, ROWS, pooling=pooling, normalise=normalise, drop_first=drop_first, cache=False)
    expected = by_hand(llm, ROWS.texts, pooling, normalise, drop_first)
    assert features.n_points == tiny.N_LAYERS + 1
    np.testing.assert_allclose(stacked(features), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 30, 100_000])
def test_features_do_not_depend_on_the_batches(batch_tokens: int, llm: str) -> None:
    features = llm_features(llm, ROWS, batch_tokens=batch_tokens, memory=0)
    np.testing.assert_allclose(stacked(features), by_hand(llm, ROWS.texts), rtol=1e-4, atol=1e-5)


def test_features_know_their_rows_and_what_was_done(llm: str) -> None:
    features = llm_features(llm, ROWS)
    assert features.ids == ROWS.ids and features.labels.tolist() == list(ROWS.labels)
    assert features[0].shape == (24, tiny.WIDTH) and features[0].dtype == np.float32
    assert len(features) == tiny.N_LAYERS + 1
    assert np.array_equal(features[-1], features[tiny.N_LAYERS])
    said = {"family": "own-state", "pooling": "mean", "normalise": True, "drop_first": True, "precision": "float32"}
    assert said.items() <= features.info.items() and "before the final norm" in features.info["position"]
    with pytest.raises(LayerIndexError, match="no point 4"):
        features[4]


def test_a_single_token_is_kept_and_a_text_without_tokens_has_features(llm: str) -> None:
    states = torch.randn(2, 3, 4)
    mask = torch.tensor([[0, 0, 1], [1, 1, 0]])
    pooled = pool_tokens(states, mask, "mean", normalise=False, drop_first=True)
    torch.testing.assert_close(pooled, torch.stack([states[0, 2], states[1, 1]]))
    tokenizer = donor_tokenizer(open_checkpoint(llm))
    tokenizer.backend_tokenizer.post_processor = None
    assert tokens.tokenise(tokenizer, ["", "good film"], 10).lengths == [1, 2]


def test_a_token_of_zeros_gives_no_nan() -> None:
    pooled = pool_tokens(torch.zeros(1, 2, 4), torch.ones(1, 2), "mean", normalise=True, drop_first=False)
    assert torch.equal(pooled, torch.zeros(1, 4))


def test_long_texts_are_cut_at_the_length_or_the_context_and_counted(llm: str) -> None:
    long = replace(ROWS, texts=(*ROWS.texts[:-1], "good " * 500))
    features = llm_features(llm, long, max_tokens=1000)
    assert features.info["max_tokens"] == 64, "the context of the tiny model"
    assert features.info["n_cut"] == 1 and features.info["notes"] == ["1 of 24 texts were cut after 64 tokens"]
    features = llm_features(llm, ROWS, max_tokens=5)
    assert features.info["n_cut"] == 24 and features.info["n_tokens"] == 5 * 24


def test_a_text_of_exactly_the_length_is_not_cut() -> None:
    found = tokens.tokenise(slm.tiny_tokenizer(), ["good film", "good film was"], 4)
    assert (found.lengths, found.n_cut) == ([4, 4], 1)


@pytest.mark.parametrize("template", [None, "{text}\n{pair}"])
def test_a_pair_is_one_text_for_a_decoder(template: str | None, llm: str) -> None:
    features = llm_features(llm, PAIRS, kind="pair", template=template)
    joined = tuple(f"{text}\n{pair}" for text, pair in zip(PAIRS.texts, PAIRS.pairs or (), strict=True))
    np.testing.assert_allclose(stacked(features), by_hand(llm, joined), rtol=1e-4, atol=1e-5)


def test_a_template_takes_texts_literally() -> None:
    rows = Split(texts=("a {pair} {x}",), labels=(0,), ids=("0",), pairs=("b {text}",))
    assert tokens.fill_template(rows, "Q: {text} {y} A: {pair}")[0] == ["Q: a {pair} {x} {y} A: b {text}"]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"pooling": "max"}, FeatureError, "unknown pooling 'max'"),
        ({"template": "text"}, FeatureError, r"lacks \{text\}"),
        ({"template": "{text} {pair}"}, FeatureError, "has no pairs|have no pairs|task has no pairs"),
        ({"kind": "pair"}, FeatureError, "not of kind 'pair'"),
        ({"max_tokens": 0}, PifiProbeError, "max_tokens"),
        ({"batch_tokens": 0}, FeatureError, "batch_tokens"),
        ({"precision": "fp8"}, RecipeError, "precision='fp8'"),
        ({"device": "tpu"}, RecipeError, "device='tpu'"),
        ({"llm": "a[0] >> b"}, SpecError, "a model is needed, not layers"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, Any], kind: type[PifiProbeError], message: str, llm: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        llm_features(**{"llm": llm, "rows": ROWS} | options)
    assert "next:" in str(caught.value) and "\n" not in str(caught.value)


def test_bf16_is_close_to_float32_or_refused_where_it_would_be_emulated(llm: str) -> None:
    if not has_bf16(torch.device("cpu")):
        with pytest.raises(RecipeError, match="bf16"):
            llm_features(llm, ROWS, precision="bf16", device="cpu")
        return
    short, full = (stacked(llm_features(llm, ROWS, precision=p, device="cpu")) for p in ("bf16", "float32"))
    assert not np.array_equal(short, full)
    assert np.linalg.norm(short - full) < 0.03 * np.linalg.norm(full)


def test_a_model_on_the_hub_gives_the_same_features(llm: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with running_hub(monkeypatch, tmp_path) as server:
        repo = server.add_repo("org/model", Path(llm))
        features = llm_features("org/model", ROWS)
        assert features.info["content"] == f"org/model@{repo.branches['main']}"
    assert np.array_equal(stacked(features), stacked(llm_features(llm, ROWS)))


@pytest.mark.slow
@pytest.mark.assets
def test_the_real_gguf_model_gives_the_features_of_the_whole_model(smollm2: Path) -> None:
    rows = scoring_rows(pp.load_task("movie-reviews"), 4)
    features = llm_features("smollm2-135m", rows)
    full = AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32).eval()
    tokenizer = donor_tokenizer(open_checkpoint(str(smollm2)))
    for row, text in enumerate(rows.texts):
        batch = tokenizer(text, return_tensors="pt")
        for point, states in enumerate(whole_states(full, batch["input_ids"], batch["attention_mask"])):
            vectors = states[0, 1:]
            expected = (vectors / vectors.square().mean(1, keepdim=True).sqrt()).mean(0).numpy()
            error = np.linalg.norm(features[point][row] - expected) / np.linalg.norm(expected)
            assert error <= 1e-4, (row, point)


@pytest.mark.slow
@pytest.mark.assets
def test_the_tokenizer_of_a_gguf_file_is_kept_and_the_same(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path))
    first, second = (donor_tokenizer(open_checkpoint(str(smollm2))) for _ in range(2))
    assert tokens.tokenizer_digest(first) == tokens.tokenizer_digest(second)
    assert first.pad_token == second.pad_token
    assert first("A film. 42 films!")["input_ids"] == second("A film. 42 films!")["input_ids"]


def test_a_tokenizer_is_the_same_before_and_after_it_is_called() -> None:
    tokenizer = slm.tiny_tokenizer()
    before = tokens.tokenizer_digest(tokenizer)
    tokenizer(["a good film", "a film"], padding=True, truncation=True, max_length=3)
    assert tokens.tokenizer_digest(tokenizer) == before
    tokenizer.add_tokens(["unheard"])
    assert tokens.tokenizer_digest(tokenizer) != before


# --- batches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_tokens", [1, 700, 1500, 4096])
def test_batches_hold_every_row_once_are_bounded_and_hardly_padded(batch_tokens: int) -> None:
    lengths = [int(n) for n in np.random.default_rng(0).integers(1, 100, 1000)]
    groups = tokens.buckets(lengths, batch_tokens)
    assert sorted(row for group in groups for row in group) == list(range(1000))
    sizes = [len(group) * max(lengths[row] for row in group) for group in groups]
    assert all(size <= batch_tokens or len(group) == 1 for size, group in zip(sizes, groups, strict=True))
    assert sum(sizes) < 1.06 * sum(lengths)


# --- the encoder --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
@pytest.mark.parametrize("rows", [ROWS, PAIRS], ids=["single", "pair"])
def test_the_encoder_s_vectors_are_what_the_matched_plug_in_gets(
    family: str, rows: Split, llm: str, tmp_path: Path
) -> None:
    folder = str(slm.tiny_slm_folder(tmp_path / "slm", family))
    model = pp.plug_in(folder, f"{llm}[1]", task=TASK, wiring="matched")
    assert isinstance(model.plugin, PlugIn)
    given: list[torch.Tensor] = []
    model.plugin.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    encoded = encode(rows, slm.tiny_tokenizer(), 100)
    with torch.no_grad():
        for row in range(len(rows)):
            model(**{name: torch.tensor([ids]) for name, ids in encoded.inputs(row).items()})
    features = slm_features(folder, rows, batch_tokens=64)
    assert features.n_points == 1 and features.info["pooling"] == model.config.pooling
    np.testing.assert_allclose(features[0], torch.cat(given).numpy(), rtol=1e-4, atol=1e-5)


def test_an_encoder_in_memory_is_known_by_its_weights(bert: str) -> None:
    model = pp.plug_in(bert, control="vanilla", task=TASK).encoder
    model.config._name_or_path = bert
    before = slm_features(model, ROWS)
    assert np.array_equal(before[0], slm_features(bert, ROWS)[0])
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.5)
    after = slm_features(model, ROWS)
    assert before.info["features"] != after.info["features"] and not np.allclose(before[0], after[0])


# --- rows ---------------------------------------------------------------------------------------------------


def test_the_test_split_is_refused_with_the_reason() -> None:
    with pytest.raises(TaskError, match=r"test split cannot be used to score .* no longer be held out.*fine_tune"):
        scoring_rows(TASK, 10, "test")


def test_a_missing_split_or_too_many_rows_are_one_line() -> None:
    refusals: list[tuple[Callable[[], object], str]] = [
        (lambda: scoring_rows(TASK, 10, "dev"), "no split 'dev'.*use one of train, validation"),
        (lambda: scoring_rows(TASK, 1000), "1000 rows of the train split were asked for, it has 48"),
    ]
    for call, message in refusals:
        with pytest.raises(TaskError, match=message):
            call()


def test_draws_are_nested_and_stratified() -> None:
    small, large = scoring_rows(TASK, 12, seed=3), scoring_rows(TASK, 24, seed=3)
    assert set(small.ids) < set(large.ids) and sum(small.labels) == 6
    assert scoring_rows(TASK, None) is TASK.splits["train"]
    assert set(scoring_rows(TASK, 24, "validation").ids) == set(TASK.splits["validation"].ids)
