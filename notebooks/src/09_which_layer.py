# %% [markdown]
# # 09 Which layer?
#
# **You will show that** a table of full runs for every layer can have a clear winner and no layer effect at all, and that
# a few lines of statistics tell the two apart before anybody writes "the last layer is best".
#
# **After this notebook you can**
#
# - test whether there is anything to select;
# - measure what a winner loses on seeds that did not choose it;
# - say how well any cheap score *could* rank the layers, and how well a smooth curve does by chance;
# - compare early, middle and last layers as the paper does, with an interval.
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 35 | 3 of 3 | [05](05_train_it.ipynb), [07](07_what_layers_know.ipynb), [08](08_what_a_layer_does_to_an_encoder.ipynb) | nothing new |

# %%
import numpy as np
from matplotlib import pyplot as plt
from scipy.stats import f as f_distribution

import pifi_probe as pp
from pifi_probe import checks
from pifi_probe.ranking import (
    layer_effect,
    noise_ceiling,
    rank_agreement,
    regret_at,
    smooth_null,
)
from pifi_probe.reporting.looks import ARMS

checks.start("09", seed=0)

# %%
checks.pifi_block("layer")

# %% [markdown]
# ## 1. The truth table
#
# **Why.** The paper compares a few layers and finds the last one best. We trained *all* of them: MiniLM with each of the 30
# layers of SmolLM2, three seeds each, 400 film reviews. This is the quality of layer $\ell$ with seed $s$,
#
# $$Q \in \mathbb{R}^{30 \times 3} \qquad Q_{\ell s} = \text{accuracy on 1,000 test texts}$$
#
# **Predict.** Each of the three seeds has a best layer. How many different layers will that be?

# %% tags=["guess"]
guess = None  # 1, 2 or 3

# %%
bench = pp.layerbench.load()  # a row for each recorded run, layer or control


def scores(table):
    """Mean test scores of every layer, larger is better: (layers, seeds)."""
    own = bench[(bench["table"] == table) & (bench["kind"] == "layer")]
    sign = 1 if (own["metric"] == "accuracy").all() else -1  # an error
    return sign * own.pivot(index="layer", columns="seed", values="score")


Q = 100 * scores("movie-reviews-matched").to_numpy()  # (layers, seeds), points
winners = Q.argmax(0)
checks.reveal(guess, len(set(winners)), "different layers", live=False)
print("layers and seeds:", Q.shape)
for seed, layer in enumerate(winners):
    print(f"seed {seed}: best layer {layer:2d} with {Q[layer, seed]:.1f} %")

# %% alt="Test accuracy of each of 30 layers, a square for each of three seeds and a line for their mean, with a dashed black line for the encoder alone and a solid grey one for a random-init layer; squares of different seeds scatter as widely as layers differ."
controls = bench.query("table == 'movie-reviews-matched' and layer == 29")
controls = 100 * controls.groupby("kind")["score"].mean()
vanilla, random = controls["vanilla"], controls["random"]
figure, axes = plt.subplots(figsize=(6, 3))
colour, marker = ARMS["real"]
axes.plot(Q, marker, ms=3, color=colour, alpha=0.5)
axes.plot(Q.mean(1), color=colour, label="mean of seeds")
axes.axhline(vanilla, ls="--", color="black", label="encoder alone")
axes.axhline(random, color=ARMS["twins"][0], label="random-init layer")
axes.set(xlabel="layer", ylabel="test accuracy (%)")
axes.legend(frameon=False, fontsize=8)
plt.show()

# %%
best = Q.mean(1).argmax()
print(f"best mean: layer {best} with {Q[best].mean():.1f} %")
print(f"worst mean: {Q.mean(1).min():.1f} %, last layer: {Q[29].mean():.1f} %")
print(f"encoder alone: {vanilla:.1f} %, random-init layer: {random:.1f} %")

# %% [markdown]
# **Read.** Three: each seed crowns another layer, 4, 27 and 0. There is always a best row; how far is it above the others,
# compared with how far apart the squares of one layer are?
#
# The third part of the argument that began in chapter 07:

# %% alt="Line plot over the 30 layers: pale, the donor's own states rise to ten points in the middle and one untrained plugged layer stays at zero; lit, one trained plugged layer stays flat between zero and minus two points."
checks.depth_figure("trained")

# %%
gains = checks.gains_by_depth()
together = gains["states"]["gain"].corr(gains["trained"]["gain"])
print(f"correlation of the donor's curve with the trained one: {together:+.2f}")

# %% [markdown]
# **Read.** Training does not bring the hump back: the trained curve is flat, a little below the encoder alone, and does not
# follow what the donor knows.
#
# ## 2. Is there anything to select?
#
# **Why.** Suppose all layers were equally good. Seeds would still make their means differ. A seed that shifts every layer
# equally is not noise between layers, so we subtract it:
#
# $$e_{\ell s} = Q_{\ell s} - \bar Q_{\ell\cdot} - \bar Q_{\cdot s} + \bar Q_{\cdot\cdot}
# \qquad
# F = \frac{S \cdot \mathrm{var}_\ell(\bar Q_{\ell\cdot})}{\sum_{\ell s} e_{\ell s}^2 / \big((L-1)(S-1)\big)}$$
#
# With no layer effect $F$ is about one. The share of the variance of the means that is not noise is
# $\mathrm{ICC} = 1 - 1/F$, or zero.
#
# **Predict.** How large is $F$ here?

# %% tags=["guess"]
guess = None

# %%
L, S = Q.shape
rest = Q - Q.mean(1, keepdims=True) - Q.mean(0) + Q.mean()
noise = (rest**2).sum() / ((L - 1) * (S - 1))
F = S * Q.mean(1).var(ddof=1) / noise
p = f_distribution.sf(F, L - 1, (L - 1) * (S - 1))
effect = layer_effect(Q)
assert np.isclose(p, effect.p_value)
checks.reveal(guess, F, form=".2f", live=False)
print(f"F = {F:.2f}, p = {p:.2f}, one run's noise {noise**0.5:.2f} points")
print(effect.verdict)

# %% [markdown]
# **Checkpoint.** The test can find an effect when there is one. We add a made-up advantage of three points to five layers:

# %%
planted = Q.copy()
planted[10:15] += 3
print("with three points planted:", layer_effect(planted).verdict)
assert layer_effect(planted).something_to_select

# %% [markdown]
# **Read.** $F$ is 0.70, below one: the layers differ no more than noise makes them differ, so "which layer is best?" has no
# answer in these data. A search that stops here and says so has done its job; this is the layer-effect test of `pp.search`. How
# large an effect would it have missed?
#
# ## 3. What a winner loses
#
# **Why.** The winner of a noisy race is partly a good layer and partly a lucky one. Luck does not come again. So we choose
# on two seeds and look at the third, in turn:
#
# $$\ell^*_{-s} = \arg\max_\ell \bar Q_{\ell, -s} \qquad
# \text{loss} = \frac{1}{S} \sum_s \Big( \bar Q_{\ell^*_{-s}, -s} - Q_{\ell^*_{-s}, s} \Big)$$
#
# **Predict.** How many points does the winner of two seeds lose on the third?

# %% tags=["guess"]
guess = None  # points

# %%
losses, ranks = [], []
for held in range(S):
    others = np.delete(Q, held, axis=1).mean(1)
    winner = others.argmax()
    losses.append(others[winner] - Q[winner, held])
    ranks.append(int((Q[:, held] > Q[winner, held]).sum()) + 1)
checks.reveal(guess, np.mean(losses), "points", ".1f", live=False)
print("rank of each winner on the held-out seed, of 30:", ranks)

# %% alt="Histogram of the loss of the winner when 30 equal layers are simulated with the measured noise, with a vertical line at the measured loss, well inside the histogram."
rng = np.random.default_rng(0)
simulated = []
for _ in range(2000):
    equal = rng.normal(0, noise**0.5, Q.shape)  # 30 layers, all the same
    falls = []
    for held in range(S):
        others = np.delete(equal, held, axis=1).mean(1)
        falls.append(others.max() - equal[others.argmax(), held])
    simulated.append(np.mean(falls))
figure, axes = plt.subplots(figsize=(5, 2.6))
axes.hist(simulated, bins=40, color="black", alpha=0.4)
axes.axvline(np.mean(losses), color=ARMS["real"][0])
axes.set(xlabel="loss of the winner (points), 30 equal layers", yticks=[])
plt.show()

# %%
share = np.mean(np.array(simulated) >= np.mean(losses))
print(f"30 equal layers lose at least as much in {share:.0%} of the cases")
assert 0.001 < share < 0.999

# %% [markdown]
# **Read.** The winner loses more than one and a half points and drops to ranks 22, 11 and 25 of thirty, as the best of thirty
# equal layers would. This is the *winner's curse*: a paper that reports the best of thirty layers on the seeds that chose it
# reports this loss as a gain. How could it report the layer without the luck?
#
# ## 4. How good can a cheap score be?
#
# **Why.** Scores of chapters 07 and 08 are judged by how they rank the layers. But the truth is noisy itself: even a
# *perfect* score agrees with noisy means only up to a ceiling. And curves over depth are smooth, so that two of them agree
# or disagree by chance far more often than shuffled numbers do. With Kendall's $\tau$,
#
# $$\tau_{\max} = \frac{2}{\pi} \arcsin \sqrt{\mathrm{ICC}} \qquad
# p = \frac{1 + \#\{\text{surrogates with } |\tau| \ge |\tau_{\text{score}}|\}}{1 + n}$$
#
# where a *surrogate* is a random curve as smooth as the score. Surrogates are a *null*: what the score would look like if
# it knew nothing.
#
# **Predict.** Of all cheap scores recorded, how many beat their own surrogates at the 5 % level?

# %% tags=["guess"]
guess = None

# %%
recorded = checks.record("benchmarks/results/selection.json")
proxies = recorded["measurements"]["proxies"]
reached = [one for one in proxies if one["p"] is not None and one["p"] < 0.05]
checks.reveal(guess, len(reached), f"of {len(proxies)} scores", live=False)
print(f"by chance alone: about {len(proxies) / 20:.0f}")
print("ceiling of a perfect score:", round(noise_ceiling(effect.icc), 2))
for one in sorted(proxies, key=lambda one: -abs(one["Kendall"]))[:5]:
    print(
        f"tau {one['Kendall']:+.2f} (chance reaches {one['null 95 %']:.2f}): {one['score']}"
    )

# %% [markdown]
# **Checkpoint.** "The deeper the better" is a score as well, and costs nothing:

# %%
depth = np.arange(L, dtype=float)
means = Q.mean(1)
tau = rank_agreement(depth, means)["kendall"]
limit, chance = smooth_null(depth, means, n_draws=500)
print(f"depth: tau {tau:+.2f}, chance reaches {limit:.2f}, p = {chance:.2f}")
print(
    f"its first choice loses {regret_at(depth, means):.1f} points to the best mean"
)
assert regret_at(means, means) == 0  # a score that is the truth loses nothing

# %% [markdown]
# To make the record again: `python benchmarks/selection.py`.
#
# **Read.** Two of seventy scores pass, where chance alone lets about four pass, and the ceiling is zero: this table cannot
# judge any score, and that holds for scores that look good as well. Which $\tau$ exceeds *its own* limit, and in which
# direction?
#
# ## 5. Early, middle, last
#
# **Why.** The paper asks a narrower question: last against middle against early. Three arms need no selection, only a
# paired comparison, with seeds and test texts shared (chapter 05):
#
# $$\bar d = \frac{1}{SN} \sum_{s,n} \big(c^{\text{last}}_{sn} - c^{\text{early}}_{sn}\big) \qquad c \in \{0, 1\}^{S \times N}$$
#
# **Predict.** Is the last layer better than an early one? Than the middle one? For each: it holds, does not hold, or is open.

# %% tags=["guess"]
guess = None  # two of "holds", "does not hold" and "open"

# %%
record = checks.experiment("layer-position")
verdicts = [one["verdict"].split(":")[0] for one in record.findings[:2]]
checks.reveal(guess, " and ".join(verdicts), live=False)
record

# %% alt="Forest plot of the differences between the last layer and the early, middle, random and no layer, each with its interval and a line at zero."
record.figure()

# %%
for one in record.findings:
    inside = one["low"] <= 0 <= one["high"]
    print(
        f"[{one['low']:+.1f}, {one['high']:+.1f}] {'includes' if inside else 'leaves out'} zero: {one['says']}"
    )

# %% [markdown]
# To make it again: `pifi-probe reproduce layer-position --scale small`. These are the intervals of its recording, each
# arm by its own seeds; [Decided then, decided now](../book/decided.md) has what all runs together say.
#
# **Read.** All four intervals include zero: nothing is decided. For each claim, what is the largest advantage of the last layer
# that the interval still allows? Are the paper's two points inside?
#
# ## 6. Other tasks
#
# **Why.** One table is one task. The same trainings are recorded for three more, every third layer with two seeds:
# messages of 20 newsgroups, pairs that are a translation of one another or not, and the rating of a review. We ask two
# things of each. Does the test find a layer effect? And how does a layer compare with the projections without any layer,
#
# $$\Delta_\ell = \bar Q_{\ell\cdot} - \bar Q_{\text{linear}\,\cdot}$$
#
# **Predict.** On how many of the three do layers differ?

# %% tags=["guess"]
guess = None  # of 3 tasks

# %%
effects = {}
for name in ("newsgroups", "translation-match", "sentiment-rating"):
    effects[name] = layer_effect(scores(name).to_numpy())
    print(f"{name}: {effects[name].verdict}")
found = sum(effect.something_to_select for effect in effects.values())
checks.reveal(guess, found, f"of {len(effects)} tasks", live=False)
assert effects["newsgroups"].icc > effects["sentiment-rating"].icc

# %%
for name in effects:
    own = bench[bench["table"] == name]
    alone = own[own["kind"] != "layer"].groupby("kind")["score"].mean()
    layers = abs(scores(name).mean(axis=1).sort_values())  # the worst first
    shown = {
        "encoder alone": alone["vanilla"],
        "linear only": alone["linear"],
        "random-init": alone["random"],
        "worst layer": layers.iloc[0],
        "best layer": layers.iloc[-1],
    }
    print(f"{name}, mean {own['metric'].iloc[0]}:")
    for arm, mean in shown.items():
        print(f"  {arm:13s} {mean:.3f}")

# %% [markdown]
# To make these runs again: `python benchmarks/truth_table.py newsgroups`, and so on. The
# [results page](../book/results.md) has every arm with its interval, and [Decided then, decided now](../book/decided.md) what
# all arms together decide: on `newsgroups` the projections gain, and the real layers lose to their twins. The tests of that page
# use validation scores, these use test scores, so they may differ. Of squared error, less is better. With a frozen encoder
# every layer has five seeds, also on other tasks: [LayerBench](../book/layerbench.md) has these tables and their answers.
#
# **Read.** Layers differ on one task of three, newsgroups, and there the best of them does not beat the projections alone:
# 0.624 against 0.628. An effect of layers and a gain over the encoder are two things. Compare the *best layer*, which is the
# lucky one of ten, with *linear only* and with the *random-init* layer: which of its gains do these have, too? Those do not
# come from the language model.
#
# ## Exercises
#
# **Exercise 09.1.** $F$ of section 2 from a table (layers, seeds).


# %% tags=["exercise"]
def f_statistic(table):
    return ...  # a number


checks.check_f_statistic(f_statistic)


# %% tags=["solution"]
def f_statistic(table):
    n_layers, n_seeds = table.shape
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    noise = (rest**2).sum() / ((n_layers - 1) * (n_seeds - 1))
    return n_seeds * table.mean(1).var(ddof=1) / noise


checks.check_f_statistic(f_statistic)

# %% [markdown]
# **Exercise 09.2.** What the winner loses, as in section 3.


# %% tags=["exercise"]
def winners_loss(table):
    return ...  # points


checks.check_winners_loss(winners_loss)


# %% tags=["solution"]
def winners_loss(table):
    losses = []
    for held in range(table.shape[1]):
        others = np.delete(table, held, axis=1).mean(1)
        losses.append(others.max() - table[others.argmax(), held])
    return np.mean(losses)


checks.check_winners_loss(winners_loss)

# %% [markdown]
# **Exercise 09.3.** A score puts `k` layers first and you may train those. How much worse is the best of them than the
# best of all? `score` and `quality` are arrays, larger is better.


# %% tags=["exercise"]
def regret(score, quality, k):
    return ...  # in the unit of quality


checks.check_regret(regret)


# %% tags=["solution"]
def regret(score, quality, k):
    first = np.argsort(-score)[:k]
    return quality.max() - quality[first].max()


checks.check_regret(regret)

# %% [markdown]
# ## What this does not show
#
# - That layers never differ: it is one encoder, one small language model, four tasks and one wiring, which starts as
#   plain fine-tuning and matches scales.
# - That the effect is zero: two or three seeds leave room for differences of the size of the noise.
# - Anything about layers of an 8B model.
#
# ## Quiz

# %%
checks.quiz("09")

# %% [markdown]
# ## Summary
#
# - Test first whether layers differ; a table of noise has a winner too.
# - A winner loses on fresh seeds what luck gave it.
# - A cheap score has a ceiling, the noise of the truth, and a null, curves as smooth as itself.
# - "Last is best" is a paired comparison with an interval.
#
# **Words:** [set of the best](../book/glossary.md#set-of-the-best) · [null](../book/glossary.md#null) · [surrogate](../book/glossary.md#surrogate) ·
# [regret](../book/glossary.md#regret) · [noise ceiling](../book/glossary.md#noise-ceiling) ·
# [winner's curse](../book/glossary.md#winners-curse)
#
# **Next:** [10 Automatic selection](10_automatic_selection.ipynb)
