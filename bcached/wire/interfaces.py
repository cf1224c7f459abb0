# SPDX-License-Identifier: MIT
"""The interfaces of the socket, by name."""

SERVICE = "org.varlink.service"
ALLOCATOR, ADMIN, MONITOR = "io.bcached.Allocator", "io.bcached.Admin", "io.bcached.Monitor"
INTERFACES = (SERVICE, ALLOCATOR, ADMIN, MONITOR)
