# %% [markdown]
# # 06 Frozen or fine-tuned
#
# **You will show that** "freezing preserves knowledge" is two questions, what the layer forgets and what the task gains,
# and that each can be measured.
#
# **After this notebook you can**
#
# - say which of a layer's matrices a sequence of one token can train, and why;
# - measure forgetting: put the tuned layer back into its language model and read plain text;
# - tell forgetting from mere distance, with noise of the same length;
# - count how many test sentences a difference between frozen and tuned needs.
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 30 | 2 of 3 | [04](04_one_token_through_a_layer.ipynb), [05](05_train_it.ipynb) | nothing new |

# %%
import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt

import pifi_probe as pp
from pifi_probe import checks
from pifi_probe.experiments.whole import load_whole
from pifi_probe.plugin import tokenizer_for
from pifi_probe.reporting.plots import forest

checks.start("06", seed=0)

# %%
checks.pifi_block("layer")

# %% [markdown]
# ## 1. What can one token train?
#
# **Why.** Remove the freezing, and you have the control `unfrozen`. The layer still sees one token, and over one token the attention
# weight is one whatever the score $s$ is (chapter 04). So the score has no influence, and no gradient:
#
# $$\frac{\partial}{\partial s}\,\frac{e^s}{e^s} = 0 \quad\Rightarrow\quad
# \frac{\partial \mathcal{L}}{\partial W_q} = 0, \;\; \frac{\partial \mathcal{L}}{\partial W_k} = 0
# \qquad W_q \in \mathbb{R}^{n_h d_h \times d},\; W_k \in \mathbb{R}^{n_{kv} d_h \times d}$$
#
# **Predict.** Of the layer's seven matrices, how many get a gradient?

# %% tags=["guess"]
guess = None  # of seven

# %%
task = pp.load_task("movie-reviews").subset(train=48, validation=16, test=16)
model = pp.plug_in(
    "minilm-l6",
    "smollm2-135m[-1]",
    task=task,
    wiring="pifi",
    control="unfrozen",
)
(layer,) = model.frozen_layers
tokens = tokenizer_for(model)(
    list(task.splits["train"].texts[:4]), padding=True, return_tensors="pt"
)
labels = torch.tensor(task.splits["train"].labels[:4])
model(**tokens, labels=labels).loss.backward()
size = {
    name.split(".")[-2]: float(weight.grad.norm())
    for name, weight in layer.block.named_parameters()
    if weight.grad.dim() == 2
}
model.zero_grad()
trained = [name for name in size if size[name] > 1e-4 * max(size.values())]
checks.reveal(guess, len(trained), "matrices", live=False)
for name in size:
    print(f"{name:10s} {'trains' if name in trained else 'stands still'}")

# %% [markdown]
# **Checkpoint.** Queries and keys hold a part of the layer that cannot forget, whatever we do:

# %%
still = sum(
    weight.numel()
    for name, weight in layer.block.named_parameters()
    if "q_proj" in name or "k_proj" in name
)
assert set(size) - set(trained) == {"q_proj", "k_proj"}
print(f"{still / layer.n_params:.0%} of the layer's weights stand still")

# %% [markdown]
# **Read.** Five of seven: "fine-tuning the layer" means its values, its output matrix and its MLP. What a head looks at, an
# eighth of the weights, stays as it was.
#
# ## 2. How far do the weights move?
#
# **Why.** Forgetting needs movement. We measure it for each matrix as a share of its length:
#
# $$m(W) = \frac{\lVert W' - W \rVert_F}{\lVert W \rVert_F}
# \qquad \lVert W \rVert_F = \Big(\sum_{ij} W_{ij}^2\Big)^{1/2}$$
#
# We train for six steps, at ten times the paper's rate so that something moves at all.
#
# **Predict.** By what share of its length does a matrix of the MLP move?

# %% tags=["guess"]
guess = None  # per cent

# %%
before = {k: v.clone() for k, v in layer.block.state_dict().items()}
recipe = pp.Recipe(
    epochs=1, batch_size=8, max_tokens=32, learning_rate=5e-4, device="cpu"
)
run = pp.fine_tune(model, task, recipe)
after = {k: v.clone() for k, v in layer.block.state_dict().items()}
moved = {
    name.split(".")[-2]: float((after[name] - before[name]).norm())
    / float(before[name].norm())
    for name in before
}

# %% alt="Bar chart of the relative change of each weight of the layer on a logarithmic axis; queries and keys move far less than values, output, MLP and norms."
figure, axes = plt.subplots(figsize=(6, 2.8))
axes.barh(list(moved), list(moved.values()), color="black")
axes.set(xlabel="relative change", xscale="log", xlim=(5e-5, 2e-2))
plt.show()

# %%
assert all(1e-3 < moved[name] < 0.1 for name in trained)
assert all(moved[name] < 2e-3 for name in ("q_proj", "k_proj"))
checks.reveal(guess, 100 * moved["up_proj"], "% of its length", ".1f")
for name in ("v_proj", "o_proj", "q_proj", "k_proj"):
    print(f"{name} ≈{100 * moved[name]:.2f} %")

# %% [markdown]
# **Read.** What trains moves by less than one per cent of its length. Queries and keys should not have moved at all,
# yet they did, a little. Their gradient is zero only up to rounding, and Adam divides each gradient by its own usual
# size: what is left of rounding becomes a small step. A digest would rightly call this layer changed.
#
# ## 3. Put it back
#
# **Why.** A layer on its own knows nothing. What it forgot shows up where it came from: put the tuned layer back into SmolLM2 and
# let that model read plain text, here newspaper editorials. With $T$ tokens $w_t$ of a text, the loss is
#
# $$\ell = -\frac{1}{T - 1}\sum_{t=2}^{T} \ln p(w_t \mid w_1, \dots, w_{t-1}) \qquad
# F = \ell_{\text{tuned layer}} - \ell_{\text{original}} \quad \text{(nats per token)}$$
#
# **Predict.** The unchanged model's loss is about five nats per token. How much does the tuned layer add?

# %% tags=["guess"]
guess = None  # nats per token

# %%
whole = load_whole("smollm2-135m")
texts = pp.load_task("news-editorials").splits["test"].texts[:6]


def losses(weights):
    """One loss a text, with these weights in the layer's place."""
    layer.block.load_state_dict(weights)
    with whole.with_layer(layer):
        return whole.text_losses(texts, max_tokens=64)


original = whole.text_losses(texts, max_tokens=64)
forgotten = (losses(after) - original).mean()
assert abs(forgotten) < 0.05
checks.reveal(guess, forgotten, "nats per token", "+.3f")
print(f"the unchanged model: ≈{original.mean():.2f} nats per token")

# %% [markdown]
# **Checkpoint.** When we take the layer out again the model is as it was, and the layer's old weights change nothing:

# %%
assert np.allclose(whole.text_losses(texts, max_tokens=64), original, atol=1e-4)
assert np.allclose(losses(before), original, atol=1e-3)
print("the original loss is back")

# %% [markdown]
# Six steps do not go far. How far is *too* far? We go on in the direction of training, $W + k\,(W' - W)$, and just as
# far in a random direction. If training erased something in particular, its direction would hurt more than noise.

# %%
generator = torch.Generator().manual_seed(0)
noise = {}
for name in before:
    direction = torch.randn(before[name].shape, generator=generator)
    length = (after[name] - before[name]).norm()
    noise[name] = before[name] + direction * length / direction.norm()

scales = (1, 10, 30, 100)
curves = {
    kind: [
        (
            losses({n: before[n] + k * (end[n] - before[n]) for n in before})
            - original
        ).mean()
        for k in scales
    ]
    for kind, end in (("tuned", after), ("noise", noise))
}

# %% alt="Line plot of the added loss on plain text against the distance, as multiples of what training moved, for the direction of training and for noise; both stay near zero at first and rise steeply at large distances."
figure, axes = plt.subplots(figsize=(6, 2.8))
for (kind, values), marker in zip(curves.items(), "os", strict=True):
    axes.plot(scales, values, marker=marker, label=kind)
axes.set(xscale="log", xlabel="distance (1: what training moved)")
axes.set(ylabel="added loss (nats/token)", yscale="symlog")
axes.legend(frameon=False)
plt.show()

# %%
for kind, values in curves.items():
    assert abs(values[0]) < 0.05 and values[-1] > 1
    near, far = values[0], values[-1]
    print(f"{kind}: ≈{near:+.3f} nats at distance 1, ≈{far:.1f} at 100")

# %% [markdown]
# **Read.** As far away as training went, neither direction adds a hundredth of a nat; a hundred times as far, training's
# direction adds about eleven and noise about four. Forgetting depends on distance first and on direction second. A layer
# that was tuned for a few hundred steps at a small rate may well be "fine-tuned" and have forgotten next to nothing. How far
# does a *full* run go? Our record has the answer, with three seeds and 200 texts:

# %%
record = checks.experiment("frozen-vs-tuned")
record

# %%
table = pd.DataFrame(record.extra("forgetting"))
table.round(4).T if len(table) else record

# %% [markdown]
# To make it again: `pifi-probe reproduce frozen-vs-tuned --scale small`. These are the intervals of its recording, each
# arm by its own seeds; [Decided then, decided now](../book/decided.md) has what all runs together say.
#
# **Read.** After full runs the loss is the same to four digits, and the interval reaches two thousandths of a nat either way:
# next to nothing was forgotten. How large could the change still be, compared with the loss before?
#
# ## 4. And the task? In domain and under shift
#
# **Why.** Forgetting matters to the task only if what was forgotten was of use, most likely on texts unlike those of
# training. So we compare frozen and unfrozen in pairs, on the test set of the task and on two others:
#
# $$\bar d_{\text{test}} = \frac{1}{SN}\sum_{s,n}\big(c^{\text{frozen}}_{sn} - c^{\text{tuned}}_{sn}\big)
# \qquad c \in \{0,1\}^{S \times N}$$
#
# **Predict.** On which of film reviews, tweets and product reviews does freezing help most?

# %% tags=["guess"]
guess = None  # "movie-reviews", "tweets" or "product-reviews"

# %%
folder = checks.recorded("book/_studies/truth/movie-reviews-matched")
frozen, tuned = (
    [
        pp.RunResult.from_json(file)
        for file in sorted(folder.glob(f"{arm}-29-seed*.json"))
    ]
    for arm in ("layer", "unfrozen")
)
compared = pp.compare([*frozen, *tuned], baseline=tuned[0].label)
checks.say(compared.verdict())
rows = compared.frame
rows = rows[rows["difference"].notna()].set_index("test")

# %% alt="Forest plot of the difference frozen minus tuned in points of accuracy on film reviews, tweets and product reviews, each with its interval and a line at zero."
columns = ["difference", "difference_low", "difference_high"]
points = 100 * rows[columns].astype(float)
points = points.set_axis(["mean", "low", "high"], axis=1)
forest(points.assign(arm=points.index), value_label="frozen - tuned (points)")

# %%
helps = points[points["low"] > 0]["mean"]
found = helps.idxmax() if len(helps) else "none of them, as far as can be told"
checks.reveal(guess, found, live=False)
for test, own in points.iterrows():
    print(
        f"{test:15s} {own['mean']:+.2f} [{own['low']:+.2f}, {own['high']:+.2f}]"
    )

# %% [markdown]
# To make these runs again: `python benchmarks/truth_table.py movie-reviews-matched`.
#
# **Read.** Freezing helps on none of the three as far as these runs can tell: each interval includes zero, and on film
# reviews it rules out even a gain of half a point. How large a gain does it still allow on tweets?
#
# ## 5. How many sentences would it take?
#
# **Why.** The paper supports freezing with one pair of numbers on SST-2: 91.50 frozen, 91.27 fully fine-tuned. Two arms
# differ only on sentences where one is right and the other wrong; let $q$ be their share. To find a difference
# $\delta$ with 80 % power at the 5 % level, over examples alone, one needs about
#
# $$N \approx \frac{(1.96 + 0.84)^2\; q}{\delta^2}$$
#
# **Predict.** SST-2's test set has 1,821 sentences. How many are needed?

# %% tags=["guess"]
guess = None  # sentences

# %%
delta = (91.50 - 91.27) / 100
right = [
    np.stack([r.tests["movie-reviews"].per_example("accuracy") for r in own])
    for own in (frozen, tuned)
]
q = float((right[0] != right[1]).mean())  # share of examples, mean over seeds
needed = (1.96 + 0.84) ** 2 * q / delta**2
checks.reveal(guess, needed, "sentences", ",.0f", live=False)
print(f"frozen and tuned disagree on {q:.1%} of our test sentences")
print(f"with such a share, {delta:.2%} needs {needed:,.0f} sentences")
print(f"1,821 sentences can find {((1.96 + 0.84) ** 2 * q / 1821) ** 0.5:.2%}")

# %% [markdown]
# **Read.** More than 4,400, more than twice as many as SST-2 has, and the formula leaves the seeds out, so it asks for too
# few. Whatever the truth about freezing, one such pair of numbers on one test set says little about it.
#
# ## Exercises
#
# **Exercise 06.1.** Which of `"q_proj"`, `"k_proj"`, `"v_proj"`, `"o_proj"`, `"gate_proj"`, `"up_proj"`, `"down_proj"` can
# a sequence of one token train? Write the set.

# %% tags=["exercise"]
trainable = ...  # a set of names

checks.check_trainable_on_one_token(trainable)

# %% tags=["solution"]
trainable = {"v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}

checks.check_trainable_on_one_token(trainable)

# %% [markdown]
# **Exercise 06.2.** How far has a *whole* layer moved? One number from two dicts of tensors.


# %% tags=["exercise"]
def relative_change(before, after):
    return ...  # a number


checks.check_relative_change(relative_change)


# %% tags=["solution"]
def relative_change(before, after):
    moved = sum((after[name] - before[name]).square().sum() for name in before)
    length = sum(weight.square().sum() for weight in before.values())
    return float((moved / length).sqrt())


checks.check_relative_change(relative_change)

# %% [markdown]
# **Exercise 06.3.** Forgetting, from the losses of the same texts before and after (arrays, nats per token).


# %% tags=["exercise"]
def forgetting(before, after):
    return ...  # nats per token


checks.check_forgetting(forgetting)


# %% tags=["solution"]
def forgetting(before, after):
    return (after - before).mean()


checks.check_forgetting(forgetting)

# %% [markdown]
# ## What this does not show
#
# - Training the layer on whole sequences, where queries and keys do get gradients: more could be forgotten there.
# - Other kinds of knowledge than the next word of an editorial.
# - The live curve is one run on six texts: its shape is the point, not its values.
#
# ## Quiz

# %%
checks.quiz("06")

# %% [markdown]
# ## Summary
#
# - On one token, queries and keys get no gradient: values, output and MLP can forget.
# - Forgetting is the change of the loss on plain text with the layer put back; it grows with distance.
# - Whether freezing helps the task is another question, with an interval of its own for each test set.
#
# **Words:** [forgetting](../book/glossary.md#forgetting) · [frozen layer](../book/glossary.md#frozen-layer) ·
# [domain shift](../book/glossary.md#domain-shift) · [digest](../book/glossary.md#digest) ·
# [power](../book/glossary.md#power)
#
# **Next:** [07 What layers know](07_what_layers_know.ipynb)
