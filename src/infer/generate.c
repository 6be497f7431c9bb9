/* Generation (infer/generate.h): prompts are fed, tokens chosen, text released, until each text has met its end. */
#include "infer/generate.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

const char *finish_name(enum finish finish) {
    static const char *const names[] = { "none", "eos", "stop", "length", "interrupted" };
    return names[finish];
}

void generation_release(struct generation *generation) {
    token_list_free(&generation->ids);
    free(generation->text);
    free(generation->logprobs);
    generation->text = NULL;
    generation->logprobs = NULL;
    generation->text_size = generation->released = generation->bytes_capacity = 0;
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

/* Stop strings are compared with whole characters, so they hold whole characters themselves. */
static bool is_well_formed(const char *text, size_t size) {
    bool ill_formed = false;
    for (size_t at = 0, step; at < size && !ill_formed; at += step)
        utf8_next((const uint8_t *)text + at, size - at, &step, &ill_formed);
    return !ill_formed;
}

enum status generation_options_check(const struct generation_options *options, int64_t vocab, struct error *error) {
    enum status status = sampling_check(&options->sampling, vocab, error);
    if (status) return status;
    if (options->max_tokens < 1)
        return error_set(error, STATUS_INVALID, "max_tokens: found %lld, expected 1 or more",
                         (long long)options->max_tokens);
    if (options->keep < 0)
        return error_set(error, STATUS_INVALID, "keep: found %lld, expected 0 or more", (long long)options->keep);
    if (options->logprobs < -1 || options->logprobs > LOGPROBS_MAX)
        return error_set(error, STATUS_INVALID, "logprobs: found %d, expected -1 (none) to %d", options->logprobs,
                         LOGPROBS_MAX);
    if (options->stop_count < 0 || options->stop_count > STOP_STRINGS_MAX)
        return error_set(error, STATUS_INVALID, "found %d stop strings, expected at most %d", options->stop_count,
                         STOP_STRINGS_MAX);
    for (int i = 0; i < options->stop_count; i++) {
        const struct stop_string *stop = &options->stops[i];
        if (stop->size == 0)
            return error_set(error, STATUS_INVALID, "stop string %d: found an empty one, expected 1 to %d bytes", i,
                             STOP_STRING_BYTES_MAX);
        if (stop->size > STOP_STRING_BYTES_MAX)
            return error_set(error, STATUS_INVALID, "stop string %d: found %zu bytes, expected 1 to %d", i, stop->size,
                             STOP_STRING_BYTES_MAX);
        if (!is_well_formed(stop->text, stop->size))
            return error_set(error, STATUS_INVALID, "stop string %d: found ill-formed UTF-8", i);
    }
    return STATUS_OK;
}

/* ---- one call of generate() -------------------------------------------------------------------------------------- */

/* Knuth, Morris and Pratt, "Fast pattern matching in strings", 1977: borders[n] is the length of the longest proper
 * border of the first n bytes. */
struct stop_table { const struct generation_options *options; int32_t *borders[STOP_STRINGS_MAX]; };
/* How many bytes of each stop string the text ends with: what is held back is the longest of them. */
struct stop_state { const struct stop_table *table; int32_t matched[STOP_STRINGS_MAX]; };

struct run {
    struct engine *engine;
    const struct tokenizer *tokenizer;
    struct sampler *sampler;
    struct generation *items;
    int count;
    const struct generation_watch *watch;
    struct arena arena;
    struct stop_table *tables;     /* of different options */
    struct stop_state *stops;      /* [count] */
    struct feed *feeds;            /* [count] the next pass */
    int *fed;                      /* [count] which item each feed belongs to */
    /* [count] the first item with the same prompt, which is computed once: itself where there is none */
    int *leaders;
    int64_t *logprob_capacity;     /* [count] tokens */
    struct token_list *views;      /* [count] what watch->full has put in the place of the first ids, until it is fed */
    float *logits;                 /* [count, 1 + depths, vocab] */
    int64_t vocab;
    int depths;                    /* drafts of a text in one pass at most; 0: none */
    /* [count] what the next pass feeds of a text with drafts: the last token and these */
    int32_t (*drafted)[1 + CONFIG_MAX_NEXTN];
    struct draft *drafts;          /* [count] in the order of drafting */
    int *drafting;                 /* [count] which feed each belongs to */
    struct draft_text *worth;      /* [count] */
    struct token_logprob top[LOGPROBS_MAX];
};

static enum status prepare_stops(struct run *run, struct error *error) {
    int tables = 0;
    for (int i = 0; i < run->count; i++) {
        const struct generation_options *options = run->items[i].options;
        int at = 0;
        while (at < tables && run->tables[at].options != options) at++;
        run->stops[i].table = &run->tables[at];
        if (at < tables) continue;
        struct stop_table *table = &run->tables[tables++];
        table->options = options;
        for (int s = 0; s < options->stop_count; s++) {
            const struct stop_string *stop = &options->stops[s];
            int32_t *borders = arena_alloc(&run->arena, (stop->size + 1) * sizeof *borders), border = 0;
            if (!borders) return error_set(error, STATUS_NO_MEMORY, "no memory for a stop string");
            table->borders[s] = borders;
            for (size_t n = 1; n < stop->size; n++) {   /* borders[0] = borders[1] = 0 */
                while (border > 0 && stop->text[border] != stop->text[n]) border = borders[border];
                border += stop->text[border] == stop->text[n];
                borders[n + 1] = border;
            }
        }
    }
    return STATUS_OK;
}

/* One byte more of the text. Returns the size of the longest stop string that ends with it, or 0. */
static size_t advance_stops(struct stop_state *state, char byte) {
    const struct generation_options *options = state->table->options;
    size_t complete = 0;
    for (int s = 0; s < options->stop_count; s++) {
        const struct stop_string *stop = &options->stops[s];
        const int32_t *borders = state->table->borders[s];
        int32_t matched = state->matched[s];
        while (matched > 0 && stop->text[matched] != byte) matched = borders[matched];
        matched += stop->text[matched] == byte;
        state->matched[s] = matched;
        if ((size_t)matched == stop->size && stop->size > complete) complete = stop->size;
    }
    return complete;
}

static size_t held_back(const struct stop_state *state) {
    int32_t held = 0;
    for (int s = 0; s < state->table->options->stop_count; s++)
        if (state->matched[s] > held) held = state->matched[s];
    return (size_t)held;
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

/* Tells the caller the text up to `end`. */
static void release_text(struct run *run, int index, size_t end) {
    struct generation *item = &run->items[index];
    if (end <= item->released) return;
    size_t from = item->released;
    item->released = end;
    if (run->watch && run->watch->text &&
        !run->watch->text(run->watch->context, index, item->text + from, end - from) && item->finish == FINISH_NONE)
        item->finish = FINISH_INTERRUPTED;
}

/* Bytes of the next token: whole characters join the text, and those that cannot become a stop string are released. Of
 * two stop strings the one that is complete first ends the text, of two that are complete at once the longer: so it
 * does not matter how the text was cut into tokens. `last`: nothing follows. */
static enum status take_text(struct run *run, int index, const char *bytes, size_t size, bool last,
                             struct error *error) {
    struct generation *item = &run->items[index];
    size_t needed = item->text_size + 3 * (item->pending.count + size) + 1;
    if (needed > item->bytes_capacity) {
        size_t capacity = needed + needed / 2 + 256;
        char *text = realloc(item->text, capacity);
        if (!text) return error_set(error, STATUS_NO_MEMORY, "no memory for %zu bytes of text", capacity);
        item->text = text;
        item->bytes_capacity = capacity;
    }
    size_t at = item->text_size;
    item->text_size += utf8_stream_put(&item->pending, bytes, size, last, item->text + at);
    for (; at < item->text_size; at++) {
        size_t complete = advance_stops(&run->stops[index], item->text[at]);
        if (!complete) continue;
        item->text_size = at + 1 - complete;
        item->finish = FINISH_STOP;
        last = true;
        break;
    }
    item->text[item->text_size] = '\0';
    release_text(run, index, item->text_size - (last ? 0 : held_back(&run->stops[index])));
    return STATUS_OK;
}

/* The bytes of a token as they appear in a text. */
static const char *shown_piece(const struct tokenizer *tokenizer, int32_t id, size_t *size) {
    bool special = false;
    const char *piece = tokenizer_piece(tokenizer, id, size, &special);
    if (piece && !special) return piece;
    *size = 0;
    return "";
}

/* Generated tokens whose text begins before byte `end` of the text. */
static enum status count_tokens_before(const struct run *run, const struct generation *item, size_t end, int64_t *count,
                                       struct error *error) {
    struct utf8_stream stream = { 0 };
    char *scratch = NULL;
    size_t capacity = 0, at = 0;
    int64_t t = item->prompt;
    for (; t < item->ids.count && at < end; t++) {
        size_t size;
        const char *piece = shown_piece(run->tokenizer, item->ids.ids[t], &size);
        if (3 * (size + 4) > capacity) {
            capacity = 6 * (size + 4);
            char *larger = realloc(scratch, capacity);
            if (!larger) {
                free(scratch);
                return error_set(error, STATUS_NO_MEMORY, "no memory for a piece of %zu bytes", size);
            }
            scratch = larger;
        }
        at += utf8_stream_put(&stream, piece, size, false, scratch);
    }
    free(scratch);
    *count = t - item->prompt;
    return STATUS_OK;
}

static enum status finish_item(struct run *run, int index, enum finish finish, struct error *error) {
    struct generation *item = &run->items[index];
    enum status status = STATUS_OK;
    if (item->finish == FINISH_NONE) item->finish = finish;
    /* what is unfinished may complete a stop string in its turn */
    if (run->tokenizer && item->finish != FINISH_STOP) status = take_text(run, index, "", 0, true, error);
    item->text_tokens = item->ids.count - item->prompt - (item->finish == FINISH_EOS);
    if (!status && item->finish == FINISH_STOP)
        status = count_tokens_before(run, item, item->text_size, &item->text_tokens, error);
    return status;
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

static bool is_eos(const struct generation_options *options, int32_t id) {
    for (int i = 0; i < options->eos_count; i++)
        if (options->eos[i] == id) return true;
    return false;
}

/* Room for the log-probabilities of one token more. */
static enum status logprobs_reserve(struct run *run, int index, struct error *error) {
    struct generation *item = &run->items[index];
    int64_t tokens = item->ids.count - item->prompt + 1;
    if (tokens <= run->logprob_capacity[index]) return STATUS_OK;
    int64_t capacity = tokens + tokens / 2 + 64;
    struct token_logprob *larger = realloc(item->logprobs,
                                           (size_t)(capacity * (1 + item->options->logprobs)) * sizeof *larger);
    if (!larger)
        return error_set(error, STATUS_NO_MEMORY, "no memory for the log-probabilities of %lld tokens",
                         (long long)capacity);
    item->logprobs = larger;
    run->logprob_capacity[index] = capacity;
    return STATUS_OK;
}

/* Chooses the next token of an item after `logits` [vocab] and gives out its text. */
static enum status take_token(struct run *run, int index, const float *logits, struct error *error) {
    struct generation *item = &run->items[index];
    const struct generation_options *options = item->options;
    int alternatives = options->logprobs > 0 ? options->logprobs : 0;
    float logprob = 0;
    enum status status = options->logprobs >= 0 ? logprobs_reserve(run, index, error) : STATUS_OK;
    if (status) return status;
    int32_t id = sampler_next(run->sampler, logits, &options->sampling, item->stream, item->ids.ids, item->ids.count,
                              item->prompt, options->logprobs >= 0 ? &logprob : NULL, run->top, alternatives);
    status = token_list_push(&item->ids, id, error);
    if (status) return status;
    int64_t generated = item->ids.count - item->prompt;
    if (options->logprobs >= 0) {
        struct token_logprob *row = item->logprobs + (generated - 1) * (1 + alternatives);
        row[0] = (struct token_logprob){ id, logprob };
        memcpy(row + 1, run->top, (size_t)alternatives * sizeof *row);
    }
    bool go_on = !run->watch || !run->watch->token || run->watch->token(run->watch->context, index, id);
    if (is_eos(options, id)) return finish_item(run, index, FINISH_EOS, error);
    if (run->tokenizer) {
        size_t size;
        const char *piece = shown_piece(run->tokenizer, id, &size);
        status = take_text(run, index, piece, size, false, error);
        if (status) return status;
    }
    if (item->finish != FINISH_NONE) return finish_item(run, index, item->finish, error);
    if (!go_on) return finish_item(run, index, FINISH_INTERRUPTED, error);
    return generated == options->max_tokens ? finish_item(run, index, FINISH_LENGTH, error) : STATUS_OK;
}

/* The feed that computes the logits after an item's last token, into `logits`. A full context goes on with its last
 * half, or is the end. */
static enum status next_feed(struct run *run, int index, struct feed *feed, float *logits, struct error *error) {
    struct generation *item = &run->items[index];
    struct sequence *sequence = item->sequence;
    *feed = (struct feed){
        .sequence = sequence, .ids = item->ids.ids + item->ids.count - 1, .count = 1, .logits = logits};
    if (sequence->length < sequence->capacity) return STATUS_OK;
    if (run->watch && run->watch->full) {
        struct token_list *view = &run->views[index];
        view->count = 0;
        if (!run->watch->full(run->watch->context, index, view) || view->count < 1)
            return finish_item(run, index, FINISH_LENGTH, error);
        feed->ids = view->ids;
        feed->count = view->count;
        sequence_rewind(sequence, 0);
        item->shifts++;
        return STATUS_OK;
    }
    if (!item->options->shift) return finish_item(run, index, FINISH_LENGTH, error);
    int64_t half = sequence->capacity / 2 > 0 ? sequence->capacity / 2 : 1,
            keep = item->options->keep < half ? item->options->keep : half - 1;
    feed->count = half - keep;
    feed->ids = item->ids.ids + item->ids.count - feed->count;
    sequence_rewind(sequence, keep);
    item->shifts++;
    return STATUS_OK;
}

/* ---- the loop ---------------------------------------------------------------------------------------------------- */

static enum status check_item(const struct run *run, int index, struct error *error) {
    const struct generation *item = &run->items[index];
    if (!item->sequence || item->sequence->model != run->engine->model)
        return error_set(error, STATUS_INVALID, "text %d: its sequence belongs to another model", index);
    if (item->ids.count < 1)
        return error_set(error, STATUS_INVALID, "text %d: the prompt is empty, expected at least one token", index);
    if (item->ids.count > item->sequence->capacity)
        return error_set(error, STATUS_INVALID,
                         "text %d: the prompt has %lld tokens, expected at most %lld (the sequence's capacity)", index,
                         (long long)item->ids.count, (long long)item->sequence->capacity);
    if (item->sequence->length > item->ids.count)
        return error_set(error, STATUS_INVALID,
                         "text %d: its sequence holds %lld tokens, expected at most the %lld of the prompt", index,
                         (long long)item->sequence->length, (long long)item->ids.count);
    for (int64_t t = 0; t < item->ids.count; t++)
        if (item->ids.ids[t] < 0 || item->ids.ids[t] >= run->vocab)
            return error_set(error, STATUS_INVALID, "text %d: token %lld of the prompt has id %d, expected 0 to %lld",
                             index, (long long)t, item->ids.ids[t], (long long)run->vocab - 1);
    if (item->options->stop_count > 0 && !run->tokenizer)
        return error_set(error, STATUS_INVALID, "text %d: stop strings need a tokenizer", index);
    return index > 0 && run->items[index - 1].options == item->options
               ? STATUS_OK
               : generation_options_check(item->options, run->vocab, error);
}

/* Padding of the vocabulary: ids that the tokenizer does not define. */
static enum status mask_undefined(struct run *run, struct error *error) {
    bool *defined = arena_alloc(&run->arena, (size_t)run->vocab * sizeof *defined);
    if (!defined) return error_set(error, STATUS_NO_MEMORY, "no memory for a mask of %lld ids", (long long)run->vocab);
    for (int64_t id = 0; id < run->vocab; id++) {
        size_t size;
        defined[id] = tokenizer_piece(run->tokenizer, (int32_t)id, &size, NULL) != NULL;
    }
    return sampler_mask(run->sampler, defined, error);
}

/* Is the state after the prompt of `a` worth copying from `b`? The whole state is copied, room for later tokens
 * included, so the prompt must be a good part of it. */
static bool shares_prompt(const struct generation *a, const struct generation *b) {
    return a->sequence != b->sequence && a->sequence->length == 0 && b->sequence->length == 0 &&
           a->sequence->capacity == b->sequence->capacity && a->ids.count == b->ids.count &&
           8 * a->ids.count >= a->sequence->capacity &&
           memcmp(a->ids.ids, b->ids.ids, (size_t)a->ids.count * sizeof *a->ids.ids) == 0;
}

static enum status prepare(struct run *run, struct error *error) {
    size_t count = (size_t)run->count;
    enum status status = STATUS_OK;
    for (int i = 0; i < run->count && !status; i++) status = check_item(run, i, error);
    if (status) return status;
    run->tables = arena_alloc(&run->arena, count * sizeof *run->tables);
    run->stops = arena_alloc(&run->arena, count * sizeof *run->stops);
    run->feeds = arena_alloc(&run->arena, count * sizeof *run->feeds);
    run->fed = arena_alloc(&run->arena, count * sizeof *run->fed);
    run->leaders = arena_alloc(&run->arena, count * sizeof *run->leaders);
    run->logprob_capacity = arena_alloc(&run->arena, count * sizeof *run->logprob_capacity);
    run->views = arena_alloc(&run->arena, count * sizeof *run->views);
    run->depths = run->engine->policy.mode == DRAFT_OFF ? 0 : run->engine->policy.depths;
    run->drafted = arena_alloc(&run->arena, count * sizeof *run->drafted);
    run->drafts = arena_alloc(&run->arena, count * sizeof *run->drafts);
    run->drafting = arena_alloc(&run->arena, count * sizeof *run->drafting);
    run->worth = arena_alloc(&run->arena, count * sizeof *run->worth);
    run->logits = malloc(count * (size_t)(1 + run->depths) * (size_t)run->vocab * sizeof *run->logits);
    if (!run->drafted || !run->drafts || !run->drafting || !run->worth || !run->tables || !run->stops || !run->feeds ||
        !run->fed || !run->leaders || !run->logprob_capacity || !run->views || !run->logits)
        return error_set(error, STATUS_NO_MEMORY, "no memory for %d texts", run->count);
    status = prepare_stops(run, error);
    if (!status && run->tokenizer) status = mask_undefined(run, error);
    for (int i = 0; i < run->count && !status; i++) {
        struct generation *item = &run->items[i];
        item->prompt = item->ids.count;
        item->finish = FINISH_NONE;
        item->text_size = item->released = 0;
        item->text_tokens = item->shifts = 0;
        item->drafts = (struct draft_counts){ 0 };
        item->pending = (struct utf8_stream){ 0 };
        free(item->logprobs);
        item->logprobs = NULL;
        /* the last token's logits are wanted again */
        if (item->sequence->length == item->ids.count) sequence_rewind(item->sequence, item->ids.count - 1);
        run->leaders[i] = i > 0 && shares_prompt(item, &run->items[i - 1]) ? run->leaders[i - 1] : i;
    }
    return status;
}

/* Feeds the prompts, each different one once. */
static enum status feed_prompts(struct run *run, struct error *error) {
    int different = 0;
    for (int i = 0; i < run->count; i++) {
        const struct generation *item = &run->items[i];
        if (run->leaders[i] != i) continue;
        run->feeds[different++] = (struct feed){.sequence = item->sequence,
                                                .ids = item->ids.ids + item->sequence->length,
                                                .count = item->ids.count - item->sequence->length,
                                                .logits = run->logits + (int64_t)i * run->vocab};
    }
    enum status status = engine_feed(run->engine, run->feeds, different, 0, error);
    for (int i = 0; i < run->count; i++) {
        int leader = run->leaders[i];
        run->fed[i] = i;
        run->feeds[i].logits = run->logits + (int64_t)leader * run->vocab;
        if (!status && leader != i) sequence_copy(run->items[i].sequence, run->items[leader].sequence);
    }
    return status;
}

/* The tokens that a pass gives one text: after the last one, then behind each draft for as long as the model chose it.
 * The others are forgotten. */
static enum status take_tokens(struct run *run, int index, const struct feed *feed, int64_t *taken,
                               struct error *error) {
    struct generation *item = &run->items[index];
    const int offered = feed->every_logit ? (int)feed->count - 1 : 0;
    const int64_t length = item->sequence->length - offered;   /* with the last token alone */
    int row = 0;
    for (bool right = true; right; row += right) {
        enum status status = take_token(run, index, feed->logits + row * run->vocab, error);
        if (status) return status;
        ++*taken;
        right = row < offered && item->ids.ids[item->ids.count - 1] == feed->ids[row + 1];
        if (!right) draft_policy_count(&run->engine->policy, &run->worth[index], &item->drafts, offered, row);
        else if (item->finish != FINISH_NONE) {   /* by a draft that was right: nothing follows it */
            draft_policy_count(&run->engine->policy, &run->worth[index], &item->drafts, row + 1, row + 1);
            break;
        }
    }
    sequence_rewind(item->sequence, length + row);
    return STATUS_OK;
}

/* As if the drafts before it stood in the text: the same penalties, the random number of its position. */
static int32_t choose_draft(void *context, int index, struct draft *draft, const float *logits) {
    struct run *run = context;
    struct generation *item = &run->items[run->fed[run->drafting[index]]];
    const struct generation_options *options = item->options;
    const int64_t count = item->ids.count;
    int32_t id = 0;
    /* no memory: any id will do */
    if (token_list_append(&item->ids, draft->ids, draft->count, NULL)) draft->wanted = 0;
    else
        id = sampler_next(run->sampler, logits, &options->sampling, item->stream, item->ids.ids, item->ids.count,
                          item->prompt, NULL, NULL, 0);
    item->ids.count = count;
    if (is_eos(options, id)) draft->wanted = 0;   /* nothing follows an end */
    return id;
}

/* Drafts for the texts whose next pass feeds one token, into their feeds. */
static enum status draft_next(struct run *run, int feeding, int depths, int *deepest, struct error *error) {
    struct engine *engine = run->engine;
    int count = 0;
    *deepest = 0;
    for (int f = 0; f < feeding; f++) {
        const struct generation *item = &run->items[run->fed[f]];
        int64_t room = item->sequence->capacity - item->sequence->length - 1,
                wanted = item->options->max_tokens - (item->ids.count - item->prompt) - 1;
        if (wanted > room) wanted = room;
        if (wanted > depths) wanted = depths;
        if (run->feeds[f].count != 1 || wanted < 1 ||
            !draft_policy_takes(&engine->policy, &run->worth[run->fed[f]], depths, feeding))
            continue;
        run->drafts[count] = (struct draft){
            .sequence = item->sequence, .next = run->feeds[f].ids[0], .wanted = (int)wanted};
        run->drafting[count++] = f;
    }
    enum status status = count ? engine_draft(engine, run->drafts, count, choose_draft, run, error) : STATUS_OK;
    for (int d = 0; d < count; d++) {
        const int f = run->drafting[d], index = run->fed[f], made = run->drafts[d].count;
        struct feed *feed = &run->feeds[f];
        if (made < 1 || status) continue;
        run->drafted[index][0] = run->drafts[d].next;
        memcpy(run->drafted[index] + 1, run->drafts[d].ids, (size_t)made * sizeof(int32_t));
        feed->ids = run->drafted[index];
        feed->count = 1 + made;
        feed->every_logit = true;
        if (made > *deepest) *deepest = made;
    }
    return status;
}

static enum status loop(struct run *run, struct error *error) {
    struct draft_policy *policy = &run->engine->policy;
    int feeding = run->count, depths = 0;
    double draft_seconds = 0;
    for (bool first = true; feeding > 0; first = false) {
        const double began = clock_seconds();
        bool plain = !first;   /* a token of each text, and no drafts */
        for (int f = 0; f < feeding && !first; f++) plain = plain && run->feeds[f].count == 1;
        enum status status = first ? feed_prompts(run, error) : engine_feed(run->engine, run->feeds, feeding, 0, error);
        const double model_seconds = clock_seconds() - began;
        if (status == STATUS_INTERRUPTED) {
            status = STATUS_OK;
            for (int f = 0; f < feeding && !status; f++)
                status = finish_item(run, run->fed[f], FINISH_INTERRUPTED, error);
            return status;
        }
        int kept = 0;
        int64_t taken = 0;
        for (int f = 0; f < feeding && !status; f++) {
            int index = run->fed[f];
            status = take_tokens(run, index, &run->feeds[f], &taken, error);
            if (!status && run->items[index].finish == FINISH_NONE)
                status = next_feed(run, index, &run->feeds[kept],
                                   run->logits + (int64_t)kept * (1 + run->depths) * run->vocab, error);
            if (!status && run->items[index].finish == FINISH_NONE) run->fed[kept++] = index;
        }
        if (status) return status;
        if (!first) draft_policy_round(policy, depths, plain, feeding, taken, model_seconds, draft_seconds);
        feeding = kept;
        const double drafting = clock_seconds();
        const int wanted = draft_policy_depths(policy, feeding);
        depths = 0;
        if (wanted > 0 &&
            (status = draft_next(run, feeding, wanted < run->depths ? wanted : run->depths, &depths, error)))
            return status;
        draft_seconds = clock_seconds() - drafting;
    }
    return STATUS_OK;
}

enum status generate(struct engine *engine, const struct tokenizer *tokenizer, struct sampler *sampler,
                     struct generation *items, int count, const struct generation_watch *watch, struct error *error) {
    struct run run = {.engine = engine,
                      .tokenizer = tokenizer,
                      .sampler = sampler,
                      .items = items,
                      .count = count,
                      .watch = watch,
                      .vocab = engine->model->config.vocab_size};
    bool (*engine_watch)(void *, int64_t) = engine->watch;
    void *engine_context = engine->watch_context;
    enum status status = count > 0 ? prepare(&run, error) : STATUS_OK;
    if (!status && watch && watch->pass) {
        engine->watch = watch->pass;
        engine->watch_context = watch->context;
    }
    if (!status) status = loop(&run, error);
    for (int i = 0; i < count; i++)
        /* it does not hold the first tokens of `ids` any more */
        if (items[i].shifts) sequence_rewind(items[i].sequence, 0);
    engine->watch = engine_watch;
    engine->watch_context = engine_context;
    for (int i = 0; run.views && i < count; i++) token_list_free(&run.views[i]);
    free(run.logits);
    arena_free(&run.arena);
    return status;
}
