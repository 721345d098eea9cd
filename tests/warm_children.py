"""Python processes that a command starts, as forks of the command: its workers, and what a launcher launches.

Starting Python and importing the libraries takes ten times as long as what such a process does in a test.
"""

from __future__ import annotations

import multiprocessing.util
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence

from warm_server import close_all_but, run_and_end

_start = subprocess.Popen.__init__


def start_as_forks() -> None:
    """From now on the processes that this one starts with its own Python are forks of it."""
    multiprocessing.util.spawnv_passfds = _fork_with_files
    subprocess.Popen.__init__ = _start_as_fork


def _fork_with_files(path: str, arguments: Sequence, files: Sequence[int]) -> int:
    """As `multiprocessing.util.spawnv_passfds`, with which the server of forks and the tracker of resources start."""
    sys.stdout.flush(), sys.stderr.flush()
    process = os.fork()
    if process == 0:
        try:
            close_all_but(files)
            exec(os.fsdecode(arguments[-1]), {"__name__": "__main__"})
        except BaseException as error:
            if not isinstance(error, SystemExit):
                traceback.print_exc()
        finally:
            os._exit(0)
    return process


def _start_as_fork(self, args, *positional, env=None, pass_fds=(), **options) -> None:
    """A process of this Python runs its command where another would begin to execute its program."""
    if isinstance(args, str | os.PathLike) or args[0] != sys.executable:
        _start(self, args, *positional, env=env, pass_fds=pass_fds, **options)
        return
    command = [str(word) for word in args[1:]]
    if command[0] == "-u":
        del command[0]
    environment = dict(os.environ if env is None else env)

    def begin() -> None:
        close_all_but(pass_fds)  # and so tells the parent that the program has begun
        os.environ.clear()
        os.environ.update(environment)
        run_and_end(command)

    sys.stdout.flush(), sys.stderr.flush()
    _start(self, args, *positional, env=env, pass_fds=pass_fds, preexec_fn=begin, **options)
