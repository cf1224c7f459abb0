# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of the packages, tried one after the other."""

from collections.abc import Callable

from systemd.container import OPERATOR, Container

Cases = dict[str, tuple[str, Callable[[Container], None]]]
PACKAGES = "/var/tmp/packages"
OLD, NEW = "0.0.1", "99.0.0"
NOT_IN_A_CLEAN_DEBIAN = "python3-venv python3.11-venv python3-pip-whl python3-setuptools-whl make"
SERVICE = "bcached.service"
CONFIG = "/etc/bcached/bcached.toml"
DATA = bytes(range(256)) * 64
BUILD_S = 900


# Where packages are built


def wheel(machine: Container) -> None:
    """From the sources to a session in an empty environment."""
    machine.run("test ! -e .git && python3 -m venv /tmp/tools && /tmp/tools/bin/pip install -q -U setuptools")
    hook = "from setuptools.build_meta import build_sdist; build_sdist('/tmp/dist')"
    machine.run(
        f'mkdir /tmp/dist && cp -r /checkout /tmp/copy && cd /tmp/copy && /tmp/tools/bin/python -c "{hook}"'
    )
    machine.run("/tmp/tools/bin/pip wheel -q --no-deps -w /tmp/dist /tmp/dist/*.tar.gz", within_s=BUILD_S)
    machine.run("python3 -m venv /tmp/env && /tmp/env/bin/pip install -q /tmp/dist/*.whl", within_s=BUILD_S)
    machine.run("rm -rf /tmp/copy && mkdir -m 0700 /tmp/set /tmp/set/state /tmp/set/run")
    settings = (
        '[set]\ndevices = ["/tmp/set/cache.img"]\nstate_directory = "/tmp/set/state"\n'
        'runtime_directory = "/tmp/set/run"\n[socket]\npath = "/tmp/set/socket"\ngroup = ""\n'
        "[access]\nallocator = []\n[limits]\nrestart_grace_s = 0\n"
    )
    machine.run("cat > /tmp/set/bcached.toml && chmod 0600 /tmp/set/bcached.toml", feed=settings.encode())
    machine.run("/tmp/env/bin/bcachectl make --size 64M -b 64k /tmp/set/cache.img")
    daemon = "/tmp/env/bin/bcached --config /tmp/set/bcached.toml"
    machine.run(f"systemd-run -q -u wheel -p User=root {daemon}")
    machine.until("test -S /tmp/set/socket", 60)
    control = "/tmp/env/bin/bcachectl --socket /tmp/set/socket"
    machine.run(f"{control} volume create photos")
    machine.run(f"{control} write 0 0", feed=DATA)
    assert machine.ends(f"{control} read 0 0 16k").stdout == DATA
    machine.run("systemctl stop wheel && /tmp/env/bin/bcachectl check /tmp/set/cache.img")


def deb(machine: Container) -> None:
    """Two versions, by a user who is not root."""
    machine.run(f"install -d -o {OPERATOR} {PACKAGES}")
    for version in (OLD, NEW):
        machine.run(f"sed -i 's/^__version__ = .*/__version__ = \"{version}\"/' bcached/__init__.py")
        machine.run(f"deb/make {PACKAGES}", user=OPERATOR, within_s=BUILD_S)
    machine.run(f"test $(ls {PACKAGES} | wc -l) = 2")


# Where they are installed


DOCUMENTS = [
    "/usr/share/bash-completion/completions/bcachectl",
    "/usr/share/zsh/vendor-completions/_bcachectl",
    "/usr/share/fish/vendor_completions.d/bcachectl.fish",
    *(f"/usr/share/man/man{page[-1]}/{page}.gz" for page in ("bcached.8", "bcachectl.8", "bcached.toml.5")),
    "/usr/share/doc/bcached/copyright",
]


def clean(machine: Container) -> None:
    """What a build needs is not there, or the dependencies would not be tried."""
    for program in ("make", "pip", "pip3", "cc", "git"):
        assert machine.ends(f"command -v {program}").returncode != 0, program
    assert machine.ends("python3 -m ensurepip --version").returncode != 0
    assert (
        machine.run(
            "find / -xdev -name '*bcached*' -not -path '/proc/*' -not -path '/var/tmp/*' -prune"
        ).strip()
        == ""
    )


def installed(machine: Container) -> None:
    """apt installs it without anything else; README's commands go on from there."""
    before = machine.run("dpkg -l | wc -l")
    machine.run(f"apt-get install -q -y {PACKAGES}/bcached_{OLD}_*.deb")
    assert int(machine.run("dpkg -l | wc -l")) == int(before) + 1
    assert (
        machine.run("systemctl list-unit-files 'bcached*' --no-legend --state=enabled", check=False).strip()
        == ""
    )
    for program in ("bcached", "bcachectl"):
        assert OLD in machine.run(f"{program} --version")
    missing = "find /opt/bcached -name '*.so*' | xargs ldd | grep 'not found'"
    assert machine.run(missing, check=False).strip() == ""
    for path in DOCUMENTS:
        machine.run(f"test -s {path}")
    # What bash proposes, without its package of completions: the file alone.
    complete = (
        "COMP_WORDS=(bcachectl vol); COMP_CWORD=1; _bcachectl_completion bcachectl vol; echo ${COMPREPLY[@]}"
    )
    machine.run(f"bash -c '. {DOCUMENTS[0]} && {complete}' | grep -qx volume")
    machine.run("dpkg -V bcached")
    machine.run("runuser -u bcached -- bcachectl make --size 64M -b 64k /var/lib/bcached/cache.img")
    machine.run(f"chmod 0660 /var/lib/bcached/cache.img && usermod -aG bcached {OPERATOR}")
    machine.run(f"systemctl enable --now bcached.socket bcached-metrics.socket {SERVICE}")
    machine.run("bcachectl volume create photos")
    machine.run("bcachectl write 0 0", user=OPERATOR, feed=DATA)
    assert fetched(machine) == DATA
    assert machine.journal(SERVICE, "-p warning", "-q") == ""


def upgraded(machine: Container) -> None:
    """The daemon that runs is replaced; data and a changed configuration stay."""
    machine.run(f"sed -i 's/^connections = .*/connections = 77/' {CONFIG}")
    machine.run("echo '[log]\nlevel = \"debug\"' > /etc/bcached/conf.d/own.toml")
    machine.run(f"DEBIAN_FRONTEND=noninteractive apt-get install -q -y {PACKAGES}/bcached_{NEW}_*.deb")
    assert fetched(machine) == DATA
    assert f'version="{NEW}"' in machine.run("curl -s http://127.0.0.1:9712/metrics")
    machine.run(f"grep -q '^connections = 77' {CONFIG}")
    assert [NEW in line for line in machine.run("find /opt/bcached -name 'bcached-*.dist-info'").split()] == [
        True
    ]
    assert (
        machine.run(
            "find /opt/bcached -newer /usr/share/doc/bcached/copyright -name '*.pyc' | head -3"
        ).strip()
        == ""
    )


def removed(machine: Container) -> None:
    """The program is gone and its service stopped; an installation finds all as it was."""
    machine.run("apt-get remove -q -y bcached")
    assert machine.ends("systemctl is-active 'bcached*'").returncode != 0
    assert machine.ends("command -v bcached").returncode != 0
    machine.run(f"test -e {CONFIG} && test -e /var/lib/bcached/cache.img && test ! -e /opt/bcached")
    machine.run(f"apt-get install -q -y {PACKAGES}/bcached_{NEW}_*.deb")
    machine.run(f"systemctl start {SERVICE}")
    assert fetched(machine) == DATA
    machine.run(f"grep -q '^connections = 77' {CONFIG}")


def purged(machine: Container) -> None:
    """Nothing is left but the operator's: the image, and a drop-in."""
    said = machine.run("apt-get purge -q -y bcached")
    assert "/var/lib/bcached is left as it is" in said
    found = "find /etc /usr /run/systemd /var/lib -xdev -name '*bcached*'; test ! -e /opt/bcached"
    assert sorted(machine.run(found).split()) == ["/etc/bcached", "/var/lib/bcached"]
    assert machine.run("find /etc/bcached -type f").split() == ["/etc/bcached/conf.d/own.toml"]
    machine.run("test -e /var/lib/bcached/cache.img")
    assert machine.run("systemctl list-units --all --no-legend 'bcached*'").strip() == ""


def fetched(machine: Container) -> bytes:
    """What a client reads back; raises AssertionError if it cannot."""
    done = machine.ends("bcachectl read 0 0 16k", user=OPERATOR)
    assert done.returncode == 0, done.stdout[-500:]
    return done.stdout


BUILDING: Cases = {
    "wheel": ("a wheel from an sdist works in an empty environment", wheel),
    "deb": ("a user builds the Debian package", deb),
}
INSTALLED: Cases = {
    "clean": ("a Debian without what a build needs", clean),
    "installed": ("the package needs only what it depends on, and serves", installed),
    "upgraded": ("an upgrade replaces the daemon, and keeps data and configuration", upgraded),
    "removed": ("after a removal, an installation finds all as it was", removed),
    "purged": ("a purge leaves images and the operator's files", purged),
}
