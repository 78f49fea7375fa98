"""Advice: each rule speaks when it should, and is silent when it should be."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from finetui.recipe.advice import RULES, Advice, advise, blocks
from finetui.recipe.datafacts import AdapterLook, Details, FileLook
from finetui.recipe.facts import Facts, Linear, Past, gather
from finetui.recipe.files import load
from finetui.recipe.rates import usual_rates
from finetui.recipe.schema import FIELDS, defaults, with_value
from finetui.workspace import sample_data

GIB = 2**30

# A run with nothing to say about it: each case below changes something.
VALUES: dict[str, Any] = {
    "model.path": "model",
    "data.train": "train.jsonl",
    "data.eval": "test.jsonl",
    "data.general": "general.jsonl",
    "data.general_share": "25%",
    "evaluation.suite": "check.jsonl",
    "evaluation.max_new_tokens": 128,
}
KNOWN: dict[str, Any] = {
    "rows": 1_000,
    "tokens": 400_000,
    "trained_tokens": 100_000,
    "longest": 900,
    "lengths": (400,) * 100,
    "eval_rows": 150,
    "general_rows": 500,
    "model_parameters": 8_000_000_000,
    "model_hidden": 4096,
    "model_layers": 32,
    "model_context": 8192,
    "vocab": 128_256,
    "tied": False,
    "linears": (Linear("q_proj", 4096, 4096, 32), Linear("gate_proj", 4096, 14336, 32)),
    "generation_markers": True,
    "gpus": 1,
    "gpu_total": 140 * GIB,
    "gpu_free": 139 * GIB,
    "gpu_bf16": True,
    "cpu_count": 16,
    "disk_free": 500 * GIB,
}
SMALL = {"model_parameters": 3_451_136, "model_hidden": 256, "model_layers": 4, "vocab": 1952}


# An earlier run of the same shape at a few FLOPs a second: this one takes weeks.
SLOW = {
    "gpu_name": "GPU",
    "past": (Past("GPU", "lora", 8_000_000_000, 3e10, 3e10, 1e15, 1e4),),
}


def said(values: dict[str, Any] | None = None, facts: dict[str, Any] | None = None) -> list[Advice]:
    recipe = defaults()
    for id, text in (VALUES | (values or {})).items():
        recipe = with_value(recipe, id, str(text))
    return advise(recipe, Facts(**(KNOWN | (facts or {}))))


def test_a_good_recipe_is_left_in_peace() -> None:
    assert said() == []


Change = dict[str, Any]


def looked(shape: str, **counts: Any) -> Change:
    """Facts of one training file that was looked into."""
    return {"details": Details(train=(FileLook(shape, **({"rows": 100} | counts)),))}


def started(**changes: Any) -> Change:
    """Facts of a start adapter; without changes it suits the recipe."""
    like = {"kind": "LORA", "rank": 16, "alpha": 32.0, "dora": False, "rslora": False,
            "targets": ("gate_proj", "q_proj"), "base": "model"}  # fmt: skip
    return {"details": Details(adapter=AdapterLook(**(like | changes)))}


def installed(*packages: str) -> Change:
    return {"details": Details(packages=frozenset(packages))}


# (rule, severity, field, changed values, changed facts)
SPEAKS: list[tuple[str, str, str, Change, Change]] = [
    ("model-missing", "error", "model.path", {"model.path": ""}, {}),
    ("model-not-found", "error", "model.path", {}, {"missing": (("model.path", "/x"),)}),
    ("model-incomplete", "error", "model.path", {}, {"model_lacks": ("weights",)}),
    ("no-chat-template", "error", "model.path", {}, {"model_lacks": ("chat template",)}),
    ("no-generation-markers", "advice", "data.loss_on", {}, {"generation_markers": False}),
    ("remote-code", "warning", "model.trust_remote_code", {"model.trust_remote_code": "on"}, {}),
    ("unpinned-hub-model", "advice", "model.revision", {}, {"from_hub": True}),
    (
        "precision-unsupported",
        "error",
        "model.precision",
        {"model.precision": "fp16"},
        {"gpus": 0} | SMALL,
    ),
    (
        "precision-unsupported",
        "error",
        "model.precision",
        {"model.precision": "bf16"},
        {"gpu_bf16": False},
    ),
    (
        "precision-choice",
        "advice",
        "model.precision",
        {"model.precision": "bf16"},
        {"gpus": 0} | SMALL,
    ),
    ("precision-choice", "advice", "model.precision", {"model.precision": "fp16"}, {}),
    ("precision-choice", "advice", "model.precision", {"model.precision": "fp32"}, {}),
    ("beyond-context", "warning", "data.max_length", {}, {"model_context": 512}),
    (
        "beyond-context",
        "warning",
        "evaluation.max_new_tokens",
        {"evaluation.max_new_tokens": 9000},
        {},
    ),
    ("no-training-data", "error", "data.train", {"data.train": ""}, {}),
    ("data-not-found", "error", "data.eval", {}, {"missing": (("data.eval", "/x"),)}),
    ("trained-twice", "warning", "data.train", {"data.train": "a.jsonl, ./a.jsonl"}, {}),
    ("held-out-is-trained", "error", "data.eval", {"data.eval": "./train.jsonl"}, {}),
    (
        "held-out-is-trained",
        "error",
        "evaluation.suite",
        {"evaluation.suite": "general.jsonl"},
        {},
    ),
    ("nothing-held-out", "warning", "data.eval", {"data.eval": ""}, {}),
    ("held-out-size", "advice", "data.eval", {}, {"eval_rows": 20}),
    ("held-out-size", "advice", "data.eval", {}, {"eval_rows": 900}),
    ("few-rows", "warning", "data.train", {}, {"rows": 20}),
    ("few-rows", "advice", "data.train", {}, {"rows": 120}),
    ("general-file", "error", "data.general", {"data.general": ""}, {}),
    ("general-file", "warning", "data.general_share", {"data.general_share": 0}, {}),
    ("general-share", "advice", "data.general_share", {"data.general_share": "200%"}, {}),
    ("general-share", "advice", "data.general_share", {}, {"general_rows": 10}),
    (
        "forgetting",
        "advice",
        "data.general",
        {"data.general": "", "data.general_share": 0},
        {},
    ),
    ("forgetting", "advice", "evaluation.suite", {"evaluation.suite": ""}, {}),
    (
        "too-long-rows",
        "warning",
        "data.max_length",
        {},
        {"longest": 5000, "lengths": (400,) * 90 + (5000,) * 10},
    ),
    ("too-long-rows", "advice", "data.max_length", {}, {"longest": 5000}),
    ("cut-answers", "advice", "data.overlong", {"data.overlong": "truncate"}, {"longest": 5000}),
    ("packing", "advice", "data.packing", {}, {"rows": 9_000, "tokens": 900_000}),
    ("packing", "advice", "data.packing", {"data.packing": "on"}, {"tokens": 900_000}),
    ("loss-on-prompts", "advice", "data.loss_on", {"data.loss_on": "all"}, {}),
    ("objective-not-ready", "error", "method.objective", {"method.objective": "grpo"}, {}),
    ("rank-range", "advice", "method.rank", {"method.rank": 4, "method.alpha": 8}, {}),
    ("rank-range", "advice", "method.rank", {"method.rank": 128, "method.alpha": 256}, {}),
    ("rank-range", "warning", "method.rank", {"method.rank": 256, "method.alpha": 512}, SMALL),
    ("alpha-ratio", "advice", "method.alpha", {"method.alpha": 128}, {}),
    ("alpha-ratio", "warning", "method.alpha", {"method.alpha": 512}, {}),
    ("alpha-ratio", "advice", "method.alpha", {"method.alpha": 4}, {}),
    ("dropout-high", "advice", "method.dropout", {"method.dropout": "20%"}, {}),
    ("dropout-high", "warning", "method.dropout", {"method.dropout": "50%"}, {}),
    ("targets-known", "error", "method.target_modules", {"method.target_modules": ""}, {}),
    (
        "targets-known",
        "error",
        "method.target_modules",
        {"method.target_modules": "all-linear, q_proj"},
        {},
    ),
    (
        "targets-known",
        "error",
        "method.target_modules",
        {"method.target_modules": "q_prj, gate_proj"},
        {},
    ),
    (
        "targets-attention-only",
        "advice",
        "method.target_modules",
        {"method.target_modules": "q_proj"},
        {},
    ),
    (
        "targets-output",
        "warning",
        "method.target_modules",
        {"method.target_modules": "q_proj, gate_proj, lm_head"},
        {"tied": True},
    ),
    ("learning-rate-high", "advice", "training.learning_rate", {"learning_rate": "5e-4"}, {}),
    ("learning-rate-high", "warning", "training.learning_rate", {"learning_rate": "1e-3"}, {}),
    ("learning-rate-high", "warning", "training.learning_rate", {"learning_rate": "1e-2"}, SMALL),
    (
        "learning-rate-high",
        "advice",
        "training.learning_rate",
        {"learning_rate": "4e-3"},
        {"model_parameters": None},
    ),
    ("learning-rate-low", "advice", "training.learning_rate", {"learning_rate": "5e-5"}, {}),
    ("learning-rate-low", "warning", "training.learning_rate", {"learning_rate": "2e-5"}, {}),
    ("epochs-by-rows", "advice", "training.epochs", {"epochs": 7}, {}),
    ("epochs-by-rows", "warning", "training.epochs", {"epochs": 12}, {}),
    ("epochs-by-rows", "advice", "training.epochs", {"epochs": 5}, {"rows": 50_000}),
    ("epochs-by-rows", "advice", "training.epochs", {"epochs": 0.5}, {}),
    ("epochs-by-rows", "warning", "training.max_steps", {"max_steps": 2_000}, {}),
    ("steps-and-epochs", "advice", "training.max_steps", {"max_steps": 400, "epochs": 2}, {}),
    ("few-steps", "advice", "training.epochs", {"accumulation": 8}, {"rows": 300}),
    ("few-steps", "warning", "training.max_steps", {"max_steps": 5}, {}),
    ("warmup", "error", "training.warmup", {"warmup": 1.5}, {}),
    ("warmup", "advice", "training.warmup", {"warmup": 0}, {}),
    ("warmup", "warning", "training.warmup", {"warmup": 5000}, {}),
    ("warmup", "advice", "training.warmup", {"warmup": "40%"}, {}),
    ("batch-large", "warning", "training.batch_size", {"batch_size": 512}, {"rows": 250}),
    ("batch-large", "advice", "training.batch_size", {"accumulation": 32}, {"rows": 9_000}),
    ("batch-small", "advice", "training.accumulation", {"batch_size": 1}, {}),
    ("clip", "advice", "training.clip", {"clip": 0}, {}),
    ("clip", "advice", "training.clip", {"clip": 50}, {}),
    ("weight-decay", "advice", "training.weight_decay", {"weight_decay": 0.5}, {}),
    ("weight-decay", "warning", "training.weight_decay", {"weight_decay": 2}, {}),
    ("beta2", "advice", "training.beta2", {"beta2": 0.999}, {}),
    ("beta2", "advice", "training.beta2", {"beta2": 0.8}, {}),
    (
        "early-stopping-blind",
        "error",
        "evaluation.early_stopping",
        {"early_stopping": 2, "evaluation.every": 0},
        {},
    ),
    (
        "early-stopping-blind",
        "error",
        "evaluation.early_stopping",
        {"early_stopping": 2, "data.eval": ""},
        {},
    ),
    ("keep-best-blind", "advice", "evaluation.keep_best", {"evaluation.every": 0}, {}),
    ("evaluation-only-at-end", "advice", "evaluation.every", {"evaluation.every": 0}, {}),
    ("evaluation-only-at-end", "warning", "evaluation.every", {"evaluation.every": 9_000}, {}),
    (
        "evaluation-costly",
        "advice",
        "evaluation.every",
        {"evaluation.every": 1},
        {"eval_rows": 400},
    ),
    ("patience-too-long", "advice", "evaluation.early_stopping", {"early_stopping": 50}, {}),
    ("no-scores", "advice", "evaluation.generate", {"generate": 0}, {}),
    ("no-scores", "advice", "evaluation.generate", {"generate": 10}, {}),
    ("save-and-evaluate", "advice", "checkpoints.every", {"checkpoints.every": 70}, {}),
    ("checkpoints", "warning", "checkpoints.every", {"checkpoints.every": 0}, {"rows": 9_000}),
    ("checkpoints", "warning", "checkpoints.every", {"checkpoints.every": 5_000}, {"rows": 9_000}),
    ("logging-sparse", "advice", "logging.every", {"logging.every": 200}, {}),
    ("gpu-memory", "error", "training.batch_size", {}, {"gpu_total": 8 * GIB}),
    ("gpu-memory", "warning", "training.batch_size", {}, {"gpu_free": 20 * GIB}),
    ("gpu-memory", "advice", "training.batch_size", {}, {"gpu_free": 75 * GIB}),
    ("host-memory", "warning", "training.batch_size", {}, {"gpus": 0, "host_free": 8 * GIB}),
    ("cpu-only", "warning", "model.path", {}, {"gpus": 0}),
    ("threads", "advice", "training.threads", {"threads": 16}, {}),
    ("threads", "warning", "training.threads", {"threads": 64}, {}),
    ("disk", "error", "checkpoints.keep", {}, {"disk_free": 10**6}),
    ("disk", "advice", "checkpoints.keep", {}, {"disk_free": 400 * 2**20}),
    (
        "cut-answers",
        "advice",
        "data.truncation_side",
        {"data.overlong": "truncate", "truncation_side": "start"},
        {"longest": 5000},
    ),
    ("suite-is-held-out", "warning", "evaluation.suite", {"evaluation.suite": "./test.jsonl"}, {}),
    ("general-is-trained", "warning", "data.general", {"data.general": "train.jsonl"}, {}),
    ("general-and-pairs", "warning", "data.general_share", {"objective": "dpo"}, {}),
    ("order", "advice", "data.order", {"order": "file"}, {}),
    ("order", "advice", "data.order", {"order": "length", "packing": "on"}, {}),
    ("pretrain-unpacked", "advice", "data.packing", {"objective": "pretrain"}, {}),
    ("answers-cut-in-scoring", "warning", "evaluation.max_new_tokens", {"max_new_tokens": 32}, {}),
    ("rows-and-objective", "error", "method.objective", {"objective": "dpo"}, looked("chat")),
    ("rows-and-objective", "error", "method.objective", {"objective": "kto"}, looked("answer")),
    ("rows-and-objective", "error", "method.objective", {}, looked("text")),
    ("chats-as-text", "warning", "method.objective", {"objective": "pretrain"}, looked("chat")),
    ("rows-unknown", "warning", "data.train", {}, looked("")),
    ("rows-mixed", "warning", "data.train", {}, looked("chat", others=("pair",))),
    (
        "rows-mixed",
        "warning",
        "data.train",
        {"data.train": "a.jsonl, b.jsonl"},
        {"details": Details(train=(FileLook("chat", rows=9), FileLook("pair", rows=9)))},
    ),
    (
        "held-out-shape",
        "error",
        "data.eval",
        {"objective": "orpo"},
        {"details": Details(eval=FileLook("chat", rows=9))},
    ),
    (
        "general-shape",
        "error",
        "data.general",
        {},
        {"details": Details(general=FileLook("text", rows=9))},
    ),
    (
        "general-shape",
        "error",
        "evaluation.suite",
        {},
        {"details": Details(suite=FileLook("text", rows=9))},
    ),
    ("kto-balance", "error", "data.train", {"objective": "kto"}, looked("labelled", good=40)),
    (
        "kto-balance",
        "warning",
        "preference.desirable_weight",
        {"objective": "kto"},
        looked("labelled", good=90, bad=10),
    ),
    (
        "pairs-without-difference",
        "warning",
        "data.train",
        {"objective": "dpo"},
        looked("pair", same_sides=3),
    ),
    ("empty-answers", "warning", "data.train", {}, looked("chat", empty=2)),
    (
        "loss-on-last-turn",
        "advice",
        "data.loss_on",
        {"loss_on": "last"},
        looked("chat", several_turns=60),
    ),
    ("beta", "warning", "preference.beta", {"objective": "dpo", "beta": 0}, {}),
    ("beta", "advice", "preference.beta", {"objective": "kto", "beta": 0.001}, {}),
    ("beta", "warning", "preference.beta", {"objective": "dpo", "beta": 10}, {}),
    (
        "label-doubt-and-loss",
        "warning",
        "preference.label_smoothing",
        {"objective": "dpo", "preference.loss": "ipo", "label_smoothing": "10%"},
        {},
    ),
    ("sft-term-high", "advice", "preference.sft_weight", {"objective": "dpo", "sft_weight": 3}, {}),
    (
        "kto-weights",
        "error",
        "preference.desirable_weight",
        {"objective": "kto", "undesirable_weight": 0},
        {},
    ),
    ("kto-batch", "warning", "training.batch_size", {"objective": "kto", "batch_size": 2}, {}),
    ("preference-epochs", "advice", "training.epochs", {"objective": "dpo", "epochs": 4}, {}),
    (
        "preference-start",
        "advice",
        "model.adapter",
        {"objective": "dpo"},
        {"generation_markers": None},
    ),
    (
        "preference-start",
        "advice",
        "method.objective",
        {"objective": "orpo", "model.adapter": "tuned"},
        {},
    ),
    (
        "preference-batch",
        "advice",
        "training.accumulation",
        {"objective": "dpo", "batch_size": 4},
        {},
    ),
    ("rslora-strength", "advice", "method.alpha", {"rslora": "on"}, {}),
    ("rslora-strength", "warning", "method.alpha", {"rslora": "on", "alpha": 128}, {}),
    ("rslora-strength", "advice", "method.rslora", {"rslora": "on"}, {}),
    ("dora-cost", "advice", "method.dora", {"dora": "on", "rank": 64, "alpha": 64}, {}),
    ("lora-plus-ratio", "warning", "method.lora_plus", {"lora_plus": 0.5}, {}),
    ("lora-plus-ratio", "advice", "method.lora_plus", {"lora_plus": 20}, {}),
    ("lora-plus-ratio", "warning", "method.lora_plus", {"lora_plus": 64}, {}),
    ("start-and-method", "error", "method.init", {"method.kind": "qlora", "init": "pissa"}, {}),
    ("start-and-method", "error", "method.init", {"init": "orthogonal", "rank": 15}, {}),
    (
        "start-and-method",
        "error",
        "method.init",
        {"init": "olora", "target_modules": "q_proj, lm_head"},
        {"tied": True},
    ),
    (
        "fp4-choice",
        "advice",
        "method.quantisation",
        {"method.kind": "qlora", "quantisation": "fp4"},
        {},
    ),
    ("qlora-needless", "advice", "method.kind", {"method.kind": "qlora"}, {}),
    ("qlora-on-cpu", "warning", "method.kind", {"method.kind": "qlora"}, {"gpus": 0} | SMALL),
    ("full-or-lora", "advice", "method.kind", {"method.kind": "full"}, {}),
    ("neftune", "advice", "training.neftune", {"neftune": 20}, {}),
    ("neftune", "warning", "training.neftune", {"neftune": 80}, {}),
    ("neftune", "warning", "training.neftune", {"neftune": 5, "objective": "dpo"}, {}),
    ("optimizer-needless", "advice", "training.optimizer", {"optimizer": "adamw_8bit"}, {}),
    ("compile-short", "advice", "training.compile", {"compile": "on", "packing": "on"}, {}),
    ("compile-short", "advice", "training.compile", {"compile": "on"}, {"rows": 9_000}),
    (
        "activations-needless",
        "warning",
        "training.checkpointing",
        {"checkpointing": "offload"},
        {"gpus": 0} | SMALL,
    ),
    (
        "activations-needless",
        "advice",
        "training.checkpointing",
        {"checkpointing": "on", "batch_size": 4},
        {},
    ),
    (
        "kl-term",
        "error",
        "training.kl_weight",
        {"kl_weight": 0.1, "data.general": "", "data.general_share": 0},
        {},
    ),
    ("kl-term", "error", "training.kl_weight", {"kl_weight": 0.1, "method.kind": "full"}, {}),
    ("kl-term", "advice", "training.kl_weight", {"kl_weight": 5}, {}),
    ("kl-term", "warning", "training.kl_weight", {"kl_weight": 50}, {}),
    (
        "schedule-and-early-stopping",
        "advice",
        "training.schedule",
        {"early_stopping": 3, "epochs": 20},
        {},
    ),
    (
        "fp16-full",
        "warning",
        "model.precision",
        {"model.precision": "fp16", "method.kind": "full"},
        {},
    ),
    ("model-is-adapter", "error", "model.path", {}, {"details": Details(model_is_adapter=True)}),
    (
        "quantised-base",
        "error",
        "method.kind",
        {"method.kind": "full"},
        {"details": Details(quantised="bitsandbytes")},
    ),
    (
        "quantised-base",
        "warning",
        "model.path",
        {"method.kind": "qlora"},
        {"details": Details(quantised="gptq")},
    ),
    ("template-unknown", "error", "model.chat_template", {"chat_template": "lama3"}, {}),
    (
        "template-unknown",
        "error",
        "model.chat_template",
        {"chat_template": "own.jinja"},
        {"details": Details(template_found=False)},
    ),
    ("template-replaced", "warning", "model.chat_template", {"chat_template": "llama3"}, {}),
    (
        "unpinned-hub-model",
        "advice",
        "model.revision",
        {"model.revision": "main"},
        {"from_hub": True},
    ),
    (
        "start-adapter-missing",
        "error",
        "model.adapter",
        {"model.adapter": "x"},
        {"details": Details(adapter_found=False)},
    ),
    ("start-adapter-shape", "error", "method.rank", {"rank": 8, "alpha": 16}, started()),
    ("start-adapter-shape", "error", "method.alpha", {"alpha": 16}, started()),
    ("start-adapter-shape", "error", "method.dora", {"dora": "on"}, started()),
    ("start-adapter-shape", "error", "method.rslora", {"rslora": "on"}, started()),
    ("start-adapter-shape", "error", "model.adapter", {}, started(kind="IA3")),
    ("start-adapter-targets", "error", "method.target_modules", {}, started(targets=("q_proj",))),
    ("start-adapter-base", "warning", "model.adapter", {}, started(base="/other/llama")),
    ("best-is-not-saved", "advice", "evaluation.keep_best", {"keep_best": "no", "epochs": 5}, {}),
    (
        "guards-off",
        "warning",
        "guards.divergence",
        {"spike": "off", "divergence": "off", "overfitting": "off", "plateau": "off"},
        {},
    ),
    ("spike-size", "advice", "guards.spike_size", {"spike_size": 3}, {}),
    ("spike-size", "warning", "guards.spike_size", {"spike_size": 3, "spike": "stop"}, {}),
    ("spike-size", "advice", "guards.spike_size", {"spike_size": 40}, {}),
    ("report-to", "error", "logging.report_to", {"report_to": "wandbb"}, {}),
    ("report-to", "error", "logging.report_to", {"report_to": "mlflow"}, installed("torch")),
    ("report-to", "warning", "logging.report_to", {"report_to": "wandb"}, installed("wandb")),
    ("long-run", "warning", "checkpoints.every", {"checkpoints.every": 0}, SLOW),
    ("one-gpu", "advice", "training.processes", {}, {"gpus": 4}),
    ("processes", "advice", "training.processes", {"processes": 2}, {"gpus": 0}),
    ("processes", "warning", "training.processes", {"processes": 4}, {"gpus": 2}),
    ("sharding", "error", "training.sharding", {"processes": 2, "sharding": "fsdp"}, {"gpus": 0}),
    (
        "sharding",
        "error",
        "method.kind",
        {"processes": 2, "sharding": "fsdp", "method.kind": "qlora"},
        {"gpus": 2},
    ),
    (
        "attention-unavailable",
        "error",
        "model.attention",
        {"attention": "flash"},
        {"gpus": 0} | SMALL,
    ),
    (
        "attention-unavailable",
        "error",
        "model.attention",
        {"attention": "varlen", "precision": "fp32"},
        {},
    ),
    (
        "attention-unavailable",
        "error",
        "model.attention",
        {"attention": "flash"},
        installed("torch"),
    ),
    (
        "attention-unavailable",
        "error",
        "model.attention",
        {"attention": "varlen"},
        {"details": Details(torch=(2, 10))},
    ),
    ("attention-eager", "advice", "model.attention", {"attention": "eager"}, {}),
    (
        "attention-eager",
        "warning",
        "model.attention",
        {"attention": "eager", "max_length": 8192},
        {},
    ),
    ("liger-unavailable", "error", "training.liger", {"liger": "on"}, {"gpus": 0} | SMALL),
    ("liger-unavailable", "error", "training.liger", {"liger": "on"}, installed("torch")),
    ("bitsandbytes-missing", "error", "method.kind", {"method.kind": "qlora"}, installed("torch")),
    (
        "bitsandbytes-missing",
        "error",
        "training.optimizer",
        {"optimizer": "paged_adamw"},
        installed("torch"),
    ),
    ("torch-missing", "error", "model.path", {}, installed("wandb")),
    ("tf32-off", "advice", "model.tf32", {"tf32": "no", "precision": "fp32"}, {}),
    ("no-effect", "advice", "method.quantisation", {"quantisation": "fp4"}, {}),
    ("no-effect", "advice", "preference.beta", {"beta": 0.3}, {}),
    (
        "learning-rate-high",
        "warning",
        "training.learning_rate",
        {"objective": "dpo", "learning_rate": "2e-4"},
        {},
    ),
    (
        "learning-rate-low",
        "advice",
        "training.learning_rate",
        {"objective": "dpo", "learning_rate": "4e-6"},
        {},
    ),
]


@pytest.mark.parametrize(("rule", "severity", "field", "values", "facts"), SPEAKS)
def test_a_rule_speaks(rule: str, severity: str, field: str, values: Change, facts: Change) -> None:
    ids = {found.key: found.id for found in FIELDS}
    values = {id if "." in id else ids[id]: text for id, text in values.items()}
    remarks = [remark for remark in said(values, facts) if remark.rule == rule]
    assert (severity, field) in {(remark.severity, remark.field) for remark in remarks}, remarks


def test_every_rule_is_in_the_table() -> None:
    assert {case[0] for case in SPEAKS} == set(RULES)
    assert len(RULES) >= 50


# The other side of each figure: where a rule must hold its tongue.
SILENT: list[tuple[str, Change, Change]] = [
    ("learning-rate-high", {"training.learning_rate": "4e-3"}, SMALL),
    ("learning-rate-high", {"training.learning_rate": "4e-3"}, {"model_parameters": 49_000_000}),
    ("learning-rate-high", {"training.learning_rate": "3e-4"}, {}),
    ("learning-rate-high", {"training.learning_rate": "1e-3"}, {"model_parameters": 200_000_000}),
    ("learning-rate-low", {"training.learning_rate": "1e-4"}, {}),
    ("rank-range", {"method.rank": 8, "method.alpha": 16}, {}),
    ("rank-range", {"method.rank": 64, "method.alpha": 64}, {}),
    ("alpha-ratio", {"method.alpha": 16}, {}),
    ("alpha-ratio", {"method.alpha": 64}, {}),
    ("epochs-by-rows", {"training.epochs": 5}, {}),
    ("epochs-by-rows", {"training.epochs": 0.5}, {"rows": 100_000}),
    ("early-stopping-blind", {"evaluation.early_stopping": 2}, {}),
    ("save-and-evaluate", {"checkpoints.every": 100}, {}),
    ("too-long-rows", {}, {"longest": 1024}),
    ("packing", {}, {"rows": 900, "tokens": 60_000}),
    ("packing", {}, {"tokens": None}),
    ("precision-choice", {"model.precision": "fp32"}, {"gpus": 0} | SMALL),
    ("cpu-only", {}, {"gpus": 0} | SMALL),
    ("cpu-only", {}, {"gpus": None}),
    ("targets-known", {"method.target_modules": "anything"}, {"linears": ()}),
    ("targets-known", {"method.target_modules": "self_attn.q_proj"}, {}),
    ("threads", {"training.threads": 1}, {"cpu_count": 1}),
    ("beta2", {"training.beta2": 0.999}, {"rows": 9_000}),
    ("gpu-memory", {}, {"gpu_free": None, "gpu_total": None}),
    ("unpinned-hub-model", {"model.revision": "a1b2c3d4e5f6"}, {"from_hub": True}),
    ("learning-rate-low", {"training.learning_rate": "2e-5", "method.objective": "dpo"}, {}),
    ("learning-rate-high", {"training.learning_rate": "2e-5", "method.kind": "full"}, {}),
    ("rank-range", {"method.rank": 2, "method.kind": "full"}, {}),
    ("alpha-ratio", {"method.alpha": 512, "method.rslora": "on"}, {}),
    ("rows-and-objective", {}, looked("chat")),
    ("rows-and-objective", {"method.objective": "kto"}, looked("pair")),
    ("rows-and-objective", {"method.objective": "dpo"}, looked("pair")),
    ("rows-mixed", {}, looked("chat")),
    ("kto-balance", {"method.objective": "kto"}, looked("labelled", good=50, bad=50)),
    ("kto-balance", {"method.objective": "kto"}, looked("pair")),
    ("loss-on-last-turn", {"data.loss_on": "last"}, looked("chat", several_turns=10)),
    ("general-and-pairs", {"method.objective": "pretrain"}, {}),
    ("general-file", {"data.general_share": 0, "training.kl_weight": 0.1}, {}),
    ("no-chat-template", {"model.chat_template": "chatml"}, {"model_lacks": ("chat template",)}),
    ("no-chat-template", {"method.objective": "pretrain"}, {"model_lacks": ("chat template",)}),
    ("template-unknown", {"model.chat_template": "chatml"}, {}),
    (
        "template-unknown",
        {"model.chat_template": "own.jinja"},
        {"details": Details(template_found=True)},
    ),
    ("start-adapter-shape", {}, started()),
    ("start-adapter-targets", {}, started()),
    ("start-adapter-targets", {"method.target_modules": "q_proj, gate_proj"}, started()),
    ("start-adapter-base", {}, started()),
    ("start-and-method", {"method.kind": "qlora", "method.init": "gaussian"}, {}),
    ("report-to", {"logging.report_to": "tensorboard"}, installed("tensorboardX")),
    ("attention-unavailable", {"model.attention": "flash"}, installed("flash_attn")),
    ("attention-unavailable", {"model.attention": "varlen"}, {"details": Details(torch=(2, 11))}),
    ("liger-unavailable", {"training.liger": "on"}, installed("torch", "liger_kernel")),
    ("bitsandbytes-missing", {"method.kind": "qlora"}, installed("bitsandbytes")),
    ("kl-term", {"training.kl_weight": 0.5}, {}),
    ("qlora-needless", {"method.kind": "qlora"}, {"gpu_free": 24 * GIB}),
    ("activations-needless", {"training.checkpointing": "on"}, {"gpu_free": 24 * GIB}),
    ("answers-cut-in-scoring", {"evaluation.max_new_tokens": 128}, {}),
    ("answers-cut-in-scoring", {"evaluation.max_new_tokens": 8, "evaluation.generate": 0}, {}),
    ("no-effect", {"preference.beta": 0.3, "method.objective": "dpo"}, {}),
    ("full-or-lora", {"method.kind": "full"}, SMALL),
    ("long-run", {"checkpoints.every": 100}, SLOW),
]


@pytest.mark.parametrize(("rule", "values", "facts"), SILENT)
def test_a_rule_is_silent(rule: str, values: Change, facts: Change) -> None:
    assert [remark for remark in said(values, facts) if remark.rule == rule] == []


def test_every_remark_has_its_words() -> None:
    ids = {found.key: found.id for found in FIELDS}
    known = {found.id for found in FIELDS}
    for _, _, _, values, facts in SPEAKS:
        changed = {id if "." in id else ids[id]: text for id, text in values.items()}
        for remark in said(changed, facts):
            assert remark.field in known and remark.rule in RULES
            assert remark.message.endswith((".", "?")) and len(remark.message) <= 100, remark
            assert remark.reason.endswith(".") and remark.source


def test_errors_come_first_then_the_order_of_the_form() -> None:
    remarks = said({"training.clip": 0, "data.eval": "", "model.path": "", "method.rank": 4})
    assert [(remark.severity, remark.field) for remark in remarks] == [
        ("error", "model.path"),
        ("warning", "data.eval"),
        ("advice", "method.rank"),
        ("advice", "method.alpha"),
        ("advice", "training.clip"),
        ("advice", "evaluation.max_new_tokens"),
        ("advice", "evaluation.keep_best"),
    ]
    assert blocks(remarks) and not blocks(remarks[1:])


def test_an_empty_recipe_asks_for_a_model_and_data_only() -> None:
    remarks = advise(defaults())
    assert [remark.rule for remark in remarks] == ["model-missing", "no-training-data"]


def test_small_models_take_higher_rates_without_a_jump() -> None:
    sizes = [10**6, 50_000_000, 50_000_001, 200_000_000, 999_999_999, 10**9, 10**12]
    highs = [usual_rates("lora", "sft", size).high for size in sizes]
    assert highs == sorted(highs, reverse=True)
    assert highs[0] == highs[1] == pytest.approx(5e-3)
    assert highs[2] == pytest.approx(5e-3, rel=1e-6) and highs[4] == pytest.approx(3e-4, rel=1e-6)
    assert highs[-1] == 3e-4
    assert usual_rates("full", "sft", None)[:2] == (1e-5, 5e-5)
    assert usual_rates("lora", "dpo", None).high < usual_rates("lora", "sft", None).low


def test_the_demo_recipe_has_nothing_against_it() -> None:
    root = sample_data()
    recipe = load(root / "recipes" / "triage-lora.toml")
    facts = gather(recipe, root, Facts(gpus=0, cpu_count=2, host_free=8 * GIB))
    assert facts.model_parameters == 3_451_136 and facts.missing == ()
    assert advise(recipe, facts) == []


def test_advice_is_quick_enough_for_every_key() -> None:
    start = time.perf_counter()
    for _ in range(20):
        said()
    assert (time.perf_counter() - start) / 20 < 0.02  # 0.5 ms on a quiet machine


def test_the_page_of_fields_is_up_to_date() -> None:
    from finetui.recipe.docs import as_markdown

    page = Path(__file__).parents[2] / "docs" / "recipe.md"
    assert page.read_text("utf-8") == as_markdown(), (
        "python -m finetui.recipe.docs > docs/recipe.md"
    )
    for found in FIELDS:
        assert f"### `{found.key}`: {found.label}" in page.read_text("utf-8")
