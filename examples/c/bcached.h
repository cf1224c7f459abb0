// SPDX-License-Identifier: MIT
/*
 * What a client of bcached in C needs besides its own logic: connection and lease, requests, the devices, the
 * gens. For little-endian machines, one thread, and one connection a program. docs/client.md gives the reasons.
 */
#pragma once

#ifndef _GNU_SOURCE
#error "define _GNU_SOURCE before the first include: O_DIRECT and F_OFD_SETLK are Linux's"
#endif
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "json.h"

#define SECTOR 512
#define REPLY_MAX (4 << 20)
#define DEVICES_MAX 16
#define GENS_MAGIC 0x736E656764636362	/* "bccdgens" */

enum outcome { DONE, REFUSED, LOST };	/* LOST: connect again, and repeat all of the command */

struct header {				/* a map of gens: little-endian, as this machine has to be */
	uint64_t magic, version, bucket_count, life, gc_epoch;
	uint8_t rest[4096 - 5 * sizeof(uint64_t)];
	uint8_t gens[];
};

struct device {
	int64_t id, bucket_sectors, bucket_count;
	int data;			/* descriptor of data_path */
	const struct header *map;
	size_t map_bytes;
	uint64_t life, gc_epoch;	/* at the latest note_instant() */
};

static const char *socket_path;
static int connection = -1, lease = -1;
static struct device devices[DEVICES_MAX];
static size_t device_count, block_bytes;
static char reply[REPLY_MAX + 1];

static inline enum outcome refused(const char *what, const char *why)
{
	printf("refused: %s: %s\n", what, why);
	return REFUSED;
}

/* Whether the daemon still holds its end of the connection. */
static inline bool is_connected(void)
{
	char byte;

	return recv(connection, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static inline bool send_all(const char *data, size_t length)
{
	while (length) {
		ssize_t sent = send(connection, data, length, MSG_NOSIGNAL);

		if (sent < 0 && errno != EINTR)
			return false;
		data += sent < 0 ? 0 : sent;
		length -= sent < 0 ? 0 : (size_t)sent;
	}
	return true;
}

/* Send one request and receive its reply; *parameters points into reply until the next call. */
static inline enum outcome call(const char **parameters, const char *method, const char *format, ...)
{
	char *arguments = NULL, *message = NULL;
	const char *error;
	size_t length = 0;
	va_list values;
	bool sent;

	va_start(values, format);
	if (vasprintf(&arguments, format, values) < 0)
		abort();
	va_end(values);
	if (asprintf(&message, "{\"method\":\"io.bcached.Allocator.%s\",\"parameters\":%s}", method, arguments) < 0)
		abort();
	sent = send_all(message, strlen(message) + 1);	/* the NUL ends the message */
	free(arguments);
	free(message);
	while (sent && (!length || reply[length - 1])) {	/* a NUL, and not a read, ends the reply, too */
		ssize_t count = recv(connection, reply + length, REPLY_MAX - length, 0);

		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			return LOST;
		length += (size_t)count;
	}
	if (!sent)
		return LOST;
	*parameters = json_member(reply, "parameters");
	error = json_member(reply, "error");
	if (error)			/* a daemon that stops is about to be another one */
		return strstr(error, "ShuttingDown") ? LOST : refused(method, reply);
	return *parameters ? DONE : refused(method, "a reply without parameters");
}

static inline struct device *device_of(int64_t id)
{
	for (size_t i = 0; i < device_count; i++)
		if (devices[i].id == id)
			return &devices[i];
	return NULL;
}

/* Direct I/O; the page cache only if no two clients can share a page of it. */
static inline int open_data(const char *path)
{
	int data = open(path, O_RDWR | O_DIRECT | O_CLOEXEC | O_NOFOLLOW);

	if (data < 0 && errno == EINVAL && block_bytes % (size_t)sysconf(_SC_PAGESIZE) == 0)
		data = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	return data;
}

static inline bool take_lease(const char *path)
{
	struct flock whole = { .l_type = F_RDLCK, .l_whence = SEEK_SET };

	lease = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return lease >= 0 && fcntl(lease, F_OFD_SETLK, &whole) == 0;
}

static inline bool map_gens(struct device *device, const char *path, int64_t bytes)
{
	int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat status;
	void *map = MAP_FAILED;

	/* A page behind the end of a file would be a SIGBUS. */
	if (file >= 0 && !fstat(file, &status) && status.st_size >= bytes && bytes >= 4096 + device->bucket_count)
		map = mmap(NULL, (size_t)bytes, PROT_READ, MAP_SHARED, file, 0);
	if (file >= 0)
		close(file);
	if (map == MAP_FAILED)
		return false;
	device->map = map;
	device->map_bytes = (size_t)bytes;
	return device->map->magic == GENS_MAGIC && device->map->version == 1 &&
	       device->map->bucket_count == (uint64_t)device->bucket_count;
}

/* The order counts: no reply and no write may be under way when the lease is given up. */
static inline void disconnect(void)
{
	if (connection >= 0)
		close(connection);
	for (size_t i = 0; i < device_count; i++) {
		if (devices[i].data >= 0)
			close(devices[i].data);
		if (devices[i].map)
			munmap((void *)(uintptr_t)devices[i].map, devices[i].map_bytes);
	}
	if (lease >= 0)
		close(lease);
	connection = lease = -1;
	device_count = 0;
}

/* Connect, describe, take the lease, open the devices, map the gens. If not DONE, disconnect() is to follow. */
static inline enum outcome attach(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	enum outcome outcome;
	const char *p, *one;
	char *path;
	bool good;

	disconnect();
	strncpy(address.sun_path, socket_path, sizeof(address.sun_path) - 1);
	connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(connection, (struct sockaddr *)&address, sizeof(address)) < 0)
		return LOST;
	if ((outcome = call(&p, "Describe", "{}")) != DONE)
		return outcome;
	path = json_string(p, "lease_path");
	good = path && take_lease(path);	/* before the first write, which is before the first Allocate here */
	free(path);
	if (!good)
		return is_connected() ? refused("no lease, so nothing may be written", strerror(errno)) : LOST;
	for (one = json_first(json_member(p, "devices")); one && device_count < DEVICES_MAX; one = json_next(one)) {
		struct device *device = &devices[device_count++];

		*device = (struct device){ .id = json_int(one, "device"), .data = -1,
					   .bucket_sectors = json_int(one, "bucket_sectors"),
					   .bucket_count = json_int(one, "bucket_count") };
		block_bytes = (size_t)json_int(one, "block_sectors") * SECTOR;
		path = json_string(one, "data_path");
		device->data = path ? open_data(path) : -1;
		free(path);
		if (device->data < 0)
			return refused("cannot open a device", strerror(errno));
	}
	if ((outcome = call(&p, "MapGens", "{}")) != DONE)
		return outcome;
	for (one = json_first(json_member(p, "maps")); one; one = json_next(one)) {
		struct device *device = device_of(json_int(one, "device"));

		path = json_string(one, "path");
		good = device && path && map_gens(device, path, json_int(one, "bytes"));
		free(path);
		if (!good)
			return is_connected() ? refused("cannot map the gens", strerror(errno)) : LOST;
	}
	for (size_t i = 0; i < device_count; i++)
		if (!devices[i].map)
			return refused("attach", "a device without a map of its gens");
	return DONE;
}

/* Whatever is looked up from here on can be checked against this instant. */
static inline void note_instant(void)
{
	for (size_t i = 0; i < device_count; i++) {
		devices[i].life = __atomic_load_n(&devices[i].map->life, __ATOMIC_ACQUIRE);
		devices[i].gc_epoch = __atomic_load_n(&devices[i].map->gc_epoch, __ATOMIC_ACQUIRE);
	}
}

/* Whether what was read at a pointer since note_instant() was what its key says. Call it after the read. */
static inline bool is_current(const struct device *device, int64_t sector, int64_t gen)
{
	int64_t bucket = sector / device->bucket_sectors;

	/* 1. The gen, before the header: one that is read after the daemon's end proves nothing. */
	if (bucket >= device->bucket_count || __atomic_load_n(&device->map->gens[bucket], __ATOMIC_ACQUIRE) != gen)
		return false;
	/* 2. The header: the same run of the daemon, and no time for a gen to wrap around. */
	if (!device->life || __atomic_load_n(&device->map->life, __ATOMIC_ACQUIRE) != device->life ||
	    __atomic_load_n(&device->map->gc_epoch, __ATOMIC_ACQUIRE) - device->gc_epoch > 1)
		return false;
	/* 3. The connection: a killed daemon has no time to clear its life. */
	return is_connected();
}

/* Read or write all of a buffer at a sector, in the steps that the kernel takes. */
static inline bool transfer(bool writes, int64_t id, int64_t sector, char *buffer, size_t bytes)
{
	const struct device *device = device_of(id);

	for (size_t done = 0; done < bytes;) {
		off_t at = sector * SECTOR + (off_t)done;
		ssize_t count;

		if (!device || (writes && !is_connected()))	/* without the connection nothing is reserved */
			return false;
		count = writes ? pwrite(device->data, buffer + done, bytes - done, at)
			       : pread(device->data, buffer + done, bytes - done, at);
		if (count < 0 && errno == EINTR)
			continue;
		if (count < SECTOR)
			return false;
		done += (size_t)(count - count % SECTOR);
	}
	return true;
}
