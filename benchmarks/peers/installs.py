"""The other gateways, installed into folders of their own by the lock files in `locks/`.

In: a folder that is kept between runs. Out: their programs. A folder is complete once it has the mark of its
lock; another lock installs it anew.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

LOCKS = Path(__file__).with_name("locks")
PORTKEY_START = "node_modules/@portkey-ai/gateway/build/start-server.js"


def python_environment(name: str, cache: Path, say: Callable[[str], None]) -> Path:
    """Return the folder of programs of the environment that `locks/NAME.txt` describes."""
    lock, folder = LOCKS / f"{name}.txt", cache / name

    def install() -> None:
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        uv = str(Path(sys.executable).with_name("uv"))
        options = ["--quiet", "--require-hashes", "--compile-bytecode"]
        _run([uv, "pip", "install", *options, "--python", str(folder / "bin" / "python"), "-r", str(lock)])

    _once(folder, lock, install, say)
    return folder / "bin"


def portkey(cache: Path, say: Callable[[str], None]) -> Path:
    """Return the script that starts Portkey's gateway; it needs Node on the PATH."""
    folder = cache / "portkey"

    def install() -> None:
        folder.mkdir(parents=True)
        for file in ("package.json", "package-lock.json"):
            shutil.copy(LOCKS / "portkey" / file, folder)
        _run(["npm", "ci", "--no-fund", "--no-audit", "--prefix", str(folder)])

    _once(folder, LOCKS / "portkey" / "package-lock.json", install, say)
    return folder / PORTKEY_START


def _once(folder: Path, lock: Path, install: Callable[[], None], say: Callable[[str], None]) -> None:
    mark, content = folder / ".installed", hashlib.sha256(lock.read_bytes()).hexdigest()
    if mark.is_file() and mark.read_text() == content:
        return
    say(f"installing by {lock.name} into {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    install()
    mark.write_text(content)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-1500:]}")
