/* Sequences (model/sequence.h): a region for each layer in one mapping, and the ids. */
#include "model/sequence.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "model/blocks.h"

/* ---- one sequence ------------------------------------------------------------------------------------------------ */

static int64_t modules(const struct model *model) { return model->mtp ? model->config.num_nextn_predict_layers : 0; }

void *sequence_mtp_input(const struct sequence *sequence, int depth, int64_t row) {
    const struct model *model = sequence->model;
    return sequence->state + sequence->layer_offset[config_layers(&model->config)] +
           (size_t)((depth - 1) * MTP_ROWS + row % MTP_ROWS) * mtp_row_bytes(model);
}

void *sequence_state(const struct sequence *sequence, const struct layer *layer) {
    return sequence->state + sequence->layer_offset[layer->index];
}

/* A module's state counts its own rows. */
static struct layer_state state_of(const struct sequence *sequence, int64_t index) {
    const struct model *model = sequence->model;
    const int64_t trunk = model->config.num_hidden_layers;
    const struct mtp_rows *rows = index < trunk ? NULL : &sequence->mtp[index - trunk];
    return (struct layer_state){.model = model,
                                .layer = &model->layers[index],
                                .data = sequence_state(sequence, &model->layers[index]),
                                .length = rows ? rows->length - rows->base : sequence->length,
                                .capacity = sequence->capacity};
}

static void reset_layers(const struct sequence *sequence, int64_t first, int64_t end) {
    for (; first < end; first++) {
        const struct layer_state state = state_of(sequence, first);
        if (state.layer->attention->reset) state.layer->attention->reset(&state);
    }
}

/* The part of one layer goes back: so far, at least. */
static int64_t rewind_layer(const struct sequence *sequence, int64_t index, int64_t written, int64_t length) {
    struct layer_state state = state_of(sequence, index);
    const struct block *block = state.layer->attention;
    state.length = written;
    return length < written && block->rewind ? block->rewind(&state, length) : length;
}

enum status sequence_create(struct sequence **out, const struct model *model, int64_t capacity, struct error *error) {
    const int64_t layers = config_layers(&model->config);
    struct sequence *sequence = calloc(1, sizeof *sequence);
    size_t *offsets = calloc((size_t)layers + 1, sizeof *offsets), bytes = 0;
    if (!sequence || !offsets) goto no_memory;
    for (int64_t i = 0; i < layers; i++) {
        const struct layer *layer = &model->layers[i];
        offsets[i] = bytes;
        const struct block *block = layer->attention;
        if (block->state_bytes) bytes += bytes_aligned(block->state_bytes(model, layer, capacity));
    }
    offsets[layers] = bytes;
    bytes += bytes_aligned((size_t)modules(model) * MTP_ROWS * mtp_row_bytes(model));
    const size_t ids = bytes;
    bytes += (size_t)(capacity + 1 + CONFIG_MAX_NEXTN) * sizeof *sequence->ids;
    *sequence = (struct sequence){.model = model, .capacity = capacity, .state_bytes = bytes, .layer_offset = offsets};
    sequence->state = pages_alloc(bytes);
    if (!sequence->state) goto no_memory;
    sequence->ids = (int32_t *)(void *)(sequence->state + ids);
    reset_layers(sequence, 0, layers);
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
    pages_free(sequence->state, sequence->state_bytes);
    free(sequence->layer_offset);
    free(sequence);
}

int64_t sequence_rewind(struct sequence *sequence, int64_t length) {
    const int64_t layers = sequence->model->config.num_hidden_layers;
    if (length > sequence->length) length = sequence->length;
    if (length == sequence->written) return length;
    for (int64_t i = 0; i < layers; i++) {
        const int64_t reach = rewind_layer(sequence, i, sequence->written, length);
        if (reach == length) continue;
        length = reach;   /* the others must go as far */
        i = -1;
    }
    sequence->length = sequence->written = length;
    if (length == 0) reset_layers(sequence, 0, layers);
    return length;
}

int64_t sequence_sync(struct sequence *sequence, const int32_t *ids, int64_t count) {
    int64_t same = 0, most = count < sequence->length ? count : sequence->length;
    while (same < most && sequence->ids[same] == ids[same]) same++;
    return sequence_rewind(sequence, same);
}

void sequence_pretend(struct sequence *sequence, int64_t length) {
    sequence->length = sequence->written = sequence->known = length;
}

/* ---- MTP modules ------------------------------------------------------------------------------------------------- */

static int64_t at_most(int64_t value, int64_t limit) {
    if (limit < 0) limit = 0;
    return value < limit ? value : limit;
}

void sequence_mtp_rewind(struct sequence *sequence, int depth, int64_t row) {
    struct mtp_rows *rows = &sequence->mtp[depth - 1];
    if (row >= rows->length) return;
    if (row > rows->base)
        row = rows->base + rewind_layer(sequence, sequence->model->config.num_hidden_layers + depth - 1,
                                        rows->length - rows->base, row - rows->base);
    rows->length = row;
    if (rows->base > row) rows->base = row;
}

void sequence_mtp_begin(struct sequence *sequence, int depth, int64_t row) {
    const int64_t layer = sequence->model->config.num_hidden_layers + depth - 1;
    sequence->mtp[depth - 1].base = sequence->mtp[depth - 1].length = row;
    reset_layers(sequence, layer, layer + 1);
}

/* Forgets what belongs to the id of `position` or a later one. Where nothing is left of the next module's inputs, which
 * are a module's outputs, its rows are computed again from where the next one's end. */
static void forget_rows(struct sequence *sequence, int64_t position) {
    for (int depth = (int)modules(sequence->model); depth > 0; depth--) {
        struct mtp_rows *rows = &sequence->mtp[depth - 1];
        int64_t left = at_most(rows->length, position - depth);
        if (depth < modules(sequence->model) && rows[1].first == rows[1].end && rows[1].length > rows[1].base)
            left = at_most(left, rows[1].length);
        sequence_mtp_rewind(sequence, depth, left);
        rows->end = at_most(rows->end, position - depth + 1);
        rows->first = at_most(rows->first, rows->end);
    }
}

void sequence_note(struct sequence *sequence, int64_t position, int32_t id) {
    if (position < sequence->known && sequence->ids[position] == id) return;
    if (position < sequence->known) forget_rows(sequence, position);
    sequence->ids[position] = id;
    sequence->known = position + 1;
}

/* ---- to other sequences, and to memory --------------------------------------------------------------------------- */

enum { COPIED = 64 };   /* positions at a time */

/* Nothing but what belongs to its tokens. */
static void settle(struct sequence *sequence) {
    if (sequence->length < sequence->known) forget_rows(sequence, sequence->length);
    sequence->known = sequence->length;
}

static enum status check_idle(const struct sequence *sequence, const char *what, struct error *error) {
    if (sequence->written == sequence->length) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "%s a sequence: a pass that has not ended computes it from token %lld on",
                     what, (long long)sequence->length);
}

/* Becomes a sequence of these tokens, whose layers' state follows. */
static void take_ids(struct sequence *sequence, const int32_t *ids, int64_t length,
                     const struct mtp_rows rows[CONFIG_MAX_NEXTN]) {
    reset_layers(sequence, 0, config_layers(&sequence->model->config));
    memcpy(sequence->ids, ids, (size_t)length * sizeof *ids);
    memcpy(sequence->mtp, rows, sizeof sequence->mtp);
    sequence_pretend(sequence, length);
}

enum status sequence_copy(struct sequence *to, struct sequence *from, struct error *error) {
    const struct model *model = from->model;
    const int64_t layers = config_layers(&model->config);
    const size_t inputs = (size_t)modules(model) * MTP_ROWS * mtp_row_bytes(model);
    if (to == from) return STATUS_OK;
    if (to->model != model)
        return error_set(error, STATUS_INVALID, "copying a sequence: the other one belongs to another model");
    if (to->capacity < from->length)
        return error_set(error, STATUS_INVALID, "copying a sequence of %lld tokens: found room for %lld",
                         (long long)from->length, (long long)to->capacity);
    enum status status = check_idle(from, "copying", error);
    if (!status) status = check_idle(to, "copying to", error);
    size_t size = 0;
    for (int64_t i = 0; i < layers && !status; i++) {
        const struct layer_state state = state_of(from, i);
        if (!state.layer->attention->save) continue;
        const size_t bytes = state.layer->attention->save_bytes(&state, 0, COPIED);
        if (bytes > size) size = bytes;
    }
    void *buffer = status ? NULL : malloc(size + 1);
    if (!buffer) return status ? status : error_set(error, STATUS_NO_MEMORY, "no memory to copy a sequence");
    settle(from);
    take_ids(to, from->ids, from->length, from->mtp);
    for (int64_t i = 0; i < layers; i++) {
        const struct layer_state source = state_of(from, i), target = state_of(to, i);
        const struct block *block = source.layer->attention;
        for (int64_t first = 0; block->save && first < source.length; first += COPIED) {
            const int64_t count = source.length - first < COPIED ? source.length - first : COPIED;
            block->save(&source, first, count, buffer);
            block->load(&target, first, count, buffer);
        }
    }
    if (inputs) memcpy(sequence_mtp_input(to, 1, 0), sequence_mtp_input(from, 1, 0), inputs);
    free(buffer);
    return STATUS_OK;
}

/* A saved sequence: this, the ids, every layer's state, the modules' inputs. */
struct saved {
    char magic[8];
    uint64_t checksum;           /* XXH3 of what follows it */
    uint64_t size;               /* of all of it */
    uint64_t model;
    int64_t length;
    struct mtp_rows mtp[CONFIG_MAX_NEXTN];
};
static const char saved_magic[8] = "DSSTATE1";

static uint64_t saved_checksum(const struct saved *saved, size_t size) {
    const size_t head = offsetof(struct saved, size);
    return XXH3_64bits((const char *)saved + head, size - head);
}

/* Of all that decides the bytes of a state but the weights. */
static enum status fingerprint(const struct model *model, uint64_t *hash, struct error *error) {
    json_t *json = config_to_json(&model->config, DTYPE_F32);
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    const int64_t numbers[] = {model->compute, model->cache, model->expanded_prefill, modules(model),
                               model->kernels->isa};
    if (text) *hash = XXH3_64bits_withSeed(numbers, sizeof numbers, XXH3_64bits(text, strlen(text)));
    json_decref(json);
    free(text);
    return text ? STATUS_OK : error_set(error, STATUS_NO_MEMORY, "no memory for a model's fingerprint");
}

/* What follows the header is saved, or loaded, or (both NULL) only counted. Returns its bytes. */
static size_t walk_saved(const struct sequence *sequence, uint8_t *save, const uint8_t *load) {
    const struct model *model = sequence->model;
    const size_t row_bytes = mtp_row_bytes(model);
    size_t at = bytes_aligned((size_t)sequence->length * sizeof *sequence->ids);
    if (save) memcpy(memset(save, 0, at), sequence->ids, (size_t)sequence->length * sizeof *sequence->ids);
    for (int64_t i = 0; i < config_layers(&model->config); i++) {
        const struct layer_state state = state_of(sequence, i);
        const struct block *block = state.layer->attention;
        if (!block->save) continue;
        if (save) block->save(&state, 0, state.length, save + at);
        if (load) block->load(&state, 0, state.length, load + at);
        at += block->save_bytes(&state, 0, state.length);
    }
    for (int depth = 1; depth <= modules(model); depth++)
        for (int64_t row = sequence->mtp[depth - 1].first; row < sequence->mtp[depth - 1].end; row++, at += row_bytes) {
            if (save) memcpy(save + at, sequence_mtp_input(sequence, depth, row), row_bytes);
            if (load) memcpy(sequence_mtp_input(sequence, depth, row), load + at, row_bytes);
        }
    return at;
}

size_t sequence_save_bytes(struct sequence *sequence) {
    if (sequence->written == sequence->length) settle(sequence);
    return sizeof(struct saved) + walk_saved(sequence, NULL, NULL);
}

enum status sequence_save(struct sequence *sequence, void *bytes, struct error *error) {
    struct saved *saved = bytes;
    uint64_t model;
    enum status status = check_idle(sequence, "saving", error);
    if (status || (status = fingerprint(sequence->model, &model, error))) return status;
    *saved = (struct saved){.size = sequence_save_bytes(sequence), .model = model, .length = sequence->length};
    memcpy(saved->magic, saved_magic, sizeof saved_magic);
    memcpy(saved->mtp, sequence->mtp, sizeof saved->mtp);
    walk_saved(sequence, (uint8_t *)(saved + 1), NULL);
    saved->checksum = saved_checksum(saved, saved->size);
    return STATUS_OK;
}

static bool rows_possible(const struct model *model, const struct saved *saved) {
    for (int k = 0; k < CONFIG_MAX_NEXTN; k++) {
        const struct mtp_rows *rows = &saved->mtp[k];
        /* inputs of depth k + 1, and rows */
        const int64_t inputs = k < modules(model) && k < saved->length ? saved->length - k : 0,
                      most = inputs ? inputs - 1 : 0;
        if (rows->base < 0 || rows->length < rows->base || rows->length > most || rows->first < 0 ||
            rows->end < rows->first || rows->end > inputs || rows->end - rows->first > MTP_ROWS)
            return false;
    }
    return true;
}

static enum status check_saved(const struct sequence *sequence, const struct saved *saved, size_t size,
                               struct error *error) {
    const struct model *model = sequence->model;
    static const char what[] = "a saved sequence";
    uint64_t expected;
    if (size < sizeof *saved || memcmp(saved->magic, saved_magic, sizeof saved_magic))
        return error_set(error, STATUS_INVALID, "%s: found %zu bytes that do not begin as one does, expected %.8s",
                         what, size, saved_magic);
    if (saved->size != size)
        return error_set(error, STATUS_INVALID, "%s: found %zu bytes, expected %llu, as it says itself", what, size,
                         (unsigned long long)saved->size);
    if (saved->checksum != saved_checksum(saved, size))
        return error_set(error, STATUS_INVALID, "%s: its checksum is not that of its bytes: it is damaged", what);
    enum status status = fingerprint(model, &expected, error);
    if (status) return status;
    if (saved->model != expected)
        return error_set(error, STATUS_INVALID,
                         "%s: it is of another model, compute type, cache type or instruction set", what);
    if (saved->length < 0 || saved->length > sequence->capacity)
        return error_set(error, STATUS_INVALID, "%s: found %lld tokens, expected 0 to %lld (the capacity)", what,
                         (long long)saved->length, (long long)sequence->capacity);
    struct sequence after = *sequence;
    after.length = saved->length;
    memcpy(after.mtp, saved->mtp, sizeof after.mtp);
    if (!rows_possible(model, saved) || size != sizeof *saved + walk_saved(&after, NULL, NULL))
        return error_set(error, STATUS_INVALID, "%s: found %zu bytes that cannot be the state of %lld tokens", what,
                         size, (long long)saved->length);
    const int32_t *ids = (const int32_t *)(const void *)(saved + 1);
    for (int64_t t = 0; t < saved->length; t++)
        if (ids[t] < 0 || ids[t] >= model->config.vocab_size)
            return error_set(error, STATUS_INVALID, "%s: token %lld has id %d, expected 0 to %lld", what, (long long)t,
                             ids[t], (long long)model->config.vocab_size - 1);
    return check_idle(sequence, "loading", error);
}

enum status sequence_load(struct sequence *sequence, const void *bytes, size_t size, struct error *error) {
    const struct saved *saved = bytes;
    enum status status = check_saved(sequence, saved, size, error);
    if (status) return status;
    take_ids(sequence, (const int32_t *)(const void *)(saved + 1), saved->length, saved->mtp);
    walk_saved(sequence, NULL, (const uint8_t *)(saved + 1));
    return STATUS_OK;
}
