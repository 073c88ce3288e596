"""The command line. Results go to stdout, the log and progress to stderr.

Exit codes: 0 done; 1 a target was missed or something failed; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.batch import commands as batches
from workbench.exits import DONE, FAILED, INTERRUPTED, USAGE
from workbench.zoo import NAMES

if TYPE_CHECKING:
    from torch import nn

    from workbench.deploy import Int8
    from workbench.result import Result
    from workbench.study import Study

LIMITS = ("minimum", "keep", "pin", "forbid", "tie")  # options of compress
ROWS = {"macs": "MACs", "params": "parameters", "activation_bytes": "activations, B", "size_bytes": "size, B"}
OUT = "folder for weights, plan.json, report.html and result.json"
WRONG_PATH = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if not hasattr(given, "run"):
        parser.print_help(sys.stderr)
        return USAGE
    try:
        code = int(given.run(given))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        store = getattr(given, "store", None)
        return _say(f"interrupted; run the same again to go on from {store}" if store else "interrupted", INTERRUPTED)
    except ValueError as error:
        return _say(str(error), USAGE)
    except ModuleNotFoundError as error:  # an extra that is not installed
        return _say(str(error), FAILED)
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        return _say(said, USAGE if isinstance(error, WRONG_PATH) else FAILED)
    except Exception as error:
        from workbench.errors import Refused

        if not isinstance(error, Refused):
            raise
        return _say(str(error), FAILED)


def _say(message: str, code: int) -> int:
    print(f"workbench: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="workbench",
        description="Structured compression for PyTorch models: find out what each layer can lose, decide, rewrite.",
        epilog="Exit codes: 0 done, 1 a target was missed or something failed, 2 wrong usage, 130 interrupted.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in (_add_demo, _add_sensitivity, _add_compress, _add_batch, _add_report, _add_restore, _add_export):
        add(commands)
    return parser


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
    description = about[0].upper() + about[1:] + "."
    command: argparse.ArgumentParser = commands.add_parser(name, help=about, description=description)
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.set_defaults(run=run)
    return command


def _add_search_options(command: argparse.ArgumentParser, mode: str = "auto") -> None:
    command.add_argument(
        "--criterion", default="elimination", metavar="NAME",
        help="how channels are selected: elimination (default), lasso, fisher, taylor, l1, l2, geometric-median, "
        "slimming, activation-energy, active-positions, random",
    )  # fmt: skip
    command.add_argument(
        "--methods", default="channels,spatial_svd,weight_svd,tucker", metavar="NAMES",
        help="what may be done to a layer, with commas between (default %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--mode", default=mode, choices=("auto", "measured", "predicted"),
        help="of the sensitivity search: measure the points on which plans depend, all of them, or none "
        f"(default {mode})",
    )  # fmt: skip
    command.add_argument(
        "--store", type=Path, metavar="FOLDER", help="keep what the search has finished, to go on from there if killed"
    )
    command.add_argument(
        "--workers", type=int, metavar="N", help="processes that score candidates (default: only this one)"
    )
    command.add_argument(
        "--retries", type=int, default=1, metavar="N", help="how often a failed evaluation is tried again (default 1)"
    )
    command.add_argument("--seed", type=int, default=0, help="of what is drawn from the data (default 0)")
    command.add_argument("--quiet", action="store_true", help="no progress bars")


def _add_plan_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--evaluations", type=int, default=0, metavar="N",
        help="models that may be scored to find a plan whose groups lose less together; 0: none (default 0)",
    )  # fmt: skip
    command.add_argument(
        "--refinement", type=int, default=300, metavar="STEPS",
        help="steps in which all layers are refined together after the repair; 0: none (default 300)",
    )  # fmt: skip


def _add_limit_options(command: argparse.ArgumentParser) -> None:
    """Each may be given several times; a name is a glob of groups, of layers that make them, or of their kinds."""
    for option, metavar, about in (
        ("--minimum", "NAME=LEAST", "least width of some groups: a share like 0.25, or a number of units"),
        ("--keep", "NAME", "groups that stay whole"),
        ("--pin", "NAME=WIDTH", "the one width of some groups"),
        ("--forbid", "NAME=WIDTH,WIDTH", "widths that some groups may not have"),
        ("--tie", "NAME,NAME", "groups that get the same width"),
    ):
        command.add_argument(option, action="append", default=[], metavar=metavar, help=about)


def _add_demo(commands: Any) -> None:
    command = _command(commands, "demo", compress, "compress a shipped network to half its MACs and write the report")
    command.add_argument("--model", default="vgg", help=f"a network of the zoo: {', '.join(NAMES)} (default vgg)")
    command.add_argument("--out", type=Path, default=Path("reports/demo"), help=f"{OUT} (default reports/demo)")
    command.set_defaults(budget="macs=0.5", **dict.fromkeys(LIMITS, ()))
    _add_plan_options(command)
    _add_search_options(command, mode="measured")


def _add_sensitivity(commands: Any) -> None:
    about = "measure how the score falls as each layer gives up channels"
    command = _command(commands, "sensitivity", sensitivity, about)
    command.add_argument("--model", required=True, help=f"a network of the zoo: {', '.join(NAMES)}")
    _add_search_options(command)


def _add_compress(commands: Any) -> None:
    command = _command(commands, "compress", compress, "make a network smaller under a budget, without training")
    command.add_argument("--model", required=True, help=f"a network of the zoo: {', '.join(NAMES)}")
    command.add_argument(
        "--budget", required=True,
        help="shares of the original's macs, params, activation_bytes, size_bytes, latency_ms, as macs=0.5 or "
        "macs=0.5,params=0.4,multiple=8; bytes and milliseconds also as amounts above 1; "
        "multiple:PATTERN=16 for some groups",
    )  # fmt: skip
    command.add_argument("--out", type=Path, required=True, help=OUT)
    _add_limit_options(command)
    _add_plan_options(command)
    _add_search_options(command)


def _add_batch(commands: Any) -> None:
    batches.add_batch(_command(commands, "batch", batches.batch, "compress many networks as a job file says"))
    batches.add_list(_command(commands, "list", batches.list_runs, "list the runs of a batch"))
    batches.add_compare(_command(commands, "compare", batches.compare, "show finished runs side by side"))
    batches.add_clean(_command(commands, "clean", batches.clean, "remove what killed and failed runs have left"))


def _add_report(commands: Any) -> None:
    command = _command(commands, "report", report, "write the HTML report of a result again")
    command.add_argument("result", type=Path, help="a result.json, or the folder that holds one")
    command.add_argument("--out", type=Path, help="the HTML file (default: report.html beside the result)")


def _add_restore(commands: Any) -> None:
    command = _command(commands, "restore", restore, "load a compressed network of the zoo again")
    command.add_argument("folder", type=Path, help="what compress wrote")
    command.add_argument("--verify", action="store_true", help="compare with the stored outputs, bit for bit")


def _add_export(commands: Any) -> None:
    about = "write a compressed network of the zoo as a file that runs without workbench"
    command = _command(commands, "export", export, about)
    command.add_argument("folder", type=Path, help="what compress wrote")
    command.add_argument("--onnx", type=Path, metavar="FILE", help="write ONNX, checked against onnxruntime")
    command.add_argument(
        "--int8", action="store_true",
        help="quantise the ONNX file, with scales and biases from calibration images; the test accuracy is told",
    )  # fmt: skip
    command.add_argument("--pt2", type=Path, metavar="FILE", help="write a PyTorch exported program")


def compress(given: argparse.Namespace) -> int:
    """Compress one network of the zoo and save the result."""
    from workbench.allocate.budget import Budget
    from workbench.limits import Limits
    from workbench.refine import Refinement

    budget = Budget.parse(given.budget)
    limits = Limits.parse(**{name: getattr(given, name) for name in LIMITS})
    study = _study(given, refinement=Refinement(given.refinement) if given.refinement else None)
    given.out.mkdir(parents=True, exist_ok=True)  # before minutes of work, not after
    print(f"workbench: {given.model} under {budget}", file=sys.stderr)
    if given.mode == "measured":
        study.sensitivity(given.mode)  # for the report: finer than the plan needs
    plan = study.allocate(budget, limits=limits, mode=given.mode)
    result = study.compress(study.refine(plan, given.evaluations) if given.evaluations else plan)
    result.save(given.out)
    _print_result(result, given)
    return DONE if result.target_met and result.verification.ok else FAILED


def sensitivity(given: argparse.Namespace) -> int:
    """Print the curves of one network of the zoo."""
    curves = _study(given).sensitivity(given.mode)
    if given.json:
        print(json.dumps(curves.to_dict()))
        return DONE
    print(f"loss of {curves.metric} by kept share ({curves.samples} samples, original {curves.baseline:.4f})")
    print(curves.to_table().to_string(float_format="{:.4f}".format))
    return DONE


def report(given: argparse.Namespace) -> int:
    """Render a stored result."""
    from workbench.artefact import RESULT
    from workbench.reading import read_object
    from workbench.report import write

    source = given.result / RESULT if given.result.is_dir() else given.result
    data = read_object(source, "name another, or compress again")
    target = given.out or source.with_name("report.html")
    write(data, target)
    print(json.dumps({"report": str(target)}) if given.json else target)
    return DONE


def restore(given: argparse.Namespace) -> int:
    """Load an artefact, and replay its reference batch."""
    from workbench import artefact
    from workbench.cost.count import count

    plan = artefact.read_plan(given.folder)
    model = artefact.restore(_original(plan, given.folder), given.folder)
    equal = artefact.replays(model, given.folder) if given.verify else None
    macs = count(model, artefact.reference_inputs(given.folder)).macs
    if given.json:
        print(json.dumps({"model": plan["name"], "macs": macs, "bit_equal": equal}))
    else:
        verdict = {None: "", True: "; stored outputs reproduced bit for bit", False: "; stored outputs NOT reproduced"}
        print(f"{plan['name']}: {macs / 1e6:.2f} M MACs{verdict[equal]}")
    return FAILED if equal is False else DONE


def export(given: argparse.Namespace) -> int:
    """Restore an artefact and write it in other formats."""
    from workbench import artefact, zoo
    from workbench.deploy import export_onnx, export_program, made_by

    if not (given.onnx or given.pt2):
        raise ValueError("name a file to write: --onnx FILE, --pt2 FILE, or both")
    if given.int8 and not given.onnx:
        raise ValueError("--int8 is of an ONNX file; name one: --onnx FILE")
    plan = artefact.read_plan(given.folder)
    model = artefact.restore(_original(plan, given.folder), given.folder)
    inputs, exported = artefact.reference_inputs(given.folder), []
    if given.onnx:
        int8 = _int8() if given.int8 else None
        written = export_onnx(model, inputs, given.onnx, int8=int8, made=made_by(plan))
        exported.append(written if int8 is None else written.beside(zoo.load(plan["name"]), int8))
    if given.pt2:
        exported.append(export_program(model, inputs, given.pt2))
    print(json.dumps([one.to_dict() for one in exported]) if given.json else "\n".join(map(repr, exported)))
    return DONE


def _original(plan: Mapping[str, Any], folder: str) -> nn.Module:
    """The network of the zoo that an artefact was made of."""
    from workbench import zoo

    if plan["name"] not in NAMES:
        raise ValueError(
            f"{folder} was made of {plan['name']}, which is no network of the zoo; in Python, wb.restore(model, "
            f"{str(folder)!r}) makes it of a model of your own"
        )
    return zoo.build(plan["name"])


def _int8() -> Int8:
    """What the networks of the zoo are quantised with."""
    from workbench import data
    from workbench.deploy import Int8
    from workbench.zoo.task import test_score

    return Int8(data.fashion_mnist("calibration")[0], evaluate=test_score())


def _study(given: argparse.Namespace, **options: Any) -> Study:
    from workbench.methods import Methods
    from workbench.select import by_name
    from workbench.zoo.task import study

    criterion = by_name(given.criterion)
    return study(
        given.model,
        criterion=criterion,
        methods=Methods.parse(given.methods),
        seed=given.seed,
        store=given.store,
        workers=given.workers,
        retries=given.retries,
        progress=not given.quiet,
        **options,
    )


def _print_result(result: Result, given: argparse.Namespace) -> None:
    from workbench.artefact import REPORT

    report = str(given.out / REPORT)
    if given.json:
        summary = {
            "model": given.model, **{f"{name}_ratio": ratio for name, ratio in result.ratio.items()},
            "score": result.score.name, "score_before": result.score.before, "score_after": result.score.after,
            "predicted_loss": result.plan.degradation, "real_loss": result.lost, "target_met": result.target_met,
            "verified": result.verification.ok, "report": report,
        }  # fmt: skip
        if result.latency is not None:
            summary |= {"latency_ms": result.latency.after.median, "predicted_latency_ms": result.latency.predicted}
        print(json.dumps(summary))
        return
    before, after = result.dense_cost, result.cost
    rows = [
        (f"{given.model}", "before", "after", "ratio"),
        *((word, f"{getattr(before, name):,}", f"{getattr(after, name):,}", f"{result.ratio[name]:.3f}")
          for name, word in ROWS.items() if name in ("macs", "params", *result.plan.budget.amounts)),
        (result.score.name, f"{result.score.before:.4f}", f"{result.score.after:.4f}", ""),
    ]
    for row in rows:
        print(f"{row[0]:<14} {row[1]:>12} {row[2]:>12} {row[3]:>6}".rstrip())
    if (searched := result.searched) is not None:
        print(f"loss of {searched.name} {result.lost:.4f}, predicted {result.plan.degradation:.4f}")
    if result.latency is not None:
        print(result.latency)
    print(f"{'target met' if result.target_met else 'TARGET MISSED'}, {result.verification!r}")
    print(report)


if __name__ == "__main__":
    sys.exit(main())
