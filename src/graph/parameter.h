/* Parameters: learned arrays, and the tables of integers that come with them. A block declares what one is; nobody
 * finds it out from a name or from the number of dimensions. */
#ifndef DEEPSEEK_GRAPH_PARAMETER_H
#define DEEPSEEK_GRAPH_PARAMETER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/format.h"

/* A slice of a matrix that is multiplied for itself (MLA's W_kvb, head by head): rows row..row+rows of W [out, in] as a
 * right-hand side, W_s [rows, in] or, transposed, W_s^T [in, rows]. */
struct parameter_view {
    int64_t row, rows;
    bool transposed;
    size_t offset; /* of its packed copy in packed[0], bytes */
};

enum parameter_kind {
    PARAMETER_MATRIX,      /* [out, in], multiplied, y = W x, and packed for it */
    PARAMETER_TABLE,       /* [rows, width], rows are looked up, at inference where the file has them */
    PARAMETER_VECTOR,      /* numbers that are used one by one (norms, biases): fp32 everywhere, finite */
    PARAMETER_INTEGERS,    /* 0 <= x < limit, in `integers`; without gradient */
};

/* What changes it in training. */
enum parameter_update {
    UPDATE_MATRIX,         /* the optimizer, by its rule for whole matrices where it has one */
    UPDATE_ELEMENTS,       /* the optimizer, element by element */
    UPDATE_LOADS,          /* the loads of its layer's experts (train/trainer.h) */
    UPDATE_NEVER,
};

/* Types that its products may have. */
enum parameter_products {
    PRODUCTS_MODEL,        /* the model's; FP8 checkpoints have codes of it */
    PRODUCTS_ACTIVATION,   /* the activations', never FP8 */
    PRODUCTS_F32,
};

enum parameter_owner { OWNER_MODEL, OWNER_MODULE, OWNER_ATTENTION, OWNER_FFN, OWNER_EXPERT };

/* A name under which files may have it, whole or as a part of a larger tensor. */
struct parameter_name {
    const char *name;
    struct parameter *parameter;   /* NULL: a buffer of old files, which nobody needs */
    int64_t stack, index;   /* it is number `index` of a tensor [stack, ...]; stack 0: there is no such dimension */
    int64_t rows, row;      /* and there rows row, row + 1, ... of so many; 0: all of them */
    bool copy;              /* beside the first name: exports write it, nobody reads it */
    struct parameter_name *next;
};

/* Training holds `value` and `grad` in fp32; inference multiplies by `stored`, which lies in the file, until the packed
 * copy is made, and by that from then on. */
struct parameter {
    /* what its block declares (model_declare) */
    const char *name;           /* the first of `names` */
    enum parameter_kind kind;
    int64_t shape[2];           /* rows (of a matrix: out), columns; columns 0: one dimension */
    enum parameter_update update;
    bool undecayed;             /* weight decay spares it */
    bool wide;                  /* fp32 in every file: bf16 has no room for its steps */
    enum { INITIAL_NORMAL, INITIAL_CONSTANT } initial;   /* of the config's initializer_range; `constant` */
    float constant;
    int32_t limit;              /* of integers */
    enum parameter_owner owner;
    int expert;                 /* of OWNER_EXPERT */
    enum parameter_products products;
    /* Products in F8_E4M3: is the scale of a tile of x, or of dy, a power of two? And the smallest amax of x that
     * counts (struct matrix). */
    bool x_power_of_two, dy_power_of_two;
    float least_amax;

    /* what follows from it */
    struct parameter_name *names;
    int layer;                  /* -1: of none */
    int64_t count;              /* elements */
    /* of the products with it: the model's, but for parts that stay in a higher one */
    enum compute compute;

    float *value;               /* fp32 master, or NULL at inference */
    int32_t *integers;
    const struct safetensors_entry *entry;   /* its tensor, or its part of one, while a checkpoint is open */
    const void *stored;         /* row-major data for reading, NULL when only a packed copy is left */
    const struct format *format;   /* of `stored`: codes have scales, as the file has them; NULL: F32 */
    const void *scales;
    float *grad;                /* fp32, NULL outside training */
    /* since the step began; otherwise the gradient counts as zero and grad's content means nothing */
    bool grad_written;
    /* A step's gradient is the sum of those of its leaves (train/fold.h), each from zero. `leaf`: where the
     * contributions of the current one are, grad or leaf_buffer; NULL: there are none yet. */
    float *leaf, *leaf_buffer;
    int contributions;          /* to the leaf in a pass, as planned; those of kernels that can only add count twice */
    int writers;                /* operations of the pass, still to be walked back over, that may contribute */

    /* Packed copies for those products (kernels.h): [0] B = W^T for y = W x, [1] B = W for dx = W^T dy. NULL: packed
     * anew for each use. */
    void *packed[2];
    /* At inference a parameter with views has their packed copies in packed[0], one after the other, in place of W^T's.
     * Training ignores them. */
    const struct parameter_view *views;
    int view_count;
    atomic_bool unpacked;       /* packed[0] has memory, but not its content yet */
    /* of a routed expert that stays in the file: nothing of it is in memory, graph->experts has it brought */
    bool absent;
};

static inline bool parameter_trained(const struct parameter *p) { return p->update <= UPDATE_ELEMENTS; }

/* What products read where there are no fp32 values: its type, and whether it is codes with scales. Products in BF16
 * and FP8 read codes; those in F32, and the products with views, dequantise. */
static inline enum dtype parameter_dtype(const struct parameter *p) {
    return p->value || !p->format ? DTYPE_F32 : p->format->dtype;
}
static inline bool parameter_codes(const struct parameter *p) { return !p->value && p->format && p->format->scaled; }
/* Compute type of the packed copies; of the views', where a model is opened for inference, view_compute. */
static inline enum compute parameter_packed_type(const struct parameter *p) {
    return parameter_codes(p) && p->compute == COMPUTE_BF16 ? COMPUTE_FP8 : p->compute;
}

#endif
