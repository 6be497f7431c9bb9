/* The reference table of attention: attention_reference.h over float. */
#include "kernels/attention.h"

#include <math.h>

#define real float
#include "kernels/attention_reference.h"

const struct attention_kernels attention_reference = {
    .kv_bytes = reference_kv_bytes,
    .kv_write = reference_kv_write,
    .kv_read = reference_kv_read,
    .scratch_bytes = reference_scratch_bytes,
    .forward = reference_forward,
    .backward_scratch_bytes = reference_backward_scratch_bytes,
    .backward = reference_backward,
};
