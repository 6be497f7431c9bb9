/* Sequences: the decoding state of one text, and its ids.
 *
 * Of a block's state the sequence knows what `struct block` says (model.h): how to forget, to go back, to save and to
 * load. How far back a state can go is the block's to answer: whoever rewinds asks for the reach and feeds again from
 * there on (infer.h, engine_rewind). */
#ifndef DEEPSEEK_MODEL_SEQUENCE_H
#define DEEPSEEK_MODEL_SEQUENCE_H

#include "model/model.h"

/* A layer's part of a sequence: `length` tokens of at most `capacity`. */
struct layer_state { const struct model *model; const struct layer *layer; void *data; int64_t length, capacity; };

/* What a sequence keeps beside the layers' state so that MTP modules can draft (infer/draft.c). Zeros: nothing yet. A
 * row i of depth k belongs to the ids up to i + k: sequence_note forgets it with the first of them that changes. */
#define MTP_ROWS 32
struct mtp_rows {                /* of depth k = index + 1; rows have the numbers of the trunk's positions */
    int64_t base, length;        /* rows base..length-1 stand in the module's layer state, from slot 0 on */
    /* the inputs h^{k-1} of these rows are held, that of row p in slot p % MTP_ROWS of sequence_mtp_input */
    int64_t first, end;
};

struct sequence {
    const struct model *model;
    int64_t length, capacity;    /* tokens whose state is held, tokens there is room for */
    int64_t written;             /* beyond `length`: a pass that has begun and not ended may have written up to here */
    /* [capacity + 1 + CONFIG_MAX_NEXTN]: the tokens, and up to `known` what stood behind them or was drafted */
    int32_t *ids;
    int64_t known;
    struct mtp_rows mtp[CONFIG_MAX_NEXTN];
    uint8_t *state;              /* every layer's state, the modules' inputs and the ids: one mapping */
    size_t state_bytes;
    size_t *layer_offset;        /* [config_layers], then that of the inputs */
};

enum status sequence_create(struct sequence **sequence, const struct model *model, int64_t capacity,
                            struct error *error);
void sequence_destroy(struct sequence *sequence);

/* Forgets the tokens from `length` on (0 <= length) and what an unfinished pass has left, and more where a block cannot
 * go back so little. Returns the length that is left; the ids after it stay where they are until others are fed. */
int64_t sequence_rewind(struct sequence *sequence, int64_t length);
/* Keeps the common prefix with ids[0..count-1], or as much of it as a rewind leaves: ids from the returned number on
 * are to be fed. */
int64_t sequence_sync(struct sequence *sequence, const int32_t *ids, int64_t count);

/* `to`, of the same model and room for as many tokens, then holds the same ones. `from` forgets drafted rows. */
enum status sequence_copy(struct sequence *to, struct sequence *from, struct error *error);
/* To and from memory, aligned as malloc's; the bytes do not depend on the capacity. Loading demands the same config,
 * compute and cache type and instruction set; that the weights are the same is the caller's to know. After an error the
 * sequence is as it was. */
size_t sequence_save_bytes(struct sequence *sequence);
enum status sequence_save(struct sequence *sequence, void *bytes, struct error *error);
enum status sequence_load(struct sequence *sequence, const void *bytes, size_t size, struct error *error);

/* ---- for passes -------------------------------------------------------------------------------------------------- */

void *sequence_state(const struct sequence *sequence, const struct layer *layer);
/* An id has its place: position <= known. What belonged to another id there, or came after it, is forgotten. */
void sequence_note(struct sequence *sequence, int64_t position, int32_t id);
/* As if `length` tokens had been fed, whose state is what lies there: for measurements. */
void sequence_pretend(struct sequence *sequence, int64_t length);

/* of mtp_row_bytes */
void *sequence_mtp_input(const struct sequence *sequence, int depth, int64_t row);
/* A module's rows from `row` on are forgotten; where its state cannot go back so little, more. */
void sequence_mtp_rewind(struct sequence *sequence, int depth, int64_t row);
/* A module begins anew with `row`. */
void sequence_mtp_begin(struct sequence *sequence, int depth, int64_t row);

#endif
