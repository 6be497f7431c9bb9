/* Byte pair encoding: the merges of a vocabulary, and how a piece of text becomes ids (Sennrich et al., "Neural machine
 * translation of rare words with subword units", 2016). The pair with the lowest rank is merged first, among equals the
 * leftmost, until no pair of neighbours has a rank. */
#ifndef DEEPSEEK_TEXT_BPE_H
#define DEEPSEEK_TEXT_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define BPE_ID_BITS 21                          /* a slot of the table of merges holds two ids and a rank in 64 bits */
/* ids and merges are below it: sixteen times the largest vocabularies of today */
#define BPE_LIMIT (1 << BPE_ID_BITS)
#define BPE_NO_RANK UINT32_MAX
#define BPE_PIECE_LIMIT ((size_t)1 << 31)       /* bytes of one piece */

struct bpe {
    int32_t byte_ids[256];                      /* -1: the vocabulary lacks the byte */
    uint32_t (*byte_ranks)[256];                /* [256][256] the rank of two bytes, which most look-ups are about */
    uint64_t *slots;                            /* open addressing: 1, left, right, rank; 0 is empty */
    int slot_bits;
    int32_t *results;                           /* [count] rank -> id of the merged token */
    int64_t count, capacity;
    uint64_t probes;                            /* steps from slot to slot that bpe_add took so far */
};

/* Working memory of one thread; zeroed is empty. */
struct bpe_scratch { void *memory; size_t size; };

enum status bpe_create(struct bpe *bpe, const int32_t byte_ids[256], int64_t capacity, struct error *error);
void bpe_free(struct bpe *bpe);
/* Merge number `count` joins left and right; of two merges of the same pair the later one counts, as in the tokenizers
 * library. */
void bpe_add(struct bpe *bpe, int32_t left, int32_t right, int32_t result);
/* A merge that can never apply takes its rank. */
void bpe_add_idle(struct bpe *bpe);
/* To be called when all merges are there. */
void bpe_finish(struct bpe *bpe);

/* The ids of a piece, in out[0 .. size); *count of them. Every byte of it must be in the vocabulary. */
enum status bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const uint8_t *piece, size_t size,
                       int32_t *out, size_t *count, struct error *error);
void bpe_scratch_free(struct bpe_scratch *scratch);

#endif
