"""A Dockerfile's steps, done in a folder instead of an image: for machines without a container engine.

Each stage has a root of its own, and a virtual environment for the Python of its base. Absolute paths that begin with
one of the image's own folders are those folders below that root; a path elsewhere stays what it is.
"""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

OWN_FOLDERS = ("/build", "/opt", "/state")


@dataclass(frozen=True)
class Step:
    """One instruction, on one line."""

    name: str
    text: str


@dataclass
class Image:
    """What the last stage leaves behind. `user` is a number."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: int = 0
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    stop_signal: str = ""
    volumes: list[str] = field(default_factory=list)

    def mapped(self, text: str) -> str:
        """The text with the image's absolute paths as those below the root."""
        return re.sub(rf"(?<![\w.-])({'|'.join(OWN_FOLDERS)})(?![\w-])", rf"{self.root}\1", text)

    def variables(self) -> dict[str, str]:
        """The environment of what runs in the image; nothing of this process's own but proxies and the like."""
        own = {name: self.mapped(value) for name, value in self.environment.items()}
        base = f"{self.root / 'base/bin'}:{os.defpath}"
        own["PATH"] = own.get("PATH", "$PATH").replace("$PATH", base)
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_"))}
        proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        # Not links into uv's cache: what is made read-only here must not be so there.
        return {**kept, **proxies, **own, "UV_LINK_MODE": "copy"}


def steps_of(dockerfile: Path) -> list[Step]:
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Step(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def build(context: Path, folder: Path) -> Image:
    """Do the steps of `context/Dockerfile`; `folder` takes a root for each stage."""
    stages: dict[str, Image] = {}
    image = Image(folder)
    for step in steps_of(context / "Dockerfile"):
        if step.name == "FROM":
            name = step.text.partition(" AS ")[2] or "final"
            image = stages[name] = _base(folder / name, with_pip=name != "final")
        else:
            _do(step, image, context, stages)
    return image


def _base(root: Path, *, with_pip: bool) -> Image:
    """A stage's beginning: this Python, with a pip of its own where one is needed (it takes a while)."""
    root.mkdir(parents=True)
    options = () if with_pip else ("--without-pip",)
    subprocess.run([sys._base_executable, "-m", "venv", *options, root / "base"], check=True)  # type: ignore[attr-defined]
    return Image(root)


def _do(step: Step, image: Image, context: Path, stages: dict[str, Image]) -> None:
    match step.name:
        case "COPY":
            _copy(step.text, image, context, stages)
        case "RUN":
            script = image.mapped(step.text).replace("--owner=10001 --group=10001", "")  # _hand_over does it
            where = Path(image.mapped(image.folder))
            subprocess.run(["bash", "-euc", script], cwd=where, env=image.variables() | {"HOME": "/root"}, check=True)
        case "ENV":
            image.environment |= dict(pair.split("=", 1) for pair in shlex.split(step.text))
        case "WORKDIR":
            image.folder = step.text
            Path(image.mapped(step.text)).mkdir(parents=True, exist_ok=True)
        case "USER":
            image.user = int(step.text.partition(":")[0])
        case "VOLUME":
            image.volumes = json.loads(step.text)
        case "ENTRYPOINT":
            image.entrypoint = json.loads(step.text)
        case "CMD":
            image.command = json.loads(step.text)
        case "HEALTHCHECK":
            image.healthcheck = json.loads(step.text.partition("CMD ")[2])
        case "STOPSIGNAL":
            image.stop_signal = step.text
        case "EXPOSE":
            pass
        case other:
            raise ValueError(f"{other} is an instruction that this cannot do")


def _copy(text: str, image: Image, context: Path, stages: dict[str, Image]) -> None:
    words = text.split()
    origin = context
    if words[0].startswith("--from="):
        stage = stages[words.pop(0).removeprefix("--from=")]
        source, target = Path(stage.mapped(words[0])), Path(image.mapped(words[1]))
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)  # faster than thousands of copies; nothing else is taken from that stage
        _relocate(target, stage.root, image.root)
        return
    *sources, last = words
    target = Path(image.mapped(image.folder)) / last
    for name in sources:
        for path in [origin / name, *sorted((origin / name).rglob("*"))]:
            if path.is_file() and not _is_ignored(str(path.relative_to(origin)), context):
                inside = path.relative_to(origin / name) if (origin / name).is_dir() else Path(Path(name).name)
                (target / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target / inside)


def _relocate(folder: Path, old: Path, new: Path) -> None:
    """A virtual environment knows where it lies; in the image both stages have it in one place."""
    for path in folder.rglob("*"):
        if path.is_symlink() and str(path.readlink()).startswith(str(old)):
            link = str(path.readlink()).replace(str(old), str(new), 1)
            path.unlink()
            path.symlink_to(link)
        elif path.is_file() and not path.is_symlink() and (path.parent.name == "bin" or path.name == "pyvenv.cfg"):
            data = path.read_bytes()
            if str(old).encode() in data and b"\0" not in data:
                path.write_bytes(data.replace(str(old).encode(), str(new).encode()))


def _is_ignored(path: str, context: Path) -> bool:
    """By .dockerignore: the last line that matches the path, or a folder above it, decides."""
    ignored = False
    above = [str(parent) for parent in Path(path).parents if str(parent) != "."]
    for line in (context / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.lstrip("!").removeprefix("**/")
            places = [path, *above]
            if line.lstrip("!").startswith("**/"):
                places += Path(path).parts
            if any(fnmatch.fnmatch(place, pattern) for place in places):
                ignored = not line.startswith("!")
    return ignored
