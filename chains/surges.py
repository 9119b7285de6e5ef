"""Windows of time in which something is counted, and the test that tells a surge.

Time is cut into windows of `window_seconds`. When one closes, its number of negatives is compared, topic by
topic, with the latest `baseline_windows` windows without an alert. The alert is a one-sided test at level `alpha`
against the predictive distribution of a binomial count whose rate has a Jeffreys prior, a beta-binomial with parameters
K + 1/2 and N - K + 1/2 for K negatives among N messages of the baseline: the tail probability of as many negatives, or
more. Unlike a binomial test against the baseline's share as if it were known, it allows for a short baseline. See
Menzefricke 2002, "On the evaluation of control chart limits based on predictive distributions", Communications in
Statistics: Theory and Methods 31 (8). Windows with fewer than `least_count` messages are not tested, nor is any before
the baseline has `least_baseline`; both still count towards the baseline. After `adopt_after` alerts in a row the new
level is the baseline.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import betabinom

from lc_finetune import ConfigError, InputError

Event = dict[str, Any]
"""A line of the events file: `event` is `window`, `alert` or `rejected`."""

FIRST = datetime.min.replace(tzinfo=UTC).timestamp()
"""The earliest second that a `datetime` can name: some systems write it where a time is missing."""
SHOWN_NAMES = 3
"""Names that an alert carries."""


class SurgeConfig(BaseModel):
    """Windows, baseline and level of the test."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_seconds: float = Field(default=3600, gt=0, allow_inf_nan=False, description="Length of a window.")
    least_count: int = Field(default=30, ge=1, description="Messages of a topic below which a window is not tested.")
    baseline_windows: int = Field(default=48, ge=1, description="Latest quiet windows that make the baseline.")
    least_baseline: int = Field(default=300, ge=1, description="Messages the baseline needs before anything is tested.")
    alpha: float = Field(default=0.0005, gt=0, lt=1, description="Chance of an alert in a quiet window, at most.")
    adopt_after: int = Field(default=12, ge=1, description="Alerts in a row after which their level is the baseline.")
    lateness_seconds: float = Field(
        default=300, ge=0, allow_inf_nan=False, description="How long a window waits for messages of its time."
    )


def surge_p_value(negatives: int, messages: int, baseline_negatives: int, baseline_messages: int) -> float:
    """Tell how likely at least so many negatives are if the window is like its baseline; see the module.

    Example:
        >>> surge_p_value(15, 100, 150, 1000) > 0.4
        True
        >>> surge_p_value(45, 100, 150, 1000) < 1e-9
        True
    """
    before = (baseline_negatives + 0.5, baseline_messages - baseline_negatives + 0.5)
    return float(betabinom.sf(negatives - 1, messages, *before))


class Count(NamedTuple):
    """Negatives among messages."""

    negatives: int
    messages: int


class Baseline(BaseModel):
    """Counts of the latest quiet windows of a topic, oldest first, and of the alerts since, if the last was one."""

    quiet: list[Count] = Field(default_factory=list)
    alerts: list[Count] = Field(default_factory=list)

    @property
    def total(self) -> Count:
        """All quiet windows taken together."""
        return Count(sum(count.negatives for count in self.quiet), sum(count.messages for count in self.quiet))

    def judge(self, count: Count, config: SurgeConfig) -> float | None:
        """Test a window that closes and take it in; gives the p-value, None if it was not tested."""
        total = self.total
        p_value = None
        if count.messages >= config.least_count and total.messages >= config.least_baseline:
            p_value = surge_p_value(*count, *total)
        if p_value is not None and p_value <= config.alpha:
            self.alerts.append(count)
            if len(self.alerts) >= config.adopt_after:
                self.quiet, self.alerts = self.alerts[-config.baseline_windows :], []
        else:
            self.quiet, self.alerts = [*self.quiet, count][-config.baseline_windows :], []
        return p_value


class Window(BaseModel):
    """A window that is open: counts, and who is named in its negative messages."""

    topic: str
    number: int = Field(description="Windows since 1970.")
    messages: int = 0
    negatives: int = 0
    names: Counter[str] = Field(default_factory=Counter)


class WindowsState(BaseModel):
    """All that survives a restart. No texts; names only of windows that are open."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    window_seconds: float
    clock: float | None = Field(default=None, description="Latest time of any message, in seconds since 1970.")
    open: list[Window] = Field(default_factory=list)
    baselines: dict[str, Baseline] = Field(default_factory=dict)


class Windows:
    """Counts messages in windows of their own time, and judges a window when it closes.

    A window closes when a message comes that is later than its end by `lateness_seconds`. Until then messages may come
    in any order.
    """

    def __init__(self, config: SurgeConfig, state: WindowsState | None = None) -> None:
        """Begin, or go on from a state.

        Raises:
            ConfigError: If the state was kept with windows of another length.
        """
        self.config = config
        self.state = state or WindowsState(window_seconds=config.window_seconds)
        if self.state.window_seconds != config.window_seconds:
            raise ConfigError(
                f"Expected a state with windows of {config.window_seconds:g} s, found {self.state.window_seconds:g} s. "
                "Use the same length, or begin with another state file."
            )
        self._open = {(window.number, window.topic): window for window in self.state.open}

    @property
    def clock(self) -> datetime | None:
        """The latest time of any message, in UTC."""
        return None if self.state.clock is None else datetime.fromtimestamp(self.state.clock, UTC)

    def add(self, time: datetime, topic: str, negative: bool, names: Collection[str] = ()) -> list[Event]:
        """Count one message; gives the events of the windows that it closes, in their order.

        Raises:
            InputError: If the window of its time is closed, or begins before the year 1.
        """
        seconds = time.timestamp()
        number = math.floor(seconds / self.config.window_seconds)
        if number * self.config.window_seconds < FIRST:
            raise InputError("Expected a time whose window begins in the year 1 or later, found an earlier one.")
        if number < self._closed():
            raise InputError(
                f"Expected a message at most {self.config.lateness_seconds:g} s behind its window, found one that is "
                "later. Raise lateness_seconds."
            )
        window = self._open.get((number, topic))
        if window is None:
            window = self._open[number, topic] = Window(topic=topic, number=number)
            self.state.open = list(self._open.values())
        window.messages += 1
        if negative:
            window.negatives += 1
            window.names.update(names)
        before = self._closed()
        self.state.clock = seconds if self.state.clock is None else max(seconds, self.state.clock)
        return self._close() if self._closed() > before else []

    def _closed(self) -> float:
        """Give the number of the first window that is still open."""
        if self.state.clock is None:
            return -math.inf
        return math.floor((self.state.clock - self.config.lateness_seconds) / self.config.window_seconds)

    def _close(self) -> list[Event]:
        events: list[Event] = []
        for key in sorted(key for key in self._open if key[0] < self._closed()):
            events += self._judged(self._open.pop(key))
        self.state.open = list(self._open.values())
        return events

    def _judged(self, window: Window) -> list[Event]:
        baseline = self.state.baselines.setdefault(window.topic, Baseline())
        before = baseline.total
        p_value = baseline.judge(Count(window.negatives, window.messages), self.config)
        start = datetime.fromtimestamp(window.number * self.config.window_seconds, UTC)
        found = {
            "topic": window.topic,
            "start": start.isoformat(),
            "end": (start + timedelta(seconds=self.config.window_seconds)).isoformat(),
            "messages": window.messages,
            "negatives": window.negatives,
            "share": window.negatives / window.messages,
            "baseline": before.negatives / before.messages if before.messages else None,
            "p_value": p_value,
        }
        events: list[Event] = [{"event": "window", **found}]
        if p_value is not None and p_value <= self.config.alpha:
            names = dict(sorted(window.names.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_NAMES])
            events.append({"event": "alert", **found, "names": names})
        return events
