# %% [markdown]
# # 05 Train it
#
# **You will show that** a trained PiFi model says little on its own: it takes seeds, an interval and controls to tell a
# gain from chance, and the language model's knowledge from the rest of the block.
#
# **After this notebook you can**
#
# - train a PiFi model and prove that its layer stayed frozen;
# - compare arms over seeds and test examples, and say what an interval allows;
# - name the control that removes each possible reason for a gain;
# - recognise four broken models by what `pp.diagnose` says about them.
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 35 | 2 of 3 | [03](03_pifi_from_scratch.ipynb) | nothing new |

# %%
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from scipy.stats import t as student
from torch import nn

import pifi_probe as pp
from pifi_probe import checks
from pifi_probe.layers.residual import residual_rms
from pifi_probe.probing.encoder_vectors import slm_features
from pifi_probe.probing.frozen_slm import Vectors, frozen_slm, make_arm
from pifi_probe.reporting.looks import ARMS
from pifi_probe.reporting.plots import forest
from pifi_probe.tasks import Split

checks.start("05", seed=0)

# %%
checks.pifi_block("encoder", "L_in", "L_out", "head")

# %% [markdown]
# The lit parts are what training moves.
#
# ## 1. One run
#
# **Why.** Fine-tuning minimises the cross-entropy of the labels over all weights $\theta$ except those of the layer,
# $\phi$. With $N$ texts, $K$ classes and label smoothing $\epsilon$:
#
# $$\min_\theta\; -\frac{1}{N}\sum_{n=1}^N \sum_{k=1}^K q_{nk} \ln p_{nk}(\theta; \phi)
# \qquad q_{nk} = (1 - \epsilon)\,[y_n = k] + \tfrac{\epsilon}{K} \qquad p, q \in \mathbb{R}^{N \times K}$$
#
# Training the encoder takes minutes. If we leave it as it is, we can compute its vectors $h$ once and train only
# $W_{in}$, $W_{out}$ and the head, which takes seconds. We do this for two *arms* (an arm is one of the models that are
# compared): the head on $h$ alone, and the head after the plugged layer. Each is trained with three seeds on 600
# reviews.
#
# **Predict.** What percentage of 400 new reviews will the model with the layer get right?

# %% tags=["guess"]
guess = None  # per cent

# %%
task = pp.load_task("movie-reviews").subset(train=600, validation=16, test=400)
layer = pp.extract("smollm2-135m[-1]")


def vectors(split):
    """The frozen encoder's vectors (N, d_slm) with their labels."""
    rows = task.splits[split]
    h = slm_features(
        "minilm-l6", rows, max_tokens=32, device="cpu", cache=False
    )[0]
    return Vectors(h, rows.labels)


train, test = vectors("train"), vectors("test")
size = residual_rms(layer.card)  # how long the layer's inputs usually are
arms = {
    "head alone": make_arm(None, "vanilla"),
    "with the layer": make_arm(layer, target_rms=size),
}
trained = dict(
    zip(
        arms,
        frozen_slm(arms.values(), train, test, n_labels=2, epochs=4),
        strict=True,
    )
)

# %% alt="Line plot of the loss on held-out reviews after each of four passes over the training reviews: that of the head alone falls and stays low; with the layer it is lowest after the first pass and rises until it is above the loss of a fair coin, drawn as a dashed line."
figure, axes = plt.subplots(figsize=(6, 2.8))
for (name, run), arm in zip(trained.items(), ("vanilla", "real"), strict=True):
    loss = run.validation_nll.mean(0)  # (epochs,), mean of the seeds
    colour, marker = ARMS[arm]
    axes.plot(range(1, 5), loss, marker, ls="-", color=colour, label=name)
axes.axhline(np.log(2), color="black", linestyle="--", label="fair coin")
axes.set(xlabel="epoch", ylabel="loss (nats)", xticks=range(1, 5))
axes.legend(frameon=False)
plt.show()

# %%
right = {name: 100 * run.correct.mean(1) for name, run in trained.items()}
assert all(68 < value.mean() < 85 for value in right.values())
checks.reveal(guess, right["with the layer"].mean(), "% right", ".0f")
for name, each in right.items():
    print(f"{name:15s}", " ".join(f"≈{value:.1f} %" for value in each))

# %% [markdown]
# **Read.** After a few seconds of training about three quarters of the new reviews are classified correctly, with or
# without the layer. With the layer there are more weights to learn the training reviews by heart: the loss on held-out
# reviews rises after the first epoch, and ends above that of a fair coin, because the model becomes sure of wrong answers.
# That is why the best epoch is kept. Which arm is better? One draw of 600 reviews cannot tell; section 2 asks properly.
#
# `pp.fine_tune` trains the encoder too, with the recipe of the reference code: it keeps the best epoch by the validation
# split and reads the test split once. Here it takes 64 reviews and one epoch, to see that it works and what it leaves alone.

# %%
task = pp.load_task("movie-reviews").subset(train=64, validation=16, test=64)
recipe = pp.Recipe(epochs=1, batch_size=8, max_tokens=32, device="cpu")
model = pp.plug_in("minilm-l6", layer, task=task, wiring="matched")
healthy = pp.fine_tune(model, task, recipe)
loss = healthy.curves["loss"]  # one a step
assert len(loss) == 8 and 0.6 < loss[0] < 0.8 and 0.5 < np.mean(loss) < 0.9
print(f"first loss ≈{loss[0]:.2f}, last loss ≈{loss[-1]:.2f} nats")
print(f"a fair coin: ln 2 = {np.log(2):.2f}")

# %% [markdown]
# **Checkpoint.** Did the layer stay? A digest is a sha256 over all of its weights: one changed bit gives another one.

# %%
digests = healthy.layer_digests
(plugged,) = model.frozen_layers  # reduced to what one token needs
assert digests["before"] == digests["after"] == [plugged.card.sha256]
print(
    "digests that changed in training:",
    sum(
        a != b for a, b in zip(digests["before"], digests["after"], strict=True)
    ),
)

# %% [markdown]
# **Read.** No digest changed: the layer is bit for bit the one that was plugged in. Eight steps hardly get beyond a fair
# coin, from a loss of about 0.69 to one of about 0.64. Everything below that needs fully trained models is read from
# recorded runs.
#
# ## 2. Seeds and intervals
#
# **Why.** A seed draws the head, the projections, the order of the texts and the dropout. Another seed gives another
# accuracy, and so would another test set. For arms $a$ and $b$, seeds $s = 1..S$ and test examples $n = 1..N$ with
# scores $c^a, c^b \in \{0, 1\}^{S \times N}$, we compare *pairs*: same seed, same example.
#
# $$d_{sn} = c^a_{sn} - c^b_{sn} \qquad \bar d = \frac{1}{SN}\sum_{s,n} d_{sn} \qquad
# \mathrm{half} = \sqrt{\mathrm{half}_{\text{seeds}}^2 + \mathrm{half}_{\text{examples}}^2}$$
#
# The recorded *truth table* holds full runs of every arm, trained on 400 reviews. We read the encoder alone, the last
# layer, and its controls, three seeds each.
#
# **Predict.** By how many points of accuracy do the three seeds of *one* arm differ, the best from the worst?

# %% tags=["guess"]
guess = None  # points

# %%
folder = checks.recorded("book/_studies/truth/movie-reviews-matched")
arms = ("vanilla", "linear", "mlp", "random", "shuffled", "unfrozen", "layer")
runs = {
    arm: [
        pp.RunResult.from_json(file)
        for file in sorted(folder.glob(f"{arm}-29-seed*.json"))
    ]
    for arm in arms
}


def correct(arm):
    """Right or wrong, (seeds, examples)."""
    return np.stack(
        [
            run.tests["movie-reviews"].per_example("accuracy")
            for run in runs[arm]
        ]
    )


points = {arm: 100 * correct(arm).mean(axis=1) for arm in arms}  # (seeds,)
checks.reveal(guess, np.ptp(points["layer"]), "points", ".1f", live=False)
for arm in arms:
    each = ", ".join(f"{value:.1f}" for value in points[arm])
    print(f"{arm:9s} {each}   best - worst: {np.ptp(points[arm]):.1f}")

# %% [markdown]
# To make these runs again: `python benchmarks/truth_table.py movie-reviews-matched`.
#
# **Read.** The seeds of the layer lie about one point apart, those of the encoder alone more than two: as far as the arms
# do. With one seed each you could have reported almost any order. Which order would the first seeds have given?
#
# Now the interval, by hand. Three seeds say little about their own spread, so Student's $t$ with two degrees of freedom widens it;
# over examples a normal interval will do for so many of them.

# %%
d = 100 * (correct("layer") - correct("vanilla"))  # (seeds, examples), points
S, N = d.shape
half_seeds = student.ppf(0.975, S - 1) * d.mean(1).std(ddof=1) / S**0.5
half_examples = 1.96 * d.mean(0).std(ddof=1) / N**0.5
half = np.hypot(half_seeds, half_examples)
print(f"{S} seeds, {N} examples")
print(
    f"by hand:    {d.mean():+.1f} [{d.mean() - half:+.1f}, {d.mean() + half:+.1f}]"
)

# %% [markdown]
# **Checkpoint.** For two arms alone `pp.compare` does the same, with a bootstrap over examples:

# %%
alone = pp.compare([*runs["vanilla"], *runs["layer"]])
frame = alone.frame
frame = frame[frame["test"] == "movie-reviews"].set_index("arm")
row = frame.loc["matched: smollm2-135m[29]"]
low, high = 100 * row["difference_low"], 100 * row["difference_high"]
assert (
    abs(low - (d.mean() - half)) < 0.2 and abs(high - (d.mean() + half)) < 0.2
)
print(f"pp.compare: {100 * row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]")
checks.say("its verdict:", row["verdict"])

# %% [markdown]
# **Read.** The layer is about one and a half points behind, and the interval reaches from nearly five points behind to
# nearly two ahead, so no difference is detectable. The verdict is a sentence, so you do not have to make one up. It is about
# this run's size; the interval says which differences it could have missed. Could it have missed a gain of two points?
#
# Three seeds of two arms say little about how much seeds matter, but the other arms were trained with the same seeds. A
# seed that shifts every arm equally is not noise between arms, so `pp.compare` subtracts the shift, and it estimates the
# spread that is left from all arms together ([the method](../book/methods.md)).

# %%
comparison = pp.compare([run for own in runs.values() for run in own])
frame = comparison.frame
frame = frame[frame["test"] == "movie-reviews"].set_index("arm")
row = frame.loc["matched: smollm2-135m[29]"]
together = 100 * (row["difference_high"] - row["difference_low"])
print(f"two arms alone: {high - low:.1f} points wide, all arms: {together:.1f}")
checks.say(comparison.answer)

# %% [markdown]
# ## 3. Is it the language model's knowledge?
#
# **Why.** Plugging in a layer changes more than one thing: two more linear maps, a nonlinear block, larger vectors, and,
# last, what the language model knows. Controls add these one by one, each a *step* of
# the *ladder* from the encoder alone to the real layer. With accuracies $A$:
#
# $$A_{real} - A_{vanilla} = \underbrace{(A_{linear} - A_{vanilla})}_{\text{projections}}
# + \underbrace{(A_{random} - A_{linear})}_{\text{a block of this shape}}
# + \underbrace{(A_{real} - A_{random})}_{\text{knowledge}}$$
#
# | control | keeps | removes |
# |---|---|---|
# | `vanilla` | encoder, head, recipe | the whole block |
# | `linear` | $W_{in}$ and $W_{out}$ | the layer |
# | `random` | the layer's shape, mean and spread of each matrix | its weights: new ones are drawn |
# | `shuffled` | the sizes of the weights, matrix by matrix | their order |
# | `mlp` | as many trained weights | the layer, as a trained MLP |
# | `unfrozen` | everything | the freezing: chapter 06 |
#
# The recorded demo trained the paper's own wiring on 1,000 reviews.
#
# **Predict.** Which of the three terms is the largest in absolute value?

# %% tags=["guess"]
guess = None  # "projections", "block" or "knowledge"

# %%
DEMO = "benchmarks/results/demo-full.json"
against = {
    base: checks.recorded_table(DEMO, "comparisons", base, "rows")
    .query("test == 'movie-reviews'")
    .set_index("arm")
    for base in ("vanilla", "random")
}
last = "pifi: smollm2-135m[29]"
A = 100 * against["vanilla"]["mean"]
ladder = [
    A["pifi: vanilla"],
    A["pifi: linear"],
    A["pifi: random smollm2-135m[29]"],
    A[last],
]
names = ("projections", "block", "knowledge")
steps = dict(zip(names, np.diff(ladder), strict=True))
checks.reveal(guess, max(steps, key=lambda name: abs(steps[name])), live=False)
for name, step in steps.items():
    print(f"{name:12s} {step:+.1f} points")
print(f"{'together':12s} {ladder[-1] - ladder[0]:+.1f} points")

# %% [markdown]
# To make this record again: `pifi-probe demo --full`. Now with intervals, against both baselines:

# %% alt="Forest plot in two panels, the last layer's difference to the encoder alone and to the layer with random weights, each with its interval and a line at zero."
columns = ["difference", "difference_low", "difference_high"]
found = pd.DataFrame(
    [100 * rows.loc[last, columns].astype(float) for rows in against.values()]
).set_axis(["mean", "low", "high"], axis=1)
found = found.assign(arm=last, group=[f"against {base}" for base in against])
forest(found, value_label="difference (points)")

# %%
for base, rows in against.items():
    checks.say(f"{last} against {base}: {rows.loc[last, 'verdict']}")

# %% [markdown]
# **Read.** The block costs about four points and its knowledge gives back less than one, which the second interval cannot
# distinguish from nothing. A claim about *knowledge* is the second line, never the first. Do the terms of the ladder and
# the two verdicts lead you to the same sentence?
#
# One task is one task. The paper's first claim is an average over many. Our version of it, `pifi-probe reproduce
# main-nlu --scale small`, takes an hour and no run of it is recorded. What is recorded are tables in which many layers
# and their twins were trained on one task each; judged with all their runs, they answer this:

# %%
decided = checks.record("book/_studies/decided.json")
for name, tests in decided["tables"].items():
    checks.say(f"{name}: {tests[0]['answer']}\n")

# %% [markdown]
# To judge them again: `python book/_scripts/decided_page.py --judge`; [Decided then, decided now](../book/decided.md) shows
# every interval, and what could be said before all runs were judged together.
#
# **Read.** Of five tables, plugging in is undecided on three; it costs nearly seven points on `movie-reviews-paper` and gains
# more than fourteen on `newsgroups`. The first sentence of each is the paper's claim, the other two are what controls add.
# Where does the gain on `newsgroups` come from?
#
# ## 4. Break it four ways
#
# **Why.** The paper names signs of a PiFi model that went wrong. We cause each of them and read what
# `pp.diagnose` finds. What is checked:
#
# $$\mathrm{sha256}(\phi_{after}) = \mathrm{sha256}(\phi_{before}) \qquad W_{in} \in \mathbb{R}^{d \times d_s}$$
#
# $$\frac{\text{bytes of the texts}}{\text{tokens}} \ge 3 \qquad \lVert g_t \rVert \le 5 \text{ at most steps } t$$
#
# First the model from above, which should be healthy. Its gradients are numbers of live training, so we look at the status
# of each check. One more, "sight of the weights", depends on whether your machine has measured the positive control of
# [chapter 00b](00b_what_no_random_layer_can.ipynb), so it is left out here:

# %%
well = pp.diagnose(healthy, task=task)
steady = [one for one in well.checks if one.name != "sight of the weights"]
for check in steady:
    print(f"{check.status:8s} {check.name}")
assert {check.status for check in steady} == {"ok", "skipped"}

# %% [markdown]
# **Predict.** We unfreeze the layer; give $W_{in}$ a wrong width; feed Korean texts to an English donor; multiply the
# projections' learning rate by 100. Which of the four raises an error when you call the model?

# %% tags=["guess"]
guess = None  # a number from 1 to 4

# %%
said = {}
unfrozen = pp.plug_in("minilm-l6", layer, task=task, wiring="matched")
for weight in unfrozen.plugin.layers.parameters():
    weight.requires_grad_(True)
said["1 unfrozen"] = pp.diagnose(unfrozen)["the layer is frozen"]

too_narrow = pp.plug_in("minilm-l6", layer, task=task, wiring="matched")
too_narrow.plugin.L_in = nn.Linear(384, 512, bias=False)
said["2 wrong width"] = pp.diagnose(too_narrow)["dimensions"]

for name, check in said.items():
    checks.say(f"{name}: {check.status}. {check.finding}")
    checks.say("  ->", check.advice)

# %%
from pifi_probe.plugin import tokenizer_for

tokens = tokenizer_for(model)(["A wonderful film."], return_tensors="pt")
for number, broken in enumerate((unfrozen, too_narrow), start=1):
    try:
        broken(**tokens)
    except RuntimeError as error:
        checks.reveal(guess, number, live=False)
        checks.say("it raises:", error)

# %% [markdown]
# **Read.** The second: a wrong width stops you at once. The unfrozen layer answers, and would have trained without a word.
# Would you have noticed the other two?
#
# Next, the language. The donor's tokenizer tells whether its model has ever read much of such texts:

# %%
korean = (
    "정말 재미있는 영화였어요.",
    "두 시간이 아까웠습니다.",
    "배우들의 연기가 훌륭했다.",
    "이야기가 너무 지루하고 길다.",
)
foreign = Split(texts=korean, labels=(1, 0, 1, 0), ids=("a", "b", "c", "d"))
said["3 wrong language"] = pp.diagnose(
    model, task=replace(task, splits={"test": foreign}, language="ko")
)["language of the donor"]
checks.say(
    said["3 wrong language"].status, "|", said["3 wrong language"].finding
)
checks.say("->", said["3 wrong language"].advice)

# %% [markdown]
# Last, the learning rate of the projections, a hundred times too high:

# %%
model = pp.plug_in("minilm-l6", layer, task=task, wiring="matched")
too_fast = recipe.replace(lr_projection=100 * healthy.lr_projection)
burnt = pp.fine_tune(model, task, too_fast)
said["4 rate x 100"] = pp.diagnose(burnt, task=task)["gradients"]
norms = {
    name: float(np.median(run.curves["grad_norm"]))
    for name, run in (("healthy", healthy), ("burnt", burnt))
}
assert norms["burnt"] > 10 * norms["healthy"]
times = norms["burnt"] / norms["healthy"]
print(said["4 rate x 100"].status, f"| gradients ≈{times:.0f} times as large")
checks.say("->", said["4 rate x 100"].advice)

# %% [markdown]
# **Checkpoint.** All four were found, each by its own check:

# %%
for name, check in said.items():
    print(f"{name:17s} {check.status:5s} {check.name}")
assert all(check.status in ("warn", "fail") for check in said.values())

# %% [markdown]
# **Read.** One of the four raises, three are silent. `pp.diagnose` costs nothing: call it before you believe a result,
# whichever way it came out. With `runs=` it also compares the arm with its controls:

# %%
others = [run for arm in arms[:-1] for run in runs[arm]]
diagnosis = pp.diagnose(runs["layer"][0], runs=[*runs["layer"], *others])
print(diagnosis["better than its controls"].status)
checks.say("->", diagnosis["better than its controls"].advice)

# %% [markdown]
# ## Exercises
#
# **Exercise 05.1.** The interval over seeds alone, from one difference a seed (an array of length $S$) and the quantile
# `t`. Return `low, high`.


# %% tags=["exercise"]
def seed_interval(differences, t):
    return ...  # low, high


checks.check_seed_interval(seed_interval)


# %% tags=["solution"]
def seed_interval(differences, t):
    error = differences.std(ddof=1) / len(differences) ** 0.5
    half = t * error
    return differences.mean() - half, differences.mean() + half


checks.check_seed_interval(seed_interval)

# %% [markdown]
# **Exercise 05.2.** The three terms of section 3, from a dict with the accuracies of `"vanilla"`, `"linear"`,
# `"random"` and `"real"`. Return a dict with `"projections"`, `"block"` and `"knowledge"`.


# %% tags=["exercise"]
def gain_parts(accuracy):
    return ...  # a dict of three differences


checks.check_gain_parts(gain_parts)


# %% tags=["solution"]
def gain_parts(accuracy):
    return {
        "projections": accuracy["linear"] - accuracy["vanilla"],
        "block": accuracy["random"] - accuracy["linear"],
        "knowledge": accuracy["real"] - accuracy["random"],
    }


checks.check_gain_parts(gain_parts)

# %% [markdown]
# **Exercise 05.3.** A PiFi model gains. Four sceptics each name a reason that has nothing to do with knowledge. Which
# control (`"vanilla"`, `"linear"`, `"random"`, `"shuffled"`, `"unfrozen"`, `"mlp"`) would gain as much if the sceptic is
# right? The reasons: `"two linear maps"`, `"a random block of this shape"`, `"the sizes of the weights, not their
# order"`, `"more trained weights"`.

# %% tags=["exercise"]
control_for = ...  # a dict: reason to control

checks.check_control_for(control_for)

# %% tags=["solution"]
control_for = {
    "two linear maps": "linear",
    "a random block of this shape": "random",
    "the sizes of the weights, not their order": "shuffled",
    "more trained weights": "mlp",
}

checks.check_control_for(control_for)

# %% [markdown]
# ## What this does not show
#
# - The recorded runs have a 6-layer encoder, a language model of 135 million weights, and few training texts. The paper
#   used larger ones; its claims are neither confirmed nor refuted here.
# - Three seeds say little about a fourth: an interval over them is honest but wide.
# - Four broken models are not all broken models. A diagnosis without a finding does not prove health.
#
# ## Quiz

# %%
checks.quiz("05")

# %% [markdown]
# ## Summary
#
# - Training moves encoder, projections and head; the digest proves that the layer stayed.
# - Arms are compared in pairs, over seeds and examples, with a verdict in words.
# - Knowledge is what the real layer has beyond the random one.
# - Of the four ways to break PiFi, three are silent; `pp.diagnose` finds them.
#
# **Words:** [arm](../book/glossary.md#arm) · [seed](../book/glossary.md#seed) · [interval](../book/glossary.md#interval) ·
# [control](../book/glossary.md#control) · [vanilla](../book/glossary.md#vanilla) ·
# [digest](../book/glossary.md#digest) · [recipe](../book/glossary.md#recipe)
#
# **Next:** [06 Frozen or fine-tuned](06_frozen_or_fine_tuned.ipynb)
