/* A conversation as its turns (conversation.h). */
#include "text/conversation.h"

#include <stdlib.h>
#include <string.h>

static bool has_roles(const struct conversation *c) { return chat_has_roles(&c->style); }
static bool has_markers(const struct conversation *c) { return chat_has_tools(&c->style); }

static void drop_last(struct conversation *c) {
    struct turn *turn = &c->turns[--c->turn_count];
    chat_text_free(&turn->message);
    chat_text_free(&turn->answer);
    token_list_free(&turn->answer_ids);
    chat_parser_free(&turn->parsed);
}

void conversation_clear(struct conversation *c) {
    while (c->turn_count) drop_last(c);
    c->skipped = c->first_turn = c->trimmed = c->ids.count = 0;
    c->forgotten = 0;
}

void conversation_free(struct conversation *c) {
    conversation_clear(c);
    free(c->turns);
    chat_text_free(&c->system);
    token_list_free(&c->ids);
}

struct turn *conversation_last(const struct conversation *c) {
    return c->turn_count ? &c->turns[c->turn_count - 1] : NULL;
}

uint64_t conversation_stream(const struct conversation *c) {
    return conversation_last(c)->attempt + (c->forgotten << 32);
}

/* ---- what the model sees ----------------------------------------------------------------------------------------- */

/* Appends what the model sees of a turn. Behind the last one an answer may begin or go on; the others' are ended.
 * `cut`: ids at the beginning of the answer that are left out. */
static enum status render_turn(struct conversation *c, int64_t index, int64_t cut, struct token_list *ids,
                               uint64_t *replaced, struct error *error) {
    struct turn *turn = &c->turns[index];
    const bool first = index == c->first_turn, last = index == c->turn_count - 1;
    const int system = first && c->system.text != NULL;
    const struct chat_message messages[] = {
        { .role = CHAT_SYSTEM, .text = c->system.text, .size = c->system.size },
        { .role = CHAT_USER, .text = turn->message.text, .size = turn->message.size },
        { .role = CHAT_ASSISTANT, .text = turn->answer.text, .size = turn->answer.size },
    };
    struct chat_style style = c->style;
    style.thinking = turn->thinking;
    turn->start = ids->count;
    enum status status = chat_encode(&style, messages + !system, 1 + system, first, true, ids, replaced, error);
    turn->answer_start = ids->count;
    if (status) return status;
    /* without its reasoning: what stands in front of an answer without any, then the model's own ids */
    if (!last && !turn->as_text && chat_has_reasoning(&style)) {
        const struct chat_message empty[] = { messages[0], messages[1], { .role = CHAT_ASSISTANT } };
        ids->count = turn->start;
        status = chat_encode(&style, empty + !system, 2 + system, first, true, ids, NULL, error);
        turn->answer_start = ids->count;
        cut = turn->parsed.kept;
    }
    /* message and answer are one text: what was encoded is only the place where the answer begins */
    if (turn->as_text && has_roles(c)) {
        ids->count = turn->start;
        return chat_encode(&style, messages + !system, 2 + system, first, last, ids, NULL, error);
    }
    if (turn->as_text) return chat_encode(&style, messages + 2, 1, false, true, ids, NULL, error);
    if (!status && turn->answer_ids.count > cut)
        status = token_list_append(ids, turn->answer_ids.ids + cut, turn->answer_ids.count - cut, error);
    if (!status && !last && style.end >= 0) status = token_list_push(ids, style.end, error);
    return status;
}

/* Tokens that begin all texts, and are never dropped from a plain one. */
static int64_t begins(const struct conversation *c, const struct token_list *ids) {
    return c->style.begin >= 0 && ids->count > 0 && ids->ids[0] == c->style.begin;
}

static enum status render(struct conversation *c, struct token_list *ids, struct error *error) {
    const int64_t last = c->turn_count - 1, first = c->first_turn;
    enum status status = STATUS_OK;
    ids->count = 0;
    for (int64_t i = 0; i < first; i++) c->turns[i].start = c->turns[i].answer_start = -1;
    for (int64_t i = first; i <= last && !status; i++)
        status = render_turn(c, i, i == last && i == first ? c->trimmed : 0, ids, NULL, error);
    const int64_t from = begins(c, ids), skipped = c->skipped;
    if (status || skipped == 0) return status;
    memmove(ids->ids + from, ids->ids + from + skipped, (size_t)(ids->count - from - skipped) * sizeof *ids->ids);
    ids->count -= skipped;
    for (int64_t i = 0; i <= last; i++) {
        struct turn *turn = &c->turns[i];
        turn->start = turn->start >= from + skipped ? turn->start - skipped : -1;
        turn->answer_start = turn->answer_start > from + skipped ? turn->answer_start - skipped : -1;
    }
    return STATUS_OK;
}

static void show(struct conversation *c, struct token_list *ids) {
    struct token_list old = c->ids;
    c->ids = *ids;
    *ids = old;
}

enum status conversation_look(struct conversation *c, struct error *error) {
    struct token_list ids = { 0 };
    enum status status = render(c, &ids, error);
    if (!status) show(c, &ids);
    token_list_free(&ids);
    return status;
}

/* ---- a full context ---------------------------------------------------------------------------------------------- */

/* Drops the oldest turns until half of the context is left, and then the oldest ids of the last answer. */
static enum status drop_turns(struct conversation *c, int64_t half, struct token_list *ids,
                              struct error *error) {
    enum status status = STATUS_OK;
    while (!status && ids->count > half && c->first_turn < c->turn_count - 1) {
        c->first_turn++;
        c->trimmed = 0;
        status = render(c, ids, error);
    }
    const struct turn *turn = conversation_last(c);
    if (status || ids->count <= half || !turn->answer_ids.count || turn->answer_start >= half) return status;
    c->trimmed += ids->count - half;
    return render(c, ids, error);
}

/* Drops the oldest ids, but for a token that begins texts, until `kept` of the rendered ones are left. */
static enum status drop_ids(struct conversation *c, int64_t kept, struct token_list *ids,
                            struct error *error) {
    if (kept <= begins(c, ids) || ids->count <= kept) return STATUS_OK;
    c->skipped += ids->count - kept;
    return render(c, ids, error);
}

enum status conversation_make_room(struct conversation *c, int64_t wanted, int64_t *dropped,
                                   struct error *error) {
    const int64_t half = c->context / 2;
    struct token_list ids = { 0 };
    enum status status = render(c, &ids, error);
    *dropped = ids.count;
    if (!status)
        status = has_roles(c) ? drop_turns(c, half, &ids, error)
                                         : drop_ids(c, wanted > half ? wanted : half, &ids, error);
    if (!status) {
        *dropped -= ids.count;
        c->forgotten += (uint64_t)*dropped;
        show(c, &ids);
    }
    token_list_free(&ids);
    return status;
}

/* ---- turns ------------------------------------------------------------------------------------------------------- */

/* What the model sees of the last turn `alone`: has the model a row for each id, and do they fit? */
static enum status check_turn(struct conversation *c, bool alone, uint64_t *replaced, struct error *error) {
    const int64_t first = c->first_turn, last = c->turn_count - 1;
    struct token_list ids = { 0 };
    /* as if it stood alone, behind the system text */
    if (alone && has_roles(c)) c->first_turn = last;
    enum status status = render_turn(c, last, 0, &ids, replaced, error);
    c->first_turn = first;
    for (int64_t t = 0; t < ids.count && !status; t++)
        if (ids.ids[t] >= c->vocab)
            status = error_set(error, STATUS_INVALID,
                               "the tokenizer has id %d, expected at most %lld (the model's vocabulary)", ids.ids[t],
                               (long long)c->vocab - 1);
    if (!status && alone && ids.count >= c->context)
        status = error_set(error, STATUS_INVALID, "the message has %lld tokens, expected less than %lld (the context)",
                           (long long)ids.count, (long long)c->context);
    token_list_free(&ids);
    return status;
}

/* A turn that `ids` do not show yet. */
static enum status push_turn(struct conversation *c, const char *message, size_t size, uint64_t *replaced,
                             struct error *error) {
    const size_t count = (size_t)c->turn_count + 1;
    struct turn *larger = realloc(c->turns, count * sizeof *larger);
    if (!larger) return error_set(error, STATUS_NO_MEMORY, "no memory for a message");
    c->turns = larger;
    larger[c->turn_count++] = (struct turn){.thinking = c->style.thinking};
    enum status status = chat_text_put(&larger[count - 1].message, message, size, error);
    if (!status) status = check_turn(c, true, replaced, error);
    if (status) drop_last(c);
    return status;
}

enum status conversation_add(struct conversation *c, const char *message, size_t size, uint64_t *replaced,
                             struct error *error) {
    enum status status = push_turn(c, message, size, replaced, error);
    if (!status && (status = conversation_look(c, error))) drop_last(c);
    return status;
}

enum status conversation_add_answered(struct conversation *c, const char *message, size_t size,
                                      const char *answer, size_t answer_size, struct error *error) {
    enum status status = push_turn(c, message, size, NULL, error);
    if (status) return status;
    struct turn *turn = conversation_last(c);
    turn->as_text = turn->finished = true;
    status = chat_text_put(&turn->answer, answer, answer_size, error);
    if (!status) status = check_turn(c, false, NULL, error);
    if (status) drop_last(c);
    return status;
}

enum status conversation_undo(struct conversation *c, struct error *error) {
    drop_last(c);
    c->trimmed = 0;
    /* there is room again for one that was dropped */
    if (c->first_turn == c->turn_count && c->turn_count > 0)
        c->first_turn--;
    return conversation_look(c, error);
}

enum status conversation_retry(struct conversation *c, struct error *error) {
    struct turn *turn = conversation_last(c);
    turn->answer.size = 0;
    turn->answer_ids.count = 0;
    turn->as_text = turn->finished = false;
    turn->thinking = c->style.thinking;
    chat_parser_free(&turn->parsed);
    turn->attempt++;
    c->trimmed = 0;
    return conversation_look(c, error);
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

enum status chat_answer_begin(struct chat_answer *answer, struct conversation *c, struct error *error) {
    struct turn *turn = conversation_last(c);
    *answer = (struct chat_answer){
        .conversation = c, .start = turn->answer_ids.count, .skipped = c->skipped};
    if (!has_markers(c)) return STATUS_OK;
    struct chat_style style = c->style;
    style.thinking = turn->thinking;
    chat_parser_begin(&answer->parser, &style);
    answer->parser.style = &c->style;
    enum status status = chat_parser_take(&answer->parser, turn->answer_ids.ids, answer->start, SIZE_MAX, false, error);
    answer->before = answer->parser.visible;
    if (status) chat_parser_free(&answer->parser);
    return status;
}

enum status chat_answer_take_text(struct chat_answer *answer, const char *text, size_t size, size_t *skip,
                                  struct error *error) {
    struct conversation *c = answer->conversation;
    const struct turn *turn = conversation_last(c);
    *skip = !answer->released && !turn->answer.size ? chat_answer_skip(&c->style, text, size) : 0;
    answer->released += size;
    if (!has_markers(c)) return STATUS_OK;
    return chat_parser_take(&answer->parser, turn->answer_ids.ids, turn->answer_ids.count,
                            answer->before + answer->released, false, error);
}

enum status chat_answer_take_id(struct chat_answer *answer, int32_t id, struct error *error) {
    return token_list_push(&conversation_last(answer->conversation)->answer_ids, id, error);
}

/* What is kept of an answer: in formats with markers what the parser makes of its ids, of which a stop string leaves
 * the bytes before it. */
static enum status keep_answer(struct chat_answer *answer, const char *text, size_t size, int64_t tokens, bool stopped,
                               struct error *error) {
    struct conversation *c = answer->conversation;
    struct turn *turn = conversation_last(c);
    struct chat_parser *parser = &answer->parser;
    if (!has_markers(c)) {
        const size_t skip = turn->answer.size ? 0 : chat_answer_skip(&c->style, text, size);
        return chat_text_put(&turn->answer, text + skip, size - skip, error);
    }
    enum status status = chat_parser_take(parser, turn->answer_ids.ids, answer->start + tokens,
                                          stopped ? answer->before + size : SIZE_MAX, true, error);
    if (status) return status;
    turn->answer.size = 0;
    status = chat_text_put(&turn->answer, parser->content.text, parser->content.size, error);
    chat_parser_free(&turn->parsed);
    turn->parsed = *parser;
    *parser = (struct chat_parser){ 0 };
    return status;
}

enum status chat_answer_end(struct chat_answer *answer, const char *text, size_t size, int64_t tokens, bool stopped,
                            bool finished, struct error *error) {
    struct conversation *c = answer->conversation;
    struct turn *turn = conversation_last(c);
    enum status status = text ? keep_answer(answer, text, size, tokens, stopped, error) : STATUS_OK;
    const bool kept = text && !status;
    struct error second;
    int64_t dropped;
    turn->finished = kept && finished;
    turn->answer_ids.count = answer->start + (kept ? tokens : 0);
    if (c->trimmed > turn->answer_ids.count) c->trimmed = turn->answer_ids.count;
    chat_parser_free(&answer->parser);
    const bool full = c->skipped > answer->skipped;
    c->skipped = answer->skipped;   /* more may have been dropped than what is left has */
    enum status seen = full ? conversation_make_room(c, 0, &dropped, &second) : conversation_look(c, &second);
    return status ? status : seen ? error_set(error, seen, "%s", second.message) : STATUS_OK;
}
