"""`modelfleet`: the lab's commands. Each is a module `command` with its options and its work.

In: the command line. Out: an exit status: 0 done, 1 a program failed, 2 wrong options or data, 130
interrupted.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from rich.console import Console

from modelfleet_lab.command_line import Command, CommandError
from modelfleet_lab.demo import command as demo
from modelfleet_lab.estimator import command as estimator
from modelfleet_lab.evaluate import command as evaluate
from modelfleet_lab.plan import command as plan
from modelfleet_lab.report import command as report
from modelfleet_lab.simulate import command as simulate
from modelfleet_lab.train import command as train

COMMANDS: tuple[Command, ...] = (demo, plan, simulate, evaluate, report, train, estimator)
PLAIN_WIDTH = 120
"""Columns of the table where there is no terminal to ask."""
EXAMPLES = """examples:
  modelfleet demo                         watch a fleet being planned, scaled and routed on this machine
  modelfleet demo --seed 7                other questions at other times
  modelfleet demo --data DIR --trace FILE real questions, recorded outcomes, the times of your trace
  modelfleet plan -f FLEET --demand 20    what a fleet would run for 20 requests a second, and why
  modelfleet simulate --faults some       leases, prices and limits of many sidecars in virtual time
  modelfleet evaluate --data DIR          what routing gains on recorded outcomes, against baselines
  modelfleet report --json FILE           one page of evaluations: what is better, and what is not
  modelfleet train --data DIR             learn from recorded outcomes which model answers what how well
  modelfleet estimator inspect FILE       what such an estimator knows
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="modelfleet",
        description="The lab of modelfleet.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
    words = sys.argv[1:] if argv is None else argv
    options = _parser().parse_args(words)
    options.typed = shlex.join(["modelfleet", *words])
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)

    def say(message: object) -> None:
        console.print(
            f"modelfleet {options.command}: {message}", markup=False, highlight=False, soft_wrap=True
        )

    try:
        return int(options.run(options, console))
    except CommandError as error:
        say(error)
        return 1
    except OSError as error:
        say(error if error.filename is None else f"{error.filename}: {error.strerror}")
        return 2
    except ValueError as error:
        say(error)
        return 2
    except KeyboardInterrupt:
        say("interrupted; all it started has been stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main())
