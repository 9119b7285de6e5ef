"""Finance monitor: messages with timestamps → sentiment by topic → windowed share of negatives → alerts.

Run `python -m chains.finance_monitor` after `make demo` has trained `runs/demo/sentiment` and `runs/demo/entities`. It
replays the bundled sample on a seeded synthetic clock, with a surge in it; `--replay` does so with labelled texts of
yours, `--file` and `--folder` read messages that have their times.

An alert is a window whose share of negatives departs from its topic's baseline: `chains.surges` says by which test.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import logging
import os
import random
import re
import sys
import tempfile
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from langchain_core.runnables import Runnable
from pydantic import Field, ValidationError, field_validator

from chains.surges import Event, SurgeConfig, Windows, WindowsState
from lc_finetune import (
    CheckpointError,
    Classification,
    ConfigError,
    DataError,
    EntityTagger,
    FanOut,
    InputError,
    LCFinetuneError,
    Tagging,
    TextClassifier,
)
from lc_finetune.data import TextExample, read_examples, sample_file
from lc_finetune.errors import shown
from lc_finetune.labels import LabelSet
from lc_finetune.runnables.dispatch import aoutcomes_of
from lc_finetune.schemes import TagSet

if TYPE_CHECKING:
    from rich.table import Table

logger = logging.getLogger(__name__)

EVERYTHING = "all"
"""The one topic where there is no classifier of topics."""
BATCH = 64
"""Messages for one call of the models, at most; fewer when fewer are waiting."""

_SECONDS = re.compile(r"(?!\d{8}$)\d+(\.\d*)?")


class MonitorConfig(SurgeConfig):
    """What is counted, and when it is an alert."""

    negative_labels: frozenset[str] = Field(
        default=frozenset({"negative", "bearish"}), description="Labels of the sentiment that count, in lower case."
    )
    name_labels: frozenset[str] = Field(
        default=frozenset({"COMPANY", "ORG"}), description="Entities that are counted among the negative messages."
    )
    zone: str = Field(default="UTC", description="Of timestamps that name none.")
    text_key: str = "text"
    time_key: str = "timestamp"

    @field_validator("zone")
    @classmethod
    def _known(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError):
            raise ConfigError(f"Expected a time zone such as 'Europe/Berlin', found {zone!r}.") from None
        return zone


def build_chain(
    sentiment: Runnable[Any, Classification],
    *,
    topic: Runnable[Any, Classification] | None = None,
    tagger: Runnable[Any, Tagging] | None = None,
) -> Runnable[Any, dict[str, Any]]:
    """Compose the models: a text → a dict with `sentiment` and, where given, `topic` and `tagging`.

    A batch is one call of each model.
    """
    branches: dict[str, Runnable[Any, Any]] = {"sentiment": sentiment}
    if topic is not None:
        branches["topic"] = topic
    if tagger is not None:
        branches["tagging"] = tagger
    return FanOut(branches).with_config(run_name="finance_monitor")


# Messages.


class Row(NamedTuple):
    """A row of a source that can be read again; anything else that is iterated over has the source `""`."""

    value: Any
    source: str


def read_time(value: Any, zone: str = "UTC") -> datetime:
    """Read a timestamp: ISO 8601, a `datetime`, or seconds since 1970. Without a zone of its own it is in `zone`.

    Eight digits are a date, as `20260105`; of any other number the digits are seconds.

    Raises:
        InputError: If it is none of these.

    Example:
        >>> read_time("2026-01-05T10:00:00+09:00").isoformat()
        '2026-01-05T01:00:00+00:00'
    """
    try:
        if isinstance(value, str):
            text = value.strip()
            value = float(text) if _SECONDS.fullmatch(text) else datetime.fromisoformat(text)
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = datetime.fromtimestamp(value, UTC)
        if isinstance(value, datetime):
            aware = value if value.tzinfo is not None else value.replace(tzinfo=ZoneInfo(zone))
            return aware.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise InputError("Expected a timestamp in ISO 8601 or seconds since 1970, found something else.")


def read_rows(file: Path, *, start: int = 0, growing: bool = False) -> Iterator[Row]:
    """Read a CSV or JSONL file from a row on; a line that is no JSON is a row whose value is None.

    Args:
        file: `.csv`, or `.jsonl`.
        start: Rows to skip.
        growing: Whether the last line may be unfinished, and is left for the next time then.

    Raises:
        DataError: If the file has another ending, or cannot be read.
    """
    if file.suffix not in (".csv", ".jsonl"):
        raise DataError(f"{file}: expected a .csv or .jsonl file, found {file.suffix or 'no ending'}.")
    try:
        with file.open(newline="", encoding="utf-8-sig", errors="replace") as lines:
            rows = csv.DictReader(lines) if file.suffix == ".csv" else _json_rows(lines, growing)
            for number, value in enumerate(rows):
                if number >= start:
                    yield Row(value, file.name)
    except (OSError, csv.Error) as error:
        raise DataError(f"{file}: expected a file that can be read, found {type(error).__name__}.") from error


def _json_rows(lines: Iterator[str], growing: bool) -> Iterator[Any]:
    for line in lines:
        if growing and not line.endswith("\n"):
            return
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):  # the latter of brackets within brackets
            yield None


async def file_rows(file: Path, positions: Mapping[str, int]) -> AsyncIterator[Row]:
    """Read the rows of a file that are not among those already taken."""
    for row in read_rows(file, start=positions.get(file.name, 0)):
        yield row


async def folder_rows(
    folder: Path, positions: Mapping[str, int], *, every: float = 1.0, idle_rounds: int | None = None
) -> AsyncIterator[Row]:
    """Watch a folder: read its files in the order of their names, then what is new, again and again.

    JSONL files may grow by whole lines; CSV files arrive whole, by a rename. A file that cannot be read is passed over,
    with a warning in the log, until it changes.

    Args:
        folder: Holds `.csv` and `.jsonl` files; others are passed over.
        positions: Rows taken before, by file name.
        every: Seconds between two looks.
        idle_rounds: Looks without anything new after which it ends; None watches for ever.
    """
    if not folder.is_dir():
        raise DataError(f"Expected a folder to watch, found none at {folder}.")
    taken, sizes, idle = dict(positions), dict[str, int](), 0
    while idle_rounds is None or idle < idle_rounds:
        idle += 1
        for file in sorted(file for file in folder.iterdir() if file.suffix in (".csv", ".jsonl")):
            try:
                size = file.stat().st_size
                if sizes.get(file.name) == size:
                    continue
                sizes[file.name] = size
                for row in read_rows(file, start=taken.get(file.name, 0), growing=True):
                    taken[file.name] = taken.get(file.name, 0) + 1
                    idle = 0
                    yield row
            except (DataError, OSError) as error:
                logger.warning("Passed over what is left of a file: %s", error)
        await asyncio.sleep(every)


async def _batches(rows: AsyncIterator[Any], most: int) -> AsyncGenerator[list[Any]]:
    """Take what is waiting, at most `most` rows; a lone row does not wait for company."""
    queue: asyncio.Queue[tuple[Any] | Exception | None] = asyncio.Queue(maxsize=most)

    async def pump() -> None:
        try:
            async for row in rows:
                await queue.put((row,))
        except Exception as error:
            await queue.put(error)
        else:
            await queue.put(None)

    pumping = asyncio.create_task(pump())
    try:
        while True:
            batch: list[Any] = []
            got = await queue.get()
            while isinstance(got, tuple):
                batch.append(got[0])
                if len(batch) == most or queue.empty():
                    break
                got = queue.get_nowait()
            if batch:
                yield batch
            if isinstance(got, Exception):
                raise got
            if got is None:
                return
    finally:
        pumping.cancel()


class MonitorState(WindowsState):
    """All that survives a restart."""

    positions: dict[str, int] = Field(default_factory=dict, description="Rows taken, by source.")
    events_bytes: int = Field(default=0, description="Length of the events file.")


class Monitor:
    """Reads rows, asks the models, counts, and keeps events and state.

    A row is a mapping with a text and a timestamp. Per row: a time in another zone is converted; one without a zone is
    in `config.zone`; a missing one is the latest time seen so far. A row is rejected, with an event that says why and
    holds no text, if it has no text, no readable time, a time before the windows that are open or in the future by more
    than `lateness_seconds`, or if a model fails on it.

    Events are written before the state that counts them; what a crash left beyond the state is cut off at the next
    start. So no event is lost or doubled when rows are read again from `state.positions` on.
    """

    def __init__(
        self,
        chain: Runnable[Any, dict[str, Any]],
        config: MonitorConfig | None = None,
        *,
        events: Path | None = None,
        state: Path | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Begin, or go on where the state file left off.

        Args:
            chain: As `build_chain` makes it.
            config: What is counted, and when it is an alert.
            events: JSONL file that events are added to; made for its owner alone.
            state: JSON file; made for its owner alone.
            now: The time, which no message is later than.

        Raises:
            DataError: If the state cannot be read, speaks of more events than there are, or a file has no folder.
            ConfigError: If it was kept with windows of another length.
        """
        for file in (events, state):
            if file is not None and (file.is_dir() or not file.parent.is_dir()):
                raise DataError(f"{file}: expected a file in a folder that exists, found none. Make the folder first.")
        self.chain = chain
        self.config = config or MonitorConfig()
        self._events, self._state, self._now = events, state, now
        self.state = self._read_state()
        self.windows = Windows(self.config, self.state)
        self._cut_events()

    async def run(self, rows: AsyncIterator[Any]) -> AsyncIterator[Event]:
        """Follow rows to their end; gives each event once it is written and the state is saved."""
        async with aclosing(_batches(rows, BATCH)) as batches:
            async for batch in batches:
                events = await self._take(batch)
                self._keep(events)
                for event in events:
                    yield event

    async def _take(self, batch: Sequence[Any]) -> list[Event]:
        texts: list[str] = []
        times: list[datetime | InputError | None] = []
        for row in batch:
            try:
                time, text = self._read(row.value if isinstance(row, Row) else row)
            except InputError as error:
                times.append(error)
            else:
                times.append(time)
                texts.append(text)
        outcomes = iter(await aoutcomes_of(self.chain, texts))
        events: list[Event] = []
        for row, read in zip(batch, times, strict=True):
            source = row.source if isinstance(row, Row) else ""
            place = self.state.positions[source] = self.state.positions.get(source, 0) + 1
            try:
                if isinstance(read, InputError):
                    raise read
                events += self._count(read, next(outcomes))
            except InputError as error:
                events.append({"event": "rejected", "source": source, "row": place, "reason": str(error)})
        return events

    def _read(self, value: Any) -> tuple[datetime | None, str]:
        if not isinstance(value, Mapping):
            raise InputError(f"Expected a row with {self.config.text_key!r}, found {type(value).__name__}.")
        text, time = value.get(self.config.text_key), value.get(self.config.time_key)
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"Expected a text under {self.config.text_key!r}, found none.")
        missing = time is None or (isinstance(time, str) and not time.strip())
        return None if missing else read_time(time, self.config.zone), text

    def _count(self, time: datetime | None, outcome: Any) -> list[Event]:
        if isinstance(outcome, Exception):
            raise InputError(f"Expected an answer of the models, found {type(outcome).__name__}.")
        time = time or self.windows.clock
        if time is None:
            raise InputError("Expected a timestamp on the first message, found none.")
        if time > self._now() + timedelta(seconds=self.config.lateness_seconds):
            raise InputError("Expected a time that has come, found one in the future.")
        topic = outcome["topic"].label if "topic" in outcome else EVERYTHING
        entities = outcome["tagging"].entities if "tagging" in outcome else ()
        names = {entity.text for entity in entities if entity.label in self.config.name_labels}
        negative = outcome["sentiment"].label.lower() in self.config.negative_labels
        return self.windows.add(time, topic, negative, names)

    # Files.

    def _keep(self, events: Sequence[Event]) -> None:
        if self._events is not None and events:
            flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY
            with open(os.open(self._events, flags, 0o600), "ab") as file:
                file.writelines(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in events)
                file.flush()
                os.fsync(file.fileno())
                self.state.events_bytes = file.tell()
        if self._state is not None:
            descriptor, temporary = tempfile.mkstemp(dir=self._state.parent, prefix=f".{self._state.name}.")
            try:
                with open(descriptor, "w", encoding="utf-8") as file:
                    file.write(self.state.model_dump_json())
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, self._state)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise

    def _read_state(self) -> MonitorState:
        if self._state is None or not self._state.exists():
            return MonitorState(window_seconds=self.config.window_seconds)
        try:
            return MonitorState.model_validate_json(self._state.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError):
            raise DataError(f"{self._state}: expected the state of a monitor, found something else.") from None

    def _cut_events(self) -> None:
        if self._events is None:
            return
        size = self._events.stat().st_size if self._events.exists() else 0
        if self._state is None or not self._state.exists():
            self.state.events_bytes = size
        elif size < self.state.events_bytes:
            raise DataError(
                f"{self._events}: expected {self.state.events_bytes} bytes of events, as {self._state} says, "
                f"found {size}. Name the file that belongs to it, or begin with another state file."
            )
        elif size > self.state.events_bytes:
            os.truncate(self._events, self.state.events_bytes)


# The demonstration.


def replay(
    texts: Mapping[bool, Sequence[str]],
    *,
    windows: int = 14,
    surge: int = 10,
    rate: float = 200,
    share: float = 0.15,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Give texts a seeded synthetic clock: in one hour three times the negatives of the others.

    Some come late, some from another zone, one has no time and one no text.

    Args:
        texts: Negative texts under True, others under False.
        windows: Hours.
        surge: The hour with the surge.
        rate: Messages an hour, on average.
        share: Of negatives in the other hours.
        seed: Of all that is drawn.
    """
    chance = random.Random(seed)
    begin = datetime(2026, 1, 5, 9, tzinfo=UTC)
    rows: list[tuple[float, dict[str, Any]]] = []
    seconds = chance.expovariate(rate / 3600)
    while seconds < windows * 3600:
        negative = chance.random() < share * (3 if int(seconds // 3600) == surge else 1)
        zone = chance.choice(("UTC", "UTC", "UTC", "Asia/Tokyo"))
        time = (begin + timedelta(seconds=seconds)).astimezone(ZoneInfo(zone)).isoformat(timespec="seconds")
        delay = chance.choice((0.0, 0.0, 0.0, chance.uniform(0, 240)))
        rows.append((seconds + delay, {"text": chance.choice(texts[negative]), "timestamp": time}))
        seconds += chance.expovariate(rate / 3600)
    rows.sort(key=lambda row: row[0])
    rows[50][1]["timestamp"] = None
    rows[60][1]["text"] = ""
    return iter([row for _, row in rows])


def table_of(events: Sequence[Event], alpha: float) -> Table:
    """Draw windows as a table, with a bar for the share of negatives."""
    from rich.table import Table

    table = Table(title=f"Share of negatives by window; alert where p ≤ {alpha:g}", title_justify="left")
    table.add_column("window (UTC)", no_wrap=True)
    table.add_column("topic")
    table.add_column("messages", justify="right", no_wrap=True)
    table.add_column("negative", no_wrap=True)
    table.add_column("baseline", justify="right", no_wrap=True)
    table.add_column("p", justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    alerts = {(event["topic"], event["start"]): event for event in events if event["event"] == "alert"}
    for event in events:
        if event["event"] != "window":
            continue
        alert = alerts.get((event["topic"], event["start"]))
        named = ", ".join(f"{name} {count}" for name, count in alert["names"].items()) if alert else ""
        table.add_row(
            event["start"][5:16].replace("T", " "),
            event["topic"],
            str(event["messages"]),
            f"{event['share']:4.0%} " + "█" * round(10 * event["share"]),
            "–" if event["baseline"] is None else f"{event['baseline']:.0%}",
            "–" if event["p_value"] is None else f"{event['p_value']:.2g}",
            f"ALERT {named}".strip() if alert else "",
            style="bold red" if alert else None,
        )
    return table


async def _show(monitor: Monitor, rows: AsyncIterator[Any], shown: int = 20) -> None:
    """Print a table that goes on changing while events come."""
    from rich.console import Console
    from rich.live import Live

    latest: deque[Event] = deque(maxlen=2 * shown)
    rejected: Counter[str] = Counter()
    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        async for event in monitor.run(rows):
            if event["event"] == "rejected":
                rejected[event["reason"]] += 1
            else:
                latest.append(event)
                live.update(table_of(latest, monitor.config.alpha), refresh=console.is_terminal)
    console.print()
    for reason, count in rejected.items():
        console.print(f"{count} rejected: {reason}")


def main(argv: Sequence[str] | None = None) -> int:
    """Follow a replay, a file or a folder; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m chains.finance_monitor", description=(__doc__ or "").split("\n")[0]
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--file", type=Path, help="read this CSV or JSONL file with the columns text and timestamp")
    source.add_argument("--folder", type=Path, help="watch this folder")
    source.add_argument("--replay", help="give the labelled texts of this file a seeded clock, with a surge in it")
    parser.add_argument("--sentiment", default="runs/demo/sentiment", metavar="CHECKPOINT")
    parser.add_argument("--topic", metavar="CHECKPOINT", help="count by the labels of this classifier")
    parser.add_argument("--tagger", metavar="CHECKPOINT", help="name who the negative messages of an alert speak of")
    parser.add_argument("--names", nargs="+", metavar="LABEL", help="labels of the tagger that count (COMPANY ORG)")
    parser.add_argument("--negative", nargs="+", metavar="LABEL", help="labels that count (negative bearish)")
    parser.add_argument("--window", type=float, default=3600, metavar="SECONDS")
    parser.add_argument("--events", type=Path, metavar="FILE", help="add events to this JSONL file")
    parser.add_argument("--state", type=Path, metavar="FILE", help="go on from this file, and keep the state in it")
    arguments = parser.parse_args(argv)
    bundled = arguments.file is None and arguments.folder is None and arguments.replay is None
    options: dict[str, Any] = {"window_seconds": arguments.window}
    if arguments.negative:
        options["negative_labels"] = frozenset(label.lower() for label in arguments.negative)
    if arguments.names or bundled:
        options["name_labels"] = frozenset(arguments.names or ["PRODUCT"])
    tagged_by = arguments.tagger or ("runs/demo/entities" if bundled else None)
    try:
        config = _configured(options)
        sentiment = TextClassifier.from_checkpoint(arguments.sentiment)
        topic = TextClassifier.from_checkpoint(arguments.topic) if arguments.topic else None
        tagger = EntityTagger.from_checkpoint(tagged_by) if tagged_by else None
        _check_named("--negative", config.negative_labels, [label.lower() for label in sentiment.labels])
        if tagger is not None:
            _check_named("--names", config.name_labels, TagSet.from_labels(LabelSet(tagger.labels)).types)
        chain = build_chain(sentiment, topic=topic, tagger=tagger)
        monitor = Monitor(chain, config, events=arguments.events, state=arguments.state)
        if arguments.file is not None:
            rows: AsyncIterator[Any] = file_rows(arguments.file, monitor.state.positions)
        elif arguments.folder is not None:
            rows = folder_rows(arguments.folder, monitor.state.positions)
        else:
            texts = _texts_by_mood(arguments.replay or str(sample_file("sentiment", "test")), config.negative_labels)
            rows = _replayed(texts, monitor.state.positions.get("", 0))
        asyncio.run(_show(monitor, rows))
    except (LCFinetuneError, OSError) as error:
        print(f"chains.finance_monitor: error: {error}", file=sys.stderr)
        if isinstance(error, CheckpointError) and bundled:
            print("Run `make demo` first: it trains both models.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _configured(options: Mapping[str, Any]) -> MonitorConfig:
    try:
        return MonitorConfig(**options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"{first['loc'][0]}: {first['msg']}, found {first['input']!r}.") from None


def _check_named(flag: str, named: Collection[str], known: Collection[str]) -> None:
    if not set(named) & set(known):
        raise ConfigError(f"Expected {flag} to name labels of the model, which are {shown(known)}, found none of them.")


def _texts_by_mood(file: str, negative_labels: Collection[str]) -> dict[bool, list[str]]:
    """Read labelled texts: those with a label that counts, and the others."""
    examples = [example for example in read_examples(file).examples if isinstance(example, TextExample)]
    texts = {
        negative: [one.text for one in examples if (one.label.lower() in negative_labels) is negative]
        for negative in (True, False)
    }
    if not (texts[True] and texts[False]):
        raise DataError(f"{file}: expected texts with a label that --negative names, and others, found no such two.")
    return texts


async def _replayed(texts: Mapping[bool, Sequence[str]], start: int) -> AsyncIterator[dict[str, Any]]:
    for number, row in enumerate(replay(texts)):
        if number >= start:
            yield row


if __name__ == "__main__":
    sys.exit(main())
