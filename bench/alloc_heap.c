// SPDX-License-Identifier: GPL-2.0-only
/*
 * One lru invalidation as bcache's allocator thread does it, on columns instead of an array of structs:
 * a heap of the `heap_size` lightest buckets is kept while all are walked, then turned round, and the
 * lightest are popped until free_inc is full. Written for `make bench` from the description of the algorithm.
 */

#include <stddef.h>
#include <stdint.h>

#define INITIAL_PRIO 32768u
#define GEN_DISTANCE_MAX 96

struct columns {
	const uint8_t *states;		/* first_reclaimable and above may be invalidated */
	uint8_t *gens;
	const uint8_t *last_gc;
	uint16_t *prios;
	const uint16_t *sectors;
	uint32_t *pins;
};

struct heap {
	uint32_t *data;
	size_t used, size;
};

static inline uint32_t weight(const struct columns *c, uint32_t bucket, uint32_t min_prio)
{
	return (c->prios[bucket] - min_prio + (INITIAL_PRIO - min_prio) / 8) * c->sectors[bucket];
}

/* Sift down: with `heaviest_first` the parent is the heavier one, else the lighter one. */
static void sift(struct heap *heap, const struct columns *c, uint32_t min_prio, size_t i, int heaviest_first)
{
	for (;;) {
		size_t child = 2 * i + 1;
		uint32_t here, there, swap;

		if (child >= heap->used)
			return;
		there = weight(c, heap->data[child], min_prio);
		if (child + 1 < heap->used) {
			uint32_t other = weight(c, heap->data[child + 1], min_prio);

			if (heaviest_first ? other > there : other < there) {
				there = other;
				child++;
			}
		}
		here = weight(c, heap->data[i], min_prio);
		if (heaviest_first ? there <= here : there >= here)
			return;
		swap = heap->data[i];
		heap->data[i] = heap->data[child];
		heap->data[child] = swap;
		i = child;
	}
}

static void add(struct heap *heap, const struct columns *c, uint32_t min_prio, uint32_t bucket)
{
	size_t i = heap->used++;
	uint32_t own = weight(c, bucket, min_prio);

	heap->data[i] = bucket;
	while (i) {
		size_t parent = (i - 1) / 2;

		if (weight(c, heap->data[parent], min_prio) >= own)
			return;
		heap->data[i] = heap->data[parent];
		heap->data[parent] = bucket;
		i = parent;
	}
}

/* Fills free_inc, lightest first; returns how many buckets went there. */
size_t invalidate_lru(struct columns *c, uint8_t first_reclaimable, uint32_t first_bucket, uint32_t bucket_count,
		      uint32_t min_prio, uint32_t *heap_data, size_t heap_size, uint32_t *free_inc,
		      size_t free_inc_size)
{
	struct heap heap = { heap_data, 0, heap_size };
	size_t taken = 0;

	for (uint32_t bucket = first_bucket; bucket < bucket_count; bucket++) {
		if (c->states[bucket] < first_reclaimable || c->pins[bucket] ||
		    (uint8_t)(c->gens[bucket] - c->last_gc[bucket]) >= GEN_DISTANCE_MAX)
			continue;
		if (heap.used < heap.size) {
			add(&heap, c, min_prio, bucket);
		} else if (weight(c, bucket, min_prio) < weight(c, heap.data[0], min_prio)) {
			heap.data[0] = bucket;
			sift(&heap, c, min_prio, 0, 1);
		}
	}

	for (size_t i = heap.used / 2; i-- > 0;)
		sift(&heap, c, min_prio, i, 0);

	while (taken < free_inc_size && heap.used) {
		uint32_t bucket = heap.data[0];

		heap.data[0] = heap.data[--heap.used];
		sift(&heap, c, min_prio, 0, 0);
		c->gens[bucket]++;
		c->prios[bucket] = INITIAL_PRIO;
		c->pins[bucket]++;
		free_inc[taken++] = bucket;
	}
	return taken;
}
