/* deepseek tokenize train: a byte-level BPE from text. */
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "cli/cli.h"
#include "cli/machine.h"
#include "cli/reading.h"
#include "cli/tokenize.h"
#include "text/bpe_train.h"
#include "train/data.h"

#define DEFAULT_SIZE 4096

static const enum pipeline pipelines[] = { PIPELINE_V3, PIPELINE_V1, PIPELINE_CODER_V1, PIPELINE_GPT2 };
#define PIPELINES ((int)(sizeof pipelines / sizeof *pipelines))

struct request {
    const char *data, *out, *text_key;
    int64_t vocab_size, threads;
    int pipeline;
    struct cli_list specials;
    bool no_special, no_bos, quiet;
};

static bool told_reading(void *context, enum data_work work, uint64_t done, uint64_t total) {
    return cli_reading_update(context, work, done, total);
}

/* The special tokens of V3, then those that were asked for: malloc'ed. */
static struct bpe_special *list_specials(const struct request *request, struct bpe_settings *settings,
                                         struct error *error) {
    int count = 0;
    struct bpe_special *specials = malloc((size_t)(settings->special_count + request->specials.count + 1) *
                                          sizeof *specials);
    if (!specials) {
        error_set(error, STATUS_NO_MEMORY, "no memory for special tokens");
        return NULL;
    }
    for (int i = 0; i < settings->special_count && !request->no_special; i++) specials[count++] = settings->specials[i];
    for (int i = 0; i < request->specials.count; i++)
        specials[count++] = (struct bpe_special){request->specials.items[i], true};
    if (request->no_special) settings->bos = settings->eos = NULL;
    settings->add_bos = settings->bos && !request->no_bos;
    settings->specials = specials;
    settings->special_count = count;
    return specials;
}

/* A folder that is not there yet is made, and *made says so; one with a tokenizer is refused. */
static enum status prepare_folder(const char *folder, bool *made, struct error *error) {
    char path[4096];
    if ((size_t)snprintf(path, sizeof path, "%s/tokenizer.json", folder) >= sizeof path)
        return error_set(error, STATUS_INVALID, "--out: the name of the folder is too long");
    *made = !file_exists(folder);
    if (*made) return folder_create(folder, error);
    if (file_exists(path))
        return error_set(error, STATUS_INVALID, "%s: there is a tokenizer already; give another folder, or remove it",
                         path);
    return cli_check_writable(path, error);
}

static void print_result(const struct tokenizer *tokenizer, const struct bpe_settings *settings,
                         const struct bpe_counts *counts, int64_t files) {
    char figure[CLI_FIGURE], other[CLI_FIGURE];
    printf("vocabulary      %12s   tokens: %d special, 256 bytes, %s merges\n",
           cli_format_grouped(figure, tokenizer_size(tokenizer)), settings->special_count,
           cli_format_grouped(other, tokenizer_merges(tokenizer)));
    printf("text            %12s   bytes in %lld %s, %s different pieces\n",
           cli_format_grouped(figure, (int64_t)counts->bytes), (long long)files, files == 1 ? "file" : "files",
           cli_format_grouped(other, (int64_t)counts->different));
    printf("bytes per token %12.4f   %s tokens\n",
           counts->tokens ? (double)counts->bytes / (double)counts->tokens : 0.0,
           cli_format_grouped(figure, (int64_t)counts->tokens));
}

static enum status run(const struct request *request, const struct bpe_settings *settings, struct error *error) {
    struct data_files files = { 0 };
    struct cli_reading reading = { .quiet = request->quiet };
    struct data_options options = {.rules = {.text_key = request->text_key},
                                   .watch = {.context = &reading, .progress = told_reading}};
    struct tokenizer *tokenizer = NULL;
    struct bpe_counts counts = { 0 };
    uint64_t replaced = 0;
    bool made = false;
    double began = clock_seconds();
    char figure[CLI_FIGURE];
    enum status status = data_files_list(&files, request->data, error);
    if (!status) status = pool_create(&options.pool, (int)request->threads, error);
    if (!status) status = prepare_folder(request->out, &made, error);
    if (!status) status = data_train_bpe(&tokenizer, settings, &files, &options, &counts, &replaced, error);
    cli_reading_end(&reading);
    if (!status) status = tokenizer_save(tokenizer, request->out, error);
    if (!status && replaced && !request->quiet)
        cli_warn("%s: %llu %s not UTF-8 and %s as U+FFFD", request->data, (unsigned long long)replaced,
                 replaced == 1 ? "place is" : "places are", replaced == 1 ? "counts" : "count");
    if (!status && tokenizer_size(tokenizer) < settings->vocab_size && !request->quiet)
        cli_warn("the text has no more pairs to merge: the vocabulary has %lld tokens and not %lld",
                 (long long)tokenizer_size(tokenizer), (long long)settings->vocab_size);
    if (!status) print_result(tokenizer, settings, &counts, files.count);
    if (!status && cli_output_flush() && !request->quiet)
        cli_note("wrote %s/tokenizer.json in %s", request->out, cli_format_duration(figure, clock_seconds() - began));
    if (status && made) rmdir(request->out);   /* it is empty */
    tokenizer_destroy(tokenizer);
    pool_destroy(options.pool);
    data_files_free(&files);
    return status;
}

int command_tokenize_train(int argc, char **argv) {
    struct request request = { .vocab_size = DEFAULT_SIZE };
    struct cli_machine machine = { 0 };
    const char *names[PIPELINES + 1] = { NULL };
    for (int i = 0; i < PIPELINES; i++) names[i] = pipeline_name(pipelines[i]);
    const struct cli_option options[] = {
        {"data", 'd', "FILE|DIR", CLI_STRING, &request.data, .required = true,
         .help = "a text file, a .jsonl file of documents, or a folder of both"},
        {"out", 'o', "DIR", CLI_STRING, &request.out, .required = true,
         .help = "the folder for tokenizer.json and tokenizer_config.json"},
        {"vocab-size", 'n', "N", CLI_INTEGER, &request.vocab_size, .minimum = 1, .maximum = 1 << 20,
         .help = "tokens at most: special ones, 256 bytes, and merges"},
        {"pipeline", 0, "NAME", CLI_CHOICE, &request.pipeline, .choices = names,
         .help = "how a text is cut into pieces before pairs are merged: as DeepSeek-V3 and V4 do, V1 and V2, "
                 "DeepSeek-Coder, or GPT-2"},
        {"special", 0, "TOKEN", CLI_LIST, &request.specials,
         .help = "one more special token, behind V3's three (bos, eos, pad); may be repeated"},
        {"no-special", 0, NULL, CLI_FLAG, &request.no_special, .help = "leave V3's three special tokens out"},
        {"no-bos", 0, NULL, CLI_FLAG, &request.no_bos,
         .help = "texts do not begin with the bos token (add_bos_token false)"},
        {"text-key", 0, "KEY", CLI_STRING, &request.text_key, .fallback = "text",
         .help = "the key of a document's text in .jsonl files"},
        cli_threads_option(&machine),
        {"quiet", 'q', NULL, CLI_FLAG, &request.quiet, .help = "no progress, no warnings"},
        {0},
    };
    const struct cli_usage usage = {
        .command = "tokenize train",
        .about = "Trains a byte-level BPE tokenizer: the pair of tokens that stands together most often becomes a new "
                 "token, again and again. The result is the same for any number of threads, and "
                 "the merges of a smaller vocabulary are the first of those of a larger one. Memory grows with the "
                 "different words of the text, not with its size.",
        .examples = "deepseek tokenize train --data data/tinyshakespeare.txt --vocab-size 4096 --out tokenizer\n"
                    "# with markers for a chat\n"
                    "deepseek tokenize train --data corpus/ -n 32000 --special '<|user|>' --special '<|assistant|>' "
                    "--out tokenizer\n"
                    "deepseek tokenize encode tokenizer -p 'To be or not to be' --pieces\n",
        .options = options,
    };
    int code = cli_parse(&usage, argc, argv);
    if (code != CLI_GO_ON) {
        free(request.specials.items);
        return code;
    }
    struct error error;
    request.threads = machine.threads;
    struct bpe_settings settings = bpe_settings_default(request.vocab_size);
    settings.pipeline = pipelines[request.pipeline];
    struct bpe_special *specials = list_specials(&request, &settings, &error);
    int64_t least = settings.special_count + 256;
    if (specials && request.vocab_size < least)
        code = cli_wrong("--vocab-size: found `%lld`, expected at least %lld: %d special tokens and 256 bytes",
                         (long long)request.vocab_size, (long long)least, settings.special_count);
    if (code == CLI_GO_ON) {
        cli_catch_interrupts();
        code = !specials || run(&request, &settings, &error) ? cli_fail(&error) : CLI_DONE;
    }
    free(specials);
    free(request.specials.items);
    return code;
}
