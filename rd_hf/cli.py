"""The command line: `rd-hf distill | compare | students | evaluate | predict | ...`, or `python -m rd_hf ...`.

Answers go to stdout, everything else to stderr. Modules that import torch are imported only once a command runs.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import nullcontext
from dataclasses import fields

from .arguments.commands import (
    CacheClearArguments,
    CacheInfoArguments,
    CacheVerifyArguments,
    EvaluationArguments,
    ExportArguments,
    InfoArguments,
    PredictionArguments,
    PushArguments,
    ReportArguments,
    StudentsArguments,
)
from .arguments.config import check_names, for_method, read_config
from .arguments.distillation import DistillationArguments
from .arguments.effects import Origin, refuse_given
from .arguments.options import check_values
from .arguments.values import ArgumentError
from .runtime.interrupts import Stopped, stopping_at_once

COMMANDS = {
    "distill": "train a student from a frozen teacher: rd-hf distill --config examples/busi.yaml",
    "compare": "compare methods on your data: rd-hf compare --config examples/compare/own_images.yaml",
    "students": "list ready students within a budget, measured on this machine: rd-hf students --max_params 1M",
    "report": "write the report of a finished or killed run, without training: rd-hf report runs/xray",
    "evaluate": "score a student or reprogrammed teacher on labelled images; print one JSON object",
    "predict": "classify or segment image files, folders and globs; print a table or JSON lines",
    "export": "write a student as a transformers checkpoint, ONNX, a web page or a MONAI bundle; print one JSON object",
    "info": "say what a run or a model is, what it reads, how it decides, what it costs: rd-hf info runs/xray",
    "push": "publish a model or its web page on the Hub: rd-hf push runs/xray/student --repo_id me/xray-student",
    "cache": "manage the teacher features stored on disk: rd-hf cache info | build | verify | clear",
}
CACHE_COMMANDS = {
    "info": "list the caches: their keys in words, number of entries, size on disk and age",
    "build": "fill a run's cache in advance: rd-hf cache build --config x.yaml; takes the arguments of distill",
    "verify": "compare all entries with their checksums, and drop damaged ones",
    "clear": "delete caches without asking, and print which",
}
FIRST = {"info": "model", "push": "folder", "report": "run"}  # options whose value may come without its flag
USAGE = "usage: rd-hf COMMAND [options]\n\ncommands:\n" + "".join(f"  {n:10} {t}\n" for n, t in COMMANDS.items())
USAGE += "\n`rd-hf COMMAND --help` lists a command's options.\n"

OUT_OF_MEMORY = (
    "There is too little memory. Take fewer images per batch: per_device_train_batch_size (gradient_accumulation_steps "
    "keeps the total), teacher_batch_size and per_device_eval_batch_size of a training, batch_size elsewhere. Or make "
    "them smaller: student_image_size and teacher_image_size, crop_size or volume_size of volumes."
)
UNFORESEEN = (
    "This error was not foreseen. Please report it to the maintainers of rd_hf, with the lines above and the command."
)
EXIT_USAGE = 2
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    :return: the exit code: 0, 1 for a failure, 2 for wrong usage, 130 when interrupted; `rd_hf.runtime.interrupts` has
        more.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if argv else EXIT_USAGE
    if argv[0] == "--version":
        from ._version import __version__

        print(f"rd_hf {__version__}")
        return 0
    command, options = argv[0], argv[1:]
    if command not in COMMANDS:
        from .arguments.values import nearest

        print(f"rd-hf: unknown command `{command}`.{nearest(command, list(COMMANDS))}\n\n{USAGE}", file=sys.stderr)
        return EXIT_USAGE
    return _run(command, options)


def _set_up_logging() -> None:
    """Log rd_hf to stderr. Of transformers show only errors: rd_hf itself checks what matters in its load reports."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("rd_hf").setLevel(logging.INFO)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own, so every line came twice


def _run(command: str, options: list[str]) -> int:
    try:
        _set_up_logging()
        commands = {
            "distill": _distill, "compare": _compare, "students": _students, "evaluate": _evaluate,
            "report": _report, "predict": _predict, "export": _export, "info": _info, "push": _push, "cache": _cache,
        }  # fmt: skip
        return commands[command](options)
    except ArgumentError as error:
        print(f"rd-hf {command}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt as interrupt:
        print(f"rd-hf {command}: interrupted. {interrupt}".rstrip(), file=sys.stderr)
        return interrupt.exit_code if isinstance(interrupt, Stopped) else EXIT_INTERRUPTED
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        # rd_hf's errors, and the libraries' errors about a user's model or data: print a sentence, not a traceback.
        if os.environ.get("RD_HF_DEBUG"):
            raise
        logging.getLogger("rd_hf").debug("", exc_info=True)
        print(f"rd-hf {command}: {error}", file=sys.stderr)
        return EXIT_FAILED
    except Exception as error:
        if _is_out_of_memory(error):
            print(f"rd-hf {command}: {OUT_OF_MEMORY}", file=sys.stderr)
            return EXIT_FAILED
        error.add_note(f"rd-hf {command}: {UNFORESEEN}")  # the last line, under the traceback
        raise


def _is_out_of_memory(error: Exception) -> bool:
    from torch import OutOfMemoryError

    of_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)  # which has no type of its own
    return of_cpu or isinstance(error, MemoryError | OutOfMemoryError)


def parse_distillation(options: list[str], command: str = "distill") -> DistillationArguments:
    """Arguments of `distill` from flags, over those of `--config`, over the defaults.

    :raises ArgumentError: for an unknown name, a bad value or a missing file.
    """
    parser = _parser(command, DistillationArguments)
    parser.add_argument("--config", metavar="FILE", help="YAML file of arguments; flags override it")
    known, _ = parser.parse_known_args(options)
    if known.config is None:
        return _parse(parser, options, DistillationArguments)
    in_file, typed = read_config(known.config), _typed(options, DistillationArguments)
    if "method" in typed:
        in_file = for_method(in_file, known.method)
    parser.set_defaults(**in_file)
    arguments = _parse(parser, options, DistillationArguments)
    arguments.origin = Origin.of(in_file, typed)
    return arguments


def _typed(options: list[str], kind: type) -> set[str]:
    """The arguments that flags give."""
    parser, nothing = _parser("", kind), object()
    parser.set_defaults(**dict.fromkeys((field.name for field in fields(kind)), nothing))
    values, _ = parser.parse_known_args(options)
    return {name for name, value in vars(values).items() if value is not nothing}


def parse_comparison(options: list[str]):
    """The plan of `compare` from flags, over those of `--config`, over the defaults.

    :raises ArgumentError: for an unknown name, a bad value or a missing file.
    """
    from .comparison.arguments import OF_GRID, ComparisonArguments
    from .comparison.plan import Plan

    parser = _parser("compare", ComparisonArguments)
    parser.add_argument("--config", metavar="FILE", help="YAML file of the comparison; flags override it")
    known, _ = parser.parse_known_args(options)
    if known.config is not None:
        parser.set_defaults(**read_config(known.config, ComparisonArguments))
    arguments = _parse(parser, options, ComparisonArguments)
    arguments.is_overridden = known.config is not None and bool(_typed(options, ComparisonArguments) & OF_GRID)
    return Plan(arguments)


def _parser(command: str, kind: type):
    from .arguments.parser import OptionParser

    described = COMMANDS | {f"cache {name}": text for name, text in CACHE_COMMANDS.items()}
    return OptionParser(kind, prog=f"rd-hf {command}", description=described.get(command), first=FIRST.get(command))


def _parse(parser, options: list[str], kind: type):
    values, unknown = parser.parse_known_args(options)
    for option in unknown:
        if option.startswith("--"):
            check_names({option[2:].split("=")[0].replace("-", "_"): None}, kind)
    if unknown:
        raise ArgumentError(f"Unknown argument{'s' if len(unknown) > 1 else ''} `{' '.join(unknown)}`.")
    values = vars(values)
    values.pop("config", None)
    arguments = kind(**values)
    check_values(arguments)
    return arguments


def _distill(options: list[str]) -> int:
    arguments = parse_distillation(options)
    if arguments.output_dir is None:
        raise ArgumentError("`output_dir` is missing: give the folder that the student is written to.")
    with stopping_at_once():
        from .runtime.progress import console
        from .training.distillation import run_distillation

        with console():
            run_distillation(arguments)
    return 0


def _compare(options: list[str]) -> int:
    plan = parse_comparison(options)
    with stopping_at_once():
        from .comparison.run import run_comparison
        from .runtime.progress import console

        with console():
            run_comparison(plan)
    return 0


def _students(options: list[str]) -> int:
    arguments = _parse(_parser("students", StudentsArguments), options, StudentsArguments)
    import json

    from .students.budget import students_table, students_within

    values = vars(arguments)
    as_json = values.pop("json")
    students = students_within(**values)
    print("\n".join(json.dumps(vars(student)) for student in students) if as_json else students_table(students))
    return 0


def _evaluate(options: list[str]) -> int:
    arguments = _parse(_parser("evaluate", EvaluationArguments), options, EvaluationArguments)
    import json

    from .inference.evaluation import evaluate
    from .runtime.progress import console

    with console():
        scores = evaluate(**vars(arguments))
    print(json.dumps(scores, indent=2))
    return 0


def _predict(options: list[str]) -> int:
    arguments = _parse(_parser("predict", PredictionArguments), options, PredictionArguments)
    from .inference.loading import load_model
    from .inference.prediction import predict_loaded
    from .inference.prediction_table import PredictionTable, json_lines, print_predictions
    from .runtime.progress import hidden_progress
    from .tasks.classification import Classification
    from .tasks.segmentation import Segmentation

    values = vars(arguments)
    as_json, top_k = values.pop("json"), values.pop("top_k")
    of_loading = {name: values.pop(name) for name in ("model", "revision", "backbone", "trust_remote_code")}
    loaded = load_model(**of_loading)
    if isinstance(loaded.task, Segmentation) and arguments.output_dir is None:
        raise ArgumentError("This model gives masks: name a folder for them with `output_dir`.")
    why = "`json` prints every class" if as_json else "this model gives masks"
    if as_json or isinstance(loaded.task, Segmentation):
        refuse_given(PredictionArguments, {"top_k": top_k}, why)
    has_point = isinstance(loaded.task, Classification) and loaded.task.operating_point is not None
    lines = json_lines if as_json else PredictionTable(top_k, with_answer=has_point).lines
    answers = predict_loaded(loaded, **values)
    with hidden_progress() if sys.stdout.isatty() else nullcontext():  # there the answers show how far it is
        print_predictions(answers, lines, at_once=arguments.batch_size if loaded.volumes is None else 1)
    return 0


def _report(options: list[str]) -> int:
    arguments = _parse(_parser("report", ReportArguments), options, ReportArguments)
    with stopping_at_once():
        from .training.run_report import report

        report(**vars(arguments))
    return 0


def _push(options: list[str]) -> int:
    arguments = _parse(_parser("push", PushArguments), options, PushArguments)
    from .hub.push import push

    print(push(**vars(arguments)))
    return 0


def _info(options: list[str]) -> int:
    arguments = _parse(_parser("info", InfoArguments), options, InfoArguments)
    import json

    from .inference.info import info
    from .inference.info_files import info_table

    values = vars(arguments)
    as_json = values.pop("json")
    facts = info(**values)
    print(json.dumps(facts, indent=2) if as_json else info_table(facts))
    return 0


def _export(options: list[str]) -> int:
    arguments = _parse(_parser("export", ExportArguments), options, ExportArguments)
    import json

    from .exports.run import export

    print(json.dumps(export(**vars(arguments)), indent=2))
    return 0


def _cache(options: list[str]) -> int:
    if not options or options[0] not in CACHE_COMMANDS:
        lines = "".join(f"\n  {name:10} {text}" for name, text in CACHE_COMMANDS.items())
        if options and options[0] in ("-h", "--help"):
            print(f"usage: rd-hf cache COMMAND [options]\n{lines}")
            return 0
        raise ArgumentError(f"choose one of these commands:{lines}")
    command, options = options[0], options[1:]
    if command == "build":
        arguments = parse_distillation(options, "cache build")
        with stopping_at_once():
            from .runtime.progress import console
            from .training.fill_cache import build

            with console():
                done = build(arguments)
        print(done)
        return 0
    kind = {"info": CacheInfoArguments, "verify": CacheVerifyArguments, "clear": CacheClearArguments}[command]
    arguments = _parse(_parser(f"cache {command}", kind), options, kind)
    from .teacher_cache import commands as cache_commands

    print(getattr(cache_commands, command)(**vars(arguments)))
    return 0
