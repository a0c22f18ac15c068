# %% [markdown]
# # 11 More than one layer
#
# **You will show that** several layers can be combined so that training starts exactly at one of them, and that most of
# what a combination gains is not its own: three seeds that vote gain as much.
#
# **After this notebook you can**
#
# - combine layers in series, side by side, and behind gates, and say where each design starts;
# - say how alike the things are that two layers add;
# - name the four controls of equal size, and what each of them rules out;
# - read a combination study without mistaking an ensemble for knowledge;
# - say in which wiring, and where in the donor, more layers add.
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 35 | 3 of 3 | [05](05_train_it.ipynb), [08](08_what_a_layer_does_to_an_encoder.ipynb), [09](09_which_layer.ipynb) | nothing new |

# %%
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt

import pifi_probe as pp
from pifi_probe import checks
from pifi_probe.layers.residual import residual_rms
from pifi_probe.plugin import tokenizer_for
from pifi_probe.reporting.looks import ARMS
from pifi_probe.reporting.plots import forest
from pifi_probe.training.controls import controls_at_equal_k

checks.start("11", seed=0)

# %%
checks.pifi_block("L_in", "layer", "L_out")

# %% [markdown]
# ## 1. Start at one layer
#
# **Why.** The paper asks whether the layers of a 70B model are too thin, each holding less, so that several are needed. A
# fair test trains a combination from the same start as a single layer: at first the others count for nothing, and training
# decides. With branches $B_j(x) = \mathrm{Layer}_j(x) - x$ the *mix* is
#
# $$y = \mathrm{Layer}_1(x) + \sum_{j=2}^{k} w_j\, B_j(x) \qquad w_j = 0 \text{ at the start},\; x \in \mathbb{R}^{576}$$
#
# **Predict.** A single layer and a mix of three, drawn with the same seed: how far apart are their first answers?

# %% tags=["guess"]
guess = None  # largest difference of a logit

# %%
task = pp.load_task("movie-reviews").subset(train=64, validation=16, test=16)
NAMES = ("smollm2-135m[-1]", "smollm2-135m[15]", "smollm2-135m[0]")
spread = pp.extract(" | ".join(NAMES))
single = pp.plug_in("minilm-l6", NAMES[0], task=task, wiring="matched").eval()
tokens = tokenizer_for(single)(
    list(task.splits["train"].texts[:8]), padding=True, return_tensors="pt"
)


@torch.no_grad()
def logits(model):
    """(batch, classes)"""
    return model.eval()(**tokens).logits


def trained(model, part=""):
    """Trained weights of a part of a model."""
    named = model.named_parameters()
    return sum(
        p.numel() for n, p in named if p.requires_grad and n.startswith(part)
    )


apart = {}
for design in ("mix", "unshared", "gated"):
    model = pp.plug_in(
        "minilm-l6", spread, task=task, wiring="matched", combine=design
    )
    apart[design] = float((logits(model) - logits(single)).abs().max())
    print(
        f"{design:9s} {trained(model) - trained(single):,} more weights train"
    )
assert not any(apart.values())
checks.reveal(guess, apart["mix"], form=".1f", live=False)

# %% [markdown]
# **Checkpoint.** In series the others sit behind gates. `M[28:30]` are two layers in a row:

# %%
chain = pp.extract("smollm2-135m[28:30]")
gated = pp.plug_in(
    "minilm-l6", chain, task=task, wiring="matched", combine="gated-serial"
)
first = pp.plug_in("minilm-l6", "smollm2-135m[28]", task=task, wiring="matched")
apart = float((logits(gated) - logits(first)).abs().max())
assert apart == 0
print(f"gated series starts {apart:.1f} from its first layer")

# %% [markdown]
# **Read.** Not at all: the starts are the same bit for bit, in all of these designs. A difference at the end is then a
# difference in what was learnt.
#
# ## 2. Do they add different things?
#
# **Why.** Two layers that add the same are one layer. We send the same projected vectors through five layers, each at its
# own scale, and compare what they add, by the mean cosine between branches of the same text:
#
# $$c_{ij} = \frac{1}{N} \sum_n \cos\big(B_i(s_i u_n),\, B_j(s_j u_n)\big) \qquad u_n \in \mathbb{R}^{576},\; \mathrm{rms}(u_n) = 1$$
#
# **Predict.** Which pair is most alike: neighbours in the middle, or the first and the last layer?

# %% tags=["guess"]
guess = None  # a pair

# %%
LAYERS = (0, 14, 15, 16, 29)
generator = torch.Generator().manual_seed(0)
u = torch.randn(64, 1, 576, generator=generator)
u = u / u.square().mean(-1, keepdim=True).sqrt()  # (batch, seq, d_llm)
added = {}
for index in LAYERS:
    layer = pp.extract(f"smollm2-135m[{index}]")
    x = residual_rms(layer.card) * u
    with torch.no_grad():
        added[index] = torch.nn.functional.normalize(
            (layer(x) - x)[:, 0], dim=-1
        )
alike = np.array(
    [
        [float((added[i] * added[j]).sum(-1).mean()) for j in LAYERS]
        for i in LAYERS
    ]
)

# %% alt="Heat map of the mean cosine between what five layers add to the same vectors; the diagonal is one, all other values are small."
figure, axes = plt.subplots(figsize=(3.6, 3))
image = axes.imshow(alike, vmin=-1, vmax=1, cmap="RdBu_r")
axes.grid(False)
axes.set(
    xticks=range(5), yticks=range(5), xticklabels=LAYERS, yticklabels=LAYERS
)
axes.set(xlabel="layer", ylabel="layer")
figure.colorbar(image, label="cosine")
plt.show()

# %%
pairs = {
    pair: alike[LAYERS.index(pair[0]), LAYERS.index(pair[1])]
    for pair in combinations(LAYERS, 2)
}
top, low = max(pairs, key=pairs.get), min(pairs, key=pairs.get)
assert all(abs(value) < 0.9 for value in pairs.values())
checks.reveal(guess, f"layers {top[0]} and {top[1]}", live=False)
for name, pair in (("most alike", top), ("least alike", low)):
    print(f"{name}: layers {pair[0]} and {pair[1]}, cosine ≈{pairs[pair]:.2f}")

# %% [markdown]
# **Read.** Even the two most alike, layers 14 and 16, have a cosine of only about 0.26: on vectors that mean nothing to them
# layers go in different directions. Different random layers would do that too. Different is not yet useful. What would be?
#
# ## 3. When it is only an ensemble
#
# **Why.** A combination has more parts than a single layer. The cheapest thing with more parts is the same model three
# times: let three *seeds* of one layer vote. With two classes a text is right when most of $k$ members are,
#
# $$\hat c_n = \mathbb{1}\Big[\tfrac{1}{k} \sum_{j=1}^{k} c_{jn} > \tfrac{1}{2}\Big] \qquad c \in \{0, 1\}^{k \times N}$$
#
# The truth table has the answers of every run, so votes cost nothing. We compare three seeds of one layer with three
# *layers* of one seed.
#
# **Predict.** What gains more over a single run: three seeds, or three layers?

# %% tags=["guess"]
guess = None  # "seeds" or "layers"

# %%
(truth,) = (
    table
    for table in pp.layerbench.tables()
    if table.name == "movie-reviews-matched"
)


def correct(arm, index, seed):
    """1 where the run was right, (texts,)."""
    return truth.scores[arm, index, seed]


def vote(members):
    """Share of texts on which most members are right, in points."""
    return 100 * float((np.mean(members, axis=0) > 0.5).mean())


chosen, seeds = (0, 15, 29), (0, 1, 2)
c = {i: [correct("layer", i, s) for s in seeds] for i in chosen}
alone = 100 * np.mean([c[i][s] for i in chosen for s in seeds])
of_seeds = [vote(c[i]) for i in chosen]
of_layers = [vote([c[i][s] for i in chosen]) for s in seeds]
vanilla = vote([correct("vanilla", 29, s) for s in seeds])
seeds_win = np.mean(of_seeds) > np.mean(of_layers)
checks.reveal(guess, "seeds" if seeds_win else "layers", live=False)
print(f"one run: {alone:.1f} %")
print(f"three seeds of one layer: {np.mean(of_seeds):.1f} %")
print(f"three layers of one seed: {np.mean(of_layers):.1f} %")
print(f"three seeds of the encoder alone: {vanilla:.1f} %")

# %% alt="Squares for the accuracy of single runs, of votes of three seeds of one layer and of votes of three layers of one seed, with the vote of three encoders alone as a dashed line."
figure, axes = plt.subplots(figsize=(5.5, 2.8))
groups = ([100 * x.mean() for i in chosen for x in c[i]], of_seeds, of_layers)
for place, values in enumerate(groups):
    colour, marker = ARMS["real"]
    axes.plot([place] * len(values), values, marker, color=colour, alpha=0.6)
axes.axhline(vanilla, ls="--", color="black", label="three encoders alone")
axes.set(
    xticks=range(3), xticklabels=["one run", "three seeds", "three layers"]
)
axes.set(ylabel="accuracy (%)", xlim=(-0.5, 2.5))
axes.legend(frameon=False, fontsize=8)
plt.show()

# %%
gap = np.mean(of_layers) - np.mean(of_seeds)
print(f"three layers minus three seeds: {gap:+.1f} points")

# %% [markdown]
# **Read.** Three seeds gain about one point over a single run, three layers a little less, and three encoders without any
# layer vote better than both. Is the difference between seeds and layers large compared with the spread within one column?
# If not, what votes is the noise of training, whatever the layers hold.
#
# ## 4. Four controls of equal size
#
# **Why.** A trained combination of $k$ layers is compared with things that have $k$ parts as well, each of which rules out
# one explanation:
#
# $$\Delta = \text{combination} - \max\big(\underbrace{\text{same layer } k \text{ times}}_{\text{more projections}},\;
# \underbrace{k \text{ shuffled layers}}_{\text{more blocks}},\; \underbrace{k \text{ seeds}}_{\text{voting}},\;
# \underbrace{\text{MLP}}_{\text{more trained weights}}\big)$$
#
# **Predict.** Which of the four trains the most weights: the same layer repeated, shuffled layers, the ensemble of seeds, or
# the MLP?

# %% tags=["guess"]
guess = None  # "repeated", "shuffled", "ensemble" or "mlp"

# %%
arms = controls_at_equal_k(
    "minilm-l6", spread, task, "matched", combine="unshared"
)
weights = {}  # between encoder and head, and in all
for name, make in arms.items():
    model = make(0)
    weights[name] = trained(model, "plugin"), trained(model)
weights["ensemble"] = 3 * trained(single, "plugin"), 3 * trained(single)
most = max(weights, key=lambda name: weights[name][1])
checks.reveal(guess, most, live=False)
for name, (between, whole) in weights.items():
    print(
        f"{name:9s} {between:,} weights between encoder and head,",
        f"{whole / 1e6:.1f} million in all",
    )

# %% [markdown]
# **Read.** The ensemble, which is three whole models. Between encoder and head all four train as many weights as the
# combination does: 1,327,104. One call makes them, so there is no excuse to leave them out. Which one would you expect to be
# the hardest to beat?
#
# ## 5. The record
#
# **Why.** A pair and a triple were chosen greedily by validation loss with a frozen encoder, a block of two neighbours
# among all, and each was trained in full next to its controls. A combination is compared with each of them, paired over
# seeds and texts; all arms together tell how much seeds matter. There are several comparisons, and all share the runs of
# the combination, so the p-values are corrected together (Dunnett). With $Z$ normal with the covariance of the differences,
# and $z_{(1)} \ge z_{(2)} \ge \dots$ the standardised differences that were found:
#
# $$\bar d = \frac{1}{SN} \sum_{s,n} \big(c^{\text{combination}}_{sn} - c^{\text{control}}_{sn}\big) \qquad
# p_{(i)} = \max_{j \le i} P\Big(\max_{k \ge j} |Z_{(k)}| \ge z_{(j)}\Big)$$
#
# **Predict.** Is any of the three better than *all* of its controls, correction and all?

# %% tags=["guess"]
guess = None  # "yes" or "no"

# %%
FILMS = "book/_studies/combinations/movie-reviews/summary.json"
record = checks.record(FILMS)
controls = pd.DataFrame(record["controls"]).query("metric == 'accuracy'")
points = ["difference", "low", "high"]
controls[points] = 100 * controls[points].astype(float)
better = (controls["difference"] > 0) & (controls["p_adjusted"] < 0.05)
beats_all = better.groupby(controls["combination"]).all()
checks.reveal(guess, "yes" if beats_all.any() else "no", live=False)
for name, chosen_layers in record["chosen"].items():
    print(
        f"{name:7s} {chosen_layers['design']:9s} layers {chosen_layers['layers']}"
    )
controls.set_index(["combination", "control"])[[*points, "p_adjusted"]].round(2)

# %% alt="Forest plot of the accuracy of a pair, a triple and a block of layers minus that of each of their controls, with intervals and a line at zero."
shown = controls.assign(
    arm=controls["combination"] + " - " + controls["control"],
    mean=controls["difference"],
)
forest(
    shown[["arm", "mean", "low", "high"]],
    value_label="to the control (points)",
)

# %%
checks.say(record["verdict"])
print("comparisons:", len(shown))

# %% [markdown]
# Movie reviews leave little to gain. The same study on news, eight topics of `reuters-r8` and the same 400 training texts,
# does not. Here is the triple in the metric that chose it; positive is better:

# %%
NEWS = "book/_studies/combinations/reuters-r8/summary.json"
news = checks.record(NEWS)
triple = pd.DataFrame(news["controls"]).query(
    "metric == 'nll' and combination == 'triple'"
)
checks.say(news["verdict"])
triple.set_index("control")[["difference", "low", "high", "p_adjusted"]].round(
    3
)

# %% [markdown]
# To make them again: `python benchmarks/combinations.py`. `pifi-probe reproduce multi-layer` asks the same in
# the paper's wiring; no run of it is recorded.
#
# **Read.** On films none of 24 comparisons finds a difference in accuracy. On news the triple beats the encoder alone by
# about 0.3 nats, the single layer and three single layers that vote by about 0.1 each. It does not beat one layer three
# times, nor three shuffled layers, and a trained MLP with as many weights beats it. That is more trained weights, not more
# layers of a language model. What would have been claimed without those three?
#
# ## 6. Where more layers do help
#
# **Why.** So far the layers read one vector. Aligned chains ([chapter 00b](00b_what_no_random_layer_can.ipynb)) read all
# tokens, frozen, and one after the other as in the donor. Every chain of one, two, four and eight layers was tested behind a
# frozen encoder. A chain of $n$ layers that begins at layer $a$ gains
#
# $$g(a, n) = A_{\text{encoder and chain}} - A_{\text{encoder}} \qquad n \in \{1, 2, 4, 8\}$$
#
# **Predict.** Among chains that begin in layers 6 to 12: how much do eight layers gain on tweets, in points, where one layer
# gains about one?

# %% tags=["guess"]
guess = None  # points

# %% alt="Lines of the gain over the first layer of the chain, films and tweets, one line a length: in the middle the line of eight layers is highest, then four, two and one; from layer 19 on all lie together near zero."
tasks = ("movie-reviews", "tweets")
figure, panels = plt.subplots(1, 2, figsize=(7, 2.8), sharey=True)
for axes, name in zip(panels, tasks, strict=True):
    chains, _ = checks.chain_gains(name)
    for n, rows in chains.sort_values("first").groupby("layers"):
        axes.plot(
            rows["first"],
            rows["gain"],
            color=ARMS["real"][0],
            alpha=0.4 + 0.2 * np.log2(n),
            label=f"{n} layer{'s' * (n > 1)}",
        )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="first layer", title=name)
panels[0].set_ylabel("points over the encoder")
panels[0].legend(frameon=False, fontsize=8)
plt.show()

# %%
gains = {}
for name in tasks:
    chains, _ = checks.chain_gains(name)
    middle = chains[chains["first"].between(6, 12)]
    late = chains[chains["first"] > 18]
    gains[name] = middle.groupby("layers")["gain"].mean()
    print(
        f"{name}, chains from layers 6 to 12:",
        ", ".join(
            f"{n} layer{'s' * (n > 1)} {round(gain, 1) + 0:+.1f}"
            for n, gain in gains[name].items()
        ),
    )
    print(
        f"  chains from layers 19 to 29: {round(late['gain'].mean(), 1) + 0:+.1f}"
    )
checks.reveal(guess, gains["tweets"][8], "points", ".1f", live=False)
assert all(own.is_monotonic_increasing for own in gains.values())

# %% [markdown]
# **Read.** In the middle each doubling of the chain adds: on tweets from about one point to nearly three, on films from none to
# more than three. Late in the donor no length does. More layers help where they can do together what they do in the donor:
# on all tokens, in order, at the depth where the task's knowledge is made. Each cell is one alignment and one set of test
# texts, so read the trend, not a single chain.
#
# ## Exercises
#
# **Exercise 11.1.** The mix of section 1: `layers` are functions of `x`, `weights` has one number for each layer after the
# first.


# %% tags=["exercise"]
def mix(x, layers, weights):
    return ...  # shape of x


checks.check_mix(mix)


# %% tags=["solution"]
def mix(x, layers, weights):
    y = layers[0](x)
    for weight, layer in zip(weights, layers[1:], strict=True):
        y = y + weight * (layer(x) - x)
    return y


checks.check_mix(mix)

# %% [markdown]
# **Exercise 11.2.** The accuracy of a vote of an odd number of models on two classes, from `correct` (models, texts).


# %% tags=["exercise"]
def majority_vote(correct):
    return ...  # a share


checks.check_majority_vote(majority_vote)


# %% tags=["solution"]
def majority_vote(correct):
    return (correct.mean(axis=0) > 0.5).mean()


checks.check_majority_vote(majority_vote)

# %% [markdown]
# **Exercise 11.3.** A dict of accuracies in points has `"single"`, `"combination"`, `"repeated"`, `"shuffled"`,
# `"ensemble"` and `"mlp"`. How much of the combination's accuracy is more than a control of equal size has?


# %% tags=["exercise"]
def more_than_ensemble(accuracy):
    return ...  # points


checks.check_more_than_ensemble(more_than_ensemble)


# %% tags=["solution"]
def more_than_ensemble(accuracy):
    controls = ("repeated", "shuffled", "ensemble", "mlp")
    return accuracy["combination"] - max(accuracy[name] for name in controls)


checks.check_more_than_ensemble(more_than_ensemble)

# %% [markdown]
# ## What this does not show
#
# - Anything about layers of a 70B model, which the paper's question is about.
# - That a combination could not be trained better: one recipe, a few hundred texts.
# - Votes of more members, or of members that were trained to differ.
#
# ## Quiz

# %%
checks.quiz("11")

# %% [markdown]
# ## Summary
#
# - Every design starts exactly at its first layer, so only what is learnt can differ.
# - More parts gain by being more: seeds that vote are the control.
# - A combination has something of its own only if it beats the best of four controls of equal size.
# - In an aligned chain of middle layers more layers do add: eight gain more than four, two and one.
#
# **Words:** [branch](../book/glossary.md#branch) · [gate](../book/glossary.md#gate) ·
# [ensemble](../book/glossary.md#ensemble) · [control](../book/glossary.md#control)
#
# **Next:** [12 Domain shift](12_domain_shift.ipynb)
