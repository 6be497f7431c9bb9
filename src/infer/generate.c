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
    generation->text_size = 0;
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
    return stop_check(options->stops, options->stop_count, error);
}

/* ---- slots ------------------------------------------------------------------------------------------------------- */

struct slot {
    struct generator *generator;
    int index;
    struct generation *item;       /* NULL: free */
    /* after a full context: what the model sees in the place of the item's ids; else empty */
    struct token_list view;
    bool in_pass;                  /* of prompts, which is under way */
    bool leaves;                   /* with that pass */
    float *logits;                 /* [1 + depths, vocab] */
    struct stop_match stops;
    struct utf8_stream pending;    /* bytes of a character that is not complete */
    size_t released, text_capacity;
    int64_t logprob_capacity;      /* tokens */
    /* what the next pass feeds of a text with drafts: the last token and these */
    int32_t drafted[1 + CONFIG_MAX_NEXTN];
    struct draft_text worth;
};

/* Which texts a pass feeds: slots[i] with feeds[i]. */
struct round { struct feed *feeds; int *slots, count; };

struct generator {
    struct engine *engine, *prompts;
    const struct tokenizer *tokenizer;
    struct sampler *sampler;
    struct generation_watch watch;
    int64_t vocab;
    int depths;                    /* drafts of a text in one pass at most; 0: none */
    int slot_count;
    struct slot *slots;
    float *logits;
    struct round decoding, waiting;   /* the pass of prompts stays between steps: count 0, none is under way */
    int first;                     /* the slot whose prompt comes first in the next pass of prompts */
    struct draft *drafts;          /* in the order of drafting */
    int *drafting;                 /* which feed of `decoding` each belongs to */
    struct token_logprob top[LOGPROBS_MAX];
    struct arena arena;
};

/* What the model sees of a text. */
static struct token_list *seen(struct slot *slot) { return slot->view.count ? &slot->view : &slot->item->ids; }

/* How many of its ids a text's sequence lacks. */
static int64_t lacks(struct slot *slot) {
    return slot->item ? seen(slot)->count - slot->item->sequence->length : 0;
}

/* Of what a sequence holds the tokens stay with which `ids` begin, but for the last id, whose logits are wanted. */
static void keep_prefix(struct sequence *sequence, const struct token_list *ids) {
    sequence_sync(sequence, ids->ids, ids->count - 1);
}

static bool decodes(struct slot *slot) { return lacks(slot) == 1; }

static void vacate(struct slot *slot) {
    slot->item = NULL;
    slot->leaves = slot->in_pass = false;
    token_list_free(&slot->view);
    stop_end(&slot->stops);
}

int generator_texts(const struct generator *generator) {
    int count = 0;
    for (int i = 0; i < generator->slot_count; i++) count += generator->slots[i].item != NULL;
    return count;
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

/* Tells the caller the text up to `end`. */
static void release_text(struct slot *slot, size_t end) {
    struct generation *item = slot->item;
    const struct generation_watch *watch = &slot->generator->watch;
    if (end <= slot->released) return;
    size_t from = slot->released;
    slot->released = end;
    if (watch->text && !watch->text(watch->context, slot->index, item->text + from, end - from) &&
        item->finish == FINISH_NONE)
        item->finish = FINISH_INTERRUPTED;
}

/* Bytes of the next token: whole characters join the text, and those that cannot become a stop string are released. Of
 * two stop strings the one that is complete first ends the text, of two that are complete at once the longer: so it
 * does not matter how the text was cut into tokens. `last`: nothing follows. */
static enum status take_text(struct slot *slot, const char *bytes, size_t size, bool last,
                             struct error *error) {
    struct generation *item = slot->item;
    size_t needed = item->text_size + 3 * (slot->pending.count + size) + 1;
    if (needed > slot->text_capacity) {
        size_t capacity = needed + needed / 2 + 256;
        char *text = realloc(item->text, capacity);
        if (!text) return error_set(error, STATUS_NO_MEMORY, "no memory for %zu bytes of text", capacity);
        item->text = text;
        slot->text_capacity = capacity;
    }
    size_t at = item->text_size;
    item->text_size += utf8_stream_put(&slot->pending, bytes, size, last, item->text + at);
    for (; at < item->text_size; at++) {
        size_t complete = stop_advance(&slot->stops, item->text[at]);
        if (!complete) continue;
        item->text_size = at + 1 - complete;
        item->finish = FINISH_STOP;
        last = true;
        break;
    }
    item->text[item->text_size] = '\0';
    release_text(slot, item->text_size - (last ? 0 : stop_held(&slot->stops)));
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
static enum status count_tokens_before(const struct tokenizer *tokenizer, const struct generation *item, size_t end,
                                       int64_t *count, struct error *error) {
    struct utf8_stream stream = { 0 };
    char *scratch = NULL;
    size_t capacity = 0, at = 0;
    int64_t t = item->prompt;
    for (; t < item->ids.count && at < end; t++) {
        size_t size;
        const char *piece = shown_piece(tokenizer, item->ids.ids[t], &size);
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

/* The text ends and leaves its slot. */
static enum status finish_item(struct slot *slot, enum finish finish, struct error *error) {
    const struct tokenizer *tokenizer = slot->generator->tokenizer;
    struct generation *item = slot->item;
    enum status status = STATUS_OK;
    if (item->finish == FINISH_NONE) item->finish = finish;
    /* what is unfinished may complete a stop string in its turn */
    if (tokenizer && item->finish != FINISH_STOP) status = take_text(slot, "", 0, true, error);
    item->text_tokens = item->ids.count - item->prompt - (item->finish == FINISH_EOS);
    if (!status && item->finish == FINISH_STOP)
        status = count_tokens_before(tokenizer, item, item->text_size, &item->text_tokens, error);
    vacate(slot);
    return status;
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

static bool is_eos(const struct generation_options *options, int32_t id) {
    for (int i = 0; i < options->eos_count; i++)
        if (options->eos[i] == id) return true;
    return false;
}

/* Room for the log-probabilities of one token more. */
static enum status logprobs_reserve(struct slot *slot, struct error *error) {
    struct generation *item = slot->item;
    int64_t tokens = item->ids.count - item->prompt + 1;
    if (tokens <= slot->logprob_capacity) return STATUS_OK;
    int64_t capacity = tokens + tokens / 2 + 64;
    struct token_logprob *larger = realloc(item->logprobs,
                                           (size_t)(capacity * (1 + item->options->logprobs)) * sizeof *larger);
    if (!larger)
        return error_set(error, STATUS_NO_MEMORY, "no memory for the log-probabilities of %lld tokens",
                         (long long)capacity);
    item->logprobs = larger;
    slot->logprob_capacity = capacity;
    return STATUS_OK;
}

/* Chooses the next token of a text after `logits` [vocab] and gives out its text. */
static enum status take_token(struct slot *slot, const float *logits, struct error *error) {
    struct generator *generator = slot->generator;
    struct generation *item = slot->item;
    const struct generation_options *options = item->options;
    const struct generation_watch *watch = &generator->watch;
    int alternatives = options->logprobs > 0 ? options->logprobs : 0;
    float logprob = 0;
    enum status status = options->logprobs >= 0 ? logprobs_reserve(slot, error) : STATUS_OK;
    if (status) return status;
    int32_t id = sampler_next(generator->sampler, logits, &options->sampling, item->stream, item->ids.ids,
                              item->ids.count, item->prompt, options->logprobs >= 0 ? &logprob : NULL, generator->top,
                              alternatives);
    status = token_list_push(&item->ids, id, error);
    if (!status && slot->view.count) status = token_list_push(&slot->view, id, error);
    if (status) return status;
    int64_t generated = item->ids.count - item->prompt;
    if (options->logprobs >= 0) {
        struct token_logprob *row = item->logprobs + (generated - 1) * (1 + alternatives);
        row[0] = (struct token_logprob){ id, logprob };
        memcpy(row + 1, generator->top, (size_t)alternatives * sizeof *row);
    }
    bool go_on = !watch->token || watch->token(watch->context, slot->index, id);
    if (is_eos(options, id)) return finish_item(slot, FINISH_EOS, error);
    if (generator->tokenizer) {
        size_t size;
        const char *piece = shown_piece(generator->tokenizer, id, &size);
        status = take_text(slot, piece, size, false, error);
        if (status) return status;
    }
    if (item->finish != FINISH_NONE || !go_on) return finish_item(slot, FINISH_INTERRUPTED, error);
    return generated == options->max_tokens ? finish_item(slot, FINISH_LENGTH, error) : STATUS_OK;
}

/* A full context goes on with what the caller says, or with its last half, or is the end. */
static enum status make_room(struct slot *slot, struct error *error) {
    struct generation *item = slot->item;
    const struct generation_watch *watch = &slot->generator->watch;
    const int64_t capacity = item->sequence->capacity, half = capacity / 2 > 0 ? capacity / 2 : 1,
                  keep = item->options->keep < half ? item->options->keep : half - 1, last = half - keep;
    struct token_list view = { 0 };
    enum status status = STATUS_OK;
    if (watch->full) {
        if (!watch->full(watch->context, slot->index, &view)) view.count = 0;
    } else if (item->options->shift) {
        status = token_list_append(&view, item->ids.ids, keep, error);
        if (!status) status = token_list_append(&view, item->ids.ids + item->ids.count - last, last, error);
    }
    if (status || !view.count) {
        token_list_free(&view);
        return status ? status : finish_item(slot, FINISH_LENGTH, error);
    }
    token_list_free(&slot->view);
    slot->view = view;
    item->shifts++;
    keep_prefix(item->sequence, &view);
    return STATUS_OK;
}

/* ---- what a pass yields ------------------------------------------------------------------------------------------ */

/* Does a text wait for `leader`, which computes the same prompt and is further on, or as far and came first? */
static bool follows(struct slot *slot, struct slot *leader) {
    if (slot == leader || slot->in_pass || lacks(slot) < 2 || !leader->item) return false;
    const struct generation *a = slot->item, *b = leader->item;
    if (a->ids.count != b->ids.count || a->ids.count > a->prompt || b->ids.count > b->prompt) return false;
    const int64_t ahead = b->sequence->length - a->sequence->length;
    return (leader->in_pass || ahead > 0 || (ahead == 0 && leader->index < slot->index)) &&
           memcmp(a->ids.ids, b->ids.ids, (size_t)a->ids.count * sizeof *a->ids.ids) == 0;
}

/* Texts that waited for this one's prompt get what is computed, and a token of their own in this round. */
static void share_prompt(struct slot *leader, struct round *round) {
    struct generator *generator = leader->generator;
    for (int i = 0; i < generator->slot_count; i++) {
        struct slot *slot = &generator->slots[i];
        if (!follows(slot, leader)) continue;
        if (sequence_copy(slot->item->sequence, leader->item->sequence, NULL)) continue;   /* computes it itself */
        memcpy(slot->logits, leader->logits, (size_t)generator->vocab * sizeof *slot->logits);
        round->feeds[round->count] = (struct feed){ .count = 1, .logits = slot->logits };
        round->slots[round->count++] = i;
    }
}

/* The tokens that a pass gives one text: after the last one, then behind each draft for as long as the model chose it.
 * The others are forgotten. */
static enum status take_tokens(struct slot *slot, const struct feed *feed, int64_t *taken, struct error *error) {
    struct generator *generator = slot->generator;
    struct draft_policy *policy = &generator->engine->policy;
    struct generation *item = slot->item;
    const int offered = feed->every_logit ? (int)feed->count - 1 : 0;
    const int64_t length = item->sequence->length - offered;   /* with the last token alone */
    int row = 0;
    for (bool right = true; right; row += right) {
        enum status status = take_token(slot, feed->logits + row * generator->vocab, error);
        if (status) return status;
        ++*taken;
        right = row < offered && item->ids.ids[item->ids.count - 1] == feed->ids[row + 1];
        if (!right) draft_policy_count(policy, &slot->worth, &item->drafts, offered, row);
        else if (item->finish != FINISH_NONE) {   /* by a draft that was right: nothing follows it */
            draft_policy_count(policy, &slot->worth, &item->drafts, row + 1, row + 1);
            break;
        }
    }
    sequence_rewind(item->sequence, length + row);
    return slot->item && item->sequence->length == item->sequence->capacity ? make_room(slot, error) : STATUS_OK;
}

/* Ends the pass of prompts where one is under way, and nothing of it is kept. */
static void abandon(struct generator *generator) {
    if (generator->waiting.count) engine_pass_cancel(generator->prompts);
    for (int f = 0; f < generator->waiting.count; f++) generator->slots[generator->waiting.slots[f]].in_pass = false;
    generator->waiting.count = 0;
}

/* Drafts that were fed and not looked at are forgotten. */
static enum status interrupt(struct generator *generator, struct error *error) {
    enum status status = STATUS_OK;
    abandon(generator);
    generator->decoding.count = 0;
    for (int i = 0; i < generator->slot_count; i++) {
        struct slot *slot = &generator->slots[i];
        if (slot->item) keep_prefix(slot->item->sequence, seen(slot));
        if (slot->item && !status) status = finish_item(slot, FINISH_INTERRUPTED, error);
    }
    return status;
}

/* A pass of the engine is over: its tokens are taken, unless the caller wants no more. */
static enum status end_pass(struct generator *generator, struct round *round, enum status status, int64_t *taken,
                            struct error *error) {
    const struct generation_watch *watch = &generator->watch;
    int64_t rows = 0;
    for (int f = 0; f < round->count; f++) rows += round->feeds[f].count;
    if (!status && watch->pass && !watch->pass(watch->context, rows)) status = STATUS_INTERRUPTED;
    if (status == STATUS_INTERRUPTED) return interrupt(generator, error);
    for (int f = 0; f < round->count; f++) {
        struct slot *slot = &generator->slots[round->slots[f]];
        slot->in_pass = false;
        if (slot->leaves) {   /* also where the pass has failed */
            const enum status left = finish_item(slot, FINISH_INTERRUPTED, status ? NULL : error);
            if (!status) status = left;
        }
        if (!status && slot->item && round->feeds[f].logits) {
            share_prompt(slot, round);
            status = take_tokens(slot, &round->feeds[f], taken, error);
        }
        if (status && slot->item) keep_prefix(slot->item->sequence, seen(slot));   /* for another try */
    }
    return status;
}

/* ---- decoding ---------------------------------------------------------------------------------------------------- */

/* As if the drafts before it stood in the text: the same penalties, the random number of its position. */
static int32_t choose_draft(void *context, int index, struct draft *draft, const float *logits) {
    struct generator *generator = context;
    struct generation *item = generator->slots[generator->decoding.slots[generator->drafting[index]]].item;
    const struct generation_options *options = item->options;
    const int64_t count = item->ids.count;
    int32_t id = 0;
    /* no memory: any id will do */
    if (token_list_append(&item->ids, draft->ids, draft->count, NULL)) draft->wanted = 0;
    else
        id = sampler_next(generator->sampler, logits, &options->sampling, item->stream, item->ids.ids, item->ids.count,
                          item->prompt, NULL, NULL, 0);
    item->ids.count = count;
    if (is_eos(options, id)) draft->wanted = 0;   /* nothing follows an end */
    return id;
}

/* Drafts for texts that decode, into their feeds. Returns the most that one has. */
static enum status draft_next(struct generator *generator, int depths, int *deepest, struct error *error) {
    struct engine *engine = generator->engine;
    const struct round *round = &generator->decoding;
    int count = 0;
    for (int f = 0; f < round->count; f++) {
        struct slot *slot = &generator->slots[round->slots[f]];
        const struct generation *item = slot->item;
        const int64_t room = item->sequence->capacity - item->sequence->length - 1,
                      generated = item->ids.count - item->prompt;
        int64_t wanted = item->options->max_tokens - generated - 1;
        if (wanted > room) wanted = room;
        if (wanted > depths) wanted = depths;
        if (generated < 1 || wanted < 1 || !draft_policy_takes(&engine->policy, &slot->worth, depths, round->count))
            continue;
        generator->drafts[count] = (struct draft){
            .sequence = item->sequence, .next = round->feeds[f].ids[0], .wanted = (int)wanted};
        generator->drafting[count++] = f;
    }
    enum status status = count ? engine_draft(engine, generator->drafts, count, choose_draft, generator, error)
                               : STATUS_OK;
    for (int d = 0; d < count && !status; d++) {
        const struct draft *draft = &generator->drafts[d];
        struct feed *feed = &round->feeds[generator->drafting[d]];
        int32_t *ids = generator->slots[round->slots[generator->drafting[d]]].drafted;
        if (draft->count < 1) continue;
        ids[0] = draft->next;
        memcpy(ids + 1, draft->ids, (size_t)draft->count * sizeof *ids);
        *feed = (struct feed){ feed->sequence, ids, 1 + draft->count, feed->logits, true };
        if (draft->count > *deepest) *deepest = draft->count;
    }
    return status;
}

/* A round of decoding: each text's last token, and drafts behind it. */
static enum status decode(struct generator *generator, struct error *error) {
    struct draft_policy *policy = &generator->engine->policy;
    struct round *round = &generator->decoding;
    round->count = 0;
    for (int i = 0; i < generator->slot_count; i++) {
        struct slot *slot = &generator->slots[i];
        if (!decodes(slot)) continue;
        round->feeds[round->count] = (struct feed){
            slot->item->sequence, seen(slot)->ids + seen(slot)->count - 1, .count = 1, .logits = slot->logits};
        round->slots[round->count++] = i;
    }
    const int texts = round->count;
    if (!texts) return STATUS_OK;
    const double began = clock_seconds();
    int wanted = draft_policy_depths(policy, texts), depths = 0;
    if (wanted > generator->depths) wanted = generator->depths;
    enum status status = wanted > 0 ? draft_next(generator, wanted, &depths, error) : STATUS_OK;
    if (status) return status;
    const double drafted = clock_seconds();
    status = engine_feed(generator->engine, round->feeds, texts, 0, error);
    const double fed = clock_seconds();
    int64_t taken = 0;
    status = end_pass(generator, round, status, &taken, error);
    if (taken) draft_policy_round(policy, depths, texts, taken, fed - drafted, drafted - began);
    return status;
}

/* ---- prompts ----------------------------------------------------------------------------------------------------- */

/* Does a text need a pass of prompts, which no other one makes for it? */
static bool needs_pass(struct slot *slot) {
    const struct generator *generator = slot->generator;
    bool needs = lacks(slot) > 1;
    for (int i = 0; needs && i < generator->slot_count; i++) needs = !follows(slot, &generator->slots[i]);
    return needs;
}

/* The next pass of prompts: as many rows as the engine takes, beginning where the last pass cut one. */
static void choose_prompts(struct generator *generator) {
    struct round *round = &generator->waiting;
    const int first = generator->first;
    int64_t room = generator->prompts->max_rows;
    for (int n = 0; n < generator->slot_count && room > 0; n++) {
        struct slot *slot = &generator->slots[(first + n) % generator->slot_count];
        const int64_t left = lacks(slot), count = left < room ? left : room;
        if (!needs_pass(slot)) continue;
        round->feeds[round->count] = (struct feed){ .sequence = slot->item->sequence, .count = count,
                                                    .ids = seen(slot)->ids + slot->item->sequence->length,
                                                    .logits = count == left ? slot->logits : NULL };
        round->slots[round->count++] = generator->first = slot->index;
        slot->in_pass = true;
        room -= count;
    }
}

static enum status compute_prompts(struct generator *generator, int64_t half_layers, struct error *error) {
    struct engine *engine = generator->prompts;
    struct round *round = &generator->waiting;
    enum status status = STATUS_OK;
    int64_t taken = 0;
    bool wait = false;   /* while others decode */
    for (int i = 0; i < generator->slot_count && half_layers && engine != generator->engine; i++)
        wait = wait || decodes(&generator->slots[i]);
    if (!round->count) {
        choose_prompts(generator);
        if (!round->count) return STATUS_OK;
        status = engine_pass_begin(engine, round->feeds, round->count, error);
    }
    if (!status && wait && engine_pass_advance(engine, half_layers)) return STATUS_OK;
    if (!status) status = engine_pass_end(engine, error);
    status = end_pass(generator, round, status, &taken, error);
    round->count = 0;
    return status;
}

/* ---- the step ---------------------------------------------------------------------------------------------------- */

enum status generator_step(struct generator *generator, int64_t half_layers, struct error *error) {
    bool first = false;   /* prompts before all decoding */
    for (int i = 0; i < generator->slot_count && !half_layers; i++) first = first || needs_pass(&generator->slots[i]);
    enum status status = first ? STATUS_OK : decode(generator, error);
    return status ? status : compute_prompts(generator, half_layers, error);
}

static enum status check_item(const struct generator *generator, const struct generation *item, int index,
                              struct error *error) {
    if (!item->sequence || item->sequence->model != generator->engine->model)
        return error_set(error, STATUS_INVALID, "text %d: its sequence belongs to another model", index);
    for (int i = 0; i < generator->slot_count; i++)
        if (generator->slots[i].item && generator->slots[i].item->sequence == item->sequence)
            return error_set(error, STATUS_INVALID, "text %d: its sequence is that of text %d", index, i);
    if (item->ids.count < 1)
        return error_set(error, STATUS_INVALID, "text %d: the prompt is empty, expected at least one token", index);
    if (item->ids.count > item->sequence->capacity)
        return error_set(error, STATUS_INVALID,
                         "text %d: the prompt has %lld tokens, expected at most %lld (the sequence's capacity)", index,
                         (long long)item->ids.count, (long long)item->sequence->capacity);
    for (int64_t t = 0; t < item->ids.count; t++)
        if (item->ids.ids[t] < 0 || item->ids.ids[t] >= generator->vocab)
            return error_set(error, STATUS_INVALID, "text %d: token %lld of the prompt has id %d, expected 0 to %lld",
                             index, (long long)t, item->ids.ids[t], (long long)generator->vocab - 1);
    if (item->options->stop_count > 0 && !generator->tokenizer)
        return error_set(error, STATUS_INVALID, "text %d: stop strings need a tokenizer", index);
    return generation_options_check(item->options, generator->vocab, error);
}

enum status generator_join(struct generator *generator, struct generation *item, int *slot, struct error *error) {
    int index = 0;
    while (index < generator->slot_count && generator->slots[index].item) index++;
    if (index == generator->slot_count)
        return error_set(error, STATUS_INVALID, "all %d slots have a text", index);
    struct slot *to = &generator->slots[index];
    enum status status = check_item(generator, item, index, error);
    if (!status) status = stop_begin(&to->stops, item->options->stops, item->options->stop_count, error);
    if (status) {
        stop_end(&to->stops);
        return status;
    }
    *to = (struct slot){ .generator = generator, .index = index, .item = item, .stops = to->stops,
                         .logits = generator->logits + (int64_t)index * (1 + generator->depths) * generator->vocab };
    free(item->text);
    free(item->logprobs);
    *item = (struct generation){ .sequence = item->sequence, .ids = item->ids, .options = item->options,
                                 .stream = item->stream, .prompt = item->ids.count };
    keep_prefix(item->sequence, &item->ids);
    *slot = index;
    return STATUS_OK;
}

enum status generator_leave(struct generator *generator, int slot, struct error *error) {
    struct slot *from = &generator->slots[slot];
    struct round *round = &generator->waiting;
    if (!from->item) return STATUS_OK;
    if (!from->in_pass) return finish_item(from, FINISH_INTERRUPTED, error);
    from->leaves = true;
    for (int f = 0; f < round->count; f++)
        if (!generator->slots[round->slots[f]].leaves) return STATUS_OK;
    engine_pass_cancel(generator->prompts);
    enum status status = STATUS_OK;
    for (int f = 0; f < round->count && !status; f++)
        status = finish_item(&generator->slots[round->slots[f]], FINISH_INTERRUPTED, error);
    round->count = 0;
    return status;
}

enum status generation_mask(struct sampler *sampler, const struct tokenizer *tokenizer, int64_t vocab,
                            struct error *error) {
    bool *defined = tokenizer ? calloc((size_t)vocab, sizeof *defined) : NULL;
    if (!defined && tokenizer)
        return error_set(error, STATUS_NO_MEMORY, "no memory for a mask of %lld ids", (long long)vocab);
    size_t size;
    for (int64_t id = 0; defined && id < vocab; id++)
        defined[id] = tokenizer_piece(tokenizer, (int32_t)id, &size, NULL) != NULL;
    enum status status = defined ? sampler_mask(sampler, defined, error) : STATUS_OK;
    free(defined);
    return status;
}

static bool round_make(struct round *round, size_t slots, struct arena *arena) {
    round->feeds = arena_alloc(arena, slots * sizeof *round->feeds);
    round->slots = arena_alloc(arena, slots * sizeof *round->slots);
    return round->feeds && round->slots;
}

enum status generator_create(struct generator **out, struct engine *engine, struct engine *prompts,
                             const struct tokenizer *tokenizer, struct sampler *sampler, int slots,
                             const struct generation_watch *watch, struct error *error) {
    const size_t count = (size_t)slots;
    struct generator *made = calloc(1, sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for %d texts", slots);
    *made = (struct generator){.engine = engine,
                               .prompts = prompts ? prompts : engine,
                               .tokenizer = tokenizer,
                               .sampler = sampler,
                               .vocab = engine->model->config.vocab_size,
                               .depths = engine->policy.mode == DRAFT_OFF ? 0 : engine->policy.depths,
                               .slot_count = slots};
    if (watch) made->watch = *watch;
    made->slots = arena_alloc(&made->arena, count * sizeof *made->slots);
    made->drafts = arena_alloc(&made->arena, count * sizeof *made->drafts);
    made->drafting = arena_alloc(&made->arena, count * sizeof *made->drafting);
    made->logits = malloc(count * (size_t)((1 + made->depths) * made->vocab) * sizeof *made->logits);
    const bool complete = round_make(&made->decoding, count, &made->arena) &&
                          round_make(&made->waiting, count, &made->arena) && made->slots && made->drafts &&
                          made->drafting && made->logits;
    enum status status = complete ? generation_mask(sampler, tokenizer, made->vocab, error)
                                  : error_set(error, STATUS_NO_MEMORY, "no memory for %d texts", slots);
    if (status) generator_destroy(made);
    else *out = made;
    return status;
}

void generator_destroy(struct generator *generator) {
    if (!generator) return;
    abandon(generator);
    for (int i = 0; generator->slots && i < generator->slot_count; i++) vacate(&generator->slots[i]);
    free(generator->logits);
    arena_free(&generator->arena);
    free(generator);
}

enum status generate(struct engine *engine, const struct tokenizer *tokenizer, struct sampler *sampler,
                     struct generation *items, int count, const struct generation_watch *watch, struct error *error) {
    struct generator *generator = NULL;
    enum status status = count > 0
                             ? generator_create(&generator, engine, NULL, tokenizer, sampler, count, watch, error)
                             : STATUS_OK;
    for (int i = 0, slot; i < count && !status; i++) status = generator_join(generator, &items[i], &slot, error);
    while (!status && generator && generator_texts(generator)) status = generator_step(generator, 0, error);
    generator_destroy(generator);
    return status;
}
