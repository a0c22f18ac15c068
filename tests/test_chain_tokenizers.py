"""Whatever the two tokenizers are, tokens meet by the characters that they have read."""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, BertConfig, ByT5Tokenizer, OPTConfig, PreTrainedTokenizerFast

import pifi_probe as pp
from pifi_probe.alignment.fit import fit_interfaces, match_tokens
from pifi_probe.alignment.tokens import encode, special_ids, token_states
from pifi_probe.errors import FeatureError
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.tokenizer import check_tokenizer
from tests import slm, tiny

LEARNT = [
    "the film was good and the plot was bad",
    "안녕하세요 영화가 좋았어요",
    "كان الفيلم جيدًا جدًا",
    "Der Film war schön, größer als je zuvor",
    "cafe\u0301 u\u0308ber nai\u0308ve \u1112\u1161\u11ab",
    "👨‍👩‍👧‍👦 ok 👍🏽 fine",
    "tab\there\nnew line\r\nend",
    "  leading and   more",
    "ﬁne ½ Ⅳ İstanbul",
]
ODD = [
    "",
    "   ",
    "\n\t ",
    "\u200d",
    "日本語の映画",
    "good\u00a0film",
    "\x00\x01 ctrl",
    "a\u0301\u0301\u0301b",
    "the film was good " * 30,
]
TEXTS = [*LEARNT, *ODD, "[SEP] <s> film </s> <|endoftext|>"]
LIMIT = 60
VOCABULARY = 700
MARK = "<|endoftext|>"


def _whole(tokenizer: Tokenizer, **names: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def wordpiece() -> PreTrainedTokenizerFast:
    """Lower case, no accents, [CLS] and [SEP]."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(LEARNT, trainers.WordPieceTrainer(vocab_size=160, special_tokens=special))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return _whole(made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def bytes_bpe(*, trim: bool = True, prefix: bool = False, start: bool = False) -> PreTrainedTokenizerFast:
    """Bytes, one token for start, end and unknown words as in GPT-2, none for padding; it pads on the left."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=prefix), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        LEARNT, trainers.BpeTrainer(vocab_size=330, special_tokens=[MARK], initial_alphabet=alphabet)
    )
    steps = [processors.ByteLevel(trim_offsets=trim)]
    if start:
        front = processors.TemplateProcessing(
            single=f"{MARK} $A", pair=f"{MARK} $A {MARK} $B", special_tokens=[(MARK, 0)]
        )
        made.post_processor = processors.Sequence([*steps, front])
    else:
        made.post_processor = steps[0]
    return _whole(made, bos_token=MARK, eos_token=MARK, unk_token=MARK, padding_side="left")


def _sentencepiece(made: Tokenizer) -> PreTrainedTokenizerFast:
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return _whole(made, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def unigram(*, bytes_too: bool = False, prefix: str = "always") -> PreTrainedTokenizerFast:
    """SentencePiece as XLM-R has it: NFKC, spaces joined, start and end."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix)  # type: ignore[arg-type]
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    made.train_from_iterator(
        LEARNT, trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=special, show_progress=False)
    )
    if bytes_too:
        facts = json.loads(made.to_str())
        facts["model"]["vocab"] += [[f"<0x{i:02X}>", -20.0] for i in range(256)]
        facts["model"]["byte_fallback"] = True
        made = Tokenizer.from_str(json.dumps(facts))
    return _sentencepiece(made)


def llama(*, bytes_too: bool = False) -> PreTrainedTokenizerFast:
    """SentencePiece as Llama has it: BPE with a dummy prefix, and bytes for what it has no token for."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=bytes_too, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    special = ["<pad>", "<unk>", "<s>", "</s>", *([f"<0x{i:02X}>" for i in range(256)] if bytes_too else [])]
    made.train_from_iterator(
        LEARNT, trainers.BpeTrainer(vocab_size=len(special) + 150, special_tokens=special, limit_alphabet=30)
    )
    return _sentencepiece(made)


def characters() -> PreTrainedTokenizerFast:
    """One token a character, and nothing around a text."""
    known = ["[PAD]", "[UNK]", *sorted(set("".join(LEARNT)))]
    made = Tokenizer(models.WordLevel({mark: i for i, mark in enumerate(known)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return _whole(made, pad_token="[PAD]", unk_token="[UNK]")


def normalised(form: Any) -> PreTrainedTokenizerFast:
    """BPE over a normal form."""
    made = Tokenizer(models.BPE(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = form, pre_tokenizers.Whitespace()
    made.train_from_iterator(LEARNT, trainers.BpeTrainer(vocab_size=200, special_tokens=["[PAD]", "[UNK]"]))
    return _whole(made, pad_token="[PAD]", unk_token="[UNK]")


STRIPPED = [normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]
KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "WordPiece": wordpiece,
    "bytes": bytes_bpe,
    "bytes, spaces kept, prefix": functools.partial(bytes_bpe, trim=False, prefix=True),
    "bytes, start": functools.partial(bytes_bpe, start=True),
    "unigram": unigram,
    "unigram, bytes": functools.partial(unigram, bytes_too=True),
    "unigram, no prefix": functools.partial(unigram, prefix="never"),
    "llama": llama,
    "llama, bytes": functools.partial(llama, bytes_too=True),
    "characters": characters,
    "NFC": lambda: normalised(normalizers.NFC()),
    "NFKC": lambda: normalised(normalizers.NFKC()),
    "NFD without accents": lambda: normalised(normalizers.Sequence(list(STRIPPED))),
}


@functools.cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    return KINDS[kind]()


def characters_of(kind: str, text: str) -> list[set[int]]:
    """Return the characters that each token stands for; a mark that is no token's own goes with the letter before."""
    encoding = tokenizer_of(kind)(text, truncation=True, max_length=LIMIT, return_offsets_mapping=True)
    own = [
        set() if part is None else set(range(*span))
        for span, part in zip(encoding["offset_mapping"], encoding.sequence_ids(), strict=True)
    ]
    taken = set().union(*own)
    for place in range(1, len(text)):
        is_mark = unicodedata.category(text[place])[0] == "M" or text[place] in "\u1161\u11ab"
        if is_mark and place not in taken:
            for characters in own:
                if place - 1 in characters:
                    characters.add(place)
    return own


def by_hand(own: list[set[int]], donor: list[set[int]]) -> list[int]:
    """Return for each token the donor's token to meet: the first that has read its last character, or its last part."""
    matches = []
    for characters in own:
        wanted = max(characters, default=-1)
        read = [max(set().union(*donor[: k + 1]), default=-1) for k in range(len(donor))]
        there = [k for k in range(len(donor)) if characters and read[k] >= wanted]
        same = [k for k in there if donor[k] and max(donor[k]) == read[there[0]]]
        matches.append(same[-1] if same and same[-1] > 0 else -1)
    return matches


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_ends_where_its_characters_end(kind: str):
    coded = encode(tokenizer_of(kind), TEXTS, None, 1000)
    for text, ids, ends in zip(TEXTS, coded.ids, coded.ends, strict=True):
        there = [end for end in ends if end >= 0]
        assert len(ids) == len(ends) and there == sorted(there) and max(there, default=0) <= len(text)
        if kind != "WordPiece" and text.strip(" \u200d\x00\x01\n\t\r"):  # WordPiece drops marks and controls
            assert there and len(text[there[-1] :].strip()) == 0, f"{text!r} is read to its end"


@pytest.mark.parametrize("donor", KINDS)
def test_tokens_of_every_two_tokenizers_meet_by_their_characters(donor: str):
    other, meant = encode(tokenizer_of(donor), TEXTS, None, LIMIT), [characters_of(donor, text) for text in TEXTS]
    for kind in KINDS:
        coded = encode(tokenizer_of(kind), TEXTS, None, LIMIT)
        for row, text in enumerate(TEXTS):
            own = characters_of(kind, text)
            if own and meant[row]:  # the tokenizer has tokens for this text
                found = match_tokens(coded.ends[row], other.ends[row])
                assert found == by_hand(own, meant[row]), (kind, text)


def test_marks_that_a_tokenizer_composes_or_drops_are_read_with_their_letter():
    text = "u\u0308ber \u1112\u1161\u11ab"
    for kind in ("NFC", "unigram", "NFD without accents"):
        assert max(encode(tokenizer_of(kind), [text], None, LIMIT).ends[0]) == len(text)
    assert 2 in encode(tokenizer_of("unigram"), [text], None, LIMIT).ends[0]
    whole = encode(tokenizer_of("bytes"), [text], None, LIMIT).ends[0]
    assert match_tokens([2], whole)[0] != match_tokens([1], whole)[0], "the donor has not read the mark yet"


# --- what a model makes of it -------------------------------------------------------------------------------------


def donor_folder(folder: Path, tokenizer: Any) -> str:
    tiny.tiny_checkpoint("llama", folder, vocab_size=VOCABULARY, max_position_embeddings=512)
    tokenizer.save_pretrained(folder)
    return str(folder)


def encoder() -> Any:
    torch.manual_seed(0)
    return AutoModel.from_config(BertConfig(**{**slm._BERT, "vocab_size": VOCABULARY})).eval()


@pytest.mark.parametrize("kind", ["bytes", "unigram, bytes", "characters", "NFKC"])
def test_an_interface_is_fitted_to_odd_texts(kind: str, tmp_path: Path):
    llm = donor_folder(tmp_path / "llm", tokenizer_of(kind))
    states = token_states(encoder(), tokenizer_of("WordPiece"), TEXTS, max_tokens=LIMIT)
    assert len(states) == len(TEXTS) and min(states.lengths) >= 1
    found = fit_interfaces(states, TEXTS, open_checkpoint(llm), [1], model=llm)[1]
    assert np.isfinite(found.r2) and bool(torch.isfinite(found.weight).all())


def test_a_donor_that_cuts_texts_in_front_is_aligned_to_their_beginning(tmp_path: Path):
    """Its first tokens would else be met by words that it has not read."""
    texts = [f"{text} {text} {text}" for text in slm.tiny_task(40).splits["train"].texts]
    states = token_states(slm.tiny_slm("bert"), slm.tiny_tokenizer(), texts)
    found = []
    for side in ("right", "left"):
        tokenizer = slm.tiny_tokenizer()
        tokenizer.truncation_side = side
        llm = donor_folder(tmp_path / side, tokenizer)
        found.append(fit_interfaces(states, texts, open_checkpoint(llm), [1], model=llm, max_tokens=10)[1])
    assert found[0].digest() == found[1].digest()


def test_texts_whose_tokens_do_not_vary_have_an_interface(llm: str):
    texts = [text for text in slm.tiny_task(40).splits["train"].texts]
    states = token_states(slm.tiny_slm("bert"), slm.tiny_tokenizer(), texts, max_tokens=3)  # [CLS] the [SEP]
    found = fit_interfaces(states, texts, open_checkpoint(llm), [1], model=llm)[1]
    told = found(torch.from_numpy(states.tokens[:1])[None])  # the one token that there is
    assert float(found.weight.abs().max()) < 1 and bool(torch.isfinite(told).all()) and found.r2 == 0


def test_a_token_that_marks_start_end_and_unknown_words_is_no_word_of_a_text():
    tokenizer = tokenizer_of("bytes, start")
    assert special_ids(tokenizer) == {0} and special_ids(slm.tiny_tokenizer()) == {0, 2, 3}
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 32}
    model = AutoModel.from_config(OPTConfig(vocab_size=VOCABULARY, word_embed_proj_dim=24, **sizes)).eval()
    states = token_states(model, tokenizer, ["the film"], last_pools=True)
    assert list(states.lengths) == [len(tokenizer("the film")["input_ids"]) - 1] and min(states.ends) > 0


def test_a_start_that_also_pads_is_a_start():
    tokenizer = KINDS["bytes, start"]()
    assert check_tokenizer(tokenizer, "here", starts=True).pad_token == MARK
    with pytest.raises(pp.errors.TokenizerError, match="special token at the start"):
        check_tokenizer(KINDS["bytes"](), "here", starts=True)


def test_a_tokenizer_without_places_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIFI_PROBE_FEATURES", str(tmp_path / "features"))
    llm = donor_folder(tmp_path / "llm", ByT5Tokenizer())
    bert = str(slm.tiny_slm_folder(tmp_path / "slm"))
    monkeypatch.setattr("pifi_probe.features.chain_parts.token_states", None)
    monkeypatch.setattr("pifi_probe.plugin.aligning.token_states", None)
    task = slm.tiny_task(24)
    for asked in (
        lambda: pp.headroom(bert, llm, task, progress=False),
        lambda: pp.probe_chain(bert, llm, task, 1, progress=False),
        lambda: pp.plug_in(bert, f"{llm}[1]", task=task, wiring="aligned"),
    ):
        with pytest.raises(FeatureError, match="does not say at which characters"):
            asked()


def test_a_donor_without_a_tokenizer_is_not_answered_with_the_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIFI_PROBE_FEATURES", str(tmp_path / "features"))
    llm = str(tiny.tiny_checkpoint("llama", tmp_path / "llm"))
    bert = str(slm.tiny_slm_folder(tmp_path / "slm"))
    task = slm.tiny_task(24)
    for asked in (
        lambda: pp.headroom(bert, llm, task, progress=False),
        lambda: pp.probe_chain(bert, llm, task, 1, progress=False),
        lambda: pp.plug_in(bert, f"{llm}[1]", task=task, wiring="aligned"),
    ):
        with pytest.raises(pp.errors.TokenizerError, match="without the donor's tokenizer") as caught:
            asked()
        assert "tokenizer= is the encoder's" in caught.value.next
