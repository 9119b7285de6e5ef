"""Trials on the validation rows → the settings that did best.

The trials are kept in SQLite beside the output, so that a search goes on after an interruption, and with more trials.
"""

from __future__ import annotations

import gc
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from lc_finetune.checkpoint import SearchRecord
from lc_finetune.errors import ConfigError, LCFinetuneError, MissingDependencyError
from lc_finetune.train import recipe
from lc_finetune.train.adapters import low_rank_settings
from lc_finetune.train.fields import check_task
from lc_finetune.train.preparation import Plan, epochs_of, learning_rate_of, smoothing_of
from lc_finetune.train.resuming import STUDY
from lc_finetune.train.search_space import Choices, Dimension, Range, Scalar, is_set, trials_to_check, varied
from lc_finetune.train.tasks import TASKS

Report = Callable[[float], bool]
"""Takes the validation metric of an epoch, and says whether the trial is to stop."""
Measure = Callable[[Plan, Report], None]
"""Trains as the plan says, and reports each epoch."""
ERROR = "error"
"""Attribute of a trial that failed by itself: why. One that was interrupted has none."""


@dataclass(frozen=True)
class Searched:
    """A search that is over: what a checkpoint records of it, and its trials."""

    record: SearchRecord
    trials: tuple[dict[str, Any], ...]


def check_search_installed() -> None:
    """Refuse a search without its package, before any work.

    Raises:
        MissingDependencyError: Naming the command that installs it.
    """
    if find_spec("optuna") is None:
        raise MissingDependencyError(
            "search: expected the package optuna, found none. Run `pip install 'lc-finetune[search]'`."
        )


def search(plan: Plan, work: Path, measure: Measure, say: Callable[[str], None]) -> tuple[Searched, bool]:
    """Run the trials that are still to run, one after the other.

    A trial is judged by the best validation metric of its epochs, and pruned when that falls below the median of the
    finished trials at the same epoch. The first has the settings that a training without a search has, where they lie
    in the space; the next are drawn at random, the others by TPE (Bergstra et al. 2011, "Algorithms for Hyper-Parameter
    Optimization"). Each depends on the seed, its number, and the trials before it: a search that was interrupted
    goes on as one that was not.

    Args:
        plan: Of the run; its configuration says how many trials, and where to look.
        work: The folder of the run, which holds the trials.
        measure: Trains a trial.
        say: Receives a line for each.

    Returns:
        What was found, and whether any trial was run for it.

    Raises:
        ConfigError: If the space does not fit the task, the kept trials cannot be read, or no trial was finished.
    """
    wanted = plan.config.search or 0
    if not plan.splits.validation:
        raise ConfigError(
            "search: expected validation rows to judge trials by, found too few rows to spare any. Give "
            "--validation-file, or leave the search out."
        )
    space = plan.config.search_space or default_space(plan)
    _check_task(plan, space)
    say(
        f"Search\n  {wanted} trials of {', '.join(space)}, judged by the {plan.task.metric} of "
        f"{len(plan.splits.validation):,} validation rows; the time above is that of one training"
    )
    with _study(work / STUDY) as study:
        _fail_interrupted(study)
        done = _done(study)
        for number in range(done, wanted):
            _run_trial(study, number, plan, space, measure, say)
        return _searched(study, plan, space, say), done < wanted


def of_trial(plan: Plan, values: Mapping[str, Scalar]) -> Plan:
    """Give the plan with the settings of a trial."""
    return replace(plan, config=varied(plan.config, values))


def default_space(plan: Plan) -> dict[str, Dimension]:
    """Choose what a search varies: a few fields around their defaults, and none that the configuration sets.

    Raises:
        ConfigError: If it sets all.
    """
    config, rate, epochs = plan.config, learning_rate_of(plan.config, plan.base), epochs_of(plan)
    size = config.batch_size
    space: dict[str, Dimension] = {
        "learning_rate": Range(low=rate / recipe.SEARCH_FACTOR, high=min(1.0, rate * recipe.SEARCH_FACTOR), log=True),
        "epochs": Range(low=max(1, epochs // 2), high=max(2, epochs + epochs // 2)),
        "batch_size": Choices(choices=(size // 2, size, size * 2)),
    }
    if plan.task.loss in ("softmax", "cumulative") and not config.focal_gamma:
        space["label_smoothing"] = Range(low=0.0, high=recipe.SEARCH_SMOOTHING)
    if config.adapter in ("lora", "adalora"):
        rank, _, _ = low_rank_settings(config)
        space["adapter_rank"] = Choices(choices=(rank // 2, rank, rank * 2))
    left = {name: one for name, one in space.items() if not is_set(config, name)}
    if not left:
        raise ConfigError(
            f"search: expected something left to vary, found {', '.join(space)} all set. Leave some out, or give "
            "--search-space."
        )
    return left


def _check_task(plan: Plan, space: Mapping[str, Dimension]) -> None:
    """Refuse fields that would do nothing, or harm, in the task."""
    for values in trials_to_check(space):
        config = varied(plan.config, values)
        try:
            TASKS[plan.task.name].check(config)
            check_task(config, TASKS[plan.task.name])
        except ConfigError as error:
            raise ConfigError(f"search_space: {error}") from None


@contextmanager
def _study(path: Path) -> Iterator[Any]:
    """Open the trials of a run, or begin with none."""
    import optuna
    from sqlalchemy.exc import DatabaseError

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = None
    try:
        # Not a URL of the path, in which some characters would mean something.
        storage = optuna.storages.RDBStorage(
            "sqlite:///study", engine_kwargs={"creator": partial(sqlite3.connect, path)}
        )
        study = optuna.create_study(
            storage=storage,
            study_name="search",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=recipe.SEARCH_STARTUP, n_warmup_steps=recipe.SEARCH_WARMUP + 1
            ),
        )
    except (DatabaseError, RuntimeError) as error:
        raise ConfigError(
            f"{path}: expected the trials of a search, found a file that cannot be read ({type(error).__name__}). "
            "Start anew without --resume, with --overwrite."
        ) from error
    try:
        yield study
    finally:
        optuna.logging.set_verbosity(verbosity)
        storage.remove_session()
        storage.engine.dispose()


def _fail_interrupted(study: Any) -> None:
    """Count trials that never ended as failed."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def _done(study: Any) -> int:
    """Count the trials that ended by themselves; those that were interrupted are run again."""
    from optuna.trial import TrialState

    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return sum(trial.state != TrialState.FAIL or ERROR in trial.user_attrs for trial in ended)


def _run_trial(
    study: Any, number: int, plan: Plan, space: Mapping[str, Dimension], measure: Measure, say: Callable[[str], None]
) -> None:
    import optuna
    from optuna.trial import TrialState

    # A sampler for each trial: its state is not kept with the study.
    study.sampler = optuna.samplers.TPESampler(
        seed=int(np.random.SeedSequence([plan.config.seed, number]).generate_state(1)[0]),
        n_startup_trials=recipe.SEARCH_STARTUP,
        multivariate=True,
    )
    usual = _usual(plan, space)
    if number == 0 and usual is not None and not study.get_trials(states=(TrialState.WAITING,)):
        study.enqueue_trial(usual)
    trial = study.ask({name: _distribution(name, one) for name, one in space.items()})
    values: list[float] = []
    pruned = False

    def report(value: float) -> bool:
        nonlocal pruned
        values.append(value)
        trial.report(value, len(values))
        pruned = math.isfinite(value) and trial.should_prune()
        return pruned or not math.isfinite(value)

    try:
        measure(of_trial(plan, trial.params), report)
        failed = None if values and all(map(math.isfinite, values)) else "the metric is no number"
    except LCFinetuneError as error:
        failed = str(error).rstrip(".")
    except Exception as error:  # whatever the model's code raises; memory that ran out too
        failed = type(error).__name__
    gc.collect()  # the Trainer holds its model in a circle
    said = f"  trial {number + 1}/{plan.config.search}  {settings(trial.params)}  "
    if failed is not None:
        trial.set_user_attr(ERROR, failed)
        study.tell(trial, state=TrialState.FAIL)
        say(f"{said}failed: {failed}")
    elif pruned:
        study.tell(trial, state=TrialState.PRUNED)
        say(f"{said}{plan.task.metric} {max(values):.4f}, pruned after {_epochs(len(values))}")
    else:
        study.tell(trial, max(values))
        say(f"{said}{plan.task.metric} {max(values):.4f}")


def _epochs(number: int) -> str:
    return f"{number} epoch{'' if number == 1 else 's'}"


def settings(values: Mapping[str, Scalar]) -> str:
    """Write settings in a line."""
    return ", ".join(
        f"{name} {f'{value:.3g}' if isinstance(value, float) else value}" for name, value in values.items()
    )


def _distribution(name: str, one: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(one, Choices):
        return CategoricalDistribution(one.choices)
    kind = IntDistribution if isinstance(one.low, int) and isinstance(one.high, int) else FloatDistribution
    return kind(one.low, one.high, log=one.log)


def _usual(plan: Plan, space: Mapping[str, Dimension]) -> dict[str, Scalar] | None:
    """Name what a training without a search has for the fields of the space; None if that lies outside."""
    rank, alpha, dropout = low_rank_settings(plan.config)
    decided: dict[str, Scalar] = {
        "learning_rate": learning_rate_of(plan.config, plan.base),
        "epochs": epochs_of(plan),
        "label_smoothing": smoothing_of(plan),
        "adapter_rank": rank,
        "adapter_alpha": alpha,
        "adapter_dropout": dropout,
    }
    usual = {name: decided.get(name, getattr(plan.config, name)) for name in space}
    return usual if all(value in space[name] for name, value in usual.items()) else None


def _searched(study: Any, plan: Plan, space: Mapping[str, Dimension], say: Callable[[str], None]) -> Searched:
    """Say which trial won."""
    from optuna.trial import TrialState

    names = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    ended = study.get_trials(states=tuple(names))
    counts = {name: sum(trial.state == state for trial in ended) for state, name in names.items()}
    if not counts["finished"]:
        reasons = dict.fromkeys(trial.user_attrs[ERROR] for trial in ended if ERROR in trial.user_attrs)
        raise ConfigError(
            f"search: expected a trial that finishes, found none: {counts['pruned']} pruned, {counts['failed']} "
            f"failed ({'; '.join(list(reasons)[:3])}). Mend that and start anew with --overwrite, or add --resume and "
            "ask for more trials."
        )
    finished = [trial for trial in ended if trial.state == TrialState.COMPLETE]
    best = max(finished, key=lambda trial: (trial.value, -trial.number))
    say(f"  best        trial {best.number + 1}: {settings(best.params)}  {plan.task.metric} {best.value:.4f}")
    record = SearchRecord(
        metric=plan.task.metric,
        space={name: one.model_dump(mode="json") for name, one in space.items()},
        sampler="TPE",
        pruner="median",
        seed=plan.config.seed,
        best_trial=best.number + 1,
        best_value=best.value,
        best=best.params,
        importances=_importances(study, finished, plan.config.seed),
        **counts,
    )
    trials = [
        {
            "trial": trial.number + 1,
            "state": names[trial.state],
            "value": _best_epoch(trial.intermediate_values.values()),
            "epochs": len(trial.intermediate_values),
            "settings": dict(trial.params),
        }
        for trial in ended
    ]
    return Searched(record, tuple(trials))


def _best_epoch(values: Any) -> float | None:
    """Give the greatest number, if there is one."""
    return max(filter(math.isfinite, values), default=None)


def _importances(study: Any, finished: list[Any], seed: int) -> dict[str, float]:
    """Say which share of the differences between finished trials each field explains; nothing where there are none."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    if len({trial.value for trial in finished}) < 2:
        return {}
    try:
        shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed))
    except RuntimeError:  # trials that differ, but not by their settings
        return {}
    return {name: float(share) for name, share in shares.items()}
