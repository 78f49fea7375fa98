"""Asking an endpoint: it answers, fails, hangs or babbles, and the key stays where it belongs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from local_endpoint import drips, drips_headers, fails, hangs, hangs_up, says, sends, serving

from finetui.data.review.remote import Endpoint, RemoteError, ask, make_endpoint, read_key
from finetui.errors import UserError

KEY = "sk-very-secret-0123456789"
ASKED = [{"role": "user", "content": "三 rows, please"}]


class Clock:
    """Pauses that take no time, and what was asked of them."""

    def __init__(self, enough: int = 99) -> None:
        self.pauses: list[float] = []
        self.enough = enough

    def __call__(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        return len(self.pauses) >= self.enough


def test_an_answer_comes_with_its_tokens_and_the_key_goes_in_one_header() -> None:
    with serving(says("hello", finish="length")) as server:
        reply = ask(make_endpoint(server.url, "tiny", KEY), ASKED, max_tokens=9, temperature=0.5)
    assert (reply.text, reply.model, reply.prompt_tokens, reply.completion_tokens) == (
        "hello", "tiny-1", 7, 5,
    )  # fmt: skip
    assert reply.cut and not reply.cached
    (request,) = server.seen
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == f"Bearer {KEY}"
    assert request["body"] == {
        "model": "tiny", "messages": ASKED, "max_tokens": 9, "temperature": 0.5,
    }  # fmt: skip


def test_without_a_key_no_authorization_is_sent() -> None:
    with serving(says("hello")) as server:
        ask(make_endpoint(server.url + "/chat/completions", "tiny"), ASKED)
    assert "Authorization" not in server.seen[0]["headers"]
    assert server.seen[0]["path"] == "/v1/chat/completions"


@pytest.mark.parametrize(
    "failure", [fails(429), fails(500), fails(503), hangs_up, sends(b"<html>", 502)]
)
def test_what_may_pass_is_tried_again_with_growing_pauses(failure: Callable[..., None]) -> None:
    clock, told = Clock(), list[str]()
    with serving(failure, failure, failure, says("at last")) as server:
        reply = ask(make_endpoint(server.url, "tiny", KEY), ASKED, pause=clock, tell=told.append)
    assert reply.text == "at last" and len(server.seen) == 4
    assert [0.7 < pause / 2**turn < 1.3 for turn, pause in enumerate(clock.pauses)] == [True] * 3
    assert len(told) == 3 and all("trying again" in line for line in told)


def test_retry_after_is_respected_in_seconds_and_as_a_date_but_not_for_hours() -> None:
    clock = Clock()
    soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    with serving(
        fails(429, **{"Retry-After": "7"}),
        fails(503, **{"Retry-After": soon}),
        fails(503, **{"Retry-After": "86400"}),
        says("ok"),
    ) as server:
        ask(make_endpoint(server.url, "tiny"), ASKED, pause=clock)
    assert clock.pauses[0] == 7 and 25 < clock.pauses[1] <= 30 and clock.pauses[2] == 60


def test_it_gives_up_after_five_attempts_and_says_why() -> None:
    with serving(fails(500, "overloaded")) as server, pytest.raises(RemoteError) as error:
        ask(make_endpoint(server.url, "tiny"), ASKED, pause=Clock())
    assert len(server.seen) == 5
    assert "HTTP 500: overloaded; gave up after 5 attempts" in str(error.value)
    assert server.url in str(error.value)


def test_a_person_can_stop_the_waiting() -> None:
    with serving(fails(500)) as server, pytest.raises(RemoteError, match="stopped"):
        ask(make_endpoint(server.url, "tiny"), ASKED, pause=Clock(enough=2))
    assert len(server.seen) == 2


@pytest.mark.parametrize("act", [hangs, drips, drips_headers])
def test_a_server_that_hangs_or_drips_is_left_after_the_time_limit(
    act: Callable[..., None],
) -> None:
    with serving(act) as server:
        endpoint = make_endpoint(server.url, "tiny", timeout=0.2, attempts=2)
        with pytest.raises(RemoteError, match=r"no answer within 0\.2 s; gave up after 2"):
            ask(endpoint, ASKED, pause=Clock())
        assert len(server.seen) == 2


def test_nobody_listening_is_told_as_such() -> None:
    with serving(says("")) as server:
        url = server.url
    with pytest.raises(RemoteError, match="cannot be reached"):
        ask(make_endpoint(url, "tiny", attempts=2), ASKED, pause=Clock())


@pytest.mark.parametrize(
    "raw",
    [b"", b"<html>login</html>", b"{}", b'{"choices": []}', b"[" * 9000, b"\xff\xfe\x00",
     b'{"choices": [{"message": {"content": 5}}]}', b'{"choices": [{"message": "x"}]}'],
)  # fmt: skip
def test_garbage_is_an_error_and_paid_for_only_once(raw: bytes) -> None:
    with serving(sends(raw)) as server, pytest.raises(RemoteError, match="the reply"):
        ask(make_endpoint(server.url, "tiny"), ASKED, pause=Clock())
    assert len(server.seen) == 1


def test_an_answer_without_text_is_empty() -> None:
    with serving(says(None, finish="length", usage=None)) as server:
        reply = ask(make_endpoint(server.url, "tiny"), ASKED)
    assert reply.text == "" and reply.cut and reply.prompt_tokens is None


def test_a_reply_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetui.data.review.remote.MOST_BYTES", 1 << 20)
    with serving(sends(b"x" * (2 << 20))) as server, pytest.raises(RemoteError, match="longer"):
        ask(make_endpoint(server.url, "tiny", attempts=1), ASKED, pause=Clock())


@pytest.mark.parametrize(("code", "hint"), [(401, "Check the key"), (404, "suggest.url")])
def test_a_refusal_is_final_and_says_what_to_do(code: int, hint: str) -> None:
    with serving(fails(code, "no")) as server, pytest.raises(RemoteError, match=hint):
        ask(make_endpoint(server.url, "tiny"), ASKED, pause=Clock())
    assert len(server.seen) == 1


def test_an_empty_purse_is_not_asked_again() -> None:
    with (
        serving(fails(429, "You exceeded your quota", "insufficient_quota")) as server,
        pytest.raises(RemoteError, match="exceeded your quota"),
    ):
        ask(make_endpoint(server.url, "tiny"), ASKED, pause=Clock())
    assert len(server.seen) == 1


def test_a_parameter_the_model_does_not_take_is_renamed_or_left_out() -> None:
    with serving(
        fails(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        fails(400, "Unsupported value: 'temperature' does not support 0.8."),
        says("ok"),
    ) as server:
        assert ask(make_endpoint(server.url, "tiny"), ASKED, pause=Clock()).text == "ok"
    last = server.bodies()[-1]
    assert last["max_completion_tokens"] == 4096
    assert "max_tokens" not in last and "temperature" not in last


def test_another_bad_request_is_final() -> None:
    with serving(fails(400, "context too long")) as server, pytest.raises(RemoteError, match="too"):
        ask(make_endpoint(server.url, "tiny"), ASKED, pause=Clock())
    assert len(server.seen) == 1


# ---------------------------------------------------------------- the key


@pytest.mark.parametrize("code", [401, 400, 500])
def test_a_key_that_the_server_quotes_is_never_told(code: int) -> None:
    told: list[str] = []
    message = f"Incorrect API key provided: {KEY}, or sk-proj-abc***xyz"
    with serving(fails(code, message)) as server, pytest.raises(RemoteError) as error:
        endpoint = make_endpoint(server.url, "tiny", KEY, attempts=2)
        ask(endpoint, ASKED, pause=Clock(), tell=told.append)
    words = f"{error.value} {told} {endpoint!r} {error.value.__context__!r}"
    assert "(key)" in words and KEY not in words and "abc***xyz" not in words


def test_redirects_are_not_followed_with_a_key() -> None:
    with serving(says("stolen")) as thief:
        for code in (301, 302, 307, 308):
            with serving(sends(b"", code, Location=thief.url)) as server:
                endpoint = make_endpoint(server.url, "tiny", KEY)
                with pytest.raises(RemoteError, match="Redirects are not followed"):
                    ask(endpoint, ASKED, pause=Clock())
    assert not thief.seen


def test_this_machine_is_never_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(says("proxy")) as proxy, serving(says("direct")) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        assert ask(make_endpoint(server.url, "tiny", KEY), ASKED).text == "direct"
    assert not proxy.seen


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "no http"),
        ("file:///etc/passwd", "no http"),
        ("ftp://host/v1", "no http"),
        ("https://user:secret@host/v1", "does not belong into the URL"),
        ("https://host/v1?key=secret", "does not belong into the URL"),
        ("http://far.example/v1", "not encrypted"),
    ],
)
def test_addresses_that_rows_or_keys_must_not_go_to_are_refused(url: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as error:
        make_endpoint(url, "tiny", KEY)
    assert "secret" not in str(error.value)


def test_a_key_file_must_be_the_persons_own_and_private(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    file.chmod(0o640)
    with pytest.raises(UserError, match="chmod 600") as error:
        read_key(str(file), "")
    assert KEY not in str(error.value)
    file.chmod(0o600)
    assert read_key(str(file), "NONE", {"NONE": "other"}) == KEY
    assert read_key("", "MY_KEY", {"MY_KEY": "abc"}) == "abc"
    assert read_key("", "MY_KEY", {}) == ""
    with pytest.raises(UserError, match="no ordinary file"):
        read_key(str(tmp_path), "")
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo, 0o600)
    with pytest.raises(UserError, match="no ordinary file"):
        read_key(str(fifo), "")


def test_a_key_written_where_its_file_belongs_is_not_shown() -> None:
    with pytest.raises(UserError) as error:
        read_key(KEY, "")
    assert KEY not in str(error.value)


@pytest.mark.parametrize("key", ["two words", "line\nbreak: x", "schlüssel"])
def test_a_key_cannot_smuggle_a_header(key: str) -> None:
    with pytest.raises(UserError, match="one word") as error:
        read_key("", "K", {"K": key})
    assert key not in str(error.value)


# ---------------------------------------------------------------- the cache


def test_the_same_question_is_paid_for_once(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with serving(says("one"), says("two"), says("three"), says("four")) as server:
        endpoint = make_endpoint(server.url, "tiny", KEY)
        first, again = (ask(endpoint, ASKED, cache=cache) for _ in range(2))
        assert (first.text, again.text, again.cached) == ("one", "one", True)
        assert ask(endpoint, ASKED, cache=cache, temperature=0.1).text == "two"
        assert ask(endpoint, ASKED, cache=cache, salt=1).text == "three"
        assert ask(endpoint, ASKED, cache=cache, fresh=True).text == "four"
        assert ask(endpoint, ASKED, cache=cache).text == "four", "the newest answer is kept"
    files = list(cache.iterdir())
    assert len(files) == 3 and all(file.stat().st_mode & 0o077 == 0 for file in files)
    assert not any(KEY.encode() in file.read_bytes() for file in files)


def test_a_spoilt_cache_is_asked_around(tmp_path: Path) -> None:
    with serving(says("one"), says("two")) as server:
        endpoint = Endpoint(server.url, "tiny")
        ask(endpoint, ASKED, cache=tmp_path)
        (file,) = tmp_path.iterdir()
        file.write_bytes(b"\x00torn")
        assert ask(endpoint, ASKED, cache=tmp_path).text == "two"
