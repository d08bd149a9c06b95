from __future__ import annotations

import pytest

from stepwell.text import numbers


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (numbers.loss, 1.23456, "1.235"),
        (numbers.loss, None, "–"),
        (numbers.loss, 0.0, "0.000"),
        (numbers.loss, 0.01, "0.010"),
        (numbers.loss, 99_999.5, "99999.500"),
        (numbers.loss, 0.0042, "0.004200"),
        (numbers.loss, -1.23456e-6, "-1.235e-6"),
        (numbers.loss, 59810351415296.0, "5.981e13"),
        (numbers.count, 1234.4, "1,234"),
        (numbers.count, None, "–"),
        (numbers.seconds, 1234.5, "1,234 s"),
        (numbers.seconds, 12.34, "12.3 s"),
        (numbers.seconds, 0.0123, "12 ms"),
        (numbers.seconds, 0.0042, "4.2 ms"),
        (numbers.seconds, 0.0, "0 ms"),
        (numbers.seconds, None, "–"),
        (numbers.milliseconds, 123.4, "123 ms"),
        (numbers.milliseconds, 12.34, "12.3 ms"),
        (numbers.milliseconds, 0.1234, "0.12 ms"),
        (numbers.milliseconds, 4e6, "4,000 s"),
        (numbers.milliseconds, 0.0021, "2.1 µs"),
        (numbers.milliseconds, None, "–"),
        (numbers.share, 0.5, "50 %"),
        (numbers.share, 0.0123, "1.2 %"),
        (numbers.share, None, "–"),
        (numbers.data, 999, "999 B"),
        (numbers.data, 8_400_000, "8.4 MB"),
        (numbers.data, 999_600, "1 MB"),
        (numbers.data, 3_000_000_000_000_000, "3e+03 TB"),
        (numbers.memory, 0, "0 B"),
        (numbers.memory, 1023, "1023 B"),
        (numbers.memory, 1536, "1.5 KiB"),
        (numbers.memory, 1000 * 1024, "1,000 KiB"),
        (numbers.memory, 3 * 2**40, "3 TiB"),
        (numbers.duration, 2.5e-6, "2.5 µs"),
        (numbers.duration, 0.0123, "12.3 ms"),
        (numbers.duration, 59.0, "59 s"),
        (numbers.duration, 90.0, "1.5 min"),
        (numbers.duration, 7200.0, "2 h"),
        (numbers.rate, 0.02, "0.02"),
        (numbers.rate, 0.00031, "3.1e-4"),
        (numbers.rate, 0.0, "0"),
        (numbers.ticks, [1000.0, 1500.0], ["1,000", "1,500"]),
        (numbers.ticks, [1.8, 2.0], ["1.8", "2.0"]),
        (numbers.ticks, [], []),
        (numbers.ticks, [0.0], ["0"]),
        (numbers.ticks, [1.25], ["1.25"]),
        (numbers.ticks, [0.0, 1e6, 1.5e6], ["0", "1,000,000", "1,500,000"]),
        (numbers.ticks, [0.0, 2e-6, 4e-6], ["0", "2e-6", "4e-6"]),
        (numbers.ticks, [-5e-6, 0.0, 5e-6, 1e-5], ["-5.0e-6", "0", "5.0e-6", "1.0e-5"]),
        (numbers.ticks, [2e13, 4e13], ["2e13", "4e13"]),
        (numbers.rate, 1000.0, "1000"),
        (numbers.rate, -1234.4, "-1234"),
        (numbers.rate, 12345.0, "1.23e4"),
        (numbers.rates, [0.01, 1e-4], ["0.01", "1e-4"]),
        (numbers.rates, [1.0, 1.0002, 1.0004], ["1", "1.0002", "1.0004"]),
        (numbers.rates, [2e-5, 2.0001e-5], ["2e-5", "2.0001e-5"]),
        (numbers.rates, [0.5, 0.5], ["0.5", "0.5"]),
        (numbers.setting, [0.9, 0.95], "(0.9, 0.95)"),
        (numbers.setting, 5e-5, "5e-5"),
        (numbers.setting, True, "True"),
    ],
)
def test_numbers_as_they_are_written(write, value, text):
    assert write(value) == text


def test_one_is_no_plural():
    assert (numbers.counted(1, "step"), numbers.counted(1234, "step")) == ("1 step", "1,234 steps")


def test_a_difference_is_written_as_the_losses_are():
    assert numbers.loss(0.0042, like=1.5) == "0.004"
    assert numbers.loss(0.5, like=1e6) == "0.5000"
    assert numbers.loss(None, like=1.5) == "–"
