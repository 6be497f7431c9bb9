/* Beginning with the weights of another model (`train --from`): what a config takes from that model's, and what it may
 * not change. */
#ifndef DEEPSEEK_TRAIN_FROM_H
#define DEEPSEEK_TRAIN_FROM_H

#include "model/config.h"

/* Completes a config by what the model's own config.json says: vocab_size where there is none, and what extends the
 * context. An extension is a rope_scaling (or rope_parameters) that differs from the model's. Keys that it leaves out
 * are the paper's (spec/v1-v3.md sections 2.6, 5.3 and 5.5):
 *
 *   type                                 yarn
 *   original_max_position_embeddings     the model's, or the max_position_embeddings of a model without scaling
 *   beta_fast, beta_slow                 32, 1
 *   mscale, mscale_all_dim               0.707 and 0.707 (V2), 1 and 1 (deepseek_v3), where both are missing
 *   max_position_embeddings              original_max_position_embeddings x factor, where the config has none or the
 *                                        model's */
enum status from_complete(json_t *config, const json_t *model, struct error *error);

/* Has the model of `folder` the shapes that the config asks for? An error names the first key that differs and both
 * values. `changed` (may be NULL) receives the keys that differ and do not decide shapes, separated by commas. */
#define FROM_CHANGED 256
enum status from_check(const struct config *config, const char *origin, const char *folder, char changed[FROM_CHANGED],
                       struct error *error);

#endif
