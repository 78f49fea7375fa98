"""Pretrain the sample base model (Llama, 3.45 M parameters) on the template world.

    OMP_WAIT_POLICY=PASSIVE python pretrain.py --out ../model

The tokenizer must lie in `--out` already (make_tokenizer.py).
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from world import Chat, base_chat

TOKENS_PER_STEP = 3072  # padded; nearly all of them real, since a batch holds like lengths
POOL_CHATS = 4000  # chats drawn, sorted by length and cut into batches at a time
PEAK_RATE = 3e-3
FLOOR = 0.05  # share of the peak rate left at the end
REPORT_EVERY = 50
SAVE_EVERY = 250  # an early model is good enough to try the rest of the workstation on
IGNORED = -100


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A random Llama for `tokenizer`, its vocabulary padded up to a multiple of 32."""
    config = LlamaConfig(
        vocab_size=math.ceil(len(tokenizer) / 32) * 32,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=704,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.max_new_tokens = 128
    return model


def load_model(folder: Path) -> LlamaForCausalLM:
    """The model in `folder`, in float32 and ready to train."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.train()


def chat_text(chat: Chat) -> str:
    """The chat template's result, without Jinja: 4000 chats a pool make that worth it."""
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in chat)


def split_by_length(rows: list[list[int]]) -> list[list[list[int]]]:
    """Batches of like lengths, each at most TOKENS_PER_STEP tokens when padded."""
    batches: list[list[list[int]]] = []
    batch: list[list[int]] = []
    for row in sorted(rows, key=len):
        if batch and (len(batch) + 1) * len(row) > TOKENS_PER_STEP:
            batches.append(batch)
            batch = []
        batch.append(row)
    return [*batches, batch]


def pad(batch: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Input ids and labels, both [rows, length]; labels ignore the padding, and only that.

    No attention mask: padding is on the right and attention is causal.
    """
    length = max(map(len, batch))
    ids = torch.full((len(batch), length), pad_id)
    labels = torch.full((len(batch), length), IGNORED)
    for number, row in enumerate(batch):
        ids[number, : len(row)] = labels[number, : len(row)] = torch.tensor(row)
    return ids, labels


def stream_batches(
    tokenizer: PreTrainedTokenizerFast, rng: Random
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the base mix without end; no chat is drawn on purpose a second time."""
    while True:
        texts = [chat_text(base_chat(rng)) for _ in range(POOL_CHATS)]
        batches = split_by_length(tokenizer(texts)["input_ids"])
        rng.shuffle(batches)
        for batch in batches:
            yield pad(batch, tokenizer.pad_token_id)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, for the matrices inside the layers.

    The same sums as `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` (arXiv 2502.16982),
    but in float32 and with matrices of one shape stacked: torch's works in bfloat16, which costs
    four times as much on a processor without bfloat16 units.
    """

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)
    ITERATIONS = 5

    def __init__(
        self,
        params: list[Parameter],
        lr: float,
        weight_decay: float = 0.05,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(
            _group_by_shape(params), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            params = group["params"]
            updates = torch.stack([self._update_momentum(p, group["momentum"]) for p in params])
            rate = group["lr"] * 0.2 * math.sqrt(max(params[0].shape))
            for param, update in zip(params, self._orthogonal(updates), strict=True):
                param.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=rate)

    def _update_momentum(self, param: Parameter, momentum: float) -> Tensor:
        """Nesterov: the gradient, moved towards the running mean that it has just joined."""
        mean = self.state[param].setdefault("mean", torch.zeros_like(param))
        mean.lerp_(param.grad, 1 - momentum)
        return param.grad.lerp(mean, momentum)

    def _orthogonal(self, matrices: Tensor) -> Tensor:
        """Newton-Schulz: all singular values of `matrices` [n, rows, columns] towards 1."""
        a, b, c = self.COEFFICIENTS
        tall = matrices.size(1) > matrices.size(2)
        x = matrices.mT if tall else matrices
        x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
        for _ in range(self.ITERATIONS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x.mT if tall else x


def _group_by_shape(params: list[Parameter]) -> list[dict[str, list[Parameter]]]:
    shapes: dict[torch.Size, list[Parameter]] = {}
    for param in params:
        shapes.setdefault(param.shape, []).append(param)
    return [{"params": same} for same in shapes.values()]


def build_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    matrices, rest = [], []
    for name, param in model.named_parameters():
        inner = param.ndim == 2 and "embed" not in name
        (matrices if inner else rest).append(param)
    return [
        Muon(matrices, lr=PEAK_RATE),
        torch.optim.AdamW(rest, lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def rate_at(step: int, steps: int) -> float:
    """Learning rate: 5 % linear warm-up, then cosine down to FLOOR of the peak."""
    warmup = min(1.0, (step + 1) / max(1, steps // 20))
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return PEAK_RATE * warmup * (FLOOR + (1 - FLOOR) * cosine)


def train_step(
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    batch: tuple[Tensor, Tensor],
    rate: float,
) -> float:
    """One optimiser step; returns the mean loss per token in nats."""
    ids, labels = batch
    loss = model(input_ids=ids, labels=labels, use_cache=False).loss
    if not torch.isfinite(loss):
        raise FloatingPointError(f"loss is {loss.item()}: the weights so far are worthless")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """Write config and bf16 weights; a reader never meets half a file."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        copy.deepcopy(model).to(torch.bfloat16).save_pretrained(scratch)
        for file in Path(scratch).iterdir():
            file.chmod(0o644)
            file.replace(folder / file.name)


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    steps: int,
    seed: int,
) -> None:
    """The whole pretraining; prints the mean loss every REPORT_EVERY steps."""
    optimizers = build_optimizers(model)
    batches = stream_batches(tokenizer, Random(seed))
    tokens, losses, wall, cpu = 0, [], time.monotonic(), time.process_time()
    for step in range(steps):
        batch = next(batches)
        tokens += int((batch[1] != IGNORED).sum())
        losses.append(train_step(model, optimizers, batch, rate_at(step, steps)))
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == steps:
            print(
                f"step {step + 1}/{steps}  loss {sum(losses) / len(losses):.4f}  "
                f"{tokens / 1e6:.2f} M tokens  wall {time.monotonic() - wall:.0f} s  "
                f"cpu {time.process_time() - cpu:.0f} s",
                flush=True,
            )
            losses.clear()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            save(model, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder with the tokenizer")
    parser.add_argument("--start", type=Path, help="go on from this model, with a new warm-up")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.out, local_files_only=True)
    model = load_model(args.start) if args.start else build_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    train(model, tokenizer, args.out, args.steps, args.seed)


if __name__ == "__main__":
    main()
