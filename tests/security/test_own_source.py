"""What the source must not contain, looked up in its syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import finetui

ROOT = Path(finetui.__file__).parent
_LOOKED_AT = (ast.Call, ast.Import, ast.ImportFrom)
NODES = [
    (path.relative_to(ROOT).as_posix(), node)
    for path in sorted(ROOT.rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text("utf-8")))
    if isinstance(node, _LOOKED_AT)
]

# Modules whose very use is a fault here: code in data, or archives that escape their folder.
FORBIDDEN = {
    "pickle": "data that runs code", "dill": "data that runs code", "shelve": "pickles",
    "cloudpickle": "data that runs code", "marshal": "data that crashes Python",
    "joblib": "pickles", "tarfile": "archives escape their folder",
    "zipfile": "archives escape their folder and grow without end",
    "socketserver": "a listening socket", "http.server": "a listening socket",
    "xmlrpc.server": "a listening socket", "wsgiref": "a listening socket",
    "telnetlib": "plain text", "ftplib": "plain text", "pty": "another terminal",
}  # fmt: skip
# Who may open a connection (to the endpoint that the person named): nobody else imports what can.
CONNECTING = {"data/review/remote.py"}
NETWORK = {"urllib.request", "http.client", "requests", "httpx", "aiohttp", "websockets", "smtplib"}
# One sandboxed kind of code each, named here so that a second one is looked at.
RUNNING_CODE = {"evaluation/scorer_worker.py"}


def found(look: Callable[[ast.AST], str]) -> list[str]:
    """Places where ``look`` says something, as file:line: what."""
    return [f"{path}:{node.lineno}: {said}" for path, node in NODES if (said := look(node))]


def imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def called(node: ast.AST) -> str:
    """The dotted name that a call calls, "" for anything else."""
    parts, part = [], node.func if isinstance(node, ast.Call) else None
    while isinstance(part, ast.Attribute):
        parts.append(part.attr)
        part = part.value
    parts.append(part.id if isinstance(part, ast.Name) else "")
    return ".".join(reversed(parts))


def keyword(node: ast.AST, name: str) -> ast.expr | None:
    words = node.keywords if isinstance(node, ast.Call) else []
    return next((word.value for word in words if word.arg == name), None)


def is_literal(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def shell(node: ast.AST) -> str:
    """A command as text for a shell, instead of a list of arguments."""
    name = called(node)
    if name in ("os.system", "os.popen", "asyncio.create_subprocess_shell", "commands.getoutput"):
        return name
    if name.startswith("subprocess.get"):  # getoutput, getstatusoutput
        return name
    asked = keyword(node, "shell")
    if asked is not None and not is_literal(asked, False):
        return f"{name}(shell=...)"
    starts = name in ("subprocess.run", "subprocess.Popen", "subprocess.check_output",
                      "subprocess.check_call", "subprocess.call")  # fmt: skip
    if starts and isinstance(node, ast.Call) and node.args:
        first = node.args[0]
        if isinstance(first, ast.JoinedStr) or isinstance(getattr(first, "value", None), str):
            return f"{name} of a text"
    return ""


def runs_text(node: ast.AST) -> str:
    if called(node) in ("eval", "exec", "compile", "__import__", "runpy.run_path", "code.interact"):
        return called(node)
    return ""


def unsafe_loading(node: ast.AST) -> str:
    name = called(node)
    if name.startswith("yaml.") and name.endswith(("load", "load_all")):
        loader = keyword(node, "Loader")
        safe = loader is not None and ast.unparse(loader) in ("yaml.SafeLoader", "yaml.CSafeLoader")
        if not (safe or name in ("yaml.safe_load", "yaml.safe_load_all")):
            return name
    if name in ("torch.load", "torch.jit.load", "torch.package.PackageImporter"):
        return "" if is_literal(keyword(node, "weights_only"), True) else name
    if name.endswith(("np.load", "numpy.load")):
        allowed = keyword(node, "allow_pickle")
        return name if allowed is not None and not is_literal(allowed, False) else ""
    if name.endswith(("read_pickle", "dcp.load", "FileSystemReader")):
        return name
    return ""


def foreign_code(node: ast.AST) -> str:
    """Loading that could run a model's code by a word of ours instead of the person's."""
    said = keyword(node, "trust_remote_code")
    if is_literal(said, True):
        return "trust_remote_code=True"
    if called(node) in ("AutoConfig.from_pretrained", "AutoTokenizer.from_pretrained",
                        "AutoModelForCausalLM.from_pretrained"):  # fmt: skip
        assert isinstance(node, ast.Call)
        spread = any(word.arg is None and "source" in ast.unparse(word.value)
                     for word in node.keywords)  # fmt: skip
        if not (spread or is_literal(said, False)):
            return f"{called(node)} without a word on trust_remote_code"
    return ""


def listens(node: ast.AST) -> str:
    name = called(node)
    last = name.rpartition(".")[2]
    if last in ("create_server", "start_server", "start_unix_server", "create_unix_server"):
        return name
    if last == "listen" and isinstance(node, ast.Call) and "sock" in name.lower():
        return name
    return ""


@pytest.mark.parametrize(
    "look", [shell, unsafe_loading, foreign_code, listens], ids=lambda look: look.__name__
)
def test_the_source_never_does_this(look: Callable[[ast.AST], str]) -> None:
    assert found(look) == []


def test_text_is_run_as_code_only_where_it_is_known() -> None:
    places = {place.split(":")[0] for place in found(runs_text)}
    assert places <= RUNNING_CODE


def test_no_module_with_pickles_archives_or_servers_is_imported() -> None:
    def look(node: ast.AST) -> str:
        names = set(imports(node)) & FORBIDDEN.keys()
        return ", ".join(f"{name} ({FORBIDDEN[name]})" for name in sorted(names))

    assert found(look) == []


def test_only_one_module_opens_connections() -> None:
    def look(node: ast.AST) -> str:
        return ", ".join(set(imports(node)) & NETWORK)

    assert {place.split(":")[0] for place in found(look)} == CONNECTING


def test_temporary_names_are_never_guessable() -> None:
    assert found(lambda node: called(node) if called(node).endswith("mktemp") else "") == []


# -- the looks themselves ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("look", "code"),
    [
        (shell, "subprocess.run('ls', shell=True)"),
        (shell, "subprocess.run(f'ls {name}')"),
        (shell, "subprocess.run('ls ' + name, shell=flag)"),
        (shell, "os.system(x)"),
        (unsafe_loading, "yaml.load(text)"),
        (unsafe_loading, "yaml.load(text, Loader=yaml.UnsafeLoader)"),
        (unsafe_loading, "yaml.unsafe_load(text)"),
        (unsafe_loading, "torch.load(path)"),
        (unsafe_loading, "torch.load(path, weights_only=False)"),
        (unsafe_loading, "np.load(path, allow_pickle=True)"),
        (foreign_code, "AutoConfig.from_pretrained(path)"),
        (foreign_code, "anything(trust_remote_code=True)"),
        (listens, "asyncio.start_server(serve)"),
        (runs_text, "eval(text)"),
    ],
)
def test_each_look_sees_what_it_is_for(look: Callable[[ast.AST], str], code: str) -> None:
    assert any(look(node) for node in ast.walk(ast.parse(code)))
