/* deepseek chat: a conversation whose whole history stays in the model's cache. What was computed is never computed
 * again: an undone or retried answer only shortens the sequence.
 *
 * The conversation is its turns. What the model sees of them is made anew after every change (render), and the sequence
 * keeps the beginning that is still the same (look). An answer stays the ids that the model chose, since its text might
 * be encoded otherwise.
 *
 * A format (text/chat.h) says what stands around a message. Base models have the plain one, which puts nothing there:
 * what is typed is continued. When the context is full, a plain text loses its oldest ids, wherever they stand; a
 * conversation with roles loses whole turns, and keeps its system text. */
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/chat_format.h"
#include "cli/chat_input.h"
#include "cli/chat_show.h"
#include "cli/cli.h"
#include "cli/sampling.h"
#include "cli/machine.h"
#include "cli/progress.h"
#include "io/json.h"

#define DEFAULT_TOKENS 256

struct request {
    const char *folder, *history;
    int64_t count, context;
    struct cli_sampling sampling;
    struct cli_chat chat_options;
    bool quiet;
};

struct turn {
    char *message, *answer;
    size_t message_size, answer_size;
    struct token_list answer_ids;  /* what the model chose */
    struct chat_parser parsed;     /* of formats with markers: the answer, taken apart; `answer` is its text */
    bool thinking;                 /* the prompt asked for reasoning */
    bool as_text;                  /* the answer came from a file, without ids */
    bool finished;                 /* the answer met its end: nothing goes on */
    int64_t start, answer_start;   /* where the message and its answer begin in ids; -1: that has left the context */
    uint64_t attempt;              /* answers before this one: the stream of its random numbers */
};

struct chat {
    const struct request *request;
    struct chat_style style;
    char *system;                  /* the system text in malloc'ed memory; NULL: none */
    size_t system_size;
    struct model *model;
    struct tokenizer *tokenizer;
    struct engine *engine;
    struct sampler *sampler;
    struct sequence *sequence;
    struct generation_defaults defaults;
    struct generation_options options;
    int64_t count;                 /* tokens of an answer at most */
    struct token_list ids;         /* what the model sees; the sequence holds the first of them */
    struct turn *turns;
    int64_t turn_count;
    int64_t skipped;               /* plain: so many of the oldest ids are dropped, but for a token that begins texts */
    int64_t first_turn;            /* with roles: the turns before this one are dropped, */
    int64_t trimmed;               /* and, where it is the last one, so many ids of its answer */
    uint64_t forgotten;            /* ids that were dropped: positions come again then, and get other random numbers */
    struct cli_progress progress;
    double done;
    bool answering, line_open, leave, failed;
};

/* ---- messages to the person -------------------------------------------------------------------------------------- */

/* A remark, above the next prompt. Nothing of this goes to standard output, which carries the answers. */
static void say(const struct chat *chat, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(const struct chat *chat, const char *format, ...) {
    char text[1200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (!chat->request->quiet) cli_note("%s", text);
}

static void complain(struct chat *chat, const struct error *error) {
    cli_fail(error);
    chat->failed = true;
}

static void close_line(struct chat *chat) {
    if (chat->line_open) putchar('\n');
    chat->line_open = false;
    if (!cli_output_flush()) chat->leave = true;
}

/* ---- the history ------------------------------------------------------------------------------------------------- */

static bool has_roles(const struct chat *chat) { return chat_has_roles(&chat->style); }
static bool has_markers(const struct chat *chat) { return chat_has_tools(&chat->style); }

static void turn_free(struct turn *turn) {
    free(turn->message);
    free(turn->answer);
    token_list_free(&turn->answer_ids);
    chat_parser_free(&turn->parsed);
}

static struct turn *last_turn(struct chat *chat) {
    return chat->turn_count ? &chat->turns[chat->turn_count - 1] : NULL;
}

/* Appends what the model sees of a turn. Behind the last one an answer may begin or go on; the others' are ended.
 * `cut`: ids at the beginning of the answer that are left out. */
static enum status render_turn(struct chat *chat, int64_t index, int64_t cut, struct token_list *ids,
                               uint64_t *replaced, struct error *error) {
    struct turn *turn = &chat->turns[index];
    const bool first = index == chat->first_turn, last = index == chat->turn_count - 1;
    const int system = first && chat->system != NULL;
    const struct chat_message messages[] = {
        { .role = CHAT_SYSTEM, .text = chat->system, .size = chat->system_size },
        { .role = CHAT_USER, .text = turn->message, .size = turn->message_size },
        { .role = CHAT_ASSISTANT, .text = turn->answer, .size = turn->answer_size },
    };
    struct chat_style style = chat->style;
    style.thinking = turn->thinking;
    turn->start = ids->count;
    enum status status = chat_encode(&style, messages + !system, 1 + system, first, true, ids, replaced, error);
    turn->answer_start = ids->count;
    if (status) return status;
    /* without its reasoning: what stands in front of an answer without any, then the model's own ids */
    if (!last && !turn->as_text && chat_has_reasoning(&chat->style)) {
        const struct chat_message empty[] = { messages[0], messages[1], { .role = CHAT_ASSISTANT } };
        ids->count = turn->start;
        status = chat_encode(&style, empty + !system, 2 + system, first, true, ids, NULL, error);
        turn->answer_start = ids->count;
        cut = turn->parsed.kept;
    }
    /* message and answer are one text: what was encoded is only the place where the answer begins */
    if (turn->as_text && has_roles(chat)) {
        ids->count = turn->start;
        return chat_encode(&style, messages + !system, 2 + system, first, last, ids, NULL, error);
    }
    if (turn->as_text) return chat_encode(&chat->style, messages + 2, 1, false, true, ids, NULL, error);
    if (!status && turn->answer_ids.count > cut)
        status = token_list_append(ids, turn->answer_ids.ids + cut, turn->answer_ids.count - cut, error);
    if (!status && !last && chat->style.end >= 0) status = token_list_push(ids, chat->style.end, error);
    return status;
}

/* Tokens that begin all texts, and are never dropped from a plain one. */
static int64_t beginning(const struct chat *chat, const struct token_list *ids) {
    return chat->style.begin >= 0 && ids->count > 0 && ids->ids[0] == chat->style.begin;
}

/* What the model sees of the whole conversation. */
static enum status render(struct chat *chat, struct token_list *ids, struct error *error) {
    enum status status = STATUS_OK;
    ids->count = 0;
    for (int64_t i = 0; i < chat->first_turn; i++) chat->turns[i].start = chat->turns[i].answer_start = -1;
    for (int64_t i = chat->first_turn; i < chat->turn_count && !status; i++)
        status = render_turn(chat, i, i == chat->turn_count - 1 && i == chat->first_turn ? chat->trimmed : 0, ids, NULL,
                             error);
    int64_t from = beginning(chat, ids), skipped = chat->skipped;
    if (status || skipped == 0) return status;
    memmove(ids->ids + from, ids->ids + from + skipped, (size_t)(ids->count - from - skipped) * sizeof *ids->ids);
    ids->count -= skipped;
    for (int64_t i = 0; i < chat->turn_count; i++) {
        struct turn *turn = &chat->turns[i];
        turn->start = turn->start >= from + skipped ? turn->start - skipped : -1;
        turn->answer_start = turn->answer_start > from + skipped ? turn->answer_start - skipped : -1;
    }
    return STATUS_OK;
}

/* `ids` takes the place of what the model has seen; the state of the beginning that both share is kept. */
static void show_model(struct chat *chat, struct token_list *ids) {
    int64_t same = 0, most = chat->sequence->length < ids->count ? chat->sequence->length : ids->count;
    while (same < most && ids->ids[same] == chat->ids.ids[same]) same++;
    sequence_rewind(chat->sequence, same);
    token_list_free(&chat->ids);
    chat->ids = *ids;
    *ids = (struct token_list){ 0 };
}

/* After a change of the turns. Where the memory for it fails, nothing has changed that the model sees. */
static enum status look(struct chat *chat, struct error *error) {
    struct token_list ids = { 0 };
    enum status status = render(chat, &ids, error);
    if (!status) show_model(chat, &ids);
    token_list_free(&ids);
    return status;
}

static void forget_turns(struct chat *chat) {
    for (int64_t i = 0; i < chat->turn_count; i++) turn_free(&chat->turns[i]);
    chat->turn_count = chat->skipped = chat->first_turn = chat->trimmed = 0;
    chat->forgotten = 0;
}

static void tell_full(struct chat *chat, int64_t dropped) {
    if (chat->line_open) say(chat, "%s", "");
    say(chat, "The context of %lld tokens is full: its oldest %lld tokens are forgotten.",
        (long long)chat->sequence->capacity, (long long)dropped);
}

/* at least 2, so more than what begins texts: see --context */
static int64_t half_context(const struct chat *chat) { return chat->sequence->capacity / 2; }

/* Drops the oldest ids of a plain text, but for a token that begins texts, until `kept`
 * of the rendered ones are left. */
static enum status drop_ids(struct chat *chat, struct token_list *ids, int64_t kept, struct error *error) {
    int64_t dropped = ids->count - kept;
    if (kept <= beginning(chat, ids) || dropped <= 0) return STATUS_OK;
    chat->skipped += dropped;
    return render(chat, ids, error);
}

/* Drops the oldest turns of a conversation with roles until half of the context is left. Of the last one, which stays,
 * the answer loses its oldest ids where its message leaves room for that. */
static enum status drop_turns(struct chat *chat, struct token_list *ids, struct error *error) {
    enum status status = STATUS_OK;
    while (!status && ids->count > half_context(chat) && chat->first_turn < chat->turn_count - 1) {
        chat->first_turn++;
        chat->trimmed = 0;
        status = render(chat, ids, error);
    }
    const struct turn *turn = last_turn(chat);
    if (status || ids->count <= half_context(chat) || !turn->answer_ids.count ||
        turn->answer_start >= half_context(chat))
        return status;
    chat->trimmed += ids->count - half_context(chat);
    return render(chat, ids, error);
}

/* The context is full. In a plain text half of it goes on, or what is `wanted` where that is more. */
static enum status make_room(struct chat *chat, int64_t wanted, struct error *error) {
    struct token_list ids = { 0 };
    int64_t before = chat->ids.count;
    enum status status = render(chat, &ids, error);
    if (!status)
        status = has_roles(chat)
                     ? drop_turns(chat, &ids, error)
                     : drop_ids(chat, &ids, wanted > half_context(chat) ? wanted : half_context(chat), error);
    if (!status && ids.count < before) {
        tell_full(chat, before - ids.count);
        chat->forgotten += (uint64_t)(before - ids.count);
    }
    if (!status) show_model(chat, &ids);
    token_list_free(&ids);
    return status;
}

/* Has the model a row for each of the ids from `first` on? */
static enum status check_ids(const struct chat *chat, const struct token_list *ids, int64_t first,
                             struct error *error) {
    int64_t vocab = chat->model->config.vocab_size;
    for (int64_t t = first; t < ids->count; t++)
        if (ids->ids[t] >= vocab)
            return error_set(error, STATUS_INVALID,
                             "the tokenizer has id %d, expected at most %lld (the model's vocabulary)", ids->ids[t],
                             (long long)vocab - 1);
    return STATUS_OK;
}

/* Is the last turn's message one that the model can be shown, and does it fit into the context beside what is never
 * dropped? */
static enum status check_message(struct chat *chat, uint64_t *replaced, struct error *error) {
    struct token_list ids = { 0 };
    int64_t first = chat->first_turn, capacity = chat->sequence->capacity;
    if (has_roles(chat)) chat->first_turn = chat->turn_count - 1;   /* as if it stood alone, behind the system text */
    enum status status = render_turn(chat, chat->turn_count - 1, 0, &ids, replaced, error);
    chat->first_turn = first;
    if (!status) status = check_ids(chat, &ids, 0, error);
    if (!status && ids.count >= capacity)
        status = error_set(error, STATUS_INVALID, "the message has %lld tokens, expected less than %lld (the context)",
                           (long long)ids.count, (long long)capacity);
    token_list_free(&ids);
    return status;
}

static enum status keep_system(struct chat *chat, const char *text, size_t size, struct error *error) {
    if (!(chat->system = malloc(size + 1))) return error_set(error, STATUS_NO_MEMORY, "no memory for a system text");
    memcpy(chat->system, size ? text : "", size);
    chat->system_size = size;
    return STATUS_OK;
}

/* Adds a turn that the model has not seen yet. Nothing has changed on failure. */
static enum status push_turn(struct chat *chat, const char *message, size_t size, uint64_t *replaced,
                             struct error *error) {
    struct turn turn = { .message = malloc(size + 1), .message_size = size, .thinking = chat->style.thinking };
    struct turn *larger = realloc(chat->turns, (size_t)(chat->turn_count + 1) * sizeof *larger);
    if (larger) chat->turns = larger;
    if (!larger || !turn.message) {
        free(turn.message);
        return error_set(error, STATUS_NO_MEMORY, "no memory for a message");
    }
    memcpy(turn.message, size ? message : "", size);
    chat->turns[chat->turn_count++] = turn;
    enum status status = check_message(chat, replaced, error);
    if (status) turn_free(&chat->turns[--chat->turn_count]);
    return status;
}

static enum status add_turn(struct chat *chat, const char *message, size_t size, struct error *error) {
    uint64_t replaced = 0;
    enum status status = push_turn(chat, message, size, &replaced, error);
    if (status) return status;
    if ((status = look(chat, error))) {
        turn_free(&chat->turns[--chat->turn_count]);
        return status;
    }
    if (replaced)
        say(chat, "The message holds %llu ill-formed UTF-8 sequence%s, read as U+FFFD.", (unsigned long long)replaced,
            replaced == 1 ? "" : "s");
    return STATUS_OK;
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

/* An answer that is being made. */
struct making {
    struct chat *chat;
    struct turn *turn;
    const struct generation *item;
    int64_t shifts;                /* that were told */
    struct chat_parser parser;     /* of formats with markers */
    struct chat_show show;
    size_t released;               /* bytes that the parser may have seen */
    struct error error;
    enum status status;
};

static bool after_pass(void *context, int64_t rows) {
    struct chat *chat = ((struct making *)context)->chat;
    if (!chat->answering) cli_progress_update(&chat->progress, chat->done += (double)rows);
    return !cli_interrupted();
}

static bool after_token(void *context, int index, int32_t id) {
    struct making *making = context;
    struct chat *chat = making->chat;
    (void)index;
    for (; !has_roles(chat) && making->shifts < making->item->shifts; making->shifts++)
        tell_full(chat, chat->sequence->capacity + 1 - half_context(chat));
    if (!chat->answering) cli_progress_end(&chat->progress);
    chat->answering = true;
    making->status = token_list_push(&making->turn->answer_ids, id, &making->error);
    return !making->status;
}

static bool after_text(void *context, int index, const char *text, size_t size) {
    struct making *making = context;
    struct chat *chat = making->chat;
    (void)index;
    if (has_markers(chat)) {
        making->released += size;
        making->status = chat_parser_take(&making->parser, making->turn->answer_ids.ids, making->turn->answer_ids.count,
                                          making->released, false, &making->error);
        chat_show_text(&making->show, &making->parser);
        chat->line_open = making->show.line_open;
        return cli_output_flush() && !making->status;
    }
    size_t skip = making->turn->answer_size == 0 && text == making->item->text
                      ? chat_answer_skip(&chat->style, text, size)
                      : 0;
    if (size > skip) {
        fwrite(text + skip, 1, size - skip, stdout);
        chat->line_open = text[size - 1] != '\n';
    }
    return cli_output_flush();
}

/* With roles whole turns go, and then the beginning of the answer; where the message alone leaves no room, the answer
 * ends. */
static bool after_full(void *context, int index, struct token_list *view) {
    struct making *making = context;
    struct chat *chat = making->chat;
    (void)index;
    making->status = render(chat, view, &making->error);
    int64_t before = view->count;
    if (!making->status) making->status = drop_turns(chat, view, &making->error);
    if (making->status) return false;
    if (view->count < chat->sequence->capacity) {
        tell_full(chat, before - view->count);
        chat->forgotten += (uint64_t)(before - view->count);
        return true;
    }
    if (chat->line_open) say(chat, "%s", "");
    say(chat, "The context of %lld tokens is full, and the message takes more than half of it: the answer ends here.",
        (long long)chat->sequence->capacity);
    return false;
}

static enum status keep_answer(struct turn *turn, const char *text, size_t size, struct error *error) {
    char *larger = realloc(turn->answer, turn->answer_size + size + 1);
    if (!larger) return error_set(error, STATUS_NO_MEMORY, "no memory for an answer");
    turn->answer = larger;
    memcpy(larger + turn->answer_size, text ? text : "", size);
    turn->answer_size += size;
    return STATUS_OK;
}

/* The answer up to now is what a new parser holds, and is not shown again. */
static enum status begin_parser(struct making *making, struct error *error) {
    struct chat_style style = making->chat->style;
    style.thinking = making->turn->thinking;
    chat_parser_begin(&making->parser, &style);
    making->parser.style = &making->chat->style;
    enum status status = chat_parser_take(&making->parser, making->turn->answer_ids.ids, making->turn->answer_ids.count,
                                          SIZE_MAX, false, error);
    chat_show_begin(&making->show, &making->parser);
    making->released = making->parser.visible;
    return status;
}

/* All of the answer, of which a stop string leaves the bytes before it. */
static enum status end_parser(struct making *making, int64_t count, size_t before, struct error *error) {
    struct chat_parser *parser = &making->parser;
    struct turn *turn = making->turn;
    const size_t limit = making->item->finish == FINISH_STOP ? before + making->item->text_size : SIZE_MAX;
    enum status status = chat_parser_take(parser, turn->answer_ids.ids, count, limit, true, error);
    if (status) return status;
    chat_show_end(&making->show, parser);
    making->chat->line_open = making->show.line_open;
    turn->answer_size = 0;
    status = keep_answer(turn, parser->content.text, parser->content.size, error);
    chat_parser_free(&turn->parsed);
    turn->parsed = *parser;
    *parser = (struct chat_parser){ 0 };
    return status;
}

static enum status make_answer(struct chat *chat, struct turn *turn, struct error *error) {
    struct making making = { .chat = chat, .turn = turn };
    const struct generation_watch watch = {.context = &making,
                                           .pass = after_pass,
                                           .token = after_token,
                                           .text = after_text,
                                           .full = has_roles(chat) ? after_full : NULL};
    const int64_t start = turn->answer_ids.count;
    chat->options.max_tokens = chat->count;
    chat->options.keep = beginning(chat, &chat->ids);
    if (has_markers(chat)) {
        enum status status = begin_parser(&making, error);
        if (status) {
            chat_parser_free(&making.parser);
            return status;
        }
    }
    const size_t shown = making.released;
    struct generation item = {.sequence = chat->sequence,
                              .ids = chat->ids,
                              .options = &chat->options,
                              .stream = turn->attempt + (chat->forgotten << 32)};
    making.item = &item;
    chat->answering = false;
    chat->done = 0;
    cli_progress_begin(&chat->progress, "prompt", "tokens", (double)(chat->ids.count - chat->sequence->length),
                       chat->request->quiet);
    enum status status = generate(chat->engine, chat->tokenizer, chat->sampler, &item, 1, &watch, error);
    cli_progress_end(&chat->progress);
    chat->ids = item.ids;   /* what the sequence holds the first of */
    item.ids = (struct token_list){ 0 };
    if (!status && making.status) status = error_set(error, making.status, "%s", making.error.message);
    if (!status && has_markers(chat)) {
        status = end_parser(&making, start + item.text_tokens, shown, error);
    } else if (!status) {
        size_t skip = turn->answer_size ? 0 : chat_answer_skip(&chat->style, item.text, item.text_size);
        status = keep_answer(turn, item.text + skip, item.text_size - skip, error);
    }
    turn->finished = !status && (item.finish == FINISH_EOS || item.finish == FINISH_STOP);
    turn->answer_ids.count = start + (status ? 0 : item.text_tokens);   /* what ended the answer is no part of it */
    if (chat->trimmed > turn->answer_ids.count) chat->trimmed = turn->answer_ids.count;
    generation_release(&item);
    chat_parser_free(&making.parser);
    struct error second;
    struct token_list ids = { 0 };
    enum status seen = render(chat, &ids, &second);
    if (!seen && item.shifts && !has_roles(chat)) {
        int64_t before = ids.count;
        seen = drop_ids(chat, &ids, half_context(chat), &second);
        if (!seen) chat->forgotten += (uint64_t)(before - ids.count);
    }
    if (!seen) show_model(chat, &ids);
    token_list_free(&ids);
    return status ? status : seen ? error_set(error, seen, "%s", second.message) : STATUS_OK;
}

static void answer(struct chat *chat) {
    struct error error;
    struct turn *turn = last_turn(chat);
    enum status status = STATUS_OK;
    /* At first the whole message stays, later half of the context. */
    if (chat->ids.count >= chat->sequence->capacity)
        status = make_room(chat, turn->start >= 0 ? chat->ids.count - turn->start : 0, &error);
    if (!status && chat->ids.count > chat->sequence->capacity)
        status = error_set(&error, STATUS_INVALID, "the context is full: /reset, or /undo");
    if (!status) status = make_answer(chat, turn, &error);
    close_line(chat);
    int signal_number = cli_interrupt_signal();
    if (signal_number == SIGINT && chat_input_is_terminal()) {
        cli_forget_interrupt();
        say(chat, "(interrupted; /retry answers again, an empty line goes on)");
    } else if (signal_number) {
        chat->leave = true;
    }
    if (status) complain(chat, &error);
}

static void take_message(struct chat *chat, const char *message, size_t size) {
    struct error error;
    struct turn *turn = last_turn(chat);
    if (has_roles(chat) && size == 0) {   /* no message: an answer goes on */
        if (!turn || turn->finished)
            say(chat, turn ? "The answer is finished: there is nothing that an empty line could go on with."
                           : "There is no answer yet that an empty line could go on with.");
        else answer(chat);
        return;
    }
    if (add_turn(chat, message, size, &error)) complain(chat, &error);
    else answer(chat);
}

/* ---- commands ---------------------------------------------------------------------------------------------------- */

/* The last turn, if it can be taken back. */
static struct turn *turn_to_change(struct chat *chat, bool message_too) {
    struct turn *turn = last_turn(chat);
    struct error error;
    if (turn && (message_too ? turn->start : turn->answer_start) >= 0) return turn;
    error_set(&error, STATUS_INVALID,
              turn ? "the beginning of the last message has left the context; go on, or /reset"
                   : "there is no message yet");
    complain(chat, &error);
    return NULL;
}

/* Shows the model what is left of the conversation. */
static bool changed(struct chat *chat) {
    struct error error;
    if (look(chat, &error) == STATUS_OK) return true;
    complain(chat, &error);
    return false;
}

static bool take_back(struct chat *chat) {
    turn_free(last_turn(chat));
    chat->turn_count--;
    chat->trimmed = 0;
    /* there is room again for one that was dropped */
    if (chat->first_turn == chat->turn_count && chat->turn_count > 0) chat->first_turn--;
    return changed(chat);
}

static void command_undo(struct chat *chat, const char *rest) {
    (void)rest;
    if (!turn_to_change(chat, true) || !take_back(chat)) return;
    say(chat, "The last message and its answer are gone; %lld token%s.", (long long)chat->ids.count,
        chat->ids.count == 1 ? " remains" : "s remain");
}

static void command_retry(struct chat *chat, const char *rest) {
    struct turn *turn = turn_to_change(chat, false);
    (void)rest;
    if (!turn) return;
    turn->answer_size = 0;
    turn->answer_ids.count = 0;
    turn->as_text = turn->finished = false;
    turn->thinking = chat->style.thinking;
    chat_parser_free(&turn->parsed);
    turn->attempt++;
    chat->trimmed = 0;
    if (changed(chat)) answer(chat);
}

static void command_edit(struct chat *chat, const char *rest) {
    struct turn *turn = turn_to_change(chat, true);
    if (!turn) return;
    char *message = NULL;
    size_t size = 0;
    bool block;
    struct error error;
    enum status status = STATUS_OK;
    if (*rest) {
        message = strdup(rest);
        size = strlen(rest);
        if (!message) status = error_set(&error, STATUS_NO_MEMORY, "no memory for a message");
    } else {
        status = chat_input_read(&message, &size, &block, turn->message, turn->message_size, &error);
        if (status == STATUS_INTERRUPTED) {   /* the end: nothing changes */
            chat->leave = true;
            return;
        }
    }
    if (status) {
        complain(chat, &error);
        return;
    }
    if (take_back(chat)) take_message(chat, message, size);
    free(message);
}

static void command_reset(struct chat *chat, const char *rest) {
    (void)rest;
    forget_turns(chat);
    if (changed(chat)) say(chat, "The conversation begins anew.");
}

static void command_set(struct chat *chat, const char *rest) {
    struct error error;
    const char *equals = strchr(rest, '=');
    char name[40];
    if (!*rest) {
        fprintf(stderr, "tokens=%lld\n", (long long)chat->count);
        cli_sampling_show(&chat->options.sampling, stderr);
        return;
    }
    enum status status = STATUS_OK;
    if (!equals || (size_t)(equals - rest) >= sizeof name) {
        status = error_set(&error, STATUS_INVALID, "/set: found `%s`, expected NAME=VALUE", rest);
    } else {
        snprintf(name, sizeof name, "%.*s", (int)(equals - rest), rest);
        if (strcmp(name, "tokens") == 0)
            status = cli_parse_integer("tokens", equals + 1, 1, 1 << 30, &chat->count, &error) ? STATUS_OK
                                                                                               : STATUS_INVALID;
        else status = cli_sampling_set(&chat->options.sampling, name, equals + 1, &error);
        if (status == STATUS_NOT_FOUND)
            status = error_set(&error, STATUS_INVALID,
                               "/set: found `%s`, expected tokens, temperature, top_k, top_p, min_p, "
                               "repetition_penalty, presence_penalty, frequency_penalty or seed",
                               name);
    }
    if (status) complain(chat, &error);
}

static void command_think(struct chat *chat, const char *rest) {
    struct error error;
    const bool on = strcmp(rest, "on") == 0;
    if (!chat_has_switch(&chat->style))
        error_set(&error, STATUS_INVALID, "/think: chat format %s %s", chat_format_name(chat->style.format),
                  chat_has_reasoning(&chat->style) ? "always reasons" : "does not reason");
    else if (!on && strcmp(rest, "off") != 0)
        error_set(&error, STATUS_INVALID, "/think: found `%s`, expected on or off", rest);
    else {
        chat->style.thinking = on;
        say(chat, "The model %s before it answers.", on ? "reasons" : "does not reason");
        return;
    }
    complain(chat, &error);
}

static void put_text(struct chat *chat, const char *text, size_t size) {
    if (!size) return;
    char *sound = utf8_repair(text, size, &size, NULL);
    if (sound) fwrite(sound, 1, size, stdout);
    if (sound) chat->line_open = sound[size - 1] != '\n';
    free(sound);
}

/* A text, with roles under its role's name. */
static void put_part(struct chat *chat, const char *name, const char *text, size_t size) {
    if (has_roles(chat)) put_text(chat, name, strlen(name));
    put_text(chat, text, size);
    if (!has_roles(chat)) return;
    chat->line_open = true;
    close_line(chat);
}

static void command_show(struct chat *chat, const char *rest) {
    (void)rest;
    if (chat->system) put_part(chat, "System: ", chat->system, chat->system_size);
    for (int64_t i = 0; i < chat->turn_count; i++) {
        const struct chat_parser *parsed = &chat->turns[i].parsed;
        put_part(chat, "User: ", chat->turns[i].message, chat->turns[i].message_size);
        if (parsed->reasoning.size) put_part(chat, "Thinking: ", parsed->reasoning.text, parsed->reasoning.size);
        put_part(chat, "Assistant: ", chat->turns[i].answer, chat->turns[i].answer_size);
        for (int64_t k = 0; k < parsed->call_count; k++) chat_show_call(&parsed->calls[k]);
    }
    close_line(chat);
    say(chat, "%lld message%s, %lld of %lld tokens", (long long)chat->turn_count, chat->turn_count == 1 ? "" : "s",
        (long long)chat->ids.count, (long long)chat->sequence->capacity);
}

/* ---- saving and loading: {"system": TEXT, "turns": [{"message": TEXT, "answer": TEXT}, ...]}, without system text
 * only the turns --- */

static json_t *json_text(const char *text, size_t size) {
    size_t length = 0;
    char *sound = utf8_repair(size ? text : "", size, &length, NULL);
    json_t *value = sound ? json_stringn(sound, length) : NULL;
    free(sound);
    return value;
}

static void command_save(struct chat *chat, const char *rest) {
    struct error error;
    json_t *turns = json_array(),
           *root = json_pack("{s:o*,s:o}", "system", chat->system ? json_text(chat->system, chat->system_size) : NULL,
                             "turns", turns);
    enum status status = *rest ? STATUS_OK
                               : error_set(&error, STATUS_INVALID, "/save: found no name, expected a file to write");
    for (int64_t i = 0; i < chat->turn_count; i++) {
        const struct turn *turn = &chat->turns[i];
        if (turn->parsed.call_count)
            say(chat, "Message %lld: the answer's calls of tools are not saved.", (long long)i + 1);
        json_array_append_new(turns, json_pack("{s:o,s:o}", "message", json_text(turn->message, turn->message_size),
                                               "answer", json_text(turn->answer, turn->answer_size)));
    }
    if (!status)
        status = root && json_array_size(turns) == (size_t)chat->turn_count
                     ? json_save_path(root, rest, &error)
                     : error_set(&error, STATUS_NO_MEMORY, "%s: no memory", rest);
    json_decref(root);
    if (status) complain(chat, &error);
    else say(chat, "%s: %lld message%s saved", rest, (long long)chat->turn_count, chat->turn_count == 1 ? "" : "s");
}

static enum status load_turn(struct chat *chat, const json_t *message, const json_t *text, struct error *error) {
    enum status status = push_turn(chat, json_string_value(message), json_string_length(message), NULL, error);
    if (status) return status;
    struct turn *turn = last_turn(chat);
    struct token_list ids = { 0 };
    turn->as_text = turn->finished = true;
    status = keep_answer(turn, json_string_value(text), json_string_length(text), error);
    if (!status) status = render_turn(chat, chat->turn_count - 1, 0, &ids, NULL, error);
    if (!status) status = check_ids(chat, &ids, 0, error);
    token_list_free(&ids);
    return status;
}

/* Adds what a file holds to an empty conversation. */
static enum status load_turns(struct chat *chat, const json_t *root, const char *path, struct error *error) {
    const json_t *turns = json_object_get(root, "turns"), *system = json_object_get(root, "system");
    if (!json_is_array(turns))
        return error_set(error, STATUS_INVALID,
                         "%s: turns: found no array, expected one of objects with message and answer", path);
    if (system && !json_is_string(system))
        return error_set(error, STATUS_INVALID, "%s: system: found no string, expected a text", path);
    if (system && !has_roles(chat))
        return error_set(error, STATUS_INVALID, "%s: system: found a text, and chat format %s has no place for one",
                         path, chat_format_name(chat->style.format));
    enum status status = system ? keep_system(chat, json_string_value(system), json_string_length(system), error)
                                : STATUS_OK;
    for (size_t i = 0; i < json_array_size(turns) && !status; i++) {
        const json_t *message = json_object_get(json_array_get(turns, i), "message"),
                     *text = json_object_get(json_array_get(turns, i), "answer");
        if (!json_is_string(message) || !json_is_string(text))
            return error_set(error, STATUS_INVALID, "%s: turns[%zu]: found no two strings, expected message and answer",
                             path, i);
        if ((status = load_turn(chat, message, text, error))) error_prefix(error, "%s: turns[%zu]", path, i);
    }
    return status;
}

static void command_load(struct chat *chat, const char *rest) {
    struct error error;
    json_t *root = NULL;
    struct chat kept = *chat;
    struct stat about;
    enum status status = STATUS_OK;
    if (!*rest) status = error_set(&error, STATUS_INVALID, "/load: found no name, expected a file that /save wrote");
    else if (stat(rest, &about) == 0 && S_ISFIFO(about.st_mode))
        status = error_set(&error, STATUS_INVALID, "%s: is a pipe, expected a file that /save wrote",
                           rest); /* it would wait for a writer */
    else status = json_load_texts(&root, rest, &error);
    chat->turns = NULL;
    chat->system = NULL;
    chat->turn_count = chat->skipped = chat->first_turn = chat->trimmed = 0;
    chat->forgotten = 0;
    if (!status) status = load_turns(chat, root, rest, &error);
    if (!status) status = look(chat, &error);
    json_decref(root);
    struct chat *old = status ? chat : &kept;   /* which of the two conversations goes */
    forget_turns(old);
    free(old->turns);
    free(old->system);
    if (status) {
        *chat = kept;
        complain(chat, &error);
        return;
    }
    if (chat->ids.count >= chat->sequence->capacity && (status = make_room(chat, 0, &error))) complain(chat, &error);
    say(chat, "%s: %lld message%s, %lld tokens", rest, (long long)chat->turn_count, chat->turn_count == 1 ? "" : "s",
        (long long)chat->ids.count);
}

static void command_quit(struct chat *chat, const char *rest) {
    (void)rest;
    chat->leave = true;
}

static void command_help(struct chat *chat, const char *rest);

static const struct {
    const char *name, *arguments, *help;
    void (*run)(struct chat *chat, const char *rest);
} commands[] = {
    {"/help", "", "this list", command_help},
    {"/undo", "", "take the last message and its answer back", command_undo},
    {"/retry", "", "answer the last message again, with other random numbers", command_retry},
    {"/edit", "[TEXT]", "change the last message, and answer it again", command_edit},
    {"/reset", "", "begin anew", command_reset},
    {"/think", "on|off", "reason before the next answers, or not", command_think},
    {"/save", "FILE", "write the conversation to a file", command_save},
    {"/load", "FILE", "go on with a conversation that was saved", command_load},
    {"/set", "[NAME=VALUE]", "a value from now on (/set alone lists them)", command_set},
    {"/show", "", "the whole text, and how many tokens it has", command_show},
    {"/quit", "", "leave, as Ctrl-D does", command_quit},
};
#define COMMANDS (sizeof commands / sizeof *commands)

static void command_help(struct chat *chat, const char *rest) {
    (void)rest, (void)chat;
    for (size_t i = 0; i < COMMANDS; i++)
        fprintf(stderr, "  %-6s %-13s %s\n", commands[i].name, commands[i].arguments, commands[i].help);
    fprintf(stderr, "A line that ends with \\ goes on in the next. Lines between two lines of \"\"\" are one text, "
                    "whatever they hold; any other line that begins with / is a command.\n");
}

static void take_command(struct chat *chat, const char *line, size_t size) {
    if (strlen(line) != size) {
        struct error error;
        error_set(&error, STATUS_INVALID,
                  "found a NUL byte in a command (a text that begins with / stands between lines of \"\"\")");
        complain(chat, &error);
        return;
    }
    size_t length = strcspn(line, " ");
    const char *rest = line + length + strspn(line + length, " ");
    for (size_t i = 0; i < COMMANDS; i++)
        if (strlen(commands[i].name) == length && strncmp(commands[i].name, line, length) == 0) {
            commands[i].run(chat, rest);
            return;
        }
    struct error error;
    error_set(&error, STATUS_INVALID,
              "unknown command `%.*s`, /help lists them (a text that begins with / stands between lines of \"\"\")",
              (int)length, line);
    complain(chat, &error);
}

/* ---- the run ----------------------------------------------------------------------------------------------------- */

static enum status loop(struct chat *chat, struct error *error) {
    while (!chat->leave && !cli_interrupted()) {
        char *text = NULL;
        size_t size = 0;
        bool block;
        enum status status = chat_input_read(&text, &size, &block, NULL, 0, error);
        if (status == STATUS_INTERRUPTED) return STATUS_OK;   /* the end of the input */
        if (status) return status;
        if (!block && size && text[0] == '/') take_command(chat, text, size);
        else take_message(chat, text, size);
        free(text);
    }
    return STATUS_OK;
}

/* --system: can it be encoded, and does it leave room for messages? */
static enum status take_system(struct chat *chat, int64_t context, struct error *error) {
    const char *text = chat->request->chat_options.system;
    const struct chat_message messages[] = {{.role = CHAT_SYSTEM, .text = text, .size = strlen(text)},
                                            {.role = CHAT_USER}};
    struct token_list ids = { 0 };
    uint64_t replaced = 0;
    enum status status = chat_encode(&chat->style, messages, 2, true, true, &ids, &replaced, error);
    if (status == STATUS_INVALID) error_prefix(error, "--system");
    if (!status && ids.count >= context)
        status = error_set(
            error, STATUS_INVALID,
            "--system: found a text that begins a conversation with %lld tokens, expected less than %lld (the context)",
            (long long)ids.count, (long long)context);
    if (!status && replaced && !chat->request->quiet)
        cli_warn("--system holds %llu ill-formed UTF-8 sequence%s, read as U+FFFD", (unsigned long long)replaced,
                 replaced == 1 ? "" : "s");
    token_list_free(&ids);
    return status ? status : keep_system(chat, text, strlen(text), error);
}

static enum status prepare(struct chat *chat, const struct cli_machine *machine, struct error *error) {
    struct request *request = (struct request *)chat->request;
    struct arena arena = { 0 };
    struct config config;
    int64_t context = 0;
    enum status status = model_check_folder(request->folder, error);
    if (!status) status = config_load(&config, request->folder, &arena, error);
    if (!status) {
        context = config.max_position_embeddings;
        if (request->context > context)
            status = error_set(error, STATUS_INVALID,
                               "--context: found %lld, expected at most %lld (max_position_embeddings)",
                               (long long)request->context, (long long)context);
        if (request->context) context = request->context;
        if (!status) status = cli_machine_check(machine, &config, error);
        if (!status) status = tokenizer_load(&chat->tokenizer, request->folder, error);
        if (!status)
            status = generation_defaults_load(&chat->defaults, request->folder, &config, chat->tokenizer, error);
        if (!status)
            status = cli_sampling_apply(&request->sampling, &chat->defaults, chat->tokenizer, config.vocab_size,
                                        &chat->options, error);
        if (!status)
            status = cli_chat_style(&request->chat_options, request->folder, &config, chat->tokenizer, request->quiet,
                                    &chat->style, error);
        if (!status && request->chat_options.system) status = take_system(chat, context, error);
        config_release(&config);
    }
    arena_free(&arena);
    if (!status)
        status = cli_model_open(&chat->model, request->folder, machine, MODEL_INFERENCE, request->quiet, error);
    if (!status) status = engine_create(&chat->engine, chat->model, 0, error);
    if (!status) status = cli_engine_draft(chat->engine, machine, error);
    if (!status) status = sampler_create(&chat->sampler, chat->model->config.vocab_size, error);
    if (!status) status = sequence_create(&chat->sequence, chat->model, context, error);
    if (status == STATUS_NO_MEMORY) error_prefix(error, "a smaller --context needs less");
    return status;
}

static void chat_free(struct chat *chat) {
    forget_turns(chat);
    free(chat->turns);
    free(chat->system);
    token_list_free(&chat->ids);
    sequence_destroy(chat->sequence);
    sampler_destroy(chat->sampler);
    engine_destroy(chat->engine);
    model_destroy(chat->model);
    tokenizer_destroy(chat->tokenizer);
}

static const char about_plain[] =
    "This is a base model: it continues text. What you type is continued as it stands, nothing is put around it, and "
    "what you type next goes on after the answer.\n"
    "An empty line lets the model go on. /help lists the commands; Ctrl-C interrupts an answer, Ctrl-D leaves.";
static const char about_roles[] = "The model answers what you type. An empty line lets an answer go on that was cut "
                                  "off. /help lists the commands; Ctrl-C interrupts an answer, Ctrl-D leaves.";

static enum status run(struct request *request, struct cli_machine *machine, bool *failed, struct error *error) {
    struct chat chat = { .request = request, .count = request->count, .options = { .logprobs = -1, .shift = true } };
    enum status status = prepare(&chat, machine, error);
    if (!status) status = chat_input_begin(request->history, error);
    if (!status) {
        if (chat_input_is_terminal()) say(&chat, "%s", has_roles(&chat) ? about_roles : about_plain);
        status = loop(&chat, error);
        struct error second;
        if (chat_input_end(&second) && !status) status = error_set(error, second.code, "%s", second.message);
        int number = cli_interrupt_signal();
        if (!status && number && (number != SIGINT || !chat_input_is_terminal()))
            status = error_set(error, STATUS_INTERRUPTED, "interrupted");
    }
    *failed = chat.failed && !chat_input_is_terminal();
    chat_free(&chat);
    return status;
}

int command_chat(int argc, char **argv) {
    struct request request = { .count = DEFAULT_TOKENS };
    struct cli_machine machine = { 0 };
    cli_sampling_begin(&request.sampling);
    const struct cli_operand operands[] = { { "MODEL", &request.folder, "a model folder", false }, { 0 } };
    const struct cli_option options[] = {
        {"count", 'n', "N", CLI_INTEGER, &request.count, .minimum = 1, .maximum = 1 << 30,
         .help = "tokens of an answer at most"},
        {"context", 0, "N", CLI_INTEGER, &request.context, .minimum = 4, .maximum = 1 << 30, .fallback = "the model's",
         .help = "tokens that are remembered at most"},
        cli_sampling_option(&request.sampling, CLI_TEMPERATURE),
        cli_sampling_option(&request.sampling, CLI_TOP_K),
        cli_sampling_option(&request.sampling, CLI_TOP_P),
        cli_sampling_option(&request.sampling, CLI_MIN_P),
        cli_sampling_option(&request.sampling, CLI_REPETITION_PENALTY),
        cli_sampling_option(&request.sampling, CLI_PRESENCE_PENALTY),
        cli_sampling_option(&request.sampling, CLI_FREQUENCY_PENALTY),
        cli_sampling_option(&request.sampling, CLI_LOGIT_BIAS),
        cli_sampling_option(&request.sampling, CLI_SEED),
        cli_sampling_option(&request.sampling, CLI_STOP),
        cli_chat_format_option(&request.chat_options),
        cli_system_option(&request.chat_options),
        cli_thinking_option(&request.chat_options),
        {"history", 0, "FILE", CLI_STRING, &request.history,
         .help =
             "read the line editor's history from this file and write it there at the end; without it nothing is kept"},
        cli_compute_option(&machine, "the checkpoint's type"),
        cli_cache_option(&machine),
        cli_prefill_option(&machine),
        cli_expert_cache_option(&machine),
        cli_draft_option(&machine),
        cli_threads_option(&machine),
        {"quiet", 'q', NULL, CLI_FLAG, &request.quiet, .help = "no remarks, no progress"},
        {0},
    };
    const struct cli_usage usage = {
        .command = "chat",
        .about = "A conversation with a model, which keeps all of it in its cache: only new tokens are computed. A "
                 "chat model answers messages, in the format that it was trained with; "
                 "a base model continues text: what you type is continued as it stands. On a terminal lines can be "
                 "edited, and Ctrl-C interrupts an answer; from a pipe each line is a message or a command, and "
                 "standard output carries the answers alone. "
                 "When the context is full, its oldest half is forgotten, with a remark: of a chat model's "
                 "conversation whole messages with their answers, never the system text.",
        .examples = "deepseek chat MODEL\n"
                    "deepseek chat MODEL --system 'Answer in one sentence.'\n"
                    "deepseek chat MODEL -n 100 --temperature 0.6 --stop '\\n'\n"
                    "printf 'Once upon a time\\n\\n/show\\n' | deepseek chat MODEL -n 40\n",
        .notes = "Commands: /undo /retry /edit /reset /think on|off /save FILE /load FILE\n"
                 "/set NAME=VALUE /show /help /quit. An empty line lets the model go on. A line\n"
                 "that ends with \\ goes on in the next; lines between two lines of \"\"\" are one\n"
                 "text.\n",
        .operands = operands,
        .options = options,
    };
    int code = cli_parse(&usage, argc, argv);
    if (code == CLI_GO_ON) code = cli_sampling_read(&request.sampling);
    if (code == CLI_GO_ON) {
        struct error error;
        bool failed = false;
        cli_catch_interrupts();
        enum status status = cli_machine_open(&machine, DTYPE_COUNT, &error);
        if (!status) status = run(&request, &machine, &failed, &error);
        cli_machine_close(&machine);
        if (status) code = cli_output_flush() ? cli_fail(&error) : CLI_FAILED;   /* main reports standard output */
        else code = failed ? CLI_FAILED : CLI_DONE;
    }
    cli_sampling_free(&request.sampling);
    return code;
}
