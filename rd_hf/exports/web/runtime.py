"""The files of onnxruntime-web that a page needs: of one version, known by their hashes, from npm or from a folder."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub.constants import HF_HOME

from ...arguments.values import ArgumentError

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
SHA256 = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
MOST_BYTES = 2**26  # of a file, several times what they have
CDN = f"https://cdn.jsdelivr.net/npm/{PACKAGE}@{VERSION}/dist"
RUNTIME_FOLDER = "runtime"
PLACED_SCRIPT = "ort.wasm.bundle.min.js"  # in a page: some servers do not know that .mjs files are scripts
OTHERWISE = (
    f"Give the package as a file or an unpacked folder with `web_runtime` (`npm pack {PACKAGE}@{VERSION}` fetches it "
    "on a machine with a network), or let the page fetch it from a public server with `cdn`."
)


def linked() -> dict[str, Any]:
    """Where the page finds the runtime on a public server; the browser refuses files of another hash."""
    return {
        "script": f"{CDN}/{SCRIPT}",
        "wasm": f"{CDN}/{WASM}",
        "script_integrity": _integrity(SHA256[SCRIPT]),
        "integrity": _integrity(SHA256[WASM]),
    }


def vendored(folder: Path, source: str | None) -> dict[str, Any]:
    """Copy the runtime into the page's folder, beside its licence.

    :param source: the npm package as a file or a folder; by default it is fetched by npm, once for this machine.
    :return: where the page finds it.
    :raises ArgumentError: when it cannot be had, or is of another version.
    """
    target = folder / RUNTIME_FOLDER
    if source is not None:
        _take(Path(os.path.expanduser(source)), target, f"`web_runtime` {source}")
    else:
        kept = cache_folder()
        if not all(_is_right(kept / name, name) for name in SHA256):
            _fetch(kept)
        _take(kept, target, str(kept))
    (target / SCRIPT).rename(target / PLACED_SCRIPT)
    return {"script": f"{RUNTIME_FOLDER}/{PLACED_SCRIPT}", "wasm": f"{RUNTIME_FOLDER}/{WASM}"}


def cache_folder() -> Path:
    """Where the runtime is kept for the next export."""
    return Path(os.path.expanduser(HF_HOME)) / "rd_hf" / f"{PACKAGE}-{VERSION}"


def _take(source: Path, target: Path, called: str) -> None:
    """Copy the files out of a package, which is a folder or a .tgz file, and check them."""
    if source.is_file():
        _unpack(source, target, called)
    else:
        for name in SHA256:
            found = next((path for path in (source / name, source / "dist" / name) if path.is_file()), None)
            if found is None:
                raise ArgumentError(f"{called} has no {name}: it must be the npm package {PACKAGE} {VERSION}.")
            shutil.copyfile(found, target / name)
    for name in SHA256:
        if not _is_right(target / name, name):
            raise ArgumentError(f"{called} has another {name} than that of {PACKAGE} {VERSION}. {OTHERWISE}")


def _unpack(package: Path, target: Path, called: str) -> None:
    try:
        with tarfile.open(package) as archive:
            for name in SHA256:
                member = archive.getmember(f"package/dist/{name}")
                if not member.isfile() or member.size > MOST_BYTES:
                    raise tarfile.TarError(f"{name} is no file, or a far larger one")
                with archive.extractfile(member) as file, (target / name).open("wb") as copy:
                    shutil.copyfileobj(file, copy)
    except (tarfile.TarError, EOFError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise ArgumentError(f"{called} is not the npm package {PACKAGE} {VERSION} ({reason}). {OTHERWISE}") from error


def _fetch(kept: Path) -> None:
    """Let npm fetch the package; only what is needed is kept."""
    if shutil.which("npm") is None:
        raise ArgumentError(f"The page runs {PACKAGE} {VERSION}, but there is no npm here to fetch it. {OTHERWISE}")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=kept.parent) as aside:
        command = ["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"]
        done = subprocess.run(command, cwd=aside, capture_output=True, text=True, check=False)
        packages = list(Path(aside).glob("*.tgz"))
        if done.returncode or not packages:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
            raise ArgumentError(f"npm cannot fetch {PACKAGE} {VERSION} ({reason}). {OTHERWISE}")
        ready = Path(aside) / "ready"
        ready.mkdir()
        _take(packages[0], ready, "what npm fetched")
        shutil.rmtree(kept, ignore_errors=True)
        ready.replace(kept)


def _is_right(path: Path, name: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == SHA256[name]


def _integrity(sha256: str) -> str:
    """A hash as browsers want it."""
    return "sha256-" + base64.b64encode(bytes.fromhex(sha256)).decode()
