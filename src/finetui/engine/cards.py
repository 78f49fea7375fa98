"""The model card of a result: what it is made of, how, and how well it did."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetui.jobs.folder import Job
from finetui.recipe.files import from_spec
from finetui.recipe.schema import Recipe, changed, field, get

UNKNOWN_LICENCE = "unknown"
_METHODS = {"lora": "LoRA adapter", "qlora": "QLoRA adapter", "full": "Full fine-tune"}
_FRONT = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)
_SCORES = {
    "eval_loss": "held-out loss",
    "before.format": "held-out format, before",
    "after.format": "held-out format, after",
    "before.accuracy": "held-out right, before",
    "after.accuracy": "held-out right, after",
    "suite_before.accuracy": "general check right, before",
    "suite_after.accuracy": "general check right, after",
}


def card(
    job: Job, metrics: Mapping[str, Any], merged: bool = False, more: Sequence[str] = ()
) -> str:
    """README.md of what a training run left, with the front matter that the hub reads.

    Names files by name only, the folders they lie in stay private. ``merged`` is an adapter
    merged into its base; ``more`` are sections behind the others.
    """
    recipe = from_spec(job.spec().get("recipe", {}))
    name = recipe.name or job.slug
    base, licence = base_name(recipe), base_licence(recipe.model.path, recipe.model.revision)
    sections = [
        _front_matter(recipe, base, licence, merged),
        f"# {name}",
        _what(recipe, base, merged),
        _data(job),
        _scores(metrics),
        _recipe(recipe),
        _licence(base, licence),
        *more,
        f"Made with finetui, job {job.id}.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def base_name(recipe: Recipe) -> str:
    """The base model as others may know it: its hub id, or the name of its folder."""
    path = Path(recipe.model.path)
    return path.name if path.is_dir() else recipe.model.path


def base_licence(model: str, revision: str = "") -> str:
    """The licence that the base's own card names, ``unknown`` when there is none to read."""
    for text in (_read(Path(model) / "README.md"), _hub_card(model, revision)):
        front = _FRONT.match(text)
        named = (
            re.search(r"^license:\s*['\"]?([\w.+-]+)", front[1], re.MULTILINE) if front else None
        )
        if named:
            return named[1]
    return UNKNOWN_LICENCE


def _hub_card(model: str, revision: str) -> str:
    """The base's card, when its weights came from the hub into the cache; nothing is fetched."""
    if Path(model).is_dir():
        return ""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "README.md", revision=revision or None)
    return _read(Path(found)) if isinstance(found, str) else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")
    except OSError:
        return ""


def _front_matter(recipe: Recipe, base: str, licence: str, merged: bool) -> str:
    adapter = recipe.method.kind != "full" and not merged
    lines = [
        f"base_model: {_quoted(base)}",
        f"base_model_relation: {'adapter' if adapter else 'finetune'}",
        f"library_name: {'peft' if adapter else 'transformers'}",
        "pipeline_tag: text-generation",
        f"tags: [finetui, {recipe.method.kind}, {recipe.method.objective}]",
    ]
    if licence != UNKNOWN_LICENCE:
        lines.append(f"license: {licence}")
    return "\n".join(["---", *lines, "---"])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _what(recipe: Recipe, base: str, merged: bool) -> str:
    kind = _METHODS[recipe.method.kind]
    shape = f", rank {recipe.method.rank}, alpha {recipe.method.alpha}"
    start = f"{kind}{'' if recipe.method.kind == 'full' else shape}"
    state = "merged into" if merged else "for" if recipe.method.kind != "full" else "of"
    notes = f"\n\n{recipe.notes}" if recipe.notes else ""
    return f"{start}, {state} {base}; objective: {recipe.method.objective}.{notes}"


def _data(job: Job) -> str:
    """Files with hash, version and newest edit, as the manifest has them."""
    manifest = job.manifest()
    hashes, edits = manifest.get("data") or {}, manifest.get("edits") or {}
    versions = manifest.get("versions") or {}
    lines = [
        f"| {Path(path).name} | {digest[:16]} | {versions.get(path, '')} | {edits.get(path, '')} |"
        for path, digest in hashes.items()
    ]
    if not lines:
        return ""
    head = ["## Data", "", "| file | SHA-256 | version | newest edit |", "|---|---|---|---|"]
    return "\n".join([*head, *lines])


def _scores(metrics: Mapping[str, Any]) -> str:
    rows = []
    for path, label in _SCORES.items():
        table, _, key = path.rpartition(".")
        value = (metrics.get(table) or {} if table else metrics).get(key)
        if isinstance(value, int | float):
            rows.append(f"| {label} | {value:.4g} |")
    return "\n".join(["## Results", "", "| measure | value |", "|---|---|", *rows]) if rows else ""


def _recipe(recipe: Recipe) -> str:
    """The settings that differ from the defaults; paths are not told."""
    told = [
        id
        for id in changed(recipe)
        if field(id).kind not in ("path", "paths") and id not in ("name", "notes")
    ]
    lines = [f"{id} = {get(recipe, id)!r}" for id in told]
    return "\n".join(["## Recipe", "", "```", *lines, "```"]) if lines else ""


def _licence(base: str, licence: str) -> str:
    if licence == UNKNOWN_LICENCE:
        return (
            f"## Licence\n\nThe licence of {base} could not be read: look it up before you pass "
            "this model on, its terms hold for this model too."
        )
    return f"## Licence\n\nThe base is under {licence}; its terms hold for this model too."
