/* deepseek data KIND: deterministic generators of text to train on, so that everything runs with no download. */
#include <stdlib.h>

#include "base/file.h"
#include "base/pool.h"
#include "cli/cli.h"
#include "cli/machine.h"
#include "cli/progress.h"
#include "text/stories.h"

/* ---- where it goes ----------------------------------------------------------------------------------------------- */

/* Standard output, or a file that is written aside and renamed when it is whole. */
struct sink { bool to_file; struct file_writer file; };

static enum status sink_open(struct sink *sink, const char *path, struct error *error) {
    sink->to_file = path != NULL;
    if (!path) return STATUS_OK;
    enum status status = cli_check_writable(path, error);
    return status ? status : file_begin(&sink->file, path, error);
}

/* False when nothing more can be written; sink_close says why. */
static bool sink_put(struct sink *sink, const char *bytes, size_t size) {
    if (sink->to_file) {
        file_put(&sink->file, bytes, size);
        return sink->file.status == STATUS_OK;
    }
    /* Pieces that fit into the stream's buffer, so that it is the flush that writes, and sees why it cannot. */
    for (size_t piece; size > 0; bytes += piece, size -= piece) {
        piece = size < 1024 ? size : 1024;
        fwrite(bytes, 1, piece, stdout);
        if (!cli_output_flush()) return false;
    }
    return true;
}

static enum status sink_close(struct sink *sink, enum status status, struct error *error) {
    if (!sink->to_file) return status;   /* main reports a failed standard output */
    if (!status) return file_commit(&sink->file, error);
    file_abandon(&sink->file);
    return status;
}

/* ---- stories ----------------------------------------------------------------------------------------------------- */

enum story_format { STORY_TEXT, STORY_JSONL };
enum { STORIES_PER_SHARE = 64, STORY_BYTES = 2 * STORY_LIMIT + 32 };   /* a JSON string may double every byte */

struct story_request {
    int64_t count, seed, threads;
    const char *bytes, *out;
    int format;
    bool quiet;
};

/* One round of work: every thread writes its share of consecutive stories into its own slots. */
struct story_round {
    const struct story_request *request;
    int64_t first, count;
    char *slots;        /* [count, STORY_BYTES] */
    size_t *sizes;      /* [count] */
};

static size_t escape_story(const char *story, char *line) {
    size_t n = (size_t)sprintf(line, "{\"text\":\"");
    for (; *story; story++) {
        if (*story == '"' || *story == '\\') line[n++] = '\\', line[n++] = *story;
        else if (*story == '\n') line[n++] = '\\', line[n++] = 'n';
        else line[n++] = *story;
    }
    return n + (size_t)sprintf(line + n, "\"}\n");
}

static void write_share(void *context, int thread, int threads) {
    const struct story_round *round = context;
    int64_t begin, end;
    pool_share(round->count, 1, thread, threads, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        char story[STORY_LIMIT], *slot = round->slots + i * STORY_BYTES;
        int64_t index = round->first + i;
        story_write((uint64_t)round->request->seed, (uint64_t)index, story);
        if (round->request->format == STORY_JSONL) round->sizes[i] = escape_story(story, slot);
        else round->sizes[i] = (size_t)sprintf(slot, "%s%s\n", index > 0 ? "\n" : "", story);
    }
}

/* Writes stories 0, 1, ... until there are `count` of them (bytes 0), or until `bytes` bytes are reached. */
static enum status write_stories(const struct story_request *request, double bytes, struct pool *pool,
                                 struct sink *sink, struct error *error) {
    int64_t most = (int64_t)STORIES_PER_SHARE * pool_threads(pool), done = 0;
    struct story_round round = {.request = request,
                                .slots = malloc((size_t)most * STORY_BYTES),
                                .sizes = malloc((size_t)most * sizeof *round.sizes)};
    enum status status = round.slots && round.sizes
                             ? STATUS_OK
                             : error_set(error, STATUS_NO_MEMORY, "no memory for %lld stories", (long long)most);
    struct cli_progress progress;
    cli_progress_begin(&progress, "stories", bytes > 0 ? "bytes" : "stories",
                       bytes > 0 ? bytes : (double)request->count, request->quiet);
    double written = 0;
    for (bool more = true; more && !status;) {
        round.first = done;
        round.count = bytes > 0 || request->count - done > most ? most : request->count - done;
        pool_run(pool, write_share, &round);
        for (int64_t i = 0; i < round.count && more; i++) {
            more = sink_put(sink, round.slots + i * STORY_BYTES, round.sizes[i]);
            written += (double)round.sizes[i];
            done++;
            if (bytes > 0 ? written >= bytes : done == request->count) more = false;
        }
        if (cli_interrupted())
            status = error_set(error, STATUS_INTERRUPTED, "interrupted after %lld stories%s", (long long)done,
                               sink->to_file ? "; the file was not written" : "");
        cli_progress_update(&progress, bytes > 0 ? written : (double)done);
    }
    cli_progress_end(&progress);
    free(round.slots);
    free(round.sizes);
    return status;
}

static int command_stories(int argc, char **argv) {
    static const char *const formats[] = { "text", "jsonl", NULL };
    struct cli_machine machine = { 0 };
    struct story_request request = { 0 };
    const struct cli_option options[] = {
        {"count", 'n', "N", CLI_INTEGER, &request.count, .minimum = 1, .maximum = 1e12, .fallback = "10",
         .help = "how many stories"},
        {"bytes", 'b', "SIZE", CLI_STRING, &request.bytes, .fallback = "--count",
         .help = "instead of a count: whole stories until SIZE bytes are reached, 10M for example"},
        {"seed", 's', "S", CLI_INTEGER, &request.seed, .minimum = 0, .maximum = 9e18,
         .help = "another number, other stories; story I of a seed is always the same"},
        {"format", 'f', "FORMAT", CLI_CHOICE, &request.format, .choices = formats,
         .help = "text: stories with a blank line between; jsonl: one {\"text\": STORY} per line, each a document of "
                 "its own for train"},
        {"out", 'o', "FILE", CLI_STRING, &request.out, .fallback = "standard output",
         .help = "the file to write; it appears when it is whole"},
        cli_threads_option(&machine),
        {"quiet", 'q', NULL, CLI_FLAG, &request.quiet, .help = "no progress"},
        {0},
    };
    const struct cli_usage usage = {
        .command = "data stories",
        .about = "Writes short English stories for small models to learn from. They are composed from plots, phrasings "
                 "and thousands of words by a seeded generator: "
                 "hardly two are alike, and the same seed gives the same bytes on every machine.",
        .examples = "deepseek data stories --count 3 --seed 7\n"
                    "# a corpus for training: each story a document, with a beginning and an end\n"
                    "deepseek data stories --bytes 10M --format jsonl --out stories.jsonl\n"
                    "deepseek train configs/demo.json --data stories.jsonl --out runs/stories\n",
        .options = options,
    };
    int code = cli_parse(&usage, argc, argv);
    if (code != CLI_GO_ON) return code;
    struct error error;
    double bytes = 0;
    if (request.bytes && request.count) return cli_wrong("--count and --bytes exclude each other");
    if (!request.count) request.count = 10;
    if (request.bytes && !cli_parse_size("--bytes", request.bytes, 1e15, &bytes, &error))
        return cli_wrong("%s", error.message);
    cli_catch_interrupts();
    struct pool *pool = NULL;
    struct sink sink;
    enum status status = pool_create(&pool, (int)machine.threads, &error);
    if (!status) status = sink_open(&sink, request.out, &error);
    if (!status) status = sink_close(&sink, write_stories(&request, bytes, pool, &sink, &error), &error);
    pool_destroy(pool);
    return status ? cli_fail(&error) : CLI_DONE;
}

int command_data(int argc, char **argv) {
    static const struct cli_command kinds[] = {
        { "stories", "short English stories", command_stories },
        { 0 },
    };
    return cli_run_commands("data", "Generates text to train on: deterministic, of any length, with no download.",
                            kinds, argc, argv);
}
