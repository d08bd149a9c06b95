from __future__ import annotations

import pytest

from stepwell.report import numbers


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (numbers.loss, 1.23456, "1.235"),
        (numbers.loss, None, "–"),
        (numbers.count, 1234.4, "1,234"),
        (numbers.count, None, "–"),
        (numbers.seconds, 1234.5, "1,234 s"),
        (numbers.seconds, 12.34, "12.3 s"),
        (numbers.seconds, 0.0123, "12 ms"),
        (numbers.seconds, None, "–"),
        (numbers.milliseconds, 123.4, "123 ms"),
        (numbers.milliseconds, 12.34, "12.3 ms"),
        (numbers.milliseconds, 0.1234, "0.12 ms"),
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
        (numbers.rates, [0.01, 1e-4], ["0.01", "1e-4"]),
        (numbers.setting, [0.9, 0.95], "(0.9, 0.95)"),
        (numbers.setting, 5e-5, "5e-5"),
        (numbers.setting, True, "True"),
    ],
)
def test_numbers_as_they_are_written(write, value, text):
    assert write(value) == text
