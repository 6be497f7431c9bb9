/* What the doors `grads` and `steps` share: their options, settings and targets (door.c). */
#ifndef DEEPSEEK_CLI_DOOR_H
#define DEEPSEEK_CLI_DOOR_H

#include "cli/machine.h"
#include "cli/tokens.h"
#include "train/settings.h"

struct door_request { const char *folder, *tokens_path, *settings_path, *out_path; bool quiet; };

/* Parses the command line and runs the door: the exit code. `batches`: the token file is [steps][B][T], and settings
 * are required. */
int door_run(int argc, char **argv, const char *command, const char *about, const char *examples, bool batches,
             enum status (*run)(const struct door_request *request, struct cli_machine *machine, struct error *error));
/* Everything that can be wrong before the weights are read: config (its vocabulary goes to *vocab), settings, the place
 * of the result. */
enum status door_begin(const struct door_request *request, struct settings *settings, int64_t *vocab,
                       struct error *error);
/* The next token of each position, -1 at the end of a row: malloc'ed [count, longest]. All rows must have one length,
 * of two tokens at least. */
enum status door_targets(const struct cli_tokens *tokens, const char *path, int32_t **targets, struct error *error);
/* Sequences computed at once: all, unless the settings say less. */
static inline int64_t door_micro_batch(const struct settings *settings, int64_t sequences) {
    return settings->micro_batch_size < sequences ? settings->micro_batch_size : sequences;
}

#endif
