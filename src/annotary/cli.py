"""One command per MLproject entry point; options are the fields of the stage's configuration."""

import contextlib
import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from annotary import __version__, config
from annotary.environment import prepare_environment
from annotary.errors import AnnotaryError, OutputError, printable
from annotary.launching import RUN_ID
from annotary.log import show_messages
from annotary.paths import is_run_id, resolve_path, resolve_paths, resolve_storage
from annotary.streams import open_missing_streams

_PATHS = ("output", "dataset", "labels", "quarantine", "ontology", "file")
_NETWORKS = ("init_from",)
_MARKS = {True: "ok", False: "ALTERED", None: "-"}
_PATH_LISTS = ("input",)
_TERMINATED = 143
_OBJECTS_BEFORE_COLLECTION = 50_000
"""Python's 700 makes it look for cycles hundreds of times while MLflow is imported: half a second."""

Command = Callable[[Any], None]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="annotary")
def cli() -> None:
    """Annotate single-cell RNA-seq data with models from an MLflow registry."""


def main() -> None:
    """Run the command line; an error for people is one line and exit code 1."""
    open_missing_streams()
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTION)
    signal.signal(signal.SIGTERM, _terminate)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # With a server, MLflow would print the run's address among our own lines of JSON.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    warnings.simplefilter("ignore")
    show_messages()
    try:
        code = cli(standalone_mode=False)  # what a command left with, or None
        if code:
            sys.exit(code)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        remedy = f" See {context.command_path} --help." if context else ""
        _end(f"{error.format_message()}{remedy}", exit_code=error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _end("stopped by the keyboard")
    except AnnotaryError as error:
        _end(str(error), exit_code=error.exit_code)
    except Exception as error:
        if os.environ.get("ANNOTARY_DEBUG"):
            raise
        _end(
            f"{type(error).__name__}: {' '.join(str(error).split())} (this is a bug in annotary; "
            "the traceback is in the run's artifacts, error/traceback.txt, or set ANNOTARY_DEBUG=1)"
        )
    finally:
        gc.freeze()  # at the end Python would look through all of MLflow for cycles: half a second


def _settle_run(command: str) -> None:
    """Look whether the id of a run in the environment is one that `mlflow run` made for this command."""
    if RUN_ID in os.environ:
        from annotary.tracking_store import settle_run

        settle_run(command)


def _terminate(*_: object) -> NoReturn:
    """Leave in an orderly way: runs end as FAILED, temporary files go."""
    _end("stopped by signal TERM", exit_code=_TERMINATED)


def _end(message: str, *, exit_code: int = 1) -> NoReturn:
    """Write one line on standard error and leave."""
    with contextlib.suppress(OSError):  # whoever closed it does not want to know
        click.echo(f"annotary: error: {' '.join(message.split())}", err=True)
    sys.exit(exit_code)


def _tell(text: str) -> None:
    """Write a result on standard output.

    Raises
    ------
    OutputError
        If it takes none.
    """
    try:
        click.echo(printable(text))
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError):  # Python would try once more at the end, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(
            "standard output",
            expected="to take the result",
            found=(error.strerror or str(error)).lower(),
            remedy="The work itself is done; what was done is in the run's artifacts.",
        ) from error


def stage_command(
    name: str, options: type[config.StageConfig], *, argument: str = ""
) -> Callable[[Command], click.Command]:
    """Make a command of a function that takes a configuration; one field may need no option's name."""

    def decorate(function: Command) -> click.Command:
        def call(**values: Any) -> None:
            prepare_environment(Path(place) for place in (values.get("output"), ".") if place)
            _settle_run(name)
            for key in _PATHS:
                if key in values:
                    values[key] = resolve_path(values[key])
            for key in _NETWORKS:
                if key in values and not is_run_id(values[key]):
                    values[key] = resolve_path(values[key])
            for key in _PATH_LISTS:
                if key in values:
                    values[key] = resolve_paths(values[key])
            if "storage" in values:
                values["storage"] = resolve_storage(values["storage"])
            function(options.from_options(values))

        params: list[click.Parameter] = [
            click.Argument([key]) if key == argument else make_option(key, field)
            for key, field in options.model_fields.items()
        ]
        command = click.Command(name, params=params, callback=call, help=function.__doc__)
        cli.add_command(command)
        return command

    return decorate


def make_option(name: str, field: FieldInfo) -> click.Option:
    """Make the command-line option of a configuration field."""
    kind: Any = field.annotation
    if get_origin(kind) is Literal:
        kind = click.Choice(get_args(kind))
    flags = [f"--{name.replace('_', '-')}", name]
    if field.is_required():
        return click.Option(flags, type=kind, required=True, help=field.description)
    # `--allow-pickle` alone means true; MLproject always gives a value.
    bare: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if kind is bool else {}
    return click.Option(
        flags,
        type=kind,
        default=field.default,
        show_default=field.default != "",
        help=field.description,
        **bare,
    )


# Stages are imported when their command runs: `annotary --help` and `annotary score` never load scvi-tools.


@stage_command("preprocess", config.PreprocessConfig)
def preprocess(options: config.PreprocessConfig) -> None:
    """Turn raw counts into a dataset file: quality, doublets, split, gene panel."""
    from annotary.stages.preprocess import preprocess as run

    done = run(options)
    _tell(f"dataset file   {done.path}\naddress        {done.address}")


@stage_command("baselines", config.BaselinesConfig)
def baselines(options: config.BaselinesConfig) -> None:
    """Tune and train the baselines: logistic regression, random forest, linear SVM."""
    from annotary.stages.baselines import baselines as run

    for candidate in run(options):
        _tell(f"{candidate.kind}: {candidate.uri}")


@stage_command("pretrain", config.PretrainConfig)
def pretrain(options: config.PretrainConfig) -> None:
    """Train a network without labels, for transformer --init-from."""
    from annotary.stages.pretrain import pretrain as run

    _tell(f"pretrained network: {run(options).uri}")


@stage_command("transformer", config.TransformerConfig)
def transformer(options: config.TransformerConfig) -> None:
    """Train the self-attention network."""
    from annotary.stages.transformer import transformer as run

    candidate = run(options)
    _tell(f"{candidate.kind}: {candidate.uri}")


@stage_command("ensemble", config.EnsembleConfig)
def ensemble(options: config.EnsembleConfig) -> None:
    """Let the models of a dataset vote, with weights that its validation cells decide."""
    from annotary.stages.ensemble import ensemble as run

    candidate = run(options)
    _tell(f"{candidate.kind}: {candidate.uri}" if candidate else "no ensemble: one model is enough")


@stage_command("evaluate", config.EvaluateConfig)
def evaluate(options: config.EvaluateConfig) -> None:
    """Compare candidates on the test cells, register them, mark the best as challenger."""
    from annotary.stages.evaluate import evaluate as run
    from annotary.stages.evaluate import make_table

    _tell(make_table(run(options)))


@stage_command("promote", config.PromoteConfig)
def promote(options: config.PromoteConfig) -> None:
    """Make the challenger champion if it is better."""
    from annotary.stages.promote import promote as run

    done = run(options)
    champion = f"version {done.champion.number}" if done.champion else "none"
    _tell(f"champion: {champion} ({done.verdict.reason})")


@stage_command("rollback", config.RollbackConfig)
def rollback(options: config.RollbackConfig) -> None:
    """Return to the champion before."""
    from annotary.stages.rollback import rollback as run

    _tell(f"champion: version {run(options).number}")


@stage_command("score", config.ScoreConfig)
def score(options: config.ScoreConfig) -> None:
    """Annotate files with the champion, each once; a JSON summary goes to standard output.

    The exit code is 0 where all went well, 3 where some files could not be annotated, 2 where
    none could, 4 for drift if asked for, and 5 where MLflow could not be told in the end.
    """
    from annotary.stages.score_process import open_worker

    with open_worker(options) as process:  # what it imports, it imports beside what follows
        from annotary.stages.score import BatchError
        from annotary.stages.score import score as run

        try:
            outcome = run(options, process=process)
        except BatchError as error:
            _tell(error.outcome.to_json())
            raise
    _tell(outcome.to_json())
    click.get_current_context().exit(outcome.exit_code)


@stage_command("models", config.ModelsConfig)
def models(options: config.ModelsConfig) -> None:
    """List versions with aliases, macro-F1, dataset and date."""
    from annotary.stages.listing import list_models

    _tell(list_models(options))


@stage_command("ledger", config.LedgerConfig)
def ledger(options: config.LedgerConfig) -> None:
    """Show the promotion ledger, and check that nobody altered it."""
    from annotary.stages.listing import list_promotions

    _tell(list_promotions(options))


@stage_command("verify", config.VerifyConfig, argument="file")
def verify(options: config.VerifyConfig) -> None:
    """Check an annotated file: its labels, the version that gave them, the input."""
    from annotary.stages.verify import refuse_altered
    from annotary.stages.verify import verify as run

    findings = run(options)
    for one in findings:
        _tell(f"{_MARKS[one.holds]:8} {one.what}: {one.says}")
    refuse_altered(findings, options.file)


@stage_command("main", config.MainConfig)
def pipeline(options: config.MainConfig) -> None:
    """Run the whole way: preprocess, baselines, transformer, ensemble, evaluate, promote, score."""
    from annotary.stages.evaluate import make_table
    from annotary.stages.pipeline import run_pipeline
    from annotary.tracking import describe_ui

    done = run_pipeline(options)
    champion = done.promotion.champion
    _tell("\n" + make_table(done.evaluated) + "\n")
    _tell(f"champion         {champion.uri if champion else 'none'} ({done.promotion.verdict.reason})")
    for scored in done.scored:
        _tell(f"annotated file   {scored.target}")
    _tell(f"MLflow UI        {describe_ui()}")


if __name__ == "__main__":
    main()
