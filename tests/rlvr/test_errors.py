"""Errors: who may be blamed, and in how many lines."""

import pickle

from rlvr.errors import ConfigError, FiresteelError, UserError


def test_a_users_error_is_one_printable_line_and_says_nothing_twice() -> None:
    error = ConfigError("bad \x1b[31mname\r\n\u2028 é → \\boxed{}")
    assert str(error) == "bad \\x1b[31mname\\r\\n\\u2028 é → \\boxed{}"
    assert str(ConfigError(str(error))) == str(error)


def test_errors_cross_processes_as_they_are() -> None:
    back = pickle.loads(pickle.dumps(ConfigError("a\nb")))
    assert isinstance(back, UserError)
    assert isinstance(back, FiresteelError)
    assert str(back) == "a\\nb"
