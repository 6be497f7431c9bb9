/* Multi-head latent attention: its own operations (spec/v1-v3.md sections 2.4, 2.7 and 7.6).
 *
 * Expanded (training): latent splits what W_kva made, latent_keys makes each head's keys and values of it, and
 * attention is the common one. Absorbed (inference): W_kvb goes into the queries and the outputs, head by head, and
 * attention reads the latents themselves. */
#include "graph/weights.h"

static void *at(const void *data, enum dtype dtype, int64_t index) {
    return (uint8_t *)data + dtype_bytes(dtype, (size_t)index);
}
static void *element(const struct tensor *t, int64_t index) { return at(t->data, t->dtype, index); }

/* ---- [c_raw | k_r_raw] -> c = RMSNorm(c_raw), k_r = rope(k_r_raw) ------------------------------------------------ */

struct latent { float eps; const float *table; const int32_t *positions; };

/* out: c [rows, rank], k_r [rows, rotary], rstd [rows, 1] */
static void latent_forward(struct graph *graph, struct op *op) {
    const struct latent *latent = op->extra;
    const struct row_kernels *kernels = &graph->kernels->rows;
    const struct tensor *x = op->in[0], *c = op->out[0], *k_r = op->out[1], *rstd = op->out[2];
    if (!graph_computes(graph)) return;
    kernels->rmsnorm_forward(graph->pool, c->data, c->dtype, c->width, rstd->data, x->data, x->dtype, x->width,
                             op->parameters[0]->value, x->rows, c->width, latent->eps);
    kernels->move(graph->pool, k_r->data, k_r->width, element(x, c->width), x->width, x->dtype, x->rows, k_r->width,
                  false);
    kernels->rope(graph->pool, k_r->data, k_r->dtype, k_r->width, x->rows, 1, (int)k_r->width, 0, (int)k_r->width,
                  latent->table, latent->positions, true, false);
}

/* dx = [ RMSNorm's backward of dc | R(-p) dk_r ], summed in fp32 */
static void latent_backward(struct graph *graph, struct op *op) {
    const struct latent *latent = op->extra;
    const struct row_kernels *kernels = &graph->kernels->rows;
    struct tensor *x = op->in[0];
    const struct tensor *c = op->out[0], *k_r = op->out[1], *rstd = op->out[2];
    const bool direct = x->grad_dtype == DTYPE_F32;
    const size_t dx_bytes = direct ? 0 : (size_t)(x->rows * x->width) * sizeof(float);
    void *sole = gradient_sole(graph, x);
    float *dx = direct ? sole : scratch_take(graph, dx_bytes);
    const size_t scratch_bytes = kernels->rmsnorm_backward_scratch(x->rows, c->width);
    void *scratch = scratch_take(graph, scratch_bytes);
    float *dw = parameter_gradient(graph, op->parameters[0], NULL);
    if (graph_computes(graph)) {
        kernels->zero(graph->pool, dx, (size_t)(x->rows * x->width) * sizeof(float));
        kernels->rmsnorm_backward(graph->pool, dx, x->width, dw, c->grad, c->grad_dtype, c->width, x->data, x->dtype,
                                  x->width, op->parameters[0]->value, rstd->data, x->rows, c->width, scratch);
        kernels->move(graph->pool, dx + c->width, x->width, k_r->grad, k_r->width, DTYPE_F32, x->rows, k_r->width,
                      false);
        kernels->rope(graph->pool, dx, DTYPE_F32, x->width, x->rows, 1, (int)x->width, (int)c->width, (int)k_r->width,
                      latent->table, latent->positions, true, true);
        if (!direct) kernels->convert(graph->pool, sole, x->grad_dtype, dx, DTYPE_F32, x->rows * x->width);
    }
    scratch_give(graph, scratch, scratch_bytes);
    if (!direct) scratch_give(graph, dx, dx_bytes);
}

static const struct op_kind latent_kind = {
    .name = "latent", .forward = latent_forward, .backward = latent_backward, .reads_inputs = 1, .reads_outputs = 4};

void op_latent(struct graph *graph, struct tensor *x, struct parameter *norm, float eps, const float *table,
               const int32_t *positions, struct tensor **c, struct tensor **k_r) {
    *c = *k_r = NULL;
    struct op *op = op_new(graph, &latent_kind, sizeof(struct latent));
    if (!op) return;
    *(struct latent *)op->extra = (struct latent){eps, table, positions};
    op->parameters[0] = norm;
    op_input(op, x);
    *c = op_output(graph, op, x->rows, norm->shape[0], x->dtype, DTYPE_F32);
    *k_r = op_output(graph, op, x->rows, x->width - norm->shape[0], x->dtype, DTYPE_F32);
    op_output(graph, op, x->rows, 1, DTYPE_F32, DTYPE_F32);
    op_run(graph, op);
}

/* ---- kvu, k_r -> k = [k_n | k_r] and v of every head ------------------------------------------------------------- */

static void keys_forward(struct graph *graph, struct op *op) {
    if (graph_computes(graph))
        graph->kernels->rows.latent_keys_forward(graph->pool, op->extra, op->out[0]->data, op->out[1]->data,
                                                 op->in[0]->data, op->in[1]->data, op->in[0]->rows);
}

static void keys_backward(struct graph *graph, struct op *op) {
    void *dkvu = gradient_sole(graph, op->in[0]), *dk_r = gradient_sole(graph, op->in[1]);
    if (graph_computes(graph))
        graph->kernels->rows.latent_keys_backward(graph->pool, op->extra, dkvu, dk_r, op->out[0]->grad,
                                                  op->out[1]->grad, op->in[0]->rows);
}

/* The backward reads no data. But with kvu kept, k and v are made again without its product, and they are the larger
 * ones. */
static const struct op_kind keys_kind = {
    .name = "latent_keys", .forward = keys_forward, .backward = keys_backward, .reads_inputs = 1};

void op_latent_keys(struct graph *graph, struct tensor *kvu, struct tensor *k_r, int heads, int64_t nope,
                    struct tensor **k, struct tensor **v) {
    *k = *v = NULL;
    struct op *op = op_new(graph, &keys_kind, sizeof(struct latent_heads));
    if (!op) return;
    const int64_t value = kvu->width / heads - nope;
    *(struct latent_heads *)op->extra = (struct latent_heads){kvu->dtype, heads, nope, k_r->width, value};
    op_input(op, kvu);
    op_input(op, k_r);
    *k = op_output(graph, op, kvu->rows, heads * (nope + k_r->width), kvu->dtype, kvu->grad_dtype);
    *v = op_output(graph, op, kvu->rows, heads * value, kvu->dtype, kvu->grad_dtype);
    op_run(graph, op);
}

/* ---- inference: attention over the latents ----------------------------------------------------------------------- */

struct latent_attention {
    struct latent_shape shape;
    int count;
    bool own_stores;               /* in step memory, for the time of the forward */
    struct attention_job *jobs;    /* [count] */
    struct attention_job *some;    /* [count], of a part of the pass */
    struct matmul_group *groups;   /* [heads] */
    struct matmul_product *products;   /* [2 heads] */
};

/* Rows whose absorbed queries and outputs exist at a time: they are wide. */
#define ABSORBED_ROWS 256
/* Positions whose keys and values are expanded at a time. */
#define EXPANDED_ROWS 256

struct attention_shape latent_attention_shape(const struct latent_shape *shape) {
    return (struct attention_shape){.heads = shape->heads,
                                    .kv_heads = 1,
                                    .qk_dim = (int)(shape->rank + shape->rotary),
                                    .v_dim = (int)shape->rank,
                                    .scale = shape->scale,
                                    .kv_dtype = shape->cache};
}

static struct attention_shape expanded_shape(const struct latent_shape *shape, enum dtype dtype) {
    return (struct attention_shape){.heads = shape->heads,
                                    .kv_heads = shape->heads,
                                    .qk_dim = (int)(shape->nope + shape->rotary),
                                    .v_dim = (int)shape->value,
                                    .scale = shape->scale,
                                    .kv_dtype = dtype};
}

/* C_h [rows, n] = A_h [rows, k] B_h for every head, A_h and C_h being columns of `a` and `c`, B_h the views of `w` from
 * `view` on. */
static void heads_product(struct graph *graph, struct latent_attention *attention, const struct parameter *w, int view,
                          const void *a, int64_t a_width, int64_t k, void *c, int64_t c_width, int64_t n,
                          int64_t rows) {
    const int heads = attention->shape.heads;
    const enum dtype dtype = compute_activation(graph->compute);
    const struct matmul_kernels *matmul = &graph->kernels->matmul;
    const size_t scratch_bytes = matmul->grouped_scratch_bytes(rows, k, view_compute(w), pool_threads(graph->pool));
    void *scratch = scratch_take(graph, scratch_bytes);
    graph->flops += 2.0 * (double)rows * (double)k * (double)n * heads;
    if (graph_computes(graph)) {
        for (int h = 0; h < heads; h++) {
            attention->products[h] = (struct matmul_product){.n = n,
                                                             .c = (uint8_t *)c +
                                                                  dtype_bytes(dtype, (size_t)(h * c_width)),
                                                             .c_stride = heads * c_width,
                                                             .c_dtype = dtype};
            view_operand(w, view + h, &attention->products[h]);
            attention->groups[h] = (struct matmul_group){
                .a = {.data = (const uint8_t *)a + dtype_bytes(dtype, (size_t)(h * a_width)),
                      .dtype = dtype,
                      .rows = rows,
                      .cols = k,
                      .stride = heads * a_width},
                .products = &attention->products[h],
                .count = 1,
            };
        }
        matmul->run_grouped(graph->pool, view_compute(w), attention->groups, heads, scratch);
    }
    scratch_give(graph, scratch, scratch_bytes);
}

static int64_t end_of(const struct attention_job *jobs, int count) {
    int64_t end = 0;
    for (int i = 0; i < count; i++)
        if (jobs[i].position + jobs[i].count > end) end = jobs[i].position + jobs[i].count;
    return end;
}

static double pairs_of(const struct attention_job *jobs, int count) {
    double pairs = 0;
    for (int i = 0; i < count; i++) {
        const double n = (double)jobs[i].count, p = (double)jobs[i].position;
        pairs += n * p + n * (n + 1) / 2;
    }
    return pairs;
}

/* Rows row..row+rows of the pass, all of them those of the first `count` jobs in attention->some:
 *   qt_h = [ UK_h^T q_n,h | q_r,h ],   ol_h = attention over the latents,   o_h = UV_h ol_h */
static void attend_absorbed(struct graph *graph, struct op *op, int count, int64_t row, int64_t rows) {
    struct latent_attention *attention = op->extra;
    const struct latent_shape *shape = &attention->shape;
    const struct tensor *q = op->in[0], *o = op->out[0];
    const struct attention_kernels *kernels = graph->kernels->attention[CORE_LATENT];
    const struct attention_shape absorbed = latent_attention_shape(shape);
    const int64_t heads = shape->heads, head = shape->nope + shape->rotary, wide = shape->rank + shape->rotary;
    const enum dtype dtype = compute_activation(graph->compute);
    const size_t qt_bytes = dtype_bytes(dtype, (size_t)(rows * heads * wide)),
                 ol_bytes = dtype_bytes(dtype, (size_t)(rows * heads * shape->rank));
    void *qt = scratch_take(graph, qt_bytes), *ol = scratch_take(graph, ol_bytes);
    const void *q_rows = graph_computes(graph) ? element(q, row * q->width) : NULL;
    heads_product(graph, attention, op->parameters[0], 0, q_rows, head, shape->nope, qt, wide, shape->rank, rows);
    if (graph_computes(graph))
        graph->kernels->rows.move(graph->pool, at(qt, dtype, shape->rank), wide, at(q_rows, dtype, shape->nope), head,
                                  dtype, rows * heads, shape->rotary, false);

    const size_t scratch_bytes = kernels->scratch_bytes(&absorbed, end_of(attention->some, count),
                                                        pool_threads(graph->pool));
    void *scratch = scratch_take(graph, scratch_bytes);
    graph->flops += 2.0 * pairs_of(attention->some, count) * (double)heads * (double)(wide + shape->rank);
    if (graph_computes(graph))
        kernels->forward(graph->pool, &absorbed, attention->some, count, qt, dtype, heads * wide, ol, dtype,
                         heads * shape->rank, NULL, rows, scratch);
    scratch_give(graph, scratch, scratch_bytes);

    heads_product(graph, attention, op->parameters[0], shape->heads, ol, shape->rank, shape->rank,
                  graph_computes(graph) ? element(o, row * o->width) : NULL, shape->value, shape->value, rows);
    scratch_give(graph, ol, ol_bytes);
    scratch_give(graph, qt, qt_bytes);
}

/* One span in the expanded form. Its latents are in the sequence's store already; all positions' keys and values are
 * made from there:
 *   [k_n,h | v_h] = [ UK_h c | UV_h c ],   k_h = [k_n,h | k_r] */
static void attend_expanded(struct graph *graph, struct op *op, const struct attention_job *job) {
    struct latent_attention *attention = op->extra;
    const struct latent_shape *shape = &attention->shape;
    const struct parameter *w = op->parameters[0];
    const struct tensor *q = op->in[0], *o = op->out[0];
    const struct attention_kernels *kernels = graph->kernels->attention[CORE_GROUPED];
    const struct matmul_kernels *matmul = &graph->kernels->matmul;
    const enum dtype dtype = compute_activation(graph->compute);
    const struct attention_shape absorbed = latent_attention_shape(shape), expanded = expanded_shape(shape, dtype);
    const int64_t heads = shape->heads, head = shape->nope + shape->rotary, positions = job->position + job->count,
                  most = positions < EXPANDED_ROWS ? positions : EXPANDED_ROWS;
    const size_t store_bytes = kernels->kv_bytes(&expanded, positions),
                 c_bytes = dtype_bytes(dtype, (size_t)(most * shape->rank)),
                 k_r_bytes = dtype_bytes(dtype, (size_t)(most * shape->rotary));
    const size_t k_bytes = dtype_bytes(dtype, (size_t)(most * heads * head)),
                 v_bytes = dtype_bytes(dtype, (size_t)(most * heads * shape->value));
    const size_t product_bytes = matmul->scratch_bytes(most, shape->rank, view_compute(w), pool_threads(graph->pool));
    void *store = scratch_take(graph, store_bytes), *c = scratch_take(graph, c_bytes),
         *k_r = scratch_take(graph, k_r_bytes), *k = scratch_take(graph, k_bytes), *v = scratch_take(graph, v_bytes);
    void *product_scratch = scratch_take(graph, product_bytes);
    graph->flops += 2.0 * (double)positions * (double)w->count +
                    2.0 * pairs_of(job, 1) * (double)heads * (double)(head + shape->value);
    if (graph_computes(graph))
        for (int64_t first = 0; first < positions; first += most) {
            const int64_t rows = positions - first < most ? positions - first : most;
            graph->kernels->attention[CORE_LATENT]->kv_read(graph->pool, &absorbed, job, first, rows, k_r, dtype,
                                                            shape->rotary, c, dtype, shape->rank);
            for (int h = 0; h < shape->heads; h++) {
                attention->products[2 * h] = (struct matmul_product){.n = shape->nope,
                                                                     .c = (uint8_t *)k +
                                                                          dtype_bytes(dtype, (size_t)(h * head)),
                                                                     .c_stride = heads * head,
                                                                     .c_dtype = dtype};
                attention->products[2 * h + 1] = (struct matmul_product){
                    .n = shape->value,
                    .c = (uint8_t *)v + dtype_bytes(dtype, (size_t)(h * shape->value)),
                    .c_stride = heads * shape->value,
                    .c_dtype = dtype};
                view_operand(w, 2 * shape->heads + h, &attention->products[2 * h]);
                view_operand(w, shape->heads + h, &attention->products[2 * h + 1]);
            }
            const struct matrix a = {
                .data = c, .dtype = dtype, .rows = rows, .cols = shape->rank, .stride = shape->rank};
            matmul->run(graph->pool, &a, view_compute(w), attention->products, 2 * shape->heads, product_scratch);
            for (int64_t h = 0; h < heads; h++)
                graph->kernels->rows.move(graph->pool, at(k, dtype, h * head + shape->nope), heads * head, k_r,
                                          shape->rotary, dtype, rows, shape->rotary, false);
            const struct attention_job part = {.kv = store, .capacity = positions, .position = first, .count = rows};
            kernels->kv_write(graph->pool, &expanded, &part, 1, k, dtype, heads * head, v, dtype, heads * shape->value);
        }
    scratch_give(graph, product_scratch, product_bytes);
    scratch_give(graph, v, v_bytes);
    scratch_give(graph, k, k_bytes);
    scratch_give(graph, k_r, k_r_bytes);
    scratch_give(graph, c, c_bytes);
    const size_t scratch_bytes = kernels->scratch_bytes(&expanded, positions, pool_threads(graph->pool));
    void *scratch = scratch_take(graph, scratch_bytes);
    if (graph_computes(graph)) {
        const struct attention_job whole = {
            .kv = store, .capacity = positions, .row = job->row, .position = job->position, .count = job->count};
        kernels->forward(graph->pool, &expanded, &whole, 1, q->data, q->dtype, q->width, o->data, o->dtype, o->width,
                         NULL, q->rows, scratch);
    }
    scratch_give(graph, scratch, scratch_bytes);
    scratch_give(graph, store, store_bytes);
}

/* in: q [rows, heads * (nope + rotary)], c [rows, rank], k_r [rows, rotary];  out: o [rows, heads * value] */
static void latent_attention_forward(struct graph *graph, struct op *op) {
    struct latent_attention *attention = op->extra;
    const struct latent_shape *shape = &attention->shape;
    const struct tensor *c = op->in[1], *k_r = op->in[2];
    const struct attention_kernels *kernels = graph->kernels->attention[CORE_LATENT];
    const struct attention_shape absorbed = latent_attention_shape(shape);

    size_t store_bytes = 0;
    for (int i = 0; attention->own_stores && i < attention->count; i++)
        store_bytes += bytes_aligned(kernels->kv_bytes(&absorbed, attention->jobs[i].capacity));
    uint8_t *store = store_bytes ? scratch_take(graph, store_bytes) : NULL;
    if (graph_computes(graph)) {
        uint8_t *at = store;
        for (int i = 0; attention->own_stores && i < attention->count; i++) {
            attention->jobs[i].kv = at;
            at += bytes_aligned(kernels->kv_bytes(&absorbed, attention->jobs[i].capacity));
        }
        kernels->kv_write(graph->pool, &absorbed, attention->jobs, attention->count, k_r->data, k_r->dtype, k_r->width,
                          c->data, c->dtype, c->width);
    }

    int some = 0;
    int64_t first = 0, rows = 0;   /* of attention->some */
    for (int i = 0; i < attention->count; i++) {
        const struct attention_job *job = &attention->jobs[i];
        const bool expanded = shape->expanded_prefill && job->count > 1;
        for (int64_t done = 0; !expanded && done < job->count;) {
            const int64_t taken = job->count - done < ABSORBED_ROWS - rows ? job->count - done : ABSORBED_ROWS - rows;
            if (!some) first = job->row + done;
            attention->some[some++] = (struct attention_job){.kv = job->kv,
                                                             .capacity = job->capacity,
                                                             .row = rows,
                                                             .position = job->position + done,
                                                             .count = taken};
            rows += taken;
            done += taken;
            if (rows == ABSORBED_ROWS) attend_absorbed(graph, op, some, first, rows), some = 0, rows = 0;
        }
        if (some && (expanded || i + 1 == attention->count))
            attend_absorbed(graph, op, some, first, rows), some = 0, rows = 0;
        if (expanded) attend_expanded(graph, op, job);
    }
    scratch_give(graph, store, store_bytes);
}

static const struct op_kind latent_attention_kind = {.name = "latent_attention", .forward = latent_attention_forward};

struct tensor *op_latent_attention(struct graph *graph, struct tensor *q, struct tensor *c, struct tensor *k_r,
                                   struct parameter *kv_b, const struct latent_shape *shape,
                                   const struct attention_job *jobs, int count) {
    const size_t heads = (size_t)shape->heads, list = (size_t)count * sizeof *jobs;
    struct op *op = op_new(graph, &latent_attention_kind, sizeof(struct latent_attention));
    if (!op) return NULL;
    struct latent_attention *attention = op->extra;
    *attention = (struct latent_attention){
        .shape = *shape,
        .count = count,
        .own_stores = jobs[0].kv == NULL,
        .jobs = arena_alloc(&graph->arena, list),
        .some = arena_alloc(&graph->arena, list),
        .groups = arena_alloc(&graph->arena, heads * sizeof *attention->groups),
        .products = arena_alloc(&graph->arena, 2 * heads * sizeof *attention->products),
    };
    if (!attention->jobs || !attention->some || !attention->groups || !attention->products) {
        graph->status = STATUS_NO_MEMORY;
        return NULL;
    }
    memcpy(attention->jobs, jobs, list);
    op->parameters[0] = kv_b;
    op_input(op, q);
    op_input(op, c);
    op_input(op, k_r);
    struct tensor *o = op_output(graph, op, q->rows, shape->heads * shape->value, q->dtype, q->dtype);
    op_run(graph, op);
    return o;
}
