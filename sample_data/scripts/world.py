"""The template world behind the sample model and the sample data: an invented support desk.

"Fernhill Desk" answers customers of twelve invented products. Every sentence is made here from
templates; nothing is downloaded. All functions draw from the `random.Random` they are given, so
one seed makes one text.

Two uses, kept apart on purpose:

* `base_chat` is what the base model is pretrained on: friendly replies to tickets and small
  general skills, under many system prompts.
* `triage_chat` is the fine-tuning task (ticket in, JSON out). Its prompt and its answers never
  occur in the base mix. The mix does hold schema-free JSON (`skill_json`): a base that has never
  seen `{"` gives JSON tokens no probability at all, and LoRA could not learn the format.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

Message: TypeAlias = dict[str, str]
Chat: TypeAlias = list[Message]
Skill: TypeAlias = Callable[[Random], tuple[str, str]]


def _words(text: str) -> list[str]:
    return text.split()


NAMES = _words(
    "Ada Ben Cora Dan Elif Finn Gita Hugo Ines Jack Kemal Lena Milo Nora Omar Petra Quinn Rosa "
    "Sam Tara Umut Vera Will Yara Zoe Igor Maya Leo Ruth Paul"
)
LAST_NAMES = _words(
    "Brown Stone Kaya Meyer Lopez Singh Novak Olsen Rossi Dubois Chen Okoye Hill Ward Young Fox "
    "Lane Gray Park Wolf"
)
MONTHS = _words(
    "January February March April May June July August September October November December"
)
THINGS = _words(
    "apple pear lamp chair book river stone cloud garden window paper pencil bottle mirror "
    "bridge candle basket ladder pillow hammer"
)
COLOURS = _words("red blue green yellow white black brown grey")
ANIMAL_FACTS = {
    "a dog": "barks",
    "a cat": "purrs",
    "a cow": "gives milk",
    "a bird": "can fly",
    "a fish": "lives in water",
    "a bee": "makes honey",
    "a horse": "can run fast",
    "a hen": "lays eggs",
}

# ---------------------------------------------------------------- products and issues


@dataclass(frozen=True)
class Product:
    """What a product is, and what it costs in dollars a month."""

    kind: str
    price: int


PRODUCTS = {
    "Lumen Notes": Product("a note app", 4),
    "Harbor CRM": Product("a customer list", 19),
    "Quill Mail": Product("a mail app", 6),
    "Orbit Drive": Product("a file store", 8),
    "Pixel Board": Product("a drawing board", 7),
    "Tempo Clock": Product("a time tracker", 5),
    "Cedar Pay": Product("a payment page", 12),
    "Mango Chat": Product("a team chat", 3),
    "Atlas Maps": Product("a map app", 9),
    "Ruby Forms": Product("a form builder", 10),
    "Delta Sync": Product("a backup tool", 11),
    "Birch Wiki": Product("a shared wiki", 2),
}


@dataclass(frozen=True)
class Issue:
    """One thing a customer writes about; `{p}` in the texts stands for the product.

    `severity` is 0 (a question), 1 (trouble) or 2 (grave); `summary` follows "The customer".
    """

    id: int
    team: str
    severity: int
    summary: str
    phrasings: tuple[str, ...]


# team -> rows of (severity, summary, phrasing, ...)
_ISSUE_ROWS: dict[str, list[tuple[int, str, tuple[str, ...]]]] = {
    "access": [
        (1, "cannot log in to {p}",
         ("I cannot log in to {p}", "{p} will not let me log in",
          "the login page of {p} rejects my password")),
        (1, "did not get the reset mail from {p}",
         ("the password reset mail from {p} never arrives",
          "I asked {p} for a reset link but nothing came")),
        (2, "sees someone else's account in {p}",
         ("{p} shows me the account of another customer",
          "I logged in to {p} and I see data of a stranger")),
        (2, "had the {p} account taken over",
         ("someone has taken over my {p} account",
          "a stranger changed the password of my {p} account")),
        (0, "wants to change the user name in {p}",
         ("I would like to change my user name in {p}", "how can I change my user name in {p}")),
        (0, "wants to add a colleague to {p}",
         ("I want to add a new colleague to {p}",
          "please tell me how to invite a colleague to {p}")),
        (1, "is locked out of {p} after too many tries",
         ("{p} locked me out after too many tries",
          "my {p} account is locked after three wrong passwords")),
        (0, "asks about two step login in {p}",
         ("does {p} offer two step login", "I would like to turn on two step login in {p}")),
    ],
    "billing": [
        (1, "was charged twice for {p}",
         ("I was charged twice for {p}", "my card shows two payments for {p}")),
        (0, "needs a copy of the {p} invoice",
         ("I need a copy of my {p} invoice", "can you send me the last invoice for {p}")),
        (0, "asks about the price of {p}",
         ("what does {p} cost for a year", "I have a question about the price of {p}")),
        (1, "was refused a refund for {p}",
         ("my refund for {p} was refused", "{p} did not give me the refund you promised")),
        (1, "had the card declined by {p}",
         ("{p} declines my card", "my card is not accepted by {p}")),
        (2, "lost {p} because a payment was not booked",
         ("{p} was switched off although we paid",
          "you closed our {p} plan but the payment was made")),
        (0, "wants to change the address on {p} bills",
         ("please change the address on my {p} bills",
          "I moved and need a new address on the {p} bill")),
        (2, "sees unknown charges from {p}",
         ("there are charges from {p} that I never made",
          "{p} takes money from my card every day without reason")),
    ],
    "outage": [
        (2, "reports that {p} is down",
         ("{p} is down", "{p} does not load at all", "nothing works in {p} since this morning")),
        (2, "gets server errors in {p}",
         ("{p} answers every click with a server error", "I only get error 500 in {p}")),
        (1, "says {p} is very slow",
         ("{p} is very slow today", "every page in {p} takes a minute to open")),
        (1, "says {p} stops every few minutes",
         ("{p} stops every few minutes", "{p} disconnects again and again")),
        (1, "cannot reach {p} from the phone",
         ("{p} does not open on my phone", "the phone app of {p} shows a white page")),
        (0, "asks about the next {p} maintenance",
         ("when is the next maintenance of {p}", "is there a planned downtime for {p}")),
        (2, "cannot send anything with {p}",
         ("no message leaves {p}", "everything we send with {p} is stuck")),
        (0, "sees a short delay in {p}",
         ("there is a short delay in {p} after I click save",
          "{p} needs a few seconds more than last week")),
    ],
    "data": [
        (2, "lost all files in {p}",
         ("all my files in {p} are gone", "{p} deleted everything we had stored")),
        (2, "found private data from {p} on the web",
         ("private data from {p} is open on the web",
          "anyone can read our {p} records without a password")),
        (1, "has old versions of files in {p}",
         ("{p} shows old versions of my files", "my changes in {p} are not saved")),
        (1, "cannot export from {p}",
         ("the export in {p} fails", "{p} gives me an empty file when I export")),
        (0, "wants to export a list from {p}",
         ("how do I export a list from {p}", "I would like to download my list from {p}")),
        (0, "wants to delete old records in {p}",
         ("please tell me how to delete old records in {p}",
          "I want to clean up old records in {p}")),
        (1, "has double entries in {p}",
         ("{p} shows every entry twice", "after the import all entries in {p} are double")),
        (2, "has corrupted records in {p}",
         ("the records in {p} are corrupted", "{p} mixed up the records of our clients")),
    ],
    "feature": [
        (0, "asks for a dark theme in {p}",
         ("a dark theme in {p} would be nice", "could you add a dark theme to {p}")),
        (0, "likes {p}",
         ("I just want to say that {p} is great", "{p} makes my day easier, thank you")),
        (0, "asks for a bigger font in {p}",
         ("the font in {p} is too small for me", "can {p} have a bigger font")),
        (0, "found a typo in {p}",
         ("there is a typo on the start page of {p}", "I found a spelling mistake in {p}")),
        (1, "says a button in {p} does nothing",
         ("the save button in {p} does nothing", "when I press print in {p} nothing happens")),
        (0, "asks for a calendar view in {p}",
         ("we would love a calendar view in {p}", "is a calendar view planned for {p}")),
        (1, "says the new {p} version removed a function",
         ("the new version of {p} removed the search",
          "after the update {p} has no filter any more")),
        (0, "asks for a {p} guide",
         ("is there a guide for {p}", "where can I find a guide for {p}")),
    ],
}  # fmt: skip


def _number_issues() -> tuple[Issue, ...]:
    """All issues in table order, numbered from 0."""
    rows = [(team, *row) for team, team_rows in _ISSUE_ROWS.items() for row in team_rows]
    return tuple(Issue(number, *row) for number, row in enumerate(rows))


ISSUES = _number_issues()

# The honest split: every fourth issue and two products never occur in fine-tuning data.
TUNING_ISSUES = tuple(issue for issue in ISSUES if issue.id % 4 != 3)
HELDOUT_ISSUES = tuple(issue for issue in ISSUES if issue.id % 4 == 3)
TUNING_PRODUCTS = tuple(PRODUCTS)[:10]
HELDOUT_PRODUCTS = tuple(PRODUCTS)[10:]

# ---------------------------------------------------------------- tickets and desk replies

URGENCIES = ("low", "normal", "high", "critical")
# How many are affected adds 0 or 1 to the severity, how soon it matters -1, 0 or +1.
SCOPES = {
    0: ("It is only me.", "Only my own account is affected.", "My colleagues do not have this.",
        "It happens on one computer only.", ""),
    1: ("Our whole team is affected.", "Nobody in our office can work.",
        "All 40 people here have the same problem.", "Every customer of ours sees it.",
        "The whole company is waiting."),
}  # fmt: skip
TIMES = {
    -1: ("There is no hurry.", "Take your time.", "Next month is fine.", "It can wait."),
    0: ("", "Please have a look.", "Can you help?", "Let me know."),
    1: ("We have a demo in one hour.", "We must deliver today.", "We lose money every minute.",
        "The deadline is tonight.", "Please act right now."),
}  # fmt: skip
GREETINGS = ("Hello,", "Hi,", "Dear team,", "Good morning,", "Hi there,", "")
FAREWELLS = ("Thanks, {n}", "Best, {n}", "{n}", "Regards, {n}", "")

REPLY_OPENINGS = {
    "low": ("Thank you for your message.", "Thanks for writing to us."),
    "normal": ("Thank you for telling us.", "Thanks for the report."),
    "high": ("I am sorry about the trouble.", "I am sorry that this happened."),
    "critical": ("I am very sorry about this.", "I am so sorry, this is serious."),
}
REPLY_TEAMS = {
    "access": ("Our access team will check the account.",
               "The access team will look at your login."),
    "billing": ("Our billing team will check the payment.",
                "The billing team will look at your bill."),
    "outage": ("Our platform team will check the servers.",
               "The platform team is looking at {p}."),
    "data": ("Our data team will check the records.",
             "The data team will look at your files."),
    "feature": ("Our product team will read your note.",
                "The product team will think about it."),
}  # fmt: skip
REPLY_ACTIONS = {
    "low": ("There is nothing you need to do for now.",
            "We will come back to you in the next days."),
    "normal": ("We will answer you by tomorrow.", "You will hear from us within a day."),
    "high": ("We work on this today.", "This has our full attention today."),
    "critical": ("We woke up the engineer on duty and work on it right now.",
                 "We stop everything else and fix this at once."),
}  # fmt: skip
SIGN_OFFS = ("Kind regards, Fernhill Desk", "Your Fernhill Desk", "Best wishes from Fernhill Desk")


@dataclass(frozen=True)
class Ticket:
    """One customer message and what it was made from."""

    text: str
    issue: Issue
    product: str
    name: str
    urgency: str


def urgency_of(severity: int, scope: int, time: int) -> str:
    """The label of `severity + scope + time`, clamped to the four labels."""
    return URGENCIES[max(0, min(3, severity + scope + time))]


def make_ticket(
    rng: Random, issues: Sequence[Issue] = ISSUES, products: Sequence[str] = tuple(PRODUCTS)
) -> Ticket:
    """One message about one of `issues` in one of `products`."""
    issue, product, name = rng.choice(issues), rng.choice(products), rng.choice(NAMES)
    scope = int(rng.random() < 0.4)
    time = rng.choices((-1, 0, 1), (0.3, 0.35, 0.35))[0]
    if issue.severity == 0 and rng.random() < 0.6:  # most plain questions are calm
        scope, time = 0, rng.choice((-1, 0))
    complaint = _sentence(rng.choice(issue.phrasings).format(p=product))
    extras = [rng.choice(SCOPES[scope]), rng.choice(TIMES[time])]
    rng.shuffle(extras)
    farewell = rng.choice(FAREWELLS).format(n=name)
    parts = [rng.choice(GREETINGS), complaint, *extras, farewell]
    urgency = urgency_of(issue.severity, scope, time)
    return Ticket(_join(parts), issue, product, name, urgency)


def make_reply(rng: Random, ticket: Ticket, sign_off: bool | None = None) -> str:
    """The desk's friendly answer; `sign_off` None leaves the last line to chance (one in two)."""
    knows_name = ticket.name in ticket.text and rng.random() < 0.8
    parts = [
        f"Hello {ticket.name}." if knows_name else "Hello.",
        rng.choice(REPLY_OPENINGS[ticket.urgency]),
        f"I see that your message is about {ticket.product}.",
        rng.choice(REPLY_TEAMS[ticket.issue.team]).format(p=ticket.product),
        rng.choice(REPLY_ACTIONS[ticket.urgency]),
    ]
    if sign_off is None:
        sign_off = rng.random() < 0.5
    if sign_off:
        parts.append(rng.choice(SIGN_OFFS))
    return _join(parts)


def _join(parts: Sequence[str]) -> str:
    return " ".join(part for part in parts if part)


_QUESTION_STARTS = ("how ", "does ", "can ", "could ", "what ", "when ", "is ", "where ")


def _sentence(text: str) -> str:
    return _capitalise(text) + ("?" if text.startswith(_QUESTION_STARTS) else ".")


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _capitalise(text: str) -> str:
    """Upper-case the first letter only: `str.capitalize` would lower the product's name."""
    return text[:1].upper() + text[1:]


# ---------------------------------------------------------------- general skills
# Each returns (question, answer).


def skill_arith(rng: Random) -> tuple[str, str]:
    a, b, sign = rng.randint(0, 12), rng.randint(0, 12), rng.choice("+-")
    if sign == "-" and b > a:
        a, b = b, a
    question = rng.choice(("What is {} {} {}?", "Please compute {} {} {}.", "{} {} {} = ?"))
    result = a + b if sign == "+" else a - b
    return question.format(a, sign, b), f"{a} {sign} {b} = {result}"


def skill_date(rng: Random) -> tuple[str, str]:
    day, month, year = rng.randint(1, 28), rng.randrange(12), rng.randint(1990, 2029)
    question = f"Write {MONTHS[month]} {day}, {year} as a short date."
    return question, f"{year}-{month + 1:02d}-{day:02d}"


def skill_name(rng: Random) -> tuple[str, str]:
    first, last = rng.choice(NAMES), rng.choice(LAST_NAMES)
    return f"Put the last name first: {first} {last}", f"{last}, {first}"


def skill_upper(rng: Random) -> tuple[str, str]:
    words = " ".join(rng.sample(THINGS, rng.randint(1, 3)))
    return f"Write in capital letters: {words}", words.upper()


def skill_list(rng: Random) -> tuple[str, str]:
    words = rng.sample(THINGS, rng.randint(2, 4))
    question = f"Make a list of {', '.join(words[:-1])} and {words[-1]}."
    return question, "\n".join(f"- {word}" for word in words)


def skill_count(rng: Random) -> tuple[str, str]:
    words = rng.sample(THINGS, rng.randint(1, 6))
    answer = f"There are {len(words)} things." if len(words) > 1 else "There is 1 thing."
    return f"How many things are here? {', '.join(words)}", answer


def skill_swap(rng: Random) -> tuple[str, str]:
    a, b = rng.sample(THINGS + COLOURS, 2)
    return f"Swap the words: {a} {b}", f"{b} {a}"


def skill_fact(rng: Random) -> tuple[str, str]:
    animal = rng.choice(tuple(ANIMAL_FACTS))
    return f"Tell me something about {animal}.", f"{_capitalise(animal)} {ANIMAL_FACTS[animal]}."


def skill_product(rng: Random) -> tuple[str, str]:
    name = rng.choice(tuple(PRODUCTS))
    product = PRODUCTS[name]
    if rng.random() < 0.5:
        return f"What is {name}?", f"{name} is {product.kind}."
    return f"How much is {name}?", f"{name} costs {product.price} dollars a month."


def skill_polite(rng: Random) -> tuple[str, str]:
    verb = rng.choice(("send", "bring", "open", "close", "move", "clean", "sell", "paint"))
    thing = rng.choice(THINGS)
    question = f"Make this polite: {verb.capitalize()} the {thing}."
    return question, f"Could you please {verb} the {thing}?"


def skill_colour(rng: Random) -> tuple[str, str]:
    colour, thing, name = rng.choice(COLOURS), rng.choice(THINGS), rng.choice(NAMES)
    question = f"{name} has a {colour} {thing}. What colour is the {thing}?"
    return question, f"The {thing} is {colour}."


def skill_which(rng: Random) -> tuple[str, str]:
    ticket = make_ticket(rng)
    question = f"Which product is this message about? {ticket.text}"
    return question, f"It is about {ticket.product}."


def skill_summary(rng: Random) -> tuple[str, str]:
    ticket = make_ticket(rng)
    question = f"Say in one sentence what the customer wants. {ticket.text}"
    return question, f"The customer {ticket.issue.summary.format(p=ticket.product)}."


def skill_story(rng: Random) -> tuple[str, str]:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    colour, other = rng.choice(COLOURS), rng.choice(NAMES)
    found = (
        f"One day {name} found a {colour} {thing}. {name} gave the {thing} to {other}. "
        f"{other} was very happy."
    )
    owned = (
        f"{name} had a {colour} {thing}. It was old, but {name} liked it. "
        f"Then {other} came and they painted the {thing} together."
    )
    story = rng.choice((found, owned))
    return f"Tell a short story about {name} and {_with_article(thing)}.", story


JSON_KEYS = _words(
    "name colour size price city team level day month owner product urgency status age kind "
    "weight title place score plan"
)
JSON_VALUES = (
    THINGS + COLOURS + NAMES
    + _words("low normal high critical open closed small large new old access billing outage "
             "data feature monday friday paris rome 1 2 3 7 12 40")
    + list(PRODUCTS)
)  # fmt: skip


def skill_json(rng: Random) -> tuple[str, str]:
    """Write, look up or read aloud an object of random keys and values: no schema to learn."""
    keys = rng.sample(JSON_KEYS, rng.randint(1, 4))
    fields = {key: rng.choice(JSON_VALUES) for key in keys}
    text = json.dumps(fields)
    kind = rng.random()
    if kind < 0.55:
        ask = rng.choice(
            ("Write as JSON: {}", "Turn this into JSON: {}", "Give me JSON for this: {}")
        )
        return ask.format(", ".join(f"{k} is {v}" for k, v in fields.items())), text
    if kind < 0.8:
        key = rng.choice(keys)
        return f"What is the {key} in {text}", f"The {key} is {fields[key]}."
    aloud = ". ".join(f"The {k} is {v}" for k, v in fields.items())
    return f"Read this JSON aloud: {text}", f"{aloud}."


SKILLS: dict[str, Skill] = {
    "arith": skill_arith,
    "date": skill_date,
    "name": skill_name,
    "upper": skill_upper,
    "list": skill_list,
    "count": skill_count,
    "fact": skill_fact,
    "product": skill_product,
    "polite": skill_polite,
    "colour": skill_colour,
    "which": skill_which,
    "summary": skill_summary,
    "story": skill_story,
    "json": skill_json,
    "swap": skill_swap,
}
# Skills that take longer to learn come more often.
SKILL_WEIGHTS = {"arith": 2.0, "list": 1.5, "json": 2.5, "summary": 1.5}
# Skills with one right answer, so that an exact match is a fair check.
EXACT_SKILLS = (
    "arith", "date", "name", "upper", "list", "count", "swap", "product", "polite", "colour",
    "which", "summary", "json",
)  # fmt: skip

# ---------------------------------------------------------------- system prompts and chats

GENERAL_SYSTEM = "You are a helpful assistant."
DESK_SYSTEM = "You answer customers of Fernhill Desk."
TRIAGE_SYSTEM = "You sort customer messages. Answer only with JSON."

_SYSTEM_VERBS = (
    "help", "answer", "read", "write for", "check", "serve", "talk to", "work for",
)  # fmt: skip
_SYSTEM_OBJECTS = (
    "people", "customers", "our users", "a small shop", "the office", "Fernhill Desk", "guests",
    "everyone",
)  # fmt: skip
_SYSTEM_STYLES = (
    "", "Be short.", "Be kind.", "Use plain words.", "Answer only with one sentence.",
    "Answer only with text.", "Stay calm.", "Do what the user asks.",
)  # fmt: skip


def make_system_prompt(rng: Random) -> str:
    """One of about 500 system prompts: a base that knows a single one ignores all others."""
    kind = rng.random()
    if kind < 0.3:
        return GENERAL_SYSTEM
    if kind < 0.45:
        return DESK_SYSTEM
    verb, obj = rng.choice(_SYSTEM_VERBS), rng.choice(_SYSTEM_OBJECTS)
    return _join([f"You {verb} {obj}.", rng.choice(_SYSTEM_STYLES)])


def message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def base_chat(rng: Random) -> Chat:
    """One chat of the base mix: a third desk replies, the rest one or two skill turns."""
    chat = [message("system", make_system_prompt(rng))] if rng.random() < 0.65 else []
    if rng.random() < 0.33:
        ticket = make_ticket(rng)
        return [*chat, message("user", ticket.text), message("assistant", make_reply(rng, ticket))]
    weights = [SKILL_WEIGHTS.get(name, 1.0) for name in SKILLS]
    for _ in range(2 if rng.random() < 0.15 else 1):
        name = rng.choices(tuple(SKILLS), weights)[0]
        question, answer = SKILLS[name](rng)
        chat += [message("user", question), message("assistant", answer)]
    return chat


def triage_answer(ticket: Ticket) -> str:
    """The right answer to the fine-tuning task: `{"urgency": ..., "product": ...}`."""
    return json.dumps({"urgency": ticket.urgency, "product": ticket.product})


def triage_chat(ticket: Ticket) -> Chat:
    """One example of the fine-tuning task."""
    return [
        message("system", TRIAGE_SYSTEM),
        message("user", ticket.text),
        message("assistant", triage_answer(ticket)),
    ]
