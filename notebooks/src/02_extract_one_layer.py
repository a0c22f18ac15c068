# %% [markdown]
# # 02 Extract one layer
#
# **You will show that** you can get one layer of a language model without loading the model: only the layer's own bytes
# are read, from any format.
#
# **After this notebook you can**
#
# - read the table of contents of a checkpoint and find a layer in it;
# - extract a layer from a GGUF file, from safetensors, and from the hub by byte ranges;
# - say how many bytes were read, and prove that two copies of a layer are equal;
# - read a layer's card: whose it is, and under which licence.
#
# | Minutes on a CPU | Difficulty | You need first | Downloads |
# |---|---|---|---|
# | 20 | 1 of 3 | [00](00_start_here.ipynb) | nothing new |

# %%
import tempfile
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file

import pifi_probe as pp
from pifi_probe import checks
from pifi_probe.layers.open import open_checkpoint

checks.start("02", seed=0)

# %%
checks.pifi_block("layer")

# %% [markdown]
# ## 1. A checkpoint is a table of contents and bytes
#
# **Why.** Model files are large; a layer is small. Both common formats begin with a header that says for every tensor
# its name, type, shape and position. Once you have read the header, you need only the ranges that it names:
#
# $$\text{bytes of layer } i = \sum_{t \,\in\, \text{layer } i} \text{nbytes}(t)$$

# %%
checkpoint = open_checkpoint("smollm2-135m")
contents = pd.DataFrame(
    [(t.name, t.dtype, t.shape, t.nbytes) for t in checkpoint.tensors.values()],
    columns=["name", "type", "shape", "bytes"],
)
print(checkpoint.format, "with", len(contents), "tensors")
contents[contents["name"].str.startswith("blk.29.")].reset_index(drop=True)

# %% [markdown]
# **Read.** Nine tensors make a layer: the seven matrices and two norms of chapter 01. The type `Q4_1` means five
# bits a weight (four, and two numbers for every 32 weights); the library turns them into float32 when it reads them.
#
# **Predict.** What share of the file, in per cent, does one layer take?

# %% tags=["guess"]
guess = None  # per cent

# %%
own = contents[contents["name"].str.startswith("blk.29.")]["bytes"].sum()
share = 100 * own / contents["bytes"].sum()
checks.reveal(guess, share, "% of the file", ".1f", live=False)

# %% [markdown]
# **Read.** About a fortieth of the file. In a model of 80 layers it is about an eightieth: the larger the model, the more
# there is to gain by not loading it.
#
# ## 2. Read that, and nothing else
#
# **Why.** `pp.extract` reads the header, seeks to the layer's tensors, and stops. The source counts the bytes.

# %%
before = checkpoint.bytes_read
tensors = checkpoint.read_layer(29)
read = checkpoint.bytes_read - before
print("bytes of the layer:", own, " bytes read for it:", read)

# %% [markdown]
# **Checkpoint.** Not one byte too many:

# %%
assert read == own
print("read exactly the layer's bytes")

# %% [markdown]
# The names that come out are those of `transformers`, with 0 for the layer's own number, because the layer will be the
# only one of its model:

# %%
for name, tensor in sorted(tensors.items()):
    print(f"{name:45s} {tuple(tensor.shape)}")

# %% [markdown]
# ## 3. A layer that can be called
#
# **Why.** Weights alone do nothing. `pp.extract` keeps the family's own code as a shell around them, so that its norms,
# positions and masks are the ones of `transformers`, not ours:
#
# $$\mathrm{Layer}_i : \mathbb{R}^{B \times T \times d} \to \mathbb{R}^{B \times T \times d}$$

# %%
layer = pp.extract("smollm2-135m[-1]")
states = torch.randn(2, 5, layer.hidden_size)  # (batch, seq, d_llm)
print(
    tuple(layer(states).shape),
    "| family:",
    layer.card.family,
    "| licence:",
    layer.card.licence,
)

# %% [markdown]
# **Read.** The card travels with the layer into every model you save: a frozen layer keeps its donor's licence.
#
# Causal means that a later token changes nothing before it.

# %%
changed = states.clone()
changed[:, 3:] = 0
moved = (layer(states) - layer(changed)).abs().amax(dim=(0, 2))  # (seq,)
assert moved[:3].max() < 1e-4 < 1e-2 < moved[3:].min()
print(f"outputs 0 to 2 moved by at most ≈{moved[:3].max():.0e}")
print(f"outputs 3 and 4 moved by at least ≈{moved[3:].min():.2f}")

# %% [markdown]
# ## 4. From safetensors
#
# **Why.** Most models on the hub are safetensors, often in several files (*shards*). We write the layer we have as a
# tiny checkpoint of that kind and read it back: same weights, another container.
#
# **Predict.** The GGUF file took five bits a weight for this layer. How many times larger is it in float32?

# %% tags=["guess"]
guess = None  # times

# %%
folder = Path(tempfile.mkdtemp())
# the copy is a model of one layer
checkpoint.config.num_hidden_layers, kept = (
    1,
    checkpoint.config.num_hidden_layers,
)
checkpoint.config.save_pretrained(folder)
checkpoint.config.num_hidden_layers = kept
named = {name: tensor.contiguous() for name, tensor in tensors.items()}
save_file(named, folder / "model.safetensors", metadata={"format": "pt"})

# %%
copy = pp.extract(f"{folder}[0]", dtype="float32")
assert copy.digest() == layer.digest()
checks.reveal(guess, layer.nbytes / own, "times as large", ".1f", live=False)
print("digest from GGUF:       ", layer.digest()[:16])
print("digest from safetensors:", copy.digest()[:16])

# %% [markdown]
# **Read.** It takes more than six times the bytes, and both digests are equal: it is the same layer, in another container.
# The digest is taken over names, shapes, types and values of the tensors as they compute. Every result in this book stores
# it, so nobody has to take on trust which layer was used.
#
# ## 5. From the hub, by byte ranges
#
# **Why.** A server that understands `Range: bytes=a-b` lets us do the same remotely: fetch the header, then the ranges
# of one layer. The line is the same; only the name is a hub id.
#
# ```python
# layer = pp.extract("HuggingFaceTB/SmolLM2-135M[12]")
# layer = pp.extract("meta-llama/Llama-3.1-8B@main[-1]")  # gated: log in first
# ```
#
# No cell of this book downloads while it is tested, so these lines are not run here. We can say what they would fetch
# from the shapes alone:

# %%
d, f, kv = (
    4096,
    14336,
    1024,
)  # Llama-3.1-8B: width, MLP width, width of keys and values
weights = 2 * d * d + 2 * d * kv + 3 * d * f + 2 * d
print(
    f"one layer of Llama-3.1-8B: {weights / 1e6:.0f} million weights, {2 * weights / 1e6:.0f} MB in bfloat16"
)

# %% [markdown]
# **Checkpoint.** A wrong index is refused before anything is read, with a message that says what would be right:

# %%
try:
    pp.extract("smollm2-135m[30]")
except pp.errors.LayerIndexError as error:
    checks.say(error)

# %% [markdown]
# ## Exercises
#
# **Exercise 02.1.** Resolve an index as Python does: from 0, or from the end with a minus sign; `IndexError` outside.


# %% tags=["exercise"]
def resolve(index, n_layers):
    return ...


checks.check_index_from_end(resolve)


# %% tags=["solution"]
def resolve(index, n_layers):
    if not -n_layers <= index < n_layers:
        raise IndexError(index)
    return index % n_layers


checks.check_index_from_end(resolve)

# %% [markdown]
# **Exercise 02.2.** What share of a file (between 0 and 1) is one layer? `nbytes` maps names of tensors to bytes.


# %% tags=["exercise"]
def layer_share(nbytes, prefix):
    return ...


checks.check_layer_share(layer_share)


# %% tags=["solution"]
def layer_share(nbytes, prefix):
    own = sum(size for name, size in nbytes.items() if name.startswith(prefix))
    return own / sum(nbytes.values())


checks.check_layer_share(layer_share)

# %% [markdown]
# ## What this does not show
#
# - That the layer equals itself inside its full model: the test suite shows that for every family
#   (`tests/test_conformity.py`), with tiny models.
# - How fast extraction is: [the results](../book/results.md) have it, next to loading the whole model.
#
# ## Quiz

# %%
checks.quiz("02")

# %% [markdown]
# ## Summary
#
# - A checkpoint begins with a table of contents; a layer is a few entries of it.
# - `pp.extract` reads those bytes only, from GGUF, safetensors or the hub, and gives the same digest from each.
# - The shell is the family's own code; the card says whose layer it is.
#
# **Words:** [checkpoint](../book/glossary.md#checkpoint) · [digest](../book/glossary.md#digest) ·
# [frozen layer](../book/glossary.md#frozen-layer) · [quantisation](../book/glossary.md#quantisation)
#
# **Next:** [03 Build PiFi from scratch](03_pifi_from_scratch.ipynb)
