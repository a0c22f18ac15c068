# %% [markdown]
# # 14 Generation
#
# **You will show that** the block also fits between an encoder and a decoder that writes text, that the layer then sees
# a sequence and uses its attention, and that it runs once for each input, however much is written.
#
# **After this notebook you can**
#
# - say what changes when the layer gets all tokens instead of one vector;
# - show which positions a causal layer lets see each other;
# - count what generation costs the plugged layer;
# - compute the precision that BLEU is made of, and say below which score it means little.
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 30 | 2 of 3 | [03](03_pifi_from_scratch.ipynb), [04](04_one_token_through_a_layer.ipynb) | interface texts, 5 MB |

# %%
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap

import pifi_probe as pp
from pifi_probe import checks
from pifi_probe.plugin import tokenizer_for
from pifi_probe.reporting.looks import COLOURS

checks.start(
    "14", seed=0, needs=("minilm-l6", "smollm2-135m", "ui-strings-en-de")
)

# %%
checks.pifi_block("encoder", "layer", "head")

# %% [markdown]
# ## 1. A decoder instead of a head
#
# **Why.** A classifier needs one vector for a text. A decoder attends to *all* of the encoder's vectors while it writes
# (cross-attention), so all of them pass through the block:
#
# $$H = \mathrm{Enc}(\text{text}) \in \mathbb{R}^{T \times d_s}, \qquad
# \tilde H = W_{out}\,\mathrm{Layer}(W_{in} H) \in \mathbb{R}^{T \times d_s}, \qquad
# p(y_i \mid y_{<i}, \text{text}) = \mathrm{Dec}(y_{<i}, \tilde H)$$
#
# With a pretrained encoder-decoder (T5, BART) the decoder is there. With an encoder alone, `pp.plug_in` adds a new one of
# two layers, whose token embeddings start as the encoder's.
#
# **Predict.** The task is to translate short interface texts. What share of the model's weights train?

# %% tags=["guess"]
guess = None  # per cent

# %%
task = pp.load_task("ui-strings-en-de")
model = pp.plug_in(
    "minilm-l6", "smollm2-135m[-1]", task=task, wiring="matched", seed=0
)
trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
total = sum(p.numel() for p in model.parameters())
print(task)
checks.reveal(
    guess, 100 * trained / total, "% of the weights", ".0f", live=False
)
print("the layer is fed:", model.config.feed, " its mask:", model.config.mask)

# %% [markdown]
# **Read.** 92 % of the weights: nearly all but the layer, the new decoder among them. And `feed="sequence"`: for this kind of
# task the library passes all tokens. So nothing can be reduced any more; queries, keys and positions are needed again. How
# many weights are these?

# %%
layer = model.plugin.layers[0]
reduced = pp.reduce(pp.extract("smollm2-135m[-1]"))
print(
    f"the plugged layer:           {layer.n_params / 1e6:.2f} million weights"
)
print(f"needed for one token alone:  {reduced.n_params / 1e6:.2f} million")

# %% [markdown]
# **Checkpoint.** What goes to the decoder has the shape of what the encoder gave:

# %%
tokenizer = tokenizer_for(model)
texts = list(task.splits["train"].texts[:4])
batch = tokenizer(texts, padding=True, return_tensors="pt")
model.eval()
with torch.no_grad():
    states, mask = model.source(**batch)
assert states.last_hidden_state.shape == (*batch["input_ids"].shape, 384)
print(
    "to the decoder:",
    tuple(states.last_hidden_state.shape),
    "mask:",
    tuple(mask.shape),
)

# %% [markdown]
# ## 2. Who sees whom
#
# **Why.** The encoder looks both ways. The layer comes from a model that looks back only: in it, position $i$ takes a
# weighted mean over positions $j \le i$,
#
# $$A_{ij} = 0 \ \text{ for } j > i, \qquad A \in \mathbb{R}^{T \times T}$$
#
# **Predict.** We change the *last* of 6 vectors that enter the plugged layer. Which of the 6 outputs change?

# %% tags=["guess"]
guess = None  # a list of positions, 0 to 5

# %%
x = torch.randn(1, 6, 576)  # (batch, seq, d_llm)
other = x.clone()
other[:, 5] += 1.0
with torch.no_grad():
    influence = torch.stack(
        [
            (
                layer(x)
                - layer(
                    x.index_add(1, torch.tensor([j]), torch.ones(1, 1, 576))
                )
            )
            .abs()
            .amax(-1)[0]
            for j in range(6)
        ],
        dim=1,
    )  # (output i, changed input j)
changed = [i for i in range(6) if influence[i, 5] > 1e-4]
checks.reveal(guess, f"outputs {changed}", live=False)

# %% alt="A grid of six by six: output position against changed input position. Cells on and below the diagonal are filled, cells above it are empty."
figure, axes = plt.subplots(figsize=(3.2, 3.0))
axes.imshow(influence > 1e-4, cmap=ListedColormap(["none", COLOURS[0]]))
axes.grid(False)
axes.set(
    xlabel="changed input", ylabel="output", xticks=range(6), yticks=range(6)
)
plt.show()

# %%
assert torch.equal(influence > 1e-4, torch.ones(6, 6).tril().bool())
print(f"largest influence of a later input: ≈{influence.triu(1).max():.0e}")

# %% [markdown]
# **Read.** Only the last output changes, so it is the only one that knows the whole text through the *layer*. Through the
# encoder all of them do. Whether the causal mask is right for a layer after an encoder is open; `mask="bidirectional"` is the
# other choice, and a search can compare them.
#
# ## 3. What writing costs
#
# **Why.** Generation calls the decoder for each token and each beam. Encoder and layer depend on the *input* only:
#
# $$n_{\text{calls}}(\mathrm{Dec}) = n_{\text{tokens}}, \quad\text{each on } n_{\text{texts}} \cdot n_{\text{beams}} \text{ rows}, \qquad n_{\text{calls}}(\mathrm{Layer}) = 1$$
#
# **Predict.** With 4 beams and 12 new tokens, how often is the frozen layer called?

# %% tags=["guess"]
guess = None  # calls

# %%
calls = {"layer": 0, "decoder": 0}
hooks = [
    part.register_forward_hook(
        lambda *_, name=name: calls.__setitem__(name, calls[name] + 1)
    )
    for name, part in (("layer", layer), ("decoder", model.seq2seq.decoder))
]
written = model.generate(
    **batch, num_beams=4, max_new_tokens=12, min_new_tokens=12
)
for hook in hooks:
    hook.remove()
checks.reveal(guess, calls["layer"], "call of the layer", live=False)
print("calls of the decoder:", calls["decoder"])

# %% [markdown]
# **Checkpoint.** However much is written, the layer is called once:

# %%
assert calls["layer"] == 1 and calls["decoder"] >= 11
print("one call of the layer for", written.shape[1] - 1, "tokens with 4 beams")

# %% [markdown]
# **Read.** One call of the layer, twelve of the decoder: in generation the block costs next to nothing, because it is paid
# once for each input.
#
# ## 4. Does it learn?
#
# **Why.** Training gives the decoder the target's *own* earlier tokens (teacher forcing) and lowers the mean negative
# log-likelihood of the next one:
#
# $$\mathcal{L} = -\frac{1}{\sum_b T_b} \sum_b \sum_i \log p(y_i \mid y_{<i}, \text{text}_b)$$
#
# Four sentences are enough to see whether gradients reach everything: a model that cannot learn four by heart is
# broken.
#
# **Predict.** Is the loss halved within ten steps?

# %% tags=["guess"]
guess = None  # "yes" or "no"

# %%
targets = tokenizer(
    list(task.splits["train"].labels[:4]),
    padding=True,
    truncation=True,
    max_length=16,
    return_tensors="pt",
)
labels = targets["input_ids"].masked_fill(targets["attention_mask"] == 0, -100)
optimizer = torch.optim.Adam(
    (p for p in model.parameters() if p.requires_grad), lr=5e-4
)
before = layer.digest()
losses = []
for _ in range(10):
    loss = model(**batch, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
assert losses[-1] < losses[0]
checks.reveal(guess, "yes" if losses[-1] < losses[0] / 2 else "no")
print(f"loss ≈{losses[0]:.1f} -> ≈{losses[-1]:.1f} nats")

# %% [markdown]
# **Checkpoint.** The loss starts near the logarithm of the vocabulary (guessing among all tokens) and falls; the layer
# stays as it was:

# %%
assert 9.0 < losses[0] < 13.0
assert losses[-1] < losses[0] / 2
assert layer.digest() == before
print("the loss fell to less than half; the layer is unchanged")

# %% [markdown]
# **Read.** The loss falls from about eleven nats to about a tenth of one. This proves that the parts work together, and
# nothing about translation. There is also a limit in the encoder's own vocabulary. What does it make of a German word?

# %%
word = "Ungültig"
ids = tokenizer(word, add_special_tokens=False)["input_ids"]
print(word, "->", tokenizer.decode(ids))

# %% [markdown]
# A decoder with this vocabulary can never write an umlaut or a capital letter: with MiniLM's tokenizer a perfect German
# translation is impossible. A fair comparison needs a model made for writing; what can be compared is one arm with
# another, under the same limits.
#
# ## 5. What was measured
#
# **Why.** The paper reports gains for generation with T5 and BART. The recorded experiment has the small encoder, a new
# decoder, and the arms that can tell *why*: an early layer, one of the middle, the last one, and a random one.
#
# **Predict.** The last layer is better than a random layer of its shape. Does that hold, not hold, or stay open?

# %% tags=["guess"]
guess = None  # "holds", "does not hold" or "open"

# %%
record = checks.experiment("nlg")
verdict = record.findings[3]["verdict"].split(":")[0]
checks.reveal(guess, verdict, live=False)
record

# %% alt="For each claim about generation that was measured, the difference in points of chrF with its 95 % interval, and a line at zero."
record.figure()

# %%
for block, found in record.summary.get("comparisons", {}).items():
    print(block, "has", len(found["rows"]), "arms or tests compared")
print("claims measured:", len(record.measured), "of", len(record.findings))

# %% [markdown]
# These are the intervals of the experiment's recording, each arm by its own seeds;
# [Decided then, decided now](../book/decided.md) has what all runs together say.
#
# **Read.** All four claims are open: every interval includes zero, that of the last layer over a random one from about -7 to
# +16 points. Points are hundredths of chrF, a score of shared letter sequences that still moves where BLEU is near zero. Even
# an interval without zero compares two poor translators here. What does such a record stand for? It says so itself:

# %%
checks.say(record.summary.get("stands_for", "nothing is recorded yet"))

# %% [markdown]
# The command that makes it again (hours on two cores; without `--data` the part that needs a file of yours is left out):
#
# ```bash
# pifi-probe reproduce nlg --scale small --data my-texts
# ```
#
# ## Exercises
#
# **Exercise 14.1.** What the decoder is fed in training: the start token, then the labels without their last one; -100
# becomes the padding token.


# %% tags=["exercise"]
def decoder_inputs(labels, start, pad):
    return ...  # (batch, target_seq)


checks.check_decoder_inputs(decoder_inputs)


# %% tags=["solution"]
def decoder_inputs(labels, start, pad):
    shifted = labels.roll(1, dims=1)  # (batch, target_seq), a copy
    shifted[:, 0] = start
    return shifted.masked_fill(shifted == -100, pad)


checks.check_decoder_inputs(decoder_inputs)

# %% [markdown]
# **Exercise 14.2.** The precision that BLEU multiplies for n = 1 to 4: the share of the written n-grams that are in the
# target, each counted at most as often as it is there. Texts are lists of words.


# %% tags=["exercise"]
def clipped_precision(written, target, n):
    return ...  # a number from 0 to 1


checks.check_clipped_precision(clipped_precision)


# %% tags=["solution"]
def clipped_precision(written, target, n):
    from collections import Counter

    grams = [
        Counter(zip(*(words[i:] for i in range(n)), strict=False))
        for words in (written, target)
    ]
    return (grams[0] & grams[1]).total() / grams[0].total()


checks.check_clipped_precision(clipped_precision)

# %% [markdown]
# ## What this does not show
#
# - Translation quality. Two new decoder layers and a few hundred short texts do not make a translator.
# - Whether the layer helps T5 or BART, whose decoders are trained: that is the same command with `--scale paper`, and a GPU.
# - Fluency or truth. Overlap with one target sees neither.
#
# ## Quiz

# %%
checks.quiz("14")

# %% [markdown]
# ## Summary
#
# - Between encoder and decoder the layer gets the whole sequence: its attention works again, causally, and nothing can be
#   reduced.
# - Encoder and layer run once for each input; only the decoder runs for each token.
# - The claim about generation is read with the random layer next to it, and with the score's own level in mind.
#
# **Words:** [encoder-decoder](../book/glossary.md#encoder-decoder) ·
# [cross-attention](../book/glossary.md#cross-attention) · [teacher forcing](../book/glossary.md#teacher-forcing) ·
# [BLEU](../book/glossary.md#bleu)
#
# **Next:** [15 Hard benchmarks](15_hard_benchmarks.ipynb)
