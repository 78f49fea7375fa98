"""Recipes as TOML files: errors name the line, a save keeps comments and order."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli
import tomlkit
from msgspec import Struct
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Float, Item, Trivia

from finetui.errors import BROKEN, UserError
from finetui.recipe.field import Field, FieldError, given, show_number
from finetui.recipe.schema import FIELDS, GROUPS, Recipe, Value, defaults, get, nearest, replace
from finetui.recipe.toml_text import insert, key_lines, nearest_line, statements
from finetui.workspace import write_atomic

_LARGEST = 1_000_000  # bytes; a recipe has some hundred lines

_TABLES = {group.table for group in GROUPS if group.table}

# What other trainers call our fields; only used to say "did you mean".
_ELSEWHERE = {
    "lora_r": "method.rank",
    "r": "method.rank",
    "lora_rank": "method.rank",
    "lora_alpha": "method.alpha",
    "lora_dropout": "method.dropout",
    "lora_target": "method.target_modules",
    "lora_target_modules": "method.target_modules",
    "finetuning_type": "method.kind",
    "model_name_or_path": "model.path",
    "base_model": "model.path",
    "bf16": "model.precision",
    "fp16": "model.precision",
    "dtype": "model.precision",
    "dataset": "data.train",
    "datasets": "data.train",
    "val_file": "data.eval",
    "cutoff_len": "data.max_length",
    "sequence_len": "data.max_length",
    "max_seq_length": "data.max_length",
    "sample_packing": "data.packing",
    "assistant_only_loss": "data.loss_on",
    "train_on_inputs": "data.loss_on",
    "lr": "training.learning_rate",
    "lr_scheduler": "training.schedule",
    "lr_scheduler_type": "training.schedule",
    "warmup_ratio": "training.warmup",
    "warmup_steps": "training.warmup",
    "num_epochs": "training.epochs",
    "num_train_epochs": "training.epochs",
    "micro_batch_size": "training.batch_size",
    "per_device_train_batch_size": "training.batch_size",
    "gradient_accumulation_steps": "training.accumulation",
    "max_grad_norm": "training.clip",
    "adam_beta2": "training.beta2",
    "eval_steps": "evaluation.every",
    "early_stopping_patience": "evaluation.early_stopping",
    "load_best_model_at_end": "evaluation.keep_best",
    "save_steps": "checkpoints.every",
    "save_total_limit": "checkpoints.keep",
    "logging_steps": "logging.every",
    "load_in_4bit": "method.kind",
    "quantization_bit": "method.kind",
    "stage": "method.objective",
    "rl": "method.objective",
    "use_dora": "method.dora",
    "use_rslora": "method.rslora",
    "loraplus_lr_ratio": "method.lora_plus",
    "chat_template_path": "model.chat_template",
    "template": "model.chat_template",
    "attn_implementation": "model.attention",
    "flash_attn": "model.attention",
    "optim": "training.optimizer",
    "gradient_checkpointing": "training.checkpointing",
    "torch_compile": "training.compile",
    "use_liger_kernel": "training.liger",
    "neftune_noise_alpha": "training.neftune",
    "pref_beta": "preference.beta",
    "loss_type": "preference.loss",
    "group_by_length": "data.order",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a recipe file; ``line`` is 1-based, 0 where no line can be named."""

    line: int
    key: str
    message: str


class RecipeError(UserError):
    """A file that is no recipe; ``problems`` lists everything that is wrong with it."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file, self.problems = file, tuple(problems)
        first, *rest = self.lines
        super().__init__(" ".join([first.removeprefix(f"{file}:"), *rest]), file)

    @property
    def lines(self) -> list[str]:
        """One ``file:line: message`` a problem."""
        return [
            f"{self.file}:{problem.line}: {problem.message}"
            if problem.line
            else f"{self.file}: {problem.message}"
            for problem in self.problems
        ]

    def __str__(self) -> str:
        return " ".join(self.lines)


def load(path: Path) -> Recipe:
    """Read a recipe file; raises RecipeError with every problem and its line."""
    return loads(_read(path), str(path))


def _read(path: Path) -> str:
    """The text of a file with its line ends as they are; raises UserError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}.", str(path)) from error
    if len(raw) > _LARGEST:
        raise UserError("is too large for a recipe.", str(path))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RecipeError(str(path), [Problem(line, "", "is not UTF-8 text.")]) from error


def loads(text: str, file: str = "recipe") -> Recipe:
    """Read recipe text; ``file`` is the name that errors give."""
    tree = _decode(text, file)
    recipe, problems = _build(tree)
    if problems:
        lines = key_lines(text)
        raise RecipeError(
            file, [Problem(nearest_line(lines, p.key), p.key, p.message) for p in problems]
        )
    return recipe


def from_spec(tree: Mapping[str, object]) -> Recipe:
    """The recipe of a job's spec; raises RecipeError."""
    recipe, problems = _build(tree)
    if problems:
        raise RecipeError("spec", problems)
    return recipe


def to_spec(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain dicts, lists and scalars, every field written out."""
    return {
        name: {key: _plain(getattr(value, key)) for key in value.__struct_fields__}
        if isinstance(value, Struct)
        else value
        for name, value in ((n, getattr(recipe, n)) for n in recipe.__struct_fields__)
    }


def dumps(recipe: Recipe) -> str:
    """A whole new file: a header, every field, one comment a group."""
    title = recipe.name or "A finetui recipe"
    lines = [
        f"# {' '.join(title.split())}: one run's settings.",
        "# `finetui train` runs it, the form edits it; your comments and order are kept.",
        "",
    ]
    for group in GROUPS:
        if group.table:
            lines += ["", f"# {group.help}", f"[{group.table}]"]
        own = [found for found in FIELDS if found.group == group.id]
        lines += [
            f"{found.key} = {_item(found, get(recipe, found.id)).as_string()}" for found in own
        ]
    return "\n".join(lines) + "\n"


def save(path: Path, recipe: Recipe) -> None:
    """Write the recipe; in an existing file only changed values, so comments and order stay.

    Raises RecipeError where the existing file is not TOML: it is left as it is.
    """
    text = revised(_read(path), recipe, str(path)) if path.exists() else dumps(recipe)
    write_atomic(path, text)


def revised(text: str, recipe: Recipe, file: str = "recipe") -> str:
    """``text`` with the values that differ from ``recipe`` changed, and nothing else."""
    tree = _decode(text, file)
    old, _ = _build(tree)
    document, missing = tomlkit.parse(text), []
    for found in FIELDS:
        value, written = get(recipe, found.id), _lookup(tree, found.id)
        if value == get(old, found.id) and (written is None or _holds(found, written)):
            continue
        table, _, key = found.id.rpartition(".")
        if written is None and not _is_inline(text, table):
            missing.append((table, f"{key} = {_item(found, value).as_string()}"))
        else:
            holder: Any = document[table] if table else document
            holder[key] = _item(found, value)
    new = tomlkit.dumps(document)
    for table, line in missing:
        new = insert(new, table, line)
    if _build(_decode(new, file))[0] != recipe:
        raise UserError("could not be changed without harm.", file, "Save under another name.")
    return new


def resolve(recipe: Recipe, root: Path) -> Recipe:
    """A copy with absolute paths, relative ones taken from ``root``.

    A model that is no local folder and looks like ``org/name`` is left as a Hugging Face id.
    """
    for found in FIELDS:
        value = get(recipe, found.id)
        if found.kind == "paths" and isinstance(value, tuple):
            recipe = replace(recipe, found.id, [_absolute(part, root) for part in value])
        elif found.kind == "path" and isinstance(value, str) and value:
            if found.id == "model.path" and is_hub_id(value, root):
                continue
            recipe = replace(recipe, found.id, _absolute(value, root))
    if is_template_file(recipe.model.chat_template):
        recipe = replace(recipe, "model.chat_template", _absolute(recipe.model.chat_template, root))
    return recipe


def is_template_file(name: str) -> bool:
    """Whether a chat template is named by its file, not by the name of one of ours."""
    return name.endswith((".jinja", ".jinja2", ".j2")) or "/" in name


def is_hub_id(name: str, root: Path) -> bool:
    """Whether ``name`` is a Hugging Face id, ``org/name``, and no path into the workspace.

    Where the folder ``org`` exists here, ``org/name`` is a path, also when it is mistyped.
    """
    org = re.fullmatch(r"([\w-][\w.-]*)/[\w.-]+", name)
    return org is not None and not (root / org[1]).exists()


def _absolute(name: str, root: Path) -> str:
    path = Path(name).expanduser()
    return str(path if path.is_absolute() else root / path)


def _decode(text: str, file: str) -> dict[str, object]:
    try:
        tree: dict[str, object] = tomli.loads(text)
        tomlkit.parse(text)
    except tomli.TOMLDecodeError as error:
        message = f"{error.msg[:1].lower()}{error.msg[1:]} (column {error.colno})."
        raise RecipeError(file, [Problem(error.lineno, "", message)]) from error
    except (TOMLKitError, *BROKEN) as error:
        raise RecipeError(file, [Problem(0, "", "is no TOML that can be edited.")]) from error
    return tree


def _build(tree: Mapping[str, object]) -> tuple[Recipe, list[Problem]]:
    """The recipe of a tree of plain values, with everything that is wrong with the tree."""
    recipe, problems = defaults(), []
    known = {found.id for found in FIELDS}
    for key, value in _leaves(tree):
        if key not in known:
            problems.append(Problem(0, key, _unknown(key, value)))
            continue
        try:
            recipe = replace(recipe, key, value)
        except FieldError as error:
            problems.append(Problem(0, key, f"{key}: {error}"))
    return recipe, problems


def _leaves(tree: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Dotted keys with values; an unknown table is one leaf."""
    for name, value in tree.items():
        if name in _TABLES and isinstance(value, Mapping):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            yield name, value


def _unknown(key: str, value: object) -> str:
    """The sentence for a key that the schema does not have."""
    table, _, name = key.rpartition(".")
    if key in _TABLES:
        return f"[{key}] must be a table, not {given(value)}."
    if isinstance(value, Mapping) and not table:
        near = _near_table(name)
        return f"unknown table [{name}].{near}"
    place = f" in [{table}]" if table else ""
    homes = [found.id for found in FIELDS if found.key == name]
    if homes:
        where = " or ".join(_home(home) for home in homes)
        return f"unknown key {name!r}{place}. It belongs {where}."
    guess = _ELSEWHERE.get(name.lower()) or next(iter(nearest(key)), "")
    if not guess:
        return f"unknown key {name!r}{place}."
    home, _, field = guess.rpartition(".")
    same = home == table
    return (
        f"unknown key {name!r}{place}. Did you mean {field!r}{'' if same else ' ' + _home(guess)}?"
    )


def _home(id: str) -> str:
    table = id.rpartition(".")[0]
    return f"in [{table}]" if table else "at the top of the file"


def _near_table(name: str) -> str:
    near = difflib.get_close_matches(name, sorted(_TABLES), 1)
    return f" Did you mean [{near[0]}]?" if near else f" Tables are {', '.join(sorted(_TABLES))}."


def _lookup(tree: Mapping[str, object], id: str) -> object | None:
    table, _, key = id.rpartition(".")
    inner = tree.get(table, {}) if table else tree
    return inner.get(key) if isinstance(inner, Mapping) else None


def _holds(found: Field, written: object) -> bool:
    try:
        found.accept(written)
    except FieldError:
        return False
    return True


def _is_inline(text: str, table: str) -> bool:
    """Whether a table is written without a ``[header]``: inline or by dotted keys."""
    written = list(statements(text))
    if any(found.table == table and not found.key for found in written):
        return False
    return any(found.table == "" and found.name.split(".")[0] == table for found in written)


def _item(found: Field, value: Value) -> Item:
    """A TOML value that reads well: ``2e-4`` stays ``2e-4``, notes keep their lines."""
    if found.kind == "float" and isinstance(value, float):
        text = show_number(value)
        return Float(value, Trivia(), text if re.search(r"[.e]", text) else f"{text}.0")
    if isinstance(value, tuple):
        return tomlkit.item(list(value))
    if isinstance(value, str) and "\n" in value:
        return tomlkit.string(value, multiline=True)
    return tomlkit.item(value)


def _plain(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value
