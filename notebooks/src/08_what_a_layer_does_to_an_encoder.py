# %% [markdown]
# # 08 What a layer does to an encoder
#
# **You will show that** a layer can be scored as PiFi uses it, as a function on an encoder's vectors, and that such a score
# says nothing about the layer's knowledge until a layer with shuffled weights has been scored too.
#
# **After this notebook you can**
#
# - probe a layer as PiFi uses it: as a function on an encoder's vectors;
# - measure a gain, and the part of it that the weights' structure is responsible for;
# - tell a transferability score from a measurement of lengths;
# - say what training only the projections can find, and at what cost.
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 35 | 3 of 3 | [06](06_frozen_or_fine_tuned.ipynb), [07](07_what_layers_know.ipynb) | nothing new |

# %%
import numpy as np
import torch
from matplotlib import pyplot as plt

import pifi_probe as pp
from pifi_probe import checks
from pifi_probe.layers.residual import residual_rms
from pifi_probe.layers.variants import make_variant
from pifi_probe.probing.encoder_vectors import slm_features
from pifi_probe.probing.table import ProbeTable
from pifi_probe.reporting.looks import ARMS
from pifi_probe.scoring import estimators

checks.start("08", seed=0)

# %%
checks.pifi_block("L_in", "layer", "L_out")

# %% [markdown]
# ## 1. The question that PiFi asks
#
# **Why.** Chapter 07 read states which the language model makes of its own tokens. PiFi never makes them. It hands the
# layer a projected vector of an encoder, as a sequence of one. What the layer *adds* to it is the branch
#
# $$z = \mathrm{Layer}(x) - x \qquad x = s\,\frac{P h}{\mathrm{rms}(P h)}
# \qquad P \in \mathbb{R}^{576 \times 384},\; h \in \mathbb{R}^{384}$$
#
# with $s$ the size which the layer is used to at its input. We subtract $x$ because the encoder has that already: a layer
# that passed its input through would otherwise look excellent. Before any training there is no $P$ that is right; a
# random rotation is the choice that knows nothing.
#
# **Predict.** $h$ alone gives a ridge probe about three quarters of the reviews right. How many points does $z$ of the last
# layer add?

# %% tags=["guess"]
guess = None  # points, negative for a loss

# %%
task = pp.load_task("movie-reviews").subset(train=300)
rows = task.splits["train"]
labels = np.array(rows.labels)
h = slm_features("minilm-l6", rows, max_tokens=48, device="cpu", cache=False)[
    0
]  # (N, d_slm)
layer = pp.extract("smollm2-135m[-1]")
size = residual_rms(layer.card)
print(
    "encoder's vectors:", tuple(h.shape), "| layer's width:", layer.hidden_size
)


# %%
def rotation(seed):
    """Orthonormal columns: (d_llm, d_slm)."""
    draw = np.random.default_rng(seed).standard_normal(
        (layer.hidden_size, h.shape[1])
    )
    return np.linalg.qr(draw)[0]


@torch.no_grad()
def branch(one, seed):
    """What a layer adds to the projected vectors: (N, d_llm)."""
    x = h @ rotation(seed).T
    x = torch.tensor(size * x / np.sqrt((x**2).mean()), dtype=torch.float32)
    return (one(x[:, None]) - x[:, None])[:, 0].numpy()  # a sequence of one


def beside(z):
    """[h; z], each block of size one: (N, d_slm + d_llm)."""
    blocks = [block / np.sqrt((block**2).mean()) for block in (h, z)]
    return np.concatenate(blocks, axis=1)


alone = estimators.ridge_accuracy(h, labels)
together = estimators.ridge_accuracy(beside(branch(layer, 0)), labels)
assert 0.6 < alone < 0.9 and abs(together - alone) < 0.08
checks.reveal(guess, 100 * (together - alone), "points", "+.1f")
print(f"h alone: ≈{100 * alone:.1f} %, with z: ≈{100 * together:.1f} %")

# %% [markdown]
# **Checkpoint.** On one token the whole layer and its reduced form (chapter 04) add the same:

# %%
reduced = make_variant(layer, "real", single_token=True)
ours, whole = branch(reduced, 0)[:20], branch(layer, 0)[:20]
assert np.allclose(ours, whole, rtol=1e-3, atol=1e-3)
difference = abs(ours - whole).max() / abs(whole).max()
print(f"largest difference: ≈{difference:.0e} of the largest value")

# %% [markdown]
# **Read.** About nothing: less than a point, and one number after one draw of $P$ says little. What should it be compared
# with?
#
# ## 2. The gain of a layer that knows nothing
#
# **Why.** $z$ is a nonlinear function of $h$ into many dimensions. That alone can help a linear probe. The control is the
# same layer with the entries of each matrix permuted: same sizes, same distribution, no structure. With a score $S$,
#
# $$G = S([h; z]) - S(h) \qquad \Delta = G_{\text{real}} - G_{\text{shuffled}}
# = S([h; z_{\text{real}}]) - S([h; z_{\text{shuffled}}])$$
#
# **Predict.** Over six draws of $P$: in how many does the real layer beat its shuffled twin?

# %% tags=["guess"]
guess = None  # of six

# %%
DRAWS = 6
gains = {"real": [], "shuffled": []}
for seed in range(DRAWS):
    shuffled = make_variant(layer, "shuffled", single_token=True, seed=seed)
    for name, one in (("real", reduced), ("shuffled", shuffled)):
        score = estimators.ridge_accuracy(beside(branch(one, seed)), labels)
        gains[name].append(100 * (score - alone))

# %% alt="Two columns of marks, the gain in points of the real layer (squares) and of its shuffled twin (triangles) for six random projections, with lines that join the pairs and a dashed line at zero; the real layer's marks lie at or below zero, those of its twin around zero, and no line falls from the real layer to its twin."
figure, axes = plt.subplots(figsize=(4.5, 2.8))
axes.plot([0, 1], [gains["real"], gains["shuffled"]], color="black", alpha=0.3)
for place, (name, arm) in enumerate((("real", "real"), ("shuffled", "twins"))):
    colour, marker = ARMS[arm]
    axes.plot([place] * DRAWS, gains[name], marker, color=colour, alpha=0.7)
axes.axhline(0, linestyle="--", color="black")
axes.set(xticks=[0, 1], xticklabels=["real", "shuffled"], xlim=(-0.4, 1.4))
axes.set(ylabel="gain over h (points)")
plt.show()

# %%
difference = np.subtract(gains["real"], gains["shuffled"])
spread = np.std(gains["real"])
assert abs(difference.mean()) < 6
checks.reveal(guess, int((difference > 0).sum()), f"of {DRAWS} draws")
print(
    f"real - shuffled: ≈{difference.mean():+.1f} points on average;",
    f"the draws of P scatter by ≈{spread:.1f}",
)

# %% [markdown]
# **Read.** The real layer beats its shuffled twin in no draw, or nearly none; on average it is about one and a half points
# behind, and the draws of $P$ scatter by about one. A plug-in probe without its shuffled twin mostly measures what nonlinear
# features are worth. Which lines of the figure rise most, and from where?
#
# ## 3. The record: 30 layers, 1,000 reviews, four ways to project
#
# **Why.** A random rotation means nothing to the layer. Three better ones use unlabelled texts, which both models read:
# matching the *moments* of the layer's own inputs, and two maps that predict the layer's own input from $h$, by *ridge*
# regression or by a *Procrustes* rotation:
#
# $$A = \arg\min_A \lVert H A - X \rVert_F^2 + \lambda \lVert A \rVert_F^2
# \qquad H \in \mathbb{R}^{N \times 384},\; X \in \mathbb{R}^{N \times 576}$$
#
# **Predict.** For the best of the four: of 30 layers, how many have a $\Delta$ whose interval lies above zero?

# %% tags=["guess"]
guess = None  # of 30

# %%
record = ProbeTable.from_json(
    checks.recorded("book/_studies/probes/movie-reviews-plug-in.json")
)
above = {}
for projection in ("random", "moment", "ridge", "procrustes"):
    real = record.series("ridge_accuracy", projection=projection, arm="real")
    delta = record.series(
        "ridge_accuracy", projection=projection, arm="real - shuffled"
    )
    inside = record.best_set(
        "ridge_accuracy", projection=projection, arm="real - shuffled"
    )
    above[projection] = int((delta["low"] > 0).sum())
    print(
        f"{projection:10s} mean gain {100 * real['value'].mean():+.1f} points; "
        f"real - shuffled above zero: {above[projection]}, "
        f"below: {(delta['high'] < 0).sum()}, set of the best: {len(inside)}"
    )
checks.reveal(guess, max(above.values()), "of 30 layers", live=False)

# %% alt="Difference between the real and the shuffled layer's gain over the depth of the layer, for projections by ridge regression, with intervals and a line at zero."
delta = record.series(
    "ridge_accuracy", projection="ridge", arm="real - shuffled"
)
value, low, high = (100 * delta[name] for name in ("value", "low", "high"))
figure, axes = plt.subplots(figsize=(6, 2.8))
colour, marker = ARMS["real"]
reach = [value - low, high - value]
axes.errorbar(delta["depth"], value, reach, fmt=marker, ms=4, color=colour)
axes.axhline(0, linestyle="--", color="black")
axes.set(xlabel="layer", ylabel="real - shuffled (points)")
plt.show()

# %%
chance = 0.025 * len(delta)
print(
    f"of {len(delta)} such intervals, chance puts about {chance:.1f} above zero"
)
print("made by:", record.provenance["command"])

# %% [markdown]
# To make it again: `python benchmarks/record_probes.py`.
#
# **Read.** At most three of thirty layers beat their twin, ridge has more below zero than above, and the set of the best
# holds nearly all layers: *this probe cannot choose*. That is a result, and a cheap one. Which counts are more than chance
# puts there?
#
# ## 4. A score that measures lengths
#
# **Why.** LogME asks how probable the labels are under Bayesian linear regression, with the precisions $\alpha$ of the
# weights and $\beta$ of the noise at their best. With eigenvalues $s_1, \dots, s_k$ of $X X^\top$ and what the fit
# leaves, its only terms that see the *number* of features are
#
# $$\frac{k}{2} \ln \alpha - \frac{1}{2} \sum_{i=1}^{k} \ln(\alpha + \beta s_i) \qquad k = \mathrm{rank}(X) \le \min(N, D)$$
#
# The released code has $D/2$ in the place of $k/2$. With fewer examples than features, $D - k$ factors $\alpha$ are left
# over, and $\alpha$ follows the length of the features: multiplied by $c$, the score rises by $(D - k) \ln c$.
#
# **Predict.** We multiply all features by ten. What should a score of the features do?

# %% tags=["guess"]
guess = None  # "rise", "stay" or "fall"


# %%
def log_evidence(X, y, released=False):
    """Of centred y, per degree of freedom, with alpha and beta at their best."""
    X, y = X - X.mean(0), y - y.mean()
    s, U = np.linalg.eigh(X @ X.T)
    s, U = s[1:], U[:, 1:]  # centring takes one direction away
    n, k = len(y) - 1, len(s)
    z, t = (U.T @ y) ** 2, s.mean()
    for _ in range(500):
        gamma, m2 = (s / (s + t)).sum(), (s * z / (s + t) ** 2).sum()
        e2 = (z * (t / (s + t)) ** 2).sum()
        alpha, beta = gamma / m2, (n - gamma) / e2
        t = alpha / beta
    volume = (X.shape[1] if released else k) * np.log(alpha) - np.log(
        alpha + beta * s
    ).sum()
    return (
        (
            volume
            + n * np.log(beta)
            - beta * e2
            - alpha * m2
            - n * np.log(2 * np.pi)
        )
        / 2
        / n
    )


few = h[::3].astype(np.float64)  # (100, 384): fewer examples than features
y = labels[::3].astype(np.float64)
for name, released in (("released", True), ("corrected", False)):
    once, tenfold = (log_evidence(c * few, y, released) for c in (1, 10))
    moved = abs(tenfold - once)
    assert (moved > 1e-3) == released
    print(f"{name:9s} moves by ≈{moved:.3f} nats when features grow tenfold")
checks.reveal(guess, "stay", live=False)

# %% [markdown]
# **Checkpoint.** The corrected form is the library's, which is tested against the exact marginal likelihood:

# %%
ours = log_evidence(few, y)
library = estimators.logme(few, labels[::3])
assert abs(ours - library) < 2e-2 * max(1, abs(library))
print(f"by hand ≈{ours:.4f} nats, in the library ≈{library:.4f}")

# %% [markdown]
# Now the trap. We score the states of 30 layers whose *content* is the same by construction: $h$, made as long as each
# layer's inputs usually are. A score of content cannot prefer any of them.

# %%
lengths = np.array(
    [
        residual_rms(pp.extract(f"smollm2-135m[{i}]").card)
        for i in (0, 5, 10, 15, 20, 25, 29)
    ]
)
unit = few / np.sqrt((few**2).mean())
released = [log_evidence(c * unit, y, released=True) for c in lengths]
corrected = [log_evidence(c * unit, y) for c in lengths]

# %% alt="Two lines over depth: the released score rises with the usual length of the layer's inputs although the features are the same, the corrected score is flat."
figure, axes = plt.subplots(figsize=(6, 2.8))
axes.plot((0, 5, 10, 15, 20, 25, 29), released, "o-", label="released form")
axes.plot((0, 5, 10, 15, 20, 25, 29), corrected, "s--", label="corrected")
axes.set(xlabel="layer whose length the features have", ylabel="score (nats)")
axes.legend(frameon=False)
plt.show()

# %%
assert np.ptp(corrected) < 1e-3 < np.ptp(released)
same = int((np.argsort(released) == np.argsort(lengths)).sum())
print(f"same rank by released score as by length: {same} of {len(lengths)}")
print(
    f"range of the released score ≈{np.ptp(released):.1f} nats, of the corrected one ≈{np.ptp(corrected):.0e}"
)
assert same == len(lengths)

# %% [markdown]
# **Read.** The released score ranks all seven layers by length, over about sixteen nats, although the content is the same;
# the corrected one is the same for all of them. Norms grow with depth, so a released score finds the last layers best on every task,
# and looks reliable. How would you have noticed?
#
# ## 5. Train the projections only
#
# **Why.** All scores so far fix the projection. *Frozen-SLM PiFi* learns it: the encoder's vectors are computed once,
# then only $L_{\text{in}}$, $L_{\text{out}}$ and the head are trained. One step costs the layer and no encoder:
#
# $$\min_{L_{\text{in}}, L_{\text{out}}, \text{head}} \;
# -\frac{1}{N} \sum_n \ln p\big(y_n \mid h_n + L_{\text{out}} \mathrm{Layer}(L_{\text{in}} h_n)\big)
# \qquad h_n \text{ fixed}$$
#
# **Predict.** For how many of the 30 layers is the trained score better than its shuffled twin's, interval and all?

# %% tags=["guess"]
guess = None  # of 30

# %%
trained = record.series("frozen_slm_nll", arm="real - shuffled")
against = record.series("frozen_slm_nll", arm="real - vanilla")
clear = int((trained["high"] < 0).sum())  # a lower loss is better
checks.reveal(guess, clear, f"of {len(trained)} layers", live=False)
for name, own in (("shuffled twin", trained), ("head alone", against)):
    print(
        f"better than the {name}: {(own['value'] < 0).sum()} of {len(own)},",
        f"clearly: {(own['high'] < 0).sum()}",
    )

# %% [markdown]
# **Read.** None of the thirty clearly beats its twin, although 22 are ahead of it, and none beats the head alone. Better than
# the head alone is what any added capacity can do; better than the twin is what the weights do. Which of the two would you
# have reported?
#
# The second part of the argument, next to the first:

# %% alt="Line plot over the 30 layers: the pale curve of the donor's own states rises to ten points in the middle, the lit curve of one plugged layer stays within a point of zero at every depth."
checks.depth_figure("probe")

# %%
found = {part: rows["gain"] for part, rows in checks.gains_by_depth().items()}
print(
    f"own states:    {found['states'].min():+.1f} to {found['states'].max():+.1f} points"
)
print(
    f"plugged layer: {found['probe'].min():+.1f} to {found['probe'].max():+.1f} points"
)

# %% [markdown]
# **Read.** What the donor knows rises and falls by thirteen points with depth; what one of its layers adds to a single vector
# is flat, and less than one point either way. Will training change that? That is the next chapter's question.
#
# ## Exercises
#
# **Exercise 08.1.** What a layer adds: project `h` (batch, d_slm) by `P` (d_llm, d_slm), scale *all* vectors by one number
# so that their root mean square is `size`, call `layer` on sequences of one, subtract the input.


# %% tags=["exercise"]
def added(h, P, layer, size):
    return ...  # (batch, d_llm)


checks.check_added(added)


# %% tags=["solution"]
def added(h, P, layer, size):
    x = h @ P.T
    x = size * x / x.square().mean().sqrt()
    return (layer(x[:, None]) - x[:, None])[:, 0]


checks.check_added(added)

# %% [markdown]
# **Exercise 08.2.** $\Delta$ and its standard error, from each example's score in each draw: `real` and `shuffled`, both
# (draws, examples).


# %% tags=["exercise"]
def gain_with_error(real, shuffled):
    return ...  # mean, standard error


checks.check_gain_with_error(gain_with_error)


# %% tags=["solution"]
def gain_with_error(real, shuffled):
    each = (real - shuffled).mean(axis=0)  # one number an example
    return each.mean(), each.std(ddof=1) / len(each) ** 0.5


checks.check_gain_with_error(gain_with_error)

# %% [markdown]
# **Exercise 08.3.** The two terms of section 4 as they should be, from `alpha`, `beta`, the nonzero `eigenvalues` and the
# number of features.


# %% tags=["exercise"]
def log_volume(alpha, beta, eigenvalues, n_features):
    return ...  # nats


checks.check_log_volume(log_volume)


# %% tags=["solution"]
def log_volume(alpha, beta, eigenvalues, n_features):
    k = len(eigenvalues)  # not n_features: what no example has must cancel
    return (
        0.5 * k * np.log(alpha) - 0.5 * np.log(alpha + beta * eigenvalues).sum()
    )


checks.check_log_volume(log_volume)

# %% [markdown]
# ## What this does not show
#
# - What happens when the encoder is trained too: it can learn to write what the layer reads.
# - That no projection exists for which a layer helps: four kinds were tried, and one learned.
# - More than one encoder, one language model and sentences about films.
#
# ## Quiz

# %%
checks.quiz("08")

# %% [markdown]
# ## Summary
#
# - As a plug-in, a layer is a function on an encoder's vectors; what counts is what it adds to them.
# - The shuffled twin gains as much, or as little. Read real minus shuffled.
# - With fewer examples than features the released LogME measures lengths.
# - A probe that cannot choose between layers is worth knowing before one pays for training.
#
# **Words:** [plug-in probe](../book/glossary.md#plug-in-probe) · [gain](../book/glossary.md#gain) ·
# [branch](../book/glossary.md#branch) · [moments](../book/glossary.md#moments) ·
# [evidence](../book/glossary.md#evidence) ·
# [transferability estimator](../book/glossary.md#transferability-estimator)
#
# **Next:** [09 Which layer](09_which_layer.ipynb)
