# %% [markdown]
# # 16 What it costs
#
# **You will show that** weights, memory and arithmetic of the block follow from its shapes, and that time does not: it has
# to be measured, against rivals, in turns.
#
# **After this notebook you can**
#
# - compute what training a model holds in memory, and compare it with a measurement;
# - count the multiply-accumulates of encoder and block, and say which one matters;
# - read a table of times with quartiles, and find what was not measured;
# - say when folding pays, and what the fair rivals of PiFi are.
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 30 | 2 of 3 | [03](03_pifi_from_scratch.ipynb), [04](04_one_token_through_a_layer.ipynb) | nothing new |

# %%
import statistics

from matplotlib import pyplot as plt

import pifi_probe as pp
from pifi_probe import checks
from pifi_probe.reporting.looks import ARMS

checks.start("16", seed=0)

# %%
checks.pifi_block("L_in", "layer", "L_out")

# %% [markdown]
# ## 1. One measurement, many arms
#
# **Why.** "PiFi is cheap" means nothing without "compared with what?". `pp.benchmark` makes the rivals from the same
# encoder: vanilla; the folded model of chapter 04; LoRA and IA3, which train few weights of the encoder; the same block
# with the LLM layer trained too; and an MLP with as many weights as both projections. The arms take turns in every round,
# so that what slows the machine for a moment slows all of them. A machine that others keep busy is refused, unless you
# allow it as here, where another chapter may be running.
#
# **Predict.** LoRA trains few weights. Does it also *hold* fewer weights than vanilla?

# %% tags=["guess"]
guess = None  # "fewer", "equal" or "more"

# %%
task = pp.load_task("movie-reviews").subset(train=64)
model = pp.plug_in("minilm-l6", "smollm2-135m[-1]", task=task, seed=0)
cost = pp.benchmark(
    model,
    task,
    pp.Recipe(batch_size=8, max_tokens=16, device="cpu"),
    batches=(1,),
    lengths=(16,),
    rounds=3,
    most_seconds=5,
    allow_busy=True,
)
arms = {arm.arm: arm for arm in cost.arms}
print(f"{'arm':18s} {'trained':>10s} {'held':>10s}")
for name, arm in arms.items():
    print(f"{name:18s} {arm.trainable / 1e6:8.2f} M {arm.total / 1e6:8.2f} M")
fewer = arms["LoRA"].total < arms["vanilla"].total
checks.reveal(guess, "fewer" if fewer else "more", live=False)

# %% [markdown]
# **Read.** More: LoRA trains a hundredth of the weights and holds a few more than vanilla. "Parameter-efficient" is about
# *trained* weights. PiFi is the other way round. It trains a little more than vanilla, and adds a frozen layer. Which of the
# two kinds costs memory?
#
# ## 2. Memory
#
# **Why.** In float32 a trained weight takes four numbers: itself, its gradient, and the two moments of Adam. A frozen
# weight takes one. With $n_t$ trained and $n_f$ frozen weights, training holds
#
# $$M = 4 \cdot (4\,n_t + n_f)\ \text{bytes} \;+\; \text{activations}$$
#
# **Predict.** By how much does PiFi raise the memory of training: the formula, without activations, for
# MiniLM and a SmolLM2 layer?

# %% tags=["guess"]
guess = None  # per cent

# %%
formula = {
    name: 4 * (4 * arm.trainable + (arm.total - arm.trainable))
    for name, arm in arms.items()
    if arm.training_bytes
}
more = formula["PiFi"] / formula["vanilla"] - 1
checks.reveal(guess, 100 * more, "% more", ".1f", live=False)

# %% [markdown]
# What was measured follows every tensor that training makes. It contains the activations and temporary tensors too:

# %% alt="Two bars for each arm: the memory that the formula gives and the measured peak of training; the measured one is a little higher for each arm."
figure, axes = plt.subplots(figsize=(6, 3.2))
places = range(len(formula))
axes.barh(
    [p + 0.2 for p in places],
    [v / 1e6 for v in formula.values()],
    height=0.38,
    label="formula",
    color="none",
    edgecolor="black",
)
axes.barh(
    [p - 0.2 for p in places],
    [arms[n].training_bytes / 1e6 for n in formula],
    height=0.38,
    label="measured",
    color="black",
)
axes.set_yticks(places, list(formula))
axes.set(xlabel="MB while training")
axes.legend(frameon=False)
plt.show()

# %%
order = sorted(formula, key=lambda name: arms[name].training_bytes)
print("measured, from least to most:", ", ".join(order))

# %% [markdown]
# **Checkpoint.** The formula leaves activations out; with short texts they add little:

# %%
for name, n_bytes in formula.items():
    assert 0.9 < arms[name].training_bytes / n_bytes < 3, name
assert formula["vanilla"] < formula["PiFi"] < formula["layer trained too"]
for name in ("vanilla", "PiFi", "layer trained too"):
    ratio = arms[name].training_bytes / formula[name]
    print(
        f"{name:18s} {formula[name] / 1e6:4.0f} MB by the formula, measured ≈{ratio:.2f} times that"
    )

# %% [markdown]
# **Read.** A frozen layer adds about a twentieth to the memory of training, a trained one more than three times as much.
# This is what freezing buys: one number for each weight instead of four.
#
# ## 3. Arithmetic
#
# **Why.** The encoder works on $T$ tokens, the block on one. With $N_{\mathrm{enc}}$ entries in the encoder's matrices and
# $N_{\mathrm{blk}}$ in those of the block,
#
# $$\text{MACs} \approx \underbrace{T \cdot N_{\mathrm{enc}}}_{\text{encoder}} + \underbrace{N_{\mathrm{blk}}}_{\text{block}}
# \qquad\text{(plus attention, } 2T^2 d_s \text{ for each layer)}$$
#
# **Predict.** For a text of 128 tokens: what share of the arithmetic does the block add?

# %% tags=["guess"]
guess = None  # per cent

# %%
added = arms["PiFi"].macs_measured - arms["vanilla"].macs_measured
share = added / arms["vanilla"].macs_measured
checks.reveal(guess, 100 * share, "% more", ".2f", live=False)
print(f"the block: {added / 1e6:.2f} million MACs for each text, however long")

# %% [markdown]
# **Checkpoint.** Counted from the shapes, without running anything, gives the same:

# %%
for name, arm in arms.items():
    ratio = arm.macs_measured / arm.macs_counted
    assert abs(ratio - 1) < 0.02
    print(f"{name:18s} measured / counted = {ratio:.3f}")

# %% [markdown]
# ## 4. Time
#
# **Why.** Arithmetic is not time: small matrices keep a processor waiting for memory, and a frozen layer of an 8B model
# must be *read* for every step, even if it multiplies little. So time is measured, and reported as a median with quartiles
# of rounds that took turns:
#
# $$r = \frac{\operatorname{median}_k t^{\text{arm}}_k}{\operatorname{median}_k t^{\text{vanilla}}_k}$$
#
# What *your* machine just measured is not printed here, because it is different each time; call `cost` in a cell of your
# own to see it. We read the recorded run on two processor cores.
#
# **Predict.** A step of training with the *small* encoder and the layer of SmolLM2, compared with vanilla: how many times as
# long?

# %% tags=["guess"]
guess = None  # times

# %%
record = checks.record("benchmarks/results/efficiency.json")
rows = [row for row in record["rows"] if row.get("MB")]
step = {
    row["arm"]: row["step / vanilla"]
    for row in rows
    if row["encoder + layer"] == "small + 135M" and row["step / vanilla"]
}
checks.reveal(guess, step["PiFi"], "times as long", ".2f", live=False)
for arm, times in step.items():
    print(f"{arm:18s} {times:.2f} times a step of vanilla")

# %% [markdown]
# Inference of one text of 128 tokens, for each pair that was measured, compared with the encoder alone:

# %% alt="For each pair of encoder and layer, the time of one text through PiFi and through folded PiFi divided by vanilla's, with a line at one."
SHAPE = "1 x 128, ms"
alone = {
    row["encoder + layer"]: row[SHAPE]["median"]
    for row in rows
    if row["arm"] == "vanilla" and row[SHAPE]
}
figure, axes = plt.subplots(figsize=(6, 3.2))
colour, marker = ARMS["real"]
for arm, fill in (("PiFi", "full"), ("PiFi, folded", "none")):
    own = {
        row["encoder + layer"]: row[SHAPE]["median"]
        for row in rows
        if row["arm"] == arm and row[SHAPE]
    }
    axes.plot(
        [own[pair] / alone[pair] for pair in own],
        list(own),
        marker,
        color=colour,
        fillstyle=fill,
        label=arm,
        linestyle="",
    )
axes.axvline(1, color="black", linewidth=1)
axes.set(xlabel="times the encoder alone", xscale="log")
axes.legend(frameon=False)
plt.show()

# %%
for pair, base in alone.items():
    shown = []
    for arm in ("PiFi", "PiFi, folded"):
        for row in rows:
            if (row["encoder + layer"], row["arm"]) == (pair, arm) and row[
                SHAPE
            ]:
                shown.append(f"{arm} {row[SHAPE]['median'] / base:.2f}")
    print(f"{pair:14s} {'  '.join(shown)}")

# %% [markdown]
# **Read.** With SmolLM2's layer a step of training takes about an eighth longer, and a text less than a tenth. The layer of an
# 8B model makes a tiny encoder eleven times as slow, in the folded form one and a half times: where the layer is large
# compared with the encoder, the block is *not* cheap, and the folded form is worth the effort. Ratios that differ by ten per cent may
# be noise, and those below 1 are. Where would you look to tell? At the quartiles.
#
# **Checkpoint.** What was *not* measured is part of a table. Pairs that did not fit, or whose step took longer than the
# benchmark allows (there may be none):

# %%
left_out = [row for row in record["rows"] if not row.get("MB")]
without_step = sorted(
    {row["encoder + layer"] for row in rows if row["arm"] == "PiFi"}
    - {
        row["encoder + layer"]
        for row in rows
        if row["arm"] == "PiFi" and row["step / vanilla"]
    }
)
assert all("left out" in row["arm"] for row in left_out)
for row in left_out:
    print(f"{row['encoder + layer']}: {row['arm']}")
print("no time of a training step:", ", ".join(without_step) or "none")

# %% [markdown]
# The command that measures again (an hour on two cores; the machine should do nothing else; on a GPU add
# `--device cuda`):
#
# ```bash
# python benchmarks/efficiency.py
# ```
#
# ## 5. Folded
#
# **Why.** For serving, chapter 04 multiplied the projections into the layer. Weights and bytes tell whether that is
# smaller; only a measurement tells whether it is faster.
#
# **Predict.** For which pair is the folded form clearly smaller: MiniLM with SmolLM2, or BERT with an 8B model?

# %% tags=["guess"]
guess = None  # a pair

# %%
folds = checks.recorded_table("benchmarks/results/fold.json", "rows")
sizes = folds.groupby("pair")["MB"].agg(["first", "last"])  # before, after
smallest = (sizes["last"] / sizes["first"]).idxmin()
checks.reveal(guess, smallest, live=False)
for row in folds.itertuples():
    print(f"{row.pair:40.40s} {row.fold:24s} {row.MB:7.1f} MB")

# %% [markdown]
# To measure it again: `python benchmarks/fold.py`.
#
# **Read.** Behind BERT the block of an 8B model shrinks to less than a third; that of MiniLM and SmolLM2 stays as it is,
# since folding would enlarge it. What would you have to measure before you say that it is faster?
#
# ## Exercises
#
# **Exercise 16.1.** Bytes that training in float32 with Adam holds for these weights, without activations.


# %% tags=["exercise"]
def training_bytes(trained, frozen):
    return ...  # bytes


checks.check_training_bytes(training_bytes)


# %% tags=["solution"]
def training_bytes(trained, frozen):
    return 4 * (4 * trained + frozen)


checks.check_training_bytes(training_bytes)

# %% [markdown]
# **Exercise 16.2.** Multiply-accumulates of `L_in`, the reduced layer and `L_out` on one token. The reduced layer has the
# values (`d_value` wide) with their way out, and a gated MLP.


# %% tags=["exercise"]
def plugin_macs(d_slm, d_llm, d_mlp, d_value):
    return ...  # a whole number


checks.check_plugin_macs(plugin_macs)


# %% tags=["solution"]
def plugin_macs(d_slm, d_llm, d_mlp, d_value):
    projections = 2 * d_slm * d_llm
    values = 2 * d_value * d_llm
    return projections + values + 3 * d_llm * d_mlp


checks.check_plugin_macs(plugin_macs)

# %% [markdown]
# **Exercise 16.3.** Two arms took turns in rounds; `own` and `base` are their seconds. How many times as long does `own`
# take?


# %% tags=["exercise"]
def slower(own, base):
    return ...  # times


checks.check_slower(slower)


# %% tags=["solution"]
def slower(own, base):
    return statistics.median(a / b for a, b in zip(own, base, strict=True))


checks.check_slower(slower)

# %% [markdown]
# ## What this does not show
#
# - A GPU: there the arithmetic is cheaper, the waiting is different, and ratios change. The same script measures it.
# - Quality. A cheaper arm that is worse is not a bargain: see chapters 05 and 12 for gains next to controls.
# - The one-time cost of finding the layer (chapter 10), and of reading it (chapter 02).
#
# ## Quiz

# %%
checks.quiz("16")

# %% [markdown]
# ## Summary
#
# - Trained weights take four numbers each, frozen ones one: freezing is what keeps a large layer affordable.
# - The block works on one token, the encoder on all: in arithmetic the block is small next to a usual encoder.
# - Time is measured in turns, with quartiles and with what was left out. A large layer on a tiny encoder is not cheap.
#
# **Words:** [multiply-accumulate](../book/glossary.md#multiply-accumulate) · [moments](../book/glossary.md#moments) ·
# [latency](../book/glossary.md#latency) · [folding](../book/glossary.md#folding)
#
# **Next:** [17 The search widget, guided](17_the_search_widget.ipynb)
