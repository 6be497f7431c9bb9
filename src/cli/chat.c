/* deepseek chat: a conversation (text/conversation.h) whose whole history stays in the model's cache. What was computed
 * is never computed again: an undone or retried answer only shortens the sequence.
 *
 * Base models have the plain format, which puts nothing around a message: what is typed is continued. */
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/chat_format.h"
#include "cli/chat_input.h"
#include "cli/chat_show.h"
#include "cli/cli.h"
#include "cli/machine.h"
#include "cli/progress.h"
#include "cli/sampling.h"
#include "io/json.h"
#include "text/conversation.h"

#define DEFAULT_TOKENS 256

struct request {
    const char *folder, *history;
    int64_t count, context;
    struct cli_sampling sampling;
    struct cli_chat chat_options;
    bool quiet;
};

struct chat {
    const struct request *request;
    struct conversation talk;
    struct model *model;
    struct tokenizer *tokenizer;
    struct engine *engine;
    struct sampler *sampler;
    struct sequence *sequence;
    struct generation_defaults defaults;
    struct generation_options options;
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

static bool has_roles(const struct chat *chat) { return chat_has_roles(&chat->talk.style); }

/* Makes room in a full context, of a plain text for `wanted` ids. */
static enum status make_room(struct chat *chat, int64_t wanted, struct error *error) {
    int64_t dropped;
    enum status status = conversation_make_room(&chat->talk, wanted, &dropped, error);
    if (status || dropped < 1) return status;
    if (chat->line_open) say(chat, "%s", "");
    say(chat, "The context of %lld tokens is full: its oldest %lld tokens are forgotten.",
        (long long)chat->talk.context, (long long)dropped);
    return STATUS_OK;
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

/* An answer that is being made. */
struct making {
    struct chat *chat;
    struct chat_answer answer;
    struct chat_show show;
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
    if (!chat->answering) cli_progress_end(&chat->progress);
    chat->answering = true;
    making->status = chat_answer_take_id(&making->answer, id, &making->error);
    return !making->status;
}

static bool after_text(void *context, int index, const char *text, size_t size) {
    struct making *making = context;
    struct chat *chat = making->chat;
    size_t skip;
    (void)index;
    making->status = chat_answer_take_text(&making->answer, text, size, &skip, &making->error);
    if (chat_has_tools(&chat->talk.style)) {
        chat_show_text(&making->show, &making->answer.parser);
        chat->line_open = making->show.line_open;
    } else if (size > skip) {
        fwrite(text + skip, 1, size - skip, stdout);
        chat->line_open = text[size - 1] != '\n';
    }
    return cli_output_flush() && !making->status;
}

/* Where the message alone leaves no room, the answer ends. */
static bool after_full(void *context, int index, struct token_list *view) {
    struct making *making = context;
    struct chat *chat = making->chat;
    const struct token_list *ids = &chat->talk.ids;
    (void)index;
    making->status = make_room(chat, 0, &making->error);
    if (!making->status && ids->count < chat->talk.context)
        making->status = token_list_append(view, ids->ids, ids->count, &making->error);
    if (making->status || view->count) return !making->status;
    if (chat->line_open) say(chat, "%s", "");
    say(chat, "The context of %lld tokens is full, and the message takes more than half of it: the answer ends here.",
        (long long)chat->talk.context);
    return false;
}

static enum status make_answer(struct chat *chat, struct error *error) {
    struct making making = { .chat = chat };
    const struct generation_watch watch = {
        .context = &making, .pass = after_pass, .token = after_token, .text = after_text, .full = after_full};
    struct generation item = {
        .sequence = chat->sequence, .options = &chat->options, .stream = conversation_stream(&chat->talk)};
    enum status status = token_list_append(&item.ids, chat->talk.ids.ids, chat->talk.ids.count, error);
    if (!status) status = chat_answer_begin(&making.answer, &chat->talk, error);
    if (!status) {
        chat_show_begin(&making.show, &making.answer.parser);
        chat->answering = false;
        chat->done = 0;
        cli_progress_begin(&chat->progress, "prompt", "tokens",
                           (double)(item.ids.count - sequence_sync(chat->sequence, item.ids.ids, item.ids.count)),
                           chat->request->quiet);
        status = generate(chat->engine, chat->tokenizer, chat->sampler, &item, 1, &watch, error);
        cli_progress_end(&chat->progress);
        if (!status && making.status) status = error_set(error, making.status, "%s", making.error.message);
        const bool stopped = item.finish == FINISH_STOP, finished = stopped || item.finish == FINISH_EOS;
        enum status kept = chat_answer_end(&making.answer, status ? NULL : item.text, item.text_size, item.text_tokens,
                                           stopped, finished, status ? &making.error : error);
        if (!status && !(status = kept) && chat_has_tools(&chat->talk.style)) {
            chat_show_end(&making.show, &conversation_last(&chat->talk)->parsed);
            chat->line_open = making.show.line_open;
        }
    }
    generation_release(&item);
    return status;
}

static void answer(struct chat *chat) {
    struct error error;
    const struct conversation *talk = &chat->talk;
    const int64_t start = conversation_last(talk)->start;
    enum status status = STATUS_OK;
    /* At first the whole message stays, later half of the context. */
    if (talk->ids.count >= talk->context) status = make_room(chat, start >= 0 ? talk->ids.count - start : 0, &error);
    if (!status && talk->ids.count > talk->context)
        status = error_set(&error, STATUS_INVALID, "the context is full: /reset, or /undo");
    if (!status) status = make_answer(chat, &error);
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
    const struct turn *turn = conversation_last(&chat->talk);
    uint64_t replaced = 0;
    if (has_roles(chat) && size == 0) {   /* no message: an answer goes on */
        if (!turn || turn->finished)
            say(chat, turn ? "The answer is finished: there is nothing that an empty line could go on with."
                           : "There is no answer yet that an empty line could go on with.");
        else answer(chat);
        return;
    }
    if (conversation_add(&chat->talk, message, size, &replaced, &error)) {
        complain(chat, &error);
        return;
    }
    if (replaced)
        say(chat, "The message holds %llu ill-formed UTF-8 sequence%s, read as U+FFFD.", (unsigned long long)replaced,
            replaced == 1 ? "" : "s");
    answer(chat);
}

/* ---- commands ---------------------------------------------------------------------------------------------------- */

/* The last turn, if it can be taken back. */
static struct turn *turn_to_change(struct chat *chat, bool message_too) {
    struct turn *turn = conversation_last(&chat->talk);
    struct error error;
    if (turn && (message_too ? turn->start : turn->answer_start) >= 0) return turn;
    error_set(&error, STATUS_INVALID,
              turn ? "the beginning of the last message has left the context; go on, or /reset"
                   : "there is no message yet");
    complain(chat, &error);
    return NULL;
}

static bool changed(struct chat *chat, enum status status, const struct error *error) {
    if (status) complain(chat, error);
    return !status;
}

static void command_undo(struct chat *chat, const char *rest) {
    struct error error;
    (void)rest;
    if (!turn_to_change(chat, true) || !changed(chat, conversation_undo(&chat->talk, &error), &error)) return;
    say(chat, "The last message and its answer are gone; %lld token%s.", (long long)chat->talk.ids.count,
        chat->talk.ids.count == 1 ? " remains" : "s remain");
}

static void command_retry(struct chat *chat, const char *rest) {
    struct error error;
    (void)rest;
    if (turn_to_change(chat, false) && changed(chat, conversation_retry(&chat->talk, &error), &error)) answer(chat);
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
        status = chat_input_read(&message, &size, &block, turn->message.text, turn->message.size, &error);
        if (status == STATUS_INTERRUPTED) {   /* the end: nothing changes */
            chat->leave = true;
            return;
        }
    }
    if (status) {
        complain(chat, &error);
        return;
    }
    if (changed(chat, conversation_undo(&chat->talk, &error), &error)) take_message(chat, message, size);
    free(message);
}

static void command_reset(struct chat *chat, const char *rest) {
    (void)rest;
    conversation_clear(&chat->talk);
    say(chat, "The conversation begins anew.");
}

static void command_set(struct chat *chat, const char *rest) {
    struct error error;
    const char *equals = strchr(rest, '=');
    char name[40];
    if (!*rest) {
        fprintf(stderr, "tokens=%lld\n", (long long)chat->options.max_tokens);
        cli_sampling_show(&chat->options.sampling, stderr);
        return;
    }
    enum status status = STATUS_OK;
    if (!equals || (size_t)(equals - rest) >= sizeof name) {
        status = error_set(&error, STATUS_INVALID, "/set: found `%s`, expected NAME=VALUE", rest);
    } else {
        snprintf(name, sizeof name, "%.*s", (int)(equals - rest), rest);
        if (strcmp(name, "tokens") == 0)
            status = cli_parse_integer("tokens", equals + 1, 1, 1 << 30, &chat->options.max_tokens, &error) ? STATUS_OK
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
    if (!chat_has_switch(&chat->talk.style))
        error_set(&error, STATUS_INVALID, "/think: chat format %s %s", chat_format_name(chat->talk.style.format),
                  chat_has_reasoning(&chat->talk.style) ? "always reasons" : "does not reason");
    else if (!on && strcmp(rest, "off") != 0)
        error_set(&error, STATUS_INVALID, "/think: found `%s`, expected on or off", rest);
    else {
        chat->talk.style.thinking = on;
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
static void put_part(struct chat *chat, const char *name, const struct chat_text *text) {
    if (has_roles(chat)) put_text(chat, name, strlen(name));
    put_text(chat, text->text, text->size);
    if (!has_roles(chat)) return;
    chat->line_open = true;
    close_line(chat);
}

static void command_show(struct chat *chat, const char *rest) {
    const struct conversation *talk = &chat->talk;
    (void)rest;
    if (talk->system.text) put_part(chat, "System: ", &talk->system);
    for (int64_t i = 0; i < talk->turn_count; i++) {
        const struct chat_parser *parsed = &talk->turns[i].parsed;
        put_part(chat, "User: ", &talk->turns[i].message);
        if (parsed->reasoning.size) put_part(chat, "Thinking: ", &parsed->reasoning);
        put_part(chat, "Assistant: ", &talk->turns[i].answer);
        for (int64_t k = 0; k < parsed->call_count; k++) chat_show_call(&parsed->calls[k]);
    }
    close_line(chat);
    say(chat, "%lld message%s, %lld of %lld tokens", (long long)talk->turn_count, talk->turn_count == 1 ? "" : "s",
        (long long)talk->ids.count, (long long)talk->context);
}

/* ---- saving and loading: {"system": TEXT, "turns": [{"message": TEXT, "answer": TEXT}, ...]}, without system text
 * only the turns --- */

static json_t *json_text(const struct chat_text *text) {
    size_t length = 0;
    char *sound = utf8_repair(text->size ? text->text : "", text->size, &length, NULL);
    json_t *value = sound ? json_stringn(sound, length) : NULL;
    free(sound);
    return value;
}

static void command_save(struct chat *chat, const char *rest) {
    struct error error;
    json_t *turns = json_array(),
           *root = json_pack("{s:o*,s:o}", "system", chat->talk.system.text ? json_text(&chat->talk.system) : NULL,
                             "turns", turns);
    const int64_t count = chat->talk.turn_count;
    enum status status = *rest ? STATUS_OK
                               : error_set(&error, STATUS_INVALID, "/save: found no name, expected a file to write");
    for (int64_t i = 0; i < count; i++) {
        const struct turn *turn = &chat->talk.turns[i];
        if (turn->parsed.call_count)
            say(chat, "Message %lld: the answer's calls of tools are not saved.", (long long)i + 1);
        json_array_append_new(turns, json_pack("{s:o,s:o}", "message", json_text(&turn->message),
                                               "answer", json_text(&turn->answer)));
    }
    if (!status)
        status = root && json_array_size(turns) == (size_t)count
                     ? json_save_path(root, rest, &error)
                     : error_set(&error, STATUS_NO_MEMORY, "%s: no memory", rest);
    json_decref(root);
    if (status) complain(chat, &error);
    else say(chat, "%s: %lld message%s saved", rest, (long long)count, count == 1 ? "" : "s");
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
                         path, chat_format_name(chat->talk.style.format));
    enum status status = system ? chat_text_put(&chat->talk.system, json_string_value(system),
                                                json_string_length(system), error)
                                : STATUS_OK;
    for (size_t i = 0; i < json_array_size(turns) && !status; i++) {
        const json_t *message = json_object_get(json_array_get(turns, i), "message"),
                     *text = json_object_get(json_array_get(turns, i), "answer");
        if (!json_is_string(message) || !json_is_string(text))
            return error_set(error, STATUS_INVALID, "%s: turns[%zu]: found no two strings, expected message and answer",
                             path, i);
        status = conversation_add_answered(&chat->talk, json_string_value(message), json_string_length(message),
                                           json_string_value(text), json_string_length(text), error);
        if (status) error_prefix(error, "%s: turns[%zu]", path, i);
    }
    return status;
}

static void command_load(struct chat *chat, const char *rest) {
    struct error error;
    json_t *root = NULL;
    struct conversation *talk = &chat->talk, kept = *talk;
    struct stat about;
    enum status status = STATUS_OK;
    if (!*rest) status = error_set(&error, STATUS_INVALID, "/load: found no name, expected a file that /save wrote");
    else if (stat(rest, &about) == 0 && S_ISFIFO(about.st_mode))
        status = error_set(&error, STATUS_INVALID, "%s: is a pipe, expected a file that /save wrote",
                           rest); /* it would wait for a writer */
    else status = json_load_texts(&root, rest, &error);
    *talk = (struct conversation){.style = kept.style, .context = kept.context, .vocab = kept.vocab};
    if (!status) status = load_turns(chat, root, rest, &error);
    if (!status) status = conversation_look(talk, &error);
    json_decref(root);
    conversation_free(status ? talk : &kept);
    if (status) {
        *talk = kept;
        complain(chat, &error);
        return;
    }
    if (talk->ids.count >= talk->context && (status = make_room(chat, 0, &error))) complain(chat, &error);
    say(chat, "%s: %lld message%s, %lld tokens", rest, (long long)talk->turn_count, talk->turn_count == 1 ? "" : "s",
        (long long)talk->ids.count);
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
    enum status status = chat_encode(&chat->talk.style, messages, 2, true, true, &ids, &replaced, error);
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
    return status ? status : chat_text_put(&chat->talk.system, text, strlen(text), error);
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
                                    &chat->talk.style, error);
        if (!status && request->chat_options.system) status = take_system(chat, context, error);
        config_release(&config);
    }
    arena_free(&arena);
    if (!status)
        status = cli_model_open(&chat->model, request->folder, machine, MODEL_INFERENCE, request->quiet, error);
    chat->talk.context = context;
    if (!status) chat->talk.vocab = chat->model->config.vocab_size;
    if (!status) status = engine_create(&chat->engine, chat->model, 0, error);
    if (!status) status = cli_engine_draft(chat->engine, machine, error);
    if (!status) status = sampler_create(&chat->sampler, chat->model->config.vocab_size, error);
    if (!status) status = sequence_create(&chat->sequence, chat->model, context, error);
    if (status == STATUS_NO_MEMORY) error_prefix(error, "a smaller --context needs less");
    return status;
}

static void chat_free(struct chat *chat) {
    conversation_free(&chat->talk);
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
    struct chat chat = { .request = request, .options = { .max_tokens = request->count, .logprobs = -1 } };
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
        enum status status = cli_machine_open(&machine, COMPUTE_COUNT, &error);
        if (!status) status = run(&request, &machine, &failed, &error);
        cli_machine_close(&machine);
        if (status) code = cli_output_flush() ? cli_fail(&error) : CLI_FAILED;   /* main reports standard output */
        else code = failed ? CLI_FAILED : CLI_DONE;
    }
    cli_sampling_free(&request.sampling);
    return code;
}
