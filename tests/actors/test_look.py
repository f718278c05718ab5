"""Laws of the commands that only look."""

from actors.commands.look import CONTROLS


def test_what_a_model_wrote_cannot_steer_the_terminal_of_its_reader() -> None:
    assert "\x1b[2J\x07\x9b0m\x7f".translate(CONTROLS) == "\\x1b[2J\\x07\\x9b0m\\x7f"
    assert "two\nlines\tand ö, ∑, 𝕏".translate(CONTROLS) == "two\nlines\tand ö, ∑, 𝕏"
