# SPDX-License-Identifier: GPL-2.0-only
"""The Linux kernel's own bcache as the judge of images that bcached wrote.

`python -m tests.kernel` (or `make kernel-test`) boots Debian's kernel package under qemu, unchanged and
without installing it, lets its bcache.ko register an image, collect garbage and stop, and reads what it
had to say. From the package to the report, in the order of the files:

packages (which kernels there are, and where they are kept) - apt (how they come here) - packed and vmlinux
(the kernel, unpacked for a quick start) - debug_build (its bcache with all checks) - modules and initramfs
(the guest's first files) - scenario (what the guest is to do) - qemu and machine (one boot) - images (how
they are made, read and damaged) - dmesg, silent and judge (the verdict) - daemon and workload (bcached put
to work) - model and filler (its clients, with data) - guest_programs (mkfs for the guest) - variety (sets
that the kernel made) - control, breaches, ours, keys, repairs, damages, members, replacing, filesystems and
rescues (the claims).
"""
