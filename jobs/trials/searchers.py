"""The next trial, in Ray Tune's words: one known before, or one that optuna proposes."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from n2n.errors import InvalidValue

if TYPE_CHECKING:
    import optuna

    from n2n.sweep import Sample, Space, Trial

__all__ = ["Numbered", "Proposed"]

Make = Callable[[int, "Sample"], dict[str, Any]]  # number and settings → the fields of its task


class Numbered(Searcher):
    """Trials that are known before: the rest of them, in order."""

    def __init__(self, make: Make, trials: "Iterator[tuple[int, Sample]]") -> None:
        super().__init__(metric="score", mode="max")
        self._make, self._trials = make, trials

    def suggest(self, trial_id: str) -> Any:
        for number, sample in self._trials:
            return self._make(number, sample)
        return str(Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        pass


class Proposed(Searcher):
    """Trials that optuna's TPE proposes (Bergstra et al. 2011), from the scores of those before.

    known: the trials that a resumed sweep has; those not finished come first. at_once: how many
    run at a time; no more are proposed before there are scores. InvalidValue without optuna.
    """

    def __init__(
        self,
        make: Make,
        space: "Space",
        known: "list[Trial]",
        *,
        count: int,
        at_once: int,
        seed: int,
    ) -> None:
        super().__init__(metric="score", mode="max")
        optuna = import_optuna()
        self._make, self._space, self._at_once = make, space, at_once
        sampler = optuna.samplers.TPESampler(seed=stream(seed, len(known)))
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._open: dict[str, Any] = {}
        self._again = [trial for trial in known if not trial.finished]
        self._numbers = iter(sorted(set(range(count)) - {trial.number for trial in known}))
        for trial in known:
            if trial.finished:
                self._study.add_trial(self._past(trial))

    def suggest(self, trial_id: str) -> Any:
        if len(self._open) >= self._at_once:
            return None
        if self._again:
            trial = self._again.pop(0)
            self._study.enqueue_trial(self._labelled(trial.settings)[0])
            self._ask(trial_id)
            return self._make(trial.number, trial.settings)
        number = next(self._numbers, None)
        if number is None:
            return str(Searcher.FINISHED)
        return self._make(number, self._ask(trial_id))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        from optuna.trial import TrialState

        trial = self._open.pop(trial_id, None)
        score = (result or {}).get("score")
        if trial is not None:
            state = TrialState.FAIL if score is None else TrialState.COMPLETE
            self._study.tell(trial, score, state=state)

    def _ask(self, trial_id: str) -> "Sample":
        trial = self._open[trial_id] = self._study.ask()
        return self._space.draw(lambda label, domain: propose(trial, label, domain))

    def _past(self, trial: "Trial") -> "optuna.trial.FrozenTrial":
        from optuna.trial import TrialState, create_trial

        values, distributions = self._labelled(trial.settings)
        return create_trial(
            params=values,
            distributions=distributions,
            value=trial.score,
            state=TrialState.FAIL if trial.score is None else TrialState.COMPLETE,
        )

    def _labelled(self, settings: "Sample") -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings and their distributions, by the labels that optuna knows them by."""
        values: dict[str, Any] = {}
        distributions: dict[str, Any] = {}

        def record(label: str, domain: Any) -> Any:
            distributions[label] = distribution(domain)
            values[label] = settings[label.partition("/")[0]]
            return values[label]

        self._space.draw(record)
        return values, distributions


def import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise InvalidValue(
            "search optuna: the package optuna expected, found none; install it with "
            "pip install 'n2n[optuna]', or use --search random"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def stream(seed: int, known: int) -> int:
    """A seed for the proposals after so many; the same again would propose the same again."""
    import numpy as np

    return int(np.random.default_rng([seed, known]).integers(2**31))


def propose(trial: Any, label: str, domain: Any) -> Any:
    """A value for a parameter, from optuna."""
    from n2n.sweep import Choice, Integer, LogUniform

    found = distribution(domain)
    if isinstance(domain, Choice):
        return trial.suggest_categorical(label, found.choices)
    if isinstance(domain, Integer):
        return trial.suggest_int(label, found.low, found.high, step=found.step, log=found.log)
    return trial.suggest_float(label, found.low, found.high, log=isinstance(domain, LogUniform))


def distribution(domain: Any) -> Any:
    """A domain in optuna's words."""
    from optuna import distributions

    from n2n.sweep import Choice, Integer, LogUniform

    if isinstance(domain, Choice):
        return distributions.CategoricalDistribution(domain.values)
    if isinstance(domain, Integer):
        last = domain.low + (domain.high - domain.low) // domain.step * domain.step
        return distributions.IntDistribution(domain.low, last, log=domain.log, step=domain.step)
    return distributions.FloatDistribution(
        domain.low, domain.high, log=isinstance(domain, LogUniform)
    )
