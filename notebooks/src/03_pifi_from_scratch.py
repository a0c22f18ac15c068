# %% [markdown]
# # 03 Build PiFi from scratch
#
# **You will show that** PiFi is about forty lines of PyTorch, and that your forty lines give the same outputs as
# the library.
#
# **After this notebook you can**
#
# - give the shapes of $W_{in}$ and $W_{out}$ for any pair of models;
# - write the forward pass from text to logits;
# - freeze a layer so that its weights stay and gradients still pass through it;
# - prove that two implementations are equal.
#
# What comes out is short. [pifi_from_scratch.py](https://github.com/pifi-probe/pifi_probe/blob/main/notebooks/pifi_from_scratch.py)
# holds all of it in one plain file of 150 lines, with the controls and their comparison: read it first, or keep it open next
# to this page. Section 6 compares your numbers with its own, and with the library's.
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 25 | 2 of 3 | [00](00_start_here.ipynb); [01](01_what_a_layer_does.ipynb) helps | nothing new |

# %%
import inspect

import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

import pifi_probe as pp
from pifi_probe import checks

checks.start("03", seed=0)

# %%
checks.pifi_block("L_in", "layer", "L_out")

# %% [markdown]
# ## 1. What goes in
#
# **Why.** PiFi starts where the encoder ends. The encoder turns $T$ tokens into $T$ vectors; the paper keeps the first
# one, that of the special token `[CLS]`.
#
# $$\mathrm{Enc}(\text{text}) \in \mathbb{R}^{T \times d_s} \qquad h = \mathrm{Enc}(\text{text})_{[CLS]} \in \mathbb{R}^{d_s}$$

# %%
folder = pp.assets.path("minilm-l6")
tokenizer = AutoTokenizer.from_pretrained(folder)
encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False)

texts = ["A film to see twice.", "Two hours of my life that nobody gives back."]
tokens = tokenizer(texts, padding=True, return_tensors="pt")
states = encoder(**tokens).last_hidden_state  # (batch, seq, d_slm)
h = states[:, 0]  # (batch, d_slm)
print("states:", tuple(states.shape), " h:", tuple(h.shape))

# %% [markdown]
# **Read.** Two texts, so the batch is 2. The encoder is 384 wide: $d_s = 384$.
#
# ## 2. Two projections
#
# **Why.** The language model's layer expects another width. Two linear maps translate, without bias as in the
# reference code:
#
# $$x = W_{in}\,h, \quad W_{in} \in \mathbb{R}^{d \times d_s} \qquad\qquad o = W_{out}\,y, \quad W_{out} \in \mathbb{R}^{d_s \times d}$$
#
# **Predict.** SmolLM2 is $d = 576$ wide. How many weights do the two maps have together?

# %% tags=["guess"]
guess = None  # weights

# %%
d_slm, d_llm = 384, 576
L_in = nn.Linear(d_slm, d_llm, bias=False)
L_out = nn.Linear(d_llm, d_slm, bias=False)
both = L_in.weight.numel() + L_out.weight.numel()
checks.reveal(guess, both, "weights", ",", live=False)
print("W_in as torch stores it:", tuple(L_in.weight.shape))

# %% [markdown]
# **Read.** Twice 384 times 576, which makes 442,368. `nn.Linear(a, b)` stores its weight as `(b, a)`: out first, in second,
# exactly as in $W_{in}\,h$.
#
# **Checkpoint.** $x$ has the width of the language model:

# %%
x = L_in(h)  # (batch, d_llm)
assert x.shape == (2, 576)
print("x:", tuple(x.shape))

# %% [markdown]
# ## 3. The frozen layer
#
# **Why.** A decoder layer takes a *sequence* of vectors. We have one vector for each text, so the sequence has length
# one: add an axis, and take it away afterwards.
#
# $$x \in \mathbb{R}^{B \times d} \to \mathbb{R}^{B \times 1 \times d} \xrightarrow{\ \mathrm{Layer}\ } \mathbb{R}^{B \times 1 \times d} \to y \in \mathbb{R}^{B \times d}$$
#
# **Predict.** Does the layer make its input longer or shorter, and by what factor? (Length: the root mean square of the
# vector's entries.)

# %% tags=["guess"]
guess = None  # times

# %%
layer = pp.extract("smollm2-135m[-1]")
y = layer(x[:, None])[:, 0]  # (batch, d_llm)
rms = lambda v: float(v.detach().square().mean().sqrt())
growth = rms(y) / rms(x)
assert growth > 10
checks.reveal(guess, growth, "times as long", ".0f")

# %% [markdown]
# Where does the length come from? Look at each station of the block:

# %% alt="Bar chart of the root mean square at the stations h, L_in h, the layer's output and L_out of it; the layer's output is by far the tallest bar."
from matplotlib import pyplot as plt

stations = {
    "h": rms(h),
    "L_in h": rms(x),
    "layer": rms(y),
    "L_out": rms(L_out(y)),
}
figure, axes = plt.subplots(figsize=(6, 2.6))
axes.bar(list(stations), list(stations.values()), color="black")
axes.set(ylabel="root mean square", yscale="log")
plt.show()

# %%
order = sorted(stations, key=stations.__getitem__)
print("from the shortest to the longest:", ", ".join(order))

# %% [markdown]
# **Read.** The layer makes its input about sixty times as long, and its output is by far the longest vector of the four.
# Inside SmolLM2 the last layer is used to far longer vectors than $W_{in}h$ with its default initialisation. It adds a
# branch of *its* usual length to a short input, and the input drowns. Keep this in mind: it is one reason why the book has a
# second wiring, `matched`, that gives the layer an input of the length it knows.
#
# ## 4. The model in forty lines
#
# **Why.** All the parts are there. We put them into a module; the head is that of the reference code.


# %%
class PiFi(nn.Module):
    """Encoder, L_in, one frozen layer, L_out, head."""

    def __init__(self, encoder, layer, n_labels):
        super().__init__()
        d_slm, d_llm = encoder.config.hidden_size, layer.hidden_size
        self.encoder = encoder
        self.L_in = nn.Linear(d_slm, d_llm, bias=False)
        self.layer = layer
        self.L_out = nn.Linear(d_llm, d_slm, bias=False)
        self.head = nn.Sequential(
            nn.Linear(d_slm, d_slm),
            nn.Dropout(0.2),
            nn.GELU(),
            nn.Linear(d_slm, n_labels),
        )
        for parameter in self.layer.parameters():
            parameter.requires_grad = False

    def forward(self, **tokens):
        states = self.encoder(**tokens).last_hidden_state  # (batch, seq, d_slm)
        h = states[:, 0]  # (batch, d_slm)
        x = self.L_in(h)  # (batch, d_llm)
        y = self.layer(x[:, None])[:, 0]  # (batch, d_llm)
        return self.head(self.L_out(y))  # (batch, n_labels)


# %%
torch.manual_seed(0)
mine = PiFi(encoder, layer, n_labels=2).eval()
lines = 2 + sum(
    len(inspect.getsource(part).split("\n"))
    for part in (PiFi.__init__, PiFi.forward)
)
assert lines <= 40
print(lines, "lines; logits:", tuple(mine(**tokens).shape))

# %% [markdown]
# **Read.** That is PiFi. The rest of the library is about getting the layer, training with controls, and finding out
# which layer to take.
#
# ## 5. What does one step of training move?
#
# **Why.** "Frozen" has two halves that are easy to confuse: the layer's weights must not move, *and* the gradient must
# pass through the layer to reach $W_{in}$ and the encoder.
#
# $$\frac{\partial \mathcal{L}}{\partial h} = W_{in}^\top\, J_{\mathrm{Layer}}(x)^\top\, W_{out}^\top\, \frac{\partial \mathcal{L}}{\partial o}$$
#
# **Predict.** For each of encoder, L_in, layer, L_out and head, write down whether it moves.

# %% tags=["guess"]
guess = None  # a set of parts

# %%
before = {name: p.detach().clone() for name, p in mine.named_parameters()}
optimizer = torch.optim.Adam(
    (p for p in mine.parameters() if p.requires_grad), lr=5e-5
)
loss = nn.functional.cross_entropy(mine(**tokens), torch.tensor([1, 0]))
loss.backward()
optimizer.step()
moved = {
    name.split(".")[0]
    for name, p in mine.named_parameters()
    if not torch.equal(before[name], p)
}
checks.reveal(guess, ", ".join(sorted(moved)), live=False)

# %% [markdown]
# **Checkpoint.** The layer stayed, bit for bit, and the gradient went through it:

# %%
assert "layer" not in moved
assert mine.L_in.weight.grad.abs().sum() > 0
print("the layer did not move; the gradient reached L_in")

# %% [markdown]
# ## 6. Is it the library's PiFi?
#
# **Why.** Anybody can write forty plausible lines. We give the library's model the same weights and compare the logits.

# %%
task = pp.load_task("movie-reviews")
theirs = pp.plug_in("minilm-l6", layer, task=task, wiring="pifi")
theirs.encoder.load_state_dict(mine.encoder.state_dict())
theirs.plugin.L_in.load_state_dict(mine.L_in.state_dict())
theirs.plugin.L_out.load_state_dict(mine.L_out.state_dict())
theirs.head.load_state_dict(mine.head.state_dict())

with torch.no_grad():
    difference = (mine(**tokens) - theirs(**tokens).logits).abs().max()
assert difference < 1e-4
print(f"largest difference of the logits: ≈{difference:.0e}")

# %% [markdown]
# **Read.** Equal up to rounding, although the library holds a smaller layer than ours:

# %%
for whose, held in (
    ("our", mine.layer),
    ("the library's", theirs.plugin.layers),
):
    n_weights = sum(p.numel() for p in held.parameters())
    print(f"{whose:13s} layer: {n_weights / 1e6:.2f} million weights")

# %% [markdown]
# Which weights are missing, and why does it not matter? Chapter 04.
#
# **Checkpoint.** Now the plain file. It takes a layer out of a model of transformers; `layer.shell` is one, cut down to
# the layer that we extracted. With your weights it must give your logits:

# %%
import sys
from types import SimpleNamespace

file = checks.recorded("notebooks/pifi_from_scratch.py")
sys.path.insert(0, str(file.parent))
import pifi_from_scratch as plain

cut = SimpleNamespace(model=layer.shell, config=layer.config)
same = plain.build("pifi", encoder, plain.OneLayer(cut, 0), n_labels=2)
for part in ("encoder", "L_in", "L_out", "head"):
    getattr(same, part).load_state_dict(getattr(mine, part).state_dict())

with torch.no_grad():
    difference = (mine(**tokens) - same.eval()(**tokens)).abs().max()
assert difference < 1e-4
print(f"largest difference of the logits: ≈{difference:.0e}")

# %% [markdown]
# **Read.** Three ways to the same numbers: your forty lines, the plain file and the library. What follows in this book can
# be checked against any of them.
#
# ## Exercises
#
# **Exercise 03.1.** Write the two projections for any pair of widths. The check asks for BERT ($d_s = 768$) and
# Llama-3.1-8B ($d = 4096$).


# %% tags=["exercise"]
def projections(d_slm, d_llm):
    return ...  # L_in, L_out


checks.check_projections(projections)


# %% tags=["solution"]
def projections(d_slm, d_llm):
    L_in = nn.Linear(d_slm, d_llm, bias=False)
    L_out = nn.Linear(d_llm, d_slm, bias=False)
    return L_in, L_out


checks.check_projections(projections)

# %% [markdown]
# **Exercise 03.2.** Write the block from $h$ to $W_{out}\,y$.


# %% tags=["exercise"]
def pifi_forward(h, L_in, layer, L_out):
    return ...  # (batch, d_slm)


checks.check_pifi_forward(pifi_forward)


# %% tags=["solution"]
def pifi_forward(h, L_in, layer, L_out):
    x = L_in(h)  # (batch, d_llm)
    y = layer(x[:, None])[:, 0]  # (batch, d_llm)
    return L_out(y)  # (batch, d_slm)


checks.check_pifi_forward(pifi_forward)

# %% [markdown]
# **Exercise 03.3.** Freeze a module: no weight trains, no dropout acts, gradients pass.


# %% tags=["exercise"]
def freeze(module):
    return ...


checks.check_freeze(freeze)


# %% tags=["solution"]
def freeze(module):
    module.requires_grad_(False)
    return module.eval()


checks.check_freeze(freeze)

# %% [markdown]
# ## What this does not show
#
# - Equal outputs say that we built PiFi, not that PiFi helps: chapter 05 trains it next to its controls.
# - We fed the pooled vector, as the paper does. Feeding all tokens is another model; the library calls it
#   `feed="sequence"`.
#
# ## Quiz

# %%
checks.quiz("03")

# %% [markdown]
# ## Summary
#
# - $W_{in}$ is $(d, d_s)$, $W_{out}$ is $(d_s, d)$; the pooled vector becomes a sequence of one token.
# - The layer's weights are frozen; its Jacobian still carries the gradient.
# - Our forty lines and `pp.plug_in` give the same logits.
#
# **Words:** [projection](../book/glossary.md#projection) · [frozen layer](../book/glossary.md#frozen-layer) ·
# [pooling](../book/glossary.md#pooling) · [wiring](../book/glossary.md#wiring)
#
# **Next:** [04 One token through a layer](04_one_token_through_a_layer.ipynb)
