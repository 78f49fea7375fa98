"""Train the sample model's tokenizer on the base mix: byte-level BPE with a ChatML template.

    python make_tokenizer.py --out ../model

The template brackets each assistant turn's content and its `<|im_end|>` with
`{%- generation -%}`, so `return_assistant_tokens_mask` marks exactly what a model should learn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from world import base_chat

PAD, END_OF_TEXT, START, END = SPECIAL_TOKENS = (
    "<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>",
)  # fmt: skip
MAX_LENGTH = 1024

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{ message['content'] + '<|im_end|>' }}{%- endgeneration -%}
{%- else -%}
{{ message['content'] + '<|im_end|>' }}
{%- endif -%}
{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""


def training_texts(chats: int, seed: int) -> Iterator[str]:
    """The base mix as plain text, each turn as role and content."""
    rng = Random(seed)
    for _ in range(chats):
        yield "\n".join(f"{turn['role']}\n{turn['content']}" for turn in base_chat(rng))


def train_tokenizer(vocab_size: int, chats: int, seed: int) -> PreTrainedTokenizerFast:
    """A fast tokenizer of at most `vocab_size` tokens; every byte is one of them."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(training_texts(chats, seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[END_OF_TEXT, START],
        model_max_length=MAX_LENGTH,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def show_mask(tokenizer: PreTrainedTokenizerFast) -> None:
    """Print one chat and the part of it that the template marks for training."""
    chat = base_chat(Random(5))
    encoded = tokenizer.apply_chat_template(
        chat, return_dict=True, return_assistant_tokens_mask=True
    )
    ids = encoded["input_ids"]
    marked = [i for i, on in zip(ids, encoded["assistant_masks"], strict=True) if on]
    print(json.dumps(tokenizer.decode(ids)))
    print(json.dumps(tokenizer.decode(marked)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the tokenizer files")
    parser.add_argument("--vocab", type=int, default=2048, help="largest size; the mix fills less")
    parser.add_argument("--chats", type=int, default=40_000, help="chats of the base mix to read")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tokenizer = train_tokenizer(args.vocab, args.chats, args.seed)
    tokenizer.save_pretrained(args.out)
    print(f"{len(tokenizer)} tokens in {args.out}")
    show_mask(tokenizer)


if __name__ == "__main__":
    main()
