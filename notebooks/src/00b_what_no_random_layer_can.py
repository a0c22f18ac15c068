# %% [markdown]
# # 00b What a layer can do that no random layer can
#
# **You will show that** one frozen layer of a language model can do something that no layer with other weights of the
# same size does; and that this needs a sequence, the right depth and an interface that fits, all at once.
#
# **After this notebook you can**
#
# - run a positive control, and say why a "no effect" means nothing without one;
# - tell what a layer's weights do from what its shape does, by shuffled and random twins;
# - put a foreign encoder in front of two layers with one ridge regression;
# - take the conditions away one by one, and say which of them PiFi's own wiring lacks.
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 30 | 2 of 3 | [00](00_start_here.ipynb) | nothing new |

# %%
import pandas as pd
from matplotlib import pyplot as plt

import pifi_probe as pp
from pifi_probe import checks
from pifi_probe.layers.control import PositiveControl
from pifi_probe.reporting.looks import ARMS, group_of

checks.start("00b", seed=0)

# %%
checks.pifi_block("L_in", "layer")

# %% [markdown]
# ## 1. A task for a layer
#
# **Why.** Before we ask whether a layer helps a small model, we want one case in which its weights matter beyond doubt.
# Take $n$ different words in random order, then the same words again:
#
# $$w_1\, w_2 \dots w_n\;\; w_1\, w_2 \dots w_n$$
#
# In the second half the next word is known: look for the current word in the first half, and copy what followed it.
# Knowing the language does not help, and a random guess among $K$ words is right one time in $K$.
#
# The words go through SmolLM2. A linear readout, fitted on other sequences, predicts the next word from each state:
# before a layer, after it, and after its *twins*. A **shuffled** twin holds the same numbers in another order, a
# **random** one holds new numbers of the same mean and spread.
#
# **Predict.** We look at layers 16 to 19 of 30. After which of them can most of the next words be read for the first
# time?

# %% tags=["guess"]
guess = None  # 16, 17, 18 or 19

# %%
SMALL = {"n_words": 100, "length": 12, "n_fit": 96, "n_test": 24}
control = pp.positive_control("smollm2-135m", "16-19", **SMALL)
print("chance:", f"1 in {control.settings['n_words']}")

# %% alt="Grouped bars for layers 16 to 19: next words read without the layer, after the real layer, after its shuffled and random twins. Only layers 17 and 18 rise above all of their twins; the jump at layer 18 is by far the largest."
SHOWN = {  # arm: colour and pattern
    "none": ("black", ""),
    "real": (ARMS["real"][0], ""),
    "shuffled": (ARMS["twins"][0], ""),
    "random": (ARMS["twins"][0], "///"),
}
figure, axes = plt.subplots(figsize=(6.5, 2.8))
for place, (arm, (colour, pattern)) in enumerate(SHOWN.items()):
    found = [100 * row.accuracy(arm).mean for row in control.rows]
    axes.bar(
        [row.layers[0] + 0.2 * (place - 1.5) for row in control.rows],
        found,
        width=0.19,
        color=colour,
        hatch=pattern,
        edgecolor="white",
        label="no layer" if arm == "none" else arm,
    )
axes.set(xlabel="layer", ylabel="next words read (%)", xticks=range(16, 20))
axes.legend(frameon=False, ncols=2)
plt.show()

# %%
most = [row for row in control.rows if row.accuracy("real").mean > 0.5]
checks.reveal(guess, most[0].layers[0], live=False)
for row in control.rows:
    line = ", ".join(
        f"{arm} ≈{100 * row.accuracy(arm).mean:.0f} %" for arm in SHOWN
    )
    print(f"layer {row.layers[0]}: {line}")
print(
    "layers that do what no twin does:",
    [row.layers[0] for row in control.rows if control.works(row.layers)],
)

# %% [markdown]
# **Read.** After layer 16 about one word in a hundred can be read, which is chance; after layer 17 about 19, after layer 18
# about 70. The twins of layer 18 have its shape, its numbers and its skip connection, and behind them fewer words can be
# read than before the layer. Why does "no layer" read the word at layer 19? Because the skip connection carries forward
# what layer 18 has found.
#
# **Checkpoint.** The effect is large, and not due to luck with these sequences:

# %%
row = control[18]
assert row.gain("shuffled").low > 0.3 and row.gain("random").low > 0.3
assert row.gain("none").low > 0.3
for arm in ("none", "shuffled", "random"):
    over = row.gain(arm)
    print(
        f"layer 18 - {arm:8s} ≈{100 * over.mean:+.0f} points, at least ≈{100 * over.low:.0f}"
    )

# %% [markdown]
# This is a **positive control**: a case in which the effect is known to be there. A pipeline that finds nothing here would
# find nothing anywhere. `pp.positive_control` asks it of any donor, `pp.diagnose` reads the answer.
#
# ## 2. One token at a time
#
# **Why.** PiFi's own wiring hands the layer one pooled vector for a whole text. Its attention then has one token to look
# at: itself. The control has an arm for this: the same real layer gets every token as a sequence of its own.
#
# **Predict.** How much of layer 18's gain is left?

# %% tags=["guess"]
guess = None  # per cent of the gain

# %%
left = row.accuracy("one token").mean - row.accuracy("none").mean
gain = row.gain("none").mean
assert abs(left) < 0.3 * gain
checks.reveal(guess, 100 * left / gain, "% of the gain", ".0f")

# %% [markdown]
# **Read.** Practically nothing, within a few per cent of zero. The layer's weights still act on the token, but what they
# know is a relation *between* tokens. How many tokens does copying need at least?
#
# ## 3. Every layer
#
# **Why.** Four layers are not thirty, and the paper takes the last one. The whole control takes minutes, so we read the
# recorded one; `pifi-probe control smollm2-135m` makes it again.

# %%
record = checks.record("benchmarks/results/control.json")
measured = record["measurements"]["smollm2-135m"]
whole = PositiveControl.from_dict(measured["own states"]["control"])
checks.say(whole.answer)

# %% alt="Accuracy of the next word over the 30 layers of SmolLM2, one line for each arm: the real layer rises at 17, jumps at 18 and once more at 23; twins and single tokens follow one layer behind, because the skip connection hands on what earlier layers found."
whole.figure()

# %%
print("layers that work:", [row.layers[0] for row in whole.working])
last = whole[29]
for arm in ("none", "real", "shuffled", "random"):
    print(f"layer 29, {arm:9s} {100 * last.accuracy(arm).mean:5.1f} %")

# %% [markdown]
# **Predict.** Somebody plugs in layer 29, finds no gain over its random twin and concludes: "language models have nothing
# to give to small encoders." What would you answer?

# %% tags=["guess"]
guess = None  # in words

# %%
assert not whole.works(29) and whole.works(18)
print("your guess:", checks.guessed(guess))
for index in (18, 29):
    above = 100 * whole[index].gain("none").mean
    print(f"layer {index} on its own states: {above:+.1f} points over no layer")

# %% [markdown]
# **Read.** On its own model's states layer 29 costs about one point, and layer 18 gains more than 57. The conclusion is
# about layer 29 with this feed. It says nothing about the donor. Which layer would you have tried first?
#
# ## 4. A foreign code
#
# **Why.** So far the layer saw its own model's states. PiFi gives it an encoder's vectors. We take the most foreign
# encoder there is: an arbitrary code, $c(w)$, of random numbers for each word. One linear map has to bring it to the
# layer's input:
#
# $$\hat{x}_t = s\,\big(W_{in}\,[\,c(w_t),\; c(w_{t-1})\,] + b\big)$$
#
# $W_{in}$ is one ridge regression to the donor's own states, fitted on sequences in which **no word occurs twice**: it
# cannot learn to match or to copy. Each target state is divided by its root mean square, since a few states are a
# hundred times longer than the others and would dominate the fit. Then layers 17 and 18 run in series.
#
# **Predict.** How many of the next words can be read after the two layers, compared with the donor's own states?

# %% tags=["guess"]
guess = None  # "nearly none", "about as many" or "more"

# %%
foreign = pp.positive_control(
    "smollm2-135m", "17-18", foreign=True, n_align=96, **SMALL
)
chain = foreign[17, 18]
theirs, own = (one.accuracy("real").mean for one in (chain, row))
more = "more" if theirs > own + 0.1 else "about as many"
checks.reveal(guess, more if theirs > own - 0.1 else "nearly none")
print(f"behind a foreign code:   ≈{100 * theirs:.0f} %")
print(f"on the donor's states:   ≈{100 * own:.0f} %")

# %%
assert chain.gain("shuffled").low > 0.4 and chain.gain("random").low > 0.4
assert chain.accuracy("none").high < 0.1 > chain.accuracy("one token").high
for arm in ("none", "one token", "shuffled", "random"):
    print(f"{arm:9s} ≈{100 * chain.accuracy(arm).mean:.0f} % of the next words")

# %% [markdown]
# **Read.** Behind the two layers about 99 % of the next words can be read, more than the 70 % or so behind layer 18 on the
# donor's own states; behind the interface alone about one in a hundred. So the knowledge sits in the layers, and a foreign
# encoder gets at it through a *linear* map that was fitted without labels and without a single example of the task. Which
# of the arms shows that the map did not learn to copy?
#
# ## 5. Film reviews
#
# **Why.** Nobody needs random words. The same wiring for real text: MiniLM's token states instead of codes, the
# ridge regression on unlabelled reviews, a chain of middle layers, and a linear readout next to the encoder's own. Here in
# miniature, so that you see the parts:

# %%
task = pp.load_task("movie-reviews")
table = pp.probe_chain(
    "minilm-l6",
    "smollm2-135m",
    task,
    "13-14",
    arms=("encoder", "interface", "real", "shuffled"),
    n_train=120,
    n_test=60,
    n_align=120,
)
fit = table.info["interface"]
print(
    "the alignment saw:",
    fit["saw"]["texts"],
    "texts, labels:",
    fit["saw"]["labels"],
)
assert 0.1 < fit["r2"] < 0.9
print(
    f"share of the donor's states (R²) predicted on new texts: ≈{fit['r2']:.2f}"
)

# %% [markdown]
# So few texts settle nothing. The recorded run has more of them; take a condition away and see what is left. Try the
# others: `"8-14"`, `"12-14"`, `"14"`, `"0-6"`, `"23-29"`.
#
# **Predict.** Seven middle layers, 8 to 14, are worth some points over the encoder alone. How many are left with their
# shuffled twins?

# %% tags=["guess"]
guess = None  # points

# %%
conditions = checks.record("book/_studies/conditions.json")
chains = {
    layers: pd.DataFrame(found["differences"]).query(
        f"metric == 'accuracy' and n_labels == {conditions['n_train']}"
    )
    for layers, found in conditions["chains"].items()
}


def gain_of(layers, arm, over="encoder"):
    rows = chains[layers].query(f"a == '{arm}' and b == '{over}'")
    return 100 * rows[["difference", "low", "high"]].iloc[0]


def said(layers, arm, over="encoder"):
    mean, low, high = gain_of(layers, arm, over)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


left = gain_of("8-14", "shuffled")["difference"]
checks.reveal(guess, left, "points", "+.1f", live=False)
print("real     - encoder:", said("8-14", "real"))
print("shuffled - encoder:", said("8-14", "shuffled"))
print("random   - encoder:", said("8-14", "random"))

# %% [markdown]
# **Read.** The real layers are worth about five points, either twin less than one. Where is the gain, then: in the
# weights, in the shape of the layers, or in the interface?
#
# ## 6. Take the conditions away
#
# **Why.** Four things came together: a *sequence* of tokens, *middle* layers, an *aligned* interface, and a *chain* of
# several. Remove one at a time.
#
# **Predict.** Which of the four can be left out at the smallest cost?

# %% tags=["guess"]
guess = None  # "sequence", "middle", "alignment" or "length"

# %%
REMOVED = {
    "all four: layers 8 to 14": ("8-14", "real"),
    "without the sequence": ("8-14", "one token"),
    "without the alignment": ("8-14", "unaligned"),
    "shorter: layers 12 to 14": ("12-14", "real"),
    "shorter: layer 14": ("14", "real"),
    "too early: layers 0 to 6": ("0-6", "real"),
    "too late: layers 23 to 29": ("23-29", "real"),
    "no layer: interface": ("8-14", "interface"),
    "shuffled twin": ("8-14", "shuffled"),
    "random twin": ("8-14", "random"),
}

# %% alt="Points over the encoder alone with 95 percent intervals on movie reviews: all four conditions together on top, then one condition removed at a time, and the interface, shuffled twin and random twin at the bottom, near zero."
figure, axes = plt.subplots(figsize=(6.5, 3.6))
for place, (layers, arm) in enumerate(REMOVED.values()):
    mean, low, high = gain_of(layers, arm)
    colour, marker = ARMS[group_of(arm) or "real"]
    # filled: the interval leaves out zero
    filled = "full" if low > 0 or high < 0 else "none"
    axes.plot([low, high], [-place, -place], color=colour)
    axes.plot(mean, -place, marker, color=colour, fillstyle=filled)
axes.axvline(0, color="black", linewidth=0.8)
axes.set_yticks([-place for place in range(len(REMOVED))], list(REMOVED))
axes.set_xlabel("points over the encoder alone")
plt.show()

# %%
assert gain_of("8-14", "real")["difference"] > 4.5
WITHOUT = {  # the most that is left
    "sequence": "without the sequence",
    "middle": "too late: layers 23 to 29",
    "alignment": "without the alignment",
    "length": "shorter: layers 12 to 14",
}
kept = {
    one: gain_of(*REMOVED[name])["difference"] for one, name in WITHOUT.items()
}
checks.reveal(guess, max(kept, key=kept.get), live=False)
for name, which in REMOVED.items():
    print(f"{name:26s} {said(*which)}")

# %% [markdown]
# **Read.** Length is the cheapest, and no condition is cheap. Three layers instead of seven keep nearly three of the five
# points; late layers keep about one; without the sequence or the alignment less than one is left, hardly more than the
# twins have. Which intervals leave out zero?
#
# PiFi's paper wiring has one pooled vector, the last layer, and a random $W_{in}$ that is trained with everything else:
# it starts with none of the four. The rest of the course measures what it does all the same, and the twins come along in
# every chapter.
#
# **Checkpoint.** All four together beat every twin; no twin beats the encoder by as much:

# %%
full = gain_of("8-14", "real")
assert full["low"] > 0
assert all(
    gain_of("8-14", "real", over)["low"] > 0
    for over in ("interface", "shuffled", "random")
)
for over in ("encoder", "interface", "shuffled", "random"):
    print(f"real - {over:9s}", said("8-14", "real", over))

# %% [markdown]
# ## Exercises
#
# **Exercise 00b.1.** Be the layer: predict the next word by matching and copying. Return `None` where the last word has
# not occurred before.


# %% tags=["exercise"]
def next_word(words):
    return ...  # a word or None


checks.check_next_word(next_word)


# %% tags=["solution"]
def next_word(words):
    for place in range(len(words) - 2, -1, -1):
        if words[place] == words[-1]:
            return words[place + 1]
    return None


checks.check_next_word(next_word)

# %% [markdown]
# **Exercise 00b.2.** What only *these* weights do: the accuracy after the real layer, minus the best that is
# reached without its weights.


# %% tags=["exercise"]
def effect(none, real, shuffled, random):
    return ...  # a difference


checks.check_effect(effect)


# %% tags=["solution"]
def effect(none, real, shuffled, random):
    return real - max(none, shuffled, random)


checks.check_effect(effect)

# %% [markdown]
# **Exercise 00b.3.** Which of the four conditions does the paper's wiring lack at the start: one pooled vector, the last
# layer, $W_{in}$ drawn at random?

# %% tags=["exercise"]
lacking = ...  # a set of "sequence", "middle", "alignment", "length"

checks.check_lacking(lacking)

# %% tags=["solution"]
lacking = {"sequence", "middle", "alignment", "length"}

checks.check_lacking(lacking)

# %% [markdown]
# ## What this does not show
#
# - One donor, one encoder, one alignment, short English texts. The study of chains on eleven tasks is
#   [Aligned chains](../book/aligned.md).
# - The donor's own probe at the chain's exit is better than the chain. A chain needs neither the donor's tokenizer nor
#   the layers below, and gives a part of what the whole donor has.
# - Nobody knows whether the donor read these reviews in its pre-training. The alignment has seen no label.
# - Nothing was trained by gradient descent. From a random start a fresh random block can be easier to train through than a frozen
#   real one.
#
# ## Quiz

# %%
checks.quiz("00b")

# %% [markdown]
# ## Summary
#
# - A positive control shows that an effect of weights can be seen; without one, "no effect" is not a finding.
# - Layers 17 and 18 of SmolLM2 match and copy; their twins, and single tokens, do not.
# - With a sequence, middle layers, an aligned interface and a chain of several, the weights help a frozen encoder on
#   film reviews. Take one away and most of the gain goes.
#
# **Words:** [positive control](../book/glossary.md#positive-control) · [twin](../book/glossary.md#twin) ·
# [interface](../book/glossary.md#interface) · [chain](../book/glossary.md#chain) ·
# [interval](../book/glossary.md#interval)
#
# **Next:** [01 What a transformer layer does](01_what_a_layer_does.ipynb)
