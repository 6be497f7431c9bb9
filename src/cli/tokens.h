/* Token files: the arrays of the doors. */
#ifndef DEEPSEEK_CLI_TOKENS_H
#define DEEPSEEK_CLI_TOKENS_H

#include <stdint.h>

#include "base/error.h"

struct cli_token_row { const int32_t *ids; int64_t length; };
struct cli_tokens {
    struct cli_token_row *rows;
    int64_t count, longest;
    int32_t *ids;           /* all rows, one after the other */
};
/* An array of arrays of ids in 0..vocab-1, none empty. Errors name file, place, what was
 * found and what was expected. */
enum status cli_tokens_load(struct cli_tokens *tokens, const char *path, int64_t vocab, struct error *error);
void cli_tokens_free(struct cli_tokens *tokens);
/* One level deeper: [steps][B][T]. `steps` receives malloc'ed cli_tokens, each to be freed, then the array. */
enum status cli_tokens_load_steps(struct cli_tokens **steps, int64_t *count, const char *path, int64_t vocab,
                                  struct error *error);

#endif
