/* Between the engine and drafting: what a pass leaves behind for the MTP modules. */
#ifndef DEEPSEEK_INFER_DRAFT_H
#define DEEPSEEK_INFER_DRAFT_H

#include "infer/infer.h"

/* Rows of logits that go through engine->staging at a time (and numbers of rows through engine->logit_rows). So many
 * rows read the output head once, as one row would. */
#define STAGING_ROWS 64
enum status engine_stage(struct engine *engine, int64_t rows, struct error *error);

/* After a pass over engine->batch, while its h lives: keeps the new ids and the last rows of every sequence with
 * modules, and notes the modules' rows that must be computed before their inputs are gone. */
enum status draft_keep(struct engine *engine, const struct tensor *h, struct error *error);
/* After the pass was reset: computes those. */
enum status draft_fill(struct engine *engine, struct error *error);
void draft_destroy(struct engine *engine);

#endif
