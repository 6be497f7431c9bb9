/* What the doors `grads` and `steps` share. */
#include "cli/door.h"

#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

int door_run(int argc, char **argv, const char *command, const char *about, const char *examples, bool batches,
             enum status (*run)(const struct door_request *request, struct cli_machine *machine, struct error *error)) {
    struct door_request request = { 0 };
    struct cli_machine machine = { 0 };
    const struct cli_operand operands[] = { { "MODEL", &request.folder, "a model folder", false }, { 0 } };
    const struct cli_option options[] = {
        {"tokens", 't', "FILE.json", CLI_STRING, &request.tokens_path, .required = true,
         .help = batches ? "token ids: an array of steps, each an array of arrays of one length"
                         : "token ids: an array of arrays of one length"},
        {"settings", 's', "FILE.json", CLI_STRING, &request.settings_path, .required = batches, .fallback = "",
         .help = batches ? "the optimizer's settings and the weights of the losses"
                         : "the weights of the losses, {\"loss\": {...}}"},
        {"out", 'o', "FILE", CLI_STRING, &request.out_path, .required = true, .help = "the safetensors file to write"},
        cli_compute_option(&machine, "fp32"),
        cli_threads_option(&machine),
        {"quiet", 'q', NULL, CLI_FLAG, &request.quiet, .help = "no progress, no warnings"},
        {0},
    };
    const struct cli_usage usage = {
        .command = command, .about = about, .examples = examples, .operands = operands, .options = options};
    int code = cli_parse(&usage, argc, argv);
    if (code != CLI_GO_ON) return code;
    struct error error;
    cli_catch_interrupts();
    enum status status = cli_machine_open(&machine, COMPUTE_F32, &error);
    if (!status) status = run(&request, &machine, &error);
    cli_machine_close(&machine);
    return status ? cli_fail(&error) : CLI_DONE;
}

enum status door_begin(const struct door_request *request, struct settings *settings, int64_t *vocab,
                       struct error *error) {
    struct arena arena = { 0 };
    struct config config;
    json_t *root = NULL;
    enum status status = model_check_folder(request->folder, error);
    if (!status) status = config_load(&config, request->folder, &arena, error);
    if (!status) {
        *vocab = config.vocab_size;
        if (request->settings_path) status = json_load_path(&root, request->settings_path, error);
        if (!status)
            status = settings_parse_door(settings, root, request->settings_path ? request->settings_path : "settings",
                                         error);
        if (!status)
            status = settings_check_model(settings, &config,
                                          request->settings_path ? request->settings_path : "settings", "", error);
        config_release(&config);
    }
    json_decref(root);
    arena_free(&arena);
    return status ? status : cli_check_writable(request->out_path, error);
}

enum status door_targets(const struct cli_tokens *tokens, const char *path, int32_t **targets, struct error *error) {
    int64_t length = tokens->longest;
    for (int64_t b = 0; b < tokens->count; b++)
        if (tokens->rows[b].length != length)
            return error_set(
                error, STATUS_INVALID,
                "%s: array %lld has %lld tokens, expected %lld as the longest has: all must have one length", path,
                (long long)b, (long long)tokens->rows[b].length, (long long)length);
    if (length < 2)
        return error_set(error, STATUS_INVALID,
                         "%s: the arrays have one token, expected at least two: the last one is only predicted", path);
    *targets = malloc((size_t)(tokens->count * length) * sizeof **targets);
    if (!*targets)
        return error_set(error, STATUS_NO_MEMORY, "no memory for %lld targets", (long long)(tokens->count * length));
    for (int64_t b = 0; b < tokens->count; b++) {
        memcpy(*targets + b * length, tokens->rows[b].ids + 1, (size_t)(length - 1) * sizeof **targets);
        (*targets)[(b + 1) * length - 1] = -1;
    }
    return STATUS_OK;
}
