"""Makes the image without an engine: the Dockerfile's own instructions, run in a tree of its own by chroot.

Each stage is a folder. In a private mount namespace the system's folders are bound into it read-only, a Python is put
at `/usr/local` as in the base image (this machine's: its version is not the image's), and RUN goes through `/bin/sh -c`
as an engine does it. What the steps write stays in the folder, and no path of the real machine is touched.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .dockerfile import Instruction, Stage, assigned

ROOT = Path(__file__).parents[2]
BASE_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""Of the official Python images."""
SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "var", "run", "dev")
TOOLS = ("unshare", "mount", "chroot", "setpriv")
CACHE = Path("root/.cache/pip")


def why_impossible() -> str:
    """Why no image can be made here; empty if one can."""
    if sys.platform != "linux":
        return "mount namespaces are Linux's"
    if os.geteuid() != 0:
        return "only root may mount and chroot"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    tried = subprocess.run(namespaced("mount -t proc proc /proc"), capture_output=True, text=True, check=False)
    return f"no namespaces: {tried.stderr.strip()}" if tried.returncode else ""


def allowed_files(root: Path) -> list[Path]:
    """The files that `.dockerignore` lets through to the builder, relative to `root`, in order."""
    rules = [line for line in (root / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    found = []
    for folder, folders, names in os.walk(root):
        where = Path(folder).relative_to(root)
        if where == Path("."):
            # Not to walk through environments and caches, which no rule lets through.
            folders[:] = [each for each in folders if any(rule.startswith(f"!{each}") for rule in rules)]
        found += [where / name for name in names if _let_through(where / name, rules)]
    return sorted(found)


def _let_through(path: Path, rules: Iterable[str]) -> bool:
    """The last rule that fits the path, or a folder it is in, counts."""
    ways = [str(path), *(str(parent) for parent in path.parents if parent != Path("."))]
    verdict = True
    for rule in rules:
        pattern = rule.removeprefix("!")
        deep = pattern.removeprefix("**/")
        tried = [way.rsplit("/", 1)[-1] for way in ways] if deep != pattern else ways
        if any(fnmatch.fnmatchcase(way, deep) for way in tried):
            verdict = rule.startswith("!")
    return verdict


@dataclass(frozen=True, slots=True)
class Image:
    """A stage that was run: its folder and what its instructions say about running it."""

    root: Path
    stage: Stage
    environment: dict[str, str]


class Builder:
    """Runs stages one after the other in `folder`; what `COPY` takes comes from `context`."""

    def __init__(self, folder: Path, context: Path) -> None:
        self._folder = folder
        self._context = context
        self._made: dict[str, Image] = {}

    def build(self, stages: Iterable[Stage]) -> Image:
        """The last stage's image; AssertionError with the output of a step that fails."""
        image = None
        for number, stage in enumerate(stages):
            image = self._run(stage, self._folder / f"{number}-{stage.name or 'final'}")
            self._made[stage.name or str(number)] = image
        assert image is not None
        return image

    def _run(self, stage: Stage, root: Path) -> Image:
        before = self._made.get(stage.base)
        if before is not None:
            shutil.copytree(before.root, root, symlinks=True)
        else:
            make_base(root)
        environment = dict(before.environment) if before else dict(BASE_ENVIRONMENT)
        workdir = "/" if before is None else _workdir(before.stage)
        for each in stage.instructions:
            if each.word == "ENV":
                environment |= assigned(each, environment)
            elif each.word == "WORKDIR":
                workdir = each.text
                (root / workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif each.word == "COPY":
                self._copy(each, root, workdir)
            elif each.word == "RUN":
                _step(each, root, workdir, environment)
        return Image(root, stage, environment)

    def _copy(self, instruction: Instruction, root: Path, workdir: str) -> None:
        *sources, target = instruction.words
        stage = instruction.flag("from")
        source_root = self._made[stage].root if stage else self._context
        goal = root / os.path.join(workdir, target).lstrip("/")
        for source in sources:
            origin = source_root / source.lstrip("/")
            if origin.is_dir():
                shutil.copytree(origin, goal, symlinks=True, dirs_exist_ok=True)
                continue
            into = goal / origin.name if target.endswith("/") or goal.is_dir() else goal
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(origin, into)
            if mode := instruction.flag("chmod"):
                into.chmod(int(mode, 8))


def _workdir(stage: Stage) -> str:
    last = stage.last("WORKDIR")
    return last.text if last else "/"


def make_base(root: Path) -> None:
    """An empty machine with the folders that the binds need, and a Python where the official image has it."""
    root.mkdir(mode=0o755)
    for name in ("proc", "tmp", "opt", "root", *SYSTEM):
        host = Path("/") / name
        if host.is_symlink() and name != "tmp":
            (root / name).symlink_to(host.readlink())
        elif host.is_dir():
            (root / name).mkdir(mode=0o755)
    (root / "tmp").chmod(0o1777)
    # The Python itself may lie in somebody's home: in the image everybody can get there.
    (root / sys.base_prefix.lstrip("/")).mkdir(parents=True, exist_ok=True)
    if Path(sys.base_prefix) != Path("/usr/local"):
        (root / ".local").mkdir(mode=0o755)
        inside(root, [str(_python()), "-m", "venv", "/usr/local"], environment=BASE_ENVIRONMENT, check=True)


def _python() -> Path:
    """The interpreter behind the environment that runs the tests."""
    return Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"


def _step(instruction: Instruction, root: Path, workdir: str, environment: dict[str, str]) -> None:
    for mount in instruction.flags:
        assert mount == f"--mount=type=cache,target=/{CACHE}", mount
    # An engine keeps what a cache mount holds out of the image; so the cache of this machine's user is bound there.
    network = {name: value for name, value in os.environ.items() if _is_about_the_network(name)}
    done = inside(
        root,
        ["/bin/sh", "-c", instruction.text],
        environment={"HOME": "/root"} | network | environment,
        workdir=workdir,
        check=False,
    )
    assert done.returncode == 0, f"RUN {instruction.text}\n{done.stdout}"


def _is_about_the_network(name: str) -> bool:
    """What an engine's own configuration would bring: forward proxies, and how pip gets at packages here."""
    return name.lower().endswith("_proxy") or name.startswith("PIP_") or name in ("SSL_CERT_FILE", "SSL_CERT_DIR")


def inside(
    root: Path, command: list[str], *, environment: dict[str, str], workdir: str = "/", check: bool
) -> subprocess.CompletedProcess[str]:
    """Run a command as root in the tree, in namespaces of its own."""
    script = enter(root, command, environment=environment, workdir=workdir)
    return subprocess.run(
        namespaced(script),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=check,
        timeout=300,
    )


def namespaced(script: str) -> list[str]:
    """The command that runs a shell script as process 1 of namespaces of its own."""
    return [
        *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"),
        *("/bin/sh", "-e", "-u", "-c", script),
    ]


def enter(
    root: Path,
    command: list[str],
    *,
    environment: dict[str, str],
    workdir: str = "/",
    read_only: bool = False,
    writable: dict[str, Path] | None = None,
) -> str:
    """A shell script that mounts the tree and becomes the command in it.

    Args:
        read_only: the tree itself cannot be written; the build's extra folders (packages, cache) are not there.
        writable: folders of this machine by their place in the tree.
    """
    tree = shlex.quote(str(root))
    lines = [f"mount --bind {tree} {tree}"]
    for name in SYSTEM:
        host = Path("/") / name
        if host.is_dir() and not host.is_symlink():
            kind = "--rbind" if name == "dev" else "--bind"
            lines.append(f"mount {kind} /{name} {tree}/{name}")
            if name != "dev":
                lines.append(f"mount -o remount,bind,ro {tree}/{name}")
    lines.append(f"mount -t proc proc {tree}/proc")
    prefix = sys.base_prefix
    if (root / ".local").is_dir():
        lines.append(f"mount --bind {tree}/.local {tree}/usr/local")
    if not Path(prefix).is_relative_to("/usr"):
        lines += [f"mount --bind {shlex.quote(prefix)} {tree}{shlex.quote(prefix)}"]
        lines += [f"mount -o remount,bind,ro {tree}{shlex.quote(prefix)}"]
    if read_only:
        lines += [f"mount -o remount,bind,ro {tree}/usr/local"] if (root / ".local").is_dir() else []
        lines.append(f"mount -o remount,bind,ro {tree}")
    else:
        lines += _packages_of_this_machine(root)
    for place, folder in (writable or {}).items():
        lines.append(f"mount --bind {shlex.quote(str(folder))} {tree}{place}")
    variables = " ".join(shlex.quote(f"{name}={value}") for name, value in environment.items())
    # From a shell in the tree, since `cd` is not a program.
    inner = f"cd {shlex.quote(workdir)} && exec {shlex.join(command)}"
    lines.append(f"exec chroot {tree} /usr/bin/env -i {variables} /bin/sh -c {shlex.quote(inner)}")
    return "\n".join(lines)


def _packages_of_this_machine(root: Path) -> list[str]:
    """pip's cache, and the folders below /opt, where pip may be told to look for packages: for the build only."""
    lines = []
    cache = Path.home() / ".cache" / "pip"
    if cache.is_dir():
        (root / CACHE).mkdir(parents=True, exist_ok=True)
        lines.append(f"mount --bind {shlex.quote(str(cache))} {shlex.quote(str(root / CACHE))}")
    for folder in sorted(Path("/opt").iterdir()) if Path("/opt").is_dir() else ():
        place = root / "opt" / folder.name
        if folder.is_dir() and not folder.is_symlink() and re.fullmatch(r"[\w.-]+", folder.name) and not place.exists():
            place.mkdir()
        if folder.is_dir() and place.is_dir() and not any(place.iterdir()):
            lines += [f"mount --bind {folder} {shlex.quote(str(place))}"]
            lines += [f"mount -o remount,bind,ro {shlex.quote(str(place))}"]
    return lines
