/* Model folders in another format of weights (spec/v1-v3.md section 6.3): BF16, F16 or F32 -> FP8 in V3's layout, and
 * FP8 -> BF16.
 *
 * Tensor by tensor from the mapped folder into the new one; memory for a strip of a matrix and for the scales. The same
 * bytes for any number of threads. */
#ifndef DEEPSEEK_MODEL_QUANTIZE_H
#define DEEPSEEK_MODEL_QUANTIZE_H

#include <stdbool.h>

#include "base/format.h"
#include "base/pool.h"

struct quantize_watch {
    void *context;
    /* bytes read of the old folder; false: stop, STATUS_INTERRUPTED. NULL: nobody asks */
    bool (*progress)(void *context, double done, double total);
};

struct quantize_counts {
    int64_t matrices;          /* into FP8, or out of it */
    int64_t tensors;           /* of the new folder */
    uint64_t old_bytes, new_bytes;   /* of the tensors */
};

/* `to`: FP8 or BF16. The matrices of attention, FFN and experts become FP8; embedding, head, norms, gates, eh_proj
 * of MTP modules and their copies of embedding and head BF16; the gates' correction bias stays F32. `out` must be
 * missing or an empty folder: the new one is written aside and renamed, so that it is complete or not there.
 * generation_config.json and the tokenizer's files are copied. */
enum status model_quantize(const char *folder, const char *out, const struct format *to, struct pool *pool,
                           const struct quantize_watch *watch, struct quantize_counts *counts, struct error *error);

#endif
