"""A Python that has imported the libraries: commands run in forks of it, each in a process of its own.

Importing them takes most of the time of a small command, and the tests start a hundred. rd_hf itself is not imported.
Run as a script this is the server: it reads lines of JSON, and answers with a process's number or its exit code.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

LIBRARIES = """accelerate datasets evaluate huggingface_hub.hf_api jinja2 kornia.augmentation matplotlib.pyplot
    matplotlib.backends.backend_agg psutil safetensors.torch sklearn.metrics torch transformers.image_processing_utils
    transformers.modeling_utils transformers.pipelines transformers.models.resnet.modeling_resnet
    transformers.models.vit.modeling_vit transformers.models.vit.image_processing_pil_vit"""

EMPTY_PLOTS = {"RD_HF_TESTS_EMPTY_PLOTS": "1"}  # in the environment of a command whose plots nobody looks at
SHORT_WAITS = {"RD_HF_TESTS_SHORT_WAITS": "1"}  # of one that waits a while before it tries again


class WarmPython:
    """Starts with the first command.

    :param environment: of the server and of its commands; libraries read some variables once, when they are imported.
    :param libraries: names of the modules that it has imported.
    """

    def __init__(self, environment: dict[str, str], libraries: str = LIBRARIES):
        self.environment, self.libraries, self.server = environment, libraries, None

    def start(
        self, *command: str, cwd: Path, environment: dict[str, str] | None = None, timeout: int = 240
    ) -> Callable[[], subprocess.CompletedProcess]:
        """Start `python *command`, with `-m module ...` or `-c code ...`.

        :param environment: variables that the libraries read at each use.
        :return: waits for its end, and gives what it printed, as text; its `pid` is that of the process.
        """
        if self.server is None:
            line = [sys.executable, __file__, self.libraries]
            pipe = subprocess.PIPE
            self.server = subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True, env=self.environment)
        folder = tempfile.TemporaryDirectory()
        output = [f"{folder.name}/out", f"{folder.name}/err"]
        values = self.environment | (environment or {})
        child = self.ask(command=command, cwd=str(cwd), timeout=timeout, output=output, environment=values)

        def finish() -> subprocess.CompletedProcess:
            with folder:
                code = self.ask(wait=child)
                return subprocess.CompletedProcess(command, code, *(Path(path).read_text() for path in output))

        finish.pid = child
        return finish

    def run(self, *command: str, **options) -> subprocess.CompletedProcess:
        """The same, run to its end."""
        return self.start(*command, **options)()

    def processes(
        self, number: int, *command: str, environment: dict[str, str] | None = None, **options
    ) -> list[subprocess.CompletedProcess]:
        """The same in several processes of one job, with the environment that launchers set."""
        job = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        job |= {"ACCELERATE_USE_CPU": "true"} | (environment or {})
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]
        started = [self.start(*command, environment=job | rank, **options) for rank in ranks]
        return [finish() for finish in started]

    def ask(self, **request) -> int:
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def close(self) -> None:
        if self.server is not None:
            self.server.stdin.close()
            self.server.wait()


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print
    import importlib

    for name in sys.argv[1].split():
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                _become(**request)
        answers.write(f"{answer}\n")
        answers.flush()


def _become(command: list[str], cwd: str, timeout: int, output: list[str], environment: dict[str, str]) -> None:
    """Run the command in this process, and end it."""
    import atexit
    import runpy
    import signal
    import traceback

    signal.alarm(timeout)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if SHORT_WAITS.keys() <= environment.keys():
        import time

        sleep = time.sleep
        time.sleep = lambda seconds: sleep(seconds / 20)
    if EMPTY_PLOTS.keys() <= environment.keys():
        import drawing

        drawing.leave_plots_empty()
    for number, path in enumerate(output, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    kind, what, *rest = command
    sys.path[0], sys.argv, code = "", [kind, *rest], 0
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
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
    serve()
