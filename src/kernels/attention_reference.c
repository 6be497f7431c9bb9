/* The reference cores of attention: attention_*_reference.h over float. */
#include "kernels/attention.h"

#define real float
#include "kernels/attention_grouped_reference.h"
#include "kernels/attention_latent_reference.h"

static const struct attention_kernels grouped_core = {
    .kv_bytes = grouped_reference_kv_bytes,
    .kv_write = grouped_reference_kv_write,
    .kv_read = grouped_reference_kv_read,
    .scratch_bytes = reference_scratch_bytes,
    .forward = grouped_reference_forward,
    .backward_scratch_bytes = grouped_reference_backward_scratch_bytes,
    .backward = grouped_reference_backward,
};
static const struct attention_kernels latent_core = {
    .kv_bytes = latent_reference_kv_bytes,
    .kv_write = latent_reference_kv_write,
    .kv_read = latent_reference_kv_read,
    .scratch_bytes = reference_scratch_bytes,
    .forward = latent_reference_forward,
};

const struct attention_kernels *const attention_reference[ATTENTION_CORES] = {
    [CORE_GROUPED] = &grouped_core,
    [CORE_LATENT] = &latent_core,
};
