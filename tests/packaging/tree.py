"""The project's own files, copies of them, and clean environments to install them into."""

import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
LINKS = ("minigrad/nn", "minigrad/dist", "minigrad/lessons")
NOT_OURS = {"__pycache__", "build", "runs"}


def project_files(suffix: str = "") -> list[Path]:
    """Files of the project, relative to its root: what git tracks or would; without git, what is there."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        names = [Path(name) for name in listed.split("\0") if name]
    else:
        names = []
        for folder, subfolders, files in os.walk(ROOT):
            ours = [name for name in subfolders if name == ".ci" or name[0] != "."]
            subfolders[:] = [name for name in ours if name not in NOT_OURS]
            names += [Path(folder, name).relative_to(ROOT) for name in files if not name.endswith(".pyc")]
    return sorted(name for name in set(names) if name.suffix.endswith(suffix) and (ROOT / name).is_file())


def copy_project(target: Path, *, links: Literal["kept", "lost", "text"] = "kept") -> Path:
    """Copy the project to `target`, its links kept, lost, or turned into text files as some checkouts do."""
    for name in project_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    for link in LINKS:
        destination = f"../{Path(link).name}"
        if links == "kept":
            (target / link).symlink_to(destination)
        elif links == "text":
            (target / link).write_text(destination)
    return target


def make_environment(folder: Path) -> Path:
    """Make an environment that sees every installed package but minigrad; return its Python."""
    venv.create(folder, symlinks=os.name != "nt", with_pip=False)
    python = folder / "bin" / "python"
    ask = [str(python), "-c", "import site; print(site.getsitepackages()[0])"]
    target = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    for source in map(Path, [*site.getsitepackages(), site.getusersitepackages()]):
        if str(source) not in sys.path:
            continue
        for entry in source.iterdir():
            if "minigrad" not in entry.name and not (target / entry.name).exists():
                (target / entry.name).symlink_to(entry)
    return python


def run(command: list[str], *, cwd: Path, seconds: float = 120, **environment: str) -> str:
    """Run a command without the caller's Python settings and return what it printed; fail with its errors."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    environment = clean | environment
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def install(python: Path, *what: str, cwd: Path) -> None:
    """Install without a network: build tools and dependencies are those of the environment."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run([sys.executable, "-m", "pip", "--python", str(python), "install", *options, *what], cwd=cwd)


def build(source: Path, target: Path, *kinds: str) -> Path:
    """Build a wheel of `source` into `target` (without `kinds`, from a source distribution); return it."""
    options = ["--no-isolation", "--outdir", str(target), *kinds]
    run([sys.executable, "-m", "build", *options, str(source)], cwd=target)
    (wheel,) = target.glob("*.whl")
    return wheel
