# %% [markdown]
# # 18 Bigger machines
#
# **You will show that** a model that does not fit into memory can be probed with one layer in memory at a time, exactly,
# and that a search is a database which any number of processes, and any number of crashes, can share.
#
# **After this notebook you can**
#
# - compute what one layer of an 8B model weighs, and what a pass over all layers must read;
# - stream texts through a model, and prove that nothing changed;
# - say what limits a stream: reading, memory for states, or arithmetic;
# - stop a search, go on with it elsewhere, and spread it over a cluster.
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 30 | 3 of 3 | [02](02_extract_one_layer.ipynb) | nothing new |

# %%
import math
import tempfile
from pathlib import Path

import torch
from matplotlib import pyplot as plt

import pifi_probe as pp
from pifi_probe import checks
from pifi_probe.experiments.whole import load_whole
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.stream import Batch, stream
from pifi_probe.layers.tokenizer import donor_tokenizer

checks.start("18", seed=0)

# %%
checks.pifi_block("layer")

# %% [markdown]
# ## 1. What is large about a large model?
#
# **Why.** A decoder layer of width $d$ with key-value width $d_{kv}$ and inner width $m$ has
#
# $$N = \underbrace{2 d^2}_{W_q, W_o} + \underbrace{2 d\, d_{kv}}_{W_k, W_v} + \underbrace{3 d m}_{\text{MLP}} + \underbrace{2 d}_{\text{norms}}$$
#
# weights. PiFi needs *one* layer. To know *which*, a probe needs the states before every layer, and so a pass through all
# of them.
#
# **Predict.** An 8B model of 32 layers has $d = 4096$, $d_{kv} = 1024$, $m = 14336$. What share of its 8 billion weights is
# one layer?

# %% tags=["guess"]
guess = None  # per cent


# %%
def layer_weights(d, d_kv, m):
    return 2 * d * d + 2 * d * d_kv + 3 * d * m + 2 * d


one = layer_weights(4096, 1024, 14336)
checks.reveal(guess, 100 * one / 8.03e9, "% of the model", ".1f", live=False)
print(f"one layer: {one / 1e6:.0f} million weights")
print(
    f"one layer in bfloat16: {2 * one / 1e6:.0f} MB;  in float32: {4 * one / 1e6:.0f} MB"
)
print(f"all 32 layers in bfloat16: {32 * 2 * one / 1e9:.1f} GB")

# %% [markdown]
# **Checkpoint.** The formula gives SmolLM2's layer exactly:

# %%
small = pp.extract("smollm2-135m[0]")
assert layer_weights(576, 192, 1536) == small.n_params
print(
    f"the layer has {small.n_params:,} weights, the formula gives {layer_weights(576, 192, 1536):,}"
)

# %% [markdown]
# **Read.** One layer is less than three per cent of the model, in bfloat16 less than half a gigabyte: a laptop that cannot
# hold the model can hold it easily. So never load the model: read a layer, use it, forget it.
#
# ## 2. One layer at a time
#
# **Why.** Let all texts wait at the same point of the residual stream. Read layer $\ell$, pass all batches through, write
# their states down, drop the layer:
#
# $$X_{\ell+1} = \mathrm{Layer}_\ell(X_\ell), \qquad X_\ell \in \mathbb{R}^{n \times T \times d}, \qquad \ell = 0, \dots, L-1$$
#
# Each layer is read *once*, whatever the number of texts.
#
# **Predict.** We stream 4 texts through the 30 layers of SmolLM2. At how many points of the stream do we see their
# states?

# %% tags=["guess"]
guess = None  # points

# %%
texts = list(pp.load_task("movie-reviews").splits["test"].texts[:4])
checkpoint = open_checkpoint("smollm2-135m")
tokenizer = donor_tokenizer(checkpoint)
tokens = tokenizer(texts, padding=True, return_tensors="pt")
batch = Batch(tokens["input_ids"], tokens["attention_mask"])

states = {}
stream(
    checkpoint,
    [batch],
    lambda point, i, found: states.__setitem__(point, found.clone()),
    model="smollm2-135m",
    progress=False,
)
checks.reveal(guess, len(states), "points", live=False)
print("states at each point:", tuple(states[0].shape), "= (batch, seq, d_llm)")

# %% [markdown]
# **Checkpoint.** The same texts through the whole model at once. Padded positions mean nothing and are left out:

# %%
whole = load_whole("smollm2-135m")
with torch.no_grad():
    hidden = whole.model(
        **tokens, output_hidden_states=True, use_cache=False
    ).hidden_states
real = tokens["attention_mask"].bool()
furthest = 0.0
for point in range(30):  # the last hidden state of transformers is normed
    scale = hidden[point][real].abs().max()
    gap = (states[point][real] - hidden[point][real]).abs().max() / scale
    furthest = max(furthest, float(gap))
assert furthest < 1e-4
print(f"points 0 to 29 differ by at most ≈{furthest:.0e} of the largest value")

# %% [markdown]
# **Read.** The difference is rounding. Nothing was approximated: only the order of reading changed.
#
# How does a vector grow on its way? The stream saw every point:

# %% alt="The root mean square of the states at the 31 points of the residual stream of SmolLM2, on a logarithmic axis; it rises by more than a factor of ten."
rms = [
    float(states[point][real].square().mean().sqrt())
    for point in sorted(states)
]
figure, axes = plt.subplots(figsize=(6, 2.6))
axes.plot(rms, "o-", color="black", markersize=3)
axes.set(
    xlabel="point of the residual stream",
    ylabel="root mean square",
    yscale="log",
)
plt.show()

# %%
assert rms[-1] > 10 * rms[0]
print("the states grow more than tenfold from the embeddings to the last layer")

# %% [markdown]
# ## 3. What a stream of an 8B costs
#
# **Why.** It holds at most two layers (the one that computes and the one that is being read), the states of all texts at
# one point, and the activations of one batch:
#
# $$M \le 2 \cdot 4N + 4\,n\,T\,d + \text{one batch}$$
#
# When states do not fit, they live in files. Recorded: four layers of the 8B shape, in float32, on a machine that need not
# hold them.
#
# **Predict.** Is the peak of memory above or below that bound?

# %% tags=["guess"]
guess = None  # "above" or "below"

# %%
record = checks.record("benchmarks/results/stream_memory.json")
above = [r for r in record["rows"] if r["peak MB"] > r["2 layers + budget MB"]]
checks.reveal(guess, "above" if above else "below", live=False)
for row in record["rows"]:
    peak, bound = row["peak MB"], row["2 layers + budget MB"]
    print(
        f"{row['streamed']:32s} peak {peak:5.0f} MB, bound {bound:5.0f} MB, "
        f"{row['seconds']['median']:4.0f} s, {row['read MB']:.0f} MB read"
    )
settings = record["settings"]
print(
    f"the checkpoint: {settings['checkpoint_bytes'] / 1e6:.0f} MB, one layer {settings['layer_bytes'] / 1e6:.0f} MB"
)

# %% [markdown]
# ```bash
# python benchmarks/stream_memory.py
# ```
#
# **Checkpoint.** No run held more than two layers and the budget:

# %%
assert all(
    row["peak MB"] < row["2 layers + budget MB"] for row in record["rows"]
)
assert all(target["holds"] for target in record["targets"])
print("every peak lies below its bound; nothing was read twice")

# %% [markdown]
# **Read.** Every peak is below the bound, by more than 700 MB, and below half of the checkpoint: it is that of one or two
# layers, not of the model. `pp.probe("org/model", task)` streams in this way by itself, keeps the features in a cache, and
# goes on after an interruption. What do states on disk cost? Compare the seconds.
#
# ## 4. A search that survives
#
# **Why.** Full runs take hours, and machines fail. A search is a *study*: a database with one row for each trial. What a
# trial gives depends on its settings and its seed only, so it does not matter who runs it, or when:
#
# $$\text{result} = f(\text{settings}, \text{seed}) \quad\Rightarrow\quad \text{one process, many, or again after a crash: the same table}$$
#
# **Predict.** We stop a search after one of three trials and go on later. Which of the three numbers differ from those of
# a search in one go?

# %% tags=["guess"]
guess = None  # how many of 3

# %%
task = pp.load_task("movie-reviews").subset(train=96, validation=64, test=64)
folder = Path(tempfile.mkdtemp())
options = dict(
    strategy="fast",
    layers=[0, 15, -1],
    n_seeds=1,
    confirm=False,
    recipe=pp.Recipe(epochs=1, max_tokens=24, device="cpu"),
)
pp.search(
    "minilm-l6",
    "smollm2-135m",
    task,
    budget="1 trials",
    study=folder / "stopped.db",
    **options,
)
again = pp.search(
    "minilm-l6",
    "smollm2-135m",
    task,
    budget="3 trials",
    study=folder / "stopped.db",
    **options,
)
at_once = pp.search(
    "minilm-l6",
    "smollm2-135m",
    task,
    budget="3 trials",
    study=folder / "at-once.db",
    **options,
)

table, other = again.leaderboard(), at_once.leaderboard()
differ = int((table["nll"] != other["nll"]).sum())
checks.reveal(guess, differ, "of three numbers", live=False)
print(
    "trials:", len(table), " candidates:", ", ".join(sorted(table["candidate"]))
)

# %% [markdown]
# **Checkpoint.** Both tables hold the same candidates and the same losses:

# %%
assert list(table["candidate"]) == list(other["candidate"]) and differ == 0
print(
    "largest difference of the losses:",
    float((table["nll"] - other["nll"]).abs().max()),
)

# %% [markdown]
# **Read.** None differs, to the last bit. Three trials on a frozen encoder are not a result; what counts here is that the
# tables are equal. Who may then run the trials?
#
# ## 5. Many workers
#
# **Why.** Trials do not depend on each other while a sweep runs, so $w$ workers shorten it:
#
# $$t_{\text{wall}} \ge \Big\lceil \frac{r}{w} \Big\rceil \cdot t_{\text{run}}$$
#
# A *strategy* that learns from results has less to learn from when many run at the same time: more workers are faster, not
# better.
#
# **Predict.** 30 runs of 6 minutes on 8 workers: how long?

# %% tags=["guess"]
guess = None  # minutes

# %%
minutes = {
    workers: math.ceil(30 / workers) * 6 for workers in (1, 2, 4, 8, 16, 32)
}
checks.reveal(guess, minutes[8], "minutes", live=False)
print("workers to minutes:", minutes)

# %% [markdown]
# Three ways, with the same study:
#
# ```python
# pp.search("minilm-l6", "smollm2-135m", task, executor="processes", workers=4, study="s.db")        # this machine
# ```
#
# ```bash
# pifi-probe study join "postgresql://user:password@host/pifi#movies"   # any number of machines
# ```
#
# ```python
# from pifi_probe.selection.executors import Ray                        # a Ray cluster
#
# pp.search("minilm-l6", "smollm2-135m", task, executor=Ray(workers=8, address="auto", cpus=4, gpus=1), study="s.db")
# ```
#
# [The guide for clusters](../book/howto/cluster.md) has Slurm and Kubernetes, and says what was tried and what was not.
#
# **Checkpoint.** Where the time goes is in the study: what a trial of the frozen sweep costs, in full runs.

# %%
assert (table["cost"] < 1).all()
print(
    f"dearest trial with a frozen encoder: ≈{table['cost'].max():.2f} full runs"
)

# %% [markdown]
# ## Exercises
#
# **Exercise 18.1.** The bytes of one layer in its stored type; `each` is 2 for bfloat16.


# %% tags=["exercise"]
def layer_bytes(width, inner, kv_width, each):
    return ...  # bytes


checks.check_layer_bytes(layer_bytes)


# %% tags=["solution"]
def layer_bytes(width, inner, kv_width, each):
    attention = 2 * width * width + 2 * width * kv_width
    return each * (attention + 3 * width * inner + 2 * width)


checks.check_layer_bytes(layer_bytes)

# %% [markdown]
# **Exercise 18.2.** How many texts of `tokens` tokens wait at one point of the stream within `budget` bytes, in float32?


# %% tags=["exercise"]
def texts_that_fit(budget, tokens, width):
    return ...  # a whole number


checks.check_texts_that_fit(texts_that_fit)


# %% tags=["solution"]
def texts_that_fit(budget, tokens, width):
    return budget // (4 * tokens * width)


checks.check_texts_that_fit(texts_that_fit)

# %% [markdown]
# **Exercise 18.3.** The least time of a sweep of equal runs.


# %% tags=["exercise"]
def wall_minutes(runs, minutes, workers):
    return ...  # minutes


checks.check_wall_minutes(wall_minutes)


# %% tags=["solution"]
def wall_minutes(runs, minutes, workers):
    return math.ceil(runs / workers) * minutes


checks.check_wall_minutes(wall_minutes)

# %% [markdown]
# ## What this does not show
#
# - A whole 8B model from end to end: the record streams four layers of its shape, with random weights.
# - Speed on a cluster. That the results are equal was shown; a network adds waiting of its own.
# - That a larger model's layer is worth it: chapters 09 and 10.
#
# ## Quiz

# %%
checks.quiz("18")

# %% [markdown]
# ## Summary
#
# - One layer of an 8B model is a few per cent of it; a stream holds one or two, and reads each once.
# - Streamed states equal those of the whole model.
# - A study is a table of trials: stopped, continued or shared, it holds the same numbers.
#
# **Words:** [streaming](../book/glossary.md#streaming) · [residual stream](../book/glossary.md#residual-stream) ·
# [study](../book/glossary.md#study) · [worker](../book/glossary.md#worker) · [budget](../book/glossary.md#budget)
#
# **Next:** [19 Your own data](19_your_own_data.ipynb)
