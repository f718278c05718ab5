"""The command line: `firesteel run | stop | scale | eval | verify | status | rollouts | doctor | config`.

Owns arguments, exit codes and the one place where an error becomes a sentence: 0 done or stopped as told, 1 failed, 2 bad input, 129, 130 or
143 interrupted by a closed terminal, Ctrl-C or SIGTERM. Each command imports what it needs when it is called, so that the verifier's image, which
has neither torch nor vLLM, runs what it can.
"""

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from rlvr.errors import FiresteelError, UserError

app = typer.Typer(
    name="firesteel",
    help="Reinforcement learning with verifiable rewards from one problem.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RunFile = Annotated[Path, typer.Argument(metavar="RUN.toml", help="the run file")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="a folder that `firesteel run` made")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="K=V", help="set one key, such as optimizer.learning_rate=1e-5")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of an error")]


@app.callback()
def options(debug: Debug = False) -> None:
    """Reinforcement learning with verifiable rewards from one problem."""
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


@app.command()
def run(
    file: RunFile,
    overrides: Overrides = [],  # noqa: B006 - typer copies the default
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="the run's folder; default runs/NAME-TIME")] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="must|auto", help="go on with an unfinished run; auto: start where there is none")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check everything that needs no model and no GPU, print the plan")] = False,
    debug: Debug = False,
) -> None:
    """Train."""
    if resume not in (None, "must", "auto"):
        raise UserError(f"--resume is must or auto, got {resume!r}")
    mode = cast('Literal["must", "auto"] | None', resume)
    if dry_run:
        from actors.commands import plan as plan_command

        raise typer.Exit(plan_command.dry_run(file, overrides, run_dir, resume=mode))
    from actors.commands import run as run_command

    raise typer.Exit(run_command.run(file, overrides, run_dir, resume=mode))


@app.command()
def stop(run_dir: RunDir, debug: Debug = False) -> None:
    """End a live run in good order: a last checkpoint, then everything ends."""
    from actors.commands import stop as stop_command

    stop_command.stop(run_dir)


@app.command()
def scale(
    run_dir: RunDir,
    generators: Annotated[int | None, typer.Option("--generators", metavar="N", help="inference engines wanted")] = None,
    verifiers: Annotated[int | None, typer.Option("--verifiers", metavar="N", help="verifier actors wanted")] = None,
    debug: Debug = False,
) -> None:
    """More or fewer workers in a live run."""
    from actors.commands import scale as scale_command

    scale_command.scale(run_dir, generators=generators, verifiers=verifiers)


@app.command("eval")
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="a model folder, such as a checkpoint")],
    problems: Annotated[Path, typer.Argument(metavar="PROBLEMS.jsonl", help="problems with gold answers")],
    run_file: Annotated[Path | None, typer.Option("--run", help="ask as this run file does: its [evaluation], limits, stop tokens and type")] = None,
    extract: Annotated[str | None, typer.Option("--extract", metavar="all|last_boxed", help="how the answer is found")] = None,
    template: Annotated[str | None, typer.Option("--template", metavar="T", help="raw, chat or a template file")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="longest completion")] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="completions of each problem")] = 1,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 = greedy")] = 0.0,
    out: Annotated[Path | None, typer.Option("--out", help="write one line a completion here")] = None,
    debug: Debug = False,
) -> None:
    """Accuracy, pass@k and format rate of a model on problems."""
    from actors.commands import evaluate as eval_command

    eval_command.evaluate(
        model,
        problems,
        run_file=run_file,
        extract=extract,
        template=template,
        max_tokens=max_tokens,
        samples=samples,
        temperature=temperature,
        out=out,
    )


@app.command()
def verify(
    cases: Annotated[Path, typer.Argument(metavar="CASES.jsonl", help='lines of {"id", "response", "gold"}')],
    out: Annotated[Path, typer.Option("--out", help="verdicts, one line a case, in the same order")],
    extract: Annotated[str, typer.Option("--extract", metavar="all|last_boxed", help="how the answer is found")] = "all",
    grader: Annotated[str, typer.Option("--grader", help="firesteel, deepscaler_math or qwen25_math")] = "firesteel",
    workers: Annotated[int, typer.Option("--workers", min=1, help="sandboxed children")] = 2,
    debug: Debug = False,
) -> None:
    """Judge answers in the sandbox."""
    from actors.commands import verify as verify_command

    verify_command.verify(cases, out, extract=extract, grader=grader, workers=workers)


@app.command()
def status(run_dir: RunDir, as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False, debug: Debug = False) -> None:
    """What a run is doing: actors, version, lineage, slots, leases, rates, last events."""
    from actors.commands import look as look_commands

    look_commands.status(run_dir, as_json=as_json)


@app.command()
def rollouts(
    run_dir: RunDir,
    step: Annotated[int | None, typer.Option("--step", metavar="K", min=1, help="only this step")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="only this verdict, such as wrong")] = None,
    grep: Annotated[str | None, typer.Option("--grep", metavar="TEXT", help="only completions that hold this text")] = None,
    debug: Debug = False,
) -> None:
    """What the model said, with verdict and version."""
    from actors.commands import look as look_commands

    look_commands.rollouts(run_dir, step=step, kind=kind, grep=grep)


@app.command()
def doctor(debug: Debug = False) -> None:
    """What this machine has and what is missing for a run."""
    from actors.commands import doctor as doctor_command

    raise typer.Exit(doctor_command.doctor())


@app.command("config")
def configuration(
    file: Annotated[Path | None, typer.Argument(metavar="[RUN.toml]", help="show this file's resolved values")] = None,
    overrides: Overrides = [],  # noqa: B006 - typer copies the default
    debug: Debug = False,
) -> None:
    """Every key with default, unit and meaning; with a file its resolved values."""
    from actors.commands import look as look_commands

    look_commands.config(file, overrides)


def main() -> None:
    """Run one command and exit: the only place where an error becomes a sentence."""
    is_debug = "--debug" in sys.argv
    try:
        app()
    except UserError as error:
        _fail(error, code=2, is_debug=is_debug)
    except FiresteelError as error:
        _fail(error, code=1, is_debug=is_debug)
    except BrokenPipeError:  # the reader of our output has gone: nothing to say to anybody
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the last resort of main: one sentence, and the traceback on demand
        _fail(
            RuntimeError(f"{type(error).__name__}: {error} (this is a fault of firesteel; --debug shows where)"),
            code=1,
            is_debug=is_debug,
            cause=error,
        )


def _fail(error: Exception, *, code: int, is_debug: bool, cause: Exception | None = None) -> None:
    if is_debug:
        raise (cause or error)
    sentence = " ".join(str(error).split())
    sys.stderr.write(f"firesteel: {sentence}\n")
    sys.exit(code)
