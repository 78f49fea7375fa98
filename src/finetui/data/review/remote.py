"""Ask an OpenAI-compatible endpoint: one POST to ``/chat/completions``, with the standard library.

The key is read from a file that only its owner can read, or from the environment; it goes into
one request header and nowhere else. Redirects are not followed: they would carry it elsewhere.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import os
import random
import re
import socket
import ssl
import stat
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec
import xxhash

from finetui.errors import UserError
from finetui.workspace import write_atomic

MOST_BYTES = 16 << 20  # of one reply
_READ = 1 << 16
_KEY_BYTES = 8192
_LONGEST_PAUSE_S = 60.0
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_FINAL = {"insufficient_quota", "billing_hard_limit_reached"}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_KEY_LIKE = re.compile(r"\b(?:sk|pk|key|hf|gsk)[-_][A-Za-z0-9_*.\-]{6,}")

Messages = Sequence[Mapping[str, Any]]
Pause = Callable[[float], bool]
"""Waits so many seconds; True when the person does not want to go on."""
Tell = Callable[[str], None]


class RemoteError(UserError):
    """The endpoint gave no answer; says why in its own words, without the key."""


@dataclass(frozen=True)
class Endpoint:
    """Where to ask; ``attempts`` counts the first one. The key is kept out of every text of it."""

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 120.0
    attempts: int = 5

    @property
    def address(self) -> str:
        """The URL that is posted to."""
        base = self.url.rstrip("/")
        return base if base.endswith("/chat/completions") else f"{base}/chat/completions"

    @property
    def local(self) -> bool:
        return (urllib.parse.urlsplit(self.url).hostname or "") in _LOOPBACK


class Reply(msgspec.Struct, frozen=True):
    """An answer. Tokens are the endpoint's own count, None where it does not say; ``cut`` when it
    ended at the limit; ``cached`` when it was paid for earlier."""

    text: str
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cut: bool = False
    cached: bool = False


def make_endpoint(
    url: str, model: str, key: str = "", timeout: float = 120.0, attempts: int = 5
) -> Endpoint:
    """A checked endpoint. Raises UserError for a URL that rows or keys must not be sent to."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            "is no http(s) address.", url or "suggest.url", "Write for example https://host/v1"
        )
    if parts.username or parts.password or parts.query:
        raise UserError(
            "a key does not belong into the URL, nor anything after a `?`.",
            "suggest.url",
            "Use key_file or key_env.",
        )
    if not model:
        raise UserError("no model is named.", "suggest.model", "Name it: --model NAME")
    made = Endpoint(url, model, key, timeout, attempts)
    if key and parts.scheme == "http" and not made.local:
        raise UserError(
            "http is not encrypted, so the key is not sent there.",
            url,
            "Use https, or forward a port: ssh -L 8000:localhost:8000 HOST",
        )
    return made


def read_key(key_file: str, key_env: str, environ: Mapping[str, str] = os.environ) -> str:
    """The key from its file, else from the environment, ``""`` where there is none.

    Raises UserError for a file that others could read, and for a key that is no single word.
    """
    if key_file:
        key = _from_file(Path(key_file).expanduser(), key_file)
    else:
        key = environ.get(key_env, "") if key_env else ""
    key = key.strip()
    if not key.isascii() or any(not 0x21 <= ord(letter) <= 0x7E for letter in key):
        raise UserError("the key is not one word of plain letters.", key_file or key_env)
    return key


def ask(
    endpoint: Endpoint,
    messages: Messages,
    *,
    max_tokens: int = 4096,
    temperature: float = 0.8,
    seed: int | None = None,
    cache: Path | None = None,
    fresh: bool = False,
    salt: int = 0,
    pause: Pause | None = None,
    tell: Tell = lambda text: None,
) -> Reply:
    """One answer, from the cache where the same was asked before (unless ``fresh``); ``salt``
    tells apart equal questions that shall have an answer each.

    Tries again after 429, 5xx, time-outs and broken connections, with growing pauses that
    respect Retry-After. Raises RemoteError when there is no answer.
    """
    body: dict[str, Any] = {"model": endpoint.model, "messages": list(messages),
                            "max_tokens": max_tokens, "temperature": temperature}  # fmt: skip
    if seed is not None:
        body["seed"] = seed
    place = cache / f"{_digest(endpoint.address, body, salt)}.json" if cache else None
    if place and not fresh and (kept := _kept(place)):
        return kept
    reply = _Conversation(endpoint, pause or _sleep, tell).ask(body)
    if place:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(place, msgspec.json.encode(reply))
    return reply


# ---------------------------------------------------------------- one question


class _AgainError(Exception):
    """This attempt failed, another may not; ``wait`` is what the server asked for, in seconds."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        self.why, self.wait = why, wait
        super().__init__(why)


class _Conversation:
    """The attempts at one answer."""

    def __init__(self, endpoint: Endpoint, pause: Pause, tell: Tell) -> None:
        self.endpoint, self._pause, self._tell = endpoint, pause, tell
        self._limit = _TimeLimit(endpoint.timeout)
        # A proxy is for the world outside, never for this machine.
        proxies = (urllib.request.ProxyHandler({}),) if endpoint.local else ()
        self._opener = urllib.request.build_opener(
            _NoRedirect, _Http(self._limit), _Https(self._limit), *proxies
        )

    def ask(self, body: dict[str, Any]) -> Reply:
        failure = _AgainError("no attempt was made")
        for attempt in range(1, self.endpoint.attempts + 1):
            try:
                return self._adapted(body)
            except _AgainError as error:
                failure = error
            if attempt < self.endpoint.attempts:
                wait = _wait(attempt, failure.wait)
                self._tell(f"{failure.why}; trying again in {wait:.0f} s")
                if self._pause(wait):
                    raise self._error(f"{failure.why}; stopped while waiting.")
        raise self._error(f"{failure.why}; gave up after {self.endpoint.attempts} attempts.")

    def _adapted(self, body: dict[str, Any]) -> Reply:
        """Ask; where the model does not take a parameter, ask again without it."""
        for _ in range(3):
            try:
                return self._once(body)
            except _UnsupportedError as error:
                if not _adapt(body, error.message):
                    raise self._error(error.message) from None
        return self._once(body)

    def _once(self, body: dict[str, Any]) -> Reply:
        headers = {"Content-Type": "application/json", "Accept": "application/json",
                   "User-Agent": "finetui"}  # fmt: skip
        if self.endpoint.key:
            headers["Authorization"] = f"Bearer {self.endpoint.key}"
        request = urllib.request.Request(
            self.endpoint.address, json.dumps(body).encode(), headers, method="POST"
        )
        try:
            with self._limit:
                raw = self._sent(request)
        except urllib.error.URLError as error:
            raise self._unreached(error) from None
        except (http.client.HTTPException, OSError) as error:
            if self._limit.over or isinstance(error, TimeoutError):
                raise self._late() from None
            raise _AgainError(f"the connection broke ({_named(error)})") from None
        if self._limit.over:  # what was cut off can look whole
            raise self._late()
        return self._reply(raw)

    def _sent(self, request: urllib.request.Request) -> bytes:
        """Send a request; the body of its answer."""
        try:
            with self._opener.open(request, timeout=self.endpoint.timeout) as response:
                return _read(response)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from None

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        try:
            raw = _read(error)
        except (OSError, http.client.HTTPException, _AgainError):
            raw = b""
        message, code = _told(raw)
        told = self._clean(f"HTTP {error.code}{': ' + message if message else ''}")
        if error.code in _AGAIN and code not in _FINAL:
            return _AgainError(told, _retry_after(error.headers.get("Retry-After", "")))
        if error.code == 400:
            return _UnsupportedError(told)
        return self._error(told + ("" if told.endswith(".") else "."), _ADVICE.get(error.code, ""))

    def _late(self) -> _AgainError:
        return _AgainError(f"no answer within {self.endpoint.timeout:g} s")

    def _unreached(self, error: urllib.error.URLError) -> Exception:
        if self._limit.over or isinstance(error.reason, TimeoutError):
            return self._late()
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            return self._error("its certificate cannot be trusted.", "Nothing was sent.")
        return _AgainError(f"cannot be reached ({self._clean(_named(error.reason))})")

    def _reply(self, raw: bytes) -> Reply:
        try:
            found = msgspec.json.decode(raw)
            choice = found["choices"][0]
            text = choice["message"]["content"]
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, IndexError, TypeError,
                RecursionError):  # fmt: skip
            start = self._clean(raw[:80].decode(errors="replace"))
            raise self._error(
                f"the reply is no chat completion: {start!r}.",
                "Check suggest.url (up to its version, like https://host/v1).",
            ) from None
        if text is not None and not isinstance(text, str):
            raise self._error("the reply holds no text.")
        usage = found.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        return Reply(
            text or "",
            str(found.get("model") or self.endpoint.model),
            _count(usage.get("prompt_tokens")),
            _count(usage.get("completion_tokens")),
            choice.get("finish_reason") == "length",
        )

    def _clean(self, text: str) -> str:
        """Without the key: servers quote it in their refusals, whole or in part."""
        if self.endpoint.key:
            text = text.replace(self.endpoint.key, "(key)")
        return _KEY_LIKE.sub("(key)", text)

    def _error(self, what: str, fix: str = "") -> RemoteError:
        return RemoteError(what, self.endpoint.address, fix)


class _UnsupportedError(Exception):
    """HTTP 400; perhaps for one parameter that this model does not take."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


class _TimeLimit:
    """Ends a connection when all of an answer takes too long: a socket's own time-out begins anew
    with every byte, and a server may drip."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.over = seconds, False
        self._socket: socket.socket | None = None
        self._timer: threading.Timer | None = None

    def __enter__(self) -> None:
        self.over, self._socket = False, None
        self._timer = threading.Timer(self.seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def watch(self, kind: type[http.client.HTTPConnection]) -> type[http.client.HTTPConnection]:
        """A kind of connection whose socket this can end."""
        limit = self

        class Watched(kind):  # type: ignore[misc, valid-type]
            def connect(self) -> None:
                super().connect()
                limit._socket = self.sock

        return Watched

    def _end(self) -> None:
        self.over = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # not the SSL socket's own: another thread reads it
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, limit: _TimeLimit) -> None:
        super().__init__()
        self._kind = limit.watch(http.client.HTTPConnection)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._kind, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, limit: _TimeLimit) -> None:
        super().__init__()
        self._kind = limit.watch(http.client.HTTPSConnection)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._kind, req, context=ssl.create_default_context())


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


_ADVICE = {
    301: "Redirects are not followed; name the final address in suggest.url.",
    302: "Redirects are not followed; name the final address in suggest.url.",
    307: "Redirects are not followed; name the final address in suggest.url.",
    308: "Redirects are not followed; name the final address in suggest.url.",
    401: "Check the key (key_file or key_env in the settings).",
    403: "Check the key and what it may do.",
    404: "Check suggest.url (up to its version, like https://host/v1) and the model's name.",
}


def _adapt(body: dict[str, Any], message: str) -> bool:
    """Rename or leave out the parameter that a refusal names; False when there is none."""
    if "max_tokens" in body and "max_completion_tokens" in message:
        body["max_completion_tokens"] = body.pop("max_tokens")
        return True
    unwanted = next((key for key in ("temperature", "seed") if key in body and key in message), "")
    return bool(unwanted and body.pop(unwanted) is not None)


def _read(response: Any) -> bytes:
    """The body, no longer than allowed."""
    parts, size = [], 0
    while block := response.read1(_READ):
        parts.append(block)
        size += len(block)
        if size > MOST_BYTES:
            raise _AgainError(f"the reply is longer than {MOST_BYTES >> 20} MiB")
    if getattr(response, "length", None):  # read1 does not say when a body ends too early
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(parts)


def _told(raw: bytes) -> tuple[str, str]:
    """The sentence and the code of an error body; the start of a body that is no JSON."""
    try:
        error = msgspec.json.decode(raw).get("error")
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, RecursionError):
        return " ".join(raw[:200].decode(errors="replace").split()), ""
    if isinstance(error, dict):
        return str(error.get("message", ""))[:300], str(error.get("code", ""))
    return (str(error)[:300] if error else ""), ""


def _retry_after(value: str) -> float | None:
    """Seconds from now, of either form the header may have."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _wait(attempt: int, asked: float | None) -> float:
    """Seconds before the next attempt: what was asked for, else 1, 2, 4, ... with some jitter."""
    wait = asked if asked is not None else 2.0 ** (attempt - 1) * random.uniform(0.75, 1.25)
    return min(wait, _LONGEST_PAUSE_S)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _named(error: object) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


# ---------------------------------------------------------------- key and cache


def _from_file(path: Path, as_written: str) -> str:
    shown = str(path) if "/" in as_written else "suggest.key_file"  # it may be the key itself
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UserError(f"the key file cannot be read: {error.strerror}.", shown) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise UserError("the key file is no ordinary file.", shown)
        if found.st_uid != os.geteuid():
            raise UserError("the key file belongs to somebody else.", shown)
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise UserError("others can read the key file.", shown, f"Run: chmod 600 {shown}")
        return os.read(descriptor, _KEY_BYTES).decode(errors="replace")
    finally:
        os.close(descriptor)


def _digest(address: str, body: Mapping[str, Any], salt: int) -> str:
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode([address, body, salt], order="sorted"))


def _kept(place: Path) -> Reply | None:
    try:
        found = msgspec.json.decode(place.read_bytes(), type=Reply)
    except (OSError, msgspec.MsgspecError):
        return None
    return msgspec.structs.replace(found, cached=True)
