/* The latent core in vectors (kernels.h has the contract): one store for all heads, whose values are the first channels
 * of its keys.
 *
 * Keys are cut at absolute multiples of SEGMENT. Each segment begins a softmax of its own, and segments are merged in
 * order by one formula, so that it makes no difference whether one thread goes through them or several share them. */
#ifndef DEEPSEEK_KERNELS_ATTENTION_LATENT_SIMD_H
#define DEEPSEEK_KERNELS_ATTENTION_LATENT_SIMD_H

#include <float.h>
#include <sched.h>

#include "kernels/attention_latent_step_simd.h"

/* Parts that wait for their turn where threads share a unit's keys, and one more for what was merged. */
static inline int64_t latent_slots(int threads) { return 3 * (int64_t)threads + 1; }

static size_t latent_scratch_bytes(const struct attention_shape *shape, int64_t max_position, int threads) {
    (void)max_position;
    struct latent_layout layout = latent_layout(shape);
    struct latent_scratch scratch;
    int64_t words = threads * latent_scratch_cut(&scratch, NULL, &layout) +
                    (latent_slots(threads) + 1) * round_up(latent_part_words(&layout), 16);
    return 64 + (size_t)words * sizeof(float);
}

/* ---- segments ---------------------------------------------------------------------------------------------------- */

static inline int64_t unit_keys(const struct unit *unit) { return unit->job->position + unit->t1; }
static inline int64_t unit_segments(const struct unit *unit) { return (unit_keys(unit) + SEGMENT - 1) / SEGMENT; }

/* The store of the step that begins at a key, if the unit has it. */
static struct latent_ahead latent_keys_ahead(const struct latent_call *call, const struct unit *unit, int64_t base) {
    int64_t end = base + KEYS < unit_keys(unit) ? base + KEYS : unit_keys(unit), bytes = call->layout.block_bytes;
    const char *store = unit->job->kv;
    if (base >= end) return (struct latent_ahead){store, store, 0, 0};
    return (struct latent_ahead){store + base / BLOCK * bytes, store + round_up(end, BLOCK) / BLOCK * bytes, 0, 0};
}

/* `next`: what is read after this segment. */
static void latent_segment(const struct latent_call *call, const struct unit *unit,
                           const struct latent_scratch *scratch, const struct latent_part *part, int64_t segment,
                           struct latent_ahead next) {
    int64_t begin = segment * SEGMENT, end = begin + SEGMENT < unit_keys(unit) ? begin + SEGMENT : unit_keys(unit);
    /* Smaller than any score, and finite: a row that sees no key of the segment leaves with this and a sum of zero. */
    for (int r = 0; r < unit_padded_rows(unit); r++) part->largest[r] = -FLT_MAX;
    zero_words(part->sum, unit_padded_rows(unit));
    for (int64_t base = begin; base < end; base += KEYS) {
        struct latent_ahead ahead = base + KEYS < end ? latent_keys_ahead(call, unit, base + KEYS) : next;
        latent_step(call, unit, scratch, part, base, least(end - base, KEYS), base == begin, &ahead);
    }
}

/* largest' = max(largest, largest_part)      O = O 2^(largest - largest') + O_part 2^(largest_part - largest')      sum
 * likewise */
static void latent_merge(const struct latent_part *whole, const struct latent_part *part, int cols, int padded_rows,
                         float *factors /* [padded_rows] */, float *factors_of_part) {
    for (int r = 0; r < padded_rows; r += VF) {
        vf a = vf_load(whole->largest + r), b = vf_load(part->largest + r), now = vf_max(a, b);
        vf keep = exp2_or_zero(vf_sub(a, now)), add = exp2_or_zero(vf_sub(b, now));
        vf_store(whole->largest + r, now);
        vf_store(whole->sum + r, vf_fma(vf_load(part->sum + r), add, vf_mul(vf_load(whole->sum + r), keep)));
        vf_store(factors + r, keep);
        vf_store(factors_of_part + r, add);
    }
    for (int c = 0; c < cols; c += COLUMNS) {
        int columns = latent_lanes(cols, c / COLUMNS, COLUMNS);
        for (int r = 0; r < padded_rows; r++) {
            float *to = whole->o + (int64_t)c * padded_rows + r * columns;
            const float *from = part->o + (int64_t)c * padded_rows + r * columns;
            for (int i = 0; i < columns; i += VF)
                vf_store(to + i, vf_fma(vf_load(from + i), vf_set(factors_of_part[r]),
                                        vf_mul(vf_load(to + i), vf_set(factors[r]))));
        }
    }
}

static void latent_finish(const struct latent_call *call, const struct unit *unit, const struct latent_part *whole) {
    const struct latent_layout *layout = &call->layout;
    int heads = unit->h1 - unit->h0, rows = unit_rows(unit), padded_rows = unit_padded_rows(unit);
    for (int r = 0; r < rows; r++) {
        int head = unit->h0 + r % heads;
        int64_t row = unit->job->row + unit->t0 + r / heads, at = row * call->o_stride + (int64_t)head * layout->v_dim;
        vf inverse = vf_set(1.0f / whole->sum[r]);
        for (int c = 0; c < layout->v_dim; c += 2 * VF) {
            int columns = latent_lanes(layout->cols, c / COLUMNS, COLUMNS);
            const float *o = whole->o + (int64_t)(c / COLUMNS) * COLUMNS * padded_rows + r * columns + c % COLUMNS;
            bool both = c + VF < layout->cols;
            vf x[2] = {vf_load(o), both ? vf_load(o + VF) : vf_zero()};
            latent_order(layout->form, &x[0], &x[1]);
            /* + 0: the sign of a zero may depend on masked keys */
            for (int i = 0; i < 2 && c + i * VF < layout->v_dim; i++) {
                store_some(call->o, call->o_dtype, at + c + i * VF, vf_add(vf_mul(x[i], inverse), vf_zero()),
                           layout->v_dim - c - i * VF);
            }
        }
        if (call->lse) call->lse[head * call->rows + row] = (float)(whole->largest[r] * LN_2 + simd_log(whole->sum[r]));
    }
}

/* ---- units, and items that threads share ------------------------------------------------------------------------- */

static inline int64_t latent_units_of_job(const struct latent_call *call, const struct attention_job *job) {
    return (job->count + call->unit_tokens - 1) / call->unit_tokens * call->parts;
}
/* Unit u of a job: the longest first. */
static struct unit latent_unit(const struct latent_call *call, const struct attention_job *job, int64_t u) {
    struct unit unit = {.job = job};
    int64_t blocks = (job->count + call->unit_tokens - 1) / call->unit_tokens;
    unit.t0 = (blocks - 1 - u / call->parts) * call->unit_tokens;
    unit.t1 = unit.t0 + least(job->count - unit.t0, call->unit_tokens);
    unit.h0 = (int)(u % call->parts) * call->unit_heads;
    unit.h1 = unit.h0 + least(call->shape->heads - unit.h0, call->unit_heads);
    return unit;
}

/* Walks units, or the items of all units, upwards. */
struct latent_walk {
    int job;
    int64_t in_job;        /* unit of the job */
    int64_t first;         /* its number, or that of its first item */
};
/* The unit that holds a number not below those asked for before; false past the last. */
static bool latent_walk_to(const struct latent_call *call, struct latent_walk *walk, int64_t number, bool items,
                           struct unit *unit) {
    for (; walk->job < call->count; walk->job++, walk->in_job = 0) {
        const struct attention_job *job = &call->jobs[walk->job];
        int64_t units = latent_units_of_job(call, job);
        if (!items && number - walk->first >= units - walk->in_job) {
            walk->first += units - walk->in_job;
            continue;
        }
        for (; walk->in_job < units; walk->in_job++) {
            *unit = latent_unit(call, job, walk->in_job);
            int64_t size = items ? unit_segments(unit) : 1;
            if (number - walk->first < size) return true;
            walk->first += size;
        }
    }
    return false;
}

static void latent_units_task(void *context, int thread, int threads) {
    struct latent_call *call = context;
    const struct latent_layout *layout = &call->layout;
    (void)threads;
    struct latent_scratch scratch;
    struct latent_walk walk = {0};
    struct unit unit;
    int64_t words = latent_scratch_cut(&scratch, NULL, layout);
    latent_scratch_cut(&scratch, scratch_of_thread(call->scratch, words, thread), layout);
    struct latent_part part = latent_part_at(scratch.part, layout), whole = latent_part_at(scratch.whole, layout);
    tiles_begin();
    while (latent_walk_to(call, &walk, atomic_fetch_add_explicit(&call->next, 1, memory_order_relaxed), false, &unit)) {
        latent_load_queries(call, &unit, &scratch);
        latent_segment(call, &unit, &scratch, &whole, 0, latent_keys_ahead(call, &unit, SEGMENT));
        for (int64_t segment = 1; segment < unit_segments(&unit); segment++) {
            latent_segment(call, &unit, &scratch, &part, segment,
                           latent_keys_ahead(call, &unit, (segment + 1) * SEGMENT));
            latent_merge(&whole, &part, layout->cols, unit_padded_rows(&unit), scratch.factors,
                         scratch.factors_of_part);
        }
        latent_finish(call, &unit, &whole);
    }
    tiles_end();
}

/* Merges what is complete, in order, unless another thread is at it. */
static void latent_merge_done(struct latent_call *call, struct latent_walk *walk,
                              const struct latent_scratch *scratch) {
    const struct latent_layout *layout = &call->layout;
    int64_t size = round_up(latent_part_words(layout), 16);
    struct latent_part whole = latent_part_at(call->slot + call->slots * size, layout);
    for (;;) {
        if (atomic_flag_test_and_set(&call->merging)) return;
        int64_t item = atomic_load(&call->merged);
        for (; atomic_load(&call->done[item % call->slots]) == item + 1; item++) {
            struct unit unit;
            latent_walk_to(call, walk, item, true, &unit);
            struct latent_part part = latent_part_at(call->slot + item % call->slots * size, layout);
            int64_t padded_rows = unit_padded_rows(&unit);
            if (item == walk->first) {
                memcpy(whole.o, part.o, (size_t)(padded_rows * layout->cols) * sizeof(float));
                memcpy(whole.largest, part.largest, (size_t)padded_rows * sizeof(float));
                memcpy(whole.sum, part.sum, (size_t)padded_rows * sizeof(float));
            } else {
                latent_merge(&whole, &part, layout->cols, (int)padded_rows, scratch->factors, scratch->factors_of_part);
            }
            if (item - walk->first + 1 == unit_segments(&unit)) latent_finish(call, &unit, &whole);
            atomic_store(&call->merged, item + 1);
        }
        atomic_flag_clear(&call->merging);
        /* A thread that finished this item meanwhile has found the flag set and gone. */
        if (atomic_load(&call->done[item % call->slots]) != item + 1) return;
    }
}

static void latent_items_task(void *context, int thread, int threads) {
    struct latent_call *call = context;
    const struct latent_layout *layout = &call->layout;
    (void)threads;
    struct latent_scratch scratch;
    struct latent_walk walk = {0}, merge_walk = {0};
    struct unit unit, next, loaded = {0};
    int64_t words = latent_scratch_cut(&scratch, NULL, layout), size = round_up(latent_part_words(layout), 16);
    latent_scratch_cut(&scratch, scratch_of_thread(call->scratch, words, thread), layout);
    tiles_begin();
    int64_t item = atomic_fetch_add_explicit(&call->next, 1, memory_order_relaxed);
    bool more = latent_walk_to(call, &walk, item, true, &next);
    while (more) {
        /* The next item is taken before this one is computed, so that its keys can be fetched. */
        int64_t current = item, segment = item - walk.first;
        struct latent_ahead ahead = {next.job->kv, next.job->kv, 0, 0};
        unit = next;
        item = atomic_fetch_add_explicit(&call->next, 1, memory_order_relaxed);
        more = latent_walk_to(call, &walk, item, true, &next);
        if (more) ahead = latent_keys_ahead(call, &next, (item - walk.first) * SEGMENT);
        while (atomic_load(&call->merged) <= current - call->slots) {
            latent_merge_done(call, &merge_walk, &scratch);
            sched_yield();
        }
        if (loaded.job != unit.job || loaded.t0 != unit.t0 || loaded.h0 != unit.h0)
            latent_load_queries(call, &unit, &scratch);
        loaded = unit;
        struct latent_part part = latent_part_at(call->slot + current % call->slots * size, layout);
        latent_segment(call, &unit, &scratch, &part, segment, ahead);
        atomic_store(&call->done[current % call->slots], current + 1);
        latent_merge_done(call, &merge_walk, &scratch);
    }
    tiles_end();
}

static void latent_forward(struct pool *pool, const struct attention_shape *shape, const struct attention_job *jobs,
                           int count, const void *q, enum dtype q_dtype, int64_t q_stride, void *o, enum dtype o_dtype,
                           int64_t o_stride, float *lse, int64_t rows, void *scratch) {
    struct latent_call call = {.shape = shape,
                               .jobs = jobs,
                               .count = count,
                               .q = {.data = q, .dtype = q_dtype, .stride = q_stride},
                               .o = o,
                               .o_dtype = o_dtype,
                               .o_stride = o_stride,
                               .lse = lse,
                               .rows = rows,
                               .scratch = scratch,
                               .layout = latent_layout(shape),
                               .scale = (float)((double)shape->scale * LOG2_E),
                               .merging = ATOMIC_FLAG_INIT};
    pool = forward_pool(pool, shape, jobs, count);
    int threads = pool_threads(pool);
    /* Large units, since each unpacks its keys; but enough of them, or of their segments. */
    int64_t enough = threads > 1 ? 4 * threads : 1, units = 0, items = 0;
    for (int limit = QUERIES; limit >= PANEL; limit /= 2) {
        call.unit_heads = shape->heads < limit ? shape->heads : limit;
        call.unit_tokens = limit / call.unit_heads;
        call.parts = (shape->heads + call.unit_heads - 1) / call.unit_heads;
        units = items = 0;
        for (int j = 0; j < count; j++) {
            int64_t of_job = latent_units_of_job(&call, &jobs[j]);
            units += of_job;
            for (int64_t u = 0; u < of_job && items < enough; u++) {
                struct unit unit = latent_unit(&call, &jobs[j], u);
                items += unit_segments(&unit);
            }
        }
        if (items >= enough) break;
    }
    if (units >= enough || items == units) {
        pool_run(pool, latent_units_task, &call);
        return;
    }
    struct latent_scratch of_thread;
    int64_t words = latent_scratch_cut(&of_thread, NULL, &call.layout);
    enum { SLOTS_MOST = 64 };
    _Atomic int64_t done[SLOTS_MOST];
    call.slots = latent_slots(threads) < SLOTS_MOST ? latent_slots(threads) : SLOTS_MOST;
    call.slot = scratch_of_thread(scratch, words, threads);
    call.done = done;
    for (int i = 0; i < SLOTS_MOST; i++) atomic_init(&done[i], 0);
    pool_run(pool, latent_items_task, &call);
}

static const struct attention_kernels latent_core = {
    .kv_bytes = latent_kv_bytes,
    .kv_write = latent_kv_write,
    .kv_read = latent_kv_read,
    .scratch_bytes = latent_scratch_bytes,
    .forward = latent_forward,
};

#endif
