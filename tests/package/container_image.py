# SPDX-License-Identifier: GPL-2.0-only
"""The image of Containerfile, built by buildah on the minimal Debian instead of a registry's, and run.

In it run the commands of docs/container.md.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

BASE = "docker.io/library/debian:bookworm-slim"  # what Containerfile is built on
CHECKOUT = Path(__file__).parents[2]
NOT_COPIED = shutil.ignore_patterns(".*", "var", "build", "dist", "*.egg-info", "__pycache__")
ENVIRONMENT = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}  # what works within a container, too
USER = 912  # as in Containerfile
BUILD_S, RUN_S = 900, 120
PAGE = CHECKOUT / "docs/container.md"
PLACES = {"bcached-data": "/var/lib/bcached", "bcached-run": "/run/bcached"}  # the page's volumes
SERVE = """\
bcached & daemon=$!
until bcachectl status > /dev/null 2>&1; do kill -0 $daemon; sleep 0.2; done
"""
USE = """\
head -c 16384 /dev/urandom > /tmp/data
bcachectl write photos 0 < /tmp/data
bcachectl read photos 0 16k | cmp - /tmp/data
kill $daemon
wait $daemon
bcachectl check /var/lib/bcached/cache.img
"""


def session() -> str:
    """Returns what the page's commands do in their containers, one after the other in one, as a script.

    There is no podman: what it would do outside (names, published ports) is left out. A container without a
    command of its own runs the image's, the daemon.
    """
    run = argparse.ArgumentParser("podman run", add_help=False)
    run.add_argument("-d", "--rm", action="store_true")
    run.add_argument("--name")
    run.add_argument("--stop-timeout", type=int)
    run.add_argument("-p")
    run.add_argument("-v", action="append", default=[])
    run.add_argument("image", choices=["bcached"])
    run.add_argument("command", nargs=argparse.REMAINDER)
    script = ["set -e"]
    (block,) = re.findall(r"(?ms)^```\n(.*?)^```$", PAGE.read_text())
    for line in block.replace("\\\n", "").splitlines():
        match shlex.split(line):
            case ["podman", "build", "-t", "bcached", "."]:
                pass
            case ["podman", "run", *words]:
                it = run.parse_args(words)
                assert all(PLACES[name] == place for name, place in (one.split(":") for one in it.v)), line
                script.append(shlex.join(it.command) if it.command else SERVE)
            case ["podman", "exec", "bcached", *command]:
                script.append(shlex.join(command))
            case _:
                raise AssertionError(f"{PAGE.name} has a command that this test does not know: {line}")
    return "\n".join([*script, USE])


class Builder:
    """buildah with a storage of its own below a folder, which is the caller's to remove."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, *arguments: str | Path, within_s: float = RUN_S) -> str:
        """Returns what buildah prints; raises AssertionError unless it succeeds."""
        storage: list[str | Path] = ["--root", self._folder / "storage", "--runroot", self._folder / "run"]
        done = subprocess.run(
            ["buildah", *storage, *arguments],
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within_s,
        )
        assert done.returncode == 0, f"buildah {arguments[0]}: {done.stdout[-3000:]}"
        return str(done.stdout)


def try_image(root: Path, wheels: Path, folder: Path) -> None:
    """Build the image, and run a session in it: make a set, serve it, write, read, stop, check."""
    builder = Builder(folder)
    base = folder / "base"
    subprocess.run(["cp", "-a", "--reflink=auto", root, base], check=True)
    shutil.copytree(wheels, base / "wheels")
    (base / "etc/pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    (base / "etc/apt/sources.list").write_text("")  # all that it installs is there
    made = builder.run("from", "scratch").split()[-1]
    builder.run("copy", "-q", made, base, "/", within_s=BUILD_S)
    builder.run("commit", "-q", made, BASE, within_s=BUILD_S)
    sources = folder / "sources"
    shutil.copytree(CHECKOUT, sources, ignore=NOT_COPIED)
    containerfile: list[str | Path] = ["-f", sources / "Containerfile", sources]
    builder.run("build", "--pull-never", "-t", "bcached", *containerfile, within_s=BUILD_S)
    container = builder.run("from", "--pull-never", "localhost/bcached").split()[-1]
    assert builder.run("inspect", "--format", "{{.OCIv1.Config.Cmd}}", container).strip() == "[bcached]"
    volumes = []
    for name, place in PLACES.items():
        (folder / name).mkdir()
        os.chown(folder / name, USER, USER)
        volumes += ["-v", f"{folder / name}:{place}"]
    # The network is the machine's here, on which another daemon may have the port.
    port = ["--env", "BCACHED__METRICS__LISTEN=127.0.0.1:0"]
    printed = builder.run("run", *volumes, *port, container, "--", "sh", "-c", session())
    assert printed.rstrip().endswith("sound"), printed
