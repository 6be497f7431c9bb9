/* Training a byte-level BPE (bpe_train.h): the different pieces of a corpus are counted, then the most frequent pair of
 * neighbours is merged, again and again.
 *
 * Counting. Every thread has a table of pieces of its own; their sums do not depend on who counted what. Memory grows
 * with the different pieces, never with the corpus.
 *
 * Merging. The different pieces lie behind each other in one array of cells, a cell for each byte. A token writes its
 * id into its first and its last cell, so both of its neighbours are found without links; a cell at a piece's end
 * belongs to no token. Each pair of ids has its count and the list of cells where it was seen. Since a merge makes a
 * new id, a pair appears in one step alone, and its count only falls afterwards: a queue whose entries are corrected
 * when they come up yields the greatest. A step touches the places of its pair and nothing else, so all steps together
 * take time in proportion to the cells. */
#include "text/bpe_train.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/cursor.h"
#include "io/json.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/byte_alphabet.h"
#include "text/unicode.h"

#define BYTES 256
#define SHARD_BITS 5
#define SHARDS (1 << SHARD_BITS)
#define BLOCK ((size_t)256 << 10)          /* bytes that a thread takes at once */
#define ROUND_BLOCKS 64                    /* blocks of one thread, on average, until the tables are looked at */
#define CUT_WINDOW ((size_t)16 << 10)      /* bytes around a cut that are looked at */
#define SUM_LEAST ((size_t)1 << 18)        /* words in the tables of further threads below which they are not summed */
#define CELLS_LIMIT ((uint64_t)UINT32_MAX)
#define PROGRESS_EVERY 256                 /* merges */

/* ---- the different pieces and how often they occur --------------------------------------------------------------- */

struct word { uint64_t hash, count; size_t at, length; };   /* its bytes are shard.bytes[at..at+length) */

/* An open-addressing table; shards are chosen by the upper bits of the hash, places by the lower ones. */
struct shard {
    uint64_t *slots;                  /* [mask + 1] upper half of the hash << 32 | number of the word + 1; 0: free */
    size_t mask, word_count, word_capacity;
    struct word *words;
    char *bytes;
    size_t byte_count, byte_capacity;
};
struct table { struct shard shards[SHARDS]; };

static void shard_clear(struct shard *shard) {
    free(shard->slots);
    free(shard->words);
    free(shard->bytes);
    *shard = (struct shard){ 0 };
}

static void table_clear(struct table *table) {
    for (int s = 0; s < SHARDS; s++) shard_clear(&table->shards[s]);
}

static bool shard_grow(struct shard *shard) {
    size_t capacity = shard->slots ? 2 * (shard->mask + 1) : 128;
    uint64_t *slots = calloc(capacity, sizeof *slots);
    struct word *words = realloc(shard->words, capacity / 2 * sizeof *words);
    if (words) shard->words = words;
    if (!slots || !words || capacity > (size_t)1 << 32) {
        free(slots);
        return false;
    }
    for (size_t i = 0; i < shard->word_count; i++) {
        size_t slot = words[i].hash & (capacity - 1);
        while (slots[slot]) slot = (slot + 1) & (capacity - 1);
        slots[slot] = (words[i].hash >> 32 << 32) | (i + 1);
    }
    free(shard->slots);
    shard->slots = slots;
    shard->mask = capacity - 1;
    shard->word_capacity = capacity / 2;
    return true;
}

static bool shard_keep_bytes(struct shard *shard, const void *text, size_t length) {
    if (length > shard->byte_capacity - shard->byte_count) {
        size_t capacity = shard->byte_capacity ? 2 * shard->byte_capacity : 1024;
        while (capacity - shard->byte_count < length) capacity *= 2;
        char *bytes = realloc(shard->bytes, capacity);
        if (!bytes) return false;
        shard->bytes = bytes;
        shard->byte_capacity = capacity;
    }
    memcpy(shard->bytes + shard->byte_count, text, length);
    shard->byte_count += length;
    return true;
}

/* False without memory. */
static bool table_add(struct table *table, const void *text, size_t length, uint64_t hash, uint64_t count) {
    struct shard *shard = &table->shards[hash >> (64 - SHARD_BITS)];
    if (shard->word_count == shard->word_capacity && !shard_grow(shard)) return false;
    size_t slot = hash & shard->mask;
    for (; shard->slots[slot]; slot = (slot + 1) & shard->mask) {
        if (shard->slots[slot] >> 32 != hash >> 32) continue;
        struct word *word = &shard->words[(shard->slots[slot] & UINT32_MAX) - 1];
        if (word->hash != hash || word->length != length || memcmp(shard->bytes + word->at, text, length)) continue;
        word->count += count;
        return true;
    }
    size_t at = shard->byte_count;
    if (!shard_keep_bytes(shard, text, length)) return false;
    shard->words[shard->word_count++] = (struct word){ hash, count, at, length };
    shard->slots[slot] = (hash >> 32 << 32) | shard->word_count;
    return true;
}

/* ---- the trainer ------------------------------------------------------------------------------------------------- */

struct bpe_trainer {
    struct bpe_settings settings;     /* its texts are copies */
    struct bpe_special *specials;
    /* [special_count] what a token would have to be to be spelled like the special one; NULL: no token can be */
    char **special_bytes;
    size_t *special_lengths;
    struct table *tables;             /* [table_count] one per thread; sum_tables brings all into the first */
    int table_count;
    uint64_t tokens;                  /* of the text, by the last training */
};

/* Bytes in the order of the characters that spell them: the order of their ids. */
static void bytes_in_order(uint8_t bytes[BYTES]) {
    int16_t byte_of[BYTE_ALPHABET_END];
    byte_alphabet_reverse(byte_of);
    for (int character = 0, count = 0; character < BYTE_ALPHABET_END; character++)
        if (byte_of[character] >= 0) bytes[count++] = (uint8_t)byte_of[character];
}

struct bpe_settings bpe_settings_default(int64_t vocab_size) {
    static const struct bpe_special specials[] = { { BPE_BOS, true }, { BPE_EOS, true }, { BPE_PAD, true } };
    return (struct bpe_settings){.pipeline = PIPELINE_V3,
                                 .vocab_size = vocab_size,
                                 .specials = specials,
                                 .special_count = 3,
                                 .bos = BPE_BOS,
                                 .eos = BPE_EOS,
                                 .add_bos = true};
}

static int find_special(const struct bpe_settings *settings, const char *content) {
    for (int i = 0; i < settings->special_count; i++)
        if (strcmp(settings->specials[i].content, content) == 0) return i;
    return -1;
}

static enum status check_settings(const struct bpe_settings *settings, struct error *error) {
    int16_t byte_of[BYTE_ALPHABET_END];
    byte_alphabet_reverse(byte_of);
    for (int i = 0; i < settings->special_count; i++) {
        const char *content = settings->specials[i].content;
        size_t length = strlen(content), bad = 0, step;
        bool ill_formed;
        if (!length) return error_set(error, STATUS_INVALID, "special token %d is empty, expected some text", i);
        if (!utf8_valid((const uint8_t *)content, length, &bad))
            return error_set(error, STATUS_INVALID, "special token %d: byte %zu is not UTF-8", i, bad);
        uint32_t first = utf8_next((const uint8_t *)content, length, &step, &ill_formed);
        if (length > ADDED_CONTENT_LIMIT)
            return error_set(error, STATUS_INVALID, "special token %d has %zu bytes, expected at most %d", i, length,
                             ADDED_CONTENT_LIMIT);
        if (step == length && first < BYTE_ALPHABET_END && byte_of[first] >= 0)
            return error_set(error, STATUS_INVALID,
                             "special token %d is \"%s\", which is the vocabulary's name of a byte; expected another "
                             "character or a longer text",
                             i, content);
        if (find_special(settings, content) != i)
            return error_set(error, STATUS_INVALID, "special token \"%s\" is given twice", content);
    }
    if (settings->bos && find_special(settings, settings->bos) < 0)
        return error_set(error, STATUS_INVALID, "bos \"%s\" is not among the special tokens", settings->bos);
    if (settings->eos && find_special(settings, settings->eos) < 0)
        return error_set(error, STATUS_INVALID, "eos \"%s\" is not among the special tokens", settings->eos);
    if (settings->add_bos && !settings->bos)
        return error_set(error, STATUS_INVALID, "texts cannot begin with a bos token: there is none");
    int64_t least = settings->special_count + BYTES;
    if (settings->vocab_size < least || settings->vocab_size > BPE_LIMIT)
        return error_set(error, STATUS_INVALID,
                         "vocab_size: found %lld, expected %lld (%d special tokens and 256 bytes) to %d",
                         (long long)settings->vocab_size, (long long)least, settings->special_count, BPE_LIMIT);
    return STATUS_OK;
}

/* The bytes that the characters of a special token spell; *bytes is NULL where one of them spells none. False without
 * memory. */
static bool special_as_bytes(const char *content, char **bytes, size_t *length) {
    int16_t byte_of[BYTE_ALPHABET_END];
    byte_alphabet_reverse(byte_of);
    size_t size = strlen(content), step;
    bool ill_formed;
    *length = 0;
    if (!(*bytes = malloc(size))) return false;
    for (size_t at = 0; at < size; at += step) {
        uint32_t character = utf8_next((const uint8_t *)content + at, size - at, &step, &ill_formed);
        if (character >= BYTE_ALPHABET_END || byte_of[character] < 0) {
            free(*bytes);
            *bytes = NULL;
            return true;
        }
        (*bytes)[(*length)++] = (char)byte_of[character];
    }
    return true;
}

enum status bpe_trainer_create(struct bpe_trainer **out, const struct bpe_settings *settings, struct error *error) {
    *out = NULL;
    enum status status = check_settings(settings, error);
    if (status) return status;
    size_t count = (size_t)settings->special_count;
    struct bpe_trainer *trainer = calloc(1, sizeof *trainer);
    bool enough = trainer != NULL;
    if (enough) {
        trainer->settings = *settings;
        trainer->specials = calloc(count + 1, sizeof *trainer->specials);
        trainer->special_bytes = calloc(count + 1, sizeof *trainer->special_bytes);
        trainer->special_lengths = calloc(count + 1, sizeof *trainer->special_lengths);
        enough = trainer->specials && trainer->special_bytes && trainer->special_lengths;
    }
    for (size_t i = 0; i < count && enough; i++) {
        trainer->specials[i] = (struct bpe_special){strdup(settings->specials[i].content),
                                                    settings->specials[i].special};
        enough = trainer->specials[i].content &&
                 special_as_bytes(trainer->specials[i].content, &trainer->special_bytes[i],
                                  &trainer->special_lengths[i]);
    }
    if (!enough || bpe_trainer_prepare(trainer, 1, error)) {
        bpe_trainer_destroy(trainer);
        return error_set(error, STATUS_NO_MEMORY, "no memory to train a tokenizer");
    }
    trainer->settings.specials = trainer->specials;
    if (settings->bos) trainer->settings.bos = trainer->specials[find_special(settings, settings->bos)].content;
    if (settings->eos) trainer->settings.eos = trainer->specials[find_special(settings, settings->eos)].content;
    *out = trainer;
    return STATUS_OK;
}

void bpe_trainer_destroy(struct bpe_trainer *trainer) {
    if (!trainer) return;
    for (int i = 0; i < trainer->settings.special_count && trainer->specials && trainer->special_bytes; i++) {
        free((char *)trainer->specials[i].content);
        free(trainer->special_bytes[i]);
    }
    free(trainer->specials);
    free(trainer->special_bytes);
    free(trainer->special_lengths);
    for (int t = 0; t < trainer->table_count; t++) table_clear(&trainer->tables[t]);
    free(trainer->tables);
    free(trainer);
}

/* ---- counting ---------------------------------------------------------------------------------------------------- */

/* The nearest place at or before `at` where a character may begin. More than three bytes that continue a character
 * continue none. */
static size_t character_boundary(const uint8_t *text, size_t size, size_t at) {
    if (at >= size) return size;
    for (size_t back = 0; back <= 3 && back <= at; back++)
        if ((text[at - back] & 0xC0) != 0x80) return at - back;
    return at;
}

/* pieces_safe_cut for a text that may be ill-formed: then a window around `limit` is repaired first. 0: no cut seen, or
 * no memory. */
static size_t cut_before(enum pipeline pipeline, const uint8_t *text, size_t size, size_t limit) {
    size_t begin = character_boundary(text, size, limit > CUT_WINDOW ? limit - CUT_WINDOW : 0);
    size_t end = character_boundary(text, size, size - limit > CUT_WINDOW ? limit + CUT_WINDOW : size), bad;
    limit = character_boundary(text, size, limit);
    if (limit <= begin) return 0;
    if (utf8_valid(text + begin, end - begin, &bad)) {
        size_t cut = pieces_safe_cut(pipeline, text + begin, size - begin, limit - begin);
        return cut ? begin + cut : 0;
    }
    size_t length, before = 0, step;
    uint8_t *sound = (uint8_t *)utf8_repair((const char *)text + begin, end - begin, &length, NULL);
    if (!sound) return 0;
    char one[4];
    bool ill_formed;
    for (size_t at = begin; at < limit; at += step)
        before += utf8_put(utf8_next(text + at, end - at, &step, &ill_formed), one);
    size_t last = character_boundary(sound, length, length - 1), cut = 0, at = begin;
    /* A run of blanks that reaches the window's end may go on behind it: then nothing is
     * known about places before it. */
    if (end == size || !(unicode_class(utf8_next(sound + last, length - last, &step, &ill_formed)) & UNICODE_SPACE))
        cut = pieces_safe_cut(pipeline, sound, length, before);
    for (size_t passed = 0; passed < cut; at += step)
        passed += utf8_put(utf8_next(text + at, end - at, &step, &ill_formed), one);
    free(sound);
    return cut ? at : 0;
}

enum status bpe_trainer_prepare(struct bpe_trainer *trainer, int threads, struct error *error) {
    if (threads <= trainer->table_count) return STATUS_OK;
    struct table *tables = realloc(trainer->tables, (size_t)threads * sizeof *tables);
    if (!tables) return error_set(error, STATUS_NO_MEMORY, "no memory to count pieces on %d threads", threads);
    memset(tables + trainer->table_count, 0, (size_t)(threads - trainer->table_count) * sizeof *tables);
    trainer->tables = tables;
    trainer->table_count = threads;
    return STATUS_OK;
}

enum status bpe_trainer_count(struct bpe_trainer *trainer, int thread, const void *text, size_t size,
                              uint64_t *replaced, struct error *error) {
    struct table *table = &trainer->tables[thread];
    struct pieces pieces;
    size_t bad;
    char *sound = NULL;
    bool enough = true;
    if (!utf8_valid(text, size, &bad)) enough = (sound = utf8_repair(text, size, &size, replaced)) != NULL;
    if (enough) pieces_begin(&pieces, trainer->settings.pipeline, sound ? sound : text, size);
    for (size_t begin, end; enough && pieces_next(&pieces, &begin, &end);)
        enough = table_add(table, pieces.text + begin, end - begin, XXH3_64bits(pieces.text + begin, end - begin), 1);
    free(sound);
    return enough ? STATUS_OK : error_set(error, STATUS_NO_MEMORY, "no memory for the different pieces of the text");
}

void bpe_trainer_counts(const struct bpe_trainer *trainer, struct bpe_counts *counts) {
    *counts = (struct bpe_counts){ .tokens = trainer->tokens };
    for (int t = 0; t < trainer->table_count; t++)
        for (int s = 0; s < SHARDS; s++) {
            const struct shard *shard = &trainer->tables[t].shards[s];
            counts->different += shard->word_count;
            for (size_t i = 0; i < shard->word_count; i++) {
                counts->pieces += shard->words[i].count;
                counts->bytes += shard->words[i].count * shard->words[i].length;
            }
        }
}

struct summing { struct bpe_trainer *trainer; bool *failed; /* [threads] */ };

/* A thread has its shards of all tables. */
static void sum_task(void *context, int thread, int threads) {
    struct summing *summing = context;
    struct bpe_trainer *trainer = summing->trainer;
    int64_t first, last;
    bool enough = true;
    pool_share(SHARDS, 1, thread, threads, &first, &last);
    for (int64_t s = first; s < last; s++)
        for (int t = 1; t < trainer->table_count && enough; t++) {
            struct shard *shard = &trainer->tables[t].shards[s];
            for (size_t i = 0; i < shard->word_count && enough; i++) {
                const struct word *word = &shard->words[i];
                enough = table_add(&trainer->tables[0], shard->bytes + word->at, word->length, word->hash, word->count);
            }
            shard_clear(shard);
        }
    summing->failed[thread] = !enough;
}

static enum status sum_tables(struct bpe_trainer *trainer, struct pool *pool, struct error *error) {
    struct summing summing = { trainer, calloc((size_t)pool_threads(pool), sizeof *summing.failed) };
    bool failed = !summing.failed;
    if (!failed) pool_run(pool, sum_task, &summing);
    for (int t = 0; t < pool_threads(pool) && summing.failed; t++) failed = failed || summing.failed[t];
    free(summing.failed);
    return failed ? error_set(error, STATUS_NO_MEMORY, "no memory for the different pieces of the text") : STATUS_OK;
}

static size_t count_words(const struct table *table) {
    size_t count = 0;
    for (int s = 0; s < SHARDS; s++) count += table->shards[s].word_count;
    return count;
}

enum status bpe_trainer_sum(struct bpe_trainer *trainer, struct pool *pool, struct error *error) {
    size_t first = count_words(&trainer->tables[0]), others = 0;
    for (int t = 1; t < trainer->table_count; t++) others += count_words(&trainer->tables[t]);
    return others > first && others > SUM_LEAST ? sum_tables(trainer, pool, error) : STATUS_OK;
}

/* A large text is cut into blocks, which the threads take one after the other. */
struct counting {
    struct bpe_trainer *trainer;
    pthread_mutex_t lock;              /* of what follows */
    const uint8_t *text;
    size_t size, at, end;              /* the next block begins at `at`; none is begun at or behind `end` */
    uint64_t replaced;
    enum status status;
    struct error error;
};

/* False when the round is over. */
static bool take_block(struct counting *counting, const uint8_t **block, size_t *size) {
    pthread_mutex_lock(&counting->lock);
    bool some = counting->at < counting->end && !counting->status;
    if (some) {
        size_t left = counting->size - counting->at;
        *block = counting->text + counting->at;
        *size = left;
        for (size_t limit = BLOCK, cut; limit < left; limit += BLOCK)
            if ((cut = cut_before(counting->trainer->settings.pipeline, *block, left, limit)) > 0) {
                *size = cut;
                break;
            }
        counting->at += *size;
    }
    pthread_mutex_unlock(&counting->lock);
    return some;
}

static void count_task(void *context, int thread, int threads) {
    (void)threads;
    struct counting *counting = context;
    const uint8_t *block;
    size_t size;
    while (take_block(counting, &block, &size)) {
        uint64_t replaced = 0;
        struct error error;
        enum status status = bpe_trainer_count(counting->trainer, thread, block, size, &replaced, &error);
        pthread_mutex_lock(&counting->lock);
        counting->replaced += replaced;
        if (status) counting->status = status, counting->error = error;
        pthread_mutex_unlock(&counting->lock);
    }
}

enum status bpe_trainer_add(struct bpe_trainer *trainer, struct pool *pool, const void *text, size_t size,
                            uint64_t *replaced, struct error *error) {
    /* not worth waking others up */
    if (size <= BLOCK) return bpe_trainer_count(trainer, 0, text, size, replaced, error);
    struct counting counting = { .trainer = trainer, .text = text, .size = size };
    enum status status = bpe_trainer_prepare(trainer, pool_threads(pool), error);
    if (status) return status;
    pthread_mutex_init(&counting.lock, NULL);
    while (counting.at < size && !status) {
        counting.end = counting.at + (size_t)pool_threads(pool) * ROUND_BLOCKS * BLOCK;
        if (counting.end > size) counting.end = size;
        pool_run(pool, count_task, &counting);
        status = counting.status;
        if (status && error) *error = counting.error;
        if (!status) status = bpe_trainer_sum(trainer, pool, error);
    }
    pthread_mutex_destroy(&counting.lock);
    if (replaced) *replaced += counting.replaced;
    return status;
}

/* ---- merging ----------------------------------------------------------------------------------------------------- */

enum { CELL_END = -1, CELL_INSIDE = -2 };   /* a piece's end; inside a token, neither its first nor its last byte */

struct cell { int32_t id; uint32_t weight; };   /* weight: how often the piece occurs */

/* key: left id << 32 | right id; places: first cells, ascending */
struct pair { uint64_t key; int64_t count; uint32_t *places; uint32_t place_count; };
struct queued { int64_t count; uint64_t key; uint32_t pair; };
struct sighting { uint32_t pair, place; };
struct token { uint32_t length; int32_t left, right; };   /* left -1: a byte or a special token */

/* What a step knows about the pairs with one neighbour: their numbers, so that each is looked up once in a step. */
struct side { uint32_t step, old, made; };
struct neighbour { struct side left, right; };

#define NONE UINT32_MAX

struct merging {
    const struct bpe_trainer *trainer;
    struct cell *cells;
    uint64_t cell_count;
    struct pair *pairs;
    size_t pair_count, pair_capacity;
    uint32_t *slots;                       /* [slot_mask + 1] number of the pair + 1; 0: free */
    size_t slot_mask;
    struct queued *queue;
    size_t queue_count, queue_capacity;
    struct sighting *sightings;
    size_t sighting_count, sighting_capacity;
    uint32_t **chunks;                     /* memory of the lists of places */
    size_t chunk_count, chunk_used, chunk_size;
    struct token *tokens;                  /* [vocab_size] */
    struct neighbour *neighbours;          /* [vocab_size] */
    char *spelling;                        /* the bytes of tokens; a merge's are [spelled[id], +length) */
    size_t *spelled, spelling_count, spelling_capacity;
    int64_t size;                          /* tokens so far */
    uint64_t *merges;                      /* keys */
    int64_t merge_count, merge_capacity;
};

static enum status no_memory(struct error *error) {
    return error_set(error, STATUS_NO_MEMORY, "no memory to merge pairs");
}

/* Makes room for one more item in a growing array. */
static bool room_for(void *array, size_t count, size_t *capacity, size_t item) {
    if (count < *capacity) return true;
    size_t wanted = *capacity ? *capacity + *capacity / 2 : 1024;
    void *memory, *larger;
    memcpy(&memory, array, sizeof memory);
    larger = realloc(memory, wanted * item);
    if (!larger) return false;
    memcpy(array, &larger, sizeof larger);
    *capacity = wanted;
    return true;
}

static uint32_t *take_places(struct merging *m, size_t count) {
    if (m->chunk_size - m->chunk_used < count) {
        size_t size = count > (size_t)1 << 18 ? count : (size_t)1 << 18;
        uint32_t **chunks = realloc(m->chunks, (m->chunk_count + 1) * sizeof *chunks);
        if (!chunks) return NULL;
        m->chunks = chunks;
        if (!(chunks[m->chunk_count] = malloc(size * sizeof **chunks))) return NULL;
        m->chunk_count++;
        m->chunk_used = 0;
        m->chunk_size = size;
    }
    uint32_t *places = m->chunks[m->chunk_count - 1] + m->chunk_used;
    m->chunk_used += count;
    return places;
}

static size_t pair_slot(const struct merging *m, uint64_t key) {
    uint64_t mixed = key * 0x9E3779B97F4A7C15u;
    return (size_t)(mixed ^ mixed >> 32) & m->slot_mask;
}

static uint32_t find_pair(const struct merging *m, uint64_t key) {
    size_t slot = pair_slot(m, key);
    /* called for pairs that exist */
    while (m->pairs[m->slots[slot] - 1].key != key) slot = (slot + 1) & m->slot_mask;
    return m->slots[slot] - 1;
}

/* A new pair without places; NONE without memory. */
static uint32_t make_pair(struct merging *m, uint64_t key) {
    if (!room_for(&m->pairs, m->pair_count, &m->pair_capacity, sizeof *m->pairs) || m->pair_count >= NONE - 1)
        return NONE;
    m->pairs[m->pair_count++] = (struct pair){ .key = key };
    if (!m->slots || m->pair_count > (m->slot_mask + 1) / 2) {
        size_t capacity = m->slots ? 2 * (m->slot_mask + 1) : 4096;
        uint32_t *slots = calloc(capacity, sizeof *slots);
        if (!slots) return NONE;
        free(m->slots);
        m->slots = slots;
        m->slot_mask = capacity - 1;
        for (size_t i = 0; i + 1 < m->pair_count; i++) {
            size_t slot = pair_slot(m, m->pairs[i].key);
            while (slots[slot]) slot = (slot + 1) & m->slot_mask;
            slots[slot] = (uint32_t)i + 1;
        }
    }
    size_t slot = pair_slot(m, key);
    while (m->slots[slot]) slot = (slot + 1) & m->slot_mask;
    m->slots[slot] = (uint32_t)m->pair_count;
    return (uint32_t)m->pair_count - 1;
}

/* Is a merged before b? */
static bool comes_first(const struct queued *a, const struct queued *b) {
    return a->count != b->count ? a->count > b->count : a->key < b->key;
}

static bool queue_put(struct merging *m, uint32_t pair) {
    if (!room_for(&m->queue, m->queue_count, &m->queue_capacity, sizeof *m->queue)) return false;
    struct queued entry = { m->pairs[pair].count, m->pairs[pair].key, pair };
    size_t at = m->queue_count++;
    for (size_t up; at > 0 && comes_first(&entry, &m->queue[up = (at - 1) / 2]); at = up) m->queue[at] = m->queue[up];
    m->queue[at] = entry;
    return true;
}

/* Puts an entry at the top, which is free, and lets it sink. */
static void queue_sink(struct merging *m, struct queued entry) {
    size_t at = 0;
    for (size_t down; (down = 2 * at + 1) < m->queue_count; at = down) {
        if (down + 1 < m->queue_count && comes_first(&m->queue[down + 1], &m->queue[down])) down++;
        if (!comes_first(&m->queue[down], &entry)) break;
        m->queue[at] = m->queue[down];
    }
    m->queue[at] = entry;
}

/* The pair to merge next; NONE when no pair is left. */
static uint32_t queue_take(struct merging *m) {
    while (m->queue_count > 0) {
        struct queued top = m->queue[0];
        int64_t count = m->pairs[top.pair].count;
        if (count == top.count) {
            m->queue_count--;
            if (m->queue_count) queue_sink(m, m->queue[m->queue_count]);
            return top.pair;
        }
        top.count = count;
        if (count <= 0) top = m->queue[--m->queue_count];
        if (m->queue_count) queue_sink(m, top);
    }
    return NONE;
}

/* The lists of the pairs from `first` on, from what was seen since they were made, and their places in the queue. */
static bool settle_pairs(struct merging *m, size_t first) {
    for (size_t i = first; i < m->pair_count; i++) {
        struct pair *pair = &m->pairs[i];
        if (!(pair->places = take_places(m, pair->place_count))) return false;
        pair->place_count = 0;
        if (pair->count > 0 && !queue_put(m, (uint32_t)i)) return false;
    }
    for (size_t i = 0; i < m->sighting_count; i++) {
        struct pair *pair = &m->pairs[m->sightings[i].pair];
        pair->places[pair->place_count++] = m->sightings[i].place;
    }
    m->sighting_count = 0;
    return true;
}

static bool see_pair(struct merging *m, uint32_t pair, uint32_t weight, uint64_t place) {
    if (!room_for(&m->sightings, m->sighting_count, &m->sighting_capacity, sizeof *m->sightings)) return false;
    m->sightings[m->sighting_count++] = (struct sighting){ pair, (uint32_t)place };
    m->pairs[pair].count += weight;
    m->pairs[pair].place_count++;
    return true;
}

/* Pieces of one byte hold no pair. A piece that occurs more often than a weight can say has several copies. */
static enum status lay_out(struct merging *m, struct error *error) {
    uint64_t cells = 1;
    for (int s = 0; s < SHARDS; s++) {
        const struct shard *shard = &m->trainer->tables[0].shards[s];
        for (size_t i = 0; i < shard->word_count; i++)
            if (shard->words[i].length > 1)
                cells += (shard->words[i].length + 1) * ((shard->words[i].count - 1) / UINT32_MAX + 1);
    }
    if (cells > CELLS_LIMIT)
        return error_set(
            error, STATUS_UNSUPPORTED,
            "the different pieces of the text have %llu bytes together, expected at most %llu: train on less text",
            (unsigned long long)cells, (unsigned long long)CELLS_LIMIT);
    if (!(m->cells = malloc((size_t)cells * sizeof *m->cells))) return no_memory(error);
    uint8_t bytes[BYTES];
    int32_t id_of[BYTES];
    bytes_in_order(bytes);
    for (int i = 0; i < BYTES; i++) id_of[bytes[i]] = m->trainer->settings.special_count + i;
    m->cells[m->cell_count++] = (struct cell){ CELL_END, 0 };
    for (int s = 0; s < SHARDS; s++) {
        const struct shard *shard = &m->trainer->tables[0].shards[s];
        for (size_t i = 0; i < shard->word_count; i++) {
            const struct word *word = &shard->words[i];
            if (word->length < 2) continue;
            for (uint64_t left = word->count, weight; left > 0; left -= weight) {
                weight = left < UINT32_MAX ? left : UINT32_MAX;
                for (size_t k = 0; k < word->length; k++)
                    m->cells[m->cell_count++] = (struct cell){id_of[(uint8_t)shard->bytes[word->at + k]],
                                                              (uint32_t)weight};
                m->cells[m->cell_count++] = (struct cell){ CELL_END, 0 };
            }
        }
    }
    return STATUS_OK;
}

/* The pairs of bytes. */
static enum status first_pairs(struct merging *m, struct error *error) {
    int32_t base = m->trainer->settings.special_count;
    uint32_t *numbers = malloc(BYTES * BYTES * sizeof *numbers);
    bool enough = numbers != NULL;
    for (size_t i = 0; enough && i < BYTES * BYTES; i++) numbers[i] = NONE;
    for (uint64_t place = 1; enough && place + 1 < m->cell_count; place++) {
        int32_t left = m->cells[place].id, right = m->cells[place + 1].id;
        if (left < 0 || right < 0) continue;
        uint32_t *number = &numbers[(left - base) * BYTES + (right - base)];
        if (*number == NONE) *number = make_pair(m, (uint64_t)left << 32 | (uint32_t)right);
        enough = *number != NONE && see_pair(m, *number, m->cells[place].weight, place);
    }
    enough = enough && settle_pairs(m, 0);
    free(numbers);
    return enough ? STATUS_OK : no_memory(error);
}

/* The token that a pair becomes: a new one, or a special token that is spelled like it, as in the reference. -1 without
 * memory. */
static int32_t make_token(struct merging *m, int32_t left, int32_t right) {
    size_t first = m->tokens[left].length, length = first + m->tokens[right].length;
    if (length > m->spelling_capacity - m->spelling_count) {
        size_t capacity = 2 * m->spelling_capacity + length;
        char *spelling = realloc(m->spelling, capacity);
        if (!spelling) return -1;
        m->spelling = spelling;
        m->spelling_capacity = capacity;
    }
    char *bytes = m->spelling + m->spelling_count;
    memcpy(bytes, m->spelling + m->spelled[left], first);
    memcpy(bytes + first, m->spelling + m->spelled[right], length - first);
    int32_t id = 0;
    while (id < m->trainer->settings.special_count &&
           !(m->trainer->special_bytes[id] && m->trainer->special_lengths[id] == length &&
             memcmp(m->trainer->special_bytes[id], bytes, length) == 0))
        id++;
    if (id == m->trainer->settings.special_count) id = (int32_t)m->size++;
    m->tokens[id] = (struct token){ (uint32_t)length, left, right };
    m->spelled[id] = m->spelling_count;
    m->spelling_count += length;
    return id;
}

/* The places of a pair become tokens `id`, from left to right. */
static bool merge_places(struct merging *m, uint32_t number, int32_t id) {
    int32_t a = (int32_t)(m->pairs[number].key >> 32), b = (int32_t)(m->pairs[number].key & UINT32_MAX);
    const uint32_t *places = m->pairs[number].places;
    uint32_t place_count = m->pairs[number].place_count, step = (uint32_t)m->merge_count;
    size_t first = m->pair_count, length_a = m->tokens[a].length, length_b = m->tokens[b].length;
    for (uint32_t i = 0; i < place_count; i++) {
        size_t place = places[i], second = place + length_a;
        if (m->cells[place].id != a || m->cells[second].id != b) continue;   /* one of them was merged since */
        size_t after = second + length_b;
        uint32_t weight = m->cells[place].weight;
        int32_t left = m->cells[place - 1].id, right = m->cells[after].id;
        if (left >= 0) {
            struct side *side = &m->neighbours[left].left;
            if (side->step != step)
                *side = (struct side){step, find_pair(m, (uint64_t)left << 32 | (uint32_t)a),
                                      make_pair(m, (uint64_t)left << 32 | (uint32_t)id)};
            if (side->made == NONE) return false;
            m->pairs[side->old].count -= weight;
            if (!see_pair(m, side->made, weight, place - m->tokens[left].length)) return false;
        }
        if (right >= 0) {
            struct side *side = &m->neighbours[right].right;
            if (side->step != step)
                *side = (struct side){step, find_pair(m, (uint64_t)b << 32 | (uint32_t)right),
                                      make_pair(m, (uint64_t)id << 32 | (uint32_t)right)};
            if (side->made == NONE) return false;
            m->pairs[side->old].count -= weight;
            if (!see_pair(m, side->made, weight, place)) return false;
        }
        m->cells[second - 1].id = m->cells[second].id = CELL_INSIDE;
        m->cells[place].id = m->cells[after - 1].id = id;
    }
    return settle_pairs(m, first);
}

static enum status merge_pairs(struct merging *m, bool (*progress)(void *context, int64_t done, int64_t total),
                               void *context, struct error *error) {
    const struct bpe_settings *settings = &m->trainer->settings;
    size_t vocabulary = (size_t)settings->vocab_size;
    uint8_t bytes[BYTES];
    bytes_in_order(bytes);
    m->tokens = calloc(vocabulary, sizeof *m->tokens);
    m->spelled = calloc(vocabulary, sizeof *m->spelled);
    m->neighbours = calloc(vocabulary, sizeof *m->neighbours);
    m->spelling = malloc(m->spelling_capacity = 16 * vocabulary);
    if (!m->tokens || !m->spelled || !m->neighbours || !m->spelling) return no_memory(error);
    for (int i = 0; i < settings->special_count; i++) m->tokens[i] = (struct token){ 0, -1, -1 };
    for (int i = 0; i < BYTES; i++) {
        m->tokens[settings->special_count + i] = (struct token){ 1, -1, -1 };
        m->spelled[settings->special_count + i] = m->spelling_count;
        m->spelling[m->spelling_count++] = (char)bytes[i];
    }
    m->size = settings->special_count + BYTES;
    int64_t first = m->size;
    enum status status = lay_out(m, error);
    if (!status) status = first_pairs(m, error);
    while (!status && m->size < settings->vocab_size) {
        uint32_t number = queue_take(m);
        if (number == NONE) break;
        size_t capacity = (size_t)m->merge_capacity;
        if (!room_for(&m->merges, (size_t)m->merge_count, &capacity, sizeof *m->merges)) return no_memory(error);
        m->merge_capacity = (int64_t)capacity;
        uint64_t key = m->pairs[number].key;
        m->merges[m->merge_count++] = key;
        int32_t id = make_token(m, (int32_t)(key >> 32), (int32_t)(key & UINT32_MAX));
        if (id < 0 || !merge_places(m, number, id)) status = no_memory(error);
        if (!status && progress && m->merge_count % PROGRESS_EVERY == 0 &&
            !progress(context, m->size - first, settings->vocab_size - first))
            status = error_set(error, STATUS_INTERRUPTED, "interrupted after %lld of %lld merges",
                               (long long)(m->size - first), (long long)(settings->vocab_size - first));
    }
    if (!status && progress && !progress(context, m->size - first, settings->vocab_size - first))
        status = error_set(error, STATUS_INTERRUPTED, "interrupted");
    return status;
}

/* What the text became: the pieces of one byte, and the tokens in the cells. */
static uint64_t count_tokens(const struct merging *m) {
    uint64_t tokens = 0;
    for (int s = 0; s < SHARDS; s++) {
        const struct shard *shard = &m->trainer->tables[0].shards[s];
        for (size_t i = 0; i < shard->word_count; i++)
            tokens += shard->words[i].length == 1 ? shard->words[i].count : 0;
    }
    for (uint64_t place = 1; place < m->cell_count;) {
        int32_t id = m->cells[place].id;
        tokens += m->cells[place].weight;   /* 0 at the end of a piece */
        place += id < 0 ? 1 : m->tokens[id].length;
    }
    return tokens;
}

static void merging_free(struct merging *m) {
    for (size_t i = 0; i < m->chunk_count; i++) free(m->chunks[i]);
    free(m->chunks);
    free(m->cells);
    free(m->pairs);
    free(m->slots);
    free(m->queue);
    free(m->sightings);
    free(m->tokens);
    free(m->neighbours);
    free(m->spelling);
    free(m->spelled);
    free(m->merges);
}

/* ---- the result -------------------------------------------------------------------------------------------------- */

static void put_string(FILE *out, const char *text) { json_put_string(out, text, strlen(text)); }

/* A token in the byte alphabet's characters, without quotes; only `"` and `\` of them are escaped in JSON. */
static void put_spelling(FILE *out, const struct merging *m, int32_t id, const uint32_t character_of[BYTES]) {
    if (id < m->trainer->settings.special_count) {   /* spelled like a token: all its characters are of the alphabet */
        const char *content = m->trainer->settings.specials[id].content;
        for (const char *c = content; *c; c++) {
            if (*c == '"' || *c == '\\') putc('\\', out);
            putc(*c, out);
        }
        return;
    }
    for (uint32_t i = 0; i < m->tokens[id].length; i++) {
        char text[4];
        uint32_t character = character_of[(uint8_t)m->spelling[m->spelled[id] + i]];
        if (character == '"' || character == '\\') putc('\\', out);
        fwrite(text, 1, utf8_put(character, text), out);
    }
}

/* A value that json_format has written, two spaces further in; without its line end. */
static enum status put_indented(FILE *out, const json_t *value, struct error *error) {
    char *text;
    size_t size;
    enum status status = json_format(value, &text, &size, error);
    if (status) return status;
    while (size > 0 && text[size - 1] == '\n') size--;
    for (size_t i = 0; i < size; i++) {
        putc(text[i], out);
        if (text[i] == '\n') fputs("  ", out);
    }
    free(text);
    return STATUS_OK;
}

static void put_post_processor(FILE *out, const struct bpe_settings *settings) {
    if (!settings->add_bos) {
        fputs("{\n    \"type\": \"ByteLevel\",\n    \"add_prefix_space\": true,\n    \"trim_offsets\": false,\n    "
              "\"use_regex\": true\n  }",
              out);
        return;
    }
    static const char *const names[] = { "single", "pair" };
    fputs("{\n    \"type\": \"TemplateProcessing\",\n", out);
    for (int texts = 1; texts <= 2; texts++) {
        fprintf(out, "    \"%s\": [", names[texts - 1]);
        for (int i = 0; i < texts; i++) {
            fprintf(out, "%s\n      { \"SpecialToken\": { \"id\": ", i ? "," : "");
            put_string(out, settings->bos);
            fprintf(out, ", \"type_id\": %d } },\n      { \"Sequence\": { \"id\": \"%c\", \"type_id\": %d } }", i,
                    'A' + i, i);
        }
        fputs("\n    ],\n", out);
    }
    fputs("    \"special_tokens\": {\n      ", out);
    put_string(out, settings->bos);
    fputs(": { \"id\": ", out);
    put_string(out, settings->bos);
    fprintf(out, ", \"ids\": [%d], \"tokens\": [", find_special(settings, settings->bos));
    put_string(out, settings->bos);
    fputs("] }\n    }\n  }", out);
}

static enum status put_tokenizer(FILE *out, const struct merging *m, struct error *error) {
    const struct bpe_settings *settings = &m->trainer->settings;
    uint32_t character_of[BYTES];
    byte_alphabet(character_of);
    fputs("{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [", out);
    for (int i = 0; i < settings->special_count; i++) {
        bool special = settings->specials[i].special;
        fprintf(out, "%s\n    {\n      \"id\": %d,\n      \"content\": ", i ? "," : "", i);
        put_string(out, settings->specials[i].content);
        /* As in V3's file: markers of a chat, which are not special, are looked for in the second pass. */
        fprintf(out,
                ",\n      \"single_word\": false,\n      \"lstrip\": false,\n      \"rstrip\": false,\n      "
                "\"normalized\": %s,\n      \"special\": %s\n    }",
                special ? "false" : "true", special ? "true" : "false");
    }
    fprintf(out, "%s],\n  \"normalizer\": %s,\n  \"pre_tokenizer\": ", settings->special_count ? "\n  " : "",
            settings->pipeline == PIPELINE_V3 ? "{\n    \"type\": \"Sequence\",\n    \"normalizers\": []\n  }"
                                              : "null");
    json_t *pipeline = pipeline_to_json(settings->pipeline);
    enum status status = pipeline ? put_indented(out, pipeline, error) : no_memory(error);
    json_decref(pipeline);
    if (status) return status;
    fputs(",\n  \"post_processor\": ", out);
    put_post_processor(out, settings);
    fputs(",\n  \"decoder\": {\n    \"type\": \"ByteLevel\",\n    \"add_prefix_space\": true,\n    \"trim_offsets\": "
          "true,\n    \"use_regex\": true\n  },\n"
          "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n    "
          "\"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
          "    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {",
          out);
    for (int64_t id = 0; id < m->size; id++) {
        fprintf(out, "%s\n      ", id ? "," : "");
        if (id < settings->special_count) put_string(out, settings->specials[id].content);
        else {
            putc('"', out);
            put_spelling(out, m, (int32_t)id, character_of);
            putc('"', out);
        }
        fprintf(out, ": %lld", (long long)id);
    }
    fputs("\n    },\n    \"merges\": [", out);
    for (int64_t i = 0; i < m->merge_count; i++) {
        fprintf(out, "%s\n      \"", i ? "," : "");
        put_spelling(out, m, (int32_t)(m->merges[i] >> 32), character_of);
        putc(' ', out);
        put_spelling(out, m, (int32_t)(m->merges[i] & UINT32_MAX), character_of);
        putc('"', out);
    }
    fputs(m->merge_count ? "\n    ]\n  }\n}\n" : "]\n  }\n}\n", out);
    return STATUS_OK;
}

/* tokenizer_config.json; the class is transformers' general one. */
static void put_config(FILE *out, const struct bpe_settings *settings) {
    fprintf(out, "{\n  \"add_bos_token\": %s,\n  \"add_eos_token\": false", settings->add_bos ? "true" : "false");
    const char *const keys[] = { "bos_token", "eos_token", "pad_token" };
    const char *const values[] = {settings->bos, settings->eos, find_special(settings, BPE_PAD) >= 0 ? BPE_PAD : NULL};
    for (int i = 0; i < 3; i++) {
        if (!values[i]) continue;
        fprintf(out, ",\n  \"%s\": ", keys[i]);
        put_string(out, values[i]);
    }
    fputs(",\n  \"clean_up_tokenization_spaces\": false,\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n",
          out);
}

static enum status make_tokenizer(const struct merging *m, struct tokenizer **tokenizer, struct error *error) {
    char *json = NULL, *config = NULL;
    size_t json_size = 0, config_size = 0;
    FILE *out = open_memstream(&json, &json_size);
    enum status status = out ? put_tokenizer(out, m, error) : no_memory(error);
    if (out && (ferror(out) | fclose(out)) && !status) status = no_memory(error);
    out = status ? NULL : open_memstream(&config, &config_size);
    if (out) put_config(out, &m->trainer->settings);
    if (!status && (!out || (ferror(out) | fclose(out)))) status = no_memory(error);
    if (!status)
        status = tokenizer_parse(tokenizer, json, json_size, config, config_size, "the trained tokenizer", error);
    free(json);
    free(config);
    return status;
}

enum status bpe_trainer_finish(struct bpe_trainer *trainer,
                               bool (*progress)(void *context, int64_t done, int64_t total), void *context,
                               struct tokenizer **tokenizer, struct error *error) {
    *tokenizer = NULL;
    struct merging merging = { .trainer = trainer };
    enum status status = sum_tables(trainer, NULL, error);
    if (!status) status = merge_pairs(&merging, progress, context, error);
    if (!status) status = make_tokenizer(&merging, tokenizer, error);
    if (!status) trainer->tokens = count_tokens(&merging);
    merging_free(&merging);
    return status;
}
