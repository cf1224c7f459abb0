// SPDX-License-Identifier: MIT
/*
 * As much JSON as reading replies takes: where a member is, and where a value ends. Nothing is copied, and
 * no number passes through a double. A pointer to a value is valid as long as the text.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static inline const char *json_blank(const char *p)
{
	return p + strspn(p, " \t\r\n");
}

/* Returns the end of the value that begins here, or of the text if it is cut off. */
static inline const char *json_end(const char *p)
{
	int depth = 0;

	do {
		p = json_blank(p);
		if (*p == '"') {
			for (p++; *p && *p != '"'; p++)
				p += *p == '\\' && p[1];
			p += *p == '"';
		} else if (*p && strchr("[]{},:", *p)) {
			depth += (*p == '[' || *p == '{') - (*p == ']' || *p == '}');
			p++;
		} else {
			p += strcspn(p, "[]{},:\" \t\r\n");
		}
	} while (depth > 0 && *p);
	return p;
}

/* Returns the value of a member of an object, or NULL if there is none, or only null. */
static inline const char *json_member(const char *object, const char *name)
{
	const char *p = json_blank(object), *key;

	if (*p++ != '{')
		return NULL;
	for (p = json_blank(p); *p == '"'; p = json_blank(p + (*p == ','))) {
		key = p + 1;
		p = json_blank(json_end(p));
		if (*p++ != ':')
			return NULL;
		p = json_blank(p);
		if (!strncmp(key, name, strlen(name)) && key[strlen(name)] == '"')
			return *p == 'n' ? NULL : p;
		p = json_blank(json_end(p));
	}
	return NULL;
}

/* Returns the first element of an array, or NULL. */
static inline const char *json_first(const char *array)
{
	const char *p = array ? json_blank(array) : "";

	p = *p == '[' ? json_blank(p + 1) : "";
	return *p && *p != ']' ? p : NULL;
}

/* Returns the element behind this one, or NULL. */
static inline const char *json_next(const char *element)
{
	const char *p = json_blank(json_end(element));

	return *p == ',' ? json_blank(p + 1) : NULL;
}

/* Returns an integer member; -1 if there is none. */
static inline int64_t json_int(const char *object, const char *name)
{
	const char *value = json_member(object, name);

	return value ? strtoll(value, NULL, 10) : -1;
}

/* Returns a copy of a value's text, to be freed; strings keep their quotes and escapes. */
static inline char *json_copy(const char *value)
{
	return value ? strndup(value, (size_t)(json_end(value) - value)) : NULL;
}

/* Returns a copy of a string member, to be freed; NULL if there is none, or it has escapes, which paths have not. */
static inline char *json_string(const char *object, const char *name)
{
	const char *value = json_member(object, name);
	size_t length = value && *value == '"' ? (size_t)(json_end(value) - value) : 0;

	return length < 2 || memchr(value, '\\', length) ? NULL : strndup(value + 1, length - 2);
}
