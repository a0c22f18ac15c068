# %% [markdown]
# # 00 Start here
#
# **You will show that** one layer of a large language model can be plugged into a small one in three lines, and that
# whether it helps is a question with an interval, not a promise.
#
# **After this notebook you can**
#
# - say which parts of a PiFi model are trained and which part is frozen;
# - check that your machine has what the other notebooks need;
# - name a layer of a language model, extract it and plug it into an encoder;
# - read a comparison with its interval, and choose your way through this book.
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 10 | 1 of 3 | Python, a little PyTorch | once, about 180 MB: an encoder, a language model, rated texts |

# %%
import pifi_probe as pp
from pifi_probe import checks

checks.start("00", seed=0)

# %% [markdown]
# The line above fixed every seed, uses one thread, and found the embedded models. Where they are missing it fetches
# them, or says how to: `pifi-probe assets pull`.
#
# ## 1. The idea in one picture
#
# **Why.** A small language model reads a text and gives one vector $h$. Fine-tuning it is cheap, and it knows little.
# A large language model knows more, and is expensive to run and to tune. PiFi (plug-in and fine-tuning,
# [the paper](https://arxiv.org/abs/2506.07424)) takes *one* layer out of the large one, freezes it, and puts it between
# the small one and its task head.
#
# $$h = \mathrm{Enc}(\text{text}) \in \mathbb{R}^{d_s} \qquad
# x = W_{in}\,h \in \mathbb{R}^{d} \qquad
# y = \mathrm{Layer}(x) \in \mathbb{R}^{d} \qquad
# \text{logits} = \mathrm{Head}(W_{out}\,y)$$
#
# $W_{in}$ is $(d, d_s)$ and $W_{out}$ is $(d_s, d)$: they translate between the two widths.

# %%
checks.pifi_block("layer")

# %% [markdown]
# **Read.** Solid boxes are trained on your task, the dashed box is not. In every notebook this picture comes back with
# the part under discussion lit.
#
# ## 2. Is this machine ready?
#
# **Why.** A missing package is easier to fix now than in the middle of chapter 9. `pifi-probe doctor` does the same on
# the command line.

# %%
machine = pp.doctor()
machine.frame[["name", "well"]]

# %% [markdown]
# **Read.** Each row should say `True`. Where one does not, `print(machine)` says what to do about it.
#
# **Checkpoint.** The three embedded assets are here; `vader-texts` are rated texts, film reviews among them:

# %%
here = {
    status.asset.name for status in pp.assets.list_assets() if status.cached
}
assert {"minilm-l6", "smollm2-135m", "vader-texts"} <= here
print("encoder, language model and rated texts found")

# %% [markdown]
# ## 3. Your first layer
#
# **Why.** A layer has a name: `MODEL[i]`, where `i` counts from 0, or from the end with a minus sign, as in a Python
# list. `pp.extract` reads that layer's weights and nothing else in the file.
#
# **Predict.** SmolLM2 has 135 million weights and 30 layers. How many weights does its last layer have? Write down
# your guess, in millions, before you run the next cell.

# %% tags=["guess"]
guess = None  # millions of weights

# %%
layer = pp.extract("smollm2-135m[-1]")
checks.reveal(guess, layer.n_params / 1e6, "million weights", ".1f", live=False)
trainable = sum(p.requires_grad for p in layer.parameters())
print(f"width {layer.hidden_size}, trainable tensors: {trainable}")
print("its name:", layer.card.spec)

# %% [markdown]
# **Read.** Three and a half million weights: thirty such layers are about 106 of the model's 135 million. The rest is the
# table of word vectors. A layer is small enough to ride along with a small model. Which of the two is larger: this layer,
# or the encoder that it is plugged into below?
#
# ## 4. Your first PiFi model
#
# **Why.** Three lines make a model that `transformers` can train, save and load like any other. The *wiring* says how the
# layer is plugged in; `"pifi"` is the one of the paper.

# %%
task = pp.load_task("movie-reviews")
model = pp.plug_in("minilm-l6", layer, task=task, wiring="pifi")
print(task)
print(
    type(model).__name__,
    "with",
    ", ".join(name for name, _ in model.named_children()),
)

# %% [markdown]
# How much of it is trained?

# %%
trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
print(
    f"trained: {trained / 1e6:.1f} million, frozen: {frozen / 1e6:.1f} million"
)

# %% [markdown]
# **Read.** About 23 million weights are trained, and about three million are frozen: fewer than the layer that you
# extracted has. With a single vector $h$ the layer sees a sequence of one token, and then part of its attention can be left
# out without changing any output. Which part? Chapter 04 shows it.
#
# **Checkpoint.** The model answers, although it has not been trained: its head was drawn at random.

# %%
from pifi_probe.plugin.build import tokenizer_for

tokens = tokenizer_for(model)(["A wonderful film."], return_tensors="pt")
logits = model(**tokens).logits  # (batch, n_labels)
assert logits.shape == (1, 2)
print("labels:", list(task.label_names))

# %% [markdown]
# ## 5. Does it help?
#
# **Why.** This is the question of the whole book, and one run cannot answer it. The recorded demo trained several
# *arms* (an arm is one of the models that are compared), each with several seeds on 1,000 reviews: the encoder alone
# (*vanilla*), the block with real layers, and *controls* that have the block's shape but not the language model's
# knowledge: `random` is a layer of random weights, `linear` the two projections with nothing between them. An arm's name
# begins with its wiring: `pifi` is the paper's, `matched` hands the layer vectors of the length it is used to and starts
# at the encoder alone.
#
# **Predict.** Will the last layer beat the encoder alone? By how many points of accuracy?

# %% tags=["guess"]
guess = None  # points of accuracy, positive if PiFi is better

# %%
rows = checks.recorded_table(
    "benchmarks/results/demo-full.json", "comparisons", "vanilla", "rows"
)
rows = rows[(rows["test"] == "movie-reviews") & rows["difference"].notna()]
table = rows[
    ["arm", "difference", "difference_low", "difference_high"]
].set_axis(["arm", "mean", "low", "high"], axis=1)
table[["mean", "low", "high"]] = (
    100 * table[["mean", "low", "high"]].astype(float)
).round(1)

# %% alt="Forest plot: each arm's difference to the encoder alone in points of accuracy, with its interval; the line at zero means no difference."
from pifi_probe.reporting.plots import forest

forest(table)

# %%
LAST = "pifi: smollm2-135m[29]"  # in the paper's wiring
shown = table.set_index("arm")
checks.reveal(guess, shown.loc[LAST, "mean"], "points", "+.1f", live=False)
checks.say(f"{LAST}:", rows.set_index("arm").loc[LAST, "verdict"])
print("recorded by:", rows.attrs["command"], "on", rows.attrs["date"])
shown

# %% [markdown]
# **Read.** The last layer, `smollm2-135m[29]`, does not beat the encoder alone here: it is four and a half points worse,
# and the line below your guess has the verdict. It is a careful one: among nine arms one looks worse by luck now and then,
# so more evidence is asked for than one comparison alone would need. This record was judged with Holm's correction. New
# comparisons use Dunnett's method, which allows for the noise that all differences to one baseline share, so it asks
# for less ([methods](../book/methods.md)). Where an interval contains zero, this run detects no difference.
#
# Now find the *random* arm, a layer with random weights: it is about five points worse. Whatever it shares with the real
# layer is not the language model's knowledge. That is why every comparison in this book has controls
# ([Decided then, decided now](../book/decided.md) is what they decide). What is left for the language model's knowledge?
# Chapters 05, 09 and 10 ask when and where a layer does help.
#
# ## 6. Three ways through this book
#
# | You have | Read | You end with |
# |---|---|---|
# | 15 minutes | this notebook, then [03](03_pifi_from_scratch.ipynb) up to section 4 | the idea, and the model in forty lines |
# | 2 hours | 00, [01](01_what_a_layer_does.ipynb), [03](03_pifi_from_scratch.ipynb), [05](05_train_it.ipynb), [09](09_which_layer.ipynb) | a trained model, its controls, and how to choose a layer |
# | a day | all chapters in order; [19](19_your_own_data.ipynb) last | a layer chosen for a task of your own, with evidence |
#
# ## Exercises
#
# **Exercise 00.1.** Which parts does PiFi train? Write the set of their names, as the picture has them (`"text"`,
# `"encoder"`, `"L_in"`, `"layer"`, `"L_out"`, `"head"`, `"label"`).

# %% tags=["exercise"]
trained_parts = ...  # a set, such as {"text", "label"}

checks.check_trained_parts(trained_parts)

# %% tags=["solution"]
trained_parts = {"encoder", "L_in", "L_out", "head"}

checks.check_trained_parts(trained_parts)

# %% [markdown]
# **Exercise 00.2.** Name the second layer from the end of `smollm2-135m`.

# %% tags=["exercise"]
spec = ...  # a string

checks.check_spec(spec)

# %% tags=["solution"]
spec = "smollm2-135m[-2]"

checks.check_spec(spec)

# %% [markdown]
# ## What this does not show
#
# - The recorded demo is one small encoder, one small language model in 4-bit weights, and short English sentences. The
#   paper used larger ones.
# - Nothing here was trained: chapter 05 does that.
#
# ## Quiz

# %%
checks.quiz("00")

# %% [markdown]
# ## Summary
#
# - PiFi is encoder, $W_{in}$, one frozen layer, $W_{out}$, head; everything but the layer is trained.
# - `pp.extract`, `pp.load_task`, `pp.plug_in` make the model.
# - A gain counts when its interval leaves out zero and the random layer does not have it too.
#
# **Words:** [encoder](../book/glossary.md#encoder) · [frozen layer](../book/glossary.md#frozen-layer) ·
# [arm](../book/glossary.md#arm) · [control](../book/glossary.md#control) · [wiring](../book/glossary.md#wiring) ·
# [interval](../book/glossary.md#interval)
#
# **Next:** [00b What a layer can do that no random layer can](00b_what_no_random_layer_can.ipynb)
