# SPDX-License-Identifier: GPL-2.0-only
"""A set with damage that it opens with: the daemon says so at once, and as long as it lasts."""

from instruments.clients.daemon_process import DaemonProcess
from instruments.clients.shell import Shell
from instruments.samples.image_builder import ImageBuilder, two_levels


def damaged() -> ImageBuilder:
    """A set with three orphans, two stale dirty keys, and a node that has vanished."""
    image = ImageBuilder()
    root, leaves = two_levels(image)
    image.gens[0][image.geometry.bucket_of(leaves[0].pointers[0].sector)] = 1
    orphans = [image.extent(7, 100 * number, 8, dirty=number > 0) for number in range(3)]
    stale = [image.extent(0, 1500 + 16 * number, 8, dirty=True) for number in range(2)]
    for key in stale:
        image.gens[0][image.geometry.bucket_of(key.pointers[0].sector)] = 3
    return image.finish(root, level=1, journal=[stale, orphans])


def test_the_owner_is_told_in_the_log_the_metrics_and_every_verb_that_looks() -> None:
    daemon = DaemonProcess()
    (daemon.folder / "cache.img").write_bytes(damaged().images[0])
    with daemon:
        daemon.wait_until_ready()
        shell = Shell(daemon.socket_path)
        lines = [line for line in shell.told("explain").splitlines() if "/cache.img: " not in line]
        assert [line["message"] for line in daemon.logs if line["level"] == "warning"] == lines
        assert [
            words for line in lines for words in ("vanished", "stale", "without a volume") if words in line
        ] == [
            "vanished",
            "stale",
            "without a volume",
        ]
        assert (
            "3 keys without a volume (8k dirty), 2 stale dirty keys, 1 node of the index vanished"
            in " ".join(shell.told("status").split())
        )
        metrics = {
            line.split("{")[0]: float(line.rpartition(" ")[2])
            for line in daemon.scrape().splitlines()
            if line.startswith("bcached_")
        }
        assert metrics["bcached_orphaned_keys"] == 3
        assert metrics["bcached_orphaned_dirty_bytes"] == 8192
        assert metrics["bcached_stale_dirty_keys"] == 2
        assert metrics["bcached_vanished_nodes"] == 1
        listed = shell.document("volume", "list")
        assert listed["orphans"] == [{"inode": 7, "keys": 3, "dirty_sectors": 16, "clean_sectors": 8}]
        assert shell.told("volume", "list").splitlines()[-1].split() == ["7", "3", "8k", "4k"]
        assert shell.refused("volume", "delete", "7").endswith(
            "holds 16 dirty sectors; --force drops them, too"
        )
        assert shell.told("volume", "delete", "7", "--force") == "volume 7 deleted\n"
        assert shell.document("volume", "list")["orphans"] == []
        assert daemon.end() == 0
