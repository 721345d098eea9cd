"""A Python that has imported the libraries: commands run in forks of it, each in a process of its own.

Importing them takes most of the time of a small command, and the tests start a hundred.
The processes of pytest-xdist share the servers, warm_server.py.
"""

from __future__ import annotations

import json
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock
from warm_server import listening

# Libraries without huggingface_hub, which reads its settings when it is imported.
FIRST_LIBRARIES = """torch torch._dynamo torch.distributed.tensor torch.utils.data sklearn.metrics sklearn.linear_model
    pandas pyarrow.dataset scipy.optimize scipy.ndimage nibabel psutil jinja2 yaml PIL.Image safetensors.torch"""
LIBRARIES = """accelerate datasets evaluate huggingface_hub.hf_api kornia.augmentation matplotlib.pyplot
    matplotlib.backends.backend_agg transformers.image_processing_utils transformers.modeling_utils
    transformers.pipelines transformers.models.resnet.modeling_resnet transformers.models.vit.modeling_vit
    transformers.models.vit.image_processing_pil_vit monai.bundle monai.inferers monai.networks.nets monai.transforms"""

RD_HF = """rd_hf.cli rd_hf.comparison.run rd_hf.exports.run rd_hf.hub.push rd_hf.inference.evaluation
    rd_hf.inference.prediction rd_hf.students.budget rd_hf.teacher_cache rd_hf.training.distillation
    rd_hf.training.fill_cache rd_hf.training.run_report"""


class Started:
    """A process that runs a command; a call waits for its end, and gives what it printed, as text.

    :param connection: on which the server tells of it.
    :param output: the folder of what it prints.
    """

    def __init__(self, command: tuple[str, ...], connection: socket.socket, output: tempfile.TemporaryDirectory):
        self.command, self.connection, self.output = command, connection, output
        self.pid = self._told()

    def ended(self, within: float = 0) -> bool:
        """Whether it ends within so many seconds."""
        return bool(select.select([self.connection], [], [], within)[0])

    def __call__(self) -> subprocess.CompletedProcess:
        with self.output as folder, self.connection:
            texts = (Path(folder, name).read_text() for name in ("out", "err"))
            return subprocess.CompletedProcess(self.command, self._told(), *texts)

    def _told(self) -> int:
        return int(self.connection.makefile("rb", buffering=0).readline())


class WarmPython:
    """Starts with the first command, unless another process of the tests has started it.

    :param path: of its socket.
    :param environment: of the server and of its commands; libraries read some variables once, when they are imported.
        Only the commands have its PYTHONPATH.
    :param libraries: names of the modules that it has imported.
    :param parent: the server that it is a fork of; nothing: it is a Python of its own.
    :param with_rd_hf: commands of rd_hf run in a further server, which has imported rd_hf too.
    """

    def __init__(
        self,
        path: Path,
        environment: dict[str, str],
        libraries: str,
        parent: WarmPython | None = None,
        with_rd_hf: bool = False,
    ):
        self.path, self.environment, self.libraries, self.parent = path, environment, libraries.split(), parent
        self.of_rd_hf = WarmPython(Path(f"{path}_rd_hf"), environment, RD_HF, self) if with_rd_hf else None
        self.stay = self.process = None

    def start(self, *command: str, cwd: Path, environment: dict[str, str] | None = None, timeout: int = 240) -> Started:
        """Start `python *command`, with `-m module ...` or `-c code ...`.

        :param environment: variables that the libraries read at each use.
        """
        output = tempfile.TemporaryDirectory()
        paths = [f"{output.name}/out", f"{output.name}/err"]
        for path in paths:
            Path(path).touch()  # it may be killed before it prints
        values = self.environment | (environment or {})
        server = self.of_rd_hf if self.of_rd_hf and command[:2] == ("-m", "rd_hf") else self
        connection = server.ask(command=command, cwd=str(cwd), timeout=timeout, output=paths, environment=values)
        return Started(command, connection, output)

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

    def ask(self, **request) -> socket.socket:
        """Send a request; :return: the connection on which it is answered."""
        self._need()
        return self._send(request)

    def _need(self) -> None:
        """Let the server run, and those that it is a fork of, until `close`."""
        if self.stay is not None:
            return
        if self.parent is not None:
            self.parent._need()
        self.path.parent.mkdir(exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            try:
                self.stay = self._send("stay")
            except (FileNotFoundError, ConnectionRefusedError):
                self._start_server()
                self.stay = self._send("stay")

    def _send(self, request: str | dict) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.path))
        connection.sendall(f"{json.dumps(request)}\n".encode())
        return connection

    def _start_server(self) -> None:
        if self.parent is not None:
            request = {"serve": str(self.path), "libraries": self.libraries, "environment": self.environment}
            self.parent.ask(**request).makefile("rb", buffering=0).readline()
            return
        line = [sys.executable, str(Path(__file__).with_name("warm_server.py"))]
        environment = {name: value for name, value in self.environment.items() if name != "PYTHONPATH"}
        with listening(str(self.path)) as listener:
            number = listener.fileno()
            command = [*line, str(number), *self.libraries]
            self.process = subprocess.Popen(command, env=environment, pass_fds=[number])

    def close(self) -> None:
        """No longer ask for anything; who has started the server waits until nobody does."""
        if self.of_rd_hf is not None:
            self.of_rd_hf.close()
        if self.stay is not None:
            self.stay.close()
        if self.process is not None:
            self.process.wait()
            shutil.rmtree(self.path.parent)


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])
