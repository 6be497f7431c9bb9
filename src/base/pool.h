/* The thread pool: short parallel regions with a static partition. Workers spin briefly before they sleep.
 *
 * No result may depend on the number of threads. So a kernel splits its outputs, never a sum: an output has one
 * accumulator with one order, and sums over rows are cut into blocks of a fixed size that are added in block order. */
#ifndef DEEPSEEK_BASE_POOL_H
#define DEEPSEEK_BASE_POOL_H

#include <stdint.h>

#include "base/error.h"

struct pool;

/* `threads` 0 means one per processor this process may run on (DEEPSEEK_THREADS overrides that default). */
enum status pool_create(struct pool **pool, int threads, struct error *error);
void pool_destroy(struct pool *pool);
int pool_threads(const struct pool *pool);   /* 1 for NULL */

/* Calls task(context, thread, threads) once on each thread, the caller being thread 0, and returns when all are done.
 * A NULL pool runs task(context, 0, 1). Regions do not nest: a region opened inside a region runs on its own thread
 * alone. */
void pool_run(struct pool *pool, void (*task)(void *context, int thread, int threads), void *context);

/* Waits, inside a region, until every thread of the region has arrived. */
void pool_barrier(struct pool *pool);

/* The part [*begin, *end) of `count` items that belongs to `thread`, in units of `grain` items. */
void pool_share(int64_t count, int64_t grain, int thread, int threads, int64_t *begin, int64_t *end);

#endif
