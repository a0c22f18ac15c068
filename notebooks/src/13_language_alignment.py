# %% [markdown]
# # 13 Language alignment
#
# **You will show that** how well a language model knows a language can be measured before any training, in three ways,
# and that only a difference of differences is a fair test of whether this knowledge reaches a task.
#
# **After this notebook you can**
#
# - measure how well a tokenizer fits a language, on texts that say the same;
# - measure how well a model knows a language, in bits per byte, so that tokenizers can be compared;
# - say which way a language can reach the frozen layer, and which way it cannot;
# - read an experiment about language without being misled by two models that differ in more than language.
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 30 | 2 of 3 | [03](03_pifi_from_scratch.ipynb), [04](04_one_token_through_a_layer.ipynb) | texts in four languages, 5 MB |

# %%
import math

from matplotlib import pyplot as plt
from transformers import AutoTokenizer

import pifi_probe as pp
from pifi_probe import checks
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.tokenizer import donor_tokenizer

checks.start(
    "13", seed=0, needs=("minilm-l6", "smollm2-135m", "ui-strings-en-ko")
)

# %%
checks.pifi_block("encoder", "layer")

# %% [markdown]
# ## 1. What a sentence costs in tokens
#
# **Why.** A tokenizer is made from texts. What was frequent there becomes one token; what was rare is cut into pieces, in
# the end into single bytes. Its *fertility* in a language $\ell$ is
#
# $$F(\ell) = 100 \cdot \frac{\sum_t n_{\text{tokens}}(t)}{\sum_t n_{\text{characters}}(t)}$$
#
# A Korean character says more than a Latin letter, so we compare texts that say the *same*: the interface of one program,
# in English and in translation. Then tokens can simply be added up.
#
# **Predict.** For the same content, how many times as many tokens as in English does SmolLM2 need in Korean?

# %% tags=["guess"]
guess = None  # times

# %%
N_TEXTS = 120
languages = {"German": "de", "Korean": "ko", "Chinese": "zh"}
splits = {
    name: pp.load_task(f"ui-strings-en-{code}")
    .splits["test"]
    .take(range(N_TEXTS))
    for name, code in languages.items()
}  # texts: English, labels: the translation

tokenizers = {
    "MiniLM": AutoTokenizer.from_pretrained(pp.assets.path("minilm-l6")),
    "SmolLM2": donor_tokenizer(open_checkpoint("smollm2-135m")),
}


def n_tokens(tokenizer, texts):
    return sum(
        len(tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in texts
    )


times = {
    model: {
        name: n_tokens(tokenizer, split.labels)
        / n_tokens(tokenizer, split.texts)
        for name, split in splits.items()
    }
    for model, tokenizer in tokenizers.items()
}
checks.reveal(
    guess, times["SmolLM2"]["Korean"], "times the tokens", ".2f", live=False
)
for model, own in times.items():
    shown = ", ".join(f"{name} {value:.2f}" for name, value in own.items())
    print(f"{model}: times the tokens of the same in English: {shown}")

# %% alt="Grouped bars: times the tokens of the same content in English, for German, Korean and Chinese, by the tokenizers of MiniLM and SmolLM2; a line marks one."
figure, axes = plt.subplots(figsize=(6, 2.8))
for place, model in enumerate(times):
    x = [i + 0.4 * place for i in range(len(languages))]
    axes.bar(x, times[model].values(), width=0.38, label=model)
axes.axhline(1, color="black", linewidth=1)
axes.set_xticks([i + 0.2 for i in range(len(languages))], list(languages))
axes.set(ylabel="times the English tokens")
axes.legend(frameon=False)
plt.show()

# %%
most = max(times["SmolLM2"], key=times["SmolLM2"].__getitem__)
print("the most expensive language for SmolLM2:", most)

# %% [markdown]
# **Read.** In Korean SmolLM2 needs almost five times as many tokens as in English: both tokenizers were made for English. But
# few tokens are not always a good sign: an encoder may simply give up. How much of each language does MiniLM replace by
# `[UNK]`, the token for "unknown"?

# %%
mini = tokenizers["MiniLM"]
unknown = {}
for name, split in splits.items():
    ids = [
        token
        for text in split.labels
        for token in mini(text, add_special_tokens=False)["input_ids"]
    ]
    unknown[name] = ids.count(mini.unk_token_id) / len(ids)
    print(f"{name}: {unknown[name]:.0%} of MiniLM's tokens are [UNK]")

# %% [markdown]
# **Checkpoint.** MiniLM drops two thirds of the Chinese. What the encoder does not read, no layer after it can bring back.
# German, in Latin letters, is read whole; whether the *model* understands it is another matter.

# %%
assert unknown["German"] < 0.01
assert unknown["Chinese"] > unknown["German"]
print(f"read whole: German; dropped of Chinese: {unknown['Chinese']:.0%}")

# %% [markdown]
# ## 2. What the whole language model knows
#
# **Why.** A language model says how surprised it is by a text: its loss $L$, in nats per token. Two models with different
# tokenizers have different tokens, so losses per token cannot be compared. Bytes are the same for every model:
#
# $$\text{bits per byte} = \frac{L \cdot n_{\text{predicted}}}{\ln 2 \cdot n_{\text{bytes}}}$$
#
# Bytes again differ between *scripts*: one Korean syllable takes three. So for parallel texts we use the surprise
# about the same content, in bits per *message*.
#
# **Predict.** Order English, German, Korean and Chinese by how much one message surprises SmolLM2.

# %% tags=["guess"]
guess = None  # four names, least surprising first

# %%
from pifi_probe.experiments.whole import load_whole

whole = load_whole("smollm2-135m")
tokenizer = tokenizers["SmolLM2"]


def bits_per_message(texts):
    """Bits that the model needs on top of each text's first token."""
    kept = [text for text in texts if n_tokens(tokenizer, [text]) > 1]
    losses = whole.text_losses(kept)  # nats per token
    counts = [n_tokens(tokenizer, [text]) - 1 for text in kept]
    nats = sum(loss * n for loss, n in zip(losses, counts, strict=True))
    return nats / math.log(2) / len(texts)


few = range(12)
bits = {"English": bits_per_message(splits["Korean"].take(few).texts)}
for name, split in splits.items():
    bits[name] = bits_per_message(split.take(few).labels)

checks.reveal(guess, ", ".join(sorted(bits, key=bits.get)))
for name in bits:
    times_english = bits[name] / bits["English"]
    print(f"{name}: ≈{times_english:.1f} times the bits of English")

# %% [markdown]
# **Checkpoint.** The same message is more surprising in each of the other languages. The numbers come from a run on
# your machine, so an assertion holds them to a band.

# %%
for name in languages:
    assert 1.1 < bits[name] / bits["English"] < 20
print("the least surprising:", min(bits, key=bits.__getitem__))

# %% [markdown]
# **Read.** The same message costs more than twice as many bits in German or Korean as in English, and in Chinese about one and a
# half times as many: SmolLM2 is an English model, by its tokenizer and by its loss. We know this *before* any task, from
# texts without labels. For a task in another language, measure candidates like this first: it takes seconds. Does what the
# model lacks reach the task at all?
#
# ## 3. By which way can a language reach the layer?
#
# **Why.** PiFi leaves out the model's tokenizer and its embeddings. The text goes through the *encoder's* tokenizer, and
# the frozen layer gets $x = W_{in} h$: a vector that never was a token of the language model.
#
# $$\text{text} \to \mathrm{Enc} \to h \in \mathbb{R}^{d_s} \to W_{in} h \in \mathbb{R}^{d} \to \mathrm{Layer} \to \cdots$$
#
# **Predict.** Where does SmolLM2 keep more weights: in its embeddings, which PiFi leaves out, or in one layer?

# %% tags=["guess"]
guess = None  # "embeddings" or "layer"

# %%
embeddings = whole.model.get_input_embeddings().weight.numel()
layer = pp.extract("smollm2-135m[-1]")
reduced = pp.reduce(layer)
more = "embeddings" if embeddings > layer.n_params else "layer"
checks.reveal(guess, more, live=False)
print(f"embeddings:           {embeddings / 1e6:5.1f} million weights")
print(f"one layer:            {layer.n_params / 1e6:5.1f} million")
print(f"what one token needs: {reduced.n_params / 1e6:5.1f} million")

# %% [markdown]
# **Read.** The embeddings are eight times as large as a layer. Most of what is obviously about a *language*, its words,
# stays behind. What is left is what a layer does to a vector: its values and its MLP. So two hypotheses are open. Either a
# layer from a model of the right language works better because directions in its stream mean something in that language; or
# what works in a layer has little to do with language, because the encoder has translated already. Which experiment would
# tell the two apart?
#
# ## 4. A fair test
#
# **Why.** A Korean model's layer beats an English one's on Korean. Because of Korean? The two models also differ in size,
# training and quality. If the better model is better *everywhere*, it is better on English, too. So compare the
# advantage in the language with the advantage elsewhere:
#
# $$\Delta^2 = \big(A^{\text{ko}}_{\text{multi}} - A^{\text{ko}}_{\text{en}}\big) - \big(A^{\text{en}}_{\text{multi}} - A^{\text{en}}_{\text{en}}\big)$$
#
# The two test sets are different texts, so their errors are independent and the half-widths $w$ of the intervals join
# by squares: $w = \sqrt{w_1^2 + w_2^2}$.
#
# **Predict.** The paper reports a gain from a Korean model's layer on Korean reviews. Here: a multilingual model's layer
# against an English one's. Which verdict do you expect on the difference of differences for Korean: holds, does not
# hold, or open?

# %% tags=["guess"]
guess = None  # "holds", "does not hold" or "open"

# %%
record = checks.experiment("language-alignment")
verdict = record.findings[1]["verdict"].split(":")[0]
checks.reveal(guess, verdict, live=False)
record

# %% [markdown]
# These are the intervals of the experiment's recording, each arm by its own seeds;
# [Decided then, decided now](../book/decided.md) has what all runs together say.
#
# The same as a picture:

# %% alt="For each claim about language that was measured, the difference in points with its 95 % interval, and a line at zero."
record.figure()

# %%
decided = [one for one in record.measured if one["low"] > 0 or one["high"] < 0]
print(len(decided), "of", len(record.measured), "intervals leave out zero")

# %% [markdown]
# **Read.** All five are open: every interval includes zero, the second one from about -32 to +55 points. An interval that
# includes zero shows no difference, which is not the same as showing that there is none. And look at the second claim next to
# the first: a difference on Korean alone is not yet about Korean. What would narrow the second one?
#
# The record also has the tokenizers of its models, on the texts of its tasks:

# %%
for row in record.extra("tokenizer fertility"):
    if row["texts"]:
        rate = row["tokens per 100 characters"]
        print(
            f"{row['language']} {row['model']:24s} {rate:6.1f} per 100 characters"
        )
print(
    "languages in the record:",
    len({row["language"] for row in record.extra("tokenizer fertility")}),
)

# %% [markdown]
# The command that makes the record again (hours on two cores; `--data` is the folder of your own files for Korean reviews
# and for tweets, and the multilingual model's terms have to be accepted once):
#
# ```bash
# pifi-probe reproduce language-alignment --scale small --data my-texts
# ```
#
# ## Exercises
#
# **Exercise 13.1.** Tokens per 100 characters of all texts together.


# %% tags=["exercise"]
def fertility(n_tokens, texts):
    return ...  # a number


checks.check_fertility(fertility)


# %% tags=["solution"]
def fertility(n_tokens, texts):
    return 100 * sum(n_tokens) / sum(len(text) for text in texts)


checks.check_fertility(fertility)

# %% [markdown]
# **Exercise 13.2.** From a mean loss in nats per token to bits per byte of UTF-8.


# %% tags=["exercise"]
def bits_per_byte(loss, n_tokens, text):
    return ...  # a number


checks.check_bits_per_byte(bits_per_byte)


# %% tags=["solution"]
def bits_per_byte(loss, n_tokens, text):
    return loss * n_tokens / math.log(2) / len(text.encode())


checks.check_bits_per_byte(bits_per_byte)

# %% [markdown]
# **Exercise 13.3.** `here` and `there` are (mean, low, high) of two differences on different test sets; intervals are
# symmetric. Give (mean, low, high) of their difference.


# %% tags=["exercise"]
def difference_of_differences(here, there):
    return ...  # mean, low, high


checks.check_difference_of_differences(difference_of_differences)


# %% tags=["solution"]
def difference_of_differences(here, there):
    mean = here[0] - there[0]
    half = math.hypot((here[2] - here[1]) / 2, (there[2] - there[1]) / 2)
    return mean, mean - half, mean + half


checks.check_difference_of_differences(difference_of_differences)

# %% [markdown]
# ## What this does not show
#
# - Two donors are two examples, not "English models" and "multilingual models". Even a difference of differences compares
#   these two; it takes several donors of each kind to say anything about kinds.
# - The test sets of two languages are not translations of each other, and may be unlike in difficulty. A task near its
#   ceiling has no room for a gain.
# - Interface texts are short and technical: a tokenizer may look better or worse on novels.
#
# ## Quiz

# %%
checks.quiz("13")

# %% [markdown]
# ## Summary
#
# - Fertility and bits per message show a model's language without labels and without training.
# - PiFi leaves out tokenizer and embeddings: a language reaches the layer only as a direction of $h$.
# - "Better on Korean" is evidence about Korean only after taking off "better on English".
#
# **Words:** [tokenizer fertility](../book/glossary.md#tokenizer-fertility) ·
# [bits per byte](../book/glossary.md#bits-per-byte) · [donor](../book/glossary.md#donor) ·
# [difference of differences](../book/glossary.md#difference-of-differences) · [interval](../book/glossary.md#interval)
#
# **Next:** [14 Generation](14_generation.ipynb)
