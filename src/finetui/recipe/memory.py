"""The peak memory of a run, by component, from its recipe alone: pure, at every key.

Weights, adapter, gradients and optimiser states are counted from the model's geometry (bytes; P
parameters, Pt trained ones):

- weights 2P in bf16 or fp16, 4P in fp32; in 4 bits 0.5 a parameter of the linear layers and the
  scales of blocks of 64: 0.0625, quantised once more 0.0159
- LoRA: adapter 4Pt, gradients 4Pt, AdamW 8Pt; full tuning 4P, 4P and 8P (fp32 master weights); an
  8-bit AdamW 2Pt and its scales

Activations and working memory come from `Coefficients` measured on the meta device; until a model
is measured, from a formula for Llama-like layers, which is marked as such. Logits: 12 bytes a
position that is trained on and word of the vocabulary (log-probabilities and two gradients in
fp32), of one chunk at a time (`finetui.engine.head`), so that they are rarely the peak.

    peak = weights + adapter + optimiser + the largest of
        forward   activations + working memory of a layer
        loss      activations + logits
        backward  activations + working memory + what gradients there are
        update    gradients

A maximum, not a sum: what one moment needs is free at the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from finetui.recipe.coefficients import Amount, Coefficients, Key
from finetui.recipe.facts import Facts, Linear, Past
from finetui.recipe.schema import Recipe, replace

GIB = 2**30
Source = Literal["measured", "formula", "earlier runs"]
Moment = Literal["forward", "loss", "backward", "update"]

ROUNDED = 8  # batches are padded to a multiple of this
_UNPICKED_SHARE = 0.2  # of tokens trained on, where the data do not say: a short answer
_LOGIT = 12.0  # bytes a position and word: log-probabilities and two gradients in fp32
_WHOLE_LOGIT = 14.0  # the same where all logits are made at once, with the logits themselves
_HIDDEN_COPIES = 1.0  # of the hidden states where something is predicted, around the head
CHUNK = {"cpu": 2**20, "gpu": 2**26}  # logits at once, as finetui.engine.head has it
_NF4_BLOCK, _NF4_OUTER = 64, 256
_EXACT, _ROUGH = (0.98, 1.03), (0.85, 1.2)  # spread of activations: measured, by formula
_SLACK = 0.05  # of all tensors: what the allocator keeps and cannot use
_MALLOC_SLACK = 0.7  # the same of malloc on a CPU, above what earlier runs told
_CONTEXT = (0.3 * GIB, 0.6 * GIB)  # of CUDA; the driver and the kernels that were loaded
_PROCESS = (0.45 * GIB, 0.8 * GIB)  # Python and the libraries, where tensors are in main memory
_ALIKE = 5  # earlier runs that count


@dataclass(frozen=True, slots=True)
class Part:
    """One component at the moment of the peak, in bytes, as a range."""

    name: str
    low: float
    high: float
    source: Source = "formula"


@dataclass(frozen=True, slots=True)
class Peak:
    """The peak of a run: its parts add up to it.

    ``uncorrected`` is the middle of what tensors take, before ``calibrated`` earlier runs
    corrected it.
    """

    parts: tuple[Part, ...]
    moment: Moment
    source: Source
    uncorrected: float
    calibrated: int = 0

    @property
    def low(self) -> int:
        return round(sum(part.low for part in self.parts))

    @property
    def high(self) -> int:
        return round(sum(part.high for part in self.parts))


@dataclass(frozen=True, slots=True)
class Batch:
    """The largest batch: sequences of ``length`` tokens, and positions that need logits."""

    sequences: int
    length: int
    trained_low: float
    trained_high: float

    @property
    def tokens(self) -> int:
        return self.sequences * self.length


# --- what the recipe means for memory ------------------------------------------------------------


def precision(recipe: Recipe, facts: Facts) -> str:
    """fp32, bf16 or fp16; ``auto`` is fp32 on a CPU, fp16 on a GPU without bf16, else bf16."""
    if recipe.model.precision != "auto":
        return recipe.model.precision
    if facts.gpus == 0:
        return "fp32"
    return "fp16" if facts.gpu_bf16 is False else "bf16"


def attention(recipe: Recipe, facts: Facts) -> str:
    """What attention keeps: flash (no matrix), sdpa (a mask and repeated heads), eager (T x T)."""
    asked = recipe.model.attention
    if asked in ("flash", "varlen"):
        return "flash"
    if asked == "auto" and recipe.data.packing and facts.gpus != 0:
        return "flash"
    return "eager" if asked == "eager" else "sdpa"


def largest_batch(recipe: Recipe, facts: Facts) -> Batch:
    """Every row as long as the longest that is trained on; a pair is two sequences."""
    data = recipe.data
    longest = data.max_length if facts.longest is None else min(facts.longest, data.max_length)
    length = data.max_length if data.packing else longest
    length = -(-length // ROUNDED) * ROUNDED
    pairs = recipe.method.objective in ("dpo", "orpo")
    sequences = recipe.training.batch_size * (2 if pairs else 1)
    low, high = _trained_shares(recipe, facts)
    return Batch(sequences, length, low * sequences * length, high * sequences * length)


def _trained_shares(recipe: Recipe, facts: Facts) -> tuple[float, float]:
    """The share of a batch's positions that need logits, from usual to worst."""
    if recipe.data.loss_on == "all" or recipe.method.objective == "pretrain":
        return 1.0, 1.0
    if not facts.tokens or facts.trained_tokens is None:
        return _UNPICKED_SHARE, 1.0
    share = min(1.0, facts.trained_tokens / facts.tokens)
    return share, min(1.0, 2 * share)


def targeted(recipe: Recipe, facts: Facts) -> tuple[Linear, ...]:
    """The linear layers that get an adapter: all of them, or those whose name is listed."""
    wanted = recipe.method.target_modules
    if wanted == ("all-linear",):
        return facts.linears
    names = {target.rpartition(".")[2] for target in wanted}
    found = tuple(linear for linear in facts.linears if linear.name in names)
    if "lm_head" in names and facts.model_hidden and facts.vocab:
        found += (Linear("lm_head", facts.model_hidden, facts.vocab, 1),)
    return found


def adapter_parameters(recipe: Recipe, facts: Facts) -> int | None:
    """Trained parameters: rank x (inputs + outputs) for each adapted layer, DoRA's lengths too."""
    if recipe.method.kind == "full":
        return facts.model_parameters
    if not facts.linears:
        return None
    found = targeted(recipe, facts)
    widths = sum((x.inputs + x.outputs) * x.count for x in found)
    lengths = sum(x.outputs * x.count for x in found) if recipe.method.dora else 0
    return recipe.method.rank * widths + lengths


# --- the peak ------------------------------------------------------------------------------------


def key(recipe: Recipe, facts: Facts) -> Key:
    """Which coefficients this recipe needs."""
    method = recipe.method
    full = method.kind == "full"
    return Key(
        trains="full" if full else "dora" if method.dora else "adapter",
        targets=() if full else tuple(sorted(method.target_modules)),
        wide=precision(recipe, facts) == "fp32",
        attention=attention(recipe, facts),
        quantised=method.kind == "qlora",
        dropout=not full and method.dropout > 0,
    )


def unmeasured(recipe: Recipe, facts: Facts) -> tuple[str, ...]:
    """Keys of the coefficients that are a formula still and that measuring can make exact.

    The recipe's own first, then those of the remedies, so that they compare like with like. Empty
    where the model is not there, was measured, or cannot be measured.
    """
    own = key(recipe, facts)
    if not facts.model_folder or not facts.model_layers or recipe.model.trust_remote_code:
        return ()
    if any(mark in target for target in own.targets for mark in ":,"):
        return ()
    known = facts.measured
    done = {*known.found, *known.problems} if known else set()
    if str(own) in done:
        return ()
    wanted = dict.fromkeys(str(key(one, facts)) for one in (recipe, *_neighbours(recipe)))
    return tuple(one for one in wanted if one not in done)


def _neighbours(recipe: Recipe) -> Iterator[Recipe]:
    """What the remedies would make of a recipe, as far as it changes what layers keep."""
    for kind in {"lora": ("qlora",), "qlora": ("lora",), "full": ("lora", "qlora")}[
        recipe.method.kind
    ]:
        yield replace(recipe, "method.kind", kind)
    if recipe.model.attention == "eager":
        yield replace(recipe, "model.attention", "auto")


def problem(recipe: Recipe, facts: Facts) -> str:
    """Why the coefficients of this recipe could not be measured; "" where they could be."""
    return facts.measured.problems.get(str(key(recipe, facts)), "") if facts.measured else ""


def peak(recipe: Recipe, facts: Facts) -> Peak | None:
    """The peak by components; None where the model's geometry is unknown."""
    trained = adapter_parameters(recipe, facts)
    if not (facts.model_parameters and facts.model_hidden and facts.model_layers and facts.vocab):
        return None
    if trained is None:
        return None
    coefficients, source = _coefficients(recipe, facts)
    batch = largest_batch(recipe, facts)
    shares = _shares(recipe)
    gradients = 4.0 * trained / shares
    moments = _moments(recipe, facts, coefficients, batch, gradients, source)
    moment = max(moments, key=lambda name: _high(moments[name]))
    fixed = _weights(recipe, facts, facts.model_parameters, trained)
    if recipe.training.processes > 1:
        together = _whole_layers(recipe, facts) if shares > 1 else _even("buckets", gradients)
        fixed = (*(_part_of(part, shares) for part in fixed), together)
    tensors = (*fixed, *(part for part in moments[moment] if part.high > 0))
    return _calibrated(recipe, facts, tensors, moment, source)


def _shares(recipe: Recipe) -> int:
    """Into how many parts weights, gradients and optimiser states are shared out."""
    training = recipe.training
    return training.processes if training.sharding == "fsdp" else 1


def _part_of(part: Part, shares: int) -> Part:
    return Part(part.name, part.low / shares, part.high / shares, part.source)


def _whole_layers(recipe: Recipe, facts: Facts) -> Part:
    """What is put together again: two layers at a time, embedding and output layer for a step."""
    assert facts.vocab and facts.model_hidden and facts.model_layers and facts.model_parameters
    outer = facts.vocab * facts.model_hidden * (1 if facts.tied else 2)
    layer = max(0, facts.model_parameters - outer) / facts.model_layers
    element = 4.0 if recipe.method.kind == "full" or precision(recipe, facts) == "fp32" else 2.0
    return _even("whole layers", element * (outer + 2 * layer))


def _coefficients(recipe: Recipe, facts: Facts) -> tuple[Coefficients, Source]:
    found = facts.measured.found if facts.measured else {}
    measured = found.get(str(key(recipe, facts)))
    return (measured, "measured") if measured else (_guess(recipe, facts), "formula")


def _guess(recipe: Recipe, facts: Facts) -> Coefficients:
    """Llama-like layers: 53 bytes a token and hidden feature in bf16 (8B: .415 GiB at 2,048)."""
    assert facts.model_hidden
    wide = 2 if precision(recipe, facts) == "fp32" else 1
    hidden = facts.model_hidden * wide
    inner = (facts.model_inner or 3.5 * facts.model_hidden) * wide
    heads = facts.model_heads or max(1, facts.model_hidden // 128)
    kind = attention(recipe, facts)
    square = {"eager": 8.0 * heads, "sdpa": 2.0 * wide}.get(kind, 0.0)
    full = recipe.method.kind == "full" and wide == 1
    layer_linears = sum(x.inputs * x.outputs * x.count for x in facts.linears)
    casts = 2.0 * layer_linears / (facts.model_layers or 1) if full else 0.0
    return Coefficients(
        outer=Amount(token=10.0 * hidden),
        layer=Amount(one=casts, token=53.0 * hidden, square=square),
        border=Amount(token=2.0 * hidden),
        forward=Amount(token=4.0 * inner, square=square / 2),
        backward=Amount(token=8.0 * inner, square=square),
    )


def _weights(recipe: Recipe, facts: Facts, parameters: int, trained: int) -> tuple[Part, ...]:
    """Weights, adapter and optimiser states: there from the first update to the end."""
    method = recipe.method
    states = _states(recipe, trained)
    if method.kind == "full":
        return (_even("weights", 4.0 * parameters), states)
    element = 4.0 if precision(recipe, facts) == "fp32" else 2.0
    weights = element * parameters
    if method.kind == "qlora":
        linear = quantised_parameters(facts)
        weights = _packed_byte(method.double_quantisation) * linear
        weights += element * (parameters - linear)
    # The start is remembered where it is no plain base: it may be the reference, or taken out.
    copies = 2 if recipe.model.adapter or method.init in ("pissa", "olora") else 1
    return (_even("weights", weights), _even("adapter", 4.0 * trained * copies), states)


def quantised_parameters(facts: Facts) -> int:
    """Parameters that 4-bit loading packs: the linear layers, never the output layer."""
    return sum(x.inputs * x.outputs * x.count for x in facts.linears)


def _packed_byte(double: bool) -> float:
    scales = 1 / _NF4_BLOCK + 4 / (_NF4_BLOCK * _NF4_OUTER) if double else 4 / _NF4_BLOCK
    return 0.5 + scales


def _states(recipe: Recipe, trained: int) -> Part:
    """AdamW's two averages; paged ones may all be on the host."""
    optimiser = recipe.training.optimizer
    size = (2.03 if optimiser.endswith("8bit") else 8.0) * trained
    return Part("optimiser", 0.0 if optimiser.startswith("paged") else size, size)


def _moments(
    recipe: Recipe,
    facts: Facts,
    known: Coefficients,
    batch: Batch,
    gradients: float,
    source: Source,
) -> dict[Moment, tuple[Part, ...]]:
    """What each moment of a step needs on top of weights, adapter and optimiser."""
    layers, rank = facts.model_layers or 1, recipe.method.rank
    again = recipe.training.checkpointing

    def of(amount: Amount) -> float:
        return amount.bytes(batch.sequences, batch.length, rank)

    per_layer = of(known.layer) if again == "off" else of(known.border)
    kept = of(known.outer) + per_layer * (layers if again != "offload" else min(2, layers))
    low, high = _EXACT if source == "measured" else _ROUGH
    kept = max(0.0, kept)
    activations = Part("activations", low * kept, high * kept, source)

    def work(size: float) -> Part:
        return Part("working memory", low * size, high * size, source)

    # Gradients of earlier batches are there all the time; else they grow from the head on.
    full = gradients if recipe.training.accumulation > 1 else _head_gradient(recipe, facts)
    standing = _even("gradients", full)
    redone = of(known.layer) if again != "off" else 0.0
    backward = work(redone + of(known.backward))
    # Of the kept activations only the first layer's are left when the last gradients come.
    left = of(known.outer) + (of(known.layer) if again == "off" else 2 * of(known.border))
    rest = Part("activations", low * left, high * left, source)
    embedding = _head_gradient(recipe, facts)
    ending = (rest, backward, _even("gradients", gradients - embedding))
    last = (rest, _even("gradients", gradients + (embedding if facts.tied else 0.0)))
    starting = (activations, backward, standing)
    waiting = _even("gradients", gradients if recipe.training.accumulation > 1 else 0.0)
    return {
        "forward": (activations, work(of(known.forward)), waiting),
        "loss": (activations, *_logits(recipe, facts, batch), waiting),
        "backward": max(starting, ending, last, key=_high),
        "update": (_even("gradients", gradients),),
    }


def _high(parts: tuple[Part, ...]) -> float:
    return sum(part.high for part in parts)


def _logits(recipe: Recipe, facts: Facts, batch: Batch) -> tuple[Part, ...]:
    """Logits of a chunk and hidden states around them; with full tuning the output layer's own."""
    assert facts.vocab and facts.model_hidden
    wide = precision(recipe, facts) == "fp32"
    chunk = max(CHUNK["cpu" if facts.gpus == 0 else "gpu"], facts.vocab)
    full = recipe.method.kind == "full"
    around = _HIDDEN_COPIES * facts.model_hidden * (4 if wide or full else 2)

    def size(positions: float) -> float:
        logits = positions * facts.vocab if facts.vocab else 0.0
        if recipe.training.compile:
            return _WHOLE_LOGIT * logits
        return _LOGIT * min(logits, chunk) + around * positions

    parts = Part("logits", size(batch.trained_low), size(batch.trained_high))
    if not full:
        return (parts,)
    several = batch.trained_low * facts.vocab > chunk or recipe.training.accumulation > 1
    # An fp32 gradient, another to add it to, and the 16-bit weight with its own gradient.
    copies = 4.0 + (4.0 if several else 0.0) + (0.0 if wide else 4.0)
    weight = facts.vocab * facts.model_hidden
    if parts.high + weight * (0 if wide else 2) > copies * weight:
        return (parts, _even("output layer", weight * (0.0 if wide else 2.0)))
    return (_even("output layer", copies * weight),)


def _head_gradient(recipe: Recipe, facts: Facts) -> float:
    """Bytes of the gradient of the output layer: there before the layers' own, as that of the
    embedding, of the same size, comes after them."""
    full = recipe.method.kind == "full" and facts.vocab and facts.model_hidden
    return 4.0 * facts.vocab * facts.model_hidden if full else 0.0  # type: ignore[operator]


def _even(name: str, size: float) -> Part:
    return Part(name, size, size)


# --- what is not tensors, and what earlier runs tell ---------------------------------------------


def _calibrated(
    recipe: Recipe, facts: Facts, tensors: tuple[Part, ...], moment: Moment, source: Source
) -> Peak:
    """The peak with what is around the tensors, corrected by this machine's earlier runs."""
    runs = alike(recipe, facts)
    middle = sum(part.low + part.high for part in tensors) / 2
    if facts.gpus == 0:
        beyond = max(0.0, middle - max((run.predicted for run in runs), default=0.0))
        slack = Part("allocator slack", 0.0, _MALLOC_SLACK * beyond)
        return Peak((*tensors, slack, _process(runs)), moment, source, middle, len(runs))
    if runs:
        low, high = (bound(run.peak / run.predicted for run in runs) for bound in (min, max))
        tensors = tuple(
            Part(part.name, part.low * low, part.high * high, part.source) for part in tensors
        )
    around = (
        Part("CUDA context", *_CONTEXT),
        Part("allocator slack", 0.0, _SLACK * _high(tensors)),
    )
    return Peak((*tensors, *around), moment, source, middle, len(runs))


def _process(runs: list[Past]) -> Part:
    """Python, its libraries and what malloc keeps: what earlier runs took beyond their tensors."""
    if not runs:
        return Part("process", *_PROCESS)
    beyond = [max(0.0, run.peak - run.predicted) for run in runs]
    return Part("process", 0.95 * min(beyond), 1.05 * max(beyond), "earlier runs")


def alike(recipe: Recipe, facts: Facts) -> list[Past]:
    """The newest earlier runs on this device that tell of this one: same model size and method,
    else same method, else any."""
    here = [run for run in facts.past if run.device == device(facts) and run.predicted > 0]
    here = [run for run in here if run.peak > 0]
    method = [run for run in here if run.method == recipe.method.kind]
    model = [run for run in method if _near(run.parameters, facts.model_parameters)]
    return (model or method or here)[:_ALIKE]


def _near(one: int, other: int | None) -> bool:
    return bool(one and other) and abs(math.log(one / (other or 1))) < 0.1


def device(facts: Facts) -> str:
    """What earlier runs are kept under: the GPU's name, "CPU" without one."""
    return facts.gpu_name if facts.gpus else "CPU"
