"""One door for tokenizers: load one, check that it can be used with its model, and say what to do when it cannot."""

from __future__ import annotations

import contextlib
import copy
import difflib
import hashlib
import json
import logging
import secrets
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import transformers
from transformers import PreTrainedTokenizerBase

from pifi_probe.errors import CheckpointError, CorruptFileError, PifiProbeError, TokenizerError, UnsupportedFamilyError
from pifi_probe.files import cache_root, existing
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.gguf_checkpoint import GGUFCheckpoint
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.small_files import source_of
from pifi_probe.layers.tokenizer_files import gguf_header_digest, gguf_header_file, tokenizer_folder
from pifi_probe.pretrained import open_tokenizer

__all__ = ["GivenTokenizer", "check_known", "check_tokenizer", "donor_tokenizer", "has_tokenizer", "load_tokenizer"]

GivenTokenizer: TypeAlias = str | Path | PreTrainedTokenizerBase  # a name, a folder, or the tokenizer itself
MOST_UNKNOWN, MANY_UNKNOWN = 0.95, 0.2  # shares of a task's tokens: refused, warned of
N_TEXTS = 100  # of a task, that are looked at

_log = logging.getLogger(__name__)
_FILES = frozenset(  # any of them may be a whole vocabulary; tokenizer_config.json alone is none
    {"tokenizer.json", "vocab.txt", "vocab.json", "vocab.bpe", "tekken.json", "tokenizer.model"}
    | {"spm.model", "spiece.model", "sentencepiece.bpe.model", "source.spm"}
)
# Without marks that a tokenizer may drop. One script is enough: few tokenizers know them all.
_SENTENCES = (
    "it was not a good film",
    "это был новый фильм",
    "这是一部好电影",
    "좋은 영화였다",
    "كان هذا فيلما جيدا",
    "とても良い映画でした",
    "यह एक अच्छी फिल्म थी",
    "ηταν μια καλη ταινια",
    "זה היה סרט טוב",
    "เป็นหนังที่ดี",
)
_ALIKE = 0.5  # of a sentence's letters, that must come back
_GIVE = 'give one with tokenizer="..." (a hub id, a folder, or a loaded tokenizer)'


def load_tokenizer(given: GivenTokenizer, *, n_rows: int | None = None, token: bool | None = None) -> Any:
    """Return a checked tokenizer with a padding token; no code of its repository is run.

    Parameters
    ----------
    given : str, Path or PreTrainedTokenizerBase
        A folder, a ``.gguf`` file, an embedded name, a name of `pifi_probe.models_table`, a hub id, or a tokenizer,
        which is copied.
    n_rows : int, optional
        Rows of the embedding that its tokens are looked up in.
    token : bool, optional
        False: the hub is asked without the user's token.

    Returns
    -------
    PreTrainedTokenizerBase

    Raises
    ------
    TokenizerError
        If there is none, it cannot be loaded, or does not pass `check_tokenizer`.
    """
    if isinstance(given, PreTrainedTokenizerBase):
        return check_tokenizer(copy.deepcopy(given), f"the given {type(given).__name__}", n_rows=n_rows)
    if not isinstance(given, str | Path) or not str(given):
        raise TokenizerError(f"a {type(given).__name__} is not a tokenizer", where=f"tokenizer={given!r}", next=_GIVE)
    source = source_of(str(given))
    if source.lower().endswith(".gguf"):
        return donor_tokenizer(open_checkpoint(source, token=token))
    return check_tokenizer(_from_transformers(source, token=token), source, n_rows=n_rows)


def donor_tokenizer(checkpoint: Checkpoint, given: GivenTokenizer | None = None) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a checkpoint, local or on the hub, that pads on the right; or the one that is `given`.

    Raises
    ------
    TokenizerError
        As `load_tokenizer`.
    """
    rows = getattr(checkpoint.config, "vocab_size", None)
    if given is not None:
        tokenizer = load_tokenizer(given)
    elif isinstance(checkpoint, GGUFCheckpoint):
        tokenizer = _from_gguf(checkpoint)
    else:
        try:
            folder = tokenizer_folder(checkpoint)
        except CheckpointError as error:
            raise TokenizerError(error.what, where=checkpoint.identity, next=f"{error.next}, or {_GIVE}") from error
        tokenizer = _from_transformers(str(folder))
    where = checkpoint.identity if given is None else f"the given tokenizer and {checkpoint.identity}"
    tokenizer = check_tokenizer(tokenizer, where, n_rows=rows, unused_may_exceed=True)
    tokenizer.padding_side = "right"
    return tokenizer


def has_tokenizer(names: frozenset[str]) -> bool:
    """Return whether a vocabulary is among the names of a model's files."""
    return not _FILES.isdisjoint(names)


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    where: str,
    *,
    n_rows: int | None = None,
    unused_may_exceed: bool = False,
    starts: bool = False,
) -> PreTrainedTokenizerBase:
    """Return the tokenizer, with a padding token, or say why it cannot be used.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Changed in one thing: it gets a padding token where it has none, which masks hide.
    where : str
        For messages.
    n_rows : int, optional
        Rows of the embedding. Every token must have one.
    unused_may_exceed : bool
        But for special tokens, which no text holds; a padding token without a row is replaced.
    starts : bool
        A text must begin with a special token, which is what ``pooling="cls"`` reads.

    Raises
    ------
    TokenizerError
        If the vocabulary is empty, tokens have no row, a special token is missing, or a sentence does not come back.
    """
    vocabulary = tokenizer.get_vocab()
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    if not any(token not in special and token.strip("\u2581\u0120 ") for token in vocabulary):
        raise _empty(where)
    if n_rows is not None:
        _check_rows(vocabulary, special if unused_may_exceed else set(), n_rows, where)
    if tokenizer.pad_token is None or (n_rows is not None and tokenizer.pad_token_id >= n_rows):
        stand_in = (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token)
        tokenizer.pad_token = next((token for token in stand_in if token is not None), None)
    if tokenizer.pad_token is None:
        raise TokenizerError(
            "the tokenizer has no padding token, and none that could stand in for it (end, unknown, start)",
            where=where,
            next="set tokenizer.pad_token to a token of its vocabulary, and give it with tokenizer=",
        )
    if max(_given_back(tokenizer, sentence) for sentence in _SENTENCES) < _ALIKE:
        raise TokenizerError(
            f"the tokenizer does not give a sentence back in any of {len(_SENTENCES)} scripts: it knows hardly any "
            f"words ({len(vocabulary):,} tokens)",
            where=where,
            next=f"check the tokenizer files, or {_GIVE}",
        )
    if starts and not _begins_special(tokenizer):
        raise TokenizerError(
            'pooling="cls" reads the special token at the start, and this tokenizer puts none there',
            where=where,
            next='use pooling="mean", or give a tokenizer that adds it with tokenizer=',
        )
    return tokenizer


def check_known(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], where: str) -> None:
    """Refuse texts that are nearly all unknown to a tokenizer, and warn of many unknown tokens.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    texts : sequence of str
        The first 100 are looked at.
    where : str
        For messages.

    Raises
    ------
    TokenizerError
        If more than 95 % of the tokens are the unknown token, or there is no token at all.
    """
    rows = [_ids(tokenizer, text) for text in texts[:N_TEXTS]]
    total = sum(map(len, rows))
    unknown = sum(row.count(tokenizer.unk_token_id) for row in rows)
    if not total:
        raise TokenizerError(
            f"the texts hold no token: {len(rows)} were looked at, and all are empty or blank",
            where=where,
            next="check the column that they are read from (text=)",
        )
    share = unknown / total
    if share > MOST_UNKNOWN:
        raise TokenizerError(
            f"{share:.0%} of the texts' tokens are unknown to the tokenizer: nothing can be learnt from them",
            where=where,
            next="take a model that was made for this language, or give its tokenizer with tokenizer=",
        )
    if share > MANY_UNKNOWN:
        _log.warning("%s: %.0f %% of the texts' tokens are unknown to the tokenizer", where, 100 * share)


def _check_rows(vocabulary: dict[str, int], spared: set[str], n_rows: int, where: str) -> None:
    beyond = sorted(token for token, index in vocabulary.items() if index >= n_rows and token not in spared)
    if beyond:
        raise TokenizerError(
            f"the tokenizer is larger than the embedding: {len(beyond):,} of its tokens have no row among the "
            f"{n_rows:,}, such as {beyond[0]!r}",
            where=where,
            next="give the tokenizer that belongs to the model with tokenizer=, or give the model as an object whose "
            "embedding was resized: model.resize_token_embeddings(len(tokenizer))",
        )


def _empty(where: str) -> TokenizerError:
    folder = existing(where)
    if folder is None or not folder.is_dir():
        return TokenizerError("the tokenizer's vocabulary is empty", where=where, next=_GIVE)
    names = frozenset(path.name for path in folder.iterdir())
    if has_tokenizer(names):
        what, advice = "the tokenizer's vocabulary is empty", "replace its files"
    else:
        what, advice = "the folder has no tokenizer files", "copy them into it (tokenizer.json and its settings)"
    return TokenizerError(what, where=where, next=f"{advice}, or {_GIVE}")


def _given_back(tokenizer: PreTrainedTokenizerBase, sentence: str) -> float:
    """Return how alike a sentence and its decoded tokens are: 1 when all letters come back, 0 when none does."""
    known = [index for index in _ids(tokenizer, sentence) if index != tokenizer.unk_token_id]
    back = tokenizer.decode(known, skip_special_tokens=True) if known else ""
    return difflib.SequenceMatcher(None, _letters(sentence), _letters(str(back)), autojunk=False).ratio()


def _letters(text: str) -> str:
    return "".join(mark for mark in unicodedata.normalize("NFKD", text).casefold() if mark.isalnum())


def _begins_special(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = _ids(tokenizer, "a", special=True)  # padding, which may be the same token as the start, is not among them
    return bool(ids) and ids[0] in tokenizer.all_special_ids


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, special: bool = False) -> list[int]:
    """Return the tokens of a text; a fast tokenizer's own settings of padding and truncation stay as they are."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return list(tokenizer(text, add_special_tokens=special)["input_ids"])
    encoding = backend.encode(text, add_special_tokens=special)
    return [index for index, there in zip(encoding.ids, encoding.attention_mask, strict=True) if there]


def _from_transformers(source: str, **options: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer, without running code of its repository.

    Raises
    ------
    TokenizerError
        Whatever transformers raises, which is of many types.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = open_tokenizer(source, **options)
    except UnsupportedFamilyError as error:  # it would have to bring its code
        raise TokenizerError(error.what, where=source, next=f"{error.next}, or {_GIVE}") from error
    except Exception as failed:
        if isinstance(failed, PifiProbeError) and not isinstance(failed, CorruptFileError):
            raise
        cause = failed.__cause__ if isinstance(failed.__cause__, Exception) else failed  # what transformers said
        folder = existing(source)
        if folder is not None and folder.is_dir() and not has_tokenizer(frozenset(p.name for p in folder.iterdir())):
            raise _empty(source) from cause
        raise TokenizerError(
            f"the tokenizer could not be loaded: {_reason(cause)}", where=source, next=_advice(cause, folder)
        ) from cause
    return tokenizer


def _reason(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _advice(error: Exception, folder: Path | None) -> str:
    if "tiktoken" in str(error) and folder is not None and (folder / "tokenizer.model").is_file():
        return f"install the package that reads it (pip install tiktoken), or {_GIVE}"
    check = "check the name and the connection" if folder is None else "check or replace the tokenizer files"
    return f"{check}, or {_GIVE}"


def _from_gguf(checkpoint: GGUFCheckpoint) -> PreTrainedTokenizerBase:
    """Convert the tokenizer of a GGUF file, which takes seconds, and keep the result in the cache."""
    state = [gguf_header_digest(checkpoint), transformers.__version__]
    kept = cache_root() / "tokenizers" / hashlib.sha256(json.dumps(state).encode()).hexdigest()[:32]
    if kept.is_dir():
        return _from_transformers(str(kept))
    with gguf_header_file(checkpoint) as path:
        tokenizer = _from_transformers(str(path.parent), gguf_file=path.name)
    partial = kept.with_name(f".{kept.name}.{secrets.token_hex(4)}")
    try:
        with contextlib.suppress(OSError):  # no cache, or another process was faster
            tokenizer.save_pretrained(partial)
            partial.replace(kept)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return tokenizer
