/* deepseek tokenize: text to ids and back, and the training of a tokenizer (tokenize_train.c). */
#include "cli/tokenize.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cursor.h"
#include "base/file.h"
#include "cli/ids.h"
#include "cli/lines.h"
#include "cli/machine.h"
#include "cli/progress.h"
#include "io/json.h"
#include "text/tokenizer.h"

#define PART ((size_t)16 << 20)         /* bytes of a text that are encoded at once, where it can be cut */
#define LOOK_AHEAD ((size_t)64 << 10)   /* text that must be known behind a cut */
#define ID_PART ((size_t)1 << 20)       /* bytes of ids that are decoded at once */

struct request {
    const char *tokenizer_path, *prompt, *file, *jsonl, *ids;
    bool plain, bos, pieces, count, skip_special, raw, quiet;
    int64_t threads;
};

/* What a thread of --jsonl works with. */
struct hand { struct encoder *encoder; struct token_list ids; uint64_t replaced, unknown; };

struct work {
    const struct request *request;
    struct tokenizer *tokenizer;
    struct pool *pool;
    struct hand *hands;       /* [threads] */
    struct text_buffer out;
};

/* A folder without a tokenizer may be one where the model is near: the folder of a training run. */
static enum status load_tokenizer(struct tokenizer **tokenizer, const char *path, struct error *error) {
    struct error about;
    enum status status = tokenizer_load(tokenizer, path, error);
    if (status == STATUS_NOT_FOUND && file_is_folder(path) && model_check_folder(path, &about)) *error = about;
    return status;
}

static enum status work_begin(struct work *work, const struct request *request, struct error *error) {
    *work = (struct work){ .request = request };
    enum status status = load_tokenizer(&work->tokenizer, request->tokenizer_path, error);
    if (!status) status = pool_create(&work->pool, (int)request->threads, error);
    if (!status && !(work->hands = calloc((size_t)pool_threads(work->pool), sizeof *work->hands)))
        status = error_set(error, STATUS_NO_MEMORY, "no memory for threads");
    for (int t = 0; !status && t < pool_threads(work->pool); t++)
        status = encoder_create(&work->hands[t].encoder, work->tokenizer, error);
    return status;
}

static void work_end(struct work *work) {
    for (int t = 0; work->hands && t < pool_threads(work->pool); t++) {
        encoder_destroy(work->hands[t].encoder);
        token_list_free(&work->hands[t].ids);
    }
    free(work->hands);
    text_buffer_free(&work->out);
    pool_destroy(work->pool);
    tokenizer_destroy(work->tokenizer);
}

/* One warning for all places; `sum` of a field over the threads. */
static void warn_about(const struct work *work, const char *origin) {
    uint64_t replaced = 0, unknown = 0;
    if (work->request->quiet || !work->hands) return;
    for (int t = 0; t < pool_threads(work->pool); t++) {
        replaced += work->hands[t].replaced;
        unknown += work->hands[t].unknown;
    }
    if (replaced)
        cli_warn("%s: %llu %s not UTF-8 and %s as U+FFFD", origin, (unsigned long long)replaced,
                 replaced == 1 ? "place is" : "places are", replaced == 1 ? "counts" : "count");
    if (unknown)
        cli_warn("%s: %llu %s in the tokenizer and %s for nothing", origin, (unsigned long long)unknown,
                 unknown == 1 ? "id is not" : "ids are not", unknown == 1 ? "stands" : "stand");
}

static enum status write_text(const char *text, size_t size, struct error *error) {
    if (size) fwrite(text, 1, size, stdout);   /* where there is nothing, text may be NULL */
    return ferror(stdout) ? error_set(error, STATUS_IO, "standard output was closed") : STATUS_OK;
}

/* ---- JSON lines -------------------------------------------------------------------------------------------------- */

/* What is not UTF-8 becomes U+FFFD first: jansson takes no other text. */
static json_t *parse_line(const struct line *line, json_error_t *found, uint64_t *replaced) {
    /* as reals, so that no number is too large */
    const size_t flags = JSON_ALLOW_NUL | JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL;
    json_t *value = json_loadb(line->text, line->size, flags, found);
    size_t bad, length;
    if (value || utf8_valid((const uint8_t *)line->text, line->size, &bad)) return value;
    char *sound = utf8_repair(line->text, line->size, &length, replaced);
    if (!sound) return NULL;
    value = json_loadb(sound, length, flags, found);
    free(sound);
    return value;
}

/* The text of a line: the string "text" of an object, or a string. */
static enum status line_text(const struct line *line, const json_t *value, const json_error_t *found,
                             const json_t **text, struct error *error) {
    static const char expected[] = "an object with a string \"text\"";
    static const char *const kinds[] = {"an object", "an array", "a string", "a number",
                                        "a number",  "true",     "false",    "null"};
    *text = json_is_object(value) ? json_object_get(value, "text") : value;
    if (json_is_string(*text)) return STATUS_OK;
    if (!value && json_error_code(found) == json_error_out_of_memory)
        return error_set(error, STATUS_NO_MEMORY, "%s: line %lld: no memory left for its JSON", line->origin,
                         (long long)line->number);
    size_t at = found->position > 0 ? (size_t)found->position - 1 : 0;
    if (!value)
        return line_fail(line, at < line->size ? at : line->size, error, "not JSON: %s; expected %s", found->text,
                         expected);
    if (!*text) return line_fail(line, 0, error, "found an object without \"text\", expected %s", expected);
    if (json_is_object(value))
        return line_fail(line, 0, error, "found %s under \"text\", expected a string", kinds[json_typeof(*text)]);
    return line_fail(line, 0, error, "found %s, expected %s", kinds[json_typeof(value)], expected);
}

static enum status encode_line(void *context, int thread, const struct line *line, struct text_buffer *out,
                               struct error *error) {
    const struct work *work = context;
    const struct request *request = work->request;
    struct hand *hand = &work->hands[thread < 0 ? 0 : thread];
    json_error_t found = { 0 };
    const json_t *string;
    json_t *value = parse_line(line, &found, &hand->replaced);
    enum status status = line_text(line, value, &found, &string, error);
    hand->ids.count = 0;
    if (!status) {
        const char *text = json_string_value(string);
        size_t size = json_string_length(string);
        if (thread < 0)
            status = tokenizer_encode_parallel(work->tokenizer, work->pool, text, size, !request->plain, &hand->ids,
                                               &hand->replaced, error);
        else status = encoder_encode(hand->encoder, text, size, !request->plain, &hand->ids, &hand->replaced, error);
        if (status)
            error_prefix(error, "%s: line %lld, byte %llu: \"text\"", line->origin, (long long)line->number,
                         (unsigned long long)line->offset);
    }
    json_decref(value);
    if (!status && request->bos) status = tokenizer_begin(work->tokenizer, &hand->ids, error);
    if (!status) status = text_buffer_reserve(out, 32, error);
    if (status) return status;
    if (request->count) {
        out->count += (size_t)snprintf(out->data + out->count, 32, "%lld\n", (long long)hand->ids.count);
        return STATUS_OK;
    }
    out->data[out->count++] = '[';
    status = ids_put(out, hand->ids.ids, hand->ids.count, error);
    if (!status) status = text_buffer_reserve(out, 2, error);
    if (status) return status;
    memcpy(out->data + out->count, "]\n", 2);
    out->count += 2;
    return STATUS_OK;
}

static void count_unknown(const struct work *work, struct hand *hand) {
    size_t length;
    for (int64_t i = 0; i < hand->ids.count; i++)
        hand->unknown += !tokenizer_piece(work->tokenizer, hand->ids.ids[i], &length, NULL);
}

static enum status decode_line(void *context, int thread, const struct line *line, struct text_buffer *out,
                               struct error *error) {
    const struct work *work = context;
    struct hand *hand = &work->hands[thread < 0 ? 0 : thread];
    struct id_reader reader = { .array = true };
    char found[ID_FOUND], *text = NULL;
    const char *expected = NULL;
    size_t bad = 0, size, length;
    hand->ids.count = 0;
    enum status status = id_reader_feed(&reader, line->text, line->size, &hand->ids, &bad, &expected, error);
    if (!status && !id_reader_end(&reader, &expected)) status = STATUS_INVALID, bad = line->size;
    if (status == STATUS_INVALID)
        return line_fail(line, bad, error, "found %s, expected %s", id_describe(line->text, line->size, bad, found),
                         expected);
    if (!status)
        status = tokenizer_decode(work->tokenizer, hand->ids.ids, hand->ids.count, work->request->skip_special, &text,
                                  &size, error);
    if (status) return status;
    count_unknown(work, hand);
    char *sound = utf8_repair(text, size, &length, NULL);
    free(text);
    if (!sound) return error_set(error, STATUS_NO_MEMORY, "no memory for %zu bytes of text", size);
    status = text_buffer_reserve(out, 6 * length + 3, error);
    if (!status) {
        out->data[out->count++] = '"';
        out->count += json_escape(sound, length, out->data + out->count);
        memcpy(out->data + out->count, "\"\n", 2);
        out->count += 2;
    }
    free(sound);
    return status;
}

/* ---- one text ---------------------------------------------------------------------------------------------------- */

/* "    671     4  " capital"": id, bytes, and the piece as in JSON; bytes that are no whole characters as \xE4. */
static enum status put_piece(struct work *work, int32_t id, struct error *error) {
    struct text_buffer *out = &work->out;
    size_t length = 0, step;
    const char *piece = tokenizer_piece(work->tokenizer, id, &length, NULL);
    enum status status = text_buffer_reserve(out, 64 + 6 * length, error);
    if (status) return status;
    out->count += (size_t)snprintf(out->data + out->count, 48, "%8d  %4zu  \"", id, length);
    for (size_t at = 0; at < length; at += step) {
        bool ill_formed;
        utf8_next((const uint8_t *)piece + at, length - at, &step, &ill_formed);
        if (!ill_formed) out->count += json_escape(piece + at, step, out->data + out->count);
        for (size_t i = 0; ill_formed && i < step; i++)
            out->count += (size_t)snprintf(out->data + out->count, 8, "\\x%02X", (unsigned char)piece[at + i]);
    }
    memcpy(out->data + out->count, "\"\n", 2);
    out->count += 2;
    return STATUS_OK;
}

/* what came before a part; is the array's bracket written? */
struct text_state { uint64_t offset; int64_t tokens; bool open; };

/* Encodes a part of the text and writes it. */
static enum status encode_part(struct work *work, struct text_state *state, const char *origin, const char *text,
                               size_t size, struct error *error) {
    const struct request *request = work->request;
    struct hand *hand = &work->hands[0];
    hand->ids.count = 0;
    enum status status = tokenizer_encode_parallel(work->tokenizer, work->pool, text, size, !request->plain, &hand->ids,
                                                   &hand->replaced, error);
    if (status && state->offset) error_prefix(error, "%s: behind byte %llu", origin, (unsigned long long)state->offset);
    else if (status) error_prefix(error, "%s", origin);
    if (!status && request->bos && state->offset == 0) status = tokenizer_begin(work->tokenizer, &hand->ids, error);
    work->out.count = 0;
    for (int64_t i = 0; i < hand->ids.count && !status && request->pieces; i++) {
        status = put_piece(work, hand->ids.ids[i], error);
        if (work->out.count < ID_PART) continue;
        if (!status) status = write_text(work->out.data, work->out.count, error);
        work->out.count = 0;
    }
    if (!status && !request->pieces && !request->count) {
        if (!state->open) putchar('[');
        else if (state->tokens && hand->ids.count) putchar(',');
        state->open = true;
        status = ids_put(&work->out, hand->ids.ids, hand->ids.count, error);
    }
    state->tokens += hand->ids.count;
    state->offset += size;
    return status ? status : write_text(work->out.data, work->out.count, error);
}

/* Where the text may be cut, if more follows; 0: more must be read. A run of blanks that reaches the end may go on, and
 * it may be what decides about a cut before it. */
static size_t find_cut(const struct work *work, const struct text_buffer *text) {
    size_t cut = text->count > LOOK_AHEAD ? tokenizer_safe_cut(work->tokenizer, text->data, text->count,
                                                               !work->request->plain, text->count - LOOK_AHEAD)
                                          : 0;
    for (size_t at = text->count; at > cut; at--)
        if (!strchr(" \t\r\n", text->data[at - 1]) || !text->data[at - 1]) return cut;
    return 0;
}

static enum status encode_stream(struct work *work, struct text_state *state, struct error *error) {
    struct input input;
    struct text_buffer text = { 0 };
    struct cli_progress progress;
    enum status status = input_open(&input, work->request->file, error);
    if (status) return status;
    cli_progress_begin(&progress, "encode", "bytes", (double)input.bytes,
                       work->request->quiet || isatty(STDOUT_FILENO));
    size_t wanted = PART;
    for (bool done = false; !done && !status;) {
        while (!status && !input.end && text.count < wanted)
            status = input_read(&input, &text, wanted - text.count, error);
        size_t cut = input.end ? text.count : find_cut(work, &text);
        wanted = cut ? PART : 2 * text.count;
        if (status || (!cut && !input.end)) continue;
        status = encode_part(work, state, input.origin, text.data, cut, error);
        if (cut) memmove(text.data, text.data + cut, text.count - cut);
        text.count -= cut;
        done = input.end;
        cli_progress_update(&progress, (double)state->offset);
    }
    cli_progress_end(&progress);
    text_buffer_free(&text);
    input_close(&input);
    return status;
}

static enum status encode_text(struct work *work, struct error *error) {
    const struct request *request = work->request;
    struct text_state state = { 0 };
    enum status status = request->prompt
                             ? encode_part(work, &state, "--prompt", request->prompt, strlen(request->prompt), error)
                             : encode_stream(work, &state, error);
    if (state.open) puts(status ? "" : "]");
    if (!status && request->count) printf("%lld\n", (long long)state.tokens);
    return status;
}

/* Decodes ids that come in parts: characters may begin in one and end in the next. */
struct decoding { struct id_reader reader; struct utf8_stream stream; bool line_open; };

static enum status decode_part(struct work *work, struct decoding *decoding, const char *origin, const char *text,
                               size_t size, bool last, struct error *error) {
    struct hand *hand = &work->hands[0];
    char found[ID_FOUND], *bytes = NULL;
    const char *expected = NULL;
    size_t bad = 0, length;
    uint64_t before = decoding->reader.offset;
    hand->ids.count = 0;
    enum status status = id_reader_feed(&decoding->reader, text, size, &hand->ids, &bad, &expected, error);
    if (!status && last && !id_reader_end(&decoding->reader, &expected)) status = STATUS_INVALID, bad = size;
    if (status == STATUS_INVALID)
        return error_set(error, status, "%s: line %lld, byte %llu: found %s, expected %s", origin,
                         (long long)decoding->reader.line + 1, (unsigned long long)(before + bad),
                         id_describe(text, size, bad, found), expected);
    if (!status)
        status = tokenizer_decode(work->tokenizer, hand->ids.ids, hand->ids.count, work->request->skip_special, &bytes,
                                  &length, error);
    if (status) return status;
    count_unknown(work, hand);
    work->out.count = 0;
    status = text_buffer_reserve(&work->out, 3 * (length + sizeof decoding->stream.held), error);
    if (!status && !work->request->raw) {
        work->out.count = utf8_stream_put(&decoding->stream, bytes, length, last, work->out.data);
        status = write_text(work->out.data, work->out.count, error);
        if (work->out.count) decoding->line_open = work->out.data[work->out.count - 1] != '\n';
    } else if (!status) {
        status = write_text(bytes, length, error);
        if (length) decoding->line_open = bytes[length - 1] != '\n';
    }
    free(bytes);
    return status;
}

/* A number may be cut between two reads: only what stands before the last separator is decoded then. */
static size_t whole_ids(const struct text_buffer *text, bool end) {
    size_t size = text->count;
    while (!end && size > 0 && text->data[size - 1] >= '0' && text->data[size - 1] <= '9') size--;
    return text->count - size > 64 ? text->count : size;   /* too long for a number: let the reader say so */
}

static enum status decode_stream(struct work *work, struct decoding *decoding, struct error *error) {
    struct input input;
    struct text_buffer text = { 0 };
    struct cli_progress progress;
    enum status status = input_open(&input, work->request->file, error);
    if (status) return status;
    cli_progress_begin(&progress, "decode", "bytes", (double)input.bytes,
                       work->request->quiet || isatty(STDOUT_FILENO));
    do {
        status = input_read(&input, &text, ID_PART, error);
        size_t size = whole_ids(&text, input.end);
        if (!status) status = decode_part(work, decoding, input.origin, text.data, size, input.end, error);
        if (size) memmove(text.data, text.data + size, text.count - size);
        text.count -= size;
        cli_progress_update(&progress, (double)decoding->reader.offset);
    } while (!status && !input.end);
    cli_progress_end(&progress);
    text_buffer_free(&text);
    input_close(&input);
    return status;
}

static enum status decode_text(struct work *work, struct error *error) {
    const struct request *request = work->request;
    struct decoding decoding = { 0 };
    enum status status = request->ids
                             ? decode_part(work, &decoding, "the ids", request->ids, strlen(request->ids), true, error)
                             : decode_stream(work, &decoding, error);
    if (decoding.line_open && isatty(STDOUT_FILENO)) putchar('\n');
    return status;
}

/* ---- the commands ------------------------------------------------------------------------------------------------ */

/* `origin`: of what stands on the command line; NULL: a file, or standard input. */
static int run(const struct request *request, line_work *each_line,
               enum status (*one_text)(struct work *work, struct error *error), const char *origin) {
    struct work work;
    struct error error;
    const char *path = request->jsonl ? request->jsonl : request->file;
    bool standard = !origin && (!path || strcmp(path, "-") == 0);
    if (!origin) origin = standard ? "standard input" : path;
    if (standard && isatty(STDIN_FILENO) && !request->quiet)
        cli_note("reading from the terminal; Ctrl-D ends the text");
    enum status status = work_begin(&work, request, &error);
    if (!status)
        status = request->jsonl ? lines_run(request->jsonl, work.pool, request->quiet, each_line, &work, &error)
                                : one_text(&work, &error);
    bool open = cli_output_flush();   /* main reports standard output */
    if (open) warn_about(&work, origin);
    work_end(&work);
    return !status ? CLI_DONE : open ? cli_fail(&error) : CLI_FAILED;
}

static int command_encode(int argc, char **argv) {
    struct request request = { 0 };
    struct cli_machine machine = { 0 };
    const struct cli_operand operands[] = {
        {"TOKENIZER", &request.tokenizer_path, "a tokenizer.json, or a model folder that holds one", false}, {0}};
    const struct cli_option options[] = {
        {"prompt", 'p', "TEXT", CLI_STRING, &request.prompt, .help = "the text; - reads it from standard input"},
        {"file", 'f', "FILE", CLI_STRING, &request.file, .fallback = "standard input",
         .help = "a file with the text; - is standard input"},
        {"jsonl", 0, "FILE", CLI_STRING, &request.jsonl, .fallback = "",
         .help = "a file with one text per line, {\"id\": N, \"text\": \"...\"} or a string; prints one array per "
                 "line. - is standard input"},
        {"plain", 0, NULL, CLI_FLAG, &request.plain,
         .help = "added tokens that stand in the text, like <think>, are plain text"},
        {"bos", 0, NULL, CLI_FLAG, &request.bos,
         .help = "begin with the token with which the tokenizer's texts begin (add_bos_token), if they do"},
        {"pieces", 0, NULL, CLI_FLAG, &request.pieces,
         .help = "print a table: id, number of bytes and piece of each token"},
        {"count", 0, NULL, CLI_FLAG, &request.count, .help = "print how many ids there are, and not the ids"},
        cli_threads_option(&machine),
        {"quiet", 'q', NULL, CLI_FLAG, &request.quiet, .help = "no progress, no warnings"},
        {0},
    };
    const struct cli_usage usage = {
        .command = "tokenize encode",
        .about = "Prints the token ids of a text as a JSON array. Large texts and files of many texts are encoded on "
                 "all threads and written as they come, in their order. "
                 "Every byte counts, the line end at the end of a file too; what is not UTF-8 counts as U+FFFD, except "
                 "for a tokenizer of bytes.",
        .examples = "deepseek tokenize encode MODEL -p 'Once upon a time'\n"
                    "deepseek tokenize encode MODEL -p 'Once upon a time' --pieces\n"
                    "deepseek tokenize encode tokenizer.json --file book.txt --count\n"
                    "deepseek tokenize encode tokenizer.json --jsonl texts.jsonl >ids.jsonl\n",
        .operands = operands,
        .options = options,
    };
    int code = cli_parse(&usage, argc, argv);
    if (code != CLI_GO_ON) return code;
    if ((request.prompt != NULL) + (request.file != NULL) + (request.jsonl != NULL) > 1)
        return cli_wrong("--prompt, --file and --jsonl exclude each other");
    if (request.prompt && strcmp(request.prompt, "-") == 0) request.file = "-", request.prompt = NULL;
    if (request.pieces && (request.jsonl || request.count)) return cli_wrong("--pieces excludes --jsonl and --count");
    request.threads = machine.threads;
    return run(&request, encode_line, encode_text, request.prompt ? "--prompt" : NULL);
}

static int command_decode(int argc, char **argv) {
    struct request request = { 0 };
    struct cli_machine machine = { 0 };
    const struct cli_operand operands[] = {
        {"TOKENIZER", &request.tokenizer_path, "a tokenizer.json, or a model folder that holds one", false},
        {"IDS", &request.ids, "the ids: a JSON array, or numbers with commas or blanks between them, as one argument",
         true},
        {0}};
    const struct cli_option options[] = {
        {"file", 'f', "FILE", CLI_STRING, &request.file, .fallback = "standard input",
         .help = "a file with the ids; - is standard input"},
        {"jsonl", 0, "FILE", CLI_STRING, &request.jsonl, .fallback = "",
         .help = "a file with one array of ids per line; prints one JSON string per line. - is standard input"},
        {"skip-special", 0, NULL, CLI_FLAG, &request.skip_special,
         .help = "leave special tokens out, like the one that ends a text"},
        {"raw", 0, NULL, CLI_FLAG, &request.raw,
         .help = "write the bytes of the tokens as they are, also where they are not UTF-8"},
        cli_threads_option(&machine),
        {"quiet", 'q', NULL, CLI_FLAG, &request.quiet, .help = "no progress, no warnings"},
        {0},
    };
    const struct cli_usage usage = {
        .command = "tokenize decode",
        .about = "Prints the text of token ids, as it is and without a line end of its own. What is not UTF-8 becomes "
                 "U+FFFD; ids that the tokenizer does not have stand for nothing.",
        .examples = "deepseek tokenize decode MODEL '[671, 6102, 294, 8760, 344]'\n"
                    "deepseek tokenize decode MODEL 671,6102\n"
                    "deepseek tokenize encode MODEL --file book.txt | deepseek tokenize decode MODEL | cmp - book.txt\n"
                    "deepseek tokenize decode tokenizer.json --jsonl ids.jsonl --skip-special\n",
        .operands = operands,
        .options = options,
    };
    int code = cli_parse(&usage, argc, argv);
    if (code != CLI_GO_ON) return code;
    if ((request.ids != NULL) + (request.file != NULL) + (request.jsonl != NULL) > 1)
        return cli_wrong("IDS, --file and --jsonl exclude each other");
    if (request.raw && request.jsonl)
        return cli_wrong("--raw and --jsonl exclude each other: a JSON string holds no bytes that are not UTF-8");
    request.threads = machine.threads;
    return run(&request, decode_line, decode_text, request.ids ? "the ids" : NULL);
}

int command_tokenize(int argc, char **argv) {
    static const struct cli_command commands[] = {
        { "encode", "text to token ids", command_encode },
        { "decode", "token ids to text", command_decode },
        { "train", "make a tokenizer from text", command_tokenize_train },
        { 0 },
    };
    return cli_run_commands("tokenize",
                            "Text to token ids and back, with the tokenizer of a model folder or a tokenizer.json, and "
                            "tokenizers from text.",
                            commands, argc, argv);
}
