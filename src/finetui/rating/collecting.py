"""From the files of an unsealed session to plain votes and their design."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from finetui.rating.analysis import Design, Opening, Report, analyse
from finetui.rating.audit import AuditEntry, Head, entries
from finetui.rating.panel import catches_of
from finetui.rating.sealing import Placement
from finetui.rating.sequential import Decision, decide, finished
from finetui.rating.session import Session
from finetui.rating.verdict import Vote
from finetui.rating.votes import Event, Judgement, fold, read_events

if TYPE_CHECKING:
    from finetui.rating.unseal import Mapping as SealedMapping


def collect_votes(
    session: Session, placements: Mapping[str, Placement], until: dict[str, Head]
) -> list[Vote]:
    """Every rater's last answers as they lay on disk at these heads."""
    votes = []
    for rater in session.raters:
        for pid, judged in fold(read_events(session, rater, until)).items():
            place = placements.get(pid)
            if place and place.rater == rater and (vote := _vote(place, judged)):
                votes.append(vote)
    return votes


def _vote(place: Placement, judged: Judgement) -> Vote | None:
    if judged.choice is None or judged.event is None:
        return None
    return Vote(
        rater=place.rater,
        item=place.item,
        kind=place.kind,
        choice=judged.choice,
        left=place.left,
        right=place.right,
        seq=place.seq,
        at=judged.event.voted_at or judged.event.at,
        active_ms=judged.event.active_ms,
        confidence=judged.confidence,
        recognised=judged.recognised,
        comment=judged.comment,
        tags=judged.tags,
        criteria=judged.criteria,
    )


def report_on(
    session: Session, mapping: SealedMapping, opened: AuditEntry, problems: Sequence[str]
) -> Report:
    """The report over the votes that lay on disk at the unsealing."""
    votes = collect_votes(session, mapping.placements, opened.heads)
    return analyse(votes, _design(session, mapping), _opening(session, opened, problems))


def standing(session: Session, mapping: SealedMapping, until: dict[str, Head]) -> Decision:
    """What the stop rule says to the main comparison's votes at these heads."""
    manifest = session.manifest
    votes = collect_votes(session, mapping.placements, until)
    failed = failed_raters(session, votes)
    pair = frozenset(mapping.systems[:2])
    raters_of = {
        item: [rater for rater in raters if rater not in failed]
        for item, raters in _raters_of(mapping, pair).items()
    }
    main = [vote for vote in votes if vote.pair == pair]
    return decide(manifest.stop, finished(main, raters_of, mapping.systems[1]))


def failed_raters(session: Session, votes: Sequence[Vote]) -> frozenset[str]:
    """Raters who saw through fewer catches so far than the manifest asks for."""
    caught = {
        rater: catches_of(vote for vote in votes if vote.rater == rater) for rater in session.raters
    }
    needed = session.manifest.catch_needed
    return frozenset(r for r, own in caught.items() if own.shown and own.share < needed)


def _raters_of(
    mapping: SealedMapping, pair: frozenset[str] = frozenset()
) -> dict[str, tuple[str, ...]]:
    """item -> who has it in their packet; with ``pair`` only where these two systems meet."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for place in mapping.placements.values():
        own = found[place.item] if place.kind == "item" else []
        if place.rater not in own and (not pair or pair == {place.left, place.right}):
            own.append(place.rater)
    return {item: tuple(raters) for item, raters in found.items() if raters}


def _design(session: Session, mapping: SealedMapping) -> Design:
    manifest, findings = session.manifest, mapping.findings
    packets = Counter(place.rater for place in mapping.placements.values())
    return Design(
        session=session.name,
        question=session.question,
        endpoint=manifest.endpoint,
        created=manifest.created,
        systems=mapping.systems,
        raters=session.raters,
        packets=dict(packets),
        items=manifest.items,
        shown=manifest.shown,
        identical=tuple(mapping.identical),
        raters_of=_raters_of(mapping, frozenset(mapping.systems[:2])),
        alpha=manifest.alpha,
        margin=manifest.margin,
        stop=manifest.stop,
        catch_needed=manifest.catch_needed,
        interested=tuple(manifest.interested),
        flags=findings.flags(),
        texts=mapping.texts,
        guessability=findings.guessability[0] if findings.guessability else None,
        seed=int(session.manifest_hash[:8], 16),
    )


def _opening(session: Session, opened: AuditEntry, problems: Sequence[str]) -> Opening:
    return Opening(
        by=opened.who,
        at=opened.time,
        reason=opened.reason,
        late=_late_events(session, opened),
        looks=sum(e.event == "look" and e.time <= opened.time for e in entries(session)),
        problems=(*problems, *_strangers(session)),
        own_account={
            rater: _own_account(session, read_events(session, rater)) for rater in session.raters
        },
    )


def _own_account(session: Session, events: Iterable[Event]) -> bool | None:
    """Whether the votes came from another account than the one that holds the seal."""
    accounts = {event.uid for event in events if event.ev == "open"}
    return session.sealed.stat().st_uid not in accounts if accounts else None


def _late_events(session: Session, opened: AuditEntry) -> int:
    """Answers given, changed or undone after the unsealing."""
    changing = ("vote", "amend", "undo")
    count = 0
    for rater in session.raters:
        for sign, until in ((1, None), (-1, opened.heads)):
            count += sign * sum(e.ev in changing for e in read_events(session, rater, until))
    return count


def _strangers(session: Session) -> list[str]:
    folders = sorted(path.name for path in session.ratings.iterdir() if path.is_dir())
    return [
        f"ratings/{name}: votes of nobody named in the manifest, not counted"
        for name in folders
        if name not in session.raters
    ]
