# %% [markdown]
# # 04 One token through a layer
#
# **You will show that** a layer that sees one token needs neither queries nor keys nor positions, and that both
# projections can be folded into it without changing a single prediction.
#
# **After this notebook you can**
#
# - say what attention is for a sequence of one token, and why;
# - reduce a layer to what one token needs, exactly;
# - fold $W_{in}$ and $W_{out}$ into the layer for deployment, and say when that pays;
# - check that nothing changed.
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 25 | 3 of 3 | [01](01_what_a_layer_does.ipynb), [03](03_pifi_from_scratch.ipynb) | nothing new |

# %%
import torch

import pifi_probe as pp
from pifi_probe import checks

checks.start("04", seed=0)

# %%
checks.pifi_block("L_in", "layer", "L_out")

# %% [markdown]
# ## 1. A softmax over one number
#
# **Why.** PiFi gives the layer the pooled vector: a sequence of one token. Attention then has one query, one key and one
# value, and
#
# $$A = \mathrm{softmax}\!\left(\tfrac{q k^\top}{\sqrt{d_h}}\right) = \frac{e^{s}}{e^{s}} = 1
# \qquad\Rightarrow\qquad \mathrm{Attn}(n) = W_o\,\mathrm{rep}(W_v\,n)$$
#
# whatever $q$ and $k$ are. Here $n \in \mathbb{R}^d$ is the normed vector, $W_v$ is $(n_{kv} d_h, d)$, $W_o$ is
# $(d, n_h d_h)$, and $\mathrm{rep}$ repeats each key-value head for the query heads that share it.
#
# **Predict.** We replace the query and key matrices by noise. How many of the outputs change?

# %% tags=["guess"]
guess = None  # per cent

# %%
layer = pp.extract("smollm2-135m[-1]")
noisy = pp.extract("smollm2-135m[-1]")
with torch.no_grad():
    noisy.block.self_attn.q_proj.weight.normal_()
    noisy.block.self_attn.k_proj.weight.normal_()

x = torch.randn(4, 1, 576)  # (batch, 1, d_llm)
change = (layer(x) - noisy(x)).abs().max()
assert change < 1e-5
changed = 100 * ((layer(x) - noisy(x)).abs() > 1e-4).float().mean()
checks.reveal(guess, float(changed), "% of the outputs", ".0f", live=False)
print(f"largest change of any output: ≈{change:.0e}")

# %% [markdown]
# **Read.** None of them. Now the same with two tokens:

# %%
pair = torch.randn(4, 2, 576)  # (batch, 2, d_llm)
first, second = (layer(pair) - noisy(pair)).abs().amax(dim=(0, 2))
assert first < 1e-4 < 1e-2 < second
print(
    f"two tokens: the first output changes by ≈{first:.0e}, the second by ≈{second:.1f}"
)

# %% [markdown]
# **Read.** The first of two tokens still sees only itself. From the second on, queries and keys matter.
#
# ## 2. Reduce the layer
#
# **Why.** What does not matter does not have to be kept. `pp.reduce` drops $W_q$ and $W_k$, and adds up the columns of $W_o$
# that read the same repeated value:
#
# $$\bar W_o[:, g] = \sum_{r=1}^{n_h / n_{kv}} W_o[:, (g, r)] \qquad \bar W_o \in \mathbb{R}^{d \times n_{kv} d_h}
# \qquad \mathrm{Attn}(n) = \bar W_o W_v\, n$$
#
# **Predict.** How many of the layer's weights are left?

# %% tags=["guess"]
guess = None  # millions of weights

# %%
reduced = pp.reduce(layer)
checks.reveal(
    guess, reduced.n_params / 1e6, "million weights", ".2f", live=False
)
print(f"the whole layer has {layer.n_params / 1e6:.2f} million")

# %% [markdown]
# **Checkpoint.** Reduction is exact, and a reduced layer refuses what it cannot do:

# %%
assert (layer(x) - reduced(x)).abs().max() < 1e-4
try:
    reduced(pair)
except pp.errors.FrozenLayerError as error:
    checks.say(error)

# %% [markdown]
# Where did the weights go?

# %% alt="Two horizontal bars, the full layer and the reduced one, divided into query and key, value and output, and MLP; the reduced bar has no part for query and key and a smaller part for value and output."
from matplotlib import pyplot as plt

full, small = layer.block.self_attn, reduced.block.self_attn
size = lambda *parts: sum(part.weight.numel() for part in parts) / 1e6
shares = {
    "query, key": (size(full.q_proj, full.k_proj), 0),
    "value, output": (
        size(full.v_proj, full.o_proj),
        size(small.value, small.output),
    ),
    "MLP": (
        size(*(m for m in layer.block.mlp.children() if hasattr(m, "weight"))),
    )
    * 2,
}
figure, axes = plt.subplots(figsize=(6, 1.8))
left = [0.0, 0.0]
for name, widths in shares.items():
    axes.barh(["full", "reduced"], widths, left=left, label=name)
    left = [a + b for a, b in zip(left, widths, strict=True)]
axes.set(xlabel="million weights")
axes.legend(
    loc="upper center", bbox_to_anchor=(0.5, 1.35), ncols=3, frameon=False
)
plt.show()

# %%
for name, (before, after) in shares.items():
    print(f"{name:14s} {before:.2f} -> {after:.2f} million")

# %% [markdown]
# **Read.** Four of five weights are left, and the MLP is untouched. With the paper's wiring `pp.plug_in` reduces the layer
# for you, which is why the library's model in chapter 03 was smaller than ours.
#
# ## 3. Fold the projections in
#
# **Why.** For deployment nothing is trained any more: $W_{in}$, the layer's matrices and $W_{out}$ are all fixed, so
# products of neighbours can be computed once. The norm between them is in the way, but it only divides by a length, and
# lengths survive a rotation: with the QR decomposition $W_{in} = Q R$,
#
# $$\lVert W_{in} h \rVert = \lVert R\,h \rVert, \qquad R \in \mathbb{R}^{d_s \times d_s}$$
#
# so the layer becomes a gated MLP on $z = [\,h;\ h / \lVert W_{in} h\rVert;\ 1\,] \in \mathbb{R}^{2 d_s + 1}$: every
# matrix is multiplied out to read $z$ and to write in the encoder's width.
#
# **Predict.** When is the folded form *smaller*: when the encoder is narrow compared with the language model, or wide?

# %% tags=["guess"]
guess = None  # "narrow" or "wide"

# %%
task = pp.load_task("movie-reviews")
model = pp.plug_in("minilm-l6", layer, task=task, wiring="pifi")
report = model.fold(form="z").fold_report
pays = report.params_after < report.params_before  # for so wide an encoder
checks.reveal(guess, "wide" if pays else "narrow", live=False)
print(
    "d_slm = 384, d_llm = 576:",
    f"{report.params_before / 1e6:.1f} -> {report.params_after / 1e6:.1f} million weights",
)
print("what fold() chooses here:", model.fold().fold_report.form)

# %% [markdown]
# **Read.** Here, where the encoder is two thirds as wide as the language model, folding would *add* a sixth to the weights:
# $z$ has $2 \cdot 384 + 1$ entries, more than the 576 of the layer. `model.fold()` therefore keeps the grouped form. With
# BERT and an 8-billion-weight model, $2 \cdot 768 + 1$ is far below 4,096. How much does folding save there? Count it for
# a layer of Llama's shape:


# %%
def plugin_weights(d_slm, d_llm, d_mlp, d_value):
    """Weights of L_in, the reduced layer and L_out; and of the folded form."""
    apart = (
        2 * d_slm * d_llm + 2 * d_value * d_llm + 3 * d_llm * d_mlp + 2 * d_llm
    )
    z = 2 * d_slm + 1
    folded = (
        d_slm**2
        + min(z, d_llm) * z
        + (2 * d_mlp + d_slm) * (z + 1)
        + d_mlp * d_slm
    )
    return apart, folded


assert plugin_weights(384, 576, 1536, 192) == (
    report.params_before,
    report.params_after,
)
for name, sizes in {
    "MiniLM + SmolLM2": (384, 576, 1536, 192),
    "BERT + Llama-3.1-8B": (768, 4096, 14336, 1024),
}.items():
    apart, folded = plugin_weights(*sizes)
    print(
        f"{name:20s} {apart / 1e6:6.1f} -> {folded / 1e6:5.1f} million, {folded / apart:.2f} times"
    )

# %% [markdown]
# **Checkpoint.** Folded or not, the model gives the same answers:

# %%
from pifi_probe.plugin import tokenizer_for

tokens = tokenizer_for(model)(
    ["A film to see twice.", "Two hours lost."],
    padding=True,
    return_tensors="pt",
)
with torch.no_grad():
    logits = model(**tokens).logits  # (batch, n_labels)
    for form in ("grouped", "z"):
        difference = (
            (model.fold(form=form)(**tokens).logits - logits).abs().max()
        )
        assert difference < 1e-3
        print(f"{form:8s} largest difference of the logits: ≈{difference:.0e}")

# %% [markdown]
# ## 4. What is left of the language model?
#
# **Why.** Written as one formula, the plugged layer is the encoder's vector, two linear maps of it, and a gated MLP.
# There is no attention in it, and no context: whatever the layer adds, it adds with its values and its MLP.
#
# $$\mathrm{Layer}(x) = x + \bar W_o W_v\, n(x) + \mathrm{MLP}\big(n'(x + \bar W_o W_v\, n(x))\big)$$
#
# We compute it in five lines and compare.

# %%
block = layer.block
with torch.no_grad():
    n = block.input_layernorm(x[:, 0])  # (batch, d_llm)
    value = (
        (n @ full.v_proj.weight.T)
        .unflatten(-1, (3, 64))
        .repeat_interleave(3, dim=-2)
        .flatten(-2)
    )
    middle = x[:, 0] + value @ full.o_proj.weight.T  # (batch, d_llm)
    by_hand = middle + block.mlp(
        block.post_attention_layernorm(middle)
    )  # (batch, d_llm)
difference = (by_hand - layer(x)[:, 0]).abs().max()
assert difference < 1e-4
print(f"five lines and the layer differ by at most ≈{difference:.0e}")

# %% [markdown]
# **Read.** The difference is rounding. Keep this picture in mind for the chapters on *which* layer to take: layers are
# compared by their values and their MLPs, not by what their heads look at.
#
# ## Exercises
#
# **Exercise 04.1.** Attention over one token. `group` query heads share one key-value head of width `d_head`.


# %% tags=["exercise"]
def one_token_attention(x, W_v, W_o, group, d_head):
    return ...  # (batch, d_llm)


checks.check_one_token_attention(one_token_attention)


# %% tags=["solution"]
def one_token_attention(x, W_v, W_o, group, d_head):
    heads = (x @ W_v.T).unflatten(-1, (-1, d_head))  # (batch, n_kv, d_head)
    return (
        heads.repeat_interleave(group, dim=-2).flatten(-2) @ W_o.T
    )  # (batch, d_llm)


checks.check_one_token_attention(one_token_attention)

# %% [markdown]
# **Exercise 04.2.** Add up the columns of $W_o$ that read the same value.


# %% tags=["exercise"]
def group_sum(W_o, group, d_head):
    return ...  # (d_llm, n_kv * d_head)


checks.check_group_sum(group_sum)


# %% tags=["solution"]
def group_sum(W_o, group, d_head):
    return (
        W_o.unflatten(1, (-1, group, d_head)).sum(2).flatten(1)
    )  # (d_llm, n_kv * d_head)


checks.check_group_sum(group_sum)

# %% [markdown]
# ## What this does not show
#
# - Layers that weight even a single token, for example those with learned attention sinks: `pp.reduce` leaves them as
#   they are and says why in the log.
# - Speed. Fewer weights are not always less time: [the results](../book/results.md) measure it.
#
# ## Quiz

# %%
checks.quiz("04")

# %% [markdown]
# ## Summary
#
# - With one token the softmax is one: queries, keys and positions play no part.
# - `pp.reduce` keeps the value path and the MLP; `model.fold()` multiplies the projections in where that is smaller.
# - Both are exact, and both are checked rather than taken on trust.
#
# **Words:** [reduction](../book/glossary.md#reduction) · [folding](../book/glossary.md#folding) ·
# [grouped heads](../book/glossary.md#grouped-heads) · [branch](../book/glossary.md#branch)
#
# **Next:** [05 Train it](05_train_it.ipynb)
