"""A Python that has imported libraries, and forks a process of its own for each command that it is asked to run.

`WarmPython` starts it with a listening socket. On each connection it reads one line of JSON: a command to run, answered
by the process's number and, at its end, its exit code; libraries for a fork that serves on a socket of its own; or that
somebody stays, which it is told with a connection that says nothing. It ends when nobody stays.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

EMPTY_PLOTS = {"RD_HF_TESTS_EMPTY_PLOTS": "1"}  # in the environment of a command whose plots nobody looks at
SHORT_WAITS = {"RD_HF_TESTS_SHORT_WAITS": "1"}  # of one that waits a while before it tries again
WARM_CHILDREN = {"RD_HF_TESTS_WARM_CHILDREN": "1"}  # of one whose own Python processes are forks too
TESTS = str(Path(__file__).parent)
PATH = [place for place in sys.path if place != TESTS]


def serve(listener: socket.socket, libraries: Iterable[str]) -> None:
    """Import the libraries and answer until nobody stays."""
    for name in libraries:
        if importlib.util.find_spec(name.partition(".")[0]):  # some tests run without some of them
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a fork need not look at what all forks share
    os.fsync = lambda handle: None  # no test outlives the power
    told, tells = socket.socketpair()
    told.setblocking(False), tells.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
    running: dict[int, socket.socket] = {}
    staying: set[socket.socket] = set()
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(told, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                request = json.loads(connection.makefile("rb", buffering=0).readline())
                if request == "stay":
                    staying.add(connection)
                    selector.register(connection, selectors.EVENT_READ)
                else:
                    running[begin(request, connection)] = connection
            elif key.fileobj is told:
                told.recv(1000)
                tell_of_ended(running)
            else:
                selector.unregister(key.fileobj)
                staying.remove(key.fileobj)
                key.fileobj.close()
                if not staying:
                    while running:
                        tell_of_ended(running, 0)
                    return


def begin(request: dict, connection: socket.socket) -> int:
    """Start what is asked for; :return: the number of its process."""
    listener = listening(request.pop("serve")) if "serve" in request else None
    process = os.fork()
    if process == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        close_all_but([listener.fileno()] if listener else [])
        if listener is None:
            become(**request)
        take_environment(request["environment"])
        serve(listener, request["libraries"])
        os._exit(0)
    if listener is not None:
        listener.close()
    connection.sendall(f"{process}\n".encode())
    return process


def tell_of_ended(running: dict[int, socket.socket], options: int = os.WNOHANG) -> None:
    while running:
        process, status = os.waitpid(-1, options)
        if process == 0:
            return
        with running.pop(process) as connection, contextlib.suppress(ConnectionError):  # of who no longer asks
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def listening(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    Path(path).unlink(missing_ok=True)
    listener.bind(path)
    listener.listen(64)
    return listener


def close_all_but(kept: Iterable[int]) -> None:
    """Close what an exec would."""
    numbers = [2, *sorted(kept), os.sysconf("SC_OPEN_MAX")]
    for before, after in pairwise(numbers):
        os.closerange(before + 1, after)


def become(command: list[str], cwd: str, timeout: int, output: list[str], environment: dict[str, str]) -> None:
    """Run the command in this process, and end it."""
    signal.alarm(timeout)
    os.chdir(cwd)
    for number, path in enumerate(output, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    take_environment(environment)
    run_and_end(command)


def take_environment(environment: dict[str, str]) -> None:
    """Let the process have it, with what Python and transformers read from it when they start."""
    os.environ.clear()
    os.environ.update(environment)
    if SHORT_WAITS.keys() <= environment.keys():
        import time

        sleep = time.sleep
        time.sleep = lambda seconds: sleep(seconds / 20)
    if EMPTY_PLOTS.keys() <= environment.keys():
        import drawing

        drawing.leave_plots_empty()
    if WARM_CHILDREN.keys() <= environment.keys():
        import warm_children

        warm_children.start_as_forks()
    modules = environment.get("HF_MODULES_CACHE")
    if modules and "transformers" in sys.modules:
        from transformers import dynamic_module_utils

        dynamic_module_utils.HF_MODULES_CACHE = modules
    sys.path[:] = [*filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *PATH, TESTS]


def run_and_end(command: list[str]) -> None:
    """Run `python *command` as if Python had just started, and end this process.

    :param command: `-m module ...`, `-c code ...` or `script ...`.
    """
    import atexit
    import runpy
    import traceback

    if not command[0].startswith("-"):
        command = ["script", *command]
    kind, what, *rest = command
    sys.argv, code = [what if kind == "script" else kind, *rest], 0
    sys.path[:] = [place for place in sys.path if place != TESTS]
    sys.path.insert(0, str(Path(what).resolve().parent) if kind == "script" else "")
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        elif kind == "script":
            runpy.run_path(what, run_name="__main__")
        else:
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if code == 1 and end.code != 1:
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.dont_write_bytecode = False  # the first command that imports rd_hf compiles it for the others
    os.dup2(2, 1)  # libraries may print
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
