"""What is known about the model, the data and the machine, read fast and without torch.

Everything is optional: advice and forecast use what is there and stay silent about the rest.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from finetui.errors import BROKEN
from finetui.recipe import coefficients
from finetui.recipe.coefficients import Measured
from finetui.recipe.datafacts import Details, look
from finetui.recipe.field import Value
from finetui.recipe.files import is_hub_id, resolve
from finetui.recipe.schema import FIELDS, Recipe, get

_MOST = 2**40  # of layers, units or words: what is above is no model's size
_WHOLE_FILE = 32 * 2**20  # bytes read in full; from larger files blocks are sampled
_BLOCKS, _BLOCK = 16, 2**19
_LONGEST_HEADER = 100 * 2**20  # bytes; the limit of the safetensors format itself
_LONGEST_CONFIG = 10 * 2**20
_BYTES_PER_TOKEN = 4.0  # of English under a usual tokenizer
_FIRST = 64 * 2**10  # bytes of a file that are tokenised to learn how long its tokens are
_LEAST_TEXT = 200  # characters; fewer tell nothing
_TOKENS_PER_TURN = 4  # of a chat template: role, markers, line break


@dataclass(frozen=True, slots=True)
class Linear:
    """``count`` linear layers of one name and shape; ``inputs`` and ``outputs`` are features."""

    name: str
    inputs: int
    outputs: int
    count: int


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds GPU memory; ``user`` and ``name`` are "" where they cannot be seen.

    ``pid`` is 0 for what no process answers for: the driver, or processes of other containers.
    """

    pid: int
    user: str
    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Past:
    """An earlier run on this machine: what was forecast and what it took.

    ``device`` is the GPU's name, "CPU" without one; ``predicted`` and ``peak`` are bytes (without
    CUDA context on a GPU; with it predicted leaves out the process on a CPU), ``seconds`` those of
    training, ``flops`` what `forecast.flops_per_token` makes of its tokens. 0 is unknown.
    """

    device: str
    method: str
    parameters: int
    predicted: float
    peak: float
    flops: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known; None (or empty) is unknown. Memory and disk in bytes, lengths in tokens.

    ``lengths`` is a sample of the training rows' lengths; ``exact`` tells that token figures come
    from the model's own tokenizer. ``gpus == 0`` means: looked, and there is none. ``missing``
    lists (field id, path) of paths that are not there, ``from_hub`` tells that the model's name is
    taken for a Hugging Face id, ``model_lacks`` what the model folder
    lacks of config, weights, tokenizer, chat template. ``model_folder`` is where its config.json
    is, ``measured`` what the meta device told of it, ``past`` the machine's earlier runs, newest
    first. GPU figures are those of the GPU that a run started now would take.
    """

    rows: int | None = None
    tokens: int | None = None
    trained_tokens: int | None = None
    longest: int | None = None
    lengths: tuple[int, ...] = ()
    exact: bool = False
    eval_rows: int | None = None
    general_rows: int | None = None
    suite_rows: int | None = None
    from_hub: bool = False
    model_folder: str = ""
    model_type: str = ""
    model_dtype: str = ""
    model_parameters: int | None = None
    model_hidden: int | None = None
    model_layers: int | None = None
    model_heads: int | None = None
    model_inner: int | None = None
    model_context: int | None = None
    vocab: int | None = None
    tied: bool | None = None
    linears: tuple[Linear, ...] = ()
    model_lacks: tuple[str, ...] = ()
    generation_markers: bool | None = None
    measured: Measured | None = None
    gpus: int | None = None
    gpu_name: str = ""
    gpu_total: int | None = None
    gpu_free: int | None = None
    gpu_bf16: bool | None = None
    gpu_holders: tuple[Holder, ...] = ()
    host_free: int | None = None
    host_total: int | None = None
    cpu_count: int | None = None
    disk_free: int | None = None
    past: tuple[Past, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()
    details: Details | None = None


def merge(*parts: Facts) -> Facts:
    """One Facts of several; where two know the same, the later one wins."""
    blank, known = Facts(), {}
    for part in parts:
        for item in dataclasses.fields(Facts):
            value = getattr(part, item.name)
            if value != getattr(blank, item.name):
                known[item.name] = value
    return Facts(**known)


def gather(recipe: Recipe, root: Path, machine: Facts | None = None) -> Facts:
    """Everything the files of a recipe tell, paths taken from ``root``; quick enough for a form.

    ``machine`` brings what only the caller knows: GPUs, memory, exact token figures.
    """
    absolute = resolve(recipe, root)
    missing = tuple(_missing(recipe, absolute, root))
    gone = {path for _, path in missing}
    train = [Path(path) for path in absolute.data.train if path not in gone]
    from_hub = is_hub_id(recipe.model.path, root)
    model = (
        hub_folder(recipe.model.path, recipe.model.revision)
        if from_hub
        else Path(absolute.model.path)
    )
    known = model is not None and model.is_dir() and bool(recipe.model.path)
    general = Path(absolute.data.general)
    mixed = [general] if recipe.data.general_share > 0 and general.is_file() else []
    rate = bytes_per_token(model, train) if known and model else _BYTES_PER_TOKEN
    parts = [
        _model_facts(model, root) if known and model else Facts(),
        _with_longest(data_facts(train, bytes_per_token=rate), mixed, rate),
        Facts(
            eval_rows=_rows(absolute.data.eval),
            general_rows=_rows(absolute.data.general),
            suite_rows=_rows(absolute.evaluation.suite),
            cpu_count=len(os.sched_getaffinity(0)),
            disk_free=shutil.disk_usage(root).free if root.is_dir() else None,
            from_hub=from_hub,
            missing=missing,
            details=look(recipe, absolute, model if known else None),
        ),
    ]
    return merge(*parts, machine or Facts())


def _model_facts(model: Path, root: Path) -> Facts:
    """The model's facts with what was measured of it in this workspace."""
    facts, measured = model_facts(model), coefficients.read(root, model)
    exact = measured.parameters if measured and "weights" in facts.model_lacks else 0
    parameters = exact or facts.model_parameters
    return dataclasses.replace(facts, measured=measured, model_parameters=parameters)


def _with_longest(facts: Facts, mixed: Sequence[Path], rate: float) -> Facts:
    """The training rows' facts, the longest row being that of the rows mixed in too."""
    found = data_facts(mixed, bytes_per_token=rate)
    if facts.longest is None or found.longest is None:
        return facts
    return dataclasses.replace(facts, longest=max(facts.longest, found.longest))


def hub_folder(name: str, revision: str) -> Path | None:
    """The local copy of a Hugging Face model in the hub's cache, if there is one."""
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    folder = cache / f"models--{name.replace('/', '--')}"
    revision = revision or "main"
    try:
        reference = folder / "refs" / revision
        commit = reference.read_text().strip() if reference.is_file() else revision
    except (OSError, ValueError):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def _missing(recipe: Recipe, absolute: Recipe, root: Path) -> Iterable[tuple[str, str]]:
    for found in FIELDS:
        if found.kind not in ("path", "paths"):
            continue
        if found.id == "model.path" and is_hub_id(recipe.model.path, root):
            continue
        for path in _parts(get(absolute, found.id)):
            if not Path(path).exists():
                yield found.id, path


def _parts(value: Value) -> tuple[str, ...]:
    if isinstance(value, tuple):
        return value
    return (value,) if isinstance(value, str) and value else ()


# --- the model -----------------------------------------------------------------------------------


def model_facts(model_dir: Path) -> Facts:
    """Size and geometry of a model folder, from config.json and the safetensors headers.

    The parameter count is exact where the weights are safetensors; no tensor is read. A folder
    that is no model gives Facts whose ``model_lacks`` says why.
    """
    config = _config(model_dir)
    known = dataclasses.replace(
        config_facts(config),
        model_folder=str(model_dir),
        model_lacks=tuple(_lacks(model_dir)),
        generation_markers=_has_markers(model_dir),
    )
    tensors = _tensor_shapes(model_dir)
    if not tensors or "quantization_config" in config:
        return known
    return dataclasses.replace(
        known, model_parameters=_count(tensors), linears=_linears_of(tensors)
    )


def config_facts(config: Mapping[str, Any]) -> Facts:
    """What a config.json alone tells of a model; the parameter count is exact for Llama."""
    shape = _Geometry(config)
    return Facts(
        model_type=str(config.get("model_type") or ""),
        model_dtype=str(config.get("dtype") or config.get("torch_dtype") or ""),
        model_parameters=shape.parameters(),
        model_hidden=shape.hidden,
        model_layers=shape.layers,
        model_heads=shape.number("num_attention_heads", "n_head"),
        model_inner=shape.number("intermediate_size", "n_inner", "ffn_dim"),
        model_context=shape.number("max_position_embeddings", "n_positions"),
        vocab=shape.vocab,
        tied=shape.tied,
        linears=shape.linears(),
    )


def _config(model_dir: Path) -> dict[str, Any]:
    """config.json, with the text part of a multi-modal model brought to the top."""
    config = _json(model_dir / "config.json")
    inner = config.get("text_config")
    return config | inner if isinstance(inner, dict) else config


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LONGEST_CONFIG:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class _Geometry:
    """The figures of a Llama-shaped config.json (also Mistral, Qwen, Gemma and their like)."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.hidden = self.number("hidden_size", "n_embd", "d_model")
        self.layers = self.number("num_hidden_layers", "n_layer", "num_layers")
        self.vocab = self.number("vocab_size")
        tied = config.get("tie_word_embeddings")
        self.tied = tied if isinstance(tied, bool) else None

    def number(self, *names: str) -> int | None:
        for name in names:
            value = self.config.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MOST:
                return value
        return None

    def linears(self) -> tuple[Linear, ...]:
        """q, k, v, o, gate, up and down with grouped-query attention; empty for other shapes."""
        heads, inner = self.number("num_attention_heads"), self.number("intermediate_size")
        h, layers = self.hidden, self.layers
        if not (h and layers and heads and inner):
            return ()
        head = self.number("head_dim") or h // heads
        q, kv = heads * head, (self.number("num_key_value_heads") or heads) * head
        shapes = {
            "q_proj": (h, q),
            "k_proj": (h, kv),
            "v_proj": (h, kv),
            "o_proj": (q, h),
            "gate_proj": (h, inner),
            "up_proj": (h, inner),
            "down_proj": (inner, h),
        }
        return tuple(Linear(name, a, b, layers) for name, (a, b) in shapes.items())

    def parameters(self) -> int | None:
        """Embeddings, linears and norms; exact for Llama, an estimate for its relatives."""
        linears = self.linears()
        if not (linears and self.hidden and self.layers and self.vocab):
            return None
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        norms = (2 * self.layers + 1) * self.hidden
        return embeddings + norms + sum(x.inputs * x.outputs * x.count for x in linears)


def _tensor_shapes(model_dir: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, from the headers of all safetensors shards."""
    shapes: dict[str, tuple[int, ...]] = {}
    for shard in sorted(model_dir.glob("model*.safetensors")):
        for name, entry in _safetensors_header(shard).items():
            shape = entry.get("shape") if isinstance(entry, dict) else None
            if isinstance(shape, list) and all(
                isinstance(n, int) and 0 <= n < _MOST for n in shape
            ):
                shapes[name] = tuple(shape)
    return shapes


def _safetensors_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file; empty where the file is none."""
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 0 < length <= min(_LONGEST_HEADER, path.stat().st_size):
                return {}
            header = msgspec.json.decode(file.read(length))
    except (OSError, *BROKEN):
        return {}
    return header if isinstance(header, dict) else {}


def _count(tensors: Mapping[str, tuple[int, ...]]) -> int:
    total = 0
    for shape in tensors.values():
        size = 1
        for length in shape:
            size *= length
        total += size
    return total


_NOT_ADAPTED = re.compile(r"embed|wte|wpe|lm_head|norm|\bln_|rotary|inv_freq", re.IGNORECASE)


def _linears_of(tensors: Mapping[str, tuple[int, ...]]) -> tuple[Linear, ...]:
    """The matrices that ``all-linear`` adapts: all but embeddings, norms and the output layer."""
    found: Counter[tuple[str, int, int]] = Counter()
    for name, shape in tensors.items():
        parts = name.split(".")
        if len(shape) == 2 and parts[-1] == "weight" and not _NOT_ADAPTED.search(name):
            found[(parts[-2] if len(parts) > 1 else name, shape[1], shape[0])] += 1
    return tuple(Linear(name, a, b, count) for (name, a, b), count in found.items())


def _lacks(model_dir: Path) -> Iterable[str]:
    if not _config(model_dir):
        yield "config.json"
    if not any(model_dir.glob("*.safetensors")) and not any(model_dir.glob("pytorch_model*.bin")):
        yield "weights"
    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    if not any((model_dir / name).is_file() for name in names):
        yield "tokenizer"
    if _template(model_dir) is None:
        yield "chat template"


def _template(model_dir: Path) -> str | None:
    """The chat template's text, from its own file or from tokenizer_config.json."""
    file = model_dir / "chat_template.jinja"
    try:
        if file.is_file() and file.stat().st_size <= _LONGEST_CONFIG:
            return file.read_text("utf-8", "replace")
    except OSError:
        return None
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = _json(model_dir / name).get("chat_template")
        if template:
            return template if isinstance(template, str) else json.dumps(template)
    return None


def _has_markers(model_dir: Path) -> bool | None:
    template = _template(model_dir)
    return None if template is None else bool(re.search(r"\{%-?\s*generation\b", template))


# --- the data ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _File:
    """One data file: rows, sampled row lengths in bytes of text, and the longest row's bytes."""

    rows: int
    lengths: tuple[float, ...]  # tokens, estimated
    trained: tuple[float, ...]
    longest: float


def data_facts(
    paths: Sequence[Path], sample: int = 200, bytes_per_token: float = _BYTES_PER_TOKEN
) -> Facts:
    """Rows and estimated tokens of JSONL, JSON and CSV files together; never exact.

    Files up to 32 MiB are counted, larger ones estimated from 16 blocks, so that it stays under
    some 100 ms a file; a file is read again only when it changed. Files that cannot be read are
    left out; a Parquet file makes the rows unknown.
    """
    files = [found for path in paths if (found := _measured(path, sample)) is not None]
    if not files or len(files) < len(paths):
        return Facts()
    rows = sum(file.rows for file in files)
    scale = _BYTES_PER_TOKEN / bytes_per_token
    tokens = sum(_mean(file.lengths) * file.rows for file in files) * scale
    trained = sum(_mean(file.trained) * file.rows for file in files) * scale
    return Facts(
        rows=rows,
        tokens=round(tokens),
        trained_tokens=round(trained),
        longest=round(max(file.longest for file in files) * scale),
        lengths=tuple(round(length * scale) for file in files for length in file.lengths),
    )


def bytes_per_token(model_dir: Path, paths: Sequence[Path]) -> float:
    """Bytes of text a token of this model stands for, on the first rows of the data.

    4 where the model has no tokenizer.json, or there is too little text to tell.
    """
    tokenizer = model_dir / "tokenizer.json"
    try:
        states = [(str(path), path.stat().st_mtime_ns) for path in (tokenizer, *paths)]
        return _bytes_per_token(tuple(states))
    except OSError:
        return _BYTES_PER_TOKEN


@lru_cache(maxsize=16)
def _bytes_per_token(states: tuple[tuple[str, int], ...]) -> float:
    """Tokenise a sample; the times only renew the cache when a file changes."""
    from tokenizers import Tokenizer

    (tokenizer, _), *files = states
    text = "\n".join(_first_text(Path(name)) for name, _ in files)
    if len(text) < _LEAST_TEXT:
        return _BYTES_PER_TOKEN
    try:
        tokens = len(Tokenizer.from_file(tokenizer).encode(text, add_special_tokens=False).ids)
    except Exception:  # the library raises plain Exception for a file that is none of its own
        return _BYTES_PER_TOKEN
    return len(text.encode("utf-8", "replace")) / tokens if tokens else _BYTES_PER_TOKEN


def _first_text(path: Path) -> str:
    """The strings of the first rows of a JSONL file; the first bytes as they are of another."""
    with path.open("rb") as file:
        block = file.read(_FIRST)
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        return block.decode("utf-8", "replace")
    found: list[str] = []
    for line in block.split(b"\n")[:-1]:
        try:
            found += _strings(msgspec.json.decode(line))
        except BROKEN:
            continue
    return "\n".join(found)


def _strings(row: object) -> Iterable[str]:
    """The texts of a row that `_text_of` counts: all but keys and roles."""
    rest = [row]
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            rest += value
        elif isinstance(value, dict):
            rest += [part for key, part in value.items() if key not in ("role", "from", "id")]


def _rows(path: str) -> int | None:
    found = _measured(Path(path), 1) if path else None
    return found.rows if found else None


def _measured(path: Path, sample: int) -> _File | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return _measure(str(path), sample, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _measure(name: str, sample: int, size: int, _changed: int) -> _File | None:
    """Measure one file; the last argument only renews the cache when the file changes."""
    path = Path(name)
    try:
        match path.suffix.lower():
            case ".jsonl" | ".ndjson":
                return _measure_lines(path, sample, size, _text_of_line)
            case ".csv" | ".tsv":
                return _measure_lines(path, sample, size, _text_of_bytes, header=1)
            case ".json":
                return _measure_array(path, sample, size)
            case _:
                return None
    except OSError:
        return None


_Size = tuple[float, float]  # tokens of a row, and those of them that are answers


def _measure_lines(path: Path, sample: int, size: int, read: Any, header: int = 0) -> _File | None:
    lines, whole = _lines(path, size)
    lines = lines[header:]
    if not lines:
        return _File(0, (), (), 0.0)
    mean_bytes = sum(map(len, lines)) / len(lines) + 1
    rows = len(lines) if whole else round(size / mean_bytes)
    step = max(1, len(lines) // sample)
    picked = lines[::step][:sample]
    sizes: list[_Size] = [read(line) for line in picked]
    text_share = sum(total for total, _ in sizes) / max(1, sum(map(len, picked)))
    longest = max(max(map(len, lines)) * text_share, *(total for total, _ in sizes))
    return _File(rows, tuple(a for a, _ in sizes), tuple(b for _, b in sizes), longest)


def _lines(path: Path, size: int) -> tuple[list[bytes], bool]:
    """The filled lines of a file, or of blocks spread over a large one, and which it was."""
    with path.open("rb") as file:
        if size <= _WHOLE_FILE:
            return [line for line in file.read(_WHOLE_FILE).split(b"\n") if line.strip()], True
        lines: list[bytes] = []
        for block in range(_BLOCKS):
            file.seek((size - _BLOCK) * block // (_BLOCKS - 1))
            # The first and the last piece of a block are cut lines.
            lines += [line for line in file.read(_BLOCK).split(b"\n")[1:-1] if line.strip()]
        return lines, False


def _measure_array(path: Path, sample: int, size: int) -> _File | None:
    if size > _WHOLE_FILE:
        return None
    try:
        rows = msgspec.json.decode(path.read_bytes())
    except BROKEN:
        return _measure_lines(path, sample, size, _text_of_line)
    if not isinstance(rows, list) or not rows:
        return None
    step = max(1, len(rows) // sample)
    sizes = [_text_of(row) for row in rows[::step][:sample]]
    longest = max(total for total, _ in sizes)
    return _File(len(rows), tuple(a for a, _ in sizes), tuple(b for _, b in sizes), longest)


def _text_of_line(line: bytes) -> _Size:
    try:
        return _text_of(msgspec.json.decode(line))
    except BROKEN:
        return _text_of_bytes(line)


def _text_of_bytes(line: bytes) -> _Size:
    tokens = len(line) / _BYTES_PER_TOKEN
    return tokens, tokens / 2


# The keys that hold what is trained on, over all the shapes the data room knows.
_ANSWERS = {"output", "completion", "response", "answer", "chosen"}
_TEXT = _ANSWERS | {
    *("messages", "conversations", "prompt", "instruction", "input", "system", "text"),
    *("question", "query", "content", "value", "tools"),
}


def _text_of(row: object) -> _Size:
    """Estimated tokens of one record, and of its answers: bytes / 4 and 4 a turn."""
    keys = _TEXT if isinstance(row, dict) and not _TEXT.isdisjoint(row) else None
    total, trained, turns = 0, 0, 0
    rest: list[tuple[object, bool]] = [(row, False)]
    while rest:
        value, answer = rest.pop()
        if isinstance(value, str):
            size = len(value.encode("utf-8", "replace"))
            total, trained = total + size, trained + size * answer
        elif isinstance(value, list):
            rest += [(part, answer) for part in value]
        elif isinstance(value, dict):
            role = value.get("role", value.get("from"))
            turns += isinstance(role, str)
            answer = answer or role in ("assistant", "gpt")
            rest += [
                (part, answer or key in _ANSWERS)
                for key, part in value.items()
                if keys is None or key in _TEXT
            ]
    template = _TOKENS_PER_TURN * max(turns, 2)
    return total / _BYTES_PER_TOKEN + template, trained / _BYTES_PER_TOKEN


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
