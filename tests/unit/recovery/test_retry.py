"""How often, and with which pauses, a VM is tried that dies again and again."""

from __future__ import annotations

from vpctl.recovery.retry import AT_ONCE_SECONDS, Attempts


def test_pauses_double_and_end_with_the_attempts() -> None:
    attempts = Attempts(attempts=4, backoff=2.0)
    assert [attempts.next_pause() for _ in range(6)] == [0.0, 2.0, 4.0, 8.0, None, None]


def test_a_death_at_once_goes_on_with_the_series_and_a_later_one_does_not() -> None:
    attempts = Attempts(attempts=3, backoff=1.0)
    assert not attempts.goes_on(0.0), "it was never recovered"
    assert attempts.next_pause() == 0.0
    attempts.recovered(100.0)
    assert attempts.goes_on(100.0 + AT_ONCE_SECONDS / 2)
    assert not attempts.goes_on(100.0 + AT_ONCE_SECONDS)
    assert attempts.next_pause() == 1.0
    assert attempts.next_pause() == 2.0
    attempts.recovered(200.0)
    assert attempts.next_pause() is None
    error = attempts.exhausted("vm1")
    assert "vm1" in error.message
    assert "3" in error.message
    assert "vpctl logs vm1" in (error.hint or "")
