# %% [markdown]
# # 01 What a transformer layer does
#
# **You will show that** a layer of a real language model is two small additions to a vector, and that you can compute
# them by hand to the last digits.
#
# **After this notebook you can**
#
# - say what the residual stream is and what a layer adds to it;
# - compute RMSNorm, causal attention with grouped heads, and a gated MLP, with the shapes of every step;
# - check a hand-written layer against the real one;
# - say how far the length of the stream grows with depth, and why that matters for PiFi.
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 35 | 2 of 3 | [00](00_start_here.ipynb), matrix products | nothing new |

# %%
import torch
from torch.nn import functional as F

import pifi_probe as pp
from pifi_probe import checks
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.stem import Stem
from pifi_probe.layers.tokenizer import donor_tokenizer

checks.start("01", seed=0)

# %%
checks.pifi_block("layer")

# %% [markdown]
# This chapter is about what happens inside the lit box.
#
# ## 1. The residual stream
#
# **Why.** A decoder turns each token into a vector and then passes these vectors through its layers, one after the
# other. Each layer *adds* something to each vector and never replaces it. The vectors on their way are the *residual
# stream*. For $T$ tokens of width $d$:
#
# $$X_0 = \mathrm{Embed}(\text{tokens}) \in \mathbb{R}^{T \times d} \qquad X_{i+1} = X_i + \mathrm{Branch}_i(X_i)$$
#
# We feed a sentence into SmolLM2, up to the input of its first layer; `Stem` is all that a model does before that.

# %%
checkpoint = open_checkpoint("smollm2-135m")
tokenizer = donor_tokenizer(checkpoint)
ids = tokenizer(
    "The film was slow, but the ending was a wonder.", return_tensors="pt"
).input_ids  # (1, seq)
mask = torch.ones_like(ids)
X = Stem(checkpoint, [ids])(ids, mask)  # (1, seq, d_llm)
print(tokenizer.convert_ids_to_tokens(ids[0]))
print("X:", tuple(X.shape))

# %% [markdown]
# **Predict.** The stream goes through 30 layers, and each adds to it. How many times longer (in root mean square) are
# the vectors before the last layer than before the first one?

# %% tags=["guess"]
guess = None  # times

# %%
rms = lambda v: float(v.square().mean().sqrt())
lengths, state = [], X
for index in range(30):
    lengths.append(rms(state[:, 1:]))  # the first token has a length of its own
    with torch.no_grad():
        state = pp.extract(f"smollm2-135m[{index}]")(state)

# %% alt="Line plot of the root mean square of the residual stream before each of the 30 layers, on a logarithmic axis; it rises steeply over the first layers and goes on rising to the last."
from matplotlib import pyplot as plt

figure, axes = plt.subplots(figsize=(6, 2.8))
axes.plot(range(30), lengths, "o-", color="black")
axes.set(xlabel="before layer", ylabel="root mean square", yscale="log")
plt.show()

# %%
growth = lengths[-1] / lengths[0]
assert 100 < growth < 1000
checks.reveal(guess, growth, "times as long", ".0f")

# %% [markdown]
# **Read.** The vectors become about 270 times as long. A layer that PiFi takes from depth 29 is used to long vectors, so
# the projection $W_{in}$ has to offer something it can work with. Where in the depth does the stream grow fastest?
#
# **Checkpoint.** There are as many lengths as layers:

# %%
assert len(lengths) == 30
print("layers:", len(lengths))

# %% [markdown]
# ## 2. Norm first
#
# **Why.** Such different lengths would upset the matrices inside. Each branch therefore starts by bringing every
# vector to length one, token by token, and stretching each coordinate by a learned gain $g$:
#
# $$\mathrm{RMSNorm}(x)_j = \frac{x_j}{\sqrt{\frac{1}{d}\sum_k x_k^2 + \varepsilon}}\; g_j \qquad x, g \in \mathbb{R}^d$$
#
# **Predict.** Multiply $x$ by 100. What happens to $\mathrm{RMSNorm}(x)$?

# %% tags=["guess"]
guess = None  # in words

# %%
layer = pp.extract("smollm2-135m[12]")
block, eps = layer.block, layer.config.rms_norm_eps


def norm(x, gain):
    return (
        x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * gain
    )  # (batch, seq, d_llm)


gain = block.input_layernorm.weight  # (d_llm,)
change = (norm(100 * X, gain) - norm(X, gain)).abs().max() / norm(
    X, gain
).abs().max()
assert change < 0.01
checks.reveal(guess, f"it changes by ≈{100 * change:.2g} %")

# %% [markdown]
# **Read.** It changes by less than a thousandth: the branch sees only the *direction* of $x$. What it adds therefore always
# has the same size. Added to a short vector it takes over; added to a long one it is a small correction. Which of the two
# is it at the first layer, and which at the last?
#
# ## 3. Attention
#
# **Why.** So far each token is alone. In attention, token $t$ makes a *query*, every earlier token $s \le t$ offers a
# *key* and a *value*, and $t$ takes the mean of the values, weighted by how well query and key agree:
#
# $$A = \mathrm{softmax}\!\left(\frac{Q K^\top}{\sqrt{d_h}} + M\right) \in \mathbb{R}^{T \times T}
# \qquad M_{ts} = \begin{cases} 0 & s \le t \\ -\infty & s > t \end{cases}
# \qquad \mathrm{Attn} = (A V)\,W_o^\top$$
#
# SmolLM2 has 9 query heads of width $d_h = 64$ and only 3 key-value heads: three queries share one (*grouped heads*).
# Queries and keys are turned by an angle that grows with the position, so that their product depends on the distance.

# %%
attn = block.self_attn
states = X + 0.0  # any stream will do: here the embeddings
n = norm(states, gain)[0]  # (seq, d_llm)
q = (
    (n @ attn.q_proj.weight.T).unflatten(-1, (9, 64)).transpose(0, 1)
)  # (heads, seq, d_head)
k = (
    (n @ attn.k_proj.weight.T).unflatten(-1, (3, 64)).transpose(0, 1)
)  # (kv_heads, seq, d_head)
v = (
    (n @ attn.v_proj.weight.T).unflatten(-1, (3, 64)).transpose(0, 1)
)  # (kv_heads, seq, d_head)
k, v = (
    k.repeat_interleave(3, dim=0),
    v.repeat_interleave(3, dim=0),
)  # (heads, seq, d_head)
print("q, k, v:", tuple(q.shape), tuple(k.shape), tuple(v.shape))

# %% [markdown]
# Turn queries and keys by their positions: the first half of each head's coordinates pairs with the second half.

# %%
theta = layer.config.rope_parameters["rope_theta"]
speed = theta ** (-torch.arange(0, 64, 2) / 64)  # (d_head / 2,)
angle = torch.arange(n.shape[0])[:, None] * speed  # (seq, d_head / 2)
cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)  # (seq, d_head)


def turn(x):
    first, second = x.chunk(2, dim=-1)
    return (
        x * cos + torch.cat([-second, first], dim=-1) * sin
    )  # (heads, seq, d_head)


scores = turn(q) @ turn(k).transpose(-1, -2) / 64**0.5  # (heads, seq, seq)
future = torch.ones_like(scores[0], dtype=torch.bool).triu(1)  # (seq, seq)
A = scores.masked_fill(future, -torch.inf).softmax(-1)  # (heads, seq, seq)
mixed = (A @ v).transpose(0, 1).flatten(1)  # (seq, heads * d_head)
attention = mixed @ attn.o_proj.weight.T  # (seq, d_llm)

# %% [markdown]
# **Predict.** How much attention does the *first* token pay to itself?

# %% tags=["guess"]
guess = None  # between 0 and 1

# %%
(own,) = A[:, 0, 0].unique()  # the same in all nine heads
checks.reveal(guess, float(own), form=".1f", live=False)

# %% [markdown]
# **Read.** One, in every head: it has nothing else to look at, and a softmax over one number is one. Remember this. A
# PiFi layer that gets the pooled vector sees a sequence of one token, and its attention is always like this
# ([chapter 04](04_one_token_through_a_layer.ipynb)).
#
# **Checkpoint.** Rows of $A$ sum to one, and no token looks ahead:

# %%
assert torch.allclose(A.sum(-1), torch.ones(9, n.shape[0]), atol=1e-5)
assert A.masked_select(future).abs().sum() == 0
print("every row sums to one; no weight on later tokens")

# %% [markdown]
# ## 4. The gated MLP
#
# **Why.** Attention moves information between tokens; the MLP works on each token alone. Two matrices widen the vector
# to $f = 1536$, one of them opens and closes gates on the other, and a third matrix brings it back:
#
# $$\mathrm{MLP}(n) = W_{down}\big(\mathrm{SiLU}(W_{gate}\,n) \odot W_{up}\,n\big) \qquad W_{gate}, W_{up} \in \mathbb{R}^{f \times d},\; W_{down} \in \mathbb{R}^{d \times f}$$

# %%
middle = states[0] + attention  # (seq, d_llm): the first addition
m = norm(middle, block.post_attention_layernorm.weight)  # (seq, d_llm)
gate = F.silu(m @ block.mlp.gate_proj.weight.T)  # (seq, d_mlp)
up = m @ block.mlp.up_proj.weight.T  # (seq, d_mlp)
by_hand = (
    middle + (gate * up) @ block.mlp.down_proj.weight.T
)  # (seq, d_llm): the second addition
print("by hand:", tuple(by_hand.shape))

# %% [markdown]
# **Checkpoint.** Is it the real layer?

# %%
with torch.no_grad():
    real = layer(states)[0]  # (seq, d_llm)
error = (by_hand - real).abs().max() / real.abs().max()
assert error < 1e-5
print(
    f"largest difference, by hand and real: ≈{error:.0e} of the largest value"
)

# %% [markdown]
# **Read.** The difference is rounding. That is all a layer is: two norms, seven matrices, two additions. Everything it
# knows is in those matrices.
#
# **Predict.** Which part holds more weights: attention or MLP?

# %% tags=["guess"]
guess = None  # "attention" or "MLP"

# %%
count = {
    name: sum(p.numel() for p in part.parameters())
    for name, part in (("attention", attn), ("MLP", block.mlp))
}
checks.reveal(guess, max(count, key=count.get), live=False)
for name, n in count.items():
    print(f"{name:9s} {n / 1e6:.2f} million")

# %% [markdown]
# **Read.** The MLP holds three quarters of the layer. It works on one token, so a PiFi layer with a single token loses
# nothing of it. What does such a layer lose of the other quarter? That is chapter 04.
#
# ## Exercises
#
# **Exercise 01.1.** Write RMSNorm.


# %% tags=["exercise"]
def rms_norm(x, gain, eps):
    return ...  # (batch, seq, d)


checks.check_rms_norm(rms_norm)


# %% tags=["solution"]
def rms_norm(x, gain, eps):
    return (
        x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * gain
    )  # (batch, seq, d)


checks.check_rms_norm(rms_norm)

# %% [markdown]
# **Exercise 01.2.** From scores to causal attention weights.


# %% tags=["exercise"]
def causal_weights(scores):
    return ...  # (heads, seq, seq)


checks.check_causal_weights(causal_weights)


# %% tags=["solution"]
def causal_weights(scores):
    future = torch.ones_like(scores, dtype=torch.bool).triu(
        1
    )  # (heads, seq, seq)
    return scores.masked_fill(future, -torch.inf).softmax(-1)


checks.check_causal_weights(causal_weights)

# %% [markdown]
# **Exercise 01.3.** The gated MLP, with weights as torch stores them.


# %% tags=["exercise"]
def gated_mlp(x, W_gate, W_up, W_down):
    return ...  # (batch, d)


checks.check_gated_mlp(gated_mlp)


# %% tags=["solution"]
def gated_mlp(x, W_gate, W_up, W_down):
    return (F.silu(x @ W_gate.T) * (x @ W_up.T)) @ W_down.T  # (batch, d)


checks.check_gated_mlp(gated_mlp)

# %% [markdown]
# ## What this does not show
#
# - One family only: others norm after the branch, add biases, use LayerNorm or several experts. The library calls each
#   family's own code, so none of this has to be written again.
# - What the matrices *know*. Chapter 07 asks that of every layer.
#
# ## Quiz

# %%
checks.quiz("01")

# %% [markdown]
# ## Summary
#
# - A layer adds twice to the residual stream: attention between tokens, then an MLP on each token.
# - Norms make the size of what is added independent of the size of the input.
# - The stream grows with depth; the first token can only look at itself.
#
# **Words:** [residual stream](../book/glossary.md#residual-stream) · [attention](../book/glossary.md#attention) ·
# [grouped heads](../book/glossary.md#grouped-heads) · [gated MLP](../book/glossary.md#gated-mlp) ·
# [branch](../book/glossary.md#branch)
#
# **Next:** [02 Extract one layer](02_extract_one_layer.ipynb)
