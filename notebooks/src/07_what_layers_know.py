# %% [markdown]
# # 07 What layers know
#
# **You will show that** a linear probe can read at every depth what a language model knows about a task, and that three
# things which are not knowledge are read just as easily: a few huge tokens, too many features, and chance.
#
# **After this notebook you can**
#
# - pool the states of a text without letting one token decide;
# - say why only texts that the probe has not seen count;
# - put a *null* (the scores of a probe that can know nothing) next to a score, for one depth and for the best of many;
# - read a table of probes: the set of the best instead of the best.
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 35 | 2 of 3 | [01](01_what_a_layer_does.ipynb), [05](05_train_it.ipynb) | nothing new |

# %%
import numpy as np
import torch
from matplotlib import pyplot as plt

import pifi_probe as pp
from pifi_probe import checks
from pifi_probe.experiments.whole import load_whole
from pifi_probe.probing.table import ProbeTable
from pifi_probe.scoring import estimators

checks.start("07", seed=0)

# %%
checks.pifi_block("layer")

# %% [markdown]
# ## 1. One token outweighs a sentence
#
# **Why.** A probe needs one vector a text, and a text has many tokens. The obvious way is their mean. With $T$ tokens and
# states $x_t$,
#
# $$\bar x = \frac{1}{T} \sum_{t=1}^{T} x_t \qquad x_t \in \mathbb{R}^{d},\; d = 576$$
#
# A mean is fair when its parts are of like size. We look at the size (root mean square) of the first token and of the
# others, through the whole depth of SmolLM2.
#
# **Predict.** In the middle of the model, how many times larger is the first token than a usual one?

# %% tags=["guess"]
guess = None  # times

# %%
task = pp.load_task("movie-reviews").subset(train=100)
texts, labels = (
    task.splits["train"].texts,
    np.array(task.splits["train"].labels),
)
whole = load_whole("smollm2-135m")


@torch.no_grad()
def states_of(text):
    """The stream before each layer, and after the last: (depths, seq, d_llm)."""
    ids = whole.tokenizer(text, return_tensors="pt")["input_ids"][:, :32]
    layers = whole.model.base_model.layers
    points = []
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: points.append(
                (args or (kwargs["hidden_states"],))[0][0]
            ),
            with_kwargs=True,
        )
        for layer in layers
    ]
    hooks.append(
        whole.model.base_model.norm.register_forward_pre_hook(
            lambda _, args: points.append(args[0][0])
        )
    )
    whole.model.base_model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return torch.stack(points)


states = [states_of(text) for text in texts]  # each (depths, seq, d_llm)
depths = len(states[0])

# %%
rms = [one.square().mean(-1).sqrt() for one in states]  # each (depths, seq)
first = torch.stack([one[:, 0] for one in rms]).median(0).values
others = (
    torch.stack([one[:, 1:].median(1).values for one in rms]).median(0).values
)

# %% alt="Line plot over depth with a logarithmic axis: the first token's size jumps to hundreds after a few layers and stays there, while usual tokens grow slowly from below one to about thirty."
figure, axes = plt.subplots(figsize=(6, 2.8))
axes.plot(first, label="first token")
axes.plot(others, "--", label="usual token")
axes.set(xlabel="depth", ylabel="root mean square", yscale="log")
axes.legend(frameon=False)
plt.show()

# %%
ratio = float(first[15] / others[15])
assert 20 < ratio < 2000
checks.reveal(guess, ratio, "times as large", ".0f")

# %% [markdown]
# **Read.** In the middle the first token is about 140 times as large as a usual one. It sees no other token, so its state is
# nearly the same for every text. Heads that have nothing to look for rest their attention on it: an *attention sink*. How
# much of a mean of twenty tokens is left for the other nineteen?
#
# ## 2. Three ways to average
#
# **Why.** If one vector that all texts share dominates, all texts look alike. Dividing each token by its own size, and
# leaving the first one out, gives every word one vote:
#
# $$z = \frac{1}{T-1} \sum_{t=2}^{T} \frac{x_t}{\mathrm{rms}(x_t)}
# \qquad \mathrm{rms}(x) = \lVert x \rVert / \sqrt{d}$$
#
# How alike two texts look is the cosine between their pooled vectors.
#
# **Predict.** At depth 15, the mean cosine between two *different* reviews: plain mean, scaled tokens, scaled without the
# first token?

# %% tags=["guess"]
guess = None  # three numbers between -1 and 1


# %%
def pooled(kind, depth):
    """One vector a text: (N, d_llm)."""
    rows = []
    for one in states:
        x = one[depth]  # (seq, d_llm)
        if kind != "plain":
            x = x / x.square().mean(-1, keepdim=True).sqrt()
        if kind == "scaled, no first" and len(x) > 1:
            x = x[1:]
        rows.append(x.mean(0))
    return torch.stack(rows)


def alikeness(z):
    """Mean cosine between two different texts."""
    z = torch.nn.functional.normalize(z, dim=-1)
    n = len(z)
    return float(((z @ z.T).sum() - n) / (n * (n - 1)))


kinds = ("plain", "scaled", "scaled, no first")
alike = {k: [alikeness(pooled(k, p)) for p in range(depths)] for k in kinds}

# %% alt="Line plot over depth of the mean cosine between two different reviews for three ways of pooling: the plain mean is close to one at most depths, scaled tokens are lower."
figure, axes = plt.subplots(figsize=(6, 2.8))
for kind, style in zip(kinds, ("-", "--", ":"), strict=True):
    axes.plot(alike[kind], style, label=kind)
axes.set(xlabel="depth", ylabel="cosine of two texts", ylim=(0, 1.05))
axes.legend(frameon=False)
plt.show()

# %%
assert alike["plain"][15] > 0.95
assert alike["plain"][15] > max(alike[kind][15] for kind in kinds[1:])
print("your guess:", checks.guessed(guess))
for kind in kinds:
    print(f"cosine of two reviews at depth 15, {kind}: ≈{alike[kind][15]:.2f}")

# %% [markdown]
# **Checkpoint.** The library's pooling is the third way:

# %%
from pifi_probe.features.donor import pool_tokens

ours = pooled("scaled, no first", 15)[0]
x = states[0][15][None]  # (1, seq, d_llm)
mask = torch.ones(x.shape[:2], dtype=torch.long)
theirs = pool_tokens(x, mask, pooling="mean", normalise=True, drop_first=True)
difference = (torch.as_tensor(theirs[0]) - ours).abs().max()
assert difference < 1e-4
print(f"ours and pifi_probe's pooling differ by ≈{difference:.0e}")

# %% [markdown]
# **Read.** With the plain mean the cosine is about 1.00: two different reviews look the same. With scaled tokens it is about
# 0.93, and hardly less without the first token, which now has one vote of many. Scaling costs nothing and needs no labels.
# `pp.probe` does both unless told not to, and every table says so. At which depths would it have made no difference?
#
# ## 3. More features than texts
#
# **Why.** A linear probe with $D$ weights can put $N \le D$ texts on whichever side it likes. For ridge regression with
# penalty $\lambda$, fitted values are a matrix times the labels, and the residual of a text that was *left out* follows
# from the one that was not:
#
# $$\hat y = H y \quad H = X (X^\top X + \lambda I)^{-1} X^\top \in \mathbb{R}^{N \times N}
# \qquad r_n = \frac{y_n - \hat y_n}{1 - H_{nn}}$$
#
# **Predict.** We permute the labels of 100 reviews, so that there is nothing to know. How accurate is the probe on the
# texts it was fitted to? And on the texts left out?

# %% tags=["guess"]
guess = None  # two per cent numbers

# %%
z = pooled("scaled, no first", 15).double().numpy()
z = (z - z.mean(0)) / z.std()
permuted = np.random.default_rng(0).permutation(labels)
y = 2.0 * permuted - 1
hat = z @ np.linalg.solve(z.T @ z + np.eye(z.shape[1]), z.T)  # (N, N)
fitted = hat @ y
left_out = y - (y - fitted) / (1 - np.diag(hat))
seen, unseen = (float((np.sign(v) == y).mean()) for v in (fitted, left_out))
print("your guess:", checks.guessed(guess))
print(f"{z.shape[1]} features, {len(z)} texts")
assert seen > 0.95 and 0.3 < unseen < 0.7
print(
    f"permuted labels: ≈{100 * seen:.0f} % on texts seen, ≈{100 * unseen:.0f} % on texts left out"
)

# %% [markdown]
# **Read.** About 100 % right on texts that the probe has seen, about 60 % on texts left out, where a coin has 50: the first
# number says nothing about the layer. Every score in this package is held out: one text at a time, or by folds. How far
# from 50 may a hundred texts land by chance?
#
# ## 4. A null next to every score
#
# **Why.** Even held-out scores of nothing are not exactly one half, and the best of many depths is better than each.
# Permuted labels show what chance does, and the same permutations at all depths show what *looking at all depths* does.
# With scores $s$ (real) and $s^{(1)}, \dots, s^{(n)}$ (permuted),
#
# $$p = \frac{1 + \#\{i : s^{(i)} \ge s\}}{1 + n}
# \qquad p_{\text{adjusted}} = \frac{1 + \#\{i : \max_\ell s_\ell^{(i)} \ge s\}}{1 + n}$$
#
# **Predict.** With 99 permutations, what is the smallest p there can be?

# %% tags=["guess"]
guess = None

# %%
table = pp.probe(
    "smollm2-135m",
    task,
    pp.ProbeSettings(n_permutations=99, max_tokens=32, device="cpu"),
    n=100,
    estimators=["ridge_accuracy", "nearest_mean"],
    progress=False,
    seed=0,
)
rows = table.series("ridge_accuracy").set_index("depth")
checks.reveal(guess, 1 / (1 + 99), form=".2f", live=False)
print("depths scored:", len(rows), "| family:", table.family)

# %% alt="Line plot over depth of the held-out accuracy of a ridge probe on 100 reviews with its interval, above the band where the better five per cent of permuted labels begin."
figure, axes = plt.subplots(figsize=(6, 2.8))
axes.plot(rows.index, 100 * rows["value"], label="held out")
axes.fill_between(rows.index, 100 * rows["low"], 100 * rows["high"], alpha=0.2)
axes.plot(rows.index, 100 * rows["null_high"], "--", label="best 5 % of chance")
axes.set(xlabel="depth", ylabel="accuracy (%)")
axes.legend(frameon=False)
plt.show()

# %%
best = rows["value"].max()
assert (
    0.55 < best < 0.95 and (rows["p_adjusted"] >= rows["p_value"] - 1e-12).all()
)
above = (rows["p_adjusted"] < 0.05).sum()
print(f"best accuracy, held out: ≈{100 * best:.0f} %")
print(f"depths above chance, all of them looked at: ≈{above} of {len(rows)}")
assert above > 0

# %% [markdown]
# **Checkpoint.** The arithmetic, once by hand, for depth 15:

# %%
from pifi_probe.scoring.spectrum import Spectrum

spectrum = Spectrum.of(z)
score = estimators.ridge_accuracy(z, labels, spectrum=spectrum)
rng = np.random.default_rng(1)
null = [
    estimators.ridge_accuracy(z, rng.permutation(labels), spectrum=spectrum)
    for _ in range(19)
]
p = (1 + sum(value >= score for value in null)) / (1 + len(null))
assert 0.05 <= p <= 1
print(f"p with nineteen permutations: ≈{p:.2f}; it cannot be below 0.05")

# %% [markdown]
# **Read.** The best depth gets about 80 % right, and about twenty of the 31 depths stay above chance when all of them are
# looked at. All permutations reuse one decomposition of the features: a null costs next to nothing, so there is no reason to
# leave it out.
#
# ## 5. The whole table, recorded
#
# **Why.** 100 texts leave wide intervals. The record has 1,000, with all default scores. Of 31 depths, one is the best by
# chance alone. So we ask for the *set* of depths that are tied with the best, all comparisons paired over texts and
# corrected for their number.
#
# **Predict.** Out of 31, how many depths are in the set of the best for ridge accuracy?

# %% tags=["guess"]
guess = None  # depths

# %%
record = ProbeTable.from_json(
    checks.recorded("book/_studies/probes/movie-reviews-own-state.json")
)
tied = record.best_set("ridge_accuracy")
checks.reveal(guess, len(tied), "depths", live=False)
for name in ("ridge_accuracy", "logistic_nll", "knn", "nearest_mean", "logme"):
    best = record.rank(name).iloc[0]
    inside = record.best_set(name)
    print(
        f"{name:15s} best at depth {best['depth']:2d}: "
        f"{best['value']:7.3f} [{best['low']:.3f}, {best['high']:.3f}], "
        f"{len(inside)} depths cannot be told from it"
    )

# %% alt="Curves of every recorded score over the depth of the layer, each with its interval and the null of permuted labels, on one panel per score."
record.plot(["ridge_accuracy", "logistic_nll", "knn", "logme"])

# %%
at = record.series("ridge_accuracy").set_index("depth")["value"]
gain = 100 * (at.max() - at.iloc[-1])
print(f"points from the last layer's output to the best depth: {gain:.1f}")
print("made by:", record.provenance["command"])

# %% [markdown]
# To make it again: `python benchmarks/record_probes.py`.
#
# **Read.** Twelve depths are tied with the best. The middle knows most: 83 % there and 77 % after the last layer, which is
# not in the set of the best. Do the scores agree? They are five readings of the *same* states, not five witnesses.
#
# ## 6. Where this leads
#
# **Why.** Chapters 07 to 10 are one argument, and one figure tells it. On its axis is what anybody would gain over the
# small encoder alone,
#
# $$\text{gain}_\ell = 100\,(A_\ell - A_{\text{encoder}}) \quad \text{points}$$
#
# with the encoder measured on the same texts by the same readout. This is the first part: the donor's own states.

# %% alt="Line plot over the 30 layers of what the donor's own states give over the encoder alone: below zero at the first layers, about ten points from layer 14 to 20, and about three after the last layer."
checks.depth_figure("states")

# %%
states = checks.gains_by_depth()["states"].set_index("last")["gain"]
print(f"most: {states.max():+.1f} points, after layer {states.idxmax()}")
print(f"after the last layer: {states.iloc[-1]:+.1f} points")

# %% [markdown]
# **Read.** There is something to gain: ten points in the middle, a third of that at the end. Can an encoder get at it through
# a single plugged layer? Draw the curve that you expect, then read chapter 08.
#
# ## Exercises
#
# **Exercise 07.1.** Pool the tokens of one text: `states` (seq, d), `mask` (seq,) with 0 for padding at the end. Scale
# every token by its root mean square, leave out padding and the first token, take the mean.


# %% tags=["exercise"]
def pool_tokens_of(states, mask):
    return ...  # (d,)


checks.check_pool_tokens(pool_tokens_of)


# %% tags=["solution"]
def pool_tokens_of(states, mask):
    scaled = states / states.square().mean(-1, keepdim=True).sqrt()
    kept = mask.bool().clone()
    kept[0] = False
    return scaled[kept].mean(0)


checks.check_pool_tokens(pool_tokens_of)

# %% [markdown]
# **Exercise 07.2.** The p-value of a score, given the scores under permuted labels (an array).


# %% tags=["exercise"]
def p_value(score, null):
    return ...  # a number


checks.check_p_value(p_value)


# %% tags=["solution"]
def p_value(score, null):
    return (1 + (null >= score).sum()) / (1 + len(null))


checks.check_p_value(p_value)

# %% [markdown]
# **Exercise 07.3.** The residuals of texts left out, from one fit: ridge regression without intercept, tensors
# `X` (N, D) and `y` (N,).


# %% tags=["exercise"]
def left_out_residuals(X, y, penalty):
    return ...  # (N,)


checks.check_left_out_residuals(left_out_residuals)


# %% tags=["solution"]
def left_out_residuals(X, y, penalty):
    eye = torch.eye(X.shape[1], dtype=X.dtype)
    hat = X @ torch.linalg.solve(X.T @ X + penalty * eye, X.T)
    return (y - hat @ y) / (1 - hat.diagonal())


checks.check_left_out_residuals(left_out_residuals)

# %% [markdown]
# ## What this does not show
#
# - That a layer at a good depth is a good plug-in: the probe reads states of the model's *own* tokens, which PiFi never
#   makes. The next chapter asks about the layer as a function.
# - Anything about what the model *uses*: a probe finds what can be read off, not what is read.
# - Other models: one of 135 million weights, stored in four bits.
#
# ## Quiz

# %%
checks.quiz("07")

# %% [markdown]
# ## Summary
#
# - The first token is a sink, and huge: scale tokens and leave it out before averaging.
# - With more features than texts, only held-out scores mean anything.
# - A score needs a null, and the best of many depths needs the null of the best.
# - The result of a sweep is a set of depths.
#
# **Words:** [probe](../book/glossary.md#probe) · [pooling](../book/glossary.md#pooling) ·
# [attention sink](../book/glossary.md#attention-sink) · [null](../book/glossary.md#null) ·
# [set of the best](../book/glossary.md#set-of-the-best)
#
# **Next:** [08 What a layer does to an encoder](08_what_a_layer_does_to_an_encoder.ipynb)
