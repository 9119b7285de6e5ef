"""The finance monitor: the test for surges, windows, timestamps, sources, and restarts."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from chains import finance_monitor
from chains.finance_monitor import (
    BATCH,
    Monitor,
    MonitorConfig,
    Row,
    build_chain,
    file_rows,
    folder_rows,
    read_time,
    replay,
)
from chains.surges import Baseline, Count, SurgeConfig, Windows, surge_p_value
from lc_finetune import ConfigError, DataError, InputError
from lc_finetune.testing import FakeClassifier, FakeTagger, tiny_checkpoint
from tests.agents.chat_models import AllOrNothing

BEGIN = datetime(2026, 1, 5, 9, tzinfo=UTC)
BAD, GOOD = "Acme misses", "Acme beats"
CONFIG = MonitorConfig(window_seconds=60, least_count=10, least_baseline=20, lateness_seconds=10)
MOOD = FakeClassifier(labels=("neutral", "negative"), label_of={BAD: "negative"})


def at(seconds: float) -> str:
    return (BEGIN + timedelta(seconds=seconds)).isoformat()


def message(seconds: float, text: str = GOOD) -> dict[str, Any]:
    return {"text": text, "timestamp": at(seconds)}


def minute(number: int, negatives: int, messages: int = 20) -> list[dict[str, Any]]:
    """A minute of messages, one a second, the negative ones first."""
    return [message(60 * number + i, BAD if i < negatives else GOOD) for i in range(messages)]


async def stream(rows: Iterable[Any]) -> AsyncIterator[Any]:
    for row in rows:
        yield row


async def events_of(monitor: Monitor, rows: Iterable[Any]) -> list[dict[str, Any]]:
    return [event async for event in monitor.run(stream(rows))]


def monitor_of(**options: Any) -> Monitor:
    return Monitor(options.pop("chain", build_chain(MOOD)), options.pop("config", CONFIG), **options)


QUIET = [row for number in range(4) for row in minute(number, 2)]
SURGE = [*QUIET, *minute(4, 15), message(400)]


# The test.


def test_the_p_value_is_the_tail_of_a_beta_binomial() -> None:
    """With one negative to come of one message it is the mean of the posterior; with none it is certain."""
    assert surge_p_value(1, 1, 3, 10) == pytest.approx(3.5 / 11)
    assert surge_p_value(0, 50, 3, 10) == pytest.approx(1)


def test_with_a_long_baseline_it_is_the_binomial_tail() -> None:
    """A short one makes it more careful."""
    from scipy.stats import binom

    assert surge_p_value(25, 100, 150_000, 1_000_000) == pytest.approx(binom.sf(24, 100, 0.15), rel=0.01)
    assert surge_p_value(25, 100, 15, 100) > 5 * binom.sf(24, 100, 0.15)


def test_alerts_stay_out_of_the_baseline_until_they_last() -> None:
    """Then their level is the baseline."""
    config = SurgeConfig(least_count=10, least_baseline=100, adopt_after=3)
    baseline = Baseline()
    for _ in range(3):
        baseline.judge(Count(10, 100), config)

    assert baseline.total == Count(30, 300)
    for _ in range(2):
        p_value = baseline.judge(Count(60, 100), config)
        assert p_value is not None
        assert p_value <= config.alpha
    assert baseline.total == Count(30, 300)
    baseline.judge(Count(60, 100), config)
    assert baseline.total == Count(180, 300)
    p_value = baseline.judge(Count(60, 100), config)
    assert p_value is not None
    assert p_value > 0.3


def test_small_windows_and_short_baselines_are_not_tested() -> None:
    """They count towards the baseline, which forgets the oldest windows."""
    config = SurgeConfig(least_count=30, least_baseline=50, baseline_windows=2)
    baseline = Baseline()

    assert baseline.judge(Count(1, 40), config) is None
    assert baseline.judge(Count(1, 40), config) is None
    assert baseline.judge(Count(29, 29), config) is None
    assert baseline.judge(Count(1, 40), config) is not None
    assert baseline.quiet == [Count(29, 29), Count(1, 40)]


# Windows.


async def test_a_surge_raises_an_alert() -> None:
    """When its window closes, once, with the figures that it rests on."""
    events = await events_of(monitor_of(), SURGE)
    alerts = [event for event in events if event["event"] == "alert"]

    assert [event["event"] for event in events] == ["window"] * 5 + ["alert"]
    assert alerts[0]["start"] == at(240)
    assert alerts[0]["end"] == at(300)
    assert (alerts[0]["topic"], alerts[0]["negatives"], alerts[0]["messages"]) == ("all", 15, 20)
    assert (alerts[0]["share"], alerts[0]["baseline"]) == (0.75, 0.1)
    assert alerts[0]["p_value"] == pytest.approx(surge_p_value(15, 20, 8, 80))


async def test_fewer_negatives_raise_none() -> None:
    """The test is one-sided."""
    rows = [row for number in range(4) for row in minute(number, 15)]
    events = await events_of(monitor_of(), [*rows, *minute(4, 0), message(400)])

    assert {event["event"] for event in events} == {"window"}


async def test_topics_are_counted_apart() -> None:
    """Each by its own baseline; an alert names whom its negative messages speak of."""
    topic = FakeClassifier(labels=("other", "acme"), label_of={BAD: "acme", GOOD: "acme"})
    tagger = FakeTagger(type_of={"Acme": "ORG", "misses": "VERB"})
    rows = [row for pair in zip(SURGE, [{**row, "text": "Rates"} for row in SURGE], strict=True) for row in pair]
    events = await events_of(monitor_of(chain=build_chain(MOOD, topic=topic, tagger=tagger)), rows)

    assert {"acme", "other"} == {event["topic"] for event in events}
    assert [(e["topic"], e["names"]) for e in events if e["event"] == "alert"] == [("acme", {"Acme": 15})]


async def test_messages_may_come_out_of_order() -> None:
    """Within the time that a window waits; later ones are rejected."""
    rows = [*minute(0, 2), message(65), message(59, BAD), message(71), message(58, BAD), message(500)]
    events = await events_of(monitor_of(), rows)

    assert [event["event"] for event in events] == ["window", "rejected", "window"]
    assert (events[0]["messages"], events[0]["negatives"]) == (21, 3)
    assert "found one that is later" in events[1]["reason"]
    assert events[1]["row"] == 24


def test_windows_of_another_length_are_refused() -> None:
    """Counts of minutes say nothing about hours."""
    state = Windows(SurgeConfig(window_seconds=60)).state

    with pytest.raises(ConfigError, match="Expected a state with windows of 3600 s, found 60 s"):
        Windows(SurgeConfig(), state)


# Rows.


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-05T09:00:00Z",
        "2026-01-05T18:00:00+09:00",
        "2026-01-05 10:00:00",
        datetime(2026, 1, 5, 10),
        BEGIN,
        BEGIN.timestamp(),
        str(int(BEGIN.timestamp())),
    ],
)
def test_times_are_read_in_their_zone(value: Any) -> None:
    """Or in the zone given, if they name none."""
    assert read_time(value, "Europe/Berlin") == BEGIN


@pytest.mark.parametrize("value", ["2026-01-05", "20260105", " 2026-01-05 ", "2026-W02-1"])
def test_a_date_is_its_first_moment(value: str) -> None:
    """Eight digits are a date too, and not some seconds of 1970."""
    assert read_time(value) == datetime(2026, 1, 5, tzinfo=UTC)


@pytest.mark.parametrize("value", ["soon", True, float("nan"), 1e30, [], "2026-13-01"])
def test_what_is_no_time_is_refused(value: Any) -> None:
    """Without quoting it."""
    with pytest.raises(InputError, match="Expected a timestamp in ISO 8601 or seconds since 1970"):
        read_time(value)


async def test_bad_rows_are_rejected_alone() -> None:
    """With their place and a reason; no text is in an event."""

    def fail(text: str) -> Any:
        if "secret" in text:
            raise ValueError(text)
        return MOOD.invoke(text)

    monitor = monitor_of(chain=build_chain(RunnableLambda(fail)), now=lambda: BEGIN + timedelta(hours=1))
    rows = [
        {"text": "first, and no time"},
        message(1),
        {"text": " ", "timestamp": at(1)},
        {"timestamp": at(1)},
        "secret",
        message(2, "secret"),
        {"text": "secret timing", "timestamp": "secret"},
        message(2 * 3600),
        message(3),
    ]
    events = await events_of(monitor, rows)

    assert [event["row"] for event in events] == [1, 3, 4, 5, 6, 7, 8]
    assert [event["reason"][: len(start)] for event, start in zip(events, REASONS, strict=True)] == list(REASONS)
    assert "secret" not in json.dumps(events)
    assert monitor.state.open[0].messages == 2


REASONS = (
    "Expected a timestamp on the first message",
    "Expected a text under 'text', found none.",
    "Expected a text under 'text', found none.",
    "Expected a row with 'text', found str.",
    "Expected an answer of the models, found ValueError.",
    "Expected a timestamp in ISO 8601",
    "Expected a time that has come",
)


async def test_a_missing_time_is_the_latest_seen() -> None:
    """It counts in the window that is being filled."""
    monitor = monitor_of()
    await events_of(monitor, [message(0), message(69), {"text": BAD}, {"text": BAD, "timestamp": ""}])

    assert [(window.messages, window.negatives) for window in monitor.state.open] == [(1, 0), (3, 2)]


async def test_a_time_of_the_year_1_stops_nothing() -> None:
    """Some systems write it for none; its window may begin earlier, where no time can be named."""
    config = MonitorConfig(window_seconds=7 * 24 * 3600)
    events = await events_of(monitor_of(config=config), [message(0) | {"timestamp": "0001-01-01T00:00:00Z"}, *QUIET])

    assert [event["event"] for event in events] == ["rejected"]
    assert "the year 1 or later" in events[0]["reason"]


async def test_models_that_fail_as_a_whole_stop_nothing() -> None:
    """As where a checkpoint is gone: each message is rejected."""

    def fail(text: str) -> Any:
        raise OSError("secret")

    events = await events_of(monitor_of(chain=build_chain(AllOrNothing(fail))), QUIET)
    later = await events_of(monitor_of(chain=AllOrNothing(fail)), QUIET)

    assert [event["reason"] for event in events] == ["Expected an answer of the models, found OSError."] * len(QUIET)
    assert events == later


def test_an_unknown_zone_is_refused() -> None:
    """At once."""
    with pytest.raises(ConfigError, match="Expected a time zone"):
        MonitorConfig(zone="Mars/Olympus")


async def test_waiting_rows_are_one_batch() -> None:
    """Of a limited size; one that comes alone does not wait."""
    sizes: list[int] = []
    all_asked = asyncio.Event()

    class Counting(FakeClassifier):
        async def abatch(self, inputs: list[Any], *args: Any, **kwargs: Any) -> Any:
            sizes.append(len(inputs))
            if sum(sizes) == BATCH + 5:
                all_asked.set()
            return await super().abatch(inputs, *args, **kwargs)

    async def rows() -> AsyncIterator[Any]:
        for second in range(BATCH + 5):
            yield message(second / 10)
        await all_asked.wait()
        yield message(7)

    monitor = monitor_of(chain=build_chain(Counting(labels=("neutral",))))
    assert [event async for event in monitor.run(rows())] == []
    assert sizes == [BATCH, 5, 1]


async def test_a_source_that_fails_ends_the_run() -> None:
    """After what it gave was counted."""

    async def rows() -> AsyncIterator[Any]:
        yield message(0)
        raise OSError("gone")

    monitor = monitor_of()
    with pytest.raises(OSError, match="gone"):
        [event async for event in monitor.run(rows())]
    assert monitor.state.positions == {"": 1}


# Sources.


def csv_of(rows: Iterable[dict[str, Any]]) -> str:
    return "text,timestamp\n" + "".join(f"{row['text']},{row['timestamp']}\n" for row in rows)


def jsonl_of(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


async def test_files_are_read_from_where_they_were_left(tmp_path: Path) -> None:
    """CSV and JSONL; a line that is no JSON is a row too."""
    table, lines, other = tmp_path / "a.csv", tmp_path / "a.jsonl", tmp_path / "a.txt"
    table.write_text(csv_of(minute(0, 1, 3)))
    deep = "[" * 100_000
    lines.write_text(jsonl_of(minute(0, 1, 2)) + f"{{broken\n{deep}\n" + json.dumps(message(9)))
    other.touch()

    assert [row.value["text"] async for row in file_rows(table, {"a.csv": 1})] == [GOOD, GOOD]
    rows = [row async for row in file_rows(lines, {})]
    assert rows == [Row(value, "a.jsonl") for value in (*minute(0, 1, 2), None, None, message(9))]
    with pytest.raises(DataError, match=r"expected a \.csv or \.jsonl file"):
        [row async for row in file_rows(other, {})]
    with pytest.raises(DataError, match="found FileNotFoundError"):
        [row async for row in file_rows(tmp_path / "none.csv", {})]


async def test_a_folder_is_watched(tmp_path: Path) -> None:
    """In the order of names; files may be added, and grow by whole lines."""
    (tmp_path / "b.csv").write_text(csv_of([message(2)]))
    (tmp_path / "a.jsonl").write_text(jsonl_of([message(0), message(1)]) + '{"text": "half')
    seen: list[tuple[str, Any]] = []
    async for row in folder_rows(tmp_path, {"a.jsonl": 1}, every=0.001, idle_rounds=3):
        seen.append((row.source, row.value["timestamp"]))
        if row.source == "b.csv":
            with (tmp_path / "a.jsonl").open("a") as file:
                file.write('", "timestamp": "later"}\n')
            (tmp_path / "c.jsonl").write_text(jsonl_of([message(3)]))
            (tmp_path / "c.txt").touch()

    assert [("a.jsonl", at(1)), ("b.csv", at(2)), ("a.jsonl", "later"), ("c.jsonl", at(3))] == seen
    with pytest.raises(DataError, match="Expected a folder to watch"):
        [row async for row in folder_rows(tmp_path / "none", {})]


async def test_a_file_that_cannot_be_read_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is passed over, and the log says so."""
    (tmp_path / "a.csv").mkdir()
    (tmp_path / "b.csv").write_text(csv_of([message(2)]))
    rows = [row async for row in folder_rows(tmp_path, {}, every=0.001, idle_rounds=2)]

    assert [row.source for row in rows] == ["b.csv"]
    assert "a.csv" in caplog.text


# Restarts.


@pytest.mark.parametrize("stop", [1, 85, 100])
async def test_a_restart_changes_nothing(tmp_path: Path, stop: int) -> None:
    """Neither events nor counts, wherever the monitor was stopped."""
    (tmp_path / "rows.jsonl").write_text(jsonl_of(SURGE))
    (tmp_path / "part.jsonl").write_text(jsonl_of(SURGE[:stop]))
    whole = await events_of(monitor_of(), SURGE)
    files = {"events": tmp_path / "events.jsonl", "state": tmp_path / "state.json"}

    first = monitor_of(**files)
    events = [event async for event in first.run(file_rows(tmp_path / "part.jsonl", first.state.positions))]
    (tmp_path / "part.jsonl").write_text(jsonl_of(SURGE))
    second = monitor_of(**files)
    events += [event async for event in second.run(file_rows(tmp_path / "part.jsonl", second.state.positions))]

    assert whole == events
    assert whole == [json.loads(line) for line in files["events"].read_text().splitlines()]
    assert {"part.jsonl": len(SURGE)} == second.state.positions
    assert {0o600} == {stat.S_IMODE(file.stat().st_mode) for file in files.values()}


async def test_events_beyond_the_state_are_written_again(tmp_path: Path) -> None:
    """What a crash left half done is cut off."""
    files = {"events": tmp_path / "events.jsonl", "state": tmp_path / "state.json"}
    first = monitor_of(**files)
    await events_of(first, SURGE[:85])
    before = files["events"].read_text()
    with files["events"].open("a") as file:
        file.write('{"event": "window", "top')
    monitor_of(**files)

    assert before
    assert before == files["events"].read_text()


async def test_events_are_added_to_a_file(tmp_path: Path) -> None:
    """Without a state, what it holds stays."""
    file = tmp_path / "events.jsonl"
    file.write_text("{}\n")
    await events_of(monitor_of(events=file), SURGE)

    assert len(file.read_text().splitlines()) == 1 + 6


async def test_a_state_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Damaged, or of an events file that is another."""
    files = {"events": tmp_path / "events.jsonl", "state": tmp_path / "state.json"}
    await events_of(monitor_of(**files), SURGE)
    files["events"].write_text("")
    with pytest.raises(DataError, match="bytes of events"):
        monitor_of(**files)
    files["state"].write_text("{}")
    with pytest.raises(DataError, match="expected the state of a monitor"):
        monitor_of(**files)


async def test_the_state_holds_no_text(tmp_path: Path) -> None:
    """Counts alone."""
    await events_of(monitor_of(state=tmp_path / "state.json"), SURGE)

    assert BAD not in (tmp_path / "state.json").read_text()


# The demonstration.


def test_the_replay_is_seeded() -> None:
    """The same rows for the same seed: about two hundred an hour, triple the negatives in one hour."""
    texts = {True: [BAD], False: [GOOD]}
    rows = list(replay(texts))
    hours: dict[int, list[bool]] = {}
    for row in rows:
        if row["timestamp"] is not None and row["text"]:
            hours.setdefault((read_time(row["timestamp"]) - BEGIN) // timedelta(hours=1), []).append(row["text"] == BAD)

    assert rows == list(replay(texts))
    assert rows != list(replay(texts, seed=1))
    assert len(hours) == 14
    assert 2600 < len(rows) < 3000
    assert max(hours, key=lambda hour: sum(hours[hour])) == 10


def test_the_demonstration_shows_the_surge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a table, with events and state kept; it goes on where it was; without checkpoints it says what is missing."""
    from lc_finetune.data import read_examples
    from lc_finetune.data.bundled import sample_file

    monkeypatch.chdir(tmp_path)
    assert finance_monitor.main([]) == 2
    assert "chains.finance_monitor: error:" in capsys.readouterr().err
    tiny_checkpoint(tmp_path / "runs" / "demo" / "sentiment", labels=("negative", "neutral", "positive"))
    tiny_checkpoint(tmp_path / "runs" / "demo" / "entities", task="token-classification", labels=("PRODUCT",))
    examples: Any = read_examples(str(sample_file("sentiment", "test"))).examples
    truth = FakeClassifier(labels=("neutral", "negative"), label_of={e.text: e.label for e in examples})
    monkeypatch.setattr(finance_monitor, "build_chain", lambda *_, **__: build_chain(truth))

    arguments = ["--events", "events.jsonl", "--state", "state.json"]
    assert finance_monitor.main(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.count("ALERT") == 1
    assert "1 rejected: Expected a text" in shown
    lines = (tmp_path / "events.jsonl").read_text()
    assert finance_monitor.main(arguments) == 0
    assert lines == (tmp_path / "events.jsonl").read_text()


def test_labelled_texts_are_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of any file, with the labels that count in it; its texts need no times."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "mood", labels=("0", "1"))
    (tmp_path / "tweets.csv").write_text(f"text,label\n{BAD},0\n{GOOD},1\n")
    truth = FakeClassifier(labels=("1", "0"), label_of={BAD: "0"})
    monkeypatch.setattr(finance_monitor, "build_chain", lambda *_, **__: build_chain(truth))

    assert finance_monitor.main(["--replay", "tweets.csv", "--sentiment", "mood", "--negative", "0"]) == 0
    assert capsys.readouterr().out.count("ALERT") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--window 0", "window_seconds: Input should be greater than 0, found 0.0."),
        ("--window nan", "window_seconds"),
        ("--window inf", "window_seconds"),
        ("--file none.csv", "found FileNotFoundError"),
        ("--file rows.txt", "expected a .csv or .jsonl file"),
        ("--folder none", "Expected a folder to watch"),
        ("--file rows.csv --events none/events.jsonl", "none/events.jsonl: expected a file in a folder that exists"),
        ("--file rows.csv --state none/state.json", "none/state.json: expected a file in a folder that exists"),
        ("--file rows.csv --state .", "expected a file in a folder that exists"),
        ("--file rows.csv --negative bad", "Expected --negative to name labels of the model, which are negative, "),
        ("--file rows.csv --tagger tagger", "Expected --names to name labels of the model, which are PRODUCT, "),
        ("--file rows.csv --topic none", "none"),
        ("--replay labelled.csv --negative angry negative", "expected texts with a label that --negative names"),
        ("--replay rows.csv", "rows.csv"),
    ],
)
def test_what_cannot_be_followed_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: str, said: str
) -> None:
    """With exit status 2, and not when the first window closes."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "mood", labels=("negative", "neutral"))
    tiny_checkpoint(tmp_path / "tagger", task="token-classification", labels=("PRODUCT",))
    (tmp_path / "rows.csv").write_text(csv_of(minute(0, 1)))
    (tmp_path / "rows.txt").touch()
    (tmp_path / "labelled.csv").write_text("text,label\nGood,positive\n")

    assert finance_monitor.main(["--sentiment", "mood", *arguments.split()]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("chains.")]
    assert said in line
