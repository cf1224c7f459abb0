// SPDX-License-Identifier: MIT
/*
 * A complete client of bcached in C: reserve, write, commit; look up, read, check; connect again.
 *
 *	cc -O2 -Wall -Wextra -o client client.c
 *	./client SOCKET INODE			then, on stdin:
 *	put OFFSET FILE				keep the bytes of a file from this sector of the volume on
 *	get OFFSET SECTORS FILE			write what is kept of these sectors to a file; gaps stay zero
 *
 * Offsets are sectors of 512 bytes and multiples of a block. Each command is answered by one line.
 */
#define _GNU_SOURCE
#include <poll.h>

#include "bcached.h"

#define TRIES 16		/* of data whose bucket is reused while it is read */
#ifndef PATIENCE_MS
#define PATIENCE_MS 20000	/* with a daemon that is away, or ends again and again */
#endif

/* Returns memory as O_DIRECT needs it, to be freed. */
static char *aligned(size_t bytes)
{
	char *buffer = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);

	if (!buffer)
		abort();
	return buffer;
}

/* Write a file's bytes to all copies of one key; what the file lacks is zero. */
static bool write_key(const char *key, int file)
{
	size_t bytes = (size_t)json_int(key, "sectors") * SECTOR, got = 0;
	char *buffer = memset(aligned(bytes), 0, bytes);
	ssize_t count;
	bool good;

	while ((count = read(file, buffer + got, bytes - got)) > 0)
		got += (size_t)count;
	good = count == 0;
	for (const char *p = json_first(json_member(key, "pointers")); p && good; p = json_next(p))
		good = transfer(true, json_int(p, "device"), json_int(p, "sector"), buffer, bytes);
	free(buffer);
	return good;
}

/* Reserve, write, commit; give back what could not be written. */
static enum outcome put(int64_t inode, int64_t offset, int file)
{
	struct stat status;
	enum outcome outcome;
	const char *p;
	char *keys;
	bool good = true;
	int64_t blocks;

	if (fstat(file, &status) < 0 || !status.st_size || lseek(file, 0, SEEK_SET) < 0)
		return refused("put", "no such file, or it is empty");
	blocks = (status.st_size + (int64_t)block_bytes - 1) / (int64_t)block_bytes;
	outcome = call(&p, "Allocate", "{\"inode\":%" PRId64 ",\"offset\":%" PRId64 ",\"sectors\":%" PRId64
		       ",\"whole\":true}", inode, offset, blocks * (int64_t)block_bytes / SECTOR);
	if (outcome != DONE)
		return outcome;
	keys = json_copy(json_member(p, "keys"));
	for (const char *key = json_first(keys); key && good; key = json_next(key))
		good = write_key(key, file);
	outcome = call(&p, good ? "Commit" : "Release", "{\"keys\":%s}", keys ? keys : "[]");
	free(keys);
	if (outcome == DONE)
		printf("%s %" PRId64 " bytes\n", good ? "kept" : "refused: released", (int64_t)status.st_size);
	return outcome == DONE && !good ? REFUSED : outcome;
}

/* Read one key from the first of its copies that proves to be valid after the read, and write it to the file. */
static bool read_key(const char *key, int64_t offset, int file)
{
	size_t bytes = (size_t)json_int(key, "sectors") * SECTOR;
	char *buffer = aligned(bytes);
	bool good = false;

	for (const char *p = json_first(json_member(key, "pointers")); p && !good; p = json_next(p)) {
		int64_t id = json_int(p, "device"), sector = json_int(p, "sector");

		good = transfer(false, id, sector, buffer, bytes) &&
		       is_current(device_of(id), sector, json_int(p, "gen"));
	}
	good = good && pwrite(file, buffer, bytes, (json_int(key, "offset") - offset) * SECTOR) == (ssize_t)bytes;
	free(buffer);
	return good;
}

/* Note the instant, look up, read, check; look up again from the first key on that was not valid any more. */
static enum outcome get(int64_t inode, int64_t offset, int64_t sectors, int file)
{
	int64_t from = offset, end = offset + sectors, kept = 0;
	int tries = TRIES;

	while (from < end) {
		int64_t stale = -1, next;
		enum outcome outcome;
		const char *p;

		note_instant();		/* before the look-up, or a reuse between the two would go unseen */
		outcome = call(&p, "Lookup", "{\"inode\":%" PRId64 ",\"offset\":%" PRId64 ",\"sectors\":%" PRId64 "}",
			       inode, from, end - from);
		if (outcome != DONE)
			return outcome;
		next = json_int(p, "next");
		for (const char *key = json_first(json_member(p, "keys")); key && stale < 0; key = json_next(key)) {
			if (read_key(key, offset, file))
				kept += json_int(key, "sectors");
			else
				stale = json_int(key, "offset");
		}
		if (!is_connected())
			return LOST;
		if (stale >= 0 && !--tries)
			return refused("get", "cannot read, or the buckets are reused faster than they are read");
		from = stale >= 0 ? stale : next >= 0 ? next : end;
	}
	printf("found %" PRId64 " sectors\n", kept);
	return DONE;
}

static enum outcome command(int64_t inode, const char *line)
{
	int64_t offset, sectors;
	enum outcome outcome;
	char path[256];
	int file;

	if (sscanf(line, "put %" SCNd64 " %255s", &offset, path) == 2) {
		file = open(path, O_RDONLY | O_CLOEXEC);
		outcome = put(inode, offset, file);
	} else if (sscanf(line, "get %" SCNd64 " %" SCNd64 " %255s", &offset, &sectors, path) == 3) {
		file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		outcome = ftruncate(file, sectors * SECTOR) ? refused("get", strerror(errno))
							    : get(inode, offset, sectors, file);
	} else {
		return refused("not a command", line);
	}
	if (file >= 0)
		close(file);
	return outcome;
}

/* Connect with growing pauses, and begin the command again: reservations and gens are void. */
static enum outcome again(int64_t inode, const char *line)
{
	const char *why = "";

	for (int waited_ms = 0, pause_ms = 10; waited_ms < PATIENCE_MS; waited_ms += pause_ms) {
		enum outcome outcome;

		errno = 0;
		outcome = attach();
		why = errno ? strerror(errno) : "it ended again";
		if (outcome == DONE)
			outcome = command(inode, line);
		else
			disconnect();
		if (outcome != LOST)
			return outcome;
		usleep((useconds_t)pause_ms * 1000);
		pause_ms = pause_ms < 1000 ? 2 * pause_ms : 1000;
	}
	disconnect();
	printf("refused: no connection to %s (%s): start the daemon, and repeat the command\n", socket_path, why);
	return REFUSED;
}

/* Wait for a command. Should the connection end meanwhile, the next daemon must not wait for our lease. */
static void wait_for_a_command(void)
{
	struct pollfd polled[] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = connection } };

	while (poll(polled, 2, -1) >= 0 && !polled[0].revents) {
		disconnect();
		polled[1].fd = -1;
	}
}

int main(int count, char **arguments)
{
	int64_t inode = count == 3 ? strtoll(arguments[2], NULL, 10) : -1;
	char line[512];

	if (inode < 0) {
		fprintf(stderr, "usage: %s SOCKET INODE < COMMANDS\n", arguments[0]);
		return 2;
	}
	socket_path = arguments[1];
	setvbuf(stdout, NULL, _IOLBF, 0);
	setvbuf(stdin, NULL, _IONBF, 0);	/* what was read ahead could not be polled for */
	for (;;) {
		wait_for_a_command();
		if (!fgets(line, sizeof(line), stdin))
			break;
		line[strcspn(line, "\n")] = '\0';
		if (connection < 0 || command(inode, line) == LOST)
			again(inode, line);
	}
	disconnect();
	return 0;
}
