"""A model's chat template, run in jinja's sandbox as transformers runs it.

Its ``{% generation %}`` blocks tell what the assistant wrote, as spans of characters.
jinja2 is imported lazily; the environment is made once a process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from finetui.errors import UserError

if TYPE_CHECKING:
    import jinja2

Span: TypeAlias = tuple[int, int]

_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")
_MARKS = "_finetui_marks"


class TemplateRefusal(UserError):
    """The template raised an error of its own for this chat: a role, an order, a missing part."""


@dataclass
class _Marks:
    """What the generation blocks rendered, and where; ``length`` is the text so far."""

    length: int = 0
    found: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True)
class ChatTemplate:
    """The source of a template; ``origin`` is the folder it came from, for messages."""

    source: str
    origin: str = ""

    @property
    def has_markers(self) -> bool:
        """True when the template itself says which part is the assistant's."""
        return bool(_MARKER.search(self.source))

    def render(self, variables: Mapping[str, Any]) -> tuple[str, list[Span]]:
        """Text, and the character spans of its ``{% generation %}`` blocks.

        Raises TemplateRefusal with the template's own reason when it refuses the chat.
        """
        marks = _Marks()
        parts: list[str] = []
        try:
            for part in self._compiled.generate({**variables, _MARKS: marks}):
                parts.append(part)
                marks.length += len(part)
        except UserError:
            raise
        except Exception as error:  # a template is a program of its own: it may raise anything
            raise TemplateRefusal(
                f"the chat template refuses this chat: {error}.", self.origin
            ) from error
        text = "".join(parts)
        return text, [self._span(text, start, part) for start, part in marks.found]

    def _span(self, text: str, start: int, part: str) -> Span:
        if text[start : start + len(part)] != part:
            raise UserError(
                "the chat template changes text after its generation block, so the trained "
                "part cannot be told.",
                self.origin,
                "Move {% generation %} to the outermost place where the answer is written.",
            )
        return start, start + len(part)

    @cached_property
    def _compiled(self) -> jinja2.Template:
        import jinja2

        try:
            return _environment().from_string(self.source)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(
                f"the chat template cannot be read: {error.message}.",
                f"{self.origin}:{error.lineno}",
            ) from error


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    """Jinja as transformers sets it up, with a generation tag that notes where it rendered."""
    import jinja2
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}...{% endgeneration %}``: marks what the assistant wrote."""

        tags = {"generation"}

        def parse(self, parser: Any) -> jinja2.nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            block = jinja2.nodes.CallBlock(self.call_method("mark"), [], [], body)
            return block.set_lineno(line)

        @jinja2.pass_context
        def mark(self, context: jinja2.runtime.Context, caller: Callable[[], str]) -> str:
            part = caller()
            marks = context.get(_MARKS)
            if isinstance(marks, _Marks):
                marks.found.append((marks.length, part))
            return part

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """Plain JSON; jinja's own filter escapes HTML characters."""
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    def strftime_now(pattern: str) -> str:
        return datetime.now().strftime(pattern)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment
