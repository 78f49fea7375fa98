"""Ask a model for candidate rows and put what it answers into the review queue.

Every answer is in the queue before the next question is asked, and kept in the cache: what was
paid for is never lost, and going on after a failure asks nothing twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finetui.data.formats.source import Stop
from finetui.data.prices import Price, cost, find_price, money
from finetui.data.review.candidates import Forecast, Request
from finetui.data.review.queue import Entry, Queue
from finetui.data.review.remote import Endpoint, Pause, RemoteError, Reply, Tell, ask
from finetui.data.review.replies import Judge, arrive
from finetui.display import plural
from finetui.workspace import Workspace

Report = Callable[[int, int], None]


@dataclass
class Outcome:
    """What came of some requests. Tokens are the endpoint's own count, of what was paid for now;
    ``uncounted`` answers came without one. ``reasons`` counts the refused pieces, ``failure`` is
    why it ended early."""

    requests: int = 0
    cached: int = 0
    new: int = 0
    known: int = 0
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    failure: str = ""


def cache_folder(workspace: Workspace) -> Path:
    return workspace.cache / "suggest"


def ask_all(
    queue: Queue,
    judge: Judge,
    endpoint: Endpoint,
    requests: Sequence[Request],
    *,
    max_tokens: int = 4096,
    temperature: float = 0.8,
    fresh: bool = False,
    progress: Report | None = None,
    pause: Pause | None = None,
    stop: Stop | None = None,
    tell: Tell = lambda text: None,
) -> Outcome:
    """Send the requests one after the other; ends at the first that gets no answer."""
    outcome = Outcome()
    for number, request in enumerate(requests):
        if stop and stop():
            outcome.failure = "stopped"
            break
        try:
            reply = ask(
                endpoint, request.messages, max_tokens=max_tokens, temperature=temperature,
                cache=cache_folder(queue.workspace), fresh=fresh, salt=request.round,
                pause=pause, tell=tell,
            )  # fmt: skip
        except RemoteError as error:
            outcome.failure = str(error)
            break
        _take(outcome, queue, judge, request, reply)
        if progress:
            progress(number + 1, len(requests))
    return outcome


def collect(
    queue: Queue,
    judge: Judge,
    answers: Iterable[tuple[Request, str]],
    model: str,
) -> Outcome:
    """Put answers that a local job gave into the queue."""
    outcome = Outcome()
    for request, text in answers:
        _take(outcome, queue, judge, request, Reply(text, model, cached=True))
    outcome.cached = 0
    return outcome


def _take(outcome: Outcome, queue: Queue, judge: Judge, request: Request, reply: Reply) -> None:
    judged = judge.entries(request, reply.text, reply.cut, reply.model)
    outcome.requests += 1
    outcome.cached += reply.cached
    if not judged:
        outcome.reasons["an empty answer"] += 1
    outcome.reasons.update(_kind(entry) for _, _, entry in judged if entry.refused)
    arrived = arrive(queue, judged, request, reply.model) if judged else None
    if arrived:
        outcome.new += arrived.new
        outcome.known += arrived.known
        outcome.refused += arrived.refused
    if not reply.cached:
        outcome.prompt_tokens += reply.prompt_tokens or 0
        outcome.completion_tokens += reply.completion_tokens or 0
        outcome.uncounted += reply.prompt_tokens is None


def _kind(entry: Entry) -> str:
    """A reason without its particulars: ``duplicate``, ``wrong shape``, ``malformed``."""
    return entry.refused.partition(":")[0].partition(" of line")[0]


# ---------------------------------------------------------------- in words


def cost_line(found: Forecast, model: str) -> str:
    """What sending would take, in one line."""
    tokens = (
        f"≈ {found.prompt_tokens:,} tokens in, ≈ {found.answer_tokens:,} out "
        f"(at most {found.most_tokens:,})"
    )
    if found.amount is None or found.most is None:
        return f"{tokens}; no input and output price for {model!r} in prices.toml"
    sample = " by sample prices (edit prices.toml)" if found.sample else " by prices.toml"
    least, most = money(found.amount, found.currency), money(found.most, found.currency)
    return f"{tokens}; ≈ {least}, at most {most}{sample}"


def spent_line(outcome: Outcome, model: str, prices: list[Price]) -> str:
    """What was paid for, in one line."""
    asked = outcome.requests - outcome.cached
    parts = [f"{plural(asked, 'request')} answered"]
    if outcome.cached:
        parts.append(f"{outcome.cached:,} from the cache")
    if asked and outcome.uncounted < asked:
        parts.append(
            f"{outcome.prompt_tokens:,} tokens in and {outcome.completion_tokens:,} out by the "
            "endpoint's count"
        )
        into, out = find_price(prices, model, "input"), find_price(prices, model, "output")
        if into and out and into.currency == out.currency:
            amount = cost(outcome.prompt_tokens, into) + cost(outcome.completion_tokens, out)
            note = " by sample prices" if into.sample or out.sample else ""
            parts.append(f"{money(amount, into.currency)}{note}")
    return ", ".join(parts)
