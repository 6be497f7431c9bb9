/* The output head: logits at inference, and cross-entropy fused with it in training (spec/v1-v3.md section 7.1). Logits
 * exist for a chunk of rows at a time. On a recording graph a chunk's gradients follow at once, while its logits are in
 * the caches:
 *   dlogits[t] = weights[t] (softmax(logits[t]) - onehot(target[t])),  dh = dlogits W,  dW += dlogits^T h */
#include "graph/weights.h"

#define CHUNK_BYTES ((int64_t)64 << 20)   /* of fp32 logits; larger chunks accumulate dW less often */

struct cross_entropy { const int32_t *targets; const float *weights; float *losses; int32_t *best; };

static int64_t chunk_rows(int64_t rows, int64_t vocab) {
    int64_t chunk = CHUNK_BYTES / (vocab * (int64_t)sizeof(float)) / MATMUL_GRAIN * MATMUL_GRAIN;
    if (chunk < MATMUL_GRAIN) chunk = MATMUL_GRAIN;
    return chunk < rows ? chunk : rows;
}

/* c [rows, n] = x B (or onto c), B and n as `operand` has them. */
static void head_product(struct graph *graph, const void *x, enum dtype x_dtype, int64_t stride, int64_t rows,
                         int64_t width, enum compute compute, const struct matmul_product *operand, void *c,
                         enum dtype c_dtype, enum matmul_onto onto, void *scratch) {
    const int64_t n = operand->n;
    graph->flops += 2.0 * (double)rows * (double)width * (double)n;
    if (!graph_computes(graph)) return;
    const struct matrix a = {.data = x, .dtype = x_dtype, .rows = rows, .cols = width, .stride = stride};
    struct matmul_product product = *operand;
    product.c = c, product.c_stride = n, product.c_dtype = c_dtype, product.onto = onto;
    graph->kernels->matmul.run(graph->pool, &a, compute, &product, 1, scratch);
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static void cross_entropy_forward(struct graph *graph, struct op *op) {
    const struct cross_entropy *loss = op->extra;
    const struct matmul_kernels *matmul = &graph->kernels->matmul;
    struct tensor *h = op->in[0];
    struct parameter *head = op->parameters[0];
    const int64_t vocab = head->shape[0], width = h->width, chunk = chunk_rows(h->rows, vocab);
    const int threads = pool_threads(graph->pool);
    const bool backward = graph->recording;

    enum matmul_onto onto = MATMUL_REPLACE;
    uint8_t *dh = backward ? gradient_of(graph, h, &onto) : NULL;
    const size_t logits_bytes = (size_t)(chunk * vocab) * sizeof(float);
    const size_t packed_bytes[2] = {weight_scratch_bytes(graph, head, 0),
                                    backward ? weight_scratch_bytes(graph, head, 1) : 0};
    const size_t h_packed_bytes = backward ? matmul->packed_bytes(chunk, width, head->compute) : 0;
    const size_t scratch_bytes = larger(matmul->scratch_bytes(chunk, width, head->compute, threads),
                                        backward ? matmul->scratch_bytes(chunk, vocab, head->compute, threads) : 0);
    float *logits = scratch_take(graph, logits_bytes);
    void *packed_scratch[2] = {packed_bytes[0] ? scratch_take(graph, packed_bytes[0]) : NULL,
                               packed_bytes[1] ? scratch_take(graph, packed_bytes[1]) : NULL};
    void *h_packed = h_packed_bytes ? scratch_take(graph, h_packed_bytes) : NULL;
    void *scratch = scratch_take(graph, scratch_bytes);
    /* The logits' gradient in the type that the products round it to: it is read twice. In bf16 it fills half of a row
     * of logits. */
    const enum dtype d_dtype = compute_activation(head->compute);
    const int64_t d_stride = d_dtype == DTYPE_BF16 ? 2 * vocab : vocab;
    struct matmul_product operand[2] = {{.n = vocab}, {.n = width}};
    if (graph_computes(graph)) {
        weight_operand(graph, head, 0, packed_scratch[0], &operand[0]);
        if (backward) weight_operand(graph, head, 1, packed_scratch[1], &operand[1]);
    }

    for (int64_t row = 0; row < h->rows; row += chunk) {
        const int64_t rows = h->rows - row < chunk ? h->rows - row : chunk;
        const uint8_t *x = (const uint8_t *)h->data + dtype_bytes(h->dtype, (size_t)(row * width));
        head_product(graph, x, h->dtype, width, rows, width, head->compute, &operand[0], logits, DTYPE_F32,
                     MATMUL_REPLACE, scratch);
        if (graph_computes(graph))
            graph->kernels->rows.cross_entropy(graph->pool, loss->losses + row, loss->best ? loss->best + row : NULL,
                                               logits, vocab, loss->targets + row,
                                               backward ? loss->weights + row : NULL, d_dtype, rows, vocab);
        if (!backward) continue;
        head_product(graph, logits, d_dtype, d_stride, rows, vocab, head->compute, &operand[1],
                     dh + dtype_bytes(h->grad_dtype, (size_t)(row * width)), h->grad_dtype, onto, scratch);
        if (graph_computes(graph)) {
            const struct matrix b = {.data = x, .dtype = h->dtype, .rows = rows, .cols = width, .stride = width};
            matmul_pack(graph->pool, matmul, h_packed, &b, head->compute);
        }
        weight_gradient(graph, head, logits, d_dtype, d_stride, rows, h_packed);
    }
    scratch_give(graph, scratch, scratch_bytes);
    scratch_give(graph, h_packed, h_packed_bytes);
    scratch_give(graph, packed_scratch[1], packed_bytes[1]);
    scratch_give(graph, packed_scratch[0], packed_bytes[0]);
    scratch_give(graph, logits, logits_bytes);
}

/* No output, hence no backward: the forward has left dh in h's gradient. */
static const struct op_kind cross_entropy_kind = {.name = "cross_entropy", .forward = cross_entropy_forward};

void op_cross_entropy(struct graph *graph, struct tensor *h, struct parameter *head, const int32_t *targets,
                      const float *weights, float *losses, int32_t *best) {
    /* a model that breaks the rule in graph.h */
    if (head->compute == COMPUTE_FP8) graph->status = STATUS_UNSUPPORTED;
    struct op *op = op_new(graph, &cross_entropy_kind, sizeof(struct cross_entropy));
    if (!op) return;
    *(struct cross_entropy *)op->extra = (struct cross_entropy){targets, weights, losses, best};
    op->parameters[0] = head;
    op_input(op, h);
    op_run(graph, op);
}

void op_logits(struct graph *graph, struct tensor *h, struct parameter *head, const int32_t *rows, int64_t count,
               float *logits) {
    if (head->compute == COMPUTE_FP8) graph->status = STATUS_UNSUPPORTED;   /* likewise */
    if (graph->status != STATUS_OK || count == 0) return;
    const int64_t vocab = head->shape[0], width = h->width;
    const size_t row_bytes = dtype_bytes(h->dtype, (size_t)width),
                 gathered_bytes = rows ? row_bytes * (size_t)count : 0;
    const size_t packed_bytes = weight_scratch_bytes(graph, head, 0);
    const size_t scratch_bytes = graph->kernels->matmul.scratch_bytes(count, width, head->compute,
                                                                      pool_threads(graph->pool));
    uint8_t *gathered = rows ? scratch_take(graph, gathered_bytes) : h->data;
    void *packed_scratch = packed_bytes ? scratch_take(graph, packed_bytes) : NULL,
         *scratch = scratch_take(graph, scratch_bytes);
    struct matmul_product operand = {.n = vocab};
    if (graph_computes(graph)) {
        if (rows) graph->kernels->moe.gather(graph->pool, gathered, h->data, rows, 1, count, row_bytes);
        weight_operand(graph, head, 0, packed_scratch, &operand);
    }
    head_product(graph, gathered, h->dtype, width, count, width, head->compute, &operand, logits, DTYPE_F32,
                 MATMUL_REPLACE, scratch);
    scratch_give(graph, scratch, scratch_bytes);
    scratch_give(graph, packed_scratch, packed_bytes);
    if (rows) scratch_give(graph, gathered, gathered_bytes);
}
