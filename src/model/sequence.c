/* Sequences: the decoding state of one text, a region for each layer in one mapping. */
#include "model/model.h"

#include <stdlib.h>

/* ---- sequences --------------------------------------------------------------------------------------------------- */

static size_t mtp_row_bytes(const struct model *model) {
    return dtype_bytes(compute_activation(model->compute), (size_t)model->config.hidden_size);
}

static size_t mtp_state_bytes(const struct model *model) {
    return bytes_aligned(sizeof(struct mtp_state)) +
           bytes_aligned((size_t)model->config.num_nextn_predict_layers * MTP_ROWS * mtp_row_bytes(model));
}

void *sequence_mtp_input(const struct sequence *sequence, int depth, int64_t row) {
    return (uint8_t *)sequence->mtp + bytes_aligned(sizeof *sequence->mtp) +
           (size_t)((depth - 1) * MTP_ROWS + row % MTP_ROWS) * mtp_row_bytes(sequence->model);
}

enum status sequence_create(struct sequence **out, const struct model *model, int64_t capacity, struct error *error) {
    struct sequence *sequence = calloc(1, sizeof *sequence);
    size_t *offsets = calloc((size_t)config_layers(&model->config), sizeof *offsets), bytes = 0;
    if (!sequence || !offsets) goto no_memory;
    for (int64_t i = 0; i < config_layers(&model->config); i++) {
        const struct layer *layer = &model->layers[i];
        offsets[i] = bytes;
        if (layer->attention->state_bytes) bytes += bytes_aligned(layer->attention->state_bytes(model, layer, capacity));
    }
    const size_t mtp = bytes;
    if (model->mtp) bytes += mtp_state_bytes(model);
    *sequence = (struct sequence){.model = model, .capacity = capacity, .state_bytes = bytes, .layer_offset = offsets};
    sequence->state = pages_alloc(bytes ? bytes : 1);
    if (!sequence->state) goto no_memory;
    if (model->mtp) sequence->mtp = (struct mtp_state *)(void *)(sequence->state + mtp);
    *out = sequence;
    return STATUS_OK;
no_memory:
    free(offsets);
    free(sequence);
    return error_set(error, STATUS_NO_MEMORY,
                     "the state of a sequence of %lld tokens needs %.2f GB, the system has no more memory",
                     (long long)capacity, (double)bytes / 1e9);
}

void sequence_destroy(struct sequence *sequence) {
    if (!sequence) return;
    pages_free(sequence->state, sequence->state_bytes ? sequence->state_bytes : 1);
    free(sequence->layer_offset);
    free(sequence);
}

void sequence_rewind(struct sequence *sequence, int64_t length) {
    if (length >= 0 && length < sequence->length) sequence->length = length;
}

void sequence_copy(struct sequence *to, const struct sequence *from) {
    memcpy(to->state, from->state, from->state_bytes);
    to->length = from->length;
}

void *sequence_state(const struct sequence *sequence, const struct layer *layer) {
    return sequence->state + sequence->layer_offset[layer->index];
}
