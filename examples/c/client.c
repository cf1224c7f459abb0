// SPDX-License-Identifier: MIT
/*
 * A complete client of bcached in C: reserve, write, commit; look up, read, check; connect again.
 * docs/client.md says why each step is as it is, and where it is.
 *
 *	cc -O2 -Wall -Wextra -o client client.c
 *	./client SOCKET INODE			then, on stdin:
 *	put OFFSET FILE				keep the bytes of a file from this sector of the volume on
 *	get OFFSET SECTORS FILE			write what is kept of these sectors to a file; gaps stay zero
 *
 * Offsets are sectors of 512 bytes and multiples of a block. Each command is answered by one line.
 */
#define _GNU_SOURCE		/* O_DIRECT and F_OFD_SETLK are Linux's */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SECTOR 512
#define DEVICES_MAX 16
#define TRIES 16		/* of data whose bucket is reused while it is read */
#ifndef PATIENCE_MS
#define PATIENCE_MS 20000	/* with a daemon that is away, or ends again and again */
#endif

struct header {			/* of a map of gens; the numbers are little-endian */
	char magic[8];
	uint64_t version, bucket_count, life, gc_epoch;
};

static struct device {
	long long number, bucket_sectors, bucket_count;
	int data, gens;		/* descriptors */
	struct header then;	/* at the latest note_instant() */
} devices[DEVICES_MAX];

static int connection = -1, lease = -1, device_count;
static FILE *replies;		/* the connection, for reading */
static char *reply;		/* the latest one */
static long long block_bytes;
static char why[1024];		/* something failed: then functions return false, or NULL */
static _Alignas(4096) char buffer[16 << 20];	/* no bucket, and so no key, is longer; aligned for O_DIRECT */

static bool failed(const char *what, const char *reason)
{
	snprintf(why, sizeof(why), "%s: %s", what, reason);
	return false;
}

static const char *blank(const char *p)
{
	return p + strspn(p, " \t\r\n");
}

/*
 * JSON, read in place. Returns the value of a member of the object at p, or NULL if there is none, or it is null.
 * Without a name: the end of the object or array at p. Strings, whatever is in them, and what is nested deeper are
 * passed over. So any order of members is right, and so is a reply with members that are not known here.
 */
static const char *find(const char *p, const char *name)
{
	int depth = 0;

	do {
		const char *string = p + 1, *value;

		depth += (*p == '{' || *p == '[') - (*p == '}' || *p == ']');
		if (*p++ != '"')
			continue;
		while (*p && *p != '"')
			p += *p == '\\' && p[1] ? 2 : 1;
		value = blank(p + (*p == '"'));		/* if the string is a name */
		if (name && depth == 1 && *value == ':' && strlen(name) == (size_t)(p - string) &&
		    !memcmp(name, string, strlen(name))) {
			value = blank(value + 1);
			return *value == 'n' ? NULL : value;
		}
		p += *p == '"';
	} while (depth > 0 && *p);
	return name ? NULL : p;
}

/* Returns the object at the beginning of an array, or behind the end of another one; NULL if there is none. */
static const char *object(const char *p)
{
	p += p ? strspn(p, "[, \t\r\n") : 0;
	return p && *p == '{' ? p : NULL;
}

#define EACH(one, array) const char *one = object(array); one; one = object(find(one, NULL))

/* Returns an integer, which does not pass through a double; -1 if there is none. */
static long long integer(const char *p, const char *name)
{
	const char *value = find(p, name);

	return value ? strtoll(value, NULL, 10) : -1;
}

/* Open the file that a member names. Escapes would make it another one: none of ours has any. */
static int open_named(const char *p, const char *name, int flags)
{
	const char *value = find(p, name);
	char path[PATH_MAX];
	int length = 0;

	errno = EBADMSG;
	if (!value || sscanf(value, "\"%4095[^\"\\]\"%n", path, &length) != 1 || !length)
		return -1;
	return open(path, flags | O_CLOEXEC | O_NOFOLLOW);
}

/* Whether the daemon still holds its end of the connection: there is nothing to read, not even the end. */
static bool is_connected(void)
{
	char byte;

	return recv(connection, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

/* Send one request and wait for its reply. Returns the reply's parameters, which are valid until the next call. */
__attribute__((format(printf, 2, 3)))
static const char *call(const char *method, const char *format, ...)
{
	static size_t size;
	const char *parameters;
	ssize_t length;
	va_list values;
	char *text;

	va_start(values, format);
	if (vasprintf(&text, format, values) < 0)
		abort();
	va_end(values);
	/* A NUL, and nothing else, ends a message. If this fails, the daemon's reason may be there to be read. */
	dprintf(connection, "{\"method\":\"io.bcached.Allocator.%s\",\"parameters\":{%s}}%c", method, text, '\0');
	free(text);
	length = getdelim(&reply, &size, '\0', replies);
	if (length < 1 || reply[length - 1]) {
		shutdown(connection, SHUT_RDWR);
		return failed(method, "the connection ended before the reply"), NULL;
	}
	parameters = find(reply, "parameters");
	if (parameters && !find(reply, "error"))
		return parameters;
	if (strstr(reply, "\"io.bcached.Allocator.ShuttingDown\""))
		shutdown(connection, SHUT_RDWR);	/* soon there is another daemon */
	return failed(method, reply), NULL;
}

static struct device *device_of(const char *p)
{
	for (struct device *device = devices; device < devices + device_count; device++)
		if (device->number == integer(p, "device"))
			return device;
	return NULL;
}

/* A read sees the same bytes as a mapping, which a program would have that checks many keys. */
static bool read_header(const struct device *device, struct header *header)
{
	return pread(device->gens, header, sizeof(*header), 0) == sizeof(*header);
}

/* Connect, describe, take the lease, open the devices and their gens. disconnect() is to follow if that fails. */
static bool attach(const char *socket_path)
{
	struct flock whole = { .l_type = F_RDLCK, .l_whence = SEEK_SET };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const char *p;

	strncpy(address.sun_path, socket_path, sizeof(address.sun_path) - 1);
	connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connection >= 0 && !(replies = fdopen(connection, "r")))
		abort();
	if (connection < 0 || connect(connection, (struct sockaddr *)&address, sizeof(address)))
		return failed("connect", strerror(errno));
	if (!(p = call("Describe", " ")))
		return false;
	lease = open_named(p, "lease_path", O_RDONLY);	/* before the first write */
	if (lease < 0 || fcntl(lease, F_OFD_SETLK, &whole))
		return failed("no lease, so nothing may be written", strerror(errno));
	for (EACH(one, find(p, "devices"))) {
		struct device *device = &devices[device_count];

		if (device_count == DEVICES_MAX)
			return failed("Describe", "more devices than DEVICES_MAX");
		device_count++;
		device->number = integer(one, "device");
		device->bucket_sectors = integer(one, "bucket_sectors");
		device->bucket_count = integer(one, "bucket_count");
		device->gens = -1;
		device->data = open_named(one, "data_path", O_RDWR | O_DIRECT);
		block_bytes = integer(one, "block_sectors") * SECTOR;
		/* Without direct I/O only if no two clients can share a page of the page cache. */
		if (device->data < 0 && errno == EINVAL && block_bytes % sysconf(_SC_PAGESIZE) == 0)
			device->data = open_named(one, "data_path", O_RDWR);
		if (device->data < 0 || device->bucket_sectors <= 0 || block_bytes <= 0)
			return failed("cannot open a device", strerror(errno));
	}
	if (!(p = call("MapGens", " ")))
		return false;
	for (EACH(one, find(p, "maps"))) {
		struct device *device = device_of(one);

		if (!device || (device->gens = open_named(one, "path", O_RDONLY)) < 0)
			return failed("cannot open the gens of a device", strerror(errno));
		if (!read_header(device, &device->then) || memcmp(device->then.magic, "bccdgens", 8) ||
		    le64toh(device->then.version) != 1 ||
		    le64toh(device->then.bucket_count) != (uint64_t)device->bucket_count)
			return failed("MapGens", "a file that is no map of the gens of its device");
	}
	return true;
}

/* The order counts: no reply and no write may be under way when the lease is given up. (What is not open is -1.) */
static void disconnect(void)
{
	if (replies)
		fclose(replies);
	for (; device_count; device_count--) {
		close(devices[device_count - 1].data);
		close(devices[device_count - 1].gens);
	}
	close(lease);
	replies = NULL;
	connection = lease = -1;
}

/* Whatever is looked up from here on can be checked against this instant. */
static void note_instant(void)
{
	for (struct device *device = devices; device < devices + device_count; device++)
		if (!read_header(device, &device->then))
			device->then.life = 0;
}

/* Whether what was read at a pointer since note_instant() was what its key says. Call it after the read. */
static bool is_current(const char *pointer)
{
	const struct device *device = device_of(pointer);
	off_t bucket = integer(pointer, "sector") / device->bucket_sectors;
	struct header now;
	uint8_t gen;

	/* 1. The gen, before the header: one that is read after the daemon's end proves nothing. */
	if (pread(device->gens, &gen, 1, 4096 + bucket) != 1 || gen != integer(pointer, "gen"))
		return false;
	/* 2. The header: the same run of the daemon, and no time for a gen to wrap around. */
	if (!read_header(device, &now) || !now.life || now.life != device->then.life ||
	    le64toh(now.gc_epoch) - le64toh(device->then.gc_epoch) > 1)
		return false;
	/* 3. The connection: a killed daemon has no time to clear its life. */
	return is_connected();
}

/* Read or write the buffer's first bytes at a pointer, in the steps that the kernel takes. */
static bool transfer(bool writes, const char *pointer, size_t bytes)
{
	const struct device *device = device_of(pointer);
	off_t at = integer(pointer, "sector") * SECTOR;
	ssize_t count;

	errno = EBADMSG;
	if (!device || bytes - 1 >= sizeof(buffer))
		return false;
	for (size_t done = 0; done < bytes; done += (size_t)count) {
		if (writes && !is_connected())	/* then nothing is reserved any more */
			return false;
		errno = EIO;	/* unless the call says otherwise: the device ends here */
		count = writes ? pwrite(device->data, buffer + done, bytes - done, at + (off_t)done)
			       : pread(device->data, buffer + done, bytes - done, at + (off_t)done);
		count -= count % SECTOR;
		if (count <= 0)
			return false;
	}
	return true;
}

/* Write a file's bytes to all copies of a key; what the file lacks is zero. */
static bool write_key(const char *key, long long start, FILE *file)
{
	size_t bytes = (size_t)integer(key, "sectors") * SECTOR;

	if (bytes > sizeof(buffer))
		return failed("Allocate", "a key that is longer than a bucket");
	memset(buffer, 0, bytes);
	if (fseeko(file, (integer(key, "offset") - start) * SECTOR, SEEK_SET) ||
	    (fread(buffer, 1, bytes, file) < bytes && ferror(file)))
		return failed("cannot read the file", strerror(errno));
	for (EACH(pointer, find(key, "pointers")))
		if (!transfer(true, pointer, bytes))
			return failed("cannot write to a device", strerror(errno));
	return true;
}

/* Reserve, write, commit; release what could not be written or committed. */
static bool put(long long inode, long long offset, FILE *file)
{
	struct stat status;
	long long blocks;
	const char *p;
	char *keys;
	bool good;

	if (fstat(fileno(file), &status) || !status.st_size)
		return failed("put", "the file is empty");
	blocks = (status.st_size + block_bytes - 1) / block_bytes;
	if (!(p = call("Allocate", "\"inode\":%lld,\"offset\":%lld,\"sectors\":%lld,\"whole\":true",
		       inode, offset, blocks * block_bytes / SECTOR)))
		return false;
	p = find(p, "keys");
	keys = p ? strndup(p, (size_t)(find(p, NULL) - p)) : NULL;	/* to be sent as they are */
	good = keys || failed("Allocate", "a reply without keys");
	for (EACH(key, keys))
		good = good && write_key(key, offset, file);
	good = good && call("Commit", "\"keys\":%s", keys);
	if (good)
		printf("kept %lld bytes\n", (long long)status.st_size);
	else if (keys && is_connected())	/* no reply, which might be an error in place of the one to be shown */
		dprintf(connection, "{\"method\":\"io.bcached.Allocator.Release\",\"oneway\":true,"
			"\"parameters\":{\"keys\":%s}}%c", keys, '\0');
	free(keys);
	return good;
}

/* Read a key from the first of its copies that proves to be valid after the read, and write it to the file. */
static bool read_key(const char *key, long long start, FILE *file)
{
	size_t bytes = (size_t)integer(key, "sectors") * SECTOR;

	for (EACH(pointer, find(key, "pointers")))
		if (!transfer(false, pointer, bytes))
			failed("cannot read from a device", strerror(errno));
		else if (!is_current(pointer))
			failed("get", "the buckets are reused faster than they are read");
		else if (fseeko(file, (integer(key, "offset") - start) * SECTOR, SEEK_SET) ||
			 fwrite(buffer, bytes, 1, file) != 1)
			failed("cannot write the file", strerror(errno));
		else
			return true;
	return false;
}

/* Note the instant, look up, read, check; look up again from the first key on that was not valid any more. */
static bool get(long long inode, long long offset, long long sectors, FILE *file)
{
	long long from = offset, end = offset + sectors, found = 0;
	const char *p;

	if (ftruncate(fileno(file), sectors * SECTOR))
		return failed("cannot extend the file", strerror(errno));
	for (int tries = TRIES; from < end;) {
		note_instant();	/* before the look-up, or a reuse between the two would go unseen */
		if (!(p = call("Lookup", "\"inode\":%lld,\"offset\":%lld,\"sectors\":%lld", inode, from, end - from)))
			return false;
		from = find(p, "next") ? integer(p, "next") : end;
		for (EACH(key, find(p, "keys"))) {
			if (!read_key(key, offset, file)) {
				if (!--tries || !is_connected())
					return false;
				from = integer(key, "offset");
				break;
			}
			found += integer(key, "sectors");
		}
	}
	if (fflush(file))
		return failed("cannot write the file", strerror(errno));
	printf("found %lld sectors\n", found);
	return true;
}

static bool command(long long inode, const char *line)
{
	long long offset, sectors;
	char path[256];
	bool puts = sscanf(line, "put %lld %255s", &offset, path) == 2, done;
	FILE *file;

	if (!puts && sscanf(line, "get %lld %lld %255s", &offset, &sectors, path) != 3)
		return failed("not a command", line);
	if (!(file = fopen(path, puts ? "re" : "we")))
		return failed(path, strerror(errno));
	done = puts ? put(inode, offset, file) : get(inode, offset, sectors, file);
	fclose(file);
	return done;
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
	bool attached, done, lost;
	char line[512];

	if (count != 3) {
		fprintf(stderr, "usage: %s SOCKET INODE < COMMANDS\n", arguments[0]);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);	/* of a connection that has ended */
	setvbuf(stdout, NULL, _IOLBF, 0);
	setvbuf(stdin, NULL, _IONBF, 0);	/* what was read ahead could not be polled for */
	for (;;) {
		wait_for_a_command();
		if (!fgets(line, sizeof(line), stdin))
			break;
		line[strcspn(line, "\n")] = '\0';
		for (int waited_ms = 0, pause_ms = 10;; waited_ms += pause_ms, pause_ms *= pause_ms < 1000 ? 2 : 1) {
			attached = connection >= 0 || attach(arguments[1]);
			done = attached && command(strtoll(arguments[2], NULL, 10), line);
			lost = !done && !is_connected();
			if (lost || !attached)
				disconnect();
			if (!lost || waited_ms >= PATIENCE_MS)
				break;
			usleep((useconds_t)pause_ms * 1000);	/* then all of it again: nothing is reserved now */
		}
		if (lost)
			printf("refused: no connection to %s (%s): start the daemon, and repeat the command\n",
			       arguments[1], why);
		else if (!done)
			printf("refused: %s\n", why);
	}
	disconnect();
	free(reply);
	return 0;
}
