/* deepseek chat: a conversation whose whole history stays in the model's cache. What was computed is never computed again: an undone or retried answer only shortens the sequence.
 *
 * An encoding says what stands around a message. Base models have the plain one, which puts nothing there: what is typed is continued. */
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/chat_input.h"
#include "cli/cli.h"
#include "cli/sampling.h"
#include "io/json.h"

#define DEFAULT_TOKENS 256

struct request {
    const char *folder, *history;
    int64_t count, context;
    struct cli_sampling sampling;
    bool quiet;
};

struct turn {
    char *message, *answer;
    size_t message_size, answer_size;
    int64_t start, answer_start;   /* where the message and its answer begin in ids; -1: that has left the context */
    uint64_t attempt;              /* answers before this one: the stream of its random numbers */
};

struct chat {
    const struct request *request;
    const struct chat_encoding *encoding;
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
    uint64_t forgotten;            /* ids that were dropped: positions come again then, and get other random numbers */
    struct cli_progress progress;
    double done;
    const struct generation *item; /* the answer that is being made */
    int64_t shifts;                /* of it, that were told */
    bool answering, line_open, leave, failed;
};

/* ---- encodings ------------------------------------------------------------------------------------------------------------------- */

struct chat_encoding {
    const char *about;             /* said at the start */
    /* Appends the ids of a message and of what stands before its answer. */
    enum status (*append)(const struct tokenizer *tokenizer, const char *message, size_t size, struct token_list *ids, uint64_t *replaced, struct error *error);
};

static enum status append_plain(const struct tokenizer *tokenizer, const char *message, size_t size, struct token_list *ids, uint64_t *replaced, struct error *error) {
    return tokenizer_encode(tokenizer, message, size, false, ids, replaced, error);
}

static const struct chat_encoding plain = {
    .about = "This is a base model: it continues text. What you type is continued as it stands, nothing is put around it, and what you type next goes on after the answer.\n"
             "An empty line lets the model go on. /help lists the commands; Ctrl-C interrupts an answer, Ctrl-D leaves.",
    .append = append_plain,
};

/* ---- messages to the person ------------------------------------------------------------------------------------------------------- */

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

/* ---- the history ------------------------------------------------------------------------------------------------------------------ */

static void turn_free(struct turn *turn) {
    free(turn->message);
    free(turn->answer);
}

static void forget_all(struct chat *chat) {
    for (int64_t i = 0; i < chat->turn_count; i++) turn_free(&chat->turns[i]);
    chat->turn_count = 0;
    chat->ids.count = 0;
    chat->forgotten = 0;
    sequence_rewind(chat->sequence, 0);
}

/* Only the first `count` ids stay; their state is kept. */
static void shorten(struct chat *chat, int64_t count) {
    chat->ids.count = count;
    sequence_rewind(chat->sequence, count);
}

static bool has_bos(const struct chat *chat) { return tokenizer_add_bos(chat->tokenizer) && chat->ids.count > 0 && chat->ids.ids[0] == tokenizer_bos(chat->tokenizer); }

static void tell_full(struct chat *chat, int64_t dropped) {
    if (chat->line_open) say(chat, "%s", "");
    say(chat, "The context of %lld tokens is full: its oldest %lld tokens are forgotten.", (long long)chat->sequence->capacity, (long long)dropped);
}

/* Drops the oldest ids, but for a token that begins texts, until `kept` are left. The rest moves to other positions, so it is fed again. */
static void drop_oldest(struct chat *chat, int64_t kept) {
    int64_t first = has_bos(chat), dropped = chat->ids.count - kept;
    if (kept <= first || dropped <= 0) return;
    memmove(chat->ids.ids + first, chat->ids.ids + first + dropped, (size_t)(kept - first) * sizeof *chat->ids.ids);
    shorten(chat, kept);
    sequence_rewind(chat->sequence, first);
    chat->forgotten += (uint64_t)dropped;
    for (int64_t i = 0; i < chat->turn_count; i++) {
        struct turn *turn = &chat->turns[i];
        turn->start = turn->start >= first + dropped ? turn->start - dropped : -1;
        turn->answer_start = turn->answer_start > first + dropped ? turn->answer_start - dropped : -1;
    }
}

static int64_t half_context(const struct chat *chat) { return chat->sequence->capacity / 2; }   /* at least 2, so more than what begins texts: see --context */

/* Half of the context goes on, or what is `wanted` where that is more. */
static void make_room(struct chat *chat, int64_t wanted) {
    int64_t kept = wanted > half_context(chat) ? wanted : half_context(chat);
    tell_full(chat, chat->ids.count - kept);
    drop_oldest(chat, kept);
}

/* Has the model a row for each of the ids from `first` on? */
static enum status check_ids(const struct chat *chat, int64_t first, struct error *error) {
    int64_t vocab = chat->model->config.vocab_size;
    for (int64_t t = first; t < chat->ids.count; t++)
        if (chat->ids.ids[t] >= vocab)
            return error_set(error, STATUS_INVALID, "the tokenizer has id %d, expected at most %lld (the model's vocabulary)", chat->ids.ids[t], (long long)vocab - 1);
    return STATUS_OK;
}

/* Adds a turn with its message's ids. Nothing has changed on failure. */
static enum status add_turn(struct chat *chat, const char *message, size_t size, struct error *error) {
    int64_t start = chat->ids.count, capacity = chat->sequence->capacity;
    uint64_t replaced = 0;
    struct turn turn = { .message = malloc(size + 1), .message_size = size, .start = start };
    struct turn *larger = realloc(chat->turns, (size_t)(chat->turn_count + 1) * sizeof *larger);
    if (larger) chat->turns = larger;
    enum status status = larger && turn.message ? STATUS_OK : error_set(error, STATUS_NO_MEMORY, "no memory for a message");
    if (!status) memcpy(turn.message, size ? message : "", size);
    if (!status) status = chat->encoding->append(chat->tokenizer, message, size, &chat->ids, &replaced, error);
    if (!status && start == 0) status = cli_begin_text(chat->tokenizer, &chat->model->config, &chat->ids, error);
    if (!status) status = check_ids(chat, start, error);
    if (!status && chat->ids.count - start >= capacity)
        status = error_set(error, STATUS_INVALID, "the message has %lld tokens, expected less than %lld (the context)", (long long)(chat->ids.count - start), (long long)capacity);
    if (status) {
        chat->ids.count = start;
        turn_free(&turn);
        return status;
    }
    if (replaced) say(chat, "The message holds %llu ill-formed UTF-8 sequence%s, read as U+FFFD.", (unsigned long long)replaced, replaced == 1 ? "" : "s");
    turn.answer_start = chat->ids.count;
    chat->turns[chat->turn_count++] = turn;
    return STATUS_OK;
}

static struct turn *last_turn(struct chat *chat) { return chat->turn_count ? &chat->turns[chat->turn_count - 1] : NULL; }

/* ---- answers ---------------------------------------------------------------------------------------------------------------------- */

static bool after_pass(void *context, int64_t rows) {
    struct chat *chat = context;
    if (!chat->answering) cli_progress_update(&chat->progress, chat->done += (double)rows);
    return !cli_interrupted();
}

static bool after_token(void *context, int index, int32_t id) {
    struct chat *chat = context;
    (void)index, (void)id;
    for (; chat->shifts < chat->item->shifts; chat->shifts++) tell_full(chat, chat->sequence->capacity + 1 - half_context(chat));
    if (!chat->answering) cli_progress_end(&chat->progress);
    chat->answering = true;
    return true;
}

static bool after_text(void *context, int index, const char *text, size_t size) {
    struct chat *chat = context;
    (void)index;
    fwrite(text, 1, size, stdout);
    chat->line_open = text[size - 1] != '\n';
    return cli_output_flush();
}

static enum status keep_answer(struct turn *turn, const struct generation *item, struct error *error) {
    char *larger = realloc(turn->answer, turn->answer_size + item->text_size + 1);
    if (!larger) return error_set(error, STATUS_NO_MEMORY, "no memory for an answer");
    turn->answer = larger;
    memcpy(larger + turn->answer_size, item->text ? item->text : "", item->text_size);
    turn->answer_size += item->text_size;
    return STATUS_OK;
}

static enum status make_answer(struct chat *chat, struct turn *turn, struct error *error) {
    const struct generation_watch watch = { .context = chat, .pass = after_pass, .token = after_token, .text = after_text };
    chat->options.max_tokens = chat->count;
    chat->options.keep = has_bos(chat);
    struct generation item = { .sequence = chat->sequence, .ids = chat->ids, .options = &chat->options, .stream = turn->attempt + (chat->forgotten << 32) };
    chat->item = &item;
    chat->shifts = 0;
    chat->answering = false;
    chat->done = 0;
    cli_progress_begin(&chat->progress, "prompt", "tokens", (double)(chat->ids.count - chat->sequence->length), chat->request->quiet);
    enum status status = generate(chat->engine, chat->tokenizer, chat->sampler, &item, 1, &watch, error);
    cli_progress_end(&chat->progress);
    chat->ids = item.ids;
    item.ids = (struct token_list){ 0 };
    if (!status) status = keep_answer(turn, &item, error);
    if (status) shorten(chat, item.prompt);
    else if (item.finish == FINISH_EOS || item.finish == FINISH_STOP) shorten(chat, item.prompt + item.text_tokens);   /* what ended the answer is no part of it */
    if (!status && item.shifts) drop_oldest(chat, half_context(chat));
    generation_release(&item);
    return status;
}

static void answer(struct chat *chat) {
    struct error error;
    struct turn *turn = last_turn(chat);
    /* At first the whole message stays, later half of the context. */
    if (chat->ids.count >= chat->sequence->capacity) make_room(chat, turn->start >= 0 ? chat->ids.count - turn->start : 0);
    enum status status = make_answer(chat, turn, &error);
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
    if (add_turn(chat, message, size, &error)) complain(chat, &error);
    else answer(chat);
}

/* ---- commands --------------------------------------------------------------------------------------------------------------------- */

/* The last turn, if it can be taken back. */
static struct turn *turn_to_change(struct chat *chat, bool message_too) {
    struct turn *turn = last_turn(chat);
    struct error error;
    if (turn && (message_too ? turn->start : turn->answer_start) >= 0) return turn;
    error_set(&error, STATUS_INVALID, turn ? "the beginning of the last message has left the context; go on, or /reset" : "there is no message yet");
    complain(chat, &error);
    return NULL;
}

static void take_back(struct chat *chat) {
    struct turn *turn = last_turn(chat);
    shorten(chat, turn->start);
    turn_free(turn);
    chat->turn_count--;
}

static void command_undo(struct chat *chat, const char *rest) {
    (void)rest;
    if (!turn_to_change(chat, true)) return;
    take_back(chat);
    say(chat, "The last message and its answer are gone; %lld token%s.", (long long)chat->ids.count, chat->ids.count == 1 ? " remains" : "s remain");
}

static void command_retry(struct chat *chat, const char *rest) {
    struct turn *turn = turn_to_change(chat, false);
    (void)rest;
    if (!turn) return;
    shorten(chat, turn->answer_start);
    turn->answer_size = 0;
    turn->attempt++;
    answer(chat);
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
    take_back(chat);
    take_message(chat, message, size);
    free(message);
}

static void command_reset(struct chat *chat, const char *rest) {
    (void)rest;
    forget_all(chat);
    say(chat, "The conversation begins anew.");
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
        if (strcmp(name, "tokens") == 0) status = cli_parse_integer("tokens", equals + 1, 1, 1 << 30, &chat->count, &error) ? STATUS_OK : STATUS_INVALID;
        else status = cli_sampling_set(&chat->options.sampling, name, equals + 1, &error);
        if (status == STATUS_NOT_FOUND)
            status = error_set(&error, STATUS_INVALID, "/set: found `%s`, expected tokens, temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty or seed", name);
    }
    if (status) complain(chat, &error);
}

static void put_text(struct chat *chat, const char *text, size_t size) {
    if (!size) return;
    char *sound = utf8_repair(text, size, &size, NULL);
    if (sound) fwrite(sound, 1, size, stdout);
    if (sound) chat->line_open = sound[size - 1] != '\n';
    free(sound);
}

static void command_show(struct chat *chat, const char *rest) {
    (void)rest;
    for (int64_t i = 0; i < chat->turn_count; i++) {
        put_text(chat, chat->turns[i].message, chat->turns[i].message_size);
        put_text(chat, chat->turns[i].answer, chat->turns[i].answer_size);
    }
    close_line(chat);
    say(chat, "%lld message%s, %lld of %lld tokens", (long long)chat->turn_count, chat->turn_count == 1 ? "" : "s", (long long)chat->ids.count, (long long)chat->sequence->capacity);
}

/* ---- saving and loading: {"turns": [{"message": TEXT, "answer": TEXT}, ...]} --------------------------------------------------------- */

static json_t *json_text(const char *text, size_t size) {
    size_t length = 0;
    char *sound = utf8_repair(size ? text : "", size, &length, NULL);
    json_t *value = sound ? json_stringn(sound, length) : NULL;
    free(sound);
    return value;
}

static void command_save(struct chat *chat, const char *rest) {
    struct error error;
    json_t *turns = json_array(), *root = json_pack("{s:o}", "turns", turns);
    enum status status = *rest ? STATUS_OK : error_set(&error, STATUS_INVALID, "/save: found no name, expected a file to write");
    for (int64_t i = 0; i < chat->turn_count; i++) {
        const struct turn *turn = &chat->turns[i];
        json_array_append_new(turns, json_pack("{s:o,s:o}", "message", json_text(turn->message, turn->message_size), "answer", json_text(turn->answer, turn->answer_size)));
    }
    if (!status) status = root && json_array_size(turns) == (size_t)chat->turn_count ? json_save_path(root, rest, &error) : error_set(&error, STATUS_NO_MEMORY, "%s: no memory", rest);
    json_decref(root);
    if (status) complain(chat, &error);
    else say(chat, "%s: %lld message%s saved", rest, (long long)chat->turn_count, chat->turn_count == 1 ? "" : "s");
}

/* Adds what a file holds to an empty conversation. */
static enum status load_turns(struct chat *chat, const json_t *root, const char *path, struct error *error) {
    const json_t *turns = json_object_get(root, "turns");
    if (!json_is_array(turns)) return error_set(error, STATUS_INVALID, "%s: turns: found no array, expected one of objects with message and answer", path);
    for (size_t i = 0; i < json_array_size(turns); i++) {
        const json_t *message = json_object_get(json_array_get(turns, i), "message"), *text = json_object_get(json_array_get(turns, i), "answer");
        if (!json_is_string(message) || !json_is_string(text)) return error_set(error, STATUS_INVALID, "%s: turns[%zu]: found no two strings, expected message and answer", path, i);
        enum status status = add_turn(chat, json_string_value(message), json_string_length(message), error);
        const struct generation item = { .text = (char *)json_string_value(text), .text_size = json_string_length(text) };
        if (!status) status = keep_answer(last_turn(chat), &item, error);
        if (!status) status = tokenizer_encode(chat->tokenizer, item.text, item.text_size, false, &chat->ids, NULL, error);
        if (!status) status = check_ids(chat, last_turn(chat)->answer_start, error);
        if (status) {
            error_prefix(error, "%s: turns[%zu]", path, i);
            return status;
        }
    }
    return STATUS_OK;
}

static void command_load(struct chat *chat, const char *rest) {
    struct error error;
    json_t *root = NULL;
    struct chat kept = *chat;
    struct stat about;
    enum status status = STATUS_OK;
    if (!*rest) status = error_set(&error, STATUS_INVALID, "/load: found no name, expected a file that /save wrote");
    else if (stat(rest, &about) == 0 && S_ISFIFO(about.st_mode)) status = error_set(&error, STATUS_INVALID, "%s: is a pipe, expected a file that /save wrote", rest);   /* it would wait for a writer */
    else status = json_load_texts(&root, rest, &error);
    chat->ids = (struct token_list){ 0 };
    chat->turns = NULL;
    chat->turn_count = 0;
    chat->forgotten = 0;
    if (!status) status = load_turns(chat, root, rest, &error);
    json_decref(root);
    struct chat *old = status ? chat : &kept;   /* which of the two conversations goes */
    for (int64_t i = 0; i < old->turn_count; i++) turn_free(&old->turns[i]);
    free(old->turns);
    token_list_free(&old->ids);
    if (status) {
        *chat = kept;
        complain(chat, &error);
        return;
    }
    sequence_rewind(chat->sequence, 0);
    if (chat->ids.count >= chat->sequence->capacity) make_room(chat, 0);
    say(chat, "%s: %lld message%s, %lld tokens", rest, (long long)chat->turn_count, chat->turn_count == 1 ? "" : "s", (long long)chat->ids.count);
}

static void command_quit(struct chat *chat, const char *rest) {
    (void)rest;
    chat->leave = true;
}

static void command_help(struct chat *chat, const char *rest);

static const struct { const char *name, *arguments, *help; void (*run)(struct chat *chat, const char *rest); } commands[] = {
    { "/help", "", "this list", command_help },
    { "/undo", "", "take the last message and its answer back", command_undo },
    { "/retry", "", "answer the last message again, with other random numbers", command_retry },
    { "/edit", "[TEXT]", "change the last message, and answer it again", command_edit },
    { "/reset", "", "begin anew", command_reset },
    { "/save", "FILE", "write the conversation to a file", command_save },
    { "/load", "FILE", "go on with a conversation that was saved", command_load },
    { "/set", "[NAME=VALUE]", "a value from now on (/set alone lists them)", command_set },
    { "/show", "", "the whole text, and how many tokens it has", command_show },
    { "/quit", "", "leave, as Ctrl-D does", command_quit },
};
#define COMMANDS (sizeof commands / sizeof *commands)

static void command_help(struct chat *chat, const char *rest) {
    (void)rest, (void)chat;
    for (size_t i = 0; i < COMMANDS; i++) fprintf(stderr, "  %-6s %-13s %s\n", commands[i].name, commands[i].arguments, commands[i].help);
    fprintf(stderr, "A line that ends with \\ goes on in the next. Lines between two lines of \"\"\" are one text, whatever they hold; any other line that begins with / is a command.\n");
}

static void take_command(struct chat *chat, const char *line, size_t size) {
    if (strlen(line) != size) {
        struct error error;
        error_set(&error, STATUS_INVALID, "found a NUL byte in a command (a text that begins with / stands between lines of \"\"\")");
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
    error_set(&error, STATUS_INVALID, "unknown command `%.*s`, /help lists them (a text that begins with / stands between lines of \"\"\")", (int)length, line);
    complain(chat, &error);
}

/* ---- the run ---------------------------------------------------------------------------------------------------------------------- */

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
            status = error_set(error, STATUS_INVALID, "--context: found %lld, expected at most %lld (max_position_embeddings)", (long long)request->context, (long long)context);
        if (request->context) context = request->context;
        if (!status) status = cli_machine_check(machine, &config, error);
        if (!status) status = tokenizer_load(&chat->tokenizer, request->folder, error);
        if (!status) status = generation_defaults_load(&chat->defaults, request->folder, &config, chat->tokenizer, error);
        if (!status) status = cli_sampling_apply(&request->sampling, &chat->defaults, chat->tokenizer, config.vocab_size, &chat->options, error);
        config_release(&config);
    }
    arena_free(&arena);
    if (!status) status = cli_model_open(&chat->model, request->folder, machine, MODEL_INFERENCE, request->quiet, error);
    if (!status) status = engine_create(&chat->engine, chat->model, 0, error);
    if (!status) status = sampler_create(&chat->sampler, chat->model->config.vocab_size, error);
    if (!status) status = sequence_create(&chat->sequence, chat->model, context, error);
    if (status == STATUS_NO_MEMORY) error_prefix(error, "a smaller --context needs less");
    return status;
}

static void chat_free(struct chat *chat) {
    for (int64_t i = 0; i < chat->turn_count; i++) turn_free(&chat->turns[i]);
    free(chat->turns);
    token_list_free(&chat->ids);
    sequence_destroy(chat->sequence);
    sampler_destroy(chat->sampler);
    engine_destroy(chat->engine);
    model_destroy(chat->model);
    tokenizer_destroy(chat->tokenizer);
}

static enum status run(struct request *request, struct cli_machine *machine, bool *failed, struct error *error) {
    struct chat chat = { .request = request, .encoding = &plain, .count = request->count, .options = { .logprobs = -1, .shift = true } };
    enum status status = prepare(&chat, machine, error);
    if (!status) status = chat_input_begin(request->history, error);
    if (!status) {
        if (chat_input_is_terminal()) say(&chat, "%s", chat.encoding->about);
        status = loop(&chat, error);
        struct error second;
        if (chat_input_end(&second) && !status) status = error_set(error, second.code, "%s", second.message);
        int number = cli_interrupt_signal();
        if (!status && number && (number != SIGINT || !chat_input_is_terminal())) status = error_set(error, STATUS_INTERRUPTED, "interrupted");
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
        { "count", 'n', "N", CLI_INTEGER, &request.count, .minimum = 1, .maximum = 1 << 30, .help = "tokens of an answer at most" },
        { "context", 0, "N", CLI_INTEGER, &request.context, .minimum = 4, .maximum = 1 << 30, .fallback = "the model's", .help = "tokens that are remembered at most" },
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
        { "history", 0, "FILE", CLI_STRING, &request.history, .help = "read the line editor's history from this file and write it there at the end; without it nothing is kept" },
        cli_compute_option(&machine, "the checkpoint's type"),
        cli_cache_option(&machine),
        cli_prefill_option(&machine),
        cli_threads_option(&machine),
        { "quiet", 'q', NULL, CLI_FLAG, &request.quiet, .help = "no remarks, no progress" },
        { 0 },
    };
    const struct cli_usage usage = {
        .command = "chat",
        .about = "A conversation with a model, which keeps all of it in its cache: only new tokens are computed. A base model continues text: what you type is continued as it stands. "
                 "On a terminal lines can be edited, and Ctrl-C interrupts an answer; from a pipe each line is a message or a command, and standard output carries the answers alone. "
                 "When the context is full, its oldest half is forgotten, with a remark.",
        .examples = "deepseek chat MODEL\n"
                    "deepseek chat MODEL -n 100 --temperature 0.6 --stop '\\n'\n"
                    "printf 'Once upon a time\\n\\n/show\\n' | deepseek chat MODEL -n 40\n",
        .notes = "Commands: /undo /retry /edit /reset /save FILE /load FILE /set NAME=VALUE /show\n"
                 "/help /quit. An empty line lets the model go on. A line that ends with \\ goes on\n"
                 "in the next; lines between two lines of \"\"\" are one text.\n",
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
