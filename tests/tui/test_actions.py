"""The registry: every action can be found, pressed on any terminal, and read about."""

from __future__ import annotations

from textual.binding import Binding
from textual.keys import KEY_ALIASES, Keys, _character_to_key

from finetui.tui import actions, app, modes
from finetui.tui.actions import ACTIONS, Action
from finetui.tui.keytable import key_table_markdown
from finetui.tui.widgets import dialogs

modes.load_all()
# What terminals, tmux, screen, flow control and docker keep for themselves.
NEVER = {f"ctrl+{letter}" for letter in "mihsqab["}
NAMED = {key.value for key in Keys} | set(KEY_ALIASES)


def keys_of(action: Action) -> list[str]:
    return [key for key in action.keys.split(",") if key]


def test_no_key_that_a_terminal_keeps_for_itself_is_needed() -> None:
    for action in ACTIONS.values():
        assert not NEVER & set(keys_of(action)), action.id


def test_every_key_name_is_one_that_a_terminal_can_send() -> None:
    for action in ACTIONS.values():
        for key in keys_of(action):
            plain = key.removeprefix("ctrl+")
            signs = {_character_to_key(chr(code)) for code in range(33, 127)}
            assert len(plain) == 1 or key in NAMED or plain in signs, f"{action.id}: {key}"


def test_every_action_says_what_it_does_in_a_sentence() -> None:
    for action in ACTIONS.values():
        assert action.help.endswith("."), action.id
        assert 0 < len(action.title) <= 14, action.id


def test_two_actions_of_one_place_never_share_a_key() -> None:
    for place in {action.place for action in ACTIONS.values()} - {"dialog"}:
        keys = [key for action in actions.at(place) for key in keys_of(action)]
        assert len(keys) == len(set(keys)), place


def test_every_mode_action_has_its_method() -> None:
    for mode in modes.MODES:
        pane = type(modes.make(mode.name))
        for action in actions.at(mode.name):
            if "." not in action.method and "(" not in action.method:
                assert any(hasattr(owner, f"action_{action.method}") for owner in _owners(pane)), (
                    action.id
                )


def _owners(pane: type) -> list[type]:
    """The pane, and the classes of its module (a part of it may own the action)."""
    import inspect
    import sys

    package = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith((pane.__module__, "finetui.tui.screens."))
    ]
    found = [cls for module in package for _, cls in inspect.getmembers(module, inspect.isclass)]
    return [pane, *found]


def test_the_modes_are_on_the_digits_and_home_on_zero() -> None:
    assert [mode.key for mode in modes.MODES] == ["0", "1", "2", "3", "4", "5"]
    assert ACTIONS["app.home"].keys == "0"


def test_help_and_palette_have_a_key_for_every_terminal() -> None:
    assert set(keys_of(ACTIONS["app.help"])) == {"question_mark", "f1"}
    assert set(keys_of(ACTIONS["app.palette"])) == {"colon", "ctrl+p"}


def test_bindings_carry_the_id_so_that_help_finds_the_action() -> None:
    for binding in [*app.SHELL, *dialogs.DIALOG]:
        assert isinstance(binding, Binding)
        assert binding.id in ACTIONS


def test_the_key_table_for_the_docs_names_every_action() -> None:
    table = key_table_markdown()
    for action in ACTIONS.values():
        assert action.help in table, action.id
    assert table.index("### Everywhere") < table.index("### Tables")


def test_an_id_cannot_be_taken_twice() -> None:
    try:
        actions.register(Action("app.help", "x", "other", "Something else."))
    except ValueError as error:
        assert "app.help" in str(error)
    else:
        raise AssertionError("the second registration was accepted")
