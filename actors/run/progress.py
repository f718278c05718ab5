"""What a person watches: one line of a live run, and a line in the log where nobody watches.

Owns the wording. Fed by the controller; knows no actor.
"""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from actors.evaluation import EvaluationResult
from learner.report import StepReport


class RunProgress:
    """The terminal of one run; on a terminal a live bar, elsewhere a line every few steps."""

    def __init__(self, console: Console, *, num_steps: int) -> None:
        self._console = console
        self._num_steps = num_steps
        self._every = max(1, num_steps // 20)
        self._accuracy = ""
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("steps", total=num_steps, facts="")

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """One event: a stage of the set-up, an end."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, report: StepReport, *, rollouts_per_second: float, staleness_max: int) -> None:
        """One trained step."""
        facts = f"{rollouts_per_second:.0f} rollouts/s  reward {report.reward_mean:.3f}  staleness {staleness_max}{self._accuracy}"
        self._bar.update(self._task, completed=report.step, facts=facts)
        if not self._console.is_terminal and (report.step % self._every == 0 or report.step == self._num_steps):
            self.say(f"step {report.step}/{self._num_steps}  {facts}")

    def evaluation(self, result: EvaluationResult) -> None:
        """One evaluated set of one version."""
        if result.accuracy is None or result.format_rate is None:
            self.say(f"version {result.version}: {result.set} is not judged: the sandbox gave no verdict on any of its {result.unjudged} answers")
            return
        self.say(
            f"version {result.version}: {result.set} {result.accuracy:.1%} right (95% interval {result.low:.1%} to {result.high:.1%}), "
            f"{result.format_rate:.1%} answered, {result.num_problems} problem{'s' if result.num_problems != 1 else ''}"
        )
        if result.set != "train":
            self._accuracy = f"  {result.set} {result.accuracy:.1%}"
