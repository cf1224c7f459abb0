# SPDX-License-Identifier: GPL-2.0-only
"""Debian's packages by name: as this machine's apt knows them, or out of another release of Debian.

For the latter apt gets a sources list and package lists of its own in a folder of ours, made of the places
this machine fetches its own release from. Its configuration is read and never changed, and no package is
installed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import CannotRun
from .process import run

UPDATE = "run apt-get update first"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# The archives of a release by the label their lists carry, and what each adds to the release's name.
SUITES = {"Debian": "", "Debian-Security": "-security"}


@dataclass(frozen=True, slots=True)
class Apt:
    """apt with these options; without any, as the machine is set up."""

    options: tuple[str, ...] = ()

    def depends(self, package: str) -> list[str]:
        """Returns the names of what a package depends on, none if apt does not know it."""
        known = run(["apt-cache", *self.options, "search", "--names-only", f"^{re.escape(package)}$"], UPDATE)
        if not known:
            return []
        answer = run(["apt-cache", *self.options, "depends", package], UPDATE)
        return re.findall(r"Depends: (\S+)", answer)

    def download(self, names: Sequence[str], folder: Path) -> list[Path]:
        """Returns the packages' files in a folder that holds no others; apt checks their signatures."""
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.deb"):
            old.unlink()
        print(f"downloading {', '.join(names)} ...", flush=True)
        run(["apt-get", *self.options, "-q", "download", *names], UPDATE, cwd=folder)
        return sorted(folder.glob("*.deb"))

    def of_release(self, release: str, folder: Path) -> "Apt":
        """Returns apt for another release of Debian, its lists fetched into the folder now."""
        lines = self.sources_of(release)
        if not lines:
            raise CannotRun(f"apt has no lists of Debian's archive: {UPDATE}, on Debian")
        (folder / "lists/partial").mkdir(parents=True, exist_ok=True)
        (folder / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
        sources = folder / "sources.list"
        sources.write_text("\n".join(lines) + "\n")
        places = {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State::lists": folder / "lists",
            "Dir::Cache": folder / "cache",
        }
        private = Apt((*self.options, *(f"-o{name}={place}" for name, place in places.items())))
        print(f"fetching the package lists of Debian {release} ...", flush=True)
        run(["apt-get", *private.options, "-q", "update"], "the machine's own lists are untouched")
        return private

    def sources_of(self, release: str) -> list[str]:
        """Returns the lines of a sources list for another release, from where this one comes from."""
        fields = "$(ORIGIN)|$(LABEL)|$(SITE)"
        answer = run(["apt-get", *self.options, "indextargets", "--format", fields, "Created-By: Packages"])
        signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        sites: dict[str, str] = {}
        for origin, label, site in (line.split("|") for line in answer.splitlines()):
            if origin == "Debian" and label in SUITES:
                sites.setdefault(label, site)
        return [f"deb {signed}{site} {release}{SUITES[label]} main" for label, site in sites.items()]
