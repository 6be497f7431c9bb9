/* Text to ids: the tokenizer that a corpus asks for, and the corpus through it, on all threads and in order, into a
 * token file. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "text/bpe_train.h"
#include "train/data.h"

#define CUT_WINDOW ((size_t)16384)   /* bytes in which a cut between pieces is looked for */
#define CUT_MARGIN ((size_t)64)
#define RULES_VERSION 1   /* of the placing of documents, BOS and EOS */

static bool tell(const struct data_watch *watch, enum data_work work, uint64_t done, uint64_t total) {
    return !watch->progress || watch->progress(watch->context, work, done, total);
}

static void warn(const struct data_watch *watch, const char *message) {
    if (watch->warn) watch->warn(watch->context, message);
}

/* ---- the tokenizer ----------------------------------------------------------------------------------------------- */

bool data_tokenizer_is_size(const char *name, int64_t *size) {
    size_t length = strlen(name);
    if (length == 0 || length > 9 || strspn(name, "0123456789") != length) return false;
    *size = strtoll(name, NULL, 10);
    return true;
}

/* The whole corpus, batch by batch, with progress. */
typedef enum status on_batch(void *context, const struct data_reader *reader, struct error *error);
static enum status each_batch(const struct data_files *files, const struct data_options *o, enum data_work work,
                              struct data_cut cut, on_batch *batch, void *context, struct error *error) {
    struct data_reader reader;
    data_reader_open(&reader, files, &o->rules, cut, o->batch_bytes);
    enum status status = STATUS_OK;
    while (status == STATUS_OK) {
        if (!tell(&o->watch, work, reader.done, files->bytes)) {
            status = error_set(error, STATUS_INTERRUPTED, "interrupted while %s the data",
                               work == DATA_ENCODE ? "tokenising" : "reading");
            break;
        }
        status = data_reader_next(&reader, error);
        if (status != STATUS_OK || reader.part_count == 0) break;
        status = batch(context, &reader, error);
    }
    data_reader_close(&reader);
    return status;
}

/* The parts of a batch on all threads: each is taken by whichever thread is free, and has a result of its own. */
struct part_result { struct data_part_counts counts; enum status status; struct error error; struct token_list ids; };
struct batch_run {
    const struct data_reader *reader;
    const struct data_rules *rules;
    data_visit *visit;
    void *context;                       /* of the visitor's caller */
    struct part_result *results;         /* [capacity]; those of the last batch stay, their lists are used again */
    int capacity;
    atomic_int next;
};
struct visiting { struct batch_run *run; struct part_result *result; int thread; };

static void run_parts(void *context, int thread, int threads) {
    (void)threads;
    struct batch_run *run = context;
    for (int i; (i = atomic_fetch_add(&run->next, 1)) < run->reader->part_count;) {
        struct part_result *result = &run->results[i];
        struct visiting visiting = { run, result, thread };
        result->ids.count = 0;
        result->counts = (struct data_part_counts){0};
        result->status = data_part_visit(&run->reader->parts[i], run->rules, run->visit, &visiting, &result->counts,
                                         &result->error);
    }
}

static enum status run_batch(struct batch_run *run, const struct data_reader *reader, struct pool *pool,
                             struct error *error) {
    if (reader->part_count > run->capacity) {
        struct part_result *results = realloc(run->results, (size_t)reader->part_count * sizeof *results);
        if (!results) return error_set(error, STATUS_NO_MEMORY, "no memory left to read the data");
        memset(results + run->capacity, 0, (size_t)(reader->part_count - run->capacity) * sizeof *results);
        run->results = results;
        run->capacity = reader->part_count;
    }
    run->reader = reader;
    atomic_store(&run->next, 0);
    pool_run(pool, run_parts, run);
    for (int i = 0; i < reader->part_count; i++) {
        if (run->results[i].status == STATUS_OK) continue;
        if (error) *error = run->results[i].error;   /* the first in the order of the data */
        return run->results[i].status;
    }
    return STATUS_OK;
}

static void batch_run_free(struct batch_run *run) {
    for (int i = 0; i < run->capacity; i++) token_list_free(&run->results[i].ids);
    free(run->results);
}

/* A byte that does not continue a character begins one, whatever stands before it. */
static size_t cut_character(const void *context, const uint8_t *text, size_t size, size_t limit) {
    (void)context;
    for (size_t cut = limit < size ? limit : size; cut > 0 && limit - cut < 65536; cut--)
        if (cut == size || (text[cut] & 0xC0) != 0x80) return cut;
    return 0;
}

struct counting {
    const struct data_options *options;
    struct character_counts characters;
    struct data_part_counts parts;
};

static enum status visit_characters(void *context, const void *text, size_t size, bool begins, struct error *error) {
    (void)begins;
    return character_counts_add(context, text, size, error);
}

static enum status count_batch(void *context, const struct data_reader *reader, struct error *error) {
    struct counting *counting = context;
    enum status status = STATUS_OK;
    for (int i = 0; i < reader->part_count && status == STATUS_OK; i++)
        status = data_part_visit(&reader->parts[i], &counting->options->rules, visit_characters, &counting->characters,
                                 &counting->parts, error);
    return status;
}

static enum status make_characters(struct tokenizer **tokenizer, const struct data_files *files,
                                   const struct data_options *options, uint64_t *replaced, struct error *error) {
    struct counting counting = { .options = options };
    enum status status = each_batch(files, options, DATA_COUNT, (struct data_cut){cut_character, NULL}, count_batch,
                                    &counting, error);
    if (status == STATUS_OK && counting.parts.documents == 0)
        status = error_set(error, STATUS_INVALID, "%s: no text in the data", files->path);
    if (status == STATUS_OK) status = tokenizer_create_characters(tokenizer, &counting.characters, error);
    *replaced += counting.characters.replaced + counting.parts.replaced;
    character_counts_free(&counting.characters);
    return status;
}

struct bpe_work {
    struct bpe_trainer *trainer;
    const struct data_options *options;
    enum pipeline pipeline;
    struct batch_run run;
    uint64_t replaced;
};

/* A cut between pieces in text that is well-formed around it: pieces are known of well-formed text alone, and what
 * becomes of other text further away does not reach the cut. */
static size_t cut_piece(const void *context, const uint8_t *text, size_t size, size_t limit) {
    const struct bpe_work *work = context;
    size_t lowest = limit > CUT_WINDOW ? limit - CUT_WINDOW : 1;
    for (size_t cut = pieces_safe_cut(work->pipeline, text, size, limit); cut >= lowest;
         cut = pieces_safe_cut(work->pipeline, text, size, cut - 1)) {
        size_t low = cut > CUT_MARGIN ? cut - CUT_MARGIN : 0, high = size - cut > CUT_MARGIN ? cut + CUT_MARGIN : size;
        while (low > 0 && (text[low] & 0xC0) == 0x80) low--;
        /* the last character may go on */
        if (utf8_prefix(text + low, high - low) + (high < size ? 3 : 0) >= high - low) return cut;
    }
    return 0;
}

static enum status visit_pieces(void *context, const void *text, size_t size, bool begins, struct error *error) {
    (void)begins;
    const struct visiting *v = context;
    const struct bpe_work *work = v->run->context;
    return bpe_trainer_count(work->trainer, v->thread, text, size, &v->result->counts.replaced, error);
}

static enum status count_pieces(void *context, const struct data_reader *reader, struct error *error) {
    struct bpe_work *work = context;
    enum status status = run_batch(&work->run, reader, work->options->pool, error);
    for (int i = 0; i < reader->part_count && status == STATUS_OK; i++)
        work->replaced += work->run.results[i].counts.replaced;
    return status == STATUS_OK ? bpe_trainer_sum(work->trainer, work->options->pool, error) : status;
}

static bool merges_made(void *context, int64_t done, int64_t total) {
    const struct bpe_work *work = context;
    return tell(&work->options->watch, DATA_MERGE, (uint64_t)done, (uint64_t)total);
}

enum status data_train_bpe(struct tokenizer **tokenizer, const struct bpe_settings *settings,
                           const struct data_files *files, const struct data_options *options,
                           struct bpe_counts *counts, uint64_t *replaced, struct error *error) {
    struct bpe_work work = {.options = options,
                            .pipeline = settings->pipeline,
                            .run = {.rules = &options->rules, .visit = visit_pieces, .context = &work}};
    enum status status = bpe_trainer_create(&work.trainer, settings, error);
    if (status != STATUS_OK) return status;
    status = bpe_trainer_prepare(work.trainer, pool_threads(options->pool), error);
    if (status == STATUS_OK)
        status = each_batch(files, options, DATA_COUNT, (struct data_cut){cut_piece, &work}, count_pieces, &work,
                            error);
    if (status == STATUS_OK) status = bpe_trainer_finish(work.trainer, merges_made, &work, tokenizer, error);
    if (status == STATUS_OK && counts) bpe_trainer_counts(work.trainer, counts);
    bpe_trainer_destroy(work.trainer);
    batch_run_free(&work.run);
    *replaced += work.replaced;
    return status;
}

enum status data_make_tokenizer(struct tokenizer **tokenizer, const char *name, const struct data_files *files,
                                const struct data_options *options, uint64_t *replaced, struct error *error) {
    int64_t size;
    *tokenizer = NULL;
    if (strcmp(name, "bytes") == 0) return tokenizer_create_bytes(tokenizer, error);
    if (strcmp(name, "characters") == 0) return make_characters(tokenizer, files, options, replaced, error);
    if (data_tokenizer_is_size(name, &size)) {
        struct bpe_settings settings = bpe_settings_default(size);
        return data_train_bpe(tokenizer, &settings, files, options, NULL, replaced, error);
    }
    return tokenizer_load(tokenizer, name, error);
}

/* ---- encoding ---------------------------------------------------------------------------------------------------- */

struct encoding {
    const struct tokenizer *tokenizer;
    const struct data_options *options;
    struct encoder **encoders;      /* [threads] */
    struct batch_run run;
    struct token_writer writer;
};

static size_t cut_tokens(const void *context, const uint8_t *text, size_t size, size_t limit) {
    const struct encoding *e = context;
    return tokenizer_safe_cut(e->tokenizer, text, size, e->options->rules.special_tokens, limit);
}

/* How often the text of the eos stands in a text. */
static uint64_t count_markers(const struct tokenizer *t, const char *text, size_t size) {
    size_t length;
    uint64_t count = 0;
    const char *marker = tokenizer_piece(t, tokenizer_eos(t), &length, NULL);
    if (!marker || length == 0) return 0;
    for (const char *at = text, *end = text + size; (at = memmem(at, (size_t)(end - at), marker, length)); at += length)
        count++;
    return count;
}

/* A document's ids have its eos in front: the first document of all loses it when it is written. */
static enum status visit_text(void *context, const void *text, size_t size, bool begins, struct error *error) {
    const struct visiting *v = context;
    const struct encoding *e = v->run->context;
    const struct tokenizer *t = e->tokenizer;
    struct token_list *ids = &v->result->ids;
    bool bos = begins && tokenizer_add_bos(t) && tokenizer_bos(t) >= 0;
    if (!e->options->rules.special_tokens) v->result->counts.markers += count_markers(t, text, size);
    enum status status = begins && tokenizer_eos(t) >= 0 ? token_list_push(ids, tokenizer_eos(t), error) : STATUS_OK;
    int64_t first = ids->count;
    if (status == STATUS_OK && bos) status = token_list_push(ids, tokenizer_bos(t), error);
    if (status == STATUS_OK)
        status = encoder_encode(e->encoders[v->thread], text, size, e->options->rules.special_tokens, ids,
                                &v->result->counts.replaced, error);
    /* the text has its own */
    if (status == STATUS_OK && bos && ids->count > first + 1 && ids->ids[first + 1] == tokenizer_bos(t)) {
        memmove(ids->ids + first, ids->ids + first + 1, (size_t)(ids->count - first - 1) * sizeof *ids->ids);
        ids->count--;
    }
    return status;
}

static enum status write_result(struct encoding *e, const struct part_result *result, struct error *error) {
    struct token_header *h = &e->writer.header;
    /* nothing stands before the first document */
    int64_t skip = h->documents == 0 && result->counts.documents > 0 && tokenizer_eos(e->tokenizer) >= 0;
    h->documents += (uint64_t)result->counts.documents;
    h->bytes += result->counts.bytes;
    h->replaced += result->counts.replaced;
    h->bad_lines += (uint64_t)result->counts.bad_lines;
    h->blank += (uint64_t)result->counts.blank;
    h->markers += result->counts.markers;
    return token_writer_put(&e->writer, result->ids.ids + skip, result->ids.count - skip, error);
}

static enum status encode_batch(void *context, const struct data_reader *reader, struct error *error) {
    struct encoding *e = context;
    enum status status = run_batch(&e->run, reader, e->options->pool, error);
    for (int i = 0; i < reader->part_count && status == STATUS_OK; i++)
        status = write_result(e, &e->run.results[i], error);
    return status;
}

/* All of the corpus into the writer. */
static enum status encode_files(struct encoding *e, const struct data_files *files, struct error *error) {
    int threads = pool_threads(e->options->pool);
    e->encoders = calloc((size_t)threads, sizeof *e->encoders);
    enum status status = e->encoders ? STATUS_OK : error_set(error, STATUS_NO_MEMORY, "no memory left to tokenise");
    for (int i = 0; i < threads && status == STATUS_OK; i++)
        status = encoder_create(&e->encoders[i], e->tokenizer, error);
    e->run = (struct batch_run){ .rules = &e->options->rules, .visit = visit_text, .context = e };
    if (status == STATUS_OK)
        status = each_batch(files, e->options, DATA_ENCODE, (struct data_cut){cut_tokens, e}, encode_batch, e, error);
    const struct token_header *h = &e->writer.header;
    if (status == STATUS_OK && h->count == 0)
        status = error_set(error, STATUS_INVALID, "%s: no text in the data (%llu blank documents, %llu bad lines)",
                           files->path, (unsigned long long)h->blank, (unsigned long long)h->bad_lines);
    batch_run_free(&e->run);
    for (int i = 0; e->encoders && i < threads; i++) encoder_destroy(e->encoders[i]);
    free(e->encoders);
    return status;
}

/* ---- the cache --------------------------------------------------------------------------------------------------- */

static void identify(struct token_identity *identity, const struct data_files *files, const struct tokenizer *tokenizer,
                     const struct data_rules *rules) {
    const char *key = rules->text_key ? rules->text_key : "text";
    const uint64_t facts[] = {RULES_VERSION,
                              tokenizer_fingerprint(tokenizer),
                              (uint64_t)tokenizer_size(tokenizer),
                              (uint64_t)(int64_t)tokenizer_bos(tokenizer),
                              (uint64_t)(int64_t)tokenizer_eos(tokenizer),
                              tokenizer_add_bos(tokenizer),
                              rules->skip_bad_lines,
                              rules->special_tokens,
                              XXH3_64bits(key, strlen(key))};
    XXH128_hash_t source = XXH3_128bits(files->path, strlen(files->path));
    *identity = (struct token_identity){.source = {source.low64, source.high64},
                                        .state = data_files_state(files),
                                        .rules = XXH3_64bits(facts, sizeof facts)};
}

static bool told_check(void *context, uint64_t done, uint64_t total) { return tell(context, DATA_CHECK, done, total); }

/* Looks into a folder for the ids. STATUS_NOT_FOUND: they are to be made. */
static enum status look_up(struct data *data, const char *folder, const struct token_identity *identity, uint64_t limit,
                           const struct data_options *o, struct error *error) {
    char path[TOKEN_CACHE_PATH], message[1200];
    bool stale;
    enum status status = token_cache_path(path, folder, identity, error);
    if (status == STATUS_OK)
        status = token_file_open(&data->file, path, identity, limit, &stale, told_check, (void *)&o->watch, error);
    if (status == STATUS_OK || status == STATUS_INTERRUPTED || status == STATUS_NO_MEMORY) return status;
    /* what cannot be read cannot be written either, mostly, and then that is told */
    if (status == STATUS_INVALID && !stale) {
        snprintf(message, sizeof message, "the token cache is made anew: %s", error->message);
        warn(&o->watch, message);
    }
    return STATUS_NOT_FOUND;
}

/* Where the tokens go: 0 the cache, 1 the fallback, 2 a file without a name. */
enum { PLACE_LAST = 2 };

static void tell_elsewhere(const struct data_options *o, int place, const struct error *why) {
    char message[1200];
    if (place > 0) return;
    snprintf(message, sizeof message, "the tokens go %s%s, not into the cache: %s",
             o->fallback ? "to " : "into a temporary file", o->fallback ? o->fallback : "", why->message);
    warn(&o->watch, message);
}

/* A writer in the first place from *place on that takes one. */
static enum status begin_writing(struct encoding *e, const struct token_identity *identity, int *place,
                                 struct error *error) {
    const struct data_options *o = e->options;
    const char *folders[] = { o->cache, o->fallback };
    uint64_t limit = (uint64_t)tokenizer_size(e->tokenizer);
    char path[TOKEN_CACHE_PATH];
    for (; *place < PLACE_LAST; ++*place) {
        const char *folder = folders[*place];
        if (!folder) continue;
        enum status status = token_cache_path(path, folder, identity, error);
        if (status == STATUS_OK) status = folder_create(folder, error);
        if (status == STATUS_OK) token_cache_clean(folder, identity);
        if (status == STATUS_OK) status = token_writer_begin(&e->writer, path, identity, limit, error);
        if (status == STATUS_OK || status == STATUS_NO_MEMORY) return status;
        tell_elsewhere(o, *place, error);
    }
    return token_writer_begin(&e->writer, NULL, identity, limit, error);
}

/* The corpus into the first place that takes all of it: a disk may be full. */
static enum status write_tokens(struct encoding *e, const struct data_files *files,
                                const struct token_identity *identity, struct token_file *file, struct error *error) {
    for (int place = 0;; place++) {
        enum status status = begin_writing(e, identity, &place, error);
        if (status != STATUS_OK) return status;
        status = encode_files(e, files, error);
        bool refused = status == STATUS_IO && e->writer.failed;
        if (status == STATUS_OK) {
            status = token_writer_commit(&e->writer, file, error);
            refused = status == STATUS_IO;
        } else {
            token_writer_abandon(&e->writer);
        }
        if (!refused || place >= PLACE_LAST) return status;
        tell_elsewhere(e->options, place, error);
    }
}

enum status data_load(struct data *data, const struct data_files *files, const struct tokenizer *tokenizer,
                      int64_t vocab_size, const struct data_options *options, struct error *error) {
    struct error local;
    struct token_identity identity;
    *data = (struct data){0};
    if (!error) error = &local;
    if (tokenizer_size(tokenizer) > vocab_size)
        return error_set(error, STATUS_INVALID, "vocab_size: found %lld, expected at least the tokenizer's %lld",
                         (long long)vocab_size, (long long)tokenizer_size(tokenizer));
    identify(&identity, files, tokenizer, &options->rules);
    enum status status = STATUS_NOT_FOUND;
    if (options->cache)
        status = look_up(data, options->cache, &identity, (uint64_t)tokenizer_size(tokenizer), options, error);
    if (status == STATUS_NOT_FOUND && options->fallback)
        status = look_up(data, options->fallback, &identity, (uint64_t)tokenizer_size(tokenizer), options, error);
    data->cached = status == STATUS_OK;
    if (status == STATUS_NOT_FOUND) {
        struct encoding encoding = { .tokenizer = tokenizer, .options = options };
        data_files_settle(files);
        status = write_tokens(&encoding, files, &identity, &data->file, error);
    }
    if (status != STATUS_OK) {
        *data = (struct data){0};
        return status;
    }
    const struct token_header *h = &data->file.header;
    data->count = data->train_count = (int64_t)h->count;
    data->documents = (int64_t)h->documents;
    data->bad_lines = (int64_t)h->bad_lines;
    data->blank = (int64_t)h->blank;
    data->markers = (int64_t)h->markers;
    data->bytes = h->bytes;
    data->replaced = h->replaced;
    data->fingerprint = h->fingerprint;
    return STATUS_OK;
}
