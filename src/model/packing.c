/* Packed copies of a checkpoint's matrices, made while the model is already in use.
 *
 * A large model begins to compute from the pages of its file: a product packs each part of a matrix on its way into the cache (kernels/matmul_driver.h). After each
 * pass the copies go on growing for a tenth of the time that the pass took, in the order of the forward, and a matrix whose copy is complete is read there from
 * then on. Both ways give the same bits, so the clock may decide. */

#include "base/clock.h"
#include "base/file.h"
#include "graph/weights.h"
#include "model/blocks.h"

/* Of a pass's time, a little less than the tenth that is promised: a thread ends when a piece is complete. */
#define PACKING_SHARE 0.08

bool model_packed(const struct model *model) { return model->packing.ready == model->packing.count; }

enum status model_pack_later(struct model *model, struct error *error) {
    struct packing *packing = &model->packing;
    packing->items = arena_alloc(&model->arena, (size_t)model->parameter_count * sizeof *packing->items);
    if (!packing->items) return error_set(error, STATUS_NO_MEMORY, "no memory for the list of %d matrices", model->parameter_count);
    for (int i = 0; i < model->parameter_count; i++) {
        struct parameter *p = model->parameters[i];
        if (!atomic_load(&p->unpacked)) continue;
        packing->items[packing->count++] = (struct packing_item){p, packing->pieces};
        packing->pieces += (p->shape[0] + MATMUL_GRAIN - 1) / MATMUL_GRAIN;
    }
    return STATUS_OK;
}

struct pack_run { struct model *model; double deadline; };

/* A piece is MATMUL_GRAIN outputs of one matrix. */
static void pack_pieces(void *context, int thread, int threads) {
    (void)thread, (void)threads;
    const struct pack_run *run = context;
    struct packing *packing = &run->model->packing;
    int i = packing->ready;
    do {
        const int64_t piece = atomic_fetch_add(&packing->next, 1);
        if (piece >= packing->pieces) return;
        while (i + 1 < packing->count && packing->items[i + 1].first <= piece) i++;
        const struct parameter *p = packing->items[i].parameter;
        const struct matrix b = matrix_of_parameter(p, true);
        const int64_t begin = (piece - packing->items[i].first) * MATMUL_GRAIN, end = begin + MATMUL_GRAIN;
        run->model->kernels->matmul.pack_part(p->packed[0], &b, p->compute, 0, b.rows, begin, end < b.cols ? end : b.cols);
    } while (clock_seconds() < run->deadline);
}

void model_pack(struct model *model, double seconds) {
    struct packing *packing = &model->packing;
    if (model_packed(model) || atomic_flag_test_and_set(&packing->busy)) return;   /* one thread of those that share a model */
    struct pack_run run = {model, clock_seconds() + seconds};
    pool_run(model->pool, pack_pieces, &run);
    const int64_t made = atomic_load(&packing->next);
    while (!model_packed(model)) {
        struct parameter *p = packing->items[packing->ready].parameter;
        if (made < packing->items[packing->ready].first + (p->shape[0] + MATMUL_GRAIN - 1) / MATMUL_GRAIN) break;
        atomic_store_explicit(&p->unpacked, false, memory_order_release);
        file_map_release(p->stored, dtype_bytes(p->stored_dtype, (size_t)p->count));
        packing->ready++;
    }
    atomic_flag_clear(&packing->busy);
}

void model_pack_behind(struct model *model, double pass_seconds) {
    if (model_packed(model)) return;
    /* The first token comes as early as it can. */
    if (model->packing.begun) model_pack(model, PACKING_SHARE * pass_seconds);
    model->packing.begun = true;
}
