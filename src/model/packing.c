/* Packed copies of a checkpoint's matrices, made while the model is already in use.
 *
 * A large model begins to compute from the pages of its file: a product packs each part of a matrix on its way into the
 * cache (kernels/matmul_driver.h). After each pass the copies go on growing for a tenth of the time that the pass took,
 * in the order of the forward, and a matrix whose copy is complete is read there from then on. Both ways give the same
 * bits, so the clock may decide. Where the system makes a piece wait (for a fresh page, for the processor), later
 * passes make up for it. */

#include "base/clock.h"
#include "base/file.h"
#include "graph/weights.h"
#include "model/blocks.h"

/* Of a pass's time, a little less than the tenth that is promised: a thread ends when a piece is complete. */
#define PACKING_SHARE 0.08
#define RELEASED_BYTES ((size_t)8 << 20)   /* of file pages after a pass */

/* A piece is MATMUL_GRAIN outputs of one right-hand side: of W^T, or of one of the views. */
static int64_t pieces_of(int64_t columns) { return (columns + MATMUL_GRAIN - 1) / MATMUL_GRAIN; }

static int64_t piece_count(const struct parameter *p) {
    int64_t pieces = p->view_count ? 0 : pieces_of(p->shape[0]);
    for (int i = 0; i < p->view_count; i++)
        pieces += pieces_of(p->views[i].transposed ? p->views[i].rows : p->shape[1]);
    return pieces;
}

static void pack_piece(struct model *model, const struct parameter *p, int64_t piece) {
    int view = 0;
    for (; p->view_count; view++) {
        const int64_t pieces = pieces_of(p->views[view].transposed ? p->views[view].rows : p->shape[1]);
        if (piece < pieces) break;
        piece -= pieces;
    }
    const struct matrix b = p->view_count ? matrix_of_view(p, &p->views[view]) : matrix_of_parameter(p, true);
    const int64_t begin = piece * MATMUL_GRAIN, end = begin + MATMUL_GRAIN;
    /* nobody has looked at them yet */
    if (parameter_codes(p) && !p->view_count && atomic_load_explicit(&p->unpacked, memory_order_relaxed)) {
        const int64_t rows = (end < b.cols ? end : b.cols) - begin;
        if (dtype_find_nan(p->format->dtype, (const uint8_t *)p->stored + begin * p->shape[1], rows * p->shape[1]) >= 0)
            atomic_store(&model->packing.damaged, p);
    }
    model->kernels->matmul.pack_part((uint8_t *)p->packed[0] + (p->view_count ? p->views[view].offset : 0), &b,
                                     p->view_count ? view_compute(p) : parameter_packed_type(p), 0, b.rows, begin,
                                     end < b.cols ? end : b.cols);
}

struct whole { struct model *model; const struct parameter *parameter; };

static void pack_share(void *context, int thread, int threads) {
    const struct whole *whole = context;
    int64_t begin, end;
    pool_share(piece_count(whole->parameter), 1, thread, threads, &begin, &end);
    for (int64_t piece = begin; piece < end; piece++) pack_piece(whole->model, whole->parameter, piece);
}

void model_pack_parameter(struct model *model, const struct parameter *p) {
    struct whole whole = {model, p};
    pool_run(model->pool, pack_share, &whole);
}

enum status model_sound(const struct model *model, struct error *error) {
    const struct parameter *p = atomic_load(&model->packing.damaged);
    if (!p) return STATUS_OK;
    const int64_t first = dtype_find_nan(p->format->dtype, p->stored, p->count), columns = p->shape[1];
    return error_set(error, STATUS_INVALID,
                     "tensor %s: [%lld, %lld]: found code 0x%02x, which is NaN, expected numbers", p->name,
                     (long long)(first / columns), (long long)(first % columns), ((const uint8_t *)p->stored)[first]);
}

bool model_packed(const struct model *model) { return model->packing.ready == model->packing.count; }

enum status model_pack_later(struct model *model, struct error *error) {
    struct packing *packing = &model->packing;
    packing->items = arena_alloc(&model->arena, (size_t)model->parameter_count * sizeof *packing->items);
    if (!packing->items)
        return error_set(error, STATUS_NO_MEMORY, "no memory for the list of %d matrices", model->parameter_count);
    for (int i = 0; i < model->parameter_count; i++) {
        struct parameter *p = model->parameters[i];
        if (!atomic_load(&p->unpacked)) continue;
        packing->items[packing->count++] = (struct packing_item){p, packing->pieces};
        packing->pieces += piece_count(p);
    }
    return STATUS_OK;
}

/* Gives back file pages of complete matrices, `bytes` at most: to unmap a large matrix at once would take as long as a
 * token. */
static void release_pages(struct packing *packing, size_t bytes) {
    while (bytes > 0 && packing->released < packing->ready) {
        const struct parameter *p = packing->items[packing->released].parameter;
        const size_t left = dtype_bytes(parameter_dtype(p), (size_t)p->count) - packing->released_bytes,
                     part = left < bytes ? left : bytes;
        file_map_release((const uint8_t *)p->stored + packing->released_bytes, part);
        bytes -= part;
        packing->released_bytes += part;
        if (part < left) return;
        packing->released_bytes = 0;
        packing->released++;
    }
}

struct pack_run { struct model *model; double deadline; };

static void pack_pieces(void *context, int thread, int threads) {
    (void)threads;
    const struct pack_run *run = context;
    struct packing *packing = &run->model->packing;
    int i = packing->ready;
    /* what a piece takes, so that one that would come too late is not begun */
    double now = clock_seconds(), last = 0;
    for (bool at_least_one = thread == 0; at_least_one || now + last < run->deadline; at_least_one = false) {
        const int64_t piece = atomic_fetch_add(&packing->next, 1);
        if (piece >= packing->pieces) return;
        while (i + 1 < packing->count && packing->items[i + 1].first <= piece) i++;
        pack_piece(run->model, packing->items[i].parameter, piece - packing->items[i].first);
        last = clock_seconds() - now;
        now += last;
    }
}

static void pack_for(struct model *model, double seconds) {
    struct packing *packing = &model->packing;
    struct pack_run run = {model, clock_seconds() + seconds};
    pool_run(model->pool, pack_pieces, &run);
    const int64_t made = atomic_load(&packing->next);
    while (!model_packed(model)) {
        const struct packing_item *item = &packing->items[packing->ready];
        struct parameter *p = item->parameter;
        if (made < item->first + piece_count(p)) break;
        atomic_store_explicit(&p->unpacked, false, memory_order_release);
        packing->ready++;
    }
}

/* Of several engines on one model one packs at a time; the others go on. */
static bool begin_packing(struct model *model) {
    return model->packing.released < model->packing.count && !atomic_flag_test_and_set(&model->packing.busy);
}
static void end_packing(struct model *model) { atomic_flag_clear(&model->packing.busy); }

void model_pack(struct model *model, double seconds) {
    if (!begin_packing(model)) return;
    pack_for(model, seconds);
    release_pages(&model->packing, SIZE_MAX);
    end_packing(model);
}

void model_pack_behind(struct model *model, double pass_seconds) {
    if (!begin_packing(model)) return;
    struct packing *packing = &model->packing;
    const double share = PACKING_SHARE * pass_seconds;
    if (!packing->begun) {   /* the first token comes as early as it can */
        packing->begun = true;
    } else if (packing->debt >= share) {
        packing->debt -= share;
    } else {
        const double granted = share - packing->debt, began = clock_seconds();
        release_pages(packing, RELEASED_BYTES);
        pack_for(model, granted - (clock_seconds() - began));
        const double over = clock_seconds() - began - granted;
        packing->debt = over > 0 ? over : 0;
    }
    end_packing(model);
}
