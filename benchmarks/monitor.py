"""Alerts of the finance monitor: how many surges are seen, and how many quiet windows raise one?

    python -m benchmarks.monitor [--messages 100] [--replays 100] [--quiet-windows 20000]

Seeded replays of labels alone, without a model: messages come at random, with `--messages` of them in a window on
average, and each is negative with a given probability. From some moment on the negatives are tripled: three times as
likely among as many messages, or three times as many on top of the others. The surge begins with a window, or at a
random moment within one.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from benchmarks.measure import Table, machine, write
from chains.surges import Baseline, Count, SurgeConfig, Windows

Surge = Literal["share", "count"]
"""Tripled is the share of negatives among as many messages, or their number on top of the others."""

SHARES = (0.05, 0.1, 0.15, 0.2, 0.3)
QUIET = 24
"""Quiet windows before a surge: a day of hours."""
ROUNDING = 1e-6
"""Of windows, in differences of times."""
COLUMNS = (
    "share × 3, whole window",
    "number × 3, whole window",
    "share × 3, random start, first whole window",
    "share × 3, random start, within one window's time",
    "quiet windows",
    "false alarms per 1,000",
)
MONDAY = datetime(2026, 1, 5, tzinfo=UTC).timestamp()


def messages(
    share: float, rate: float, config: SurgeConfig, chance: random.Random, begin: float, surge: Surge
) -> Iterator[tuple[float, bool]]:
    """Give seconds since 1970 and whether the message is negative, for ever; the surge begins at `begin`."""
    seconds = MONDAY
    while True:
        rising = seconds >= begin
        pace = rate * (1 + 2 * share) if rising and surge == "count" else rate
        seconds += chance.expovariate(pace / config.window_seconds)
        tripled = 3 * share if surge == "share" else 3 * share / (1 + 2 * share)
        yield seconds, chance.random() < (tripled if rising else share)


def delay(share: float, rate: float, config: SurgeConfig, seed: int, start: float, surge: Surge) -> float:
    """Replay quiet windows and a surge; gives the windows from its start to the end of the one with an alert.

    Args:
        share: Of negatives before the surge.
        rate: Messages in a window, on average.
        config: Of the test.
        seed: Of the replay.
        start: Where in its window the surge begins, from 0 to 1.
        surge: What is tripled.
    """
    windows = Windows(config)
    begin = MONDAY + (QUIET + start) * config.window_seconds
    for seconds, negative in messages(share, rate, config, random.Random(seed), begin, surge):
        for event in windows.add(datetime.fromtimestamp(seconds, UTC), "all", negative):
            end = datetime.fromisoformat(event["end"]).timestamp()
            if event["event"] == "alert" and end > begin:
                return (end - begin) / config.window_seconds
        if seconds > begin + 4 * config.window_seconds:
            return float("inf")
    raise AssertionError("messages come for ever")


def false_alarms(share: float, rate: float, config: SurgeConfig, windows: int, seed: int) -> int:
    """Count the alerts in windows that are all alike, once the baseline is long enough to test."""
    import numpy as np

    chance = np.random.default_rng(seed)
    baseline, tested, alarms = Baseline(), 0, 0
    while tested < windows:
        count = int(chance.poisson(rate))
        p_value = baseline.judge(Count(int(chance.binomial(count, share)), count), config)
        if p_value is not None:
            tested += 1
            alarms += p_value <= config.alpha
    return alarms


def measure(rate: float, replays: int, quiet: int, config: SurgeConfig) -> Iterator[Table]:
    """Measure each share of negatives."""
    rows: dict[str, tuple[float | int | None, ...]] = {}
    for share in SHARES:
        starts = [random.Random(seed).random() for seed in range(replays)]
        whole = [delay(share, rate, config, seed, 0.0, "share") for seed in range(replays)]
        more = [delay(share, rate, config, seed, 0.0, "count") for seed in range(replays)]
        within = [delay(share, rate, config, seed, start, "share") for seed, start in enumerate(starts)]
        rows[f"{share:.0%} negative"] = (
            sum(windows <= 1 for windows in whole),
            sum(windows <= 1 for windows in more),
            sum(windows <= 2 - start + ROUNDING for windows, start in zip(within, starts, strict=True)),
            sum(windows <= 1 for windows in within),
            quiet,
            1000 * false_alarms(share, rate, config, quiet, seed=0) / quiet,
        )
    yield Table(
        f"Surges seen of {replays}, at {rate:g} messages a window",
        COLUMNS,
        rows,
        [
            "Whole window: the surge begins with a window, and the alert comes when that window closes.",
            "First whole window: the alert comes at the latest when the first window closes that is all surge.",
            f"Level of the test {config.alpha:g}, {QUIET} quiet windows before a surge.",
        ],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.monitor", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--messages", type=float, default=100, metavar="N", help="in a window on average (100)")
    parser.add_argument("--replays", type=int, default=100, metavar="N", help="surges of each kind (100)")
    parser.add_argument("--quiet-windows", type=int, default=20_000, metavar="N", help="for false alarms (20,000)")
    parser.add_argument("--alpha", type=float, default=SurgeConfig().alpha, help="level of the test (0.0005)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table to a .md or .json file too")
    arguments = parser.parse_args(argv)
    tables = measure(arguments.messages, arguments.replays, arguments.quiet_windows, SurgeConfig(alpha=arguments.alpha))
    write(tables, machine("cpu"), arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
