/* Token data: splitting, and the order of sequences. (data_files.c: which files; data_read.c: documents; data_encode.c:
 * text to ids; data_cache.c: ids in a file.) */
#include "train/data.h"

#include <stdio.h>
#include <string.h>

#include "base/random.h"

enum status data_read(const struct data *data, int64_t begin, int64_t count, int32_t *ids, struct error *error) {
    return token_file_read(&data->file, begin, count, ids, error);
}

void data_hold_out(struct data *data, double fraction) {
    data->train_count = data->count - (int64_t)((double)data->count * fraction);
}

enum status data_split(struct data *data, double eval_fraction, int64_t length, struct error *error) {
    data_hold_out(data, eval_fraction);
    int64_t held_out = data->count - data->train_count;
    if (data->train_count < length + 1) {
        char remedy[64] = "";
        if (data->train_count > 1)
            snprintf(remedy, sizeof remedy, ", or a train.sequence_length of at most %lld",
                     (long long)data->train_count - 1);
        return error_set(error, STATUS_INVALID,
                         "the data is too short: found %lld tokens, %lld of them for training after "
                         "train.eval_fraction %g; a sequence of train.sequence_length %lld needs %lld; "
                         "take more text%s",
                         (long long)data->count, (long long)data->train_count, eval_fraction, (long long)length,
                         (long long)length + 1, remedy);
    }
    if (eval_fraction > 0 && held_out < 2)
        return error_set(error, STATUS_INVALID,
                         "the data is too short: train.eval_fraction %g of %lld tokens holds %lld tokens out, "
                         "evaluation needs 2; set train.eval_fraction=0 to train without",
                         eval_fraction, (long long)data->count, (long long)held_out);
    return STATUS_OK;
}

void data_free(struct data *data) {
    if (data->file.header.width) token_file_close(&data->file);   /* zeroed: nothing is open */
    *data = (struct data){0};
}

/* ---- order ------------------------------------------------------------------------------------------------------- */

/* A permutation of 0..count-1: four Feistel rounds over an even number of bits, repeated
 * until the value is in range. */
static uint64_t permute(uint64_t seed, uint64_t stream, uint64_t count, uint64_t value) {
    int half = 1;
    while (half < 31 && (uint64_t)1 << 2 * half < count) half++;
    uint64_t mask = ((uint64_t)1 << half) - 1;
    do {
        uint64_t left = value >> half, right = value & mask;
        for (uint64_t round = 0; round < 4; round++) {
            uint64_t next = left ^ (random_u64(seed, stream, right << 2 | round) & mask);
            left = right;
            right = next;
        }
        value = left << half | right;
    } while (value >= count);
    return value;
}

/* ids[begin .. begin + length] as inputs and, one later, targets. */
static enum status read_window(const struct data *data, int64_t begin, int64_t length, int32_t *inputs,
                               int32_t *targets, struct error *error) {
    enum status status = data_read(data, begin, length, inputs, error);
    if (status != STATUS_OK) return status;
    memcpy(targets, inputs + 1, (size_t)(length - 1) * sizeof *targets);
    return data_read(data, begin + length, 1, targets + length - 1, error);
}

enum status data_sequence(const struct data *data, uint64_t seed, uint64_t tokens, int64_t length, int32_t *inputs,
                          int32_t *targets, struct error *error) {
    /* Windows of an epoch: as many as fit behind the largest offset, so that every epoch has the same number. */
    int64_t spare = data->train_count - 1 - length;   /* how far the last window may begin */
    int64_t offsets = spare + 1 < length ? spare + 1 : length;
    uint64_t windows = (uint64_t)((spare - (offsets - 1)) / length + 1);
    const uint64_t number = tokens / (uint64_t)length, epoch = number / windows;
    uint64_t stream = random_stream("data") + epoch;
    uint64_t offset = random_below(seed, random_stream("data offset"), epoch, (uint64_t)offsets);
    int64_t begin = (int64_t)(offset + permute(seed, stream, windows, number % windows) * (uint64_t)length);
    return read_window(data, begin, length, inputs, targets, error);
}

void data_mask_ends(const int32_t *inputs, int32_t *targets, int64_t count, int32_t document_end) {
    for (int64_t i = 0; i < count; i++)
        if (inputs[i] == document_end) targets[i] = -1;
}

int64_t data_eval_windows(const struct data *data, int64_t length) {
    int64_t targets = data->count - data->train_count - 1;
    return targets > 0 ? (targets + length - 1) / length : 0;
}

enum status data_eval_window(const struct data *data, int64_t length, int64_t window, int32_t *inputs, int32_t *targets,
                             int64_t *count, struct error *error) {
    int64_t begin = data->train_count + window * length;
    *count = data->count - 1 - begin < length ? data->count - 1 - begin : length;
    return read_window(data, begin, *count, inputs, targets, error);
}
