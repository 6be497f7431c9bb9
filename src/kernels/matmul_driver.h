/* The blocked matrix product around a register tile, shared by every variant with packed panels.
 *
 * C [m, n] is cut into tiles of `height` rows and one panel of columns. A kernel computes one tile over one block of k:
 *
 *     for each block of rows            (its A is packed, for all of k: it stays in the second-level cache,
 *                                        block of k by block of k)
 *       for each block of columns       (its partial sums stay in the second-level cache)
 *         for each block of k
 *           for each panel of columns   (this part of B stays in the first-level cache)
 *             for each tile of rows     (A streams from the second level)
 *
 * Between two blocks of k a partial sum waits in scratch memory as fp32, which is exact, so blocking changes no bit.
 * Threads split the rows when there are many, with private packed A; otherwise the panels, with one packed A.
 * A block of a single tile needs no blocks of k: every panel is read once from begin to end, as decoding wants it.
 *
 * A B that is not packed goes the same way: each part of a panel is packed into a private scratch that stays in the
 * caches, just before it is used.
 *
 * A list of independent products (experts, heads) is cut into units of blocks of rows and ranges of panels, which the
 * threads take as they come. */
#ifndef DEEPSEEK_KERNELS_MATMUL_DRIVER_H
#define DEEPSEEK_KERNELS_MATMUL_DRIVER_H

#include <stdatomic.h>

#include "kernels/matmul_block.h"

struct matmul_call {
    const struct matmul_kind *kind;
    struct pool *pool;
    const struct matrix *a;
    const struct matmul_product *products;
    int count;
    char *scratch;
};

static inline int64_t matmul_panels(const struct matmul_kind *kind, const struct matmul_product *product) {
    return (product->n + kind->panel - 1) / kind->panel;
}

static inline void matmul_task(void *context, int thread, int threads) {
    const struct matmul_call *call = context;
    const struct matmul_kind *kind = call->kind;
    int64_t m = call->a->rows, k = call->a->cols, panels = 0;
    for (int i = 0; i < call->count; i++) panels += matmul_panels(kind, &call->products[i]);

    /* Rows for each thread while that leaves every thread a full block, or when there
     * are too few panels to go round. */
    bool by_rows = m >= (int64_t)threads * kind->m_block || panels < threads;
    int64_t row_begin = 0, row_end = m, panel_begin = 0, panel_end = panels;
    int pack_thread = 0, pack_threads = 1;
    if (by_rows) {
        pool_share(m, kind->tile_rows, thread, threads, &row_begin, &row_end);
    } else {
        pool_share(panels, 1, thread, threads, &panel_begin, &panel_end);
        pack_thread = thread;
        pack_threads = threads;
    }

    int64_t share = by_rows
                        ? matmul_min(m, matmul_round_up((m + threads - 1) / threads, kind->tile_rows) + kind->tile_rows)
                        : m;
    struct matmul_area area = matmul_block_area(kind, matmul_min(share, kind->m_block + kind->tile_rows), k);
    char *scratch = (char *)(((uintptr_t)call->scratch + 63) / 64 * 64);
    char *private = by_rows ? scratch + (size_t)thread * (area.a + matmul_area_private(&area))
                            : scratch + area.a + (size_t)thread * matmul_area_private(&area);
    struct matmul_block block = {.k = k};
    block.a = by_rows ? private : scratch;
    block.scales = (float *)(void *)(block.a + area.scales);
    matmul_block_place(&block, &area, by_rows ? private + area.a : private);

    int64_t block_rows = matmul_block_rows(kind, row_end - row_begin);
    for (block.row = row_begin; block.row < row_end; block.row += block_rows) {
        block.rows = matmul_min(block_rows, row_end - block.row);
        matmul_block_cut(kind, &block);
        /* the others may still read the block before */
        if (pack_threads > 1 && block.row > row_begin) pool_barrier(call->pool);
        matmul_pack_block(kind, &block, call->a, pack_thread, pack_threads);
        if (pack_threads > 1) pool_barrier(call->pool);

        if (kind->begin) kind->begin(block.height);
        int64_t before = 0;
        for (int i = 0; i < call->count; i++) {
            const struct matmul_product *product = &call->products[i];
            int64_t own = matmul_panels(kind, product), j0 = panel_begin > before ? panel_begin - before : 0,
                    j1 = matmul_min(panel_end - before, own);
            bool stream = kind->stream_c && product->onto == MATMUL_REPLACE && product->c_dtype == DTYPE_F32 &&
                          m * product->n >= 1 << 20;
            if (j0 < j1) matmul_block_product(kind, &block, product, j0, j1, stream);
            before += own;
        }
        if (kind->end) kind->end();
    }
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

/* Multiplications that take one thread about as long as handing work to another. Threads change no bit, so this may
 * look at the size of a call. */
#define MATMUL_ALONE (1 << 18)

static inline void matmul_kind_run(const struct matmul_kind *kind, struct pool *pool, const struct matrix *a,
                                   const struct matmul_product *products, int count, void *scratch) {
    int64_t columns = 0;
    for (int i = 0; i < count; i++) columns += products[i].n;
    if (a->rows * a->cols * columns < MATMUL_ALONE) pool = NULL;
    struct matmul_call call = {kind, pool, a, products, count, scratch};
    pool_run(pool, matmul_task, &call);
}

/* ---- many products in one call ----------------------------------------------------------------------------------- */

/* Each group has blocks of rows, and each block the panels of all the group's products. A block whose cost is above
 * that of a unit is cut into pieces of its panels. A thread takes the next unit from a counter, and packs the rows of A
 * itself unless it has packed them for the unit before: no thread waits for another. */
struct matmul_list {
    const struct matmul_kind *kind;
    const struct matmul_group *groups;
    int count;
    int64_t unit_cost;
    bool stream;               /* the call writes more than the caches should hold */
    struct matmul_area area;   /* of one thread, enough for every group */
    char *scratch;
    _Alignas(64) atomic_llong next;
};

/* Units for each thread, so that the last one to finish is not far behind; what reading B costs, in rows; the least
 * cost of a unit. */
enum { MATMUL_UNITS = 16, MATMUL_READ_ROWS = 8, MATMUL_UNIT_COST = 1 << 19 };

/* Results of so many bytes are written around the caches: what reads gradients reads them later, and a line that is
 * written whole need not be read first. */
#define MATMUL_STREAM_BYTES (16 << 20)

/* A result that is most of what its product moves, in whole cache lines. */
static inline bool matmul_is_streamed(const struct matrix *a, const struct matmul_product *product) {
    return product->onto == MATMUL_REPLACE && product->c_dtype == DTYPE_F32 && product->c_stride % 16 == 0 &&
           (uintptr_t)product->c % 64 == 0 && 2 * a->rows * product->n > (a->rows + product->n) * a->cols;
}

struct matmul_cut { int64_t panels, block_rows, pieces, units; };   /* of a group; `pieces` of each block */

static inline struct matmul_cut matmul_group_cut(const struct matmul_kind *kind, const struct matmul_group *group,
                                                 int64_t unit_cost) {
    struct matmul_cut cut = {0};
    int64_t m = group->a.rows;
    for (int i = 0; i < group->count; i++) cut.panels += matmul_panels(kind, &group->products[i]);
    if (m == 0 || cut.panels == 0) return cut;
    cut.block_rows = matmul_block_rows(kind, m);
    int64_t cost = (cut.block_rows + MATMUL_READ_ROWS) * group->a.cols * cut.panels * kind->panel;
    cut.pieces = matmul_min((cost + unit_cost / 2) / unit_cost, cut.panels);
    if (cut.pieces < 1) cut.pieces = 1;
    cut.units = (m + cut.block_rows - 1) / cut.block_rows * cut.pieces;
    return cut;
}

static inline void matmul_list_task(void *context, int thread, int threads) {
    struct matmul_list *list = context;
    const struct matmul_kind *kind = list->kind;
    char *scratch = list->scratch + (size_t)thread * (list->area.a + matmul_area_private(&list->area));
    struct matmul_block block = {.a = scratch, .scales = (float *)(void *)(scratch + list->area.scales)};
    matmul_block_place(&block, &list->area, scratch + list->area.a);
    (void)threads;

    int at = 0, packed_group = -1, height = 0;
    int64_t first = 0, packed_row = -1;   /* the first unit of group `at` */
    struct matmul_cut cut = matmul_group_cut(kind, &list->groups[0], list->unit_cost);
    for (;;) {
        int64_t unit = atomic_fetch_add_explicit(&list->next, 1, memory_order_relaxed);
        while (unit - first >= cut.units) {
            if (++at == list->count) goto done;
            first += cut.units;
            cut = matmul_group_cut(kind, &list->groups[at], list->unit_cost);
        }
        const struct matmul_group *group = &list->groups[at];
        block.k = group->a.cols;
        block.row = (unit - first) / cut.pieces * cut.block_rows;
        block.rows = matmul_min(cut.block_rows, group->a.rows - block.row);
        matmul_block_cut(kind, &block);
        if (packed_group != at || packed_row != block.row) {
            matmul_pack_block(kind, &block, &group->a, 0, 1);
            packed_group = at;
            packed_row = block.row;
        }
        if (kind->begin && height != block.height) kind->begin(block.height);
        height = block.height;
        int64_t begin, end, before = 0;
        pool_share(cut.panels, 1, (int)((unit - first) % cut.pieces), (int)cut.pieces, &begin, &end);
        for (int i = 0; i < group->count; i++) {
            const struct matmul_product *product = &group->products[i];
            int64_t own = matmul_panels(kind, product), j0 = begin > before ? begin - before : 0,
                    j1 = matmul_min(end - before, own);
            if (j0 < j1)
                matmul_block_product(kind, &block, product, j0, j1,
                                     list->stream && matmul_is_streamed(&group->a, product));
            before += own;
        }
    }
done:
    if (kind->end && height) kind->end();
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

static inline size_t matmul_kind_grouped_scratch_bytes(const struct matmul_kind *kind, int64_t max_m, int64_t max_k,
                                                       int threads) {
    struct matmul_area area = matmul_block_area(kind, matmul_min(max_m, kind->m_block + kind->tile_rows), max_k);
    return (size_t)threads * (area.a + matmul_area_private(&area)) + 64;
}

static inline void matmul_kind_run_grouped(const struct matmul_kind *kind, struct pool *pool,
                                           const struct matmul_group *groups, int count, void *scratch) {
    int64_t max_m = 0, max_k = 0, products = 0, cost = 0, streamed = 0;
    for (int i = 0; i < count; i++) {
        int64_t m = groups[i].a.rows, k = groups[i].a.cols, n = 0;
        for (int j = 0; j < groups[i].count; j++) {
            const struct matmul_product *product = &groups[i].products[j];
            n += product->n;
            if (matmul_is_streamed(&groups[i].a, product)) streamed += m * product->n * 4;
        }
        if (m == 0 || n == 0) continue;
        if (m > max_m) max_m = m;
        if (k > max_k) max_k = k;
        products += m * k * n;
        cost += (m + MATMUL_READ_ROWS) * k * n;
    }
    if (max_m == 0) return;
    if (products < MATMUL_ALONE) pool = NULL;
    struct matmul_list list = {.kind = kind,
                               .groups = groups,
                               .count = count,
                               .unit_cost = cost / (MATMUL_UNITS * (int64_t)pool_threads(pool))};
    if (list.unit_cost < MATMUL_UNIT_COST) list.unit_cost = MATMUL_UNIT_COST;
    list.stream = streamed >= MATMUL_STREAM_BYTES;
    list.area = matmul_block_area(kind, matmul_min(max_m, kind->m_block + kind->tile_rows), max_k);
    list.scratch = (char *)(((uintptr_t)scratch + 63) / 64 * 64);
    atomic_init(&list.next, 0);
    pool_run(pool, matmul_list_task, &list);
}

#endif
